//! What is left when a migration has ended, and how to end it early.

use std::fmt;

use tokio::sync::mpsc;
use whimbrel_protocol::{Outcome, Term};

use crate::guest::Guest;
use crate::{Journal, Report};

/// The end of a migration on one side. Whatever the migration was given is here again.
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// The guest. After `Completed` it is parked at the source, to be dropped, and runs at the
    /// destination; after `Aborted` it runs at the source (or the failure says why it could not be
    /// made to), and the destination has none; after `InDoubt` it is parked.
    pub guest: Option<Box<dyn Guest>>,
    /// The journal.
    pub journal: Box<dyn Journal>,
    /// The account.
    pub report: Report,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended")
            .field("outcome", &self.outcome)
            .field("guest", &self.guest.as_ref().map(|guest| guest.describe()))
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// Ends a migration from anywhere. Clones end the same one; using it twice does no harm.
#[derive(Clone, Debug)]
pub struct Cancel(mpsc::Sender<String>);

impl Cancel {
    pub(crate) fn new() -> (Self, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(1);
        (Self(sender), receiver)
    }

    /// Asks for the end, for the reason `why`. Whether it came in time is told by the outcome:
    /// before the grant it always does.
    pub fn cancel(&self, why: impl Into<String>) {
        // A full channel holds an earlier cancel; a closed one belongs to an ended migration.
        let _ = self.0.try_send(why.into());
    }
}

/// Passes on to a destination that the source's agent asked for the guest: whoever asks has
/// granted the term, and a grant that was lost is as good as said again.
#[derive(Clone, Debug)]
pub struct Asked(mpsc::Sender<Term>);

impl Asked {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Term>) {
        let (sender, receiver) = mpsc::channel(4);
        (Self(sender), receiver)
    }

    /// The source's agent asked [`whimbrel_protocol::Question::DoYouRun`] about `term`. What
    /// became of it is in the journal a moment later.
    pub fn asked(&self, term: Term) {
        // A full channel holds the same question; a closed one belongs to an ended migration.
        let _ = self.0.try_send(term);
    }
}
