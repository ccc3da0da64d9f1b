//! What blocks: guest, tracker and journal, on a thread of their own, one job after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use whimbrel_memory::{DirtyTracker, GuestMemory, Writers};
use whimbrel_page::{CHUNK_PAGES, PageSet};
use whimbrel_protocol::{Failure, Fault, Harvest, Record, SourceEvent, Sums};

use super::Happened;
use super::scrub::Scrub;
use crate::digest::Digesters;
use crate::ended::Returned;
use crate::guest::{Guest, GuestError, Throttle};
use crate::journal::SharedJournal;
use crate::lanes::{SourceLanes, in_this_span, panic_message};
use crate::options::CoreShare;
use crate::spawn::Spawn;

/// One thing to do.
#[derive(Debug)]
pub(super) enum Job {
    Arm,
    /// Have the round leave what was written since the last harvest; nobody is told.
    LeaveWritten,
    /// Harvest while the lanes take the last pages of a round; nobody is told before the next one.
    HarvestAhead,
    /// Asked for at that time.
    Harvest(Instant),
    Rehearse,
    Pause,
    /// Digest the paused memory, until this says that nobody waits for it any more.
    Verify(Arc<AtomicBool>),
    Resume,
    Throttle(u8),
    Record(Record),
    Compare(Sums),
    /// The guest runs on at full speed, untracked.
    Retreat,
    /// The guest is left as it is, untracked.
    LetGo,
    /// The guest is the other side's, and what is left here is of no use.
    Leave,
}

/// Where the time of the pause went, on this side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PauseTimes {
    pub(super) began: Option<Instant>,
    pub(super) pause: Duration,
    pub(super) harvest: Duration,
    pub(super) state: Duration,
}

/// Between attempts to get back what the other side may still hold; nothing tells when it lets go.
const REACQUIRE_AGAIN: Duration = Duration::from_millis(5);

/// A harvest that was made ahead is used for so long at least: threads take their time.
const AHEAD_FRESH: Duration = Duration::from_millis(10);

/// Jobs that may wait. The machine waits for the answer to most of them, so that a few kinds are
/// under way at most.
const JOBS_MAX: usize = 64;

/// The way to the thread. It ends when this is dropped.
pub(super) struct Hands {
    jobs: mpsc::SyncSender<Job>,
    last: mpsc::SyncSender<Job>,
    returned: oneshot::Receiver<Returned>,
}

impl Hands {
    /// Starts the thread. If it cannot be started the guest comes back (museum M6).
    pub(super) fn start(
        work: Work,
        spawn: Spawn,
    ) -> Result<Self, (std::io::Error, Box<dyn Guest>)> {
        let (jobs, todo) = mpsc::sync_channel(JOBS_MAX);
        let (last, farewell) = mpsc::sync_channel(1);
        let (give_back, returned) = oneshot::channel();
        let (handover, given) = mpsc::sync_channel::<Work>(1);
        let labour = in_this_span(move || {
            let mut work: Work = given.recv().expect("the work is handed over at once");
            todo.iter().chain(farewell).for_each(|job| work.guarded(job));
            work.give_back(give_back);
        });
        match spawn(Box::new(labour)) {
            Ok(()) => {
                handover.send(work).expect("the thread waits for it");
                Ok(Self { jobs, last, returned })
            }
            Err(error) => Err((error, work.guest)),
        }
    }

    /// Never waits: the driver has deadlines to keep. `false` says that the peer has made more
    /// work than any honest one does, or that the thread is gone.
    #[must_use]
    pub(super) fn give(&self, job: Job) -> bool {
        self.jobs.try_send(job).is_ok()
    }

    /// Has one last job done after those that were given. The guest comes back when that and the
    /// lanes have ended.
    pub(super) fn finish(self, last: Job) -> oneshot::Receiver<Returned> {
        // There is room for it, and a thread that is gone is found missing by who waits for it.
        let _ = self.last.try_send(last);
        self.returned
    }
}

/// What the thread works on.
pub(super) struct Work {
    pub(super) guest: Box<dyn Guest>,
    pub(super) memory: GuestMemory,
    pub(super) tracker: Box<dyn DirtyTracker>,
    pub(super) lanes: SourceLanes,
    pub(super) journal: SharedJournal,
    pub(super) dirty: PageSet,
    /// A harvest that was made and not told yet.
    pub(super) ahead: Option<Ahead>,
    pub(super) parked: bool,
    /// Whether the guest has let go of its outside resources.
    pub(super) released: bool,
    /// How long to try to get them back: the other side may have to be told to let go first.
    pub(super) reacquire_timeout: Duration,
    /// Whether the guest is the other side's.
    pub(super) left: bool,
    /// Why the guest could not be given back running at full speed.
    pub(super) stuck: Option<Failure>,
    /// Pages that were spoiled once already.
    pub(super) spoiled: PageSet,
    pub(super) comparison: Comparison,
    /// Threads for a full verification, where one was asked for.
    pub(super) digesters: Option<Digesters>,
    /// Looks for missed writes while tracking goes on, for this share of a core.
    pub(super) scrub: Option<Scrub>,
    pub(super) scrub_share: CoreShare,
    pub(super) happened: Sender<Happened>,
}

/// A harvest that was made before anybody asked for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    /// How long the parked guest's would have taken.
    parked: Duration,
    began: Instant,
    there: Instant,
}

impl Ahead {
    /// Whether it tells of the guest at that time: it is no older than the next one would be by the
    /// time it is there.
    fn is_fresh(self, asked: Instant) -> bool {
        asked <= self.there + AHEAD_FRESH.max(self.there - self.began)
    }
}

/// What a comparison of sums has found so far; the sums come in several messages.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    named: Vec<(whimbrel_page::RegionId, whimbrel_page::ChunkIndex, whimbrel_page::LeafSum)>,
}

impl Work {
    pub(super) fn tell(&self, event: SourceEvent) {
        // The driver is gone only when nobody wants to know any more.
        let _ = self.happened.blocking_send(Happened::Machine(event));
    }

    /// The end: nothing reads guest memory after this.
    fn give_back(self, to: oneshot::Sender<Returned>) {
        self.lanes.finish();
        let Self { guest, tracker, parked, left, stuck, .. } = self;
        // A guest that stays may be moved again at once, and has one tracker at a time (museum
        // M28). Where it has left that takes 45 ms a GiB, for which nobody has to wait.
        let _later = left.then_some(tracker);
        // Who does not want it any more drops it.
        let _ = to.send(Returned { guest, runs: !parked, stuck });
    }

    /// A panic in the guest's code is the guest's failure, and the guest is kept (museum M6).
    fn guarded(&mut self, job: Job) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.perform(job))) {
            let why = format!("a bug in the guest: {}", panic_message(&*panic));
            let failure = Failure::new(Fault::Guest, why);
            self.stuck = Some(failure.clone());
            self.tell(SourceEvent::Failed(failure));
        }
    }

    fn perform(&mut self, job: Job) {
        if let Job::Retreat | Job::LetGo | Job::Leave = job {
            self.scrub = None;
        }
        let done = match job {
            Job::Arm => self.arm().map(Some),
            Job::LeaveWritten => self.leave_written().map(|()| None),
            Job::HarvestAhead => self.harvest_ahead().map(|()| None),
            Job::Harvest(asked) => self.harvest(asked).map(Some),
            Job::Rehearse => self.look().map(Some),
            Job::Pause => self.pause().map(Some),
            Job::Verify(stop) => self.verify(stop),
            Job::Resume => self.resume().map(|()| None),
            Job::Throttle(percent) => self.throttle(percent).map(|()| None),
            Job::Record(record) => self.record(&record).map(Some),
            Job::Compare(sums) => Ok(self.compare(&sums)),
            Job::Retreat => {
                self.stuck = self.retreat().err();
                Ok(None)
            }
            Job::LetGo => {
                let disarmed = self.tracker.disarm().map_err(memory);
                self.throttle(0).and(disarmed).map(|()| None)
            }
            Job::Leave => {
                self.left = true;
                Ok(None)
            }
        };
        match done {
            Ok(Some(event)) => self.tell(event),
            Ok(None) => {}
            Err(failure) => self.tell(SourceEvent::Failed(failure)),
        }
    }

    /// Arm first, then ask what was ever touched: what is written in between is in both.
    fn arm(&mut self) -> Result<SourceEvent, Failure> {
        let began = Instant::now();
        self.tracker.arm().map_err(memory)?;
        let armed = began.elapsed();
        let touched = self.memory.touched().map_err(memory)?;
        self.lanes.touched(&touched, armed);
        self.rehearse()?;
        self.scrub = Scrub::start(&self.memory, &self.lanes, self.scrub_share);
        Ok(SourceEvent::Armed)
    }

    /// Rehearses the harvest of the parked guest, then harvests. Returns what the former took.
    fn fetch(&mut self) -> Result<Duration, Failure> {
        let scrub = self.scrub.as_ref().map(Scrub::hold);
        let began = Instant::now();
        rehearse(&mut *self.tracker, &mut self.dirty)?;
        let parked = began.elapsed();
        self.tracker.harvest(&mut self.dirty).map_err(memory)?;
        self.lanes.harvested(&self.dirty, began.elapsed());
        self.judge(scrub, false);
        Ok(parked)
    }

    /// What it finds stays on record. A harvest that was made ahead has the pages in `dirty`.
    fn leave_written(&mut self) -> Result<(), Failure> {
        if self.ahead.is_none() {
            let began = Instant::now();
            peek(&mut *self.tracker, &mut self.dirty)?;
            self.lanes.written(&self.dirty, began.elapsed());
        }
        Ok(())
    }

    fn harvest_ahead(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        let parked = self.fetch()?;
        self.ahead = Some(Ahead { parked, began, there: Instant::now() });
        Ok(())
    }

    /// The lanes do not wait for a harvest that was made while they were at work, or for no more
    /// than the rest of it. Where they were held up since, the guest was not: what it wrote then
    /// belongs to the same harvest (museum M23).
    fn harvest(&mut self, asked: Instant) -> Result<SourceEvent, Failure> {
        let began = Instant::now();
        let (parked, took) = match self.ahead.take() {
            Some(ahead) if ahead.is_fresh(asked) => {
                (ahead.parked, ahead.there.saturating_duration_since(asked))
            }
            Some(_) => {
                let before = self.dirty.clone();
                let parked = self.fetch()?;
                self.dirty.union_with(&before);
                (parked, began.elapsed())
            }
            None => (self.fetch()?, began.elapsed()),
        };
        let (pending, written) = (self.lanes.pending(), self.dirty.count());
        let throughput = self.lanes.throughput();
        Ok(SourceEvent::Harvested(Harvest { pending, written, took, parked, throughput }))
    }

    /// The harvest of the parked guest, rehearsed. What it finds stays on record.
    fn look(&mut self) -> Result<SourceEvent, Failure> {
        let began = Instant::now();
        // The first may look everywhere, to know where the next one has to, and one may wait for a
        // thread that is just getting a page: the quickest is like the one in the pause.
        let looks = if self.guest.writers() == Writers::OwnThreads { 3 } else { 1 };
        let mut parked = Duration::MAX;
        for _ in 0..looks {
            let began = Instant::now();
            rehearse(&mut *self.tracker, &mut self.dirty)?;
            parked = parked.min(began.elapsed());
        }
        let pending = self.lanes.merge(&self.dirty);
        let took = began.elapsed();
        let (written, throughput) = (self.dirty.count(), self.lanes.throughput());
        Ok(SourceEvent::Looked(Harvest { pending, written, took, parked, throughput }))
    }

    fn pause(&mut self) -> Result<SourceEvent, Failure> {
        self.scrub.iter().for_each(|scrub| scrub.stand_still(true));
        self.ahead = None;
        let began = Instant::now();
        self.guest.pause().map_err(guest)?;
        self.parked = true;
        let paused = self.last_harvest(began);
        if paused.is_err() {
            self.resume()?;
        }
        paused
    }

    fn last_harvest(&mut self, began: Instant) -> Result<SourceEvent, Failure> {
        self.guest.release().map_err(guest)?;
        self.released = true;
        let parked = Instant::now();
        peek(&mut *self.tracker, &mut self.dirty)?;
        let pending = self.lanes.merge(&self.dirty);
        let scrub = self.scrub.as_ref().map(Scrub::hold);
        let pending = self.judge(scrub, true).unwrap_or(pending);
        let harvested = Instant::now();
        let state: Bytes = self.guest.save_state().map_err(guest)?;
        let times = PauseTimes {
            began: Some(began),
            pause: parked - began,
            harvest: harvested - parked,
            state: harvested.elapsed(),
        };
        let _ = self.happened.blocking_send(Happened::Parked(times));
        Ok(SourceEvent::Paused { pending, state })
    }

    /// A guest that runs already is left alone: a pause may have failed before it stood still.
    fn resume(&mut self) -> Result<(), Failure> {
        if self.released {
            self.reacquire()?;
            self.released = false;
        }
        if self.parked {
            self.guest.resume().map_err(guest)?;
            self.parked = false;
            self.scrub.iter().for_each(|scrub| scrub.stand_still(false));
        }
        Ok(())
    }

    /// What only one host may hold is the other side's until it has heard that it was given up.
    fn reacquire(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + self.reacquire_timeout;
        loop {
            match self.guest.reacquire() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(guest(error)),
                Err(_) => std::thread::sleep(REACQUIRE_AGAIN),
            }
        }
    }

    fn throttle(&mut self, percent: u8) -> Result<(), Failure> {
        self.guest.throttle(Throttle::percent(percent)).map_err(guest)
    }

    /// Every exit cleans up (museum M27): all of it is tried, and the first failure is told.
    fn retreat(&mut self) -> Result<(), Failure> {
        let disarmed = self.tracker.disarm().map_err(memory);
        let unthrottled = self.throttle(0);
        self.resume().and(unthrottled).and(disarmed)
    }

    fn record(&mut self, record: &Record) -> Result<SourceEvent, Failure> {
        self.journal.write(record)?;
        Ok(SourceEvent::Recorded(record.standing))
    }

    /// Chunks whose sums differ go again whole. A page that went again once already and differs
    /// still is no accident.
    fn compare(&mut self, sums: &Sums) -> Option<SourceEvent> {
        let named = sums.chunks.iter().map(|(chunk, sum)| (sums.region, *chunk, *sum));
        self.comparison.named.extend(named);
        if self.comparison.named.len() as u64 > self.chunks_max() {
            self.comparison.named.clear();
            let why = "the destination named more chunks than the guest has";
            return Some(SourceEvent::Failed(Failure::new(Fault::Peer, why)));
        }
        if !sums.last {
            return None;
        }
        let named = std::mem::take(&mut self.comparison.named);
        let differing = self.lanes.spoil_differing(&named);
        let again = differing
            .runs()
            .any(|run| run.pages().any(|page| self.spoiled.contains(run.region, page)));
        self.spoiled.union_with(&differing);
        Some(SourceEvent::Spoiled { pages: differing.count(), again })
    }
}

impl Work {
    fn chunks_max(&self) -> u64 {
        let regions = self.memory.layout().regions().iter();
        regions.map(|region| region.pages().0.div_ceil(CHUNK_PAGES)).sum()
    }
}

/// Leaves in `dirty` what the harvest of the parked guest finds, which stays on record.
fn peek(tracker: &mut dyn DirtyTracker, dirty: &mut PageSet) -> Result<(), Failure> {
    dirty.clear();
    tracker.harvest_paused(dirty).map_err(memory).map(drop)
}

/// As [`peek`], of a guest that is not parked yet.
fn rehearse(tracker: &mut dyn DirtyTracker, dirty: &mut PageSet) -> Result<(), Failure> {
    dirty.clear();
    tracker.rehearse(dirty).map_err(memory).map(drop)
}

pub(super) fn memory(error: impl std::fmt::Display) -> Failure {
    Failure::new(Fault::Memory, error.to_string())
}

fn guest(error: GuestError) -> Failure {
    Failure::new(Fault::Guest, error.to_string())
}

#[cfg(test)]
mod tests;
