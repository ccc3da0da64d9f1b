//! The source's side of a migration, as a machine without I/O.
//!
//! ```text
//!  Greeting ─► Planning ─► Copying ─► Quiescing ─► Pausing ─► Flushing ─► Preparing ─► Granted
//!                           ▲   ▲                     ├─ Verifying ─┴───────┬─┘           │
//!              Relinking ◄──┘   └── the guest resumes: any trouble before ──┤             ▼
//!                               └────────────────────────── Repairing ◄─────┘           Ended
//! ```
//!
//! One struct a phase, consumed by its handler. A driver feeds [`SourceEvent`]s in, carries
//! [`SourceAction`]s out in order, and calls with [`SourceEvent::Tick`] at [`Source::deadline`].

mod connect;
mod copy;
mod core;
mod switch;

use ::core::time::Duration;
use alloc::collections::BTreeMap;
use alloc::string::String;

use bytes::Bytes;
use whimbrel_page::{ByteCount, ByteRate, Layout, PageCount, Root};

use self::core::Core;
use crate::{
    Answer, BatchSeq, Convergence, Failure, LaneId, LaneMark, LaneTicket, Message, Now, Outcome,
    Standing, Sums, Term, Throughput, Token, Verify, Violation,
};
use connect::{Greeting, Planning, Relinking};
use copy::{Copying, Quiescing, Repairing};
use switch::{Flushing, Granted, Pausing, Preparing, Verifying};

/// What the source wants, and how long it waits. Every wait of the machine is one of these.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceOptions {
    /// Lanes to open, 1..=128; the destination may allow fewer.
    pub lanes: u16,
    /// When to switch over, and what to do where that cannot be had.
    pub convergence: Convergence,
    /// What is compared before the grant.
    pub verify: Verify,
    /// For each answer of the greeting and the plan. Reserving memory is part of it.
    pub greeting_timeout: Duration,
    /// A control connection that is silent for so long is lost; pings keep it from being so.
    pub silence_timeout: Duration,
    /// Between two pings; the silence timeout should have several.
    pub ping_interval: Duration,
    /// How long a lost link may take to come back during pre-copy.
    pub resume_window: Duration,
    /// Between attempts to open a connection or a lane again.
    pub retry_delay: Duration,
    /// How long the guest may stand still before it is resumed and the attempt begun anew; twice
    /// the downtime limit where that is longer, and for the policy that switches over anyway twice
    /// the expected downtime.
    pub pause_budget: Duration,
    /// How often that may happen before the migration is given up.
    pub pauses_max: u32,
    /// How long the guest may take to be parked and to save its state. One that takes longer
    /// hangs: the attempt is over, and the guest runs on as soon as it answers.
    pub pause_timeout: Duration,
    /// How long the dirty tracker may take to be armed, and for each harvest.
    pub harvest_timeout: Duration,
    /// How long to ask for the answer to a grant before the source says that it is in doubt.
    pub doubt_timeout: Duration,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            lanes: 4,
            convergence: Convergence {
                downtime_max: Duration::from_millis(300),
                policy: crate::Policy::Throttle { most: 99 },
            },
            verify: Verify::Digest,
            greeting_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(1),
            resume_window: Duration::from_secs(30),
            retry_delay: Duration::from_millis(200),
            pause_budget: Duration::from_secs(2),
            pauses_max: 5,
            pause_timeout: Duration::from_secs(10),
            harvest_timeout: Duration::from_secs(60),
            doubt_timeout: Duration::from_secs(30),
        }
    }
}

/// The guest to be moved, as the plan says it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Its identity.
    pub guest: crate::GuestUuid,
    /// Its label.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// The version of its saved state.
    pub state_version: u32,
    /// Its regions.
    pub layout: Layout,
    /// How large its saved state is expected to be; 0 where nobody knows.
    pub state_size: ByteCount,
    /// The last term that was burned for it.
    pub term: Term,
    /// The host that burns the next ones.
    pub host: u64,
}

/// What a harvest has brought, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Harvest {
    /// Pages that are pending now.
    pub pending: PageCount,
    /// Pages that this harvest brought.
    pub written: PageCount,
    /// For how much of the time since it was asked for it was worked on.
    pub took: Duration,
    /// How long that of a parked guest would have taken, of which nothing has to be tracked on.
    pub parked: Duration,
    /// What the lanes have carried by then.
    pub throughput: Throughput,
}

/// What a source is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceEvent {
    /// The control connection is open.
    LinkUp,
    /// The control connection failed or could not be opened.
    LinkLost(String),
    /// The destination said something.
    Message(Message),
    /// A lane is open.
    LaneUp(LaneId),
    /// A lane failed on this side, or could not be opened; its worker has ended.
    LaneFailed(LaneId, String),
    /// The tracker is armed and everything that was ever touched is pending.
    Armed,
    /// The cursor has passed everything that was pending when the round began.
    RoundTaken,
    /// The dirty log was fetched and merged.
    Harvested(Harvest),
    /// What [`SourceAction::Rehearse`] asked for: nothing was cleared, so that what is written now
    /// will be harvested once more.
    Looked(Harvest),
    /// Nothing is in flight and no lane takes: what the [`SourceAction::Quiesce`] of this number
    /// asked for.
    Quiesced(u32),
    /// The guest is parked, the last harvest merged, and its state saved.
    Paused {
        /// Pages that are pending now.
        pending: PageCount,
        /// The saved state.
        state: Bytes,
    },
    /// A full verification would read so much of this host's memory, and take so long here.
    Rehearsed {
        /// The memory in use.
        memory: ByteCount,
        /// How long digesting it takes, by what a part of it took.
        takes: Duration,
    },
    /// All lanes together carry no more than so much from now on: while the guest runs, and while
    /// the last pages are sent.
    Limited {
        /// While the guest runs.
        rounds: Option<ByteRate>,
        /// While it stands still.
        last: Option<ByteRate>,
    },
    /// The paused memory was digested; what differs from what the destination holds is pending.
    Verified,
    /// Every pending page was sent.
    Flushed {
        /// The number of the [`SourceAction::Flush`] that this answers.
        flush: u32,
        /// What the destination's root is once all of it has landed.
        root: Root,
        /// The last batch of every living lane.
        sent: BTreeMap<LaneId, BatchSeq>,
    },
    /// A record is durable, or a note written.
    Recorded(Standing),
    /// Differing chunks were made pending again; `again` if one of them was so before.
    Spoiled {
        /// Pages that go again.
        pages: PageCount,
        /// Whether a page differed a second time.
        again: bool,
    },
    /// The other side's agent answered [`SourceAction::Ask`].
    Answered(Answer),
    /// Something this host had to do failed.
    Failed(Failure),
    /// Somebody wants the migration to end.
    Cancel(String),
    /// Time has passed.
    Tick,
}

/// What a source wants done. Actions are carried out in the order they are polled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceAction {
    /// Open the control connection.
    Connect,
    /// Say this to the destination.
    Send(Message),
    /// Close the control connection and every lane; they are not reported as failed.
    Hangup,
    /// Open this lane.
    OpenLane(LaneTicket),
    /// The lane is over: end its worker, count up to the mark as landed, give the rest back.
    CloseLane(LaneMark),
    /// Arm the tracker, then make everything that was ever touched pending.
    Arm,
    /// Let the lanes take what is pending, as the round of this number.
    StartRound(u32),
    /// Harvest and merge. A harvest that was made while the lanes took the last pages of the round
    /// that is over will do, unless that was a while ago.
    Harvest,
    /// Look, as the harvest of a parked guest does, and merge. The lanes are quiet.
    Rehearse,
    /// Stop the lanes from taking, and report with this number when nothing is in flight.
    Quiesce(u32),
    /// Park the guest, harvest for the last time, save the state.
    Pause,
    /// Digest the paused memory and make every page pending that is not what was sent.
    Verify,
    /// Let the lanes send everything pending, and report with this number.
    Flush(u32),
    /// Run the guest on, from where it stood.
    Resume,
    /// Slow the guest down to this many percent; 0 is full speed.
    Throttle(u8),
    /// Write this standing under this term: durable, or a note if it is one.
    Record(Standing, Term),
    /// Write this standing under this term as a note, whatever it is: one write that is not waited
    /// for, before the next action. Only a failure is told.
    Note(Standing, Term),
    /// Ask the other side's agent whether the guest runs there under this term.
    Ask(Term),
    /// Compare these sums with ours and make the chunks that differ pending.
    Compare(Sums),
    /// Tell people what happened.
    Say(String),
    /// Stop the lanes, disarm the tracker, take the throttle off; nothing follows.
    Finish(Outcome),
}

/// The source of one migration.
#[derive(Clone, Debug, Hash)]
pub struct Source {
    core: Core,
    phase: Phase,
}

#[derive(Clone, Debug, Hash)]
enum Phase {
    Greeting(Greeting),
    Planning(Planning),
    Copying(Copying),
    Relinking(Relinking),
    Quiescing(Quiescing),
    Pausing(Pausing),
    Verifying(Verifying),
    Flushing(Flushing),
    Preparing(Preparing),
    Repairing(Repairing),
    Granted(Granted),
    Ended,
}

impl Phase {
    const fn name(&self) -> &'static str {
        match self {
            Self::Greeting(_) => "greeting",
            Self::Planning(_) => "planning",
            Self::Copying(_) => "pre-copy",
            Self::Relinking(_) => "reconnecting",
            Self::Quiescing(_) => "quiescing",
            Self::Pausing(_) => "pausing",
            Self::Verifying(_) => "verifying",
            Self::Flushing(_) => "sending the last pages",
            Self::Preparing(_) => "switchover",
            Self::Repairing(_) => "repairing",
            Self::Granted(_) => "granted",
            Self::Ended => "ended",
        }
    }

    fn deadline(&self) -> Option<Now> {
        match self {
            Self::Greeting(phase) => Some(phase.deadline),
            Self::Planning(phase) => Some(phase.deadline),
            Self::Relinking(phase) => Some(phase.deadline()),
            Self::Quiescing(phase) => Some(phase.deadline),
            Self::Verifying(phase) => Some(phase.paused.deadline),
            Self::Flushing(phase) => Some(phase.paused.deadline),
            Self::Preparing(phase) => Some(phase.paused.deadline),
            Self::Granted(phase) => Some(phase.deadline()),
            Self::Repairing(phase) => Some(phase.deadline),
            Self::Copying(phase) => phase.deadline(),
            Self::Pausing(phase) => Some(phase.deadline),
            Self::Ended => None,
        }
    }

    fn handle(self, core: &mut Core, event: SourceEvent) -> Self {
        match self {
            Self::Greeting(phase) => phase.handle(core, event),
            Self::Planning(phase) => phase.handle(core, event),
            Self::Copying(phase) => phase.handle(core, event),
            Self::Relinking(phase) => phase.handle(core, event),
            Self::Quiescing(phase) => phase.handle(core, event),
            Self::Pausing(phase) => phase.handle(core, event),
            Self::Verifying(phase) => phase.handle(core, event),
            Self::Flushing(phase) => phase.handle(core, event),
            Self::Preparing(phase) => phase.handle(core, event),
            Self::Repairing(phase) => phase.handle(core, event),
            Self::Granted(phase) => phase.handle(core, event),
            Self::Ended => Self::Ended,
        }
    }
}

impl Source {
    /// A source that is about to connect, showing `token` when it does.
    #[must_use]
    pub fn new(now: Now, subject: Subject, token: Token, options: SourceOptions) -> Self {
        let mut core = Core::new(now, subject, token, options);
        let phase = Phase::Greeting(Greeting::start(&mut core));
        Self { core, phase }
    }

    /// Takes one event in. What follows from it is polled.
    ///
    /// # Errors
    /// A [`Violation`] names an event that the phase does not allow. The machine has then already
    /// decided what follows: before the grant it aborts, after it, it goes on asking.
    pub fn handle(&mut self, now: Now, event: SourceEvent) -> Result<(), Violation> {
        self.core.now = self.core.now.max(now);
        if self.ended() {
            return Ok(());
        }
        let phase = ::core::mem::replace(&mut self.phase, Phase::Ended);
        self.core.phase = phase.name();
        self.phase = match self.core.common(event, self.granted_in(&phase)) {
            Common::Phase(event) => phase.handle(&mut self.core, event),
            Common::Done => phase,
            Common::Abort(failure) => self.core.abort(failure),
        };
        self.core.violation.take().map_or(Ok(()), Err)
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<SourceAction> {
        self.core.actions.pop_front()
    }

    /// When [`SourceEvent::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        if self.ended() {
            return None;
        }
        self.phase.deadline().into_iter().chain(self.core.deadline()).min()
    }

    /// Until when a guest that stands still may do so: nothing holds it up for longer. What is done
    /// for its lanes is of no use to one that was granted.
    #[must_use]
    pub const fn paused_until(&self) -> Option<Now> {
        match &self.phase {
            Phase::Pausing(pausing) => Some(pausing.deadline),
            Phase::Verifying(verifying) => Some(verifying.paused.deadline),
            Phase::Flushing(flushing) => Some(flushing.paused.deadline),
            Phase::Preparing(preparing) => Some(preparing.paused.deadline),
            Phase::Granted(_) => Some(self.core.now),
            _ => None,
        }
    }

    /// Whether it is too late to cancel: the term is granted, or the end was reached.
    #[must_use]
    pub fn granted(&self) -> bool {
        self.granted_in(&self.phase) || self.ended()
    }

    /// Whether the outcome is decided.
    #[must_use]
    pub const fn ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// What is being done, as the field calls it.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        self.phase.name()
    }

    /// What is known about convergence.
    #[must_use]
    pub const fn forecast(&self) -> &crate::Forecast {
        &self.core.forecast
    }

    /// The downtime that was expected just before the last pause.
    #[must_use]
    pub const fn estimate(&self) -> Option<Duration> {
        self.core.estimate
    }

    /// The session, once the destination has named it.
    #[must_use]
    pub fn session(&self) -> Option<(crate::SessionId, crate::Epoch)> {
        self.core.session
    }

    /// Whether there is a control connection, as far as is known.
    #[must_use]
    pub const fn linked(&self) -> bool {
        self.core.link
    }

    /// Page bytes in one batch, at most (wire.md B9): what the destination has offered.
    #[must_use]
    pub fn batch_bytes_max(&self) -> ByteCount {
        ByteCount(self.core.batch_bytes_max.into())
    }

    /// The term that was burned last.
    #[must_use]
    pub const fn term(&self) -> Term {
        self.core.term
    }

    const fn granted_in(&self, phase: &Phase) -> bool {
        matches!(phase, Phase::Granted(_))
    }
}

/// What became of an event that means the same in every phase.
enum Common {
    /// It is for the phase.
    Phase(SourceEvent),
    /// It is done with.
    Done,
    /// The attempt ends.
    Abort(Failure),
}
