//! `migrate`, `watch` and `cancel` as a script sees them: output and exit status for each end.

use crate::stand_in::{Script, StandIn, command, said};
use serde_json::Value;
use whimbrel_control::api;

fn status(outcome: api::Outcome, elapsed_ms: u64) -> api::MigrationStatus {
    api::MigrationStatus {
        migration_id: "m-1".into(),
        guest_name: "web".into(),
        direction: api::Direction::Out.into(),
        peer: "host-b:7117".into(),
        phase: "pre-copy".into(),
        elapsed_us: elapsed_ms * 1000,
        pages_total: 1000,
        pages_pending: 1000 - elapsed_ms.min(1000),
        rounds: vec![api::Round { pages: 1000, ..api::Round::default() }],
        lanes: vec![api::Lane { bytes: 4096, pages: 1, open: true, ..api::Lane::default() }],
        outcome: outcome.into(),
        ..api::MigrationStatus::default()
    }
}

fn ended(outcome: api::Outcome, reason: &str, pages_verified: u64) -> Script {
    let under_way = status(api::Outcome::Unspecified, 500);
    let report = api::MigrationReport {
        total_ms: 900,
        downtime_us: 1800,
        guest_ram_bytes: 4096 * 1000,
        pages_verified,
        throughput_mib_s: 123.4,
        ..api::MigrationReport::default()
    };
    let last = api::MigrationStatus {
        reason: reason.into(),
        report: Some(report),
        ..status(outcome, 900)
    };
    Script { statuses: vec![under_way, last], ..Script::default() }
}

fn migrated(script: Script) -> (Value, i32) {
    let agent = StandIn::start(script);
    let output = agent.whimbrel(&["migrate", "web", "host-b", "--json"]);
    let (out, err, status) = said(&output);
    assert_eq!(out.lines().count(), 1, "{out}{err}");
    (serde_json::from_str(&out).expect("one JSON object"), status)
}

#[test]
fn completed_is_0() {
    let (account, status) = migrated(ended(api::Outcome::Completed, "", 1000));
    assert_eq!(status, 0);
    assert_eq!(account["outcome"], "completed");
    assert_eq!(account["total_ms"], 900);
    assert_eq!(account["downtime_us"], 1800);
    assert_eq!(account["pages_verified"], 1000);
    assert_eq!(account["destination"], "host-b:7117");
    assert!(account["reason"].is_null());
}

#[test]
fn aborted_is_3_with_the_reason() {
    let (account, status) = migrated(ended(api::Outcome::Aborted, "the link failed", 0));
    assert_eq!(status, 3);
    assert_eq!(account["outcome"], "aborted");
    assert_eq!(account["reason"], "the link failed");
}

#[test]
fn in_doubt_is_4_with_the_reason() {
    let (account, status) = migrated(ended(api::Outcome::InDoubt, "no answer", 0));
    assert_eq!(status, 4);
    assert_eq!(account["outcome"], "in-doubt");
    assert_eq!(account["reason"], "no answer");
}

#[test]
fn moved_but_not_verified_is_7() {
    let (account, status) = migrated(ended(api::Outcome::Completed, "", 999));
    assert_eq!(status, 7);
    assert_eq!(account["outcome"], "completed");
    assert_eq!(account["pages_verified"], 999);
}

#[test]
fn refusals_are_6_and_an_unreachable_destination_is_5() {
    let refused = |refusal| migrated(Script { refusal: Some(refusal), ..Script::default() });
    let full = tonic::Status::resource_exhausted("host-b is full: 1 GiB is free, 2 GiB are needed");
    let (account, status) = refused(full);
    assert_eq!(status, 6);
    assert_eq!(account["outcome"], "failed");
    assert_eq!(account["reason"], "host-b is full: 1 GiB is free, 2 GiB are needed");
    assert_eq!(refused(tonic::Status::unavailable("no agent at host-b")).1, 5);
}

#[test]
fn an_agent_that_falls_silent_is_5_and_no_success() {
    let statuses = vec![status(api::Outcome::Unspecified, 500)];
    let (account, status) = migrated(Script { statuses, ..Script::default() });
    assert_eq!(status, 5);
    assert_eq!(account["outcome"], "failed");
    assert!(account["reason"].as_str().unwrap().contains("stopped telling"), "{account}");
}

#[test]
fn a_person_gets_progress_and_a_summary_without_codes_in_a_file() {
    let agent = StandIn::start(ended(api::Outcome::Completed, "", 1000));
    let (out, err, status) = said(&agent.whimbrel(&["migrate", "web", "host-b"]));
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(!out.contains('\x1b'), "{out:?}");
    assert!(out.contains("pre-copy, round 0   50 %"), "{out}");
    assert!(out.contains("✔ Moved 3.9 MiB in 900 ms: web runs at host-b:7117"), "{out}");
    assert!(out.contains("1,000 pages agreed on both sides"), "{out}");
}

#[test]
fn detached_it_only_tells_the_id() {
    let agent = StandIn::start(Script::default());
    let (out, _, status) = said(&agent.whimbrel(&["migrate", "web", "host-b", "--detach"]));
    assert_eq!((status, out.as_str()), (0, "migration m-1 of web has begun\n"));
    let words = ["migrate", "web", "host-b", "--detach", "--json"];
    let (out, _, _) = said(&agent.whimbrel(&words));
    assert_eq!(out, "{\"migration\":\"m-1\"}\n");
}

#[test]
fn watch_waits_for_a_migration_to_begin() {
    let guest = |migration_id: &str| api::Guest {
        name: "web".into(),
        migration_id: migration_id.into(),
        state: api::GuestState::Running.into(),
        ..api::Guest::default()
    };
    let moving = api::Guest { state: api::GuestState::Migrating.into(), ..guest("m-1") };
    let guests = vec![guest("m-0"), guest("m-0"), guest("m-0"), moving];
    let agent = StandIn::start(Script { guests, ..ended(api::Outcome::Completed, "", 1000) });
    let (out, err, status) = said(&agent.whimbrel(&["watch", "web", "--json"]));
    assert_eq!(status, 0, "{err}");
    assert!(err.contains("web does not move just now; waiting for its next"), "{err}");
    let account: Value = serde_json::from_str(&out).expect("one JSON object");
    assert_eq!(account["outcome"], "completed");
}

#[test]
fn watch_takes_the_id_of_a_migration_too() {
    let agent = StandIn::start(ended(api::Outcome::Aborted, "cancelled", 0));
    assert_eq!(said(&agent.whimbrel(&["watch", "m-1"])).2, 3);
    let (_, err, status) = said(&agent.whimbrel(&["watch", "nobody"]));
    assert_eq!(status, 6);
    assert!(err.contains("no guest of that name is here"), "{err}");
}

#[test]
fn too_late_to_cancel_is_6() {
    let answer = |accepted, sentence: &str| Script {
        cancel: api::CancelMigrationResponse { accepted, sentence: sentence.into() },
        ..Script::default()
    };
    let agent = StandIn::start(answer(false, "too late: the guest has been granted"));
    let (out, err, status) = said(&agent.whimbrel(&["cancel", "web"]));
    assert_eq!((out.as_str(), status), ("", 6));
    assert_eq!(err, "whimbrel: too late: the guest has been granted\n");
    let agent = StandIn::start(answer(true, "cancelled: web runs on here"));
    let (out, _, status) = said(&agent.whimbrel(&["cancel", "web"]));
    assert_eq!((out.as_str(), status), ("cancelled: web runs on here\n", 0));
}

#[test]
fn the_option_beats_the_environment() {
    let agent = StandIn::start(Script::default());
    let words = ["probe", agent.address.as_str(), "--json"];
    let output = command(&words).env("WHIMBREL_AGENT", "nowhere.invalid").output().unwrap();
    assert_eq!(said(&output).2, 0);
    let words = ["list", "--agent", agent.address.as_str()];
    let output = command(&words).env("WHIMBREL_AGENT", "nowhere.invalid").output().unwrap();
    assert_eq!(said(&output).2, 0);
}
