//! The lanes of a source: the ledger, and the way to every sender.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tracing::Instrument;
use whimbrel_memory::GuestMemory;
use whimbrel_page::{ByteCount, ByteRate, PAGE_SIZE, PageCount, PageSet, Root};
use whimbrel_protocol::batch::{Ack, LaneHello};
use whimbrel_protocol::ledger::{AckFault, Pass, RoundTally, Take};
use whimbrel_protocol::{BatchSeq, LaneId, LaneMark, Ledger, Meter, Now, Pace, RoundNumber};
use whimbrel_transport::{Lane, LaneHandle, LaneSecret, pin_beside};

use super::ahead::{Ahead, Due};
use super::paths::{PathId, Paths};
use super::sender::Sender;
use super::{Carried, LaneOptions, guarded, in_this_span, lock};

/// What a source's lanes tell their driver.
#[derive(Debug)]
pub(crate) enum LaneEvent {
    /// The destination accepted the lane; it takes pages from now on.
    Up(LaneId),
    /// The lane could not be opened, or has failed. Its thread has ended and its socket is closed;
    /// its pages stay in flight until [`SourceLanes::close`]. Not said of lanes that were hung up
    /// or closed.
    Failed(LaneId, String),
    /// A lane that was to be closed does not end: it is stuck in guest memory, and what becomes of
    /// its pages cannot be said.
    Stuck(LaneId),
    /// The lanes are so far with the round of this number that it is time for this.
    RoundDue(RoundNumber, Due),
    /// Everything the round had was taken and sent.
    RoundTaken(RoundTally),
    /// A path came or went; a sentence for people.
    Path(String),
    /// All lanes together are limited from now on: while the guest runs, and for the last pages.
    Limited { rounds: Option<ByteRate>, last: Option<ByteRate> },
    /// What [`SourceLanes::quiesce`] asked for with this number: nothing is in flight and no lane
    /// takes.
    Quiesced(u32),
}

/// All lanes of a source with their ledger. A clone is another handle on the same lanes.
#[derive(Clone)]
pub(crate) struct SourceLanes {
    pub(super) shared: Arc<Shared>,
}

/// What the senders share.
pub(super) struct Shared {
    pub(super) memory: GuestMemory,
    pub(super) options: LaneOptions,
    events: mpsc::Sender<LaneEvent>,
    state: Mutex<State>,
    /// A sender has ended.
    settled: Condvar,
    began: Instant,
}

pub(super) struct State {
    pub(super) ledger: Ledger,
    pub(super) meter: Meter,
    /// The number of the last quiescing, and whether nothing is in flight since, untold.
    pub(super) quiesce: u32,
    pub(super) drained: bool,
    pub(super) paths: Paths,
    pub(super) pace: Pace,
    pub(super) lanes: BTreeMap<LaneId, Entry>,
    pub(super) ahead: Ahead,
    pub(super) stopped: bool,
    /// How many lanes are on each path, as [`State::count_spread`] found it last.
    pub(super) spread: Vec<usize>,
    /// The last pages are sent, or about to be: no lane moves.
    pub(super) last: bool,
    /// Of the control connection, where lanes are signed.
    pub(super) secret: Option<LaneSecret>,
    /// Pages in one batch.
    pub(super) batch: PageCount,
}

#[derive(Default)]
pub(super) struct Entry {
    pub(super) stage: Stage,
    pub(super) path: Option<PathId>,
    /// Takes nothing more and ends when all it sent has landed: another one begins elsewhere.
    pub(super) moving: bool,
    /// Moves, and has taken its last look at the ledger.
    pub(super) leaving: bool,
    pub(super) carried: Arc<Carried>,
    opening: Option<AbortHandle>,
    pub(super) handle: Option<LaneHandle>,
    thread: Option<JoinHandle<()>>,
    /// Waits for something to take.
    idle: bool,
    /// Was hung up: its end is no news.
    quiet: bool,
    /// How far it came, said before its thread had ended.
    mark: Option<LaneMark>,
}

/// The ledger has an account of a lane that is running or ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Opening,
    Running,
    Ended,
    Closed,
}

impl SourceLanes {
    /// No lanes yet. What they tell goes to `events`, which should hold
    /// [`super::EVENTS_MAX`].
    pub(crate) fn new(
        memory: GuestMemory,
        options: LaneOptions,
        events: mpsc::Sender<LaneEvent>,
    ) -> Self {
        let ledger = Ledger::new(memory.layout());
        let ledger = if options.hot_last { ledger } else { ledger.in_order_of_place() };
        let state = State::new(ledger, options.batch_pages());
        let (state, settled) = (Mutex::new(state), Condvar::new());
        let began = Instant::now();
        Self { shared: Arc::new(Shared { memory, options, events, state, settled, began }) }
    }

    // --- lanes -----------------------------------------------------------------------------

    /// Opens a lane in the background: [`LaneEvent::Up`] or [`LaneEvent::Failed`] will tell. It
    /// goes over the path that has the fewest for what it delivers; `address` is where to where
    /// nobody said any. Needs a tokio runtime.
    pub(crate) fn open(&self, address: SocketAddr, hello: LaneHello) {
        let mut state = self.shared.lock();
        let lanes = self.clone();
        let path = self.shared.first_path(&mut state, address);
        let opening = async move {
            match lanes.shared.connect(path, &hello).await {
                Ok((connection, path)) => {
                    let window = lanes.shared.options.window_to(address.ip());
                    lanes.start(hello.lane, connection, window, path);
                }
                Err(why) => lanes.shared.not_opened(hello.lane, why),
            }
        };
        let opening = Some(tokio::spawn(opening.in_current_span()).abort_handle());
        let path = Some(path);
        state.lanes.insert(hello.lane, Entry { opening, path, ..Entry::default() });
    }

    /// The destination takes no more than so many page bytes in one batch (wire.md B9).
    pub(crate) fn agree_on(&self, batch: ByteCount) {
        let theirs = PageCount(batch.0 / PAGE_SIZE as u64);
        let ours = self.shared.options.batch_pages();
        self.shared.lock().batch = ours.min(theirs).max(PageCount(1));
    }

    /// Takes pages for a connection on which both sides have said who they are.
    #[cfg(test)]
    pub(crate) fn attach(&self, lane: LaneId, connection: Box<dyn Lane>) {
        let path = {
            let mut state = self.shared.lock();
            let path = self.shared.first_path(&mut state, ([127, 0, 0, 1], 0).into());
            state.lanes.insert(lane, Entry { path: Some(path), ..Entry::default() });
            path
        };
        self.start(lane, connection, self.shared.options.window(), path);
    }

    /// Counts what a lane sent up to `mark` as landed, and gives the rest back to be sent on
    /// another. Call this when the destination has said how far the lane came. A sender that still
    /// runs is stopped first, and waited for: a round that begins after this has its pages. A guest
    /// that stands still waits only `within`; the pages of the lane then come back when it ends. Of
    /// one that does not end in time [`LaneEvent::Stuck`] tells.
    pub(crate) fn close(&self, mark: LaneMark, within: Duration) {
        let mut state = self.shared.lock();
        let Some(entry) = state.lanes.get_mut(&mark.lane) else { return };
        match entry.stage {
            Stage::Opening => entry.give_up(),
            Stage::Running => {
                entry.mark = Some(mark);
                entry.cancel();
                let within = within.min(self.shared.options.stall_timeout);
                if !self.shared.ends_within(state, mark.lane, within) {
                    self.await_end(mark.lane, self.shared.options.stall_timeout - within);
                }
            }
            Stage::Ended => self.shared.settle(&mut state, mark),
            Stage::Closed => {}
        }
    }

    /// The same where nobody waits.
    fn await_end(&self, lane: LaneId, within: Duration) {
        let shared = self.shared.clone();
        let stuck = move || {
            if !shared.ends_within(shared.lock(), lane, within) {
                shared.tell(LaneEvent::Stuck(lane));
            }
        };
        if within.is_zero() {
            stuck();
        } else if let Err(error) = thread::Builder::new().spawn(in_this_span(stuck)) {
            tracing::error!("nobody sees whether lane {} ends: no thread: {error}", lane.0);
        }
    }

    /// Closes every connection, as when the link is lost; no lane is reported as failed for it.
    /// The pages stay in flight until the destination has said how far each lane came.
    pub(crate) fn hang_up(&self) {
        for entry in self.shared.lock().lanes.values_mut() {
            match entry.stage {
                Stage::Opening => entry.give_up(),
                Stage::Running => entry.cancel(),
                Stage::Ended | Stage::Closed => {}
            }
        }
    }

    /// No lane begins any more, and those there are end.
    pub(crate) fn stop(&self) {
        self.shared.lock().stopped = true;
        self.hang_up();
    }

    /// Ends everything and waits for the threads: nothing reads guest memory after this. Blocks.
    pub(crate) fn finish(&self) {
        self.stop();
        let threads: Vec<_> =
            self.shared.lock().lanes.values_mut().filter_map(|entry| entry.thread.take()).collect();
        for thread in threads {
            // Its panics were caught and told.
            let _ = thread.join();
        }
    }

    // --- pages -----------------------------------------------------------------------------

    /// Adds pages that may differ from what the destination holds; returns how many are pending
    /// now.
    pub(crate) fn merge(&self, pages: &PageSet) -> PageCount {
        let mut state = self.shared.lock();
        state.ledger.merge(pages);
        state.ledger.pending()
    }

    /// Pages that still have to be taken.
    pub(crate) fn pending(&self) -> PageCount {
        self.shared.lock().ledger.pending()
    }

    /// Pages of which it is known what the destination holds.
    #[cfg(test)]
    pub(crate) fn pages_known(&self) -> PageCount {
        let state = self.shared.lock();
        self.shared.memory.layout().pages() - state.ledger.table().root().unknown
    }

    /// Begins a round: the lanes take what is pending, and tell when all of it was sent.
    pub(crate) fn start_round(&self, number: u32, pass: Pass) {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        state.drained = false;
        state.last = pass == Pass::UntilEmpty;
        let pages = state.ledger.start_round(RoundNumber(number), pass);
        if state.last {
            state.ahead.end()
        } else {
            state.ahead.begin(pages)
        }
        self.shared.announce(state);
        // Lanes that would find nothing keep others from a processor while the guest stands still.
        let batches = pages.0.div_ceil(self.shared.options.batch_pages().0) as usize;
        state.wake_idle(if state.last { batches } else { usize::MAX });
    }

    /// The root of the destination once everything that was sent has landed, and the last batch
    /// of each lane that is not closed.
    pub(crate) fn flushed(&self) -> (Root, BTreeMap<LaneId, BatchSeq>) {
        let state = self.shared.lock();
        (state.ledger.root_when_landed(), state.ledger.lanes().collect())
    }

    /// Starts the thread of a lane. It finds its account when it first takes the lock.
    fn start(&self, lane: LaneId, connection: Box<dyn Lane>, window: ByteCount, path: PathId) {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let Some(entry) = state.lanes.get_mut(&lane) else { return };
        if state.stopped || entry.stage != Stage::Opening {
            return;
        }
        let handle = connection.handle();
        let (shared, carried) = (self.shared.clone(), entry.carried.clone());
        let sender = Sender::new(shared, (lane, path), connection, window, carried);
        let interface = state.paths.path(path).interface.clone();
        match self.spawn(lane, sender, interface.filter(|_| self.shared.options.pin)) {
            Ok(thread) => {
                entry.path = Some(path);
                state.paths.opened(path);
                entry.stage = Stage::Running;
                (entry.handle, entry.thread) = (Some(handle), Some(thread));
                state.ledger.open_lane(lane);
                self.shared.tell(LaneEvent::Up(lane));
            }
            Err(error) => {
                entry.stage = Stage::Closed;
                let why = format!("no thread could be started: {error}");
                self.shared.tell(LaneEvent::Failed(lane, why));
            }
        }
    }

    fn spawn(
        &self,
        lane: LaneId,
        sender: Sender,
        beside: Option<String>,
    ) -> io::Result<JoinHandle<()>> {
        let shared = self.shared.clone();
        let work = in_this_span(move || {
            if let Some(Err(error)) = beside.map(|interface| pin_beside(&interface)) {
                tracing::warn!("lane {} runs on any processor: {error}", lane.0);
            }
            // The sender is gone, and with it the socket, before anybody hears of it.
            let why = guarded(move || { sender }.run());
            shared.ended(lane, why);
        });
        thread::Builder::new().name(format!("whimbrel-out-{}", lane.0)).spawn(work)
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A moment on the clock of these lanes.
    pub(super) fn at(&self, moment: Instant) -> Now {
        Now(moment.saturating_duration_since(self.began))
    }

    pub(super) fn tell(&self, event: LaneEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::error!("the driver does not listen: {event:?} is not told");
        }
    }

    /// Whether a sender that was stopped has ended after so long at the latest.
    fn ends_within(&self, state: MutexGuard<'_, State>, lane: LaneId, within: Duration) -> bool {
        let runs = |state: &mut State| state.stage(lane) == Some(Stage::Running);
        let waited = self.settled.wait_timeout_while(state, within, runs);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn not_opened(&self, lane: LaneId, why: String) {
        let mut state = self.lock();
        let Some(entry) = state.lanes.get_mut(&lane) else { return };
        let news = std::mem::replace(&mut entry.stage, Stage::Closed) == Stage::Opening;
        if news {
            self.tell(LaneEvent::Failed(lane, why));
        }
    }

    fn ended(&self, lane: LaneId, why: String) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let left = state.ledger.flight(lane).bytes;
        state.meter.gone(self.at(Instant::now()), left);
        if let Some(path) = state.lanes.get(&lane).and_then(|entry| entry.path) {
            state.paths.abandoned(path, left);
        }
        let entry = state.lanes.get_mut(&lane).expect("entries stay");
        entry.stage = Stage::Ended;
        entry.idle = false;
        let (quiet, mark) = (entry.quiet, entry.mark.take());
        self.settled.notify_all();
        match mark {
            Some(mark) => self.settle(state, mark),
            None if !quiet => self.tell(LaneEvent::Failed(lane, why)),
            None => {}
        }
    }

    /// The lane is over on both sides.
    fn settle(&self, state: &mut State, mark: LaneMark) {
        let entry = state.lanes.get_mut(&mark.lane).expect("entries stay");
        entry.stage = Stage::Closed;
        state.ledger.lane_lost(mark.lane, Some(mark));
        self.announce(state);
        state.wake_idle(usize::MAX);
    }
}

impl State {
    fn new(ledger: Ledger, batch: PageCount) -> Self {
        let (paths, pace, lanes) = (Paths::default(), Pace::default(), BTreeMap::new());
        let (meter, ahead) = (Meter::default(), Ahead::default());
        Self {
            ledger,
            meter,
            quiesce: 0,
            drained: false,
            spread: Vec::new(),
            paths,
            pace,
            lanes,
            ahead,
            stopped: false,
            last: false,
            secret: None,
            batch,
        }
    }

    /// As [`Ledger::acked`]; returns how much that was.
    pub(super) fn acked(
        &mut self,
        lane: LaneId,
        ack: Ack,
        now: Now,
    ) -> Result<ByteCount, AckFault> {
        let before = self.ledger.flight(lane).bytes;
        self.ledger.acked(lane, ack.landed, ack.sum)?;
        let landed = before - self.ledger.flight(lane).bytes;
        self.meter.landed(now, landed);
        Ok(landed)
    }

    /// As [`Ledger::sent`].
    pub(super) fn sent(
        &mut self,
        lane: LaneId,
        take: &Take,
        wire: ByteCount,
        now: Now,
    ) -> Option<BatchSeq> {
        let sent = self.ledger.sent(lane, take, wire)?;
        self.meter.sent(now, wire);
        Some(sent)
    }

    /// The lane found nothing to take and will wait; or it goes on.
    pub(super) fn set_idle(&mut self, lane: LaneId, idle: bool) {
        self.lanes.get_mut(&lane).expect("entries stay").idle = idle;
    }

    fn stage(&self, lane: LaneId) -> Option<Stage> {
        self.lanes.get(&lane).map(|entry| entry.stage)
    }

    /// Wakes so many lanes that wait, at most.
    pub(super) fn wake_idle(&self, most: usize) {
        let idle = self.lanes.values().filter(|entry| entry.idle);
        let handles = idle.filter_map(|entry| entry.handle.as_ref());
        handles.take(most).for_each(LaneHandle::wake);
    }
}

impl Entry {
    /// Nobody waits for a lane that is being opened any more.
    fn give_up(&mut self) {
        self.stage = Stage::Closed;
        self.opening.iter().for_each(AbortHandle::abort);
    }

    fn cancel(&mut self) {
        self.quiet = true;
        if let Some(handle) = &self.handle {
            handle.cancel();
        }
    }
}
