//! The lanes of a destination: what has landed, and the way to every lander.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc;
use whimbrel_memory::Landing;
use whimbrel_page::{ChunkIndex, LeafSum, LeafTable, RegionId, Root};
use whimbrel_protocol::{BatchSeq, LaneId, LaneMark, Sums, Term};
use whimbrel_transport::{Lane, LaneHandle};

use super::lander::Lander;
use super::{Carried, LaneOptions, guarded, in_this_span, lock};
use crate::progress::LaneReport;

/// What a destination's lanes tell their driver.
#[derive(Debug)]
pub(crate) enum LandEvent {
    /// The lane's thread has ended and its socket is closed: nothing of it lands any more. Said
    /// once of every lane.
    Ended(LaneMark, String),
    /// What [`DestinationLanes::await_counts`] asked for has landed; this is the root then.
    CountsReached(Term, Root),
}

/// All lanes of a destination. A clone is another handle on the same lanes.
#[derive(Clone)]
pub(crate) struct DestinationLanes {
    pub(super) shared: Arc<Shared>,
}

/// What the landers share.
pub(super) struct Shared {
    pub(super) landing: Arc<Landing>,
    pub(super) options: LaneOptions,
    events: mpsc::Sender<LandEvent>,
    state: Mutex<State>,
    /// A batch was written after the seal.
    settled: Condvar,
    /// A lander that is to die in the middle of a page, after so many of the next batch.
    #[cfg(test)]
    pub(super) tears: Mutex<Option<(LaneId, usize)>>,
}

pub(super) struct State {
    pub(super) leaves: LeafTable,
    lanes: BTreeMap<LaneId, Entry>,
    /// Nothing may be written in place any more.
    sealed: bool,
    /// Nothing was written in place since a verification began.
    pub(super) verifying: bool,
    awaited: Option<(Term, Vec<(LaneId, BatchSeq)>)>,
}

struct Entry {
    mark: LaneMark,
    carried: Arc<Carried>,
    handle: Option<LaneHandle>,
    thread: Option<JoinHandle<()>>,
    /// Takes part, or will; a lane that is closed before it came does not.
    open: bool,
    /// Just writes a batch in place.
    landing: bool,
}

impl Entry {
    fn new(lane: LaneId) -> Self {
        let mark = LaneMark { lane, batch: BatchSeq(0), sum: LeafSum::ZERO };
        Self {
            mark,
            carried: Arc::default(),
            handle: None,
            thread: None,
            open: true,
            landing: false,
        }
    }
}

/// Sums of chunks in one message; it stays well below the limit of a control frame.
const SUMS_CHUNKS: usize = 1024;

impl DestinationLanes {
    /// No lanes yet; everything in `landing` is zero. What they tell goes to `events`, which
    /// should hold [`super::EVENTS_MAX`].
    pub(crate) fn new(
        landing: Arc<Landing>,
        options: LaneOptions,
        events: mpsc::Sender<LandEvent>,
    ) -> Self {
        let state = State {
            leaves: LeafTable::new(landing.layout()),
            lanes: BTreeMap::new(),
            sealed: false,
            verifying: false,
            awaited: None,
        };
        let (state, settled) = (Mutex::new(state), Condvar::new());
        let shared = Shared {
            landing,
            options,
            events,
            state,
            settled,
            #[cfg(test)]
            tears: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Lands what comes on a connection that was accepted as `lane`. [`LandEvent::Ended`] tells
    /// when that is over, also if it cannot begin.
    pub(crate) fn land(&self, lane: LaneId, connection: Box<dyn Lane>) {
        let mut state = self.shared.lock();
        let sealed = state.sealed;
        let entry = state.lanes.entry(lane).or_insert_with(|| Entry::new(lane));
        if sealed || !entry.open || entry.thread.is_some() {
            entry.open = false;
            let ended = LandEvent::Ended(entry.mark, "it was closed before it began".into());
            drop(connection);
            return self.shared.tell(ended);
        }
        entry.handle = Some(connection.handle());
        let carried = entry.carried.clone();
        let (shared, name) = (self.shared.clone(), format!("whimbrel-in-{}", lane.0));
        let work = in_this_span(move || {
            let lander = Lander::new(shared.clone(), lane, connection, carried);
            // The lander is gone, and with it the socket, before anybody hears of it.
            let why = guarded(move || lander.run());
            shared.ended(lane, why);
        });
        match thread::Builder::new().name(name).spawn(work) {
            Ok(thread) => entry.thread = Some(thread),
            Err(error) => {
                entry.open = false;
                let why = format!("no thread could be started: {error}");
                let ended = LandEvent::Ended(entry.mark, why);
                self.shared.tell(ended);
            }
        }
    }

    /// Ends a lane: its thread stops and its socket is closed unread. [`LandEvent::Ended`] tells
    /// when, unless it has told already. A lane that has not come yet will not begin.
    pub(crate) fn close(&self, lane: LaneId) {
        let mut state = self.shared.lock();
        let entry = state.lanes.entry(lane).or_insert_with(|| Entry::new(lane));
        match &entry.handle {
            Some(handle) => handle.cancel(),
            None => entry.open = false,
        }
    }

    /// [`LandEvent::CountsReached`] will tell when each of these lanes has landed its batch.
    /// Replaces what was asked before.
    pub(crate) fn await_counts(&self, term: Term, counts: Vec<(LaneId, BatchSeq)>) {
        let mut state = self.shared.lock();
        state.awaited = Some((term, counts));
        self.shared.check_awaited(&mut state);
    }

    /// From now on nothing is written in place: the memory is about to belong to a guest that
    /// runs. Batches that are just being written are waited for; it takes as long as a copy of
    /// one. Returns the root of what is there; a batch that is stuck leaves it with unknown leaves.
    pub(crate) fn seal(&self) -> Root {
        let mut state = self.shared.lock();
        state.sealed = true;
        let landing = |state: &mut State| state.lanes.values().any(|entry| entry.landing);
        let within = self.shared.options.stall_timeout;
        let waited = self.shared.settled.wait_timeout_while(state, within, landing);
        waited.unwrap_or_else(PoisonError::into_inner).0.leaves.root()
    }

    /// The sums of all chunks that may not be zero, in messages; the last one says that it is.
    pub(crate) fn sums(&self) -> Vec<Sums> {
        let state = self.shared.lock();
        let mut messages = Vec::new();
        for region in self.shared.landing.layout().regions() {
            let chunks: Vec<_> = state.leaves.chunk_sums(region.id).collect();
            let pieces = chunks.chunks(SUMS_CHUNKS);
            messages.extend(pieces.map(|piece| message(region.id, piece)));
        }
        if messages.is_empty() {
            messages.push(message(self.shared.landing.layout().regions()[0].id, &[]));
        }
        messages.last_mut().expect("at least one").last = true;
        messages
    }

    /// How many hold on to these lanes, their threads included.
    #[cfg(test)]
    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.shared)
    }

    /// Every lane there ever was.
    pub(crate) fn reports(&self) -> Vec<LaneReport> {
        let state = self.shared.lock();
        let report = |(lane, entry): (&LaneId, &Entry)| entry.carried.report(*lane, entry.open);
        state.lanes.iter().map(report).collect()
    }

    /// Nothing more is begun: what is just being written in place is the last.
    pub(crate) fn stop(&self) {
        let mut state = self.shared.lock();
        state.sealed = true;
        state.lanes.values().filter_map(|e| e.handle.as_ref()).for_each(LaneHandle::cancel);
    }

    /// Ends everything and waits for the threads: nothing writes the memory after this. Blocks.
    pub(crate) fn finish(&self) {
        self.stop();
        let threads: Vec<_> =
            self.shared.lock().lanes.values_mut().filter_map(|entry| entry.thread.take()).collect();
        for thread in threads {
            // Its panics were caught and told.
            let _ = thread.join();
        }
    }
}

fn message(region: RegionId, chunks: &[(ChunkIndex, LeafSum)]) -> Sums {
    Sums { region, chunks: chunks.to_vec(), last: false }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn tell(&self, event: LandEvent) {
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            tracing::error!("the driver does not listen: {event:?} is not told");
        }
    }

    fn ended(&self, lane: LaneId, why: String) {
        let mut state = self.lock();
        let entry = state.lanes.get_mut(&lane).expect("entries stay");
        (entry.open, entry.landing) = (false, false);
        self.settled.notify_all();
        // wire.md B20
        self.tell(LandEvent::Ended(entry.mark, why));
    }

    /// A batch of `lane` is in place and digested.
    pub(super) fn landed(&self, state: &mut State, mark: LaneMark) {
        let entry = state.lanes.get_mut(&mark.lane).expect("entries stay");
        (entry.mark, entry.landing) = (mark, false);
        state.verifying = false;
        if state.sealed {
            self.settled.notify_all();
        }
        self.check_awaited(state);
    }

    fn check_awaited(&self, state: &mut State) {
        let State { lanes, awaited, leaves, .. } = state;
        let has = |lane: &LaneId| lanes.get(lane).map_or(BatchSeq(0), |entry| entry.mark.batch);
        let reached = awaited.take_if(|(_, counts)| counts.iter().all(|(l, seq)| has(l) >= *seq));
        if let Some((term, _)) = reached {
            self.tell(LandEvent::CountsReached(term, leaves.root()));
        }
    }
}

impl State {
    /// See [`DestinationLanes::begin_verifying`].
    pub(super) fn begin_verifying(&mut self) {
        self.verifying = !self.lanes.values().any(|entry| entry.landing);
    }

    /// Allows a batch of `lane` to be written in place, unless nothing may be any more.
    pub(super) fn begin(&mut self, lane: LaneId) -> bool {
        self.lanes.get_mut(&lane).expect("entries stay").landing = !self.sealed;
        self.verifying = false;
        !self.sealed
    }
}
