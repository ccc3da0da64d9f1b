//! What is left when a migration has ended, and how to end it early.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::{fmt, panic};

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::Instrument;
use whimbrel_protocol::{Failure, Outcome, Term};

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
    /// Where to wait for a guest that is not back, because it hangs in a call.
    pub hung: Option<HungGuest>,
    /// The journal.
    pub journal: Box<dyn Journal>,
    /// The account.
    pub report: Report,
}

/// A guest that did not come back in time: one of its calls has not ended. Whoever owns it when it
/// does, and whether it then runs, follows from the outcome; the journal says it too. Dropping this
/// gives the guest up: it is dropped when it comes back.
#[derive(Debug)]
pub struct HungGuest(pub(crate) oneshot::Receiver<Returned>);

impl HungGuest {
    /// Waits for the call to end, however long that takes. `None` if the guest was lost: the thread
    /// of its calls died.
    pub async fn back(self) -> Option<Returned> {
        self.0.await.ok()
    }
}

/// A guest that came back.
pub struct Returned {
    /// The guest.
    pub guest: Box<dyn Guest>,
    /// Whether it runs here; else it is parked.
    pub runs: bool,
    /// Why it could not be made to do what the outcome says.
    pub(crate) stuck: Option<Failure>,
}

impl fmt::Debug for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guest, runs, stuck } = self;
        let guest = guest.describe();
        f.debug_struct("Returned")
            .field("guest", &guest)
            .field("runs", runs)
            .field("stuck", stuck)
            .finish()
    }
}

/// Where a migration leaves its end. It goes on when the future of its `run` is dropped; whoever
/// may drop that future keeps this, and with it the way to the guest.
#[derive(Debug)]
pub struct Ending<T = Ended>(Arc<OnceLock<Mutex<Option<JoinHandle<T>>>>>);

impl<T> Clone for Ending<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Ending<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Begins: the task belongs to the runtime and not to whoever waits for it. It logs within the
    /// span of whoever begins it.
    pub(crate) fn begin(&self, run: impl Future<Output = T> + Send + 'static) {
        self.0.get_or_init(|| Mutex::new(Some(tokio::spawn(run.in_current_span()))));
    }

    /// Waits for the end and takes it; it is there once. `None` if it was taken already, or if the
    /// migration has not begun.
    pub async fn take(&self) -> Option<T> {
        let mut task = self.0.get()?.lock().await;
        let ended = task.as_mut()?.await;
        *task = None;
        Some(ended.unwrap_or_else(|error| panic::resume_unwind(error.into_panic())))
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended")
            .field("outcome", &self.outcome)
            .field("guest", &self.guest.as_ref().map(|guest| guest.describe()))
            .field("hung", &self.hung.is_some())
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
