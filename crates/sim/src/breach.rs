//! The laws of a world, and how it says that one was broken.

use std::fmt;

/// What must hold, whatever goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// The guest runs in one place only.
    OneRunner,
    /// Nobody runs the guest without owning it (law 7).
    Owning,
    /// Nobody runs the guest without its outside resources.
    Locks,
    /// At most one copy of a page is in flight (law 2).
    OneCopy,
    /// Digests tell the truth about both memories (law 4).
    TrueDigests,
    /// Where the guest runs on, its memory and state are its own.
    SameMemory,
    /// Nothing queues without a limit, and no limit is passed (law 5).
    Limits,
    /// Every wait has a deadline (law 6).
    Deadlines,
    /// A cancel before the grant ends the attempt at once (law 6).
    Cancel,
    /// Who keeps the rules is never blamed, and what was not garbled is never found different.
    Honesty,
    /// No connection of another session, epoch or time is let in.
    Strangers,
    /// A guest that was not granted away never stands still for long.
    StandStill,
    /// Once all is well again, everything comes to an end.
    Ends,
    /// In the end one side runs the guest, or none can, and both sides say the same.
    Agreement,
    /// A guest that stays is neither throttled nor tracked.
    CleanUp,
}

impl Law {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::OneRunner,
        Self::Owning,
        Self::Locks,
        Self::OneCopy,
        Self::TrueDigests,
        Self::SameMemory,
        Self::Limits,
        Self::Deadlines,
        Self::Cancel,
        Self::Honesty,
        Self::Strangers,
        Self::StandStill,
        Self::Ends,
        Self::Agreement,
        Self::CleanUp,
    ];
}

/// A law that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Which one.
    pub law: Law,
    /// What was seen.
    pub what: String,
}

impl Breach {
    pub(crate) fn new(law: Law, what: impl Into<String>) -> Self {
        Self { law, what: what.into() }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.what)
    }
}
