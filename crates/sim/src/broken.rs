//! Laws that a world can be told to break, to show that the checks notice.

use std::fmt;

use crate::breach::Law;

macro_rules! broken_laws {
    ($($(#[$doc:meta])* $name:ident: $($law:ident)|+,)*) => {
        /// One rule, broken by the hand that carries out what the machines want. Where the defect
        /// is in the museum of `docs/museum.md`, its number is named.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Broken {
            $($(#[$doc])* $name,)*
        }

        impl Broken {
            /// Every law that can be broken.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The laws of which one is the first to be broken by it.
            #[must_use]
            pub const fn laws(self) -> &'static [Law] {
                match self {
                    $(Self::$name => &[$(Law::$law),+],)*
                }
            }
        }
    };
}

broken_laws! {
    /// M1: the destination runs the guest once it is loaded, before any grant.
    RunBeforeGrant: Owning,
    /// M2: the source runs the guest on when the last word is late.
    UnwindWhenLate: OneRunner,
    /// M3: the source runs the guest on when the link is lost after the grant.
    ResumeAfterGrant: OneRunner | Owning,
    /// M4: the source runs the guest on without the locks that it let go of.
    RunWithoutLocks: Locks,
    /// M5: after a failed switchover nobody runs the guest on.
    StayPaused: Agreement | StandStill,
    /// M7: a page counts as landed when it is sent, so the next copy may overtake it.
    LandedWhenSent: TrueDigests,
    /// M8: the dirty log is read, and cleared only later (law 1).
    ClearAfterReading: SameMemory,
    /// M9: batches of zeros alone are never sent.
    DropZeroBatches: TrueDigests,
    /// M10: zero pages are counted, and never written at the destination.
    SkipZeroPages: TrueDigests,
    /// M12: now and then two batches of a lane have the same number.
    NumberTwice: Honesty,
    /// M13: the destination goes by the order to prepare, not by what has landed.
    LandedUncounted: Honesty,
    /// M14: what a lost lane had under way counts as landed.
    SkipGiveBack: TrueDigests,
    /// M14: a second attempt sends only what is newly dirty.
    ResendDirtyOnly: SameMemory,
    /// M15: some writes never reach the dirty log.
    UntrackedWriter: SameMemory,
    /// M16: what is digested is the live page, not the copy that is sent.
    DigestLivePage: Honesty,
    /// M17: the first pass begins before the tracker is armed.
    ArmAfterReading: SameMemory,
    /// M18: a lane that fails tells nobody.
    FailSilently: Ends,
    /// M19: a cancel waits for a while.
    CancelLater: Cancel,
    /// M20: a failed attempt is reported as completed.
    ReportSuccess: Agreement,
    /// M21: nobody at the source looks at the clock.
    NoClock: Ends | StandStill,
    /// M25: neither side asks again about a grant.
    NeverAskAgain: Ends,
    /// M26: a lane is let in whatever session and ticket it names.
    TakeStrangers: TrueDigests,
    /// M27: the throttle and the tracker stay on after a failed attempt.
    LeaveThrottled: CleanUp,
    /// The pages of a failed lane go again before its other end is known to be closed (law 3).
    GiveBackEarly: OneCopy,
    /// A batch is acknowledged when it arrives, before it has landed.
    AckBeforeLanding: TrueDigests,
    /// A lane is reported as ended while its thread still lands (law 3).
    EndBeforeLanding: OneCopy,
    /// The destination says that the roots agree without looking (law 4).
    SkipDigests: SameMemory,
    /// A page that is being written in place keeps its digest (law 4).
    KnowTornPages: TrueDigests,
    /// The note that the guest runs is not written before it does.
    RunWithoutNote: Owning,
    /// A refusal is said without being recorded.
    RefuseWithoutRecord: Owning,
    /// The journal has one slot, which a write tears.
    OneSlot: Owning,
    /// Lanes do not wait for acknowledgements (law 5).
    IgnoreWindow: Limits,
    /// Lanes carry what they have, whatever their limit.
    IgnoreRate: Limits,
    /// A batch has a page more than was agreed on.
    LongBatches: Limits,
    /// For each lane another one is opened.
    OpenMoreLanes: Limits,
    /// A switchover that does not come through is begun again for ever.
    PauseForEver: Limits,
    /// Nobody at the source looks at the clock while the guest is paused: where nothing else is due
    /// then, nothing ends.
    IgnorePauseBudget: StandStill | Ends,
    /// A wait whose deadline is so far off that it is none.
    WaitForHours: Deadlines,
    /// M26: the door forgets which lane it has just let in.
    ForgetLanes: Strangers,
    /// The source's full verification says that it is done and has looked at nothing.
    SkipVerify: SameMemory,
    /// The destination says what it knows of its memory, not what is in it.
    SkipVerifyThere: SameMemory,
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
