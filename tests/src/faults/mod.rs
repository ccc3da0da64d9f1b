//! What can go wrong while a guest moves between real processes, done at a named step.
//!
//! ```text
//!  agent ══ usher ══ agent          Scenario: at this step, this fault
//!    │                 │            run:      holds the step's message, does the fault, heals it
//!  process ══ way ══ process        judge:    nobody twice, no wrong page, one outcome, no remains
//! ```
//!
//! The [`way`] carries control connection and lanes between the two guest processes and knows the
//! messages that pass; the [`usher`] carries calls between the two agents. Neither is known to the
//! product: agents say where a guest process listens, and an usher says another place.

pub mod host;
pub mod judge;
pub mod run;
pub mod usher;
pub mod way;

use std::time::Duration;

use whimbrel_protocol::Message;

/// A moment of a migration: a message that was said and has not arrived, bytes on the lanes, or a
/// record of which nobody has heard yet. `Refused` is none of them: it is said only where a guest
/// cannot be run that was granted, which nothing from outside brings about; the simulator loses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Step {
    Hello,
    Offer,
    Plan,
    Accepted,
    /// Some pages of round 0 are on their way.
    FirstRound,
    /// More than the whole memory was sent.
    LaterRound,
    Announce,
    Ready,
    Prepare,
    /// The destination has digested its memory itself, where all of it is verified.
    Digested,
    Prepared,
    Grant,
    Running,
    Done,
    /// The source asks for the next epoch of the session.
    HelloAgain,
    Resumed,
    LaneLost,
    LaneClosed,
    /// The destination says that the memories differ.
    Differs,
    AskSums,
    Sums,
    /// The source gives the attempt up.
    Abort,
    /// The destination gives it up, and says so before it has promised anything.
    Rejected,
    /// The source has recorded that it may grant.
    Switching,
    /// The destination has recorded that it may be granted.
    Promised,
    /// The source has recorded that it grants.
    Granted,
    /// The destination has recorded that it runs the guest.
    Started,
}

impl Step {
    /// All that can be seen where what is said can be read.
    pub const ALL: [Self; 23] = [
        Self::Hello,
        Self::Offer,
        Self::Plan,
        Self::Accepted,
        Self::FirstRound,
        Self::LaterRound,
        Self::Announce,
        Self::Ready,
        Self::Prepare,
        Self::Digested,
        Self::Prepared,
        Self::Grant,
        Self::Running,
        Self::Done,
        Self::HelloAgain,
        Self::Resumed,
        Self::LaneLost,
        Self::LaneClosed,
        Self::Differs,
        Self::AskSums,
        Self::Sums,
        Self::Abort,
        Self::Rejected,
    ];

    /// Those that are in a record, whatever can be read.
    pub const RECORDED: [Self; 4] = [Self::Switching, Self::Promised, Self::Granted, Self::Started];

    /// Whose record says that the step has come, and in which of these words.
    #[must_use]
    pub const fn recorded(self) -> Option<(Side, &'static [&'static str])> {
        Some(match self {
            Self::Switching => (Side::Source, &["switching"]),
            Self::Promised => (Side::Destination, &["may own"]),
            Self::Granted => (Side::Source, &["granted"]),
            // It is noted first, and made durable at once.
            Self::Started => (Side::Destination, &["running", "owner"]),
            _ => return None,
        })
    }

    /// The step that a message is.
    #[must_use]
    pub const fn of(message: &Message) -> Option<Self> {
        Some(match message {
            Message::Hello(hello) if hello.resume.is_none() => Self::Hello,
            Message::Hello(_) => Self::HelloAgain,
            Message::Offer(_) => Self::Offer,
            Message::Plan(_) => Self::Plan,
            Message::Accepted(_) => Self::Accepted,
            Message::Announce(_) => Self::Announce,
            Message::Ready(_) => Self::Ready,
            Message::Prepare(_) => Self::Prepare,
            Message::Digested(..) => Self::Digested,
            Message::Prepared(..) => Self::Prepared,
            Message::Grant(_) => Self::Grant,
            Message::Running(_) => Self::Running,
            Message::Done(_) => Self::Done,
            Message::Resumed(_) => Self::Resumed,
            Message::LaneLost(_) => Self::LaneLost,
            Message::LaneClosed(_) => Self::LaneClosed,
            Message::Differs(..) => Self::Differs,
            Message::AskSums => Self::AskSums,
            Message::Sums(_) => Self::Sums,
            Message::Abort(_) => Self::Abort,
            Message::Rejected(_) => Self::Rejected,
            _ => return None,
        })
    }

    /// What has to be done so that the step comes at all.
    #[must_use]
    pub const fn prelude(self) -> Option<Prelude> {
        Some(match self {
            Self::HelloAgain | Self::Resumed => Prelude::Cut(way::Cut::Control),
            Self::LaneLost | Self::LaneClosed => Prelude::Cut(way::Cut::HalfALane),
            Self::Differs | Self::AskSums | Self::Sums => Prelude::AnotherRoot,
            Self::Abort => Prelude::Cancel(Side::Source),
            Self::Rejected => Prelude::Cancel(Side::Destination),
            _ => return None,
        })
    }

    /// Whether the guest's ownership is at stake.
    #[must_use]
    pub const fn is_switchover(self) -> bool {
        matches!(
            self,
            Self::Announce
                | Self::Ready
                | Self::Prepare
                | Self::Digested
                | Self::Prepared
                | Self::Grant
                | Self::Running
                | Self::Done
        )
    }
}

/// What makes a step come that is not on the ordinary way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prelude {
    /// Connections end in the first round.
    Cut(way::Cut),
    /// The first Prepare names a root that is not the source's, sealed as if it were: what landed
    /// is compared, and found to be the same.
    AnotherRoot,
    /// Somebody cancels at this side in the first round.
    Cancel(Side),
}

impl Prelude {
    /// Whether it is done when the first round is under way; else before anything is.
    #[must_use]
    pub const fn is_in_first_round(self) -> bool {
        matches!(self, Self::Cut(_) | Self::Cancel(_))
    }
}

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Side {
    Source,
    Destination,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The guest process is killed.
    KillGuest(Side),
    /// The agent is killed, and started again after a while.
    KillAgent(Side),
    /// The guest process stands still for a while.
    StopGuest(Side),
    /// The agent stands still for a while.
    StopAgent(Side),
    /// The disk is full under the journal for a while.
    FillDisk(Side),
    /// Connections end.
    Cut(way::Cut),
    /// Nothing gets through for a while, between agents neither, and nobody is told.
    Dark,
    /// One bit is wrong in the next control frame, or in the next bytes of a lane.
    Damage(way::Kind),
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::KillGuest(Side::Source),
        Self::KillGuest(Side::Destination),
        Self::KillAgent(Side::Source),
        Self::KillAgent(Side::Destination),
        Self::StopGuest(Side::Source),
        Self::StopGuest(Side::Destination),
        Self::StopAgent(Side::Source),
        Self::StopAgent(Side::Destination),
        Self::FillDisk(Side::Source),
        Self::FillDisk(Side::Destination),
        Self::Cut(way::Cut::OneLane),
        Self::Cut(way::Cut::Lanes),
        Self::Cut(way::Cut::Control),
        Self::Dark,
        Self::Damage(way::Kind::Control),
        Self::Damage(way::Kind::Lane),
    ];

    /// Whether nothing of this side lives, or can be asked, while it is wrong.
    #[must_use]
    pub fn silences(self, side: Side) -> bool {
        let agent = matches!(self, Self::KillAgent(of) | Self::StopAgent(of) if of == side);
        agent || self.silences_guest(side)
    }

    /// Whether this side's guest process does not live or go on while it is wrong.
    #[must_use]
    pub fn silences_guest(self, side: Side) -> bool {
        matches!(self, Self::KillGuest(of) | Self::StopGuest(of) if of == side)
    }

    /// Whether it needs a disk that can be filled.
    #[must_use]
    pub const fn fills(self) -> bool {
        matches!(self, Self::FillDisk(_))
    }
}

/// What becomes of the bytes that were held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They arrive after the fault.
    Delivered,
    /// They are lost, and their connection with them.
    Lost,
}

/// One run of the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// When it goes wrong.
    pub step: Step,
    /// What goes wrong.
    pub fault: Fault,
    /// What becomes of the message.
    pub fate: Fate,
    /// How long it is wrong, where it can be put right again.
    pub absence: Duration,
    /// Everything else that is left to chance.
    pub seed: u64,
}

/// Shorter than any deadline of a run.
pub const SHORT: Duration = Duration::from_millis(300);
/// Longer than all deadlines by which a side decides something by itself.
pub const LONG: Duration = Duration::from_secs(6);
/// What a slow machine is given beyond a deadline.
pub const SLACK: Duration = Duration::from_secs(8);

impl Scenario {
    /// The fault at the step in its plainest form.
    #[must_use]
    pub const fn plain(step: Step, fault: Fault) -> Self {
        let absence = match fault {
            Fault::KillAgent(_) | Fault::StopAgent(_) => SHORT,
            _ => LONG,
        };
        Self { step, fault, fate: Fate::Delivered, absence, seed: 1 }
    }

    /// Whether there is anything at the step that the fault could hit.
    #[must_use]
    pub const fn is_possible(step: Step, fault: Fault) -> bool {
        use Step::{Accepted, Digested, Done, Grant, Hello, HelloAgain, Offer, Plan, Prepare};
        use Step::{Prepared, Resumed, Running};
        match fault {
            // No lane was opened yet, or not again, or none is needed any more.
            Fault::Cut(way::Cut::OneLane | way::Cut::Lanes) => {
                !matches!(step, Hello | Offer | Plan | Accepted | HelloAgain | Resumed | Done)
            }
            // All was sent: what may still pass is a last acknowledgement.
            Fault::Damage(way::Kind::Lane) => {
                !matches!(step, Prepare | Digested | Prepared | Grant | Running | Done)
            }
            _ => true,
        }
    }

    /// Whether the memories themselves are compared.
    #[must_use]
    pub fn verifies_in_full(&self) -> bool {
        self.step == Step::Digested || self.seed.is_multiple_of(3)
    }

    /// Any scenario there is, by its seed.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut draw = Draws(seed);
        let (step, fault) = loop {
            let pair = (draw.of(&Step::ALL), draw.of(&Fault::ALL));
            if Self::is_possible(pair.0, pair.1) {
                break pair;
            }
        };
        let fate = draw.of(&[Fate::Delivered, Fate::Lost]);
        let absence = draw.of(&[SHORT, Duration::from_secs(2), LONG]);
        Self { step, fault, fate, absence, seed }
    }

    /// Every step with every fault that can hit something there.
    pub fn all() -> impl Iterator<Item = Self> {
        let pairs = Step::ALL.into_iter().flat_map(|step| Fault::ALL.map(|fault| (step, fault)));
        let possible = pairs.filter(|(step, fault)| Self::is_possible(*step, *fault));
        possible.map(|(step, fault)| Self::plain(step, fault))
    }
}

/// Random numbers of a seed.
#[derive(Clone, Debug)]
pub struct Draws(pub u64);

impl Draws {
    /// The next number (splitmix64).
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of these.
    ///
    /// # Panics
    /// If there are none.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.next() % choices.len() as u64) as usize]
    }
}
