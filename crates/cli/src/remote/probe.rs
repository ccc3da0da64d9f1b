//! `probe`: is an agent there, how far away is it, and what can it take.

use std::time::{Duration, Instant};

use serde::Serialize;
use whimbrel_control::{AgentAddress, Client, api};

use super::connect_as;
use crate::args::ProbeArgs;
use crate::args::trust::IdentityArgs;
use crate::doctor::network::described;
use crate::doctor::{self, Finding, network as paths};
use crate::exit::{Ending, Exit, Stop};
use crate::json;
use crate::view::paint::{Line, Tone};
use crate::view::screen::say_all;
use crate::view::units;

/// The best of these is the round trip: the others waited for something else too.
const ROUND_TRIPS: usize = 5;

/// Asks an agent what it is.
pub(crate) async fn probe(args: ProbeArgs) -> Ending {
    let mut client = connect_as(&args.address, &args.whose).await?;
    let (host, round_trip) = measure(&mut client).await?;
    let address = args.address.to_string();
    let probed = match &args.from {
        Some(from) => Some(probe_paths(from, &args.whose, &args.address, args.lanes).await?),
        None => None,
    };
    let findings = probed.map(|it| paths::findings(&it, args.address.host()));
    if args.json {
        let object = Object { paths: findings, ..object(&address, &host, round_trip) };
        crate::out::line(json::line(&object));
    } else {
        let mut lines = lines(&address, &host, round_trip);
        lines.extend(findings.iter().flat_map(|it| doctor::listed(it)));
        say_all(&lines);
    }
    Ok(Exit::Done)
}

/// Has an agent measure the paths to another one.
///
/// # Errors
/// It does not answer, or refuses.
async fn probe_paths(
    from: &AgentAddress,
    whose: &IdentityArgs,
    to: &AgentAddress,
    lanes: Vec<u32>,
) -> Result<api::ProbePathsResponse, Stop> {
    let destination = to.to_string();
    let request = api::ProbePathsRequest { destination, lanes, each_ms: None };
    Ok(connect_as(from, whose).await?.probe_paths(request).await?)
}

async fn measure(client: &mut Client) -> Result<(api::Host, Duration), Stop> {
    let mut best = Duration::MAX;
    let mut host = client.host().clone();
    for _ in 0..ROUND_TRIPS {
        let asked = Instant::now();
        host = client.get_host(api::GetHostRequest {}).await?;
        best = best.min(asked.elapsed());
    }
    Ok((host, best))
}

fn lines(address: &str, host: &api::Host, round_trip: Duration) -> Vec<Line> {
    let entry = |label: &str, said: String| {
        Line::plain("  ").put(Tone::Faint, label).to(16).put(Tone::Plain, said)
    };
    let (free, limit) = (host.memory_free_bytes, host.memory_limit_bytes);
    let memory = format!(
        "{} free of {}, {} promised",
        units::bytes(free),
        units::bytes(limit),
        units::bytes(host.memory_promised_bytes)
    );
    let moving = (host.migrations_out, host.migrations_in, host.migrations_limit);
    let trackers = host.trackers.iter().filter(|tracker| tracker.usable);
    let trackers: Vec<&str> = trackers.map(|tracker| tracker.name.as_str()).collect();
    let versions = (host.protocol_version_min, host.protocol_version_max);
    let mut lines = vec![
        Line::default()
            .put(Tone::Good, "✔ ")
            .put(Tone::Strong, format!("{address} is a Whimbrel agent, version {}", host.version)),
        entry("round trip", format!("{} at best of {ROUND_TRIPS}", units::time(round_trip))),
        entry("protocol", range(versions.0, versions.1)),
    ];
    if !host.policy_error.is_empty() {
        let broken = Line::default().put(Tone::Bad, "✘ ").put(Tone::Strong, "policy").to(16);
        lines.push(broken.put(Tone::Plain, &host.policy_error));
        return lines;
    }
    // An agent has room for guests; what it does not say is not for everybody.
    if host.guests_limit == 0 && host.memory_limit_bytes == 0 {
        lines.push(entry(
            "load",
            "only for those who may look: `look = [\"NAME\"]` in its policy".to_owned(),
        ));
        return lines;
    }
    lines.extend([
        entry("memory", memory),
        entry("guests", format!("{} of {}", host.guests, host.guests_limit)),
        entry("migrations", format!("{} out, {} in, {} each way", moving.0, moving.1, moving.2)),
        entry("trackers", trackers.join(", ")),
    ]);
    lines.extend(host.networks.iter().map(|network| {
        let addresses = match network.addresses.as_slice() {
            [] => "no address of the host is in it".to_owned(),
            some => some.join(", "),
        };
        entry("network", format!("{}: {addresses}", described(network)))
    }));
    lines
}

fn range(min: u32, max: u32) -> String {
    if min == max { format!("version {min}") } else { format!("versions {min} to {max}") }
}

#[derive(Serialize)]
struct Object<'a> {
    address: &'a str,
    version: &'a str,
    host_id: &'a str,
    round_trip_us: u64,
    protocol_version_min: u32,
    protocol_version_max: u32,
    memory_free_bytes: u64,
    memory_promised_bytes: u64,
    memory_limit_bytes: u64,
    guests: u32,
    guests_limit: u32,
    migrations_out: u32,
    migrations_in: u32,
    migrations_limit: u32,
    trackers: Vec<TrackerObject<'a>>,
    networks: Vec<NetworkObject<'a>>,
    policy_error: Option<&'a str>,
    /// What was found of the paths, where somebody measured them.
    paths: Option<Vec<Finding>>,
}

#[derive(Serialize)]
struct TrackerObject<'a> {
    name: &'a str,
    usable: bool,
    why: &'a str,
}

#[derive(Serialize)]
struct NetworkObject<'a> {
    network: &'a str,
    preference: u32,
    speed_bytes_per_s: Option<u64>,
    limit_bytes_per_s: Option<u64>,
    addresses: &'a [String],
}

fn object<'a>(address: &'a str, host: &'a api::Host, round_trip: Duration) -> Object<'a> {
    let tracker = |tracker: &'a api::Tracker| TrackerObject {
        name: &tracker.name,
        usable: tracker.usable,
        why: &tracker.why,
    };
    let network = |network: &'a api::HostNetwork| NetworkObject {
        network: &network.network,
        preference: network.preference,
        speed_bytes_per_s: network.speed_bytes_per_s,
        limit_bytes_per_s: network.limit_bytes_per_s,
        addresses: &network.addresses,
    };
    Object {
        address,
        version: &host.version,
        host_id: &host.host_id,
        round_trip_us: u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX),
        protocol_version_min: host.protocol_version_min,
        protocol_version_max: host.protocol_version_max,
        memory_free_bytes: host.memory_free_bytes,
        memory_promised_bytes: host.memory_promised_bytes,
        memory_limit_bytes: host.memory_limit_bytes,
        guests: host.guests,
        guests_limit: host.guests_limit,
        migrations_out: host.migrations_out,
        migrations_in: host.migrations_in,
        migrations_limit: host.migrations_limit,
        trackers: host.trackers.iter().map(tracker).collect(),
        networks: host.networks.iter().map(network).collect(),
        policy_error: json::said(&host.policy_error),
        paths: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> api::Host {
        let tracker =
            |name: &str, usable| api::Tracker { name: name.into(), usable, why: "because".into() };
        let network = |name: &str, addresses: &[&str]| api::HostNetwork {
            network: name.into(),
            addresses: addresses.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        api::Host {
            version: "0.1.0".into(),
            protocol_version_min: 1,
            protocol_version_max: 2,
            memory_free_bytes: 12 << 30,
            memory_promised_bytes: 4 << 30,
            memory_limit_bytes: 16 << 30,
            guests: 2,
            guests_limit: 64,
            migrations_in: 1,
            migrations_limit: 2,
            trackers: vec![tracker("userfaultfd", false), tracker("mprotect", true)],
            networks: vec![
                network("10.1.0.0/24", &["10.1.0.7"]),
                api::HostNetwork { preference: 1, ..network("ehto2", &[]) },
            ],
            ..api::Host::default()
        }
    }

    #[test]
    fn what_an_agent_is_and_can_take() {
        let lines = lines("host-b:7117", &host(), Duration::from_micros(310));
        let text: String = lines.iter().map(|line| line.render(false) + "\n").collect();
        let expected = "\
✔ host-b:7117 is a Whimbrel agent, version 0.1.0
  round trip    310 µs at best of 5
  protocol      versions 1 to 2
  memory        12 GiB free of 16 GiB, 4 GiB promised
  guests        2 of 64
  migrations    0 out, 1 in, 2 each way
  trackers      mprotect
  network       10.1.0.0/24: 10.1.0.7
  network       ehto2, preference 1: no address of the host is in it
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_for_everybody_is_not_shown_as_nothing() {
        let host = api::Host { version: "0.1.0".into(), ..api::Host::default() };
        let lines = lines("host-b:7117", &host, Duration::from_micros(310));
        let last = lines.last().expect("lines").render(false);
        assert_eq!(
            last,
            "  load          only for those who may look: `look = [\"NAME\"]` in its policy"
        );
    }

    #[test]
    fn a_policy_that_allows_nobody_anything_is_told() {
        let policy_error = "the policy p.toml cannot be used: line 1".to_owned();
        let host = api::Host { version: "0.1.0".into(), policy_error, ..api::Host::default() };
        let lines = lines("host-b:7117", &host, Duration::from_micros(310));
        let last = lines.last().expect("lines").render(false);
        assert_eq!(last, "✘ policy        the policy p.toml cannot be used: line 1");
    }

    #[test]
    fn the_same_as_an_object() {
        let text = json::line(&object("a:1", &host(), Duration::from_micros(310)));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["round_trip_us"], 310);
        assert_eq!(value["memory_free_bytes"], 12u64 << 30);
        assert_eq!(value["trackers"][0]["usable"], false);
        assert_eq!(value["networks"][1]["addresses"], serde_json::json!([]));
    }
}
