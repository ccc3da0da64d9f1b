//! The source's hand on the machine: it carries out what [`Source`] wants and tells it what came.
//!
//! ```text
//!   control link ─┐                       ┌─► link (tasks)
//!   lanes ────────┼─► select ─► Source ─► ┼─► lanes (threads)
//!   hands ────────┤   one event  actions  └─► hands (one thread: guest, tracker, records)
//!   cancel, time ─┘
//! ```
//!
//! Nothing in here decides anything; whoever looks for a decision finds it in the machine.

mod account;
mod driver;
mod hands;
mod map;
mod scrub;
mod verify;

use std::future::Future;

use tokio::sync::{mpsc, watch};
use whimbrel_memory::{DirtyTracker, GuestMemory, MemoryError, Writers, open_for, probe};
use whimbrel_page::{PageCount, PageSet, Run};
use whimbrel_protocol::{Failure, Fault, Outcome, SourceEvent, Subject, Verify};

use crate::Journal;
use crate::digest::Digesters;
use crate::ended::{Cancel, Ended, Ending};
use crate::guest::Guest;
use crate::journal::SharedJournal;
use crate::lanes::{EVENTS_MAX, SourceLanes};
use crate::link::LinkEvent;
use crate::options::{DestinationAddress, OutgoingOptions};
use crate::progress::{Progress, Report};
use crate::spawn::{Spawn, spawn};
use driver::{Connected, Driver};
use hands::{Comparison, Hands, PauseTimes, Work};

pub use map::{CELLS_MAX, MemoryMap};

/// The source side of one migration. It owns the guest until it has ended.
pub struct Outgoing {
    guest: Box<dyn Guest>,
    journal: Box<dyn Journal>,
    destination: DestinationAddress,
    options: OutgoingOptions,
    progress: watch::Sender<Progress>,
    cancel: (Cancel, mpsc::Receiver<String>),
    ending: Ending,
    map: MemoryMap,
}

/// What may wait for a driver; whoever has more to say waits with it.
const HAPPENED_MAX: usize = 256;

/// What a driver is told from its threads and tasks.
enum Happened {
    Machine(SourceEvent),
    Parked(PauseTimes),
    /// Pages that the tracker did not see change; they are pending now.
    Missed(Vec<Run>),
    /// So many pages were looked at for such changes so far.
    Scrubbed(PageCount),
    Connected(Connected),
    Link(LinkEvent),
}

impl From<LinkEvent> for Happened {
    fn from(event: LinkEvent) -> Self {
        Self::Link(event)
    }
}

impl Outgoing {
    /// Prepares to move `guest` to `destination`; nothing happens before [`Outgoing::run`].
    #[must_use]
    pub fn new(
        guest: Box<dyn Guest>,
        journal: Box<dyn Journal>,
        destination: DestinationAddress,
        options: OutgoingOptions,
    ) -> Self {
        let (progress, _) = watch::channel(Progress::default());
        let (cancel, ending) = (Cancel::new(), Ending::new());
        let map = MemoryMap::default();
        Self { guest, journal, destination, options, progress, cancel, ending, map }
    }

    /// A picture of where the guest's memory is, for who asks.
    #[must_use]
    pub fn map(&self) -> MemoryMap {
        self.map.clone()
    }

    /// Follows the migration; the newest look is always there.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// A way to end it early, from anywhere.
    #[must_use]
    pub fn cancel(&self) -> Cancel {
        self.cancel.0.clone()
    }

    /// Where the end is left if the future of [`Outgoing::run`] is dropped.
    #[must_use]
    pub fn ending(&self) -> Ending {
        self.ending.clone()
    }

    /// Moves the guest. Comes back when the outcome is decided, with everything it was given. The
    /// migration begins at once and is a task of its own: dropping the future neither ends it nor
    /// loses the guest, if somebody holds the [`Outgoing::ending`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn run(self) -> impl Future<Output = Ended> + Send {
        let ending = self.ending();
        ending.begin(self.drive(spawn));
        async move { ending.take().await.expect("nobody else took what is still awaited here") }
    }

    pub(crate) async fn drive(self, spawn: Spawn) -> Ended {
        let memory = self.guest.memory();
        let tracker = match open_tracker(&memory, self.guest.writers(), &self.options) {
            Ok(tracker) => tracker,
            Err(failure) => return Ended::unbegun(failure, self.guest, self.journal),
        };
        let (happened, events) = mpsc::channel(HAPPENED_MAX);
        let (lane_events, lanes_say) = mpsc::channel(EVENTS_MAX);
        let lanes = SourceLanes::new(memory.clone(), self.options.lanes.clone(), lane_events);
        self.map.begin(&lanes);
        let description = self.guest.describe();
        let state_size = self.guest.state_size_hint().unwrap_or_default();
        let subject = Subject {
            guest: description.uuid,
            name: description.name,
            kind: description.kind,
            state_version: description.state_version,
            layout: memory.layout().clone(),
            state_size,
            term: self.options.term,
            host: self.options.host,
        };
        let journal = SharedJournal::new(self.journal);
        let work = Work {
            guest: self.guest,
            dirty: PageSet::new(memory.layout()),
            ahead: None,
            spoiled: PageSet::new(memory.layout()),
            memory,
            tracker,
            lanes: lanes.clone(),
            journal: journal.clone(),
            parked: false,
            released: false,
            left: false,
            reacquire_timeout: self.options.reacquire_timeout,
            stuck: None,
            comparison: Comparison::default(),
            scrub: None,
            scrub_share: self.options.scrub,
            digesters: (self.options.source.verify == Verify::Full).then(Digesters::start),
            happened: happened.clone(),
        };
        let hands = match Hands::start(work, spawn) {
            Ok(hands) => hands,
            Err((error, guest)) => {
                let why = format!("no thread could be started: {error}");
                return Ended::unbegun(Failure::new(Fault::Guest, why), guest, journal.take_back());
            }
        };
        let driver = Driver::new(subject, self.destination, self.options, hands, lanes, journal);
        driver.run(happened, events, lanes_say, self.cancel.1, self.progress).await
    }
}

impl Ended {
    /// A migration that could not begin; the guest was not touched.
    fn unbegun(failure: Failure, guest: Box<dyn Guest>, journal: Box<dyn Journal>) -> Self {
        let outcome = Outcome::Aborted(failure);
        Self { outcome, guest: Some(guest), hung: None, journal, report: Report::default() }
    }
}

fn open_tracker(
    memory: &GuestMemory,
    writers: Writers,
    options: &OutgoingOptions,
) -> Result<Box<dyn DirtyTracker>, Failure> {
    let failed = |error: MemoryError| Failure::new(Fault::Memory, error.to_string());
    let kind = options.tracker.or_else(|| probe(memory).choice()).ok_or_else(|| {
        let why = "no dirty tracker works on this host; `whimbrel doctor` says what each one needs";
        Failure::new(Fault::Memory, why)
    })?;
    open_for(kind, memory, writers).map_err(failed)
}
