//! What came about in a world. A suite of worlds is worth what it has seen: a test asks.

use std::collections::BTreeMap;

/// Something that has to come about in some world, or the worlds are too tame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// A batch landed before one that was sent earlier on another lane.
    Overtaken,
    /// A page was copied while the guest wrote it.
    TornCopy,
    /// A lane died in the middle of a page that it was landing.
    TornLanding,
    /// The guest put back what a page had held before.
    WroteBack,
    /// A lane died with batches under way.
    GaveBack,
    /// A session went on over a new connection.
    Resumed,
    /// The memories differed at the switchover.
    Differed,
    /// A lane found by its sums that what landed is not what was sent.
    Garbled,
    /// A paused guest ran on at the source.
    RanOn,
    /// A guest that was to run on had to wait for its locks.
    WaitedForLocks,
    /// A stale or repeated greeting was turned away.
    TurnedAway,
    /// A question was answered by the living process.
    AskedProcess,
    /// A question was answered from the record of a dead process.
    AskedRecord,
    /// A question found nobody to answer it.
    NotAnswered,
    /// A destination refused the guest, durably.
    Refused,
    /// A cancel came when it was too late.
    TooLate,
    /// A cancel came twice.
    CancelledAgain,
    /// A side that was stopped went on after a deadline of its peer.
    Thawed,
    /// A source ended in doubt.
    Doubted,
    /// A doubt was settled by an answer.
    Settled,
    /// A note was lost with its host.
    LostNote,
    /// A record was torn when its host died.
    TornRecord,
    /// A failed attempt was followed by another one to the same host.
    SameHostAgain,
    /// A failed attempt was followed by another one to a third host.
    ThirdHost,
    /// A destination of an attempt that was over still had something to do.
    Leftover,
    /// A round was told what it may leave to the next one.
    Left,
    /// The lanes took the last pages of a round while the harvest for the next one was made.
    HarvestedAhead,
    /// A harvest that was made ahead was too old to be used.
    HarvestedAgain,
    /// A lane had to wait because of a limit.
    Paced,
    /// The full verification found a page that the tracker had missed.
    Missed,
    /// The full verification found a page that was not what had landed any more.
    Turned,
    /// A guest ran on while it was verified.
    VerifiedInVain,
}

impl Seen {
    /// All of them.
    pub const ALL: [Self; 32] = [
        Self::Overtaken,
        Self::TornCopy,
        Self::TornLanding,
        Self::WroteBack,
        Self::GaveBack,
        Self::Resumed,
        Self::Differed,
        Self::Garbled,
        Self::RanOn,
        Self::WaitedForLocks,
        Self::TurnedAway,
        Self::AskedProcess,
        Self::AskedRecord,
        Self::NotAnswered,
        Self::Refused,
        Self::TooLate,
        Self::CancelledAgain,
        Self::Thawed,
        Self::Doubted,
        Self::Settled,
        Self::LostNote,
        Self::TornRecord,
        Self::SameHostAgain,
        Self::ThirdHost,
        Self::Leftover,
        Self::Left,
        Self::HarvestedAhead,
        Self::HarvestedAgain,
        Self::Paced,
        Self::Missed,
        Self::Turned,
        Self::VerifiedInVain,
    ];
}

/// How often each was seen.
pub type Sights = BTreeMap<Seen, u64>;
