//! The destination's side of a migration, as a machine without I/O.
//!
//! ```text
//!  Greeting ─► Planning ─► Reserving ─► Receiving ⇄ Preparing ─► Prepared ─► Starting ─► Running
//!                                           │          │            │           │           │
//!                                           └──────────┴────────────┴─► Refusing ─► Ended ◄─┘
//! ```
//!
//! One struct a phase, consumed by its handler. Whoever may own the guest leaves only by running
//! it, or by recording durably that it never ran and never will (`Refusing`).

mod core;
mod own;
mod receive;

use ::core::time::Duration;
use alloc::vec::Vec;

use bytes::Bytes;
use whimbrel_page::{ByteCount, Root};

use self::core::Core;
use crate::batch::{LaneHello, LaneRefusal};
use crate::{
    Answer, BatchSeq, Epoch, Failure, Feature, Hello, LaneId, LaneMark, Message, Now, Outcome,
    Plan, SessionId, Standing, Term, Token, Violation,
};
use own::{Prepared, Preparing, Refusing, Running, Starting};
use receive::{Greeting, Planning, Receiving, Reserving};

/// What the destination offers, and how long it waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DestinationOptions {
    /// The name of the session; random.
    pub session: SessionId,
    /// What the source must show to begin.
    pub token: Token,
    /// What it must show to go on after a lost link.
    pub resume_token: Token,
    /// One secret a lane; as many lanes can be opened over the life of the session.
    pub lane_tokens: Vec<Token>,
    /// Features offered.
    pub features: Vec<Feature>,
    /// Lanes at a time, 1..=128.
    pub lanes_max: u16,
    /// Payload bytes of a batch.
    pub batch_bytes_max: u32,
    /// For the source's first word, and for its plan.
    pub greeting_timeout: Duration,
    /// A control connection that is silent for so long is lost.
    pub silence_timeout: Duration,
    /// How long a lost link may take to come back.
    pub resume_window: Duration,
    /// For each step of this host: reserving memory, making the guest and recording that it may
    /// own it, loading the state, running the guest. What takes longer hangs.
    pub step_timeout: Duration,
    /// How long to wait, prepared, for a grant that does not come; then the guest is refused.
    pub doubt_timeout: Duration,
}

/// What a destination is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationEvent {
    /// The source said something on the connection whose `Hello` was taken last.
    Message(Message),
    /// That connection is gone.
    LinkLost(alloc::string::String),
    /// A lane's thread has ended and its socket was closed unread.
    LaneEnded(LaneMark),
    /// The memory for the plan is there and empty.
    Reserved,
    /// The parked guest was made over the memory.
    Created,
    /// Everything that [`DestinationAction::AwaitCounts`] named has landed.
    Landed(Term, Root),
    /// The memory itself was digested; this is its root.
    Verified(Term, Root),
    /// So many bytes of memory were digested in so long, at a rehearsal or for real.
    Digested(ByteCount, Duration),
    /// The guest has taken its state, and all that can fail is done.
    Loaded(Term),
    /// The guest runs.
    Ran(Term),
    /// A record is durable (or, for a note, written).
    Recorded(Standing),
    /// The source's agent answered [`DestinationAction::Ask`].
    Answered(Term, Answer),
    /// The source's agent asked whether the guest runs here under this term: the grant once more.
    Asked(Term),
    /// Something this host had to do failed.
    Failed(Failure),
    /// Somebody here wants the migration to end.
    Cancel(alloc::string::String),
    /// Time has passed.
    Tick,
}

/// What a destination wants done, in the order polled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationAction {
    /// Say this to the source.
    Send(Message),
    /// Close the control connection; it is not reported as lost.
    Hangup,
    /// Reserve memory for the plan, and see whether such a guest can live here.
    Reserve(Plan),
    /// End this lane's thread and close its socket; report [`DestinationEvent::LaneEnded`].
    CloseLane(LaneId),
    /// Make the parked guest.
    Create,
    /// Report [`DestinationEvent::Landed`] once each lane has landed this batch.
    AwaitCounts(Term, Vec<(LaneId, BatchSeq)>),
    /// Digest the memory itself, and put right what is known of each page.
    Verify(Term),
    /// Give the parked guest its state and its outside resources.
    Load(Term, Bytes),
    /// The attempt was given up: let go of the outside resources that were taken, if they were.
    Release,
    /// Run the guest.
    Run(Term),
    /// Send the sums of all chunks that are not zero.
    SendSums,
    /// Write this standing under this term: durable, or a note if it is one.
    Record(Standing, Term),
    /// Ask the source's agent whether the guest may run here under this term.
    Ask(Term),
    /// Tell people what happened.
    Say(alloc::string::String),
    /// Nothing follows. Unless completed, the guest and its memory are dropped.
    Finish(Outcome),
}

/// The destination of one migration.
#[derive(Clone, Debug, Hash)]
pub struct Destination {
    core: Core,
    phase: Phase,
}

#[derive(Clone, Debug, Hash)]
enum Phase {
    Greeting(Greeting),
    Planning(Planning),
    Reserving(Reserving),
    Receiving(Receiving),
    Preparing(Preparing),
    Prepared(Prepared),
    Starting(Starting),
    Running(Running),
    Refusing(Refusing),
    Ended,
}

impl Phase {
    const fn name(&self) -> &'static str {
        match self {
            Self::Greeting(_) => "waiting for the source",
            Self::Planning(_) => "planning",
            Self::Reserving(_) => "reserving memory",
            Self::Receiving(_) => "pre-copy",
            Self::Preparing(_) => "preparing",
            Self::Prepared(_) => "prepared",
            Self::Starting(_) => "starting",
            Self::Running(_) => "running",
            Self::Refusing(_) => "refusing",
            Self::Ended => "ended",
        }
    }

    fn deadline(&self) -> Option<Now> {
        match self {
            Self::Greeting(phase) => Some(phase.deadline),
            Self::Planning(phase) => Some(phase.deadline),
            Self::Prepared(phase) => Some(phase.deadline()),
            Self::Running(phase) => Some(phase.deadline),
            Self::Refusing(phase) => Some(phase.deadline),
            Self::Reserving(phase) => Some(phase.deadline),
            Self::Receiving(phase) => phase.deadline(),
            Self::Preparing(phase) => Some(phase.deadline),
            Self::Starting(phase) => Some(phase.deadline),
            Self::Ended => None,
        }
    }

    fn handle(self, core: &mut Core, event: DestinationEvent) -> Self {
        match self {
            Self::Greeting(phase) => phase.handle(core, event),
            Self::Planning(phase) => phase.handle(core, event),
            Self::Reserving(phase) => phase.handle(core, event),
            Self::Receiving(phase) => phase.handle(core, event),
            Self::Preparing(phase) => phase.handle(core, event),
            Self::Prepared(phase) => phase.handle(core, event),
            Self::Starting(phase) => phase.handle(core, event),
            Self::Running(phase) => phase.handle(core, event),
            Self::Refusing(phase) => phase.handle(core, event),
            Self::Ended => Self::Ended,
        }
    }

    /// Whether only a grant, an abort or a durable refusal may end this phase.
    const fn may_run(&self) -> bool {
        matches!(self, Self::Prepared(_) | Self::Starting(_) | Self::Running(_) | Self::Refusing(_))
    }
}

impl Destination {
    /// A destination that waits for its source.
    #[must_use]
    pub fn new(now: Now, options: DestinationOptions) -> Self {
        let core = Core::new(now, options);
        let phase = Phase::Greeting(Greeting { deadline: core.after_greeting() });
        Self { core, phase }
    }

    /// Somebody connected and said `hello`. On `Ok` that connection is the session's from now on,
    /// and an older one is to be dropped without a word; on `Err` tell them why, and close it.
    ///
    /// # Errors
    /// A sentence for the peer. Nothing has changed here.
    pub fn greet(&mut self, now: Now, hello: &Hello) -> Result<(), Failure> {
        self.core.now = self.core.now.max(now);
        let begun = !matches!(self.phase, Phase::Greeting(_));
        match hello.resume {
            None if self.ended() => Err(self.core.no_session()),
            None if begun => Err(self.core.taken()),
            None => {
                self.core.begin(hello)?;
                self.phase = Phase::Planning(Planning { deadline: self.core.after_greeting() });
                Ok(())
            }
            // wire.md S1: who has not been told Accepted has no token to come back with.
            Some(_) if !self.accepted() || self.ended() => Err(self.core.no_session()),
            Some((session, epoch)) => {
                self.core.resume(hello.token, session, epoch)?;
                // Nothing was promised yet, and a source that lost its link does not wait for it.
                if let Phase::Preparing(phase) = &self.phase {
                    let back = Receiving::back(phase.term());
                    self.core.act(DestinationAction::Release);
                    self.phase = Phase::Receiving(back);
                }
                Ok(())
            }
        }
    }

    /// Somebody opened a bulk connection. On `Ok` the lane may land pages; its ticket is used up.
    ///
    /// # Errors
    /// Why this lane is not of this session; nothing has changed here.
    pub fn admit(&mut self, lane: &LaneHello) -> Result<(), LaneRefusal> {
        match &self.phase {
            Phase::Receiving(_) | Phase::Preparing(_) => self.core.admit(lane),
            // A source that has granted opens no lanes: this one has given the attempt up.
            Phase::Prepared(phase) if lane.epoch > phase.epoch() => {
                let back = Receiving::back(phase.term());
                self.core.admit(lane)?;
                self.core.promised = false;
                self.core.act(DestinationAction::Release);
                self.phase = Phase::Receiving(back);
                Ok(())
            }
            _ => Err(LaneRefusal::Session),
        }
    }

    /// Takes one event in. What follows from it is polled.
    ///
    /// # Errors
    /// A [`Violation`] names an event that the phase does not allow; what follows is decided.
    pub fn handle(&mut self, now: Now, event: DestinationEvent) -> Result<(), Violation> {
        self.core.now = self.core.now.max(now);
        if self.ended() {
            return Ok(());
        }
        let phase = ::core::mem::replace(&mut self.phase, Phase::Ended);
        self.core.phase = phase.name();
        self.phase = match self.core.common(event, phase.may_run()) {
            Common::Phase(event) => phase.handle(&mut self.core, event),
            Common::Done => phase,
            Common::Abort(failure) => self.core.abort(failure),
        };
        self.core.violation.take().map_or(Ok(()), Err)
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<DestinationAction> {
        self.core.actions.pop_front()
    }

    /// When [`DestinationEvent::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Now> {
        if self.ended() {
            return None;
        }
        let shared = self.core.deadline(self.phase.may_run());
        self.phase.deadline().into_iter().chain(shared).min()
    }

    /// Whether it is too late to cancel here: the source may have granted.
    #[must_use]
    pub const fn may_run(&self) -> bool {
        self.phase.may_run()
    }

    /// Whether the guest runs here.
    #[must_use]
    pub const fn runs(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    /// Whether there is a control connection, as far as is known.
    #[must_use]
    pub const fn linked(&self) -> bool {
        self.core.linked()
    }

    /// Whether the outcome is decided.
    #[must_use]
    pub const fn ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Whether the plan was accepted.
    const fn accepted(&self) -> bool {
        !matches!(self.phase, Phase::Greeting(_) | Phase::Planning(_) | Phase::Reserving(_))
    }

    /// What is being done, as the field calls it.
    #[must_use]
    pub const fn phase(&self) -> &'static str {
        self.phase.name()
    }

    /// The session and its epoch.
    #[must_use]
    pub const fn session(&self) -> (SessionId, Epoch) {
        (self.core.options.session, self.core.epoch)
    }
}

/// What became of an event that means the same in every phase.
enum Common {
    /// It is for the phase.
    Phase(DestinationEvent),
    /// It is done with.
    Done,
    /// The attempt ends.
    Abort(Failure),
}
