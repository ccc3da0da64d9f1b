//! What people and their tools see of migrations: metrics, logs and reports.

use std::sync::Arc;

use serde_json::Value;
use tokio::time::timeout;
use whimbrel_tests::faults::host::HERE;
use whimbrel_tests::faults::usher::{Led, Usher};
use whimbrel_tests::faults::way::Way;
use whimbrel_tests::faults::{Fate, Step};
use whimbrel_tests::program::{Agent, How, Said, run};
use whimbrel_tests::prometheus::{self, Samples};
use whimbrel_tests::redis::{Connection, Reply};
use whimbrel_tests::{http, os};

const SMALL: [&str; 4] = ["--memory", "32MiB", "--dirty-rate", "20MiB/s"];

/// What an agent and the process of a guest say of themselves. All else in this test is about the
/// one migration.
const OF_NO_MIGRATION: [&str; 10] = [
    "clients are taken",
    "a relay is attached",
    "serving",
    "serving HTTP",
    "a guest was started",
    "guest process",
    "the guest runs",
    "stop",
    "the guest process ends",
    "the parent has gone",
];

async fn observed(more: &[&str]) -> Agent {
    observed_outlived(&[&["--die-with-parent"], more].concat()).await
}

/// An agent whose guests live on when it dies.
async fn observed_outlived(more: &[&str]) -> Agent {
    let options = [&["--http", "127.0.0.1:0", "--log", "json"], more].concat();
    Agent::start_as(&std::env::temp_dir(), How::with(&options)).await
}

async fn metrics(agent: &Agent) -> Samples {
    let answer = http::get(agent.http.as_deref().expect("HTTP"), "/metrics").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
    prometheus::read(&answer.body).unwrap_or_else(|why| panic!("{why}\n{}", answer.body))
}

#[tokio::test]
async fn metrics_count_what_was_moved() {
    let (here, there) = (observed(&[]).await, observed(&[]).await);
    here.guest("web", &SMALL).await;
    let before = metrics(&here).await;
    assert_eq!(before["whimbrel_guests{state=\"running\"}"], 1.0);
    assert_eq!(before["whimbrel_migration_bytes_total{direction=\"out\"}"], 0.0);
    assert!(before.iter().any(|(series, bytes)| {
        series.starts_with("whimbrel_guest_memory_bytes{guest=\"web\"") && *bytes == 33_554_432.0
    }));
    let moved = here.ask(&["migrate", "web", &there.address, "--json"]).await.ended(0).json();
    for (agent, direction) in [(&here, "out"), (&there, "in")] {
        let after = metrics(agent).await;
        let of = |name: &str| after[&format!("{name}{{direction=\"{direction}\"}}")];
        let ended = format!("whimbrel_migrations_total{{direction=\"{direction}\",outcome=");
        assert_eq!(after[&format!("{ended}\"completed\"}}")], 1.0);
        assert_eq!(after[&format!("{ended}\"aborted\"}}")], 0.0);
        assert_eq!(of("whimbrel_migrations"), 0.0);
        assert_eq!(of("whimbrel_migration_duration_seconds_count"), 1.0);
        assert!(of("whimbrel_migration_bytes_total") > 1e6, "{after:?}");
    }
    let after = metrics(&here).await;
    let sent = after["whimbrel_migration_bytes_total{direction=\"out\"}"];
    assert_eq!(Some(sent), moved["bytes_on_wire"].as_f64());
    let downtime = after["whimbrel_migration_downtime_seconds_sum{direction=\"out\"}"];
    let told = moved["downtime_us"].as_f64().expect("a downtime") / 1e6;
    assert!((downtime - told).abs() < 1e-9, "{downtime} is not {told}");
}

#[tokio::test]
async fn every_line_of_a_migration_carries_its_id() {
    let (here, there) = (observed(&[]).await, observed(&[]).await);
    here.guest("web", &SMALL).await;
    let (id, end) = begun(&here, &there.address, "web", &[]).await;
    let _ = end.await.ended(0);
    [&here, &there].into_iter().for_each(|agent| is_all_of(agent, &id));
    assert!(here.logs().contains("the guest was sent") && there.logs().contains("the guest came"));
}

#[tokio::test]
async fn every_line_of_a_migration_of_a_store_with_clients_carries_its_id() {
    let (here, there) = (observed(&[]).await, observed(&[]).await);
    here.guest("store", &["--guest", "kv", "--memory", "32MiB"]).await;
    let status = here.status("store").await;
    let mut client = Connection::to(status["service_address"].as_str().expect("a port")).await;
    assert_eq!(client.command(&[b"SET", b"a", b"1"]).await, Reply::Line('+', "OK".into()));
    let (id, end) = begun(&here, &there.address, "store", &[]).await;
    let _ = end.await.ended(0);
    assert_eq!(client.command(&[b"GET", b"a"]).await, Reply::Bulk('$', b"1".to_vec()));
    [&here, &there].into_iter().for_each(|agent| is_all_of(agent, &id));
}

#[tokio::test]
async fn every_line_of_a_migration_that_fails_carries_its_id() {
    let (here, there) = (observed(&[]).await, observed(&[]).await);
    here.guest("web", &SMALL).await;
    let (id, end) = begun(&here, &there.address, "web", &["--limit", "1MiB/s"]).await;
    here.until("web", |guest| guest["state"] == "migrating").await;
    let _ = here.ask(&["cancel", &id]).await.ended(0);
    let _ = end.await.ended(3);
    here.until("web", |guest| guest["state"] == "running").await;
    is_all_of(&here, &id);
}

/// A migration that has begun: its id, and how it ends for whoever watches it.
async fn begun(
    here: &Agent,
    there: &str,
    guest: &str,
    more: &[&str],
) -> (String, impl Future<Output = Said>) {
    let words = [&["migrate", guest, there, "--detach", "--json"], more].concat();
    let begun = here.ask(&words).await.ended(0).json();
    let id = begun["migration"].as_str().expect("an id").to_owned();
    let watched = id.clone();
    (id, async move { here.ask(&["watch", &watched, "--json"]).await })
}

/// The agent has died when its guest was granted, with the guest's process or without it: the next
/// one finds the guest in doubt.
#[tokio::test]
async fn every_line_of_an_agent_that_finds_a_guest_in_doubt_carries_the_migrations_id() {
    let deadlines = ["--deadlines", "silence=2s,resume=3s,doubt=3s,ask-pause-max=500ms"];
    for more in [&["--die-with-parent"] as &[&str], &[]] {
        let mut here = observed_outlived(&[&deadlines, more].concat()).await;
        let there = observed(&deadlines).await;
        here.guest("web", &SMALL).await;
        let way = Arc::new(Way::begin(HERE, 32 << 20).await);
        let back = Usher::stand(HERE, &here.address, None).await;
        let led = Led { way: Arc::clone(&way), questions: back.address };
        let usher = Usher::stand(HERE, &there.address, Some(led)).await;
        let held = way.expect(Step::Grant);
        let (id, _) = begun(&here, &usher.address.to_string(), "web", &[]).await;
        let held = timeout(os::PATIENCE, held).await.expect("it is granted").expect("a way");
        here.kill().await;
        held.go(Fate::Lost).await;
        here.start_again().await;
        there.until("web", |guest| guest["state"] == "running").await;
        here.until("web", |guest| guest["state"] == "gone").await;
        let said = are_all_of(&here, &id);
        let found = said.iter().filter(|line| line["message"] == "found again");
        assert_eq!(found.map(|line| &line["span"]["id"]).collect::<Vec<_>>(), [&id], "{said:?}");
    }
}

/// All that this agent and its guest say, if that is of the migration with this id, or of none.
#[track_caller]
fn are_all_of(agent: &Agent, id: &str) -> Vec<Value> {
    let logs = agent.logs();
    let lines: Vec<Value> = logs
        .lines()
        .filter(|line| !line.starts_with("---"))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}")))
        .collect();
    for line in &lines {
        let said = line["message"].as_str().unwrap_or_default();
        let of_it = line["span"]["id"] == id;
        assert!(of_it || OF_NO_MIGRATION.contains(&said), "{line}");
    }
    lines
}

/// As [`are_all_of`], where the process has told the end.
#[track_caller]
fn is_all_of(agent: &Agent, id: &str) {
    let lines = are_all_of(agent, id);
    let ended = |line: &&Value| line["message"] == "the migration ended";
    assert_eq!(lines.iter().filter(ended).count(), 1, "{lines:?}");
    assert!(lines.iter().filter(ended).all(|line| line["span"]["id"] == id));
}

#[tokio::test]
async fn a_report_survives_its_agent_also_of_what_failed() {
    let (mut here, there) = (observed(&[]).await, Agent::start().await);
    here.guest("web", &SMALL).await;
    let (failed, end) = begun(&here, &there.address, "web", &["--limit", "1MiB/s"]).await;
    let _ = here.ask(&["cancel", &failed]).await.ended(0);
    let _ = end.await.ended(3);
    here.until("web", |guest| guest["state"] == "running").await;
    let moved = here.ask(&["migrate", "web", &there.address, "--json"]).await.ended(0).json();
    let id = here.status("web").await["migration"].as_str().expect("an id").to_owned();
    here.kill().await;
    here.start_again().await;

    let listed = here.ask(&["report"]).await.ended(0).out;
    assert!(listed.contains(&id) && listed.contains(&failed), "{listed}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("report.html");
    let words = ["report", &id, "--output", file.to_str().expect("UTF-8")];
    let _ = here.ask(&words).await.ended(0);
    let page = std::fs::read_to_string(&file).expect("a report");
    for part in ["<h2>The blackout</h2>", "<h2>Rounds</h2>", "<h2>Decisions</h2>", "completed"] {
        assert!(page.contains(part), "{part} is missing in\n{page}");
    }
    assert!(page.contains("pause the guest and hand it over"), "{page}");
    assert!(!page.contains("<script") && !page.contains("src="), "{page}");
    assert!(moved["rounds"].as_array().is_some_and(|rounds| !rounds.is_empty()));

    let page = here.ask(&["report", &failed, "--output", "-"]).await.ended(0).out;
    assert!(page.contains("aborted") && page.contains(&there.address), "{page}");
    let served = http::get(here.http.as_deref().expect("HTTP"), &format!("/report/{id}")).await;
    assert_eq!(served.status, 200, "{served:?}");
    let _ = here.ask(&["report", "nobody"]).await.ended(6);
}

/// Nobody is there, or it is no agent, or it refuses: the guest's last migration stays the last.
#[tokio::test]
async fn an_attempt_that_never_begins_is_no_migration() {
    let (here, there) = (observed(&[]).await, observed(&["--guests", "1"]).await);
    here.guest("web", &SMALL).await;
    let (id, end) = begun(&here, &there.address, "web", &["--limit", "1MiB/s"]).await;
    let _ = here.ask(&["cancel", &id]).await.ended(0);
    let _ = end.await.ended(3);
    there.guest("other", &SMALL).await;
    let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let stranger = stranger.local_addr().expect("an address").to_string();
    let attempts = [("127.0.0.1:1", 5), (stranger.as_str(), 5), (there.address.as_str(), 6)];
    for (to, exit) in attempts {
        let failed = here.ask(&["migrate", "web", to, "--json"]).await.ended(exit).json();
        assert_eq!(failed["migration"], Value::Null, "{failed}");
        assert_eq!(failed["throttle_percent"], Value::Null, "{failed}");
    }
    assert_eq!(here.status("web").await["migration"], Value::from(id));
    let after = metrics(&here).await;
    assert_eq!(after["whimbrel_migration_refusals_total{direction=\"out\"}"], 3.0);
    assert_eq!(after["whimbrel_migrations_total{direction=\"out\",outcome=\"aborted\"}"], 1.0);
    let listed = here.ask(&["report"]).await.ended(0).out;
    assert_eq!(listed.matches("web").count(), 1, "{listed}");
    // What was refused here was not admitted: nothing was called off.
    let after = metrics(&there).await;
    assert_eq!(after["whimbrel_migration_refusals_total{direction=\"in\"}"], 0.0);
    here.until("web", |guest| guest["state"] == "running").await;
}

#[tokio::test]
async fn http_is_off_and_elsewhere_only_with_a_token() {
    let quiet = Agent::start().await;
    assert_eq!(quiet.http, None);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let data = data.to_str().expect("UTF-8");
    let open = ["agent", "--data", data, "--listen", "127.0.0.1:0", "--http", "0.0.0.0:0"];
    let refused = run(&open).await.ended(2);
    assert!(refused.err.contains("--http-token"), "{refused:?}");
    for may in ["order", "manage"] {
        let refused = run(&[&open[..], &["--http-may", may]].concat()).await.ended(2);
        assert!(refused.err.contains("is not encrypted"), "{refused:?}");
    }

    let token = folder.path().join("token");
    os::write(&token, "open-sesame-open-sesame\n", false);
    let shown = [&open[..], &["--http-token", token.to_str().expect("UTF-8")]].concat();
    let refused = run(&shown).await.ended(2);
    assert!(refused.err.contains("others may read the token") && refused.err.contains("chmod 600"));
    os::write(&token, "short\n", true);
    assert!(run(&shown).await.ended(2).err.contains("16 characters"));
    os::write(&token, "open-sesame-open-sesame\n", true);
    let agent = observed(&["--http-token", token.to_str().expect("UTF-8")]).await;
    let address = agent.http.as_deref().expect("HTTP");
    assert_eq!(http::get(address, "/metrics").await.status, 401);
    let shown = [("Authorization", "Bearer open-sesame-open-sesame"), ("Host", "any.example")];
    assert_eq!(http::ask(address, "GET /metrics", &shown, "").await.status, 200);
    let plain = observed(&[]).await;
    let rebound = [("Host", "evil.example")];
    let address = plain.http.as_deref().expect("HTTP");
    assert_eq!(http::ask(address, "GET /metrics", &rebound, "").await.status, 421);
}
