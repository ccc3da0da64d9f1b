//! Laws that a world can be told to break, to show that the checks notice.

/// One law, broken by the hand that carries out what the machines want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The dirty log is read, and cleared only later (museum M8, law 1).
    ClearAfterReading,
    /// The first pass begins before the tracker is armed (museum M17).
    ArmAfterReading,
    /// Some writes never reach the dirty log (museum M15).
    UntrackedWriter,
    /// The pages of a failed lane go again before its other end is known to be closed (law 3).
    GiveBackEarly,
    /// What a lost lane had under way counts as landed (museum M14).
    SkipGiveBack,
    /// A batch is acknowledged when it arrives, before it has landed.
    AckBeforeLanding,
    /// A lane is reported as ended while its thread still lands (law 3).
    EndBeforeLanding,
    /// Zero pages are counted, and never written at the destination (museum M10).
    SkipZeroPages,
    /// The destination says that the roots agree without looking (law 4).
    SkipDigests,
    /// The source runs the guest on when the link is lost after the grant (museum M1, M3).
    ResumeAfterGrant,
    /// The destination runs the guest once it is loaded, before any grant.
    RunBeforeGrant,
    /// The note that the guest runs is not written before it does.
    RunWithoutNote,
    /// A refusal is said without being recorded.
    RefuseWithoutRecord,
    /// The throttle and the tracker stay on after a failed attempt (museum M27).
    LeaveThrottled,
}

impl Broken {
    /// Every law that can be broken.
    pub const ALL: [Self; 14] = [
        Self::ClearAfterReading,
        Self::ArmAfterReading,
        Self::UntrackedWriter,
        Self::GiveBackEarly,
        Self::SkipGiveBack,
        Self::AckBeforeLanding,
        Self::EndBeforeLanding,
        Self::SkipZeroPages,
        Self::SkipDigests,
        Self::ResumeAfterGrant,
        Self::RunBeforeGrant,
        Self::RunWithoutNote,
        Self::RefuseWithoutRecord,
        Self::LeaveThrottled,
    ];
}
