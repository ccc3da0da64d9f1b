//! Between the words of the API and those of the engine and the guests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::Status;
use whimbrel_control::api;
use whimbrel_engine::page::ByteCount;
use whimbrel_engine::protocol::{
    Answer, GuestUuid, Policy, Question, SourceOptions, Standing, Term,
};
use whimbrel_engine::{
    CoreShare, DecisionReport, Failure, Fault, LaneReport, Outcome, PathReport, Progress, Report,
    RoundReport, Step, Verify,
};

use crate::deadlines::MigrationDeadlines;

/// The hyphenated form, as people write it.
pub(crate) fn parse_uuid(text: &str) -> Option<GuestUuid> {
    let uuid = uuid::Uuid::try_parse(text).ok()?;
    (text.len() == uuid::fmt::Hyphenated::LENGTH).then(|| GuestUuid(uuid.as_u128()))
}

/// A number of microseconds that an API field can hold.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A number of milliseconds that an API field can hold.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The word of the API for a standing.
pub(crate) fn standing_word(standing: Standing) -> &'static str {
    match standing {
        Standing::Owner => "owner",
        Standing::Switching => "switching",
        Standing::Granted => "granted",
        Standing::Ceded => "ceded",
        Standing::MayOwn => "may own",
        Standing::Running => "running",
        Standing::Refused => "refused",
    }
}

/// What an ask request asks.
pub(crate) fn question(request: &api::AskRequest) -> Result<(GuestUuid, Term, Question), Status> {
    let uuid = parse_uuid(&request.guest_uuid)
        .ok_or_else(|| Status::invalid_argument("the question names no guest by its uuid"))?;
    let question = match request.question() {
        api::Question::MayIRun => Question::MayIRun,
        api::Question::WasItMine => Question::WasItMine,
        api::Question::DoYouRun => Question::DoYouRun,
        api::Question::DidYouRun => Question::DidYouRun,
        api::Question::Unspecified => {
            return Err(Status::invalid_argument("the question is not one this version knows"));
        }
    };
    Ok((uuid, Term { generation: request.term_generation, host: request.term_host }, question))
}

/// The request for a question.
pub(crate) fn ask_request(guest: GuestUuid, term: Term, question: Question) -> api::AskRequest {
    let question = match question {
        Question::MayIRun => api::Question::MayIRun,
        Question::WasItMine => api::Question::WasItMine,
        Question::DoYouRun => api::Question::DoYouRun,
        Question::DidYouRun => api::Question::DidYouRun,
    };
    api::AskRequest {
        guest_uuid: guest.to_string(),
        term_generation: term.generation,
        term_host: term.host,
        question: question.into(),
    }
}

/// An answer for the wire.
pub(crate) fn ask_response(answer: Answer) -> api::AskResponse {
    let answer = match answer {
        Answer::Yours => api::Answer::Yours,
        Answer::NotYours => api::Answer::NotYours,
        Answer::Runs => api::Answer::Runs,
        Answer::NeverRan => api::Answer::NeverRan,
        Answer::AskProcess => api::Answer::AskAgain,
        Answer::Unknown => api::Answer::Unknown,
    };
    api::AskResponse { answer: answer.into() }
}

/// An answer from the wire, if it is one that this version knows: to know that nobody can know is
/// something else.
pub(crate) fn answer(response: &api::AskResponse) -> Option<Answer> {
    Some(match response.answer() {
        api::Answer::Yours => Answer::Yours,
        api::Answer::NotYours => Answer::NotYours,
        api::Answer::Runs => Answer::Runs,
        api::Answer::NeverRan => Answer::NeverRan,
        api::Answer::AskAgain => Answer::AskProcess,
        api::Answer::Unknown => Answer::Unknown,
        api::Answer::Unspecified => return None,
    })
}

/// The source's settings, from what was asked, the agent's deadlines and the engine's defaults.
pub(crate) fn source_options(
    asked: &api::MigrationOptions,
    deadlines: &MigrationDeadlines,
) -> Result<SourceOptions, Status> {
    let mut options = SourceOptions::default();
    deadlines.set_source(&mut options);
    if let Some(lanes) = asked.lanes {
        let lanes = u16::try_from(lanes).ok().filter(|lanes| (1..=128).contains(lanes));
        options.lanes = lanes.ok_or_else(|| invalid("the number of lanes", "1 to 128"))?;
    }
    if let Some(limit) = asked.downtime_limit_us {
        options.convergence.downtime_max = Duration::from_micros(limit);
    }
    let most = match asked.throttle_limit_percent {
        None => 99,
        Some(percent) => u8::try_from(percent)
            .ok()
            .filter(|percent| *percent < 100)
            .ok_or_else(|| invalid("the limit of the throttle", "0 to 99 percent"))?,
    };
    options.convergence.policy = match asked.policy() {
        api::Policy::Unspecified | api::Policy::Throttle => Policy::Throttle { most },
        api::Policy::Switch => Policy::SwitchOver,
        api::Policy::Wait => Policy::Wait,
        api::Policy::GiveUp => Policy::GiveUp,
    };
    options.verify = match asked.verify() {
        api::Verify::Unspecified | api::Verify::Digest => Verify::Digest,
        api::Verify::Full => Verify::Full,
    };
    if let Some(window) = asked.resume_window_ms {
        options.resume_window = Duration::from_millis(window);
    }
    Ok(options)
}

/// What a source may spend on looking for missed writes.
pub(crate) fn scrub(asked: &api::MigrationOptions) -> Result<CoreShare, Status> {
    let Some(percent) = asked.scrub_percent else { return Ok(CoreShare::default()) };
    let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
    percent.map(CoreShare::percent).ok_or_else(|| invalid("the scrub's share", "0 to 100 percent"))
}

/// The class of service that is asked for.
pub(crate) fn dscp(asked: &api::MigrationOptions) -> Result<Option<u8>, Status> {
    let small = |dscp: u32| u8::try_from(dscp).ok().filter(|dscp| *dscp < 64);
    let checked = |dscp| small(dscp).ok_or_else(|| invalid("the DSCP", "0 to 63"));
    asked.dscp.map(checked).transpose()
}

fn invalid(what: &str, allowed: &str) -> Status {
    Status::invalid_argument(format!("{what} must be {allowed}"))
}

/// A status with everything that `progress` knows.
pub(crate) fn status_of(progress: &Progress) -> api::MigrationStatus {
    api::MigrationStatus {
        phase: progress.phase.to_owned(),
        elapsed_us: micros(progress.elapsed),
        pages_total: progress.pages_total.0,
        pages_pending: progress.pages_pending.0,
        bytes_on_wire: progress.bytes_on_wire.0,
        bandwidth_bytes_per_s: progress.bandwidth.map(|rate| rate.0),
        dirty_rate_bytes_per_s: progress.dirty_rate.map(|rate| rate.0),
        throttle_percent: progress.throttle.as_percent().into(),
        downtime_forecast_us: progress.downtime_forecast.map(micros),
        downtime_limit_us: progress.downtime_max.map(micros),
        rounds: progress.rounds.iter().map(round).collect(),
        lanes: progress.lanes.iter().map(lane).collect(),
        events: progress.events.iter().map(event).collect(),
        paths: progress.paths.iter().map(path).collect(),
        decisions: progress.decisions.iter().map(decision).collect(),
        ..Default::default()
    }
}

fn round(round: &RoundReport) -> api::Round {
    api::Round {
        round: round.round,
        pages: round.pages.0,
        bytes: round.bytes.0,
        duration_us: micros(round.duration),
        dirty_after: round.dirty_after.0,
    }
}

fn lane(lane: &LaneReport) -> api::Lane {
    api::Lane {
        lane: lane.lane.0.into(),
        bytes: lane.bytes.0,
        pages: lane.pages.0,
        open: lane.open,
    }
}

fn path(path: &PathReport) -> api::Path {
    api::Path {
        name: path.name.clone(),
        bytes: path.bytes.0,
        rate_bytes_per_s: path.rate.0,
        lanes: path.lanes.into(),
        connections: path.connections,
        up: path.up,
        local: path.local.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

fn decision(decision: &DecisionReport) -> api::Decision {
    let step = match decision.step {
        Step::Round(round) => api::decision::Step::Round(round),
        Step::Throttle(percent) => api::decision::Step::ThrottlePercent(percent.into()),
        Step::SwitchOver => api::decision::Step::SwitchOver(true),
        Step::RunOn => api::decision::Step::RunOn(true),
    };
    api::Decision {
        elapsed_us: micros(decision.at),
        step: Some(step),
        pages_dirty: decision.dirty.0,
        bandwidth_bytes_per_s: decision.bandwidth.map(|rate| rate.0),
        dirty_rate_bytes_per_s: decision.dirty_rate.map(|rate| rate.0),
        downtime_forecast_us: decision.forecast.map(micros),
    }
}

fn event((at, sentence): &(Duration, String)) -> api::Event {
    api::Event { elapsed_us: micros(*at), sentence: sentence.clone() }
}

/// The account of an ended migration, without what only the process and the guest know.
pub(crate) fn report_of(report: &Report) -> api::MigrationReport {
    let downtime = report.downtime;
    let moving = report.total.saturating_sub(downtime.total());
    api::MigrationReport {
        total_ms: millis(report.total),
        downtime_us: micros(downtime.total()),
        downtime_parts: Some(api::DowntimeParts {
            pause_us: micros(downtime.pause),
            harvest_us: micros(downtime.harvest),
            state_us: micros(downtime.state),
            last_pages_us: micros(downtime.last_pages),
            prepared_us: micros(downtime.prepared),
            grant_us: micros(downtime.grant),
            run_us: micros(downtime.run),
            verify_us: micros(downtime.verify),
        }),
        downtime_estimate_us: report.downtime_estimate.map(micros),
        bytes_on_wire: report.progress.bytes_on_wire.0,
        guest_ram_bytes: report.guest_ram.0,
        pages_verified: report.pages_verified.0,
        verify: verify(report.verify).into(),
        pages_missed: report.progress.pages_missed.0,
        pages_scrubbed: report.progress.pages_scrubbed.0,
        throughput_mib_s: mib_per_s(report.progress.bytes_on_wire, moving),
        ..Default::default()
    }
}

const fn verify(verify: Verify) -> api::Verify {
    match verify {
        Verify::Digest => api::Verify::Digest,
        Verify::Full => api::Verify::Full,
    }
}

fn mib_per_s(bytes: ByteCount, time: Duration) -> f64 {
    let mib = bytes.0 as f64 / f64::from(1 << 20);
    if time.is_zero() { 0.0 } else { mib / time.as_secs_f64() }
}

/// Puts an outcome into a status.
pub(crate) fn set_outcome(status: &mut api::MigrationStatus, outcome: &Outcome) {
    match outcome {
        Outcome::Completed { .. } => status.set_outcome(api::Outcome::Completed),
        Outcome::Aborted(failure) => set_aborted(status, failure),
        Outcome::InDoubt { why, .. } => {
            status.set_outcome(api::Outcome::InDoubt);
            status.reason.clone_from(why);
        }
    }
}

/// Puts the end of an attempt that failed into a status.
pub(crate) fn set_aborted(status: &mut api::MigrationStatus, failure: &Failure) {
    status.set_outcome(api::Outcome::Aborted);
    status.set_fault(fault(failure.fault));
    status.reason.clone_from(&failure.why);
}

fn fault(fault: Fault) -> api::Fault {
    match fault {
        Fault::Peer => api::Fault::Peer,
        Fault::Incompatible => api::Fault::Incompatible,
        Fault::Capacity => api::Fault::Capacity,
        Fault::Link => api::Fault::Link,
        Fault::Memory => api::Fault::Memory,
        Fault::Guest => api::Fault::Guest,
        Fault::Journal => api::Fault::Journal,
        Fault::NotConverging => api::Fault::NotConverging,
        Fault::Cancelled => api::Fault::Cancelled,
    }
}

/// The time of day.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What everybody learns about a host: who it is and what it speaks.
pub(crate) fn only_who_it_is(host: api::Host) -> api::Host {
    api::Host {
        product: host.product,
        version: host.version,
        api_version: host.api_version,
        protocol_version_min: host.protocol_version_min,
        protocol_version_max: host.protocol_version_max,
        host_id: host.host_id,
        clock_us: host.clock_us,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_only_taken_in_the_form_it_is_shown_in() {
        let uuid = GuestUuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(parse_uuid(&uuid.to_string()), Some(uuid));
        for text in ["", "web", "0123456789abcdef0123456789abcdef", "{}"] {
            assert_eq!(parse_uuid(text), None, "{text}");
        }
    }

    #[test]
    fn questions_and_answers_survive_the_wire() {
        let term = Term { generation: 4, host: 5 };
        for asked in Question::ALL {
            let request = ask_request(GuestUuid(9), term, asked);
            assert_eq!(question(&request).unwrap(), (GuestUuid(9), term, asked));
        }
        assert!(question(&api::AskRequest::default()).is_err());
        use Answer::{AskProcess, NeverRan, NotYours, Runs, Unknown, Yours};
        for given in [Yours, NotYours, Runs, NeverRan, AskProcess, Unknown] {
            assert_eq!(answer(&ask_response(given)), Some(given));
        }
        assert_eq!(answer(&api::AskResponse { answer: 77 }), None);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let asked = api::MigrationOptions::default();
        let source_options =
            |asked: &api::MigrationOptions| source_options(asked, &MigrationDeadlines::default());
        assert_eq!(source_options(&asked).unwrap(), SourceOptions::default());
        for lanes in [0, 129, 70_000] {
            let asked = api::MigrationOptions { lanes: Some(lanes), ..asked.clone() };
            assert!(source_options(&asked).unwrap_err().message().contains("1 to 128"));
        }
        let asked = api::MigrationOptions { throttle_limit_percent: Some(100), ..asked };
        assert!(source_options(&asked).is_err());
    }

    #[test]
    fn how_to_verify_is_what_was_asked() {
        for (asked, meant) in
            [(api::Verify::Full, Verify::Full), (api::Verify::Digest, Verify::Digest)]
        {
            let options = api::MigrationOptions { verify: asked.into(), ..Default::default() };
            let source = source_options(&options, &MigrationDeadlines::default()).unwrap();
            assert_eq!(source.verify, meant);
            assert_eq!(verify(meant), asked);
        }
        let share =
            |scrub_percent| scrub(&api::MigrationOptions { scrub_percent, ..Default::default() });
        assert_eq!(share(None).unwrap(), CoreShare::default());
        assert_eq!(share(Some(0)).unwrap(), CoreShare::NONE);
        assert_eq!(share(Some(100)).unwrap(), CoreShare::WHOLE);
        assert!(share(Some(101)).unwrap_err().message().contains("0 to 100 percent"));
    }
}
