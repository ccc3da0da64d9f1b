//! What blocks on the destination: memory, guest and journal, on a thread of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use whimbrel_memory::{Backing, GuestMemory, Landing};
use whimbrel_page::{ByteCount, Run};
use whimbrel_protocol::{
    DestinationEvent, Failure, Fault, Plan, Record, Standing, Term, VERIFY_FULL,
};

use super::Happened;
use crate::digest::{Digested, Digesters, SweepError};
use crate::ended::Returned;
use crate::guest::{Guest, GuestDescription, GuestError, GuestFactory};
use crate::journal::SharedJournal;
use crate::lanes::{DestinationLanes, in_this_span, panic_message};
use crate::spawn::Spawn;

/// One thing to do.
pub(super) enum Job {
    Reserve(Plan),
    Create,
    /// Find out how long a full verification will take.
    Rehearse,
    /// Digest what is in memory.
    Verify(Term, DestinationLanes),
    Load(Term, Bytes),
    Release,
    Run(Term),
    Record(Record),
}

/// Jobs that may wait. The machine waits for the answer to most of them, so that a few kinds are
/// under way at most.
const JOBS_MAX: usize = 64;

/// What is left to do when the outcome is decided.
#[derive(Default)]
pub(super) struct Last {
    /// Waited for: nothing is written to guest memory after that.
    pub(super) lanes: Option<DestinationLanes>,
    /// The guest was granted and told to run, and it is not known whether it did. This record says
    /// so, under the standing that it turns out to have.
    pub(super) unsettled: Option<Record>,
}

/// The way to the thread. It ends when this is dropped.
pub(super) struct Hands {
    jobs: mpsc::SyncSender<Job>,
    last: mpsc::SyncSender<Last>,
    returned: oneshot::Receiver<Returned>,
}

impl Hands {
    /// Starts the thread. If it cannot be started nothing is left of the work (museum M6).
    pub(super) fn start(mut work: Work, spawn: Spawn) -> std::io::Result<Self> {
        let (jobs, todo) = mpsc::sync_channel(JOBS_MAX);
        let (last, farewell) = mpsc::sync_channel(1);
        let (give_back, returned) = oneshot::channel();
        let labour = in_this_span(move || {
            todo.iter().for_each(|job| work.guarded(job));
            if let Some(guest) = work.give_back(farewell.recv().unwrap_or_default()) {
                // Who does not want it any more drops it.
                let _ = give_back.send(guest);
            }
        });
        spawn(Box::new(labour))?;
        Ok(Self { jobs, last, returned })
    }

    /// Never waits: the driver has deadlines to keep. `false` says that the peer has made more
    /// work than any honest one does, or that the thread is gone.
    #[must_use]
    pub(super) fn give(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }

    /// After the jobs that were given, and the last things, the guest comes back, if one was made.
    pub(super) fn finish(self, last: Last) -> oneshot::Receiver<Returned> {
        // There is room for it, and a thread that is gone is found missing by who waits for it.
        let _ = self.last.try_send(last);
        self.returned
    }
}

/// What the thread works on.
pub(super) struct Work {
    pub(super) factory: Box<dyn GuestFactory>,
    pub(super) backing: Backing,
    pub(super) journal: SharedJournal,
    /// The guest that was planned, and its memory.
    pub(super) planned: Option<(GuestDescription, GuestMemory)>,
    pub(super) guest: Option<Box<dyn Guest>>,
    /// Whether the guest may hold outside resources.
    pub(super) acquired: bool,
    /// Whether it was run.
    pub(super) runs: bool,
    /// The most memory a guest may have.
    pub(super) memory_max: ByteCount,
    /// Threads for a full verification, where one was planned.
    pub(super) digesters: Option<Digesters>,
    pub(super) happened: Sender<Happened>,
}

impl Work {
    /// The end. A guest of which it was not known whether it runs has answered by now: it does, or
    /// it did not and never will, and the record says so to those who ask.
    fn give_back(self, last: Last) -> Option<Returned> {
        last.lanes.iter().for_each(DestinationLanes::finish);
        if let Some(record) = last.unsettled {
            let standing = if self.runs { Standing::Owner } else { Standing::Refused };
            if let Err(failure) = self.journal.write(&Record { standing, ..record }) {
                tracing::error!("{failure}");
            }
        }
        Some(Returned { guest: self.guest?, runs: self.runs, stuck: None })
    }

    /// A panic in the guest's code, which takes bytes from a peer, is the guest's failure.
    fn guarded(&mut self, job: Job) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.perform(job))) {
            let why = format!("a bug in the guest: {}", panic_message(&*panic));
            let failed = DestinationEvent::Failed(Failure::new(Fault::Guest, why));
            let _ = self.happened.blocking_send(Happened::Machine(failed));
        }
    }

    fn perform(&mut self, job: Job) {
        let done = match job {
            Job::Release => match self.release() {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Job::Reserve(plan) => self.reserve(plan),
            Job::Create => self.create(),
            Job::Rehearse => match self.rehearse() {
                Some(rehearsed) => Ok(rehearsed),
                None => return,
            },
            Job::Verify(term, lanes) => self.verify(term, &lanes),
            Job::Load(term, state) => self.load(term, &state),
            Job::Run(term) => self.run(term),
            Job::Record(record) => self.record(&record),
        };
        let event = done.unwrap_or_else(DestinationEvent::Failed);
        // The driver is gone only when nobody wants to know any more.
        let _ = self.happened.blocking_send(Happened::Machine(event));
    }

    /// Before page one: what cannot live here is refused, and what can has its memory.
    fn reserve(&mut self, plan: Plan) -> Result<DestinationEvent, Failure> {
        let Plan { guest: uuid, name, kind, state_version, layout, features, .. } = plan;
        let description = GuestDescription { uuid, name, kind, state_version };
        let fits = self.factory.check(&description, &layout);
        fits.map_err(|why| Failure::new(Fault::Incompatible, why))?;
        if layout.bytes() > self.memory_max {
            let (wanted, most) = (layout.bytes(), self.memory_max);
            let why = format!("the guest has {wanted} of memory, {most} are kept free for it here");
            return Err(Failure::new(Fault::Capacity, why));
        }
        let memory = GuestMemory::allocate(&layout, self.backing).map_err(capacity)?;
        let landing = Landing::new(memory.clone()).map_err(capacity)?;
        self.planned = Some((description, memory));
        let full = features.iter().any(|feature| feature == VERIFY_FULL);
        self.digesters = full.then(Digesters::start);
        let _ = self.happened.blocking_send(Happened::Reserved(Arc::new(landing)));
        Ok(DestinationEvent::Reserved)
    }

    fn create(&mut self) -> Result<DestinationEvent, Failure> {
        let (description, memory) = self.planned.as_ref().expect("planned before created");
        self.guest = Some(self.factory.create(description, memory.clone()).map_err(guest)?);
        Ok(DestinationEvent::Created)
    }

    /// The source's forecast needs to know; that it cannot be measured is no reason to end it.
    fn rehearse(&self) -> Option<DestinationEvent> {
        match self.digesters.as_ref()?.rehearse_without() {
            Ok(Digested { memory, took }) => Some(DestinationEvent::Digested(memory, took)),
            Err(error) => {
                tracing::warn!("how fast memory can be digested here is not known: {error}");
                None
            }
        }
    }

    /// wire.md V3: not the copies that were digested when they came, but what is in place.
    fn verify(&self, term: Term, lanes: &DestinationLanes) -> Result<DestinationEvent, Failure> {
        let began = Instant::now();
        let (_, memory) = self.planned.as_ref().expect("planned before verified");
        let digesters = self.digesters.as_ref().expect("started when it was planned");
        let touched = memory.touched().map_err(unverified)?;
        let (known, found) = (lanes.used_chunks(), lanes.clone());
        let visit = move |chunk: Run, leaves: &[_]| found.take_found(chunk, leaves);
        match digesters.sweep(memory, touched, &known, Box::new(visit)) {
            Ok(Digested { memory, .. }) => {
                let digested = DestinationEvent::Digested(memory, began.elapsed());
                let _ = self.happened.blocking_send(Happened::Machine(digested));
            }
            // Something is written: the attempt was given up, or the root will not agree.
            Err(SweepError::Stopped) => {}
            Err(error) => return Err(unverified(error)),
        }
        Ok(DestinationEvent::Verified(term, lanes.verified()))
    }

    fn load(&mut self, term: Term, state: &Bytes) -> Result<DestinationEvent, Failure> {
        let made = self.guest.as_mut().expect("created before loaded");
        made.load_state(state).map_err(guest)?;
        self.acquired = true;
        made.reacquire().map_err(guest)?;
        Ok(DestinationEvent::Loaded(term))
    }

    /// The source takes back what only one of the two may hold.
    fn release(&mut self) -> Result<(), Failure> {
        match &mut self.guest {
            Some(made) if std::mem::take(&mut self.acquired) => made.release().map_err(guest),
            _ => Ok(()),
        }
    }

    fn run(&mut self, term: Term) -> Result<DestinationEvent, Failure> {
        let made = self.guest.as_mut().expect("loaded before run");
        made.resume().map_err(guest)?;
        self.runs = true;
        Ok(DestinationEvent::Ran(term))
    }

    fn record(&mut self, record: &Record) -> Result<DestinationEvent, Failure> {
        self.journal.write(record)?;
        Ok(DestinationEvent::Recorded(record.standing))
    }
}

fn capacity(error: whimbrel_memory::MemoryError) -> Failure {
    Failure::new(Fault::Capacity, error.to_string())
}

fn unverified(error: impl std::fmt::Display) -> Failure {
    Failure::new(Fault::Memory, format!("the memory could not be verified: {error}"))
}

fn guest(error: GuestError) -> Failure {
    Failure::new(Fault::Guest, error.to_string())
}
