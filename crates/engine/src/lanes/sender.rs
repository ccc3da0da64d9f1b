//! The thread of one lane on the source: take, copy, digest, send; and hear what has landed.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use whimbrel_memory::MemoryError;
use whimbrel_page::{ByteCount, Disposition, Leaf, PAGE_SIZE, PageCount, Run};
use whimbrel_protocol::batch::{ACK_SIZE, Ack, AckError, BatchWriter};
use whimbrel_protocol::ledger::{AckFault, Flight, Take};
use whimbrel_protocol::limits::{BATCH_PAGES_MAX, BATCHES_IN_FLIGHT_MAX};
use whimbrel_protocol::{Claim, LaneId};
use whimbrel_transport::{Lane, LaneError, Woken};

use super::Carried;
use super::paths::PathId;
use super::source::{Shared, State};

/// Why a sender stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Lane(#[from] LaneError),
    #[error(transparent)]
    Ack(#[from] AckError),
    #[error(transparent)]
    Fault(#[from] AckFault),
    #[error("guest memory could not be read: {0}")]
    Memory(#[from] MemoryError),
    #[error("the destination acknowledged nothing for {0:?}")]
    Silent(Duration),
    #[error("another one takes its place on a path that needs it more")]
    Moved,
}

/// Until a lane that takes nothing yet asks again whether it may.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// A batch is full when this many times its room is less than it may carry.
const FULL_BELOW: u64 = 4;

pub(super) struct Sender {
    shared: Arc<Shared>,
    lane: LaneId,
    path: PathId,
    connection: Box<dyn Lane>,
    window: ByteCount,
    carried: Arc<Carried>,
    /// Under which limits the last taking was.
    claim: Claim,
    take: Take,
    writer: BatchWriter,
    /// The private copies of the pages that are sent of a taking, one after the other. Stays in
    /// the cache of this thread's core.
    buffer: Vec<u8>,
    acks: Acks,
    /// When the destination last had no reason to be silent any longer.
    heard: Instant,
}

/// What to do next.
enum Step {
    /// Something was taken.
    Send,
    /// Wait for an acknowledgement, if any is due, or for something to take; no longer than so.
    Wait { due: bool, most: Option<Duration> },
}

impl Sender {
    pub(super) fn new(
        shared: Arc<Shared>,
        (lane, path): (LaneId, PathId),
        connection: Box<dyn Lane>,
        window: ByteCount,
        carried: Arc<Carried>,
    ) -> Self {
        let buffer = vec![0; shared.options.batch_pages().bytes().0 as usize];
        Self {
            shared,
            lane,
            path,
            connection,
            window,
            carried,
            claim: Claim::default(),
            take: Take::default(),
            writer: BatchWriter::default(),
            buffer,
            acks: Acks::default(),
            heard: Instant::now(),
        }
    }

    /// Works until the lane is cancelled, fails or moves.
    pub(super) fn run(mut self) -> Result<(), SendError> {
        let ended = self.work();
        if let Err(error) = ended.as_ref() {
            let mut state = self.shared.lock();
            if self.blames_path(error, &state) {
                self.shared.path_failed(&mut state, self.path, &error.to_string());
            }
        }
        ended
    }

    /// Whether others on the same path would fare alike. A peer that hangs up shows that the path
    /// works, and so does what landed lately for others: on a path that is full, one may starve.
    fn blames_path(&self, error: &SendError, state: &State) -> bool {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        match error {
            SendError::Lane(LaneError::Link(error)) => {
                !matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
            }
            SendError::Lane(LaneError::Stalled(_)) | SendError::Silent(_) => {
                let lately = self.shared.options.stall_timeout / 2;
                !state.paths.landed_within(self.path, lately, Instant::now())
            }
            _ => false,
        }
    }

    fn work(&mut self) -> Result<(), SendError> {
        loop {
            let ack = self.acks.newest(&mut *self.connection)?;
            match self.next(ack)? {
                Step::Send => self.send()?,
                Step::Wait { due, most } => self.wait(due, most)?,
            }
        }
    }

    /// One visit to the ledger: what has landed goes in, what to send next comes out.
    fn next(&mut self, ack: Option<Ack>) -> Result<Step, SendError> {
        let mut state = self.shared.lock();
        if let Some(ack) = ack {
            self.heard = Instant::now();
            let landed = state.acked(self.lane, ack, self.shared.at(self.heard))?;
            state.paths.landed(self.path, landed, self.heard);
        }
        let flight = state.ledger.flight(self.lane);
        if state.leaves(self.lane, flight.batches) {
            return Err(SendError::Moved);
        }
        // Which limits hold is remembered for what is not sent in the end.
        let claim = Claim { from: state.paths.path(self.path).local, last: state.last };
        self.claim = claim;
        let (budget, most) = self.budget(&mut state, flight);
        // A taking of nothing would still send the round's cursor back to its beginning.
        let taken = match budget {
            PageCount::ZERO => PageCount::ZERO,
            pages => state.ledger.take(self.lane, pages, &mut self.take),
        };
        state.pace.take(self.claim, taken.bytes());
        self.shared.announce(&mut state);
        let idle = taken == PageCount::ZERO;
        state.set_idle(self.lane, idle);
        if flight.batches == 0 {
            self.heard = Instant::now();
        }
        Ok(if idle { Step::Wait { due: flight.batches > 0, most } } else { Step::Send })
    }

    /// A whole batch if the window has room for more than half of it, else nothing: small batches
    /// would cost more than they gain. On a slow path at the end it is what lands in time, and
    /// where there is a limit what it allows; where that is nothing it says when to ask again.
    fn budget(&self, state: &mut State, flight: Flight) -> (PageCount, Option<Duration>) {
        let batch = state.batch;
        let room = flight.bytes.0 + batch.bytes().0 / 2 <= self.window.0;
        // wire.md B18
        let fits = room && flight.batches < BATCHES_IN_FLIGHT_MAX;
        if state.is_moving(self.lane) || !(fits || flight.batches == 0) {
            return (PageCount::ZERO, None);
        }
        let pending = state.ledger.pending().bytes();
        let share = match state.paths.is_single() {
            true => batch,
            false => {
                state.count_spread();
                state.paths.share(self.path, pending, batch, &state.spread)
            }
        };
        match share {
            PageCount::ZERO => (PageCount::ZERO, Some(ASK_AGAIN)),
            pages => self.within_limits(state, pages),
        }
    }

    fn within_limits(&self, state: &mut State, pages: PageCount) -> (PageCount, Option<Duration>) {
        match state.pace.ask(self.claim, self.shared.at(Instant::now())) {
            Ok(most) => (pages.min(PageCount((most.0 / PAGE_SIZE as u64).max(1))), None),
            Err(wait) => (PageCount::ZERO, Some(wait)),
        }
    }

    fn wait(&mut self, due: bool, most: Option<Duration>) -> Result<(), SendError> {
        let stall = self.shared.options.stall_timeout;
        let within = if due { stall.saturating_sub(self.heard.elapsed()) } else { stall };
        let asks = most.is_some_and(|most| most < within);
        match self.connection.wait(most.map_or(within, |most| most.min(within)))? {
            Woken::TimedOut if due && !asks => Err(SendError::Silent(stall)),
            Woken::Readable | Woken::Called | Woken::TimedOut => Ok(()),
        }
    }

    fn send(&mut self) -> Result<(), SendError> {
        let claimed = self.fill()?;
        self.writer.describe(self.take.dispositions());
        let wire = self.writer.wire_size();
        let sent = {
            let mut state = self.shared.lock();
            let now = Instant::now();
            let sent = state.sent(self.lane, &self.take, wire, self.shared.at(now));
            let sends = if sent.is_some() { wire } else { ByteCount::ZERO };
            state.paths.sent(self.path, sends, now);
            let unused = claimed.bytes().0.saturating_sub(sends.0);
            state.pace.give_back(self.claim, ByteCount(unused));
            self.shared.announce(&mut state);
            sent
        };
        let Some(seq) = sent else { return Ok(()) };
        self.writer.encode(seq);
        self.transmit()?;
        self.carried.add(wire, self.writer.pages());
        Ok(())
    }

    /// Copies the taking, and takes more as long as much of it is zero or unchanged: a batch that
    /// carries little costs as much as a full one. Returns how many pages it may carry.
    fn fill(&mut self) -> Result<PageCount, SendError> {
        let claimed = self.take.pages();
        let mut kept = PageCount::ZERO;
        let mut copied = 0;
        loop {
            let taken = self.take.runs().len();
            kept = self.copy(copied..taken, kept)?;
            copied = taken;
            let room = claimed - kept;
            let full = room.0 * FULL_BELOW < claimed.0;
            if full || self.take.pages() + room > BATCH_PAGES_MAX {
                return Ok(claimed);
            }
            self.shared.lock().ledger.take_more(self.lane, room, &mut self.take);
            if self.take.runs().len() == copied {
                return Ok(claimed);
            }
        }
    }

    /// Copies each page once and digests it while it is warm; the next one takes the place of a
    /// page whose bytes are not sent. The pages were harvested before (law 1), so that a torn copy
    /// is followed by another one.
    fn copy(&mut self, runs: Range<usize>, mut kept: PageCount) -> Result<PageCount, SendError> {
        for run in runs {
            let run = self.take.runs()[run];
            for page in run.pages() {
                let copy = &mut self.buffer[kept.bytes().0 as usize..][..PAGE_SIZE];
                self.shared.memory.copy_run(Run::new(run.region, page.0, 1), copy)?;
                // The next page comes while this one is digested.
                if page.0 + 1 < run.end().0 {
                    self.shared.memory.prefetch(Run::new(run.region, page.0 + 1, 1));
                }
                if self.take.found(Leaf::of(copy)) == Disposition::Raw {
                    kept += PageCount(1);
                }
            }
        }
        Ok(kept)
    }

    fn transmit(&mut self) -> Result<(), SendError> {
        let payload = &self.buffer[..self.writer.payload_size().0 as usize];
        let mut parts = [IoSlice::new(self.writer.head()), IoSlice::new(payload)];
        Ok(self.connection.send(&mut parts)?)
    }
}

/// Acknowledgements as they arrive, the last one perhaps in part.
struct Acks {
    bytes: [u8; Self::ROOM],
    filled: usize,
}

impl Default for Acks {
    fn default() -> Self {
        Self { bytes: [0; Self::ROOM], filled: 0 }
    }
}

impl Acks {
    const ROOM: usize = 32 * ACK_SIZE;

    /// The newest acknowledgement that has arrived; it stands for all before it (wire.md B15).
    fn newest(&mut self, connection: &mut dyn Lane) -> Result<Option<Ack>, SendError> {
        let mut newest = None;
        loop {
            let received = connection.try_receive(&mut self.bytes[self.filled..])?;
            if received == 0 {
                return Ok(newest);
            }
            self.filled += received;
            let whole = self.filled / ACK_SIZE * ACK_SIZE;
            if let Some(last) = self.bytes[..whole].last_chunk::<ACK_SIZE>() {
                newest = Some(Ack::decode(last)?);
            }
            self.bytes.copy_within(whole..self.filled, 0);
            self.filled -= whole;
        }
    }
}
