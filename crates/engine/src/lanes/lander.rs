//! The thread of one lane on the destination: receive, check, digest, write in place, acknowledge.

use std::io::IoSlice;
use std::sync::Arc;

use whimbrel_memory::MemoryError;
use whimbrel_page::{ByteCount, Disposition, Leaf, LeafSum, PAGE_SIZE};
use whimbrel_protocol::batch::{
    Ack, BATCH_HEADER_SIZE, BatchError, BatchHeader, BatchReader, BatchRun,
};
use whimbrel_protocol::limits::{ACK_EVERY_MAX, BATCH_PAYLOAD_MAX};
use whimbrel_protocol::{BatchSeq, LaneId, LaneMark};
use whimbrel_transport::{Lane, LaneError, Woken};

use super::Carried;
use super::destination::Shared;

/// Why a lander stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum LandError {
    #[error(transparent)]
    Lane(#[from] LaneError),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("guest memory could not be written: {0}")]
    Memory(#[from] MemoryError),
    #[error("a batch came after the memory was sealed; the source must not send then")]
    Sealed,
}

/// Batches that are landed without an acknowledgement while more have arrived: half of the smallest
/// window, so that the source goes on while the other half lands; seldom enough to cost nothing.
const ACK_EVERY: u64 = 2;
const _: () = assert!(ACK_EVERY <= ACK_EVERY_MAX as u64);

pub(super) struct Lander {
    shared: Arc<Shared>,
    connection: Box<dyn Lane>,
    carried: Arc<Carried>,
    reader: BatchReader,
    /// Descriptors as they come.
    head: Vec<u8>,
    /// Payload as it comes; private, so that what is digested is what is written.
    payload: Vec<u8>,
    leaves: Vec<Leaf>,
    landed: LaneMark,
    acked: BatchSeq,
}

impl Lander {
    pub(super) fn new(
        shared: Arc<Shared>,
        lane: LaneId,
        connection: Box<dyn Lane>,
        carried: Arc<Carried>,
    ) -> Self {
        let reader = BatchReader::new(shared.landing.layout(), BATCH_PAYLOAD_MAX);
        Self {
            shared,
            connection,
            carried,
            reader,
            head: Vec::new(),
            payload: Vec::new(),
            leaves: Vec::new(),
            landed: LaneMark { lane, batch: BatchSeq(0), sum: LeafSum::ZERO },
            acked: BatchSeq(0),
        }
    }

    /// Works until the source has no more, or the lane is cancelled or fails.
    pub(super) fn run(mut self) -> Result<(), LandError> {
        while let Some(header) = self.header()? {
            self.receive(&header)?;
            self.land(&header)?;
            // wire.md B16
            if self.landed.batch.0 - self.acked.0 >= ACK_EVERY {
                self.acknowledge()?;
            }
        }
        Ok(())
    }

    /// The next header. What has landed is acknowledged before there is anything to wait for.
    fn header(&mut self) -> Result<Option<BatchHeader>, LandError> {
        let mut frame = [0; BATCH_HEADER_SIZE];
        let mut filled = 0;
        while filled == 0 {
            filled = match self.connection.try_receive(&mut frame) {
                // wire.md B19
                Err(LaneError::Closed) => return self.acknowledge().map(|()| None),
                received => received?,
            };
            if filled == 0 {
                self.acknowledge()?;
                self.wait()?;
            }
        }
        self.connection.receive(&mut frame[filled..])?;
        Ok(Some(self.reader.header(&frame)?))
    }

    /// Waits for the source's next batch, for as long as it has none: that is no fault. A dead
    /// peer is found by the transport's probes, a dead session by the driver, which cancels.
    fn wait(&mut self) -> Result<(), LandError> {
        loop {
            match self.connection.wait(self.shared.options.stall_timeout)? {
                Woken::Readable => return Ok(()),
                Woken::Called | Woken::TimedOut => {}
            }
        }
    }

    /// Receives descriptors and payload into this lane's own buffers, which grow to the largest
    /// batch that came; the header was bounded first.
    fn receive(&mut self, header: &BatchHeader) -> Result<(), LandError> {
        fit(&mut self.head, header.runs_size());
        self.connection.receive(&mut self.head)?;
        self.reader.runs(header, &self.head)?;
        fit(&mut self.payload, header.payload.0 as usize);
        self.connection.receive(&mut self.payload)?;
        self.leaves.clear();
        self.leaves.extend(self.payload.chunks_exact(PAGE_SIZE).map(Leaf::of));
        Ok(())
    }

    fn land(&mut self, header: &BatchHeader) -> Result<(), LandError> {
        self.forget()?;
        self.write()?;
        self.know(header);
        let wire = BATCH_HEADER_SIZE + self.head.len() + self.payload.len();
        self.carried.add(ByteCount(wire as u64), header.pages);
        Ok(())
    }

    /// From the first byte that is written in place until all is digested, nothing is known of
    /// these pages (law 4).
    fn forget(&mut self) -> Result<(), LandError> {
        let mut state = self.shared.lock();
        if !state.begin(self.landed.lane) {
            return Err(LandError::Sealed);
        }
        for BatchRun { run, .. } in self.reader.batch() {
            for page in run.pages() {
                state.leaves.set(run.region, page, Leaf::Unknown);
            }
        }
        Ok(())
    }

    fn write(&self) -> Result<(), LandError> {
        let (landing, batch) = (&self.shared.landing, self.reader.batch());
        let with = |wanted| batch.iter().filter(move |batch| batch.disposition == wanted);
        with(Disposition::Zero).try_for_each(|BatchRun { run, .. }| landing.zero(*run))?;
        let mut rest = &self.payload[..];
        let raw = with(Disposition::Raw).map(move |BatchRun { run, .. }| {
            let (pages, after) = rest.split_at(run.count.bytes().0 as usize);
            rest = after;
            (*run, pages)
        });
        #[cfg(test)]
        if let Some(pages) = self.shared.tears_after(self.landed.lane) {
            return super::tests::tear(landing, raw, pages);
        }
        Ok(landing.write_runs(raw)?)
    }

    /// The pages are in place: their leaves are what was digested from the private copy.
    fn know(&mut self, header: &BatchHeader) {
        let mut state = self.shared.lock();
        let mut digested = self.leaves.iter();
        for BatchRun { run, disposition } in self.reader.batch() {
            for page in run.pages() {
                let leaf = match disposition {
                    Disposition::Zero => Leaf::Zero,
                    _ => *digested.next().expect("a leaf for each raw page"),
                };
                self.landed.sum = self.landed.sum.plus(leaf.mix(run.region, page));
                state.leaves.set(run.region, page, leaf);
            }
        }
        self.landed.batch = header.seq;
        self.shared.landed(&mut state, self.landed);
    }

    fn acknowledge(&mut self) -> Result<(), LandError> {
        if self.acked < self.landed.batch {
            let ack = Ack { landed: self.landed.batch, sum: self.landed.sum }.encode();
            self.connection.send(&mut [IoSlice::new(&ack)])?;
            self.acked = self.landed.batch;
        }
        Ok(())
    }
}

/// Makes `buffer` this long, and no larger than the largest that came.
fn fit(buffer: &mut Vec<u8>, size: usize) {
    buffer.reserve_exact(size.saturating_sub(buffer.len()));
    buffer.resize(size, 0);
}
