//! The one object of `--json`. Its fields are a contract; what nobody could say is `null`.

use std::time::Duration;

use serde::Serialize;

use crate::view::state::{Account, Check, Lane, Outcome, Path, Round};

#[derive(Serialize)]
struct Object<'a> {
    outcome: &'static str,
    reason: Option<&'a str>,
    migration: Option<&'a str>,
    guest: Option<&'a str>,
    source: Option<&'a str>,
    destination: Option<&'a str>,
    total_ms: Option<u64>,
    downtime_us: Option<u64>,
    downtime_estimate_us: Option<u64>,
    downtime_parts: Option<Parts>,
    blackout_us: Option<u64>,
    lost_us: Option<u64>,
    bytes_on_wire: Option<u64>,
    guest_ram_bytes: Option<u64>,
    verify: Option<&'static str>,
    pages_verified: Option<u64>,
    pages_missed: Option<u64>,
    pages_scrubbed: Option<u64>,
    cpu_source_ms: Option<u64>,
    cpu_destination_ms: Option<u64>,
    peak_rss_source_bytes: Option<u64>,
    peak_rss_destination_bytes: Option<u64>,
    throughput_mib_s: Option<f64>,
    throttle_percent: Option<u32>,
    transport: Option<&'static str>,
    rounds: Vec<RoundObject>,
    lanes: Vec<LaneObject>,
    paths: Vec<PathObject<'a>>,
    check: Option<CheckObject<'a>>,
    runs_at_destination: Option<bool>,
    source_let_go: Option<bool>,
}

#[derive(Serialize)]
struct Parts {
    pause_us: u64,
    harvest_us: u64,
    state_us: u64,
    last_pages_us: u64,
    prepared_us: u64,
    grant_us: u64,
    run_us: u64,
    verify_us: u64,
}

#[derive(Serialize)]
struct RoundObject {
    round: u32,
    pages: u64,
    bytes: u64,
    duration_us: u64,
    dirty_after: u64,
}

#[derive(Serialize)]
struct LaneObject {
    lane: u32,
    bytes: u64,
    pages: u64,
    open: bool,
}

#[derive(Serialize)]
struct PathObject<'a> {
    name: &'a str,
    bytes: u64,
    rate_bytes_per_s: u64,
    lanes: u32,
    connections: u32,
    up: bool,
}

#[derive(Serialize)]
pub(crate) struct CheckObject<'a> {
    sound: bool,
    pages_checked: u64,
    pages_lost: u64,
    pages_stale: u64,
    pages_ahead: u64,
    pages_torn: u64,
    pages_foreign: u64,
    findings: &'a [String],
}

/// The word for an outcome.
pub(crate) const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Aborted => "aborted",
        Outcome::InDoubt => "in-doubt",
        Outcome::Failed => "failed",
    }
}

/// The object, on one line.
pub(crate) fn object(account: &Account) -> String {
    let object = Object {
        outcome: word(account.outcome),
        reason: account.reason.as_deref(),
        migration: said(&account.migration),
        guest: said(&account.guest),
        source: said(&account.source),
        destination: said(&account.destination),
        total_ms: account.total.map(ms),
        downtime_us: account.downtime.map(us),
        downtime_estimate_us: account.downtime_forecast.map(us),
        downtime_parts: account.downtime_parts.map(parts),
        blackout_us: account.blackout.map(us),
        lost_us: account.lost.map(us),
        bytes_on_wire: account.bytes_on_wire,
        guest_ram_bytes: account.guest_ram,
        verify: account.verify,
        pages_verified: account.pages_verified,
        pages_missed: account.pages_missed,
        pages_scrubbed: account.pages_scrubbed,
        cpu_source_ms: account.at_source.cpu.map(ms),
        cpu_destination_ms: account.at_destination.cpu.map(ms),
        peak_rss_source_bytes: account.at_source.peak_rss,
        peak_rss_destination_bytes: account.at_destination.peak_rss,
        throughput_mib_s: account.throughput_mib_s.map(|rate| (rate * 1000.0).round() / 1000.0),
        throttle_percent: account.throttle_percent,
        transport: account.transport,
        rounds: account.rounds.iter().map(round).collect(),
        lanes: account.lanes.iter().map(lane).collect(),
        paths: account.paths.iter().map(path).collect(),
        check: account.check.as_ref().map(check),
        runs_at_destination: account.runs_there,
        source_let_go: account.source_let_go,
    };
    line(&object)
}

/// A guest's check of its own memory.
pub(crate) fn check(check: &Check) -> CheckObject<'_> {
    CheckObject {
        sound: check.sound,
        pages_checked: check.pages,
        pages_lost: check.lost,
        pages_stale: check.stale,
        pages_ahead: check.ahead,
        pages_torn: check.torn,
        pages_foreign: check.foreign,
        findings: &check.findings,
    }
}

/// A text that somebody has said.
pub(crate) fn said(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Anything as JSON on one line.
pub(crate) fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value)
        .unwrap_or_else(|why| format!("{{\"reason\":{:?}}}", why.to_string()))
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn parts(downtime: crate::view::state::Downtime) -> Parts {
    Parts {
        pause_us: us(downtime.pause),
        harvest_us: us(downtime.harvest),
        state_us: us(downtime.state),
        last_pages_us: us(downtime.last_pages),
        prepared_us: us(downtime.prepared),
        grant_us: us(downtime.grant),
        run_us: us(downtime.run),
        verify_us: us(downtime.verify),
    }
}

fn round(round: &Round) -> RoundObject {
    RoundObject {
        round: round.round,
        pages: round.pages,
        bytes: round.bytes,
        duration_us: us(round.duration),
        dirty_after: round.dirty_after,
    }
}

fn lane(lane: &Lane) -> LaneObject {
    LaneObject { lane: lane.lane, bytes: lane.bytes, pages: lane.pages, open: lane.open }
}

fn path(path: &Path) -> PathObject<'_> {
    PathObject {
        name: &path.name,
        bytes: path.bytes,
        rate_bytes_per_s: path.rate,
        lanes: path.lanes,
        connections: path.connections,
        up: path.up,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::view::state::Downtime;

    /// The fields that scripts rely on, as the design lists them.
    const CONTRACT: [&str; 21] = [
        "outcome",
        "reason",
        "total_ms",
        "downtime_us",
        "blackout_us",
        "bytes_on_wire",
        "guest_ram_bytes",
        "pages_verified",
        "cpu_source_ms",
        "cpu_destination_ms",
        "peak_rss_source_bytes",
        "peak_rss_destination_bytes",
        "throughput_mib_s",
        "rounds",
        "lanes",
        "lost_us",
        "downtime_parts",
        "verify",
        "pages_missed",
        "pages_scrubbed",
        "transport",
    ];

    fn parsed(account: &Account) -> Value {
        let text = object(account);
        assert!(!text.contains('\n'));
        serde_json::from_str(&text).expect("it is JSON")
    }

    #[test]
    fn every_field_is_there_whatever_happened() {
        for outcome in [Outcome::Completed, Outcome::Aborted, Outcome::InDoubt, Outcome::Failed] {
            let value = parsed(&Account { outcome, ..Account::default() });
            let fields = value.as_object().expect("an object");
            for field in CONTRACT {
                assert!(fields.contains_key(field), "{field}");
            }
            assert_eq!(value["outcome"], word(outcome));
            assert!(value["rounds"].is_array() && value["lanes"].is_array());
        }
    }

    #[test]
    fn the_guide_explains_every_field() {
        let guide = include_str!("../../../docs/GUIDE.md");
        let time = Some(Duration::ZERO);
        let (check, downtime_parts) = (Some(Check::default()), Some(Downtime::default()));
        let rounds = vec![Round::default()];
        let lanes = vec![Lane::default()];
        let known =
            Account { total: time, check, downtime_parts, rounds, lanes, ..Account::default() };
        let value = parsed(&known);
        let lists = [&value["rounds"][0], &value["lanes"][0], &value["check"]];
        for object in [&value, &value["downtime_parts"]].into_iter().chain(lists) {
            for field in object.as_object().expect("an object").keys() {
                assert!(guide.contains(&format!("`{field}`")), "{field}");
            }
        }
    }

    #[test]
    fn values_have_the_units_of_their_names() {
        let time = Duration::from_micros(1_234_567);
        let value = parsed(&Account {
            total: Some(time),
            downtime: Some(time),
            downtime_parts: Some(Downtime { grant: time, ..Downtime::default() }),
            blackout: Some(time),
            throughput_mib_s: Some(1234.5678),
            reason: Some("because".into()),
            rounds: vec![Round { round: 3, duration: time, pages: 5, bytes: 6, dirty_after: 7 }],
            lanes: vec![Lane { lane: 1, bytes: 2, pages: 3, open: true }],
            ..Account::default()
        });
        assert_eq!(value["total_ms"], 1234);
        assert_eq!(value["downtime_us"], 1_234_567);
        assert_eq!(value["downtime_parts"]["grant_us"], 1_234_567);
        assert_eq!(value["blackout_us"], 1_234_567);
        assert_eq!(value["throughput_mib_s"], 1234.568);
        assert_eq!(value["reason"], "because");
        let round = r#"{"bytes":6,"dirty_after":7,"duration_us":1234567,"pages":5,"round":3}"#;
        assert_eq!(value["rounds"][0], serde_json::from_str::<Value>(round).expect("JSON"));
        assert_eq!(value["lanes"][0]["open"], true);
        assert!(value["bytes_on_wire"].is_null());
    }
}
