//! What an agent says, as what the view shows.

use std::time::Duration;

use whimbrel_agent::travels_in_words;
use whimbrel_control::api;

use crate::view::state::{Account, Check, Cost, Downtime, Lane, Look, Outcome, Path, Round};

/// What is known of a migration beside its status.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    /// The agent that was asked.
    pub(crate) here: String,
    /// The downtime limit, where this program has set it.
    pub(crate) downtime_limit: Option<Duration>,
}

/// The status of a migration that is under way.
pub(crate) fn look(status: &api::MigrationStatus, context: &Context) -> Look {
    let (source, destination) = way(status, context);
    Look {
        guest: status.guest_name.clone(),
        source,
        destination,
        phase: status.phase.clone(),
        elapsed: us(status.elapsed_us),
        pages_total: status.pages_total,
        pages_pending: status.pages_pending,
        bandwidth: status.bandwidth_bytes_per_s,
        dirty_rate: status.dirty_rate_bytes_per_s,
        throttle_percent: status.throttle_percent,
        downtime_forecast: status.downtime_forecast_us.map(us),
        downtime_limit: context.downtime_limit.or(status.downtime_limit_us.map(us)),
        rounds: status.rounds.iter().map(round).collect(),
        lanes: status.lanes.iter().map(lane).collect(),
        paths: status.paths.iter().map(path).collect(),
        events: status.events.iter().map(event).collect(),
    }
}

/// The status of a migration that has ended.
pub(crate) fn account(status: &api::MigrationStatus, context: &Context) -> Account {
    let (source, destination) = way(status, context);
    let known = Account {
        outcome: outcome(status.outcome()),
        reason: Some(status.reason.clone()).filter(|reason| !reason.is_empty()),
        migration: status.migration_id.clone(),
        guest: status.guest_name.clone(),
        source,
        destination,
        downtime_limit: context.downtime_limit.or(status.downtime_limit_us.map(us)),
        throttle_percent: Some(status.throttle_percent),
        transport: transport(status.carrier()),
        travelled: travelled(status.carrier()),
        rounds: status.rounds.iter().map(round).collect(),
        lanes: status.lanes.iter().map(lane).collect(),
        paths: status.paths.iter().map(path).collect(),
        ..Account::default()
    };
    match &status.report {
        Some(report) => reported(known, report),
        None => known,
    }
}

/// Adds what the report says.
fn reported(account: Account, report: &api::MigrationReport) -> Account {
    Account {
        total: Some(Duration::from_millis(report.total_ms)),
        downtime: Some(us(report.downtime_us)),
        downtime_parts: report.downtime_parts.as_ref().map(parts),
        downtime_forecast: report.downtime_estimate_us.map(us),
        blackout: report.blackout_us.map(us),
        lost: report.lost_us.map(us),
        bytes_on_wire: Some(report.bytes_on_wire),
        guest_ram: Some(report.guest_ram_bytes),
        throughput_mib_s: Some(report.throughput_mib_s),
        verify: verify(report.verify()),
        pages_verified: Some(report.pages_verified),
        pages_missed: Some(report.pages_missed),
        pages_scrubbed: Some(report.pages_scrubbed),
        at_source: cost(report.cpu_source_ms, report.peak_rss_source_bytes),
        at_destination: cost(report.cpu_destination_ms, report.peak_rss_destination_bytes),
        ..account
    }
}

const fn verify(verify: api::Verify) -> Option<&'static str> {
    match verify {
        api::Verify::Unspecified => None,
        api::Verify::Digest => Some("digest"),
        api::Verify::Full => Some("full"),
    }
}

const fn transport(carrier: api::Carrier) -> Option<&'static str> {
    match carrier {
        api::Carrier::Unspecified => None,
        api::Carrier::Tcp => Some("tcp"),
        api::Carrier::Signed => Some("tcp-signed"),
        api::Carrier::Tls => Some("tls"),
        api::Carrier::Local => Some("unix"),
        api::Carrier::Quic => Some("quic"),
    }
}

fn travelled(carrier: api::Carrier) -> Option<&'static str> {
    transport(carrier).map(|_| travels_in_words(carrier))
}

/// What the guest says of its own memory.
pub(crate) fn check(report: &api::CheckReport) -> Check {
    Check {
        sound: report.sound,
        pages: report.pages_checked,
        lost: report.pages_lost,
        stale: report.pages_stale,
        ahead: report.pages_ahead,
        torn: report.pages_torn,
        foreign: report.pages_foreign,
        sentence: report.sentence.clone(),
        findings: report.findings.clone(),
    }
}

fn outcome(outcome: api::Outcome) -> Outcome {
    match outcome {
        api::Outcome::Completed => Outcome::Completed,
        api::Outcome::Aborted => Outcome::Aborted,
        api::Outcome::InDoubt => Outcome::InDoubt,
        api::Outcome::Unspecified => Outcome::Failed,
    }
}

/// Source and destination: the status only names the other side.
fn way(status: &api::MigrationStatus, context: &Context) -> (String, String) {
    let (here, peer) = (context.here.clone(), status.peer.clone());
    match status.direction() {
        api::Direction::In => (peer, here),
        api::Direction::Out | api::Direction::Unspecified => (here, peer),
    }
}

fn round(round: &api::Round) -> Round {
    Round {
        round: round.round,
        pages: round.pages,
        bytes: round.bytes,
        duration: us(round.duration_us),
        dirty_after: round.dirty_after,
    }
}

fn event(event: &api::Event) -> (Duration, String) {
    (us(event.elapsed_us), event.sentence.clone())
}

fn lane(lane: &api::Lane) -> Lane {
    Lane { lane: lane.lane, bytes: lane.bytes, pages: lane.pages, open: lane.open }
}

fn path(path: &api::Path) -> Path {
    Path {
        name: path.name.clone(),
        bytes: path.bytes,
        rate: path.rate_bytes_per_s,
        lanes: path.lanes,
        connections: path.connections,
        up: path.up,
    }
}

fn parts(parts: &api::DowntimeParts) -> Downtime {
    Downtime {
        pause: us(parts.pause_us),
        harvest: us(parts.harvest_us),
        state: us(parts.state_us),
        last_pages: us(parts.last_pages_us),
        prepared: us(parts.prepared_us),
        grant: us(parts.grant_us),
        run: us(parts.run_us),
        verify: us(parts.verify_us),
    }
}

fn cost(cpu_ms: Option<u64>, peak_rss: Option<u64>) -> Cost {
    Cost { cpu: cpu_ms.map(Duration::from_millis), peak_rss }
}

fn us(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let downtime_limit = Some(Duration::from_millis(300));
        Context { here: "here:1".into(), downtime_limit }
    }

    fn status(direction: api::Direction, outcome: api::Outcome) -> api::MigrationStatus {
        api::MigrationStatus {
            guest_name: "g".into(),
            peer: "there:2".into(),
            direction: direction.into(),
            outcome: outcome.into(),
            ..api::MigrationStatus::default()
        }
    }

    #[test]
    fn the_direction_says_who_is_the_source() {
        let out = status(api::Direction::Out, api::Outcome::Unspecified);
        let seen = look(&out, &context());
        assert_eq!((seen.source.as_str(), seen.destination.as_str()), ("here:1", "there:2"));
        let inward = status(api::Direction::In, api::Outcome::Unspecified);
        let seen = account(&inward, &context());
        assert_eq!((seen.source.as_str(), seen.destination.as_str()), ("there:2", "here:1"));
    }

    #[test]
    fn each_outcome_is_told_apart_and_no_outcome_is_no_success() {
        let cases = [
            (api::Outcome::Completed, Outcome::Completed),
            (api::Outcome::Aborted, Outcome::Aborted),
            (api::Outcome::InDoubt, Outcome::InDoubt),
            (api::Outcome::Unspecified, Outcome::Failed),
        ];
        for (said, meant) in cases {
            assert_eq!(account(&status(api::Direction::Out, said), &context()).outcome, meant);
        }
    }

    #[test]
    fn the_report_is_taken_over_field_by_field() {
        let report = api::MigrationReport {
            total_ms: 1,
            downtime_us: 2,
            downtime_parts: Some(api::DowntimeParts { grant_us: 3, ..Default::default() }),
            downtime_estimate_us: Some(4),
            blackout_us: Some(5),
            lost_us: None,
            bytes_on_wire: 6,
            guest_ram_bytes: 7,
            pages_verified: 8,
            throughput_mib_s: 9.5,
            cpu_source_ms: Some(10),
            cpu_destination_ms: Some(11),
            peak_rss_source_bytes: Some(12),
            peak_rss_destination_bytes: None,
            verify: api::Verify::Full.into(),
            pages_missed: 13,
            pages_scrubbed: 14,
        };
        let mut ended = status(api::Direction::Out, api::Outcome::Completed);
        ended.report = Some(report);
        let said = account(&ended, &context());
        assert_eq!(said.total, Some(Duration::from_millis(1)));
        assert_eq!((said.downtime, said.downtime_forecast), (Some(us(2)), Some(us(4))));
        assert_eq!(said.downtime_parts.map(|parts| parts.grant), Some(us(3)));
        assert_eq!((said.blackout, said.lost), (Some(us(5)), None));
        assert_eq!((said.bytes_on_wire, said.guest_ram), (Some(6), Some(7)));
        assert_eq!((said.pages_verified, said.throughput_mib_s), (Some(8), Some(9.5)));
        assert_eq!(said.at_source, cost(Some(10), Some(12)));
        assert_eq!(said.at_destination, cost(Some(11), None));
        assert_eq!((said.verify, said.pages_missed), (Some("full"), Some(13)));
        assert_eq!(said.pages_scrubbed, Some(14));
        assert_eq!(said.reason, None);
    }
}
