//! The thread of one lane on the source: take, copy, digest, send; and hear what has landed.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use whimbrel_memory::MemoryError;
use whimbrel_page::{ByteCount, Leaf, PAGE_SIZE, PageCount};
use whimbrel_protocol::LaneId;
use whimbrel_protocol::batch::{ACK_SIZE, Ack, AckError, BatchWriter};
use whimbrel_protocol::ledger::{AckFault, Flight, Take};
use whimbrel_protocol::limits::BATCHES_IN_FLIGHT_MAX;
use whimbrel_transport::{Lane, LaneError, Woken};

use super::Carried;
use super::source::Shared;

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
}

pub(super) struct Sender {
    shared: Arc<Shared>,
    lane: LaneId,
    connection: Box<dyn Lane>,
    window: ByteCount,
    carried: Arc<Carried>,
    take: Take,
    writer: BatchWriter,
    /// The private copies of the pages of a taking. Stays in the cache of this thread's core.
    buffer: Vec<u8>,
    acks: Acks,
    /// When the destination last had no reason to be silent any longer.
    heard: Instant,
}

/// What to do next.
enum Step {
    /// Something was taken.
    Send,
    /// Wait for an acknowledgement, if any is due, or for something to take.
    Wait { due: bool },
}

impl Sender {
    pub(super) fn new(
        shared: Arc<Shared>,
        lane: LaneId,
        connection: Box<dyn Lane>,
        window: ByteCount,
        carried: Arc<Carried>,
    ) -> Self {
        let buffer = vec![0; shared.options.batch_pages().bytes().0 as usize];
        Self {
            shared,
            lane,
            connection,
            window,
            carried,
            take: Take::default(),
            writer: BatchWriter::default(),
            buffer,
            acks: Acks::default(),
            heard: Instant::now(),
        }
    }

    /// Works until the lane is cancelled or fails.
    pub(super) fn run(mut self) -> Result<(), SendError> {
        loop {
            let ack = self.acks.newest(&mut *self.connection)?;
            match self.next(ack)? {
                Step::Send => self.send()?,
                Step::Wait { due } => self.wait(due)?,
            }
        }
    }

    /// One visit to the ledger: what has landed goes in, what to send next comes out.
    fn next(&mut self, ack: Option<Ack>) -> Result<Step, SendError> {
        let mut state = self.shared.lock();
        if let Some(Ack { landed, sum }) = ack {
            state.ledger.acked(self.lane, landed, sum)?;
            self.heard = Instant::now();
        }
        let flight = state.ledger.flight(self.lane);
        let budget = self.budget(flight);
        // A taking of nothing would still send the round's cursor back to its beginning.
        let taken = match budget {
            PageCount::ZERO => PageCount::ZERO,
            pages => state.ledger.take(self.lane, pages, &mut self.take),
        };
        self.shared.announce(&mut state);
        let idle = taken == PageCount::ZERO;
        state.set_idle(self.lane, idle);
        if flight.batches == 0 {
            self.heard = Instant::now();
        }
        Ok(if idle { Step::Wait { due: flight.batches > 0 } } else { Step::Send })
    }

    /// A whole batch if the window has room for more than half of it, else nothing: small batches
    /// would cost more than they gain.
    fn budget(&self, flight: Flight) -> PageCount {
        let batch = self.shared.options.batch_pages();
        let room = flight.bytes.0 + batch.bytes().0 / 2 <= self.window.0;
        // wire.md B18
        let fits = room && flight.batches < BATCHES_IN_FLIGHT_MAX;
        if fits || flight.batches == 0 { batch } else { PageCount::ZERO }
    }

    fn wait(&mut self, due: bool) -> Result<(), SendError> {
        let stall = self.shared.options.stall_timeout;
        let within = if due { stall.saturating_sub(self.heard.elapsed()) } else { stall };
        match self.connection.wait(within)? {
            Woken::TimedOut if due => Err(SendError::Silent(stall)),
            Woken::Readable | Woken::Called | Woken::TimedOut => Ok(()),
        }
    }

    fn send(&mut self) -> Result<(), SendError> {
        self.copy()?;
        self.writer.describe(self.take.dispositions());
        let wire = self.writer.wire_size();
        let sent = {
            let mut state = self.shared.lock();
            let sent = state.ledger.sent(self.lane, &self.take, wire);
            self.shared.announce(&mut state);
            sent
        };
        let Some(seq) = sent else { return Ok(()) };
        self.writer.encode(seq);
        self.transmit()?;
        self.carried.add(wire, self.writer.pages());
        Ok(())
    }

    /// Copies each page once and digests it while it is warm. The pages were harvested before
    /// (law 1), so that a torn copy is followed by another one.
    fn copy(&mut self) -> Result<(), SendError> {
        let mut rest = &mut self.buffer[..];
        for run in 0..self.take.runs().len() {
            let run = self.take.runs()[run];
            let (pages, after) = rest.split_at_mut(run.count.bytes().0 as usize);
            self.shared.memory.copy_run(run, pages)?;
            for page in pages.chunks_exact(PAGE_SIZE) {
                self.take.found(Leaf::of(page));
            }
            rest = after;
        }
        Ok(())
    }

    /// Sends the batch. The parts are gathered on the stack, a handful at a time.
    fn transmit(&mut self) -> Result<(), SendError> {
        const PARTS: usize = 64;
        let payload = self.writer.payload().map(|part| &self.buffer[part]);
        let mut parts = std::iter::once(self.writer.head()).chain(payload);
        loop {
            let mut gathered = [IoSlice::new(&[]); PARTS];
            let mut count = 0;
            for (slot, part) in gathered.iter_mut().zip(&mut parts) {
                *slot = IoSlice::new(part);
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            self.connection.send(&mut gathered[..count])?;
        }
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
