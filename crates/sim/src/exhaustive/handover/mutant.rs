//! What these worlds must find out.

/// What others do, or a hand that keeps one rule less: each must be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// The destination runs the guest and then says so, and until it has said so the source takes
    /// the guest for its own (museum M1).
    RunThenAcknowledge,
    /// The source unwinds when the link is lost after the grant and it has not heard that the guest
    /// runs there (museum M2, M1's return path).
    UnwindAfterGrant,
    /// The source runs the guest on when something fails here after the guest has moved (M3).
    ResumeAfterMove,
    /// The note that the guest runs is not written before it does.
    RunWithoutNote,
    /// A refusal is said without being recorded.
    RefuseWithoutRecord,
    /// An agent answers without recording first what it promises.
    AnswerWithoutRecord,
    /// Whose process died before it granted anything stays in doubt where nobody knows of it (O9).
    WaitAfterUnknown,
    /// Whose process died before it granted anything takes the guest for dead without asking.
    OwnAtOnce,
    /// The destination says that the roots agree without looking.
    SkipDigests,
    /// The source says that its memory is verified and has looked at nothing (wire.md V2).
    SkipVerifyHere,
    /// The destination says what it knows of its memory, not what is in it (V3).
    SkipVerifyThere,
    /// Where the memories differ, nothing is found that has to go again.
    RepairNothing,
}

impl Mutant {
    /// Whether it has records that may speak for it; the others are judged by who runs.
    pub(crate) const fn keeps_records(self) -> bool {
        !matches!(self, Self::RunThenAcknowledge | Self::UnwindAfterGrant | Self::ResumeAfterMove)
    }
}
