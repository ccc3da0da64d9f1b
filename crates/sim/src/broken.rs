//! Laws that a world can be told to break, to show that the checks notice.

use std::fmt;

macro_rules! broken_laws {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One law, broken by the hand that carries out what the machines want. Where the defect
        /// is in the museum of `docs/museum.md`, its number is named.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Broken {
            $($(#[$doc])* $name,)*
        }

        impl Broken {
            /// Every law that can be broken.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

broken_laws! {
    /// M1: the destination runs the guest once it is loaded, before any grant.
    RunBeforeGrant,
    /// M2: the source runs the guest on when the last word is late.
    UnwindWhenLate,
    /// M3: the source runs the guest on when the link is lost after the grant.
    ResumeAfterGrant,
    /// M4: the source runs the guest on without the locks that it let go of.
    RunWithoutLocks,
    /// M5: after a failed switchover nobody runs the guest on.
    StayPaused,
    /// M7: a page counts as landed when it is sent, so the next copy may overtake it.
    LandedWhenSent,
    /// M8: the dirty log is read, and cleared only later (law 1).
    ClearAfterReading,
    /// M9: batches of zeros alone are never sent.
    DropZeroBatches,
    /// M10: zero pages are counted, and never written at the destination.
    SkipZeroPages,
    /// M12: now and then two batches of a lane have the same number.
    NumberTwice,
    /// M13: the destination goes by the order to prepare, not by what has landed.
    LandedUncounted,
    /// M14: what a lost lane had under way counts as landed.
    SkipGiveBack,
    /// M14: a second attempt sends only what is newly dirty.
    ResendDirtyOnly,
    /// M15: some writes never reach the dirty log.
    UntrackedWriter,
    /// M16: what is digested is the live page, not the copy that is sent.
    DigestLivePage,
    /// M17: the first pass begins before the tracker is armed.
    ArmAfterReading,
    /// M18: a lane that fails tells nobody.
    FailSilently,
    /// M19: a cancel waits for a while.
    CancelLater,
    /// M20: a failed attempt is reported as completed.
    ReportSuccess,
    /// M21: nobody at the source looks at the clock.
    NoClock,
    /// M25: neither side asks again about a grant.
    NeverAskAgain,
    /// M26: a lane is let in whatever session and ticket it names.
    TakeStrangers,
    /// M27: the throttle and the tracker stay on after a failed attempt.
    LeaveThrottled,
    /// The pages of a failed lane go again before its other end is known to be closed (law 3).
    GiveBackEarly,
    /// A batch is acknowledged when it arrives, before it has landed.
    AckBeforeLanding,
    /// A lane is reported as ended while its thread still lands (law 3).
    EndBeforeLanding,
    /// The destination says that the roots agree without looking (law 4).
    SkipDigests,
    /// A page that is being written in place keeps its digest (law 4).
    KnowTornPages,
    /// The note that the guest runs is not written before it does.
    RunWithoutNote,
    /// A refusal is said without being recorded.
    RefuseWithoutRecord,
    /// The journal has one slot, which a write tears.
    OneSlot,
    /// Lanes do not wait for acknowledgements (law 5).
    IgnoreWindow,
}

impl Broken {
    /// The law of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|broken| broken.to_string() == name)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
