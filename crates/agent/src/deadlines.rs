//! How long an agent waits, and how long a migration that it takes part in does.

use std::time::Duration;

use whimbrel_engine::protocol::SourceOptions;
use whimbrel_engine::{IncomingOptions, LaneOptions, OutgoingOptions};

use crate::convert::micros;
use crate::process_api as process;

/// How long an agent waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For a guest process to come up.
    pub process_start: Duration,
    /// For a guest process to answer.
    pub process_call: Duration,
    /// For a guest process to end after it was told to; then it is killed.
    pub process_stop: Duration,
    /// For a guest to check its whole memory.
    pub check: Duration,
    /// For another agent to be reached.
    pub peer_connect: Duration,
    /// For another agent to answer; it starts a process for some answers.
    pub peer_call: Duration,
    /// For the destination's half of a report, and for both sides to be done with a cancelled move.
    pub collect: Duration,
    /// Between questions about a guest in doubt: at first, and doubling from there.
    pub ask_pause: Duration,
    /// Between questions about a guest in doubt: at most.
    pub ask_pause_max: Duration,
    /// How long a destination is asked for a guest whose process has died here, before it is told
    /// that the guest will not come. By then it has noticed that the link is lost, so that it
    /// runs the guest or never can.
    pub abandon: Duration,
    /// How long an outcome in doubt is held back while it may still be settled.
    pub settle: Duration,
    /// For whoever connects to prove who they are.
    pub handshake: Duration,
    /// How far another host's clock may be from this one's, where a ticket says when it is good.
    pub clock_skew: Duration,
    /// How long a ticket may be good.
    pub ticket: Duration,
    /// How long clients are kept whose guest is not found anywhere.
    pub relay: Duration,
    /// What its guest processes are told when they send or receive a guest.
    pub migration: MigrationDeadlines,
}

/// How long the two guest processes of a migration wait for each other. Each side has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationDeadlines {
    /// For each answer until the plan is agreed on. Reserving memory is part of it.
    pub greeting: Duration,
    /// A control connection that is silent for so long is lost.
    pub silence: Duration,
    /// Between two signs of life on it; zero is a fifth of that.
    pub beat: Duration,
    /// How long a lost link may take to come back during pre-copy.
    pub resume: Duration,
    /// Between attempts to open a connection or a lane again.
    pub retry: Duration,
    /// How long the guest may stand still before it runs on at the source.
    pub pause: Duration,
    /// For the guest to be parked and to save its state; one that takes longer hangs.
    pub park: Duration,
    /// For the dirty tracker to be armed, and for each harvest.
    pub harvest: Duration,
    /// For each step of the destination: reserving memory, making the guest, loading its state,
    /// running it.
    pub step: Duration,
    /// For guest and lanes to end what they are doing when the outcome is decided.
    pub give_back: Duration,
    /// For the answer to a grant, and for a grant that does not come.
    pub doubt: Duration,
    /// For the guest's outside resources to be had again.
    pub reacquire: Duration,
    /// For a lane to be opened.
    pub lane_open: Duration,
    /// A lane whose peer takes or gives nothing for so long has failed.
    pub lane_stall: Duration,
    /// For the other side's agent to say who owns the guest.
    pub ask: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            process_start: secs(10),
            process_call: secs(5),
            process_stop: secs(10),
            check: secs(600),
            peer_connect: secs(5),
            peer_call: secs(20),
            collect: secs(10),
            ask_pause: Duration::from_millis(500),
            ask_pause_max: secs(30),
            abandon: secs(8),
            settle: secs(15),
            handshake: secs(5),
            clock_skew: secs(30),
            ticket: secs(3600),
            relay: secs(60),
            migration: MigrationDeadlines::default(),
        }
    }
}

impl Default for MigrationDeadlines {
    fn default() -> Self {
        let (source, outgoing) = (SourceOptions::default(), OutgoingOptions::default());
        let incoming = IncomingOptions::default();
        Self {
            greeting: source.greeting_timeout,
            silence: source.silence_timeout,
            beat: Duration::ZERO,
            resume: source.resume_window,
            retry: source.retry_delay,
            pause: source.pause_budget,
            park: source.pause_timeout,
            harvest: source.harvest_timeout,
            step: incoming.step_timeout,
            give_back: outgoing.return_timeout,
            doubt: source.doubt_timeout,
            reacquire: outgoing.reacquire_timeout,
            lane_open: outgoing.lanes.open_timeout,
            lane_stall: outgoing.lanes.stall_timeout,
            ask: Duration::from_secs(5),
        }
    }
}

type Field = fn(&mut Deadlines) -> &mut Duration;

/// Each one by the name that people give it.
const NAMES: [(&str, Field); 29] = [
    ("process-start", |all| &mut all.process_start),
    ("process-call", |all| &mut all.process_call),
    ("process-stop", |all| &mut all.process_stop),
    ("check", |all| &mut all.check),
    ("peer-connect", |all| &mut all.peer_connect),
    ("peer-call", |all| &mut all.peer_call),
    ("collect", |all| &mut all.collect),
    ("ask-pause", |all| &mut all.ask_pause),
    ("ask-pause-max", |all| &mut all.ask_pause_max),
    ("abandon", |all| &mut all.abandon),
    ("settle", |all| &mut all.settle),
    ("handshake", |all| &mut all.handshake),
    ("clock-skew", |all| &mut all.clock_skew),
    ("ticket", |all| &mut all.ticket),
    ("relay", |all| &mut all.relay),
    ("greeting", |all| &mut all.migration.greeting),
    ("silence", |all| &mut all.migration.silence),
    ("resume", |all| &mut all.migration.resume),
    ("retry", |all| &mut all.migration.retry),
    ("pause", |all| &mut all.migration.pause),
    ("park", |all| &mut all.migration.park),
    ("harvest", |all| &mut all.migration.harvest),
    ("step", |all| &mut all.migration.step),
    ("give-back", |all| &mut all.migration.give_back),
    ("doubt", |all| &mut all.migration.doubt),
    ("reacquire", |all| &mut all.migration.reacquire),
    ("lane-open", |all| &mut all.migration.lane_open),
    ("lane-stall", |all| &mut all.migration.lane_stall),
    ("ask", |all| &mut all.migration.ask),
];

impl Deadlines {
    /// The deadline of this name, to be read or set.
    pub fn named(&mut self, name: &str) -> Option<&mut Duration> {
        let (_, field) = NAMES.iter().find(|(known, _)| *known == name)?;
        Some(field(self))
    }

    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }
}

impl MigrationDeadlines {
    /// Puts them where the source's side looks for them.
    pub(crate) fn set_source(&self, options: &mut SourceOptions) {
        options.greeting_timeout = self.greeting;
        options.silence_timeout = self.silence;
        options.ping_interval = self.beat();
        options.resume_window = self.resume;
        options.retry_delay = self.retry;
        options.pause_budget = self.pause;
        options.pause_timeout = self.park;
        options.harvest_timeout = self.harvest;
        options.doubt_timeout = self.doubt;
    }

    /// Puts them where the destination's side looks for them.
    pub(crate) fn set_incoming(&self, options: &mut IncomingOptions) {
        options.greeting_timeout = self.greeting;
        options.silence_timeout = self.silence;
        options.resume_window = self.resume;
        options.step_timeout = self.step;
        options.return_timeout = self.give_back;
        options.doubt_timeout = self.doubt;
        self.set_lanes(&mut options.lanes);
    }

    /// Between two signs of life.
    pub(crate) fn beat(&self) -> Duration {
        if self.beat.is_zero() { self.silence / 5 } else { self.beat }
    }

    /// Puts them where lanes look for them. What the system notices by itself is noticed within
    /// the same time.
    pub(crate) fn set_lanes(&self, options: &mut LaneOptions) {
        let beat = self.beat().max(Duration::from_millis(1));
        let beats = self.silence.as_millis() / beat.as_millis();
        options.tuning.keepalive_after = beat;
        options.tuning.keepalive_every = beat;
        options.tuning.keepalive_probes = u32::try_from(beats).unwrap_or(u32::MAX).clamp(1, 100);
        options.tuning.unacknowledged_max = self.silence.max(self.lane_stall);
        options.open_timeout = self.lane_open;
        options.stall_timeout = self.lane_stall;
    }
}

impl From<MigrationDeadlines> for process::MigrationDeadlines {
    fn from(deadlines: MigrationDeadlines) -> Self {
        Self {
            greeting_us: micros(deadlines.greeting),
            silence_us: micros(deadlines.silence),
            beat_us: micros(deadlines.beat),
            resume_us: micros(deadlines.resume),
            retry_us: micros(deadlines.retry),
            pause_us: micros(deadlines.pause),
            park_us: micros(deadlines.park),
            harvest_us: micros(deadlines.harvest),
            step_us: micros(deadlines.step),
            give_back_us: micros(deadlines.give_back),
            doubt_us: micros(deadlines.doubt),
            reacquire_us: micros(deadlines.reacquire),
            lane_open_us: micros(deadlines.lane_open),
            lane_stall_us: micros(deadlines.lane_stall),
            ask_us: micros(deadlines.ask),
        }
    }
}

impl From<Option<process::MigrationDeadlines>> for MigrationDeadlines {
    /// What an agent of another release does not say is as by default.
    fn from(said: Option<process::MigrationDeadlines>) -> Self {
        let (said, default) = (said.unwrap_or_default(), Self::default());
        let or = |micros, default| match micros {
            0 => default,
            micros => Duration::from_micros(micros),
        };
        Self {
            greeting: or(said.greeting_us, default.greeting),
            silence: or(said.silence_us, default.silence),
            beat: or(said.beat_us, default.beat),
            resume: or(said.resume_us, default.resume),
            retry: or(said.retry_us, default.retry),
            pause: or(said.pause_us, default.pause),
            park: or(said.park_us, default.park),
            harvest: or(said.harvest_us, default.harvest),
            step: or(said.step_us, default.step),
            give_back: or(said.give_back_us, default.give_back),
            doubt: or(said.doubt_us, default.doubt),
            reacquire: or(said.reacquire_us, default.reacquire),
            lane_open: or(said.lane_open_us, default.lane_open),
            lane_stall: or(said.lane_stall_us, default.lane_stall),
            ask: or(said.ask_us, default.ask),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_a_deadline_of_its_own_that_a_guest_process_hears_of() {
        let mut all = Deadlines::default();
        for (number, name) in (1..).zip(Deadlines::names()) {
            *all.named(name).unwrap() = Duration::from_secs(number);
        }
        for (number, name) in (1..).zip(Deadlines::names()) {
            assert_eq!(*all.named(name).unwrap(), Duration::from_secs(number), "{name}");
        }
        assert_eq!(all.named("Silence"), None);
        let told = process::MigrationDeadlines::from(all.migration);
        assert_eq!(MigrationDeadlines::from(Some(told)), all.migration);
    }

    #[test]
    fn what_is_not_said_is_as_by_default() {
        assert_eq!(MigrationDeadlines::from(None), MigrationDeadlines::default());
        let said = process::MigrationDeadlines { doubt_us: 7, ..Default::default() };
        let doubt = Duration::from_micros(7);
        let expected = MigrationDeadlines { doubt, ..Default::default() };
        assert_eq!(MigrationDeadlines::from(Some(said)), expected);
    }
}
