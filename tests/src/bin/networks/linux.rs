//! The measuring itself.

use std::error::Error;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use serde_json::Value;
use whimbrel_control::api::{self, MigrationStatus};
use whimbrel_control::{Client, Deadlines};
use whimbrel_tests::net::Wires;
use whimbrel_tests::program::Agent;
use whimbrel_tests::realm::realm;

type Outcome<T> = Result<T, Box<dyn Error>>;

const IPERF_SECONDS: &str = "5";
/// Rates are told over this.
const WINDOW_US: u64 = 1_000_000;
/// What paths together bring at least, of what iperf3 gets over the same links.
const RATIO_MIN: f64 = 0.95;
/// How far from its limit or share a rate over a second may be.
const OFF_MAX: f64 = 0.05;
/// A rate that was just changed is not measured yet.
const SETTLED_US: u64 = 1_000_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
pub(super) async fn main() -> Outcome<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let mut missed = Vec::new();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|it| it == name);
    if wanted("paths") {
        for links in [[1000, 1000], [1000, 200]] {
            paths(&links, &mut missed).await?;
        }
    }
    if wanted("tail") {
        for links in [&[1000][..], &[1000, 200]] {
            tail(links).await?;
        }
    }
    if wanted("limit") {
        limit(&mut missed).await?;
        last_pages(&mut missed).await?;
    }
    if wanted("weights") {
        weights(&mut missed).await?;
    }
    match missed.is_empty() {
        true => Ok(()),
        false => Err(format!("not as it should be: {}", missed.join(", ")).into()),
    }
}

/// Two hosts with as many wires as there are rates, in Mbit/s.
async fn hosts(links: &[u32], options: &[&str]) -> Outcome<(Wires, Agent, Agent)> {
    let wires = Wires::make(links.len() as u8).ok_or("only root may make networks")?;
    (0..).zip(links).for_each(|(wire, rate)| wires.shape(wire, *rate));
    let options = [&["--network", "10.77.0.0/16"], options].concat();
    let here = Agent::everywhere(&wires.here, &options).await;
    let there = Agent::everywhere(&wires.there, &options).await;
    Ok((wires, here, there))
}

fn destination(there: &Agent) -> String {
    format!("{}:{}", Wires::management(), there.port())
}

fn mbit(bytes: f64, seconds: f64) -> f64 {
    bytes * 8.0 / 1e6 / seconds
}

// --- several paths ---------------------------------------------------------------------------

async fn paths(links: &[u32], missed: &mut Vec<String>) -> Outcome<()> {
    let (wires, here, there) = hosts(links, &[]).await?;
    let before = iperf(&wires, links.len() as u8)?;
    here.guest("web", &["--memory", "768MiB", "--dirty-rate", "0"]).await;
    let moved = here.ask(&["migrate", "web", &destination(&there), "--json"]).await.ended(0);
    let after = iperf(&wires, links.len() as u8)?;
    let moved = moved.json();
    // The guest's memory alone, which is what iperf3 counts too, and all the time that it took.
    let ours = mbit(number(&moved, "guest_ram_bytes")?, number(&moved, "total_ms")? / 1e3);
    let theirs = (before + after) / 2.0;
    let ratio = ours / theirs;
    println!(
        "paths {links:?} Mbit/s: whimbrel {ours:.0} Mbit/s from the first word to the last, iperf3 \
         {before:.0} and {after:.0} Mbit/s, ratio {ratio:.3}",
    );
    if ratio < RATIO_MIN {
        missed.push(format!("paths {links:?}"));
    }
    for path in moved["paths"].as_array().into_iter().flatten() {
        println!("  {}: {} bytes", path["name"], path["bytes"]);
    }
    Ok(())
}

fn number(of: &Value, name: &str) -> Outcome<f64> {
    of[name].as_f64().ok_or_else(|| format!("{name} is no number in {of}").into())
}

/// What iperf3 gets over all wires at once, in Mbit/s.
fn iperf(wires: &Wires, count: u8) -> Outcome<f64> {
    let within = |namespace: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "iperf3"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command
    };
    let address = |wire, end| format!("{}.{end}", Wires::subnet(wire));
    let mut servers = Vec::new();
    for wire in 0..count {
        let mut server = within(&wires.there.name);
        server.args(["-s", "-1", "--forceflush", "-B", &address(wire, 2)]);
        let mut server = server.spawn()?;
        let mut said = BufReader::new(server.stdout.take().expect("piped")).lines();
        let listens = said.any(|line| line.is_ok_and(|line| line.contains("listening")));
        // What it says later it says to nobody, and must not fail at it.
        servers.push((server, said));
        if !listens {
            return Err("iperf3 does not listen".into());
        }
    }
    let mut clients = Vec::new();
    for wire in 0..count {
        let mut client = within(&wires.here.name);
        client.args(["--json", "-c", &address(wire, 2), "-B", &address(wire, 1)]);
        client.args(["-t", IPERF_SECONDS, "-P", "2", "--connect-timeout", "5000"]);
        clients.push(client.spawn()?);
    }
    let mut sum = 0.0;
    for client in clients {
        let Output { stdout, .. } = client.wait_with_output()?;
        let told: Value = serde_json::from_slice(&stdout)?;
        let rate = told["end"]["sum_received"]["bits_per_second"].as_f64();
        sum += rate.ok_or_else(|| format!("iperf3 says {told}"))? / 1e6;
    }
    for (mut server, _) in servers {
        let _ = server.wait()?;
    }
    Ok(sum)
}

/// Whether a slow path beside a fast one makes the end longer.
async fn tail(links: &[u32]) -> Outcome<()> {
    let (_wires, here, there) = hosts(links, &[]).await?;
    let mut downtimes = Vec::new();
    for name in ["one", "two", "three"] {
        let guest = ["--memory", "128MiB", "--working-set", "64MiB", "--dirty-rate", "20MiB/s"];
        here.guest(name, &guest).await;
        let moved = here.ask(&["migrate", name, &destination(&there), "--json"]).await.ended(0);
        let moved = moved.json();
        let us = |value: &Value| value.as_u64().unwrap_or_default() as f64 / 1000.0;
        let last = us(&moved["downtime_parts"]["last_pages_us"]);
        downtimes.push(format!("{:.1} ({last:.1})", us(&moved["downtime_us"])));
    }
    println!("tail {links:?} Mbit/s: downtimes (last pages) in ms: {}", downtimes.join(", "));
    Ok(())
}

// --- limits ----------------------------------------------------------------------------------

async fn client(agent: &Agent) -> Outcome<Client> {
    Ok(Client::connect_as(&agent.address.parse()?, Deadlines::default(), &realm().access()).await?)
}

/// Microseconds, and bytes on the wire by then.
type Seen = Vec<(u64, u64)>;

/// Follows a guest for some time of its migration, by what it says of itself.
async fn follow(client: &mut Client, guest: &str, span_us: u64) -> Outcome<Seen> {
    Ok(followed(client, guest, span_us, || 0).await?.0)
}

/// As [`follow`], and by a count of bytes on the wire that somebody else makes.
async fn followed(
    client: &mut Client,
    guest: &str,
    span_us: u64,
    count: impl Fn() -> u64,
) -> Outcome<(Seen, Seen)> {
    let mut watch = client.watch(guest).await?;
    let (mut seen, mut counted, began) = (Seen::new(), Seen::new(), Instant::now());
    while let Some(status) = watch.next().await? {
        let MigrationStatus { elapsed_us, bytes_on_wire, .. } = status;
        counted.push((began.elapsed().as_micros() as u64, count()));
        if status.outcome() != api::Outcome::Unspecified {
            return Err(format!("{guest} ended too early: {}", status.reason).into());
        }
        seen.push((elapsed_us, bytes_on_wire));
        if elapsed_us >= seen[0].0 + span_us {
            break;
        }
    }
    Ok((seen, counted))
}

/// The rates over every window of a second after the first one, in Mbit/s.
fn windows(seen: &[(u64, u64)]) -> Vec<f64> {
    let settled = seen.first().map_or(0, |first| first.0) + SETTLED_US;
    let from = |at: usize| {
        let (began, bytes) = seen[at];
        let end = seen[at..].iter().find(|(us, _)| *us >= began + WINDOW_US)?;
        Some(mbit((end.1 - bytes) as f64, (end.0 - began) as f64 / 1e6))
    };
    (0..seen.len()).filter(|at| seen[*at].0 >= settled).filter_map(from).collect()
}

fn told(name: &str, wanted: f64, rates: &[f64], missed: &mut Vec<String>) {
    let least = rates.iter().copied().fold(f64::MAX, f64::min);
    let most = rates.iter().copied().fold(0.0, f64::max);
    let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    println!(
        "{name}: {wanted:.0} Mbit/s wanted, {mean:.1} on average, {least:.1} to {most:.1} over a \
         second ({:+.1} % to {:+.1} %)",
        (least / wanted - 1.0) * 100.0,
        (most / wanted - 1.0) * 100.0
    );
    let within = wanted * (1.0 - OFF_MAX)..=wanted * (1.0 + OFF_MAX);
    if rates.is_empty() || !rates.iter().all(|rate| within.contains(rate)) {
        missed.push(name.to_owned());
    }
}

/// Follows a guest whose lanes are to carry so much, by its own count and by the interface's.
async fn hold_to(
    (wires, client): (&Wires, &mut Client),
    name: &str,
    wanted: f64,
    missed: &mut Vec<String>,
) -> Outcome<()> {
    let (own, wire) = followed(client, "web", 4_000_000, || wires.sent("w0")).await?;
    told(name, wanted, &windows(&own), missed);
    told(&format!("{name}, as the interface counts"), wanted, &windows(&wire), missed);
    Ok(())
}

async fn limit(missed: &mut Vec<String>) -> Outcome<()> {
    let (wires, here, there) = hosts(&[1000], &[]).await?;
    here.guest("web", &["--memory", "1GiB", "--dirty-rate", "1MiB/s"]).await;
    let words = ["migrate", "web", &destination(&there), "--limit", "200Mbit/s", "--detach"];
    let _ = here.ask(&words).await.ended(0);
    let mut client = client(&here).await?;
    hold_to((&wires, &mut client), "limit of a migration", 200.0, missed).await?;
    for (rate, wanted) in [("500Mbit/s", 500.0), ("50Mbit/s", 50.0)] {
        let _ = here.ask(&["limit", "web", "--rate", rate]).await.ended(0);
        hold_to((&wires, &mut client), "limit changed", wanted, missed).await?;
    }
    let path = ["limit", "--network", "10.77.0.0/16=150Mbit/s"];
    let _ = here.ask(&["limit", "web", "--rate", "none"]).await.ended(0);
    let _ = here.ask(&path).await.ended(0);
    hold_to((&wires, &mut client), "limit of a network", 150.0, missed).await?;
    let _ = here.ask(&["limit", "--network", "10.77.0.0/16=none"]).await.ended(0);
    let _ = here.ask(&["watch", "web", "--json"]).await;
    there.assert_runs("web").await;
    Ok(())
}

/// The last pages of a guest that writes a lot while little is carried.
async fn last_pages(missed: &mut Vec<String>) -> Outcome<()> {
    const WANTED: f64 = 200.0;
    let (_wires, here, there) = hosts(&[1000], &[]).await?;
    let guest = ["--memory", "256MiB", "--working-set", "128MiB", "--dirty-rate", "80MiB/s"];
    here.guest("web", &guest).await;
    let limit = format!("{WANTED}Mbit/s");
    let words = ["migrate", "web", &destination(&there), "--json", "--switchover-limit", &limit];
    let patience = ["--limit", "400Mbit/s", "--downtime", "4s", "--policy", "switch"];
    let moved = here.ask(&[&words[..], &patience].concat()).await.ended(0).json();
    let last = moved["rounds"].as_array().and_then(|rounds| rounds.last()).ok_or("no rounds")?;
    let (bytes, took) = (number(last, "bytes")?, number(last, "duration_us")? / 1e6);
    if took < WINDOW_US as f64 / 1e6 {
        return Err(format!("the last pages took {took:.3} s, too short to be measured").into());
    }
    told("limit of the last pages", WANTED, &[mbit(bytes, took)], missed);
    Ok(())
}

async fn weights(missed: &mut Vec<String>) -> Outcome<()> {
    let (_wires, here, there) = hosts(&[1000], &["--limit", "400Mbit/s"]).await?;
    let to = destination(&there);
    for (name, weight) in [("one", "100"), ("three", "300")] {
        here.guest(name, &["--memory", "512MiB", "--dirty-rate", "0"]).await;
        let words = ["migrate", name, &to, "--weight", weight, "--detach"];
        let _ = here.ask(&words).await.ended(0);
    }
    let (mut first, mut second) = (client(&here).await?, client(&here).await?);
    let span = 5_000_000;
    let (one, three) =
        tokio::join!(follow(&mut first, "one", span), follow(&mut second, "three", span));
    let (one, three) = (windows(&one?), windows(&three?));
    told("weight 100 of 400", 100.0, &one, missed);
    told("weight 300 of 400", 300.0, &three, missed);
    // The heavier one is limited below its share, which is lent to the other one.
    let _ = here.ask(&["limit", "three", "--rate", "50Mbit/s"]).await.ended(0);
    let rates = windows(&follow(&mut first, "one", 4_000_000).await?);
    told("lent by the other", 350.0, &rates, missed);
    for name in ["one", "three"] {
        let _ = here.ask(&["cancel", name]).await;
    }
    Ok(())
}
