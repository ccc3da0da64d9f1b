//! Reading a batch that a peer sent: every number is bounded before it is used.

use alloc::vec::Vec;

use twox_hash::XxHash3_64;
use whimbrel_page::{ByteCount, Disposition, Layout, PAGE_SIZE, PageCount, RegionId, Run};

use super::bytes::{Fields, is_sealed};
use super::{BATCH_HEADER_SIZE, BATCH_MAGIC, BatchRun, RUN_SIZE, RUNS_CHECKSUM_SIZE, code_of};
use crate::BatchSeq;
use crate::limits::{BATCH_PAGES_MAX, BATCH_PAYLOAD_MAX, BATCH_RUNS_MAX};

/// Why a batch is refused. The source or the link is at fault; nothing of the batch may land, and
/// the lane must be closed: where the next batch begins is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Not the first bytes of a batch.
    #[error("the source sent something that is not a batch; the lane is closed")]
    Magic,
    /// Damaged on the way.
    #[error("the {0} of a batch has a wrong checksum; the lane is closed, its pages come again")]
    Checksum(&'static str),
    /// A batch is missing, or came twice.
    #[error("batch {} came where {} was due; the lane is closed", got.0, due.0)]
    Sequence {
        /// The number it should have.
        due: BatchSeq,
        /// The number it has.
        got: BatchSeq,
    },
    /// More than was agreed, or nothing at all.
    #[error("a batch with {got} {what}, where 1 to {most} are allowed; the lane is closed")]
    Length {
        /// What there is too much of.
        what: &'static str,
        /// How much the header says.
        got: u64,
        /// How much there may be.
        most: u64,
    },
    /// The guest has no such pages, or the run is empty.
    #[error("a batch with {0}, which this guest does not have; the lane is closed")]
    Outside(Run),
    /// The run overlaps the one before it, or stands before it.
    #[error("a batch with {0} out of order; the lane is closed")]
    Disorder(Run),
    /// No such way to travel, or a reserved field is not 0.
    #[error("a batch with an unknown disposition {0}; bring both sides up to date")]
    Disposition(u32),
    /// Header and descriptors disagree.
    #[error("a batch whose runs do not add up to its {0}; the lane is closed")]
    Sum(&'static str),
}

/// The fixed part of a batch, within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Its position on the lane.
    pub seq: BatchSeq,
    /// Pages of all dispositions.
    pub pages: PageCount,
    /// Bytes behind the descriptors.
    pub payload: ByteCount,
    runs: u32,
    seal: u64,
}

impl BatchHeader {
    /// Bytes of the descriptors with their checksum.
    #[must_use]
    pub const fn runs_size(&self) -> usize {
        self.runs as usize * RUN_SIZE + RUNS_CHECKSUM_SIZE
    }
}

/// Reads the batches of one lane, which number themselves 1, 2, 3, …
#[derive(Debug)]
pub struct BatchReader {
    layout: Layout,
    payload_max: ByteCount,
    last: BatchSeq,
    runs: Vec<BatchRun>,
}

impl BatchReader {
    /// A reader for a guest of this layout, and batches of at most `payload_max`.
    #[must_use]
    pub fn new(layout: &Layout, payload_max: ByteCount) -> Self {
        let payload_max = payload_max.min(BATCH_PAYLOAD_MAX);
        Self { layout: layout.clone(), payload_max, last: BatchSeq(0), runs: Vec::new() }
    }

    /// Bytes the descriptors of a batch can have, with their checksum.
    pub const RUNS_SIZE_MAX: usize = BATCH_RUNS_MAX * RUN_SIZE + RUNS_CHECKSUM_SIZE;

    /// Judges a header: nothing behind it may be read before this says how much it is.
    ///
    /// # Errors
    /// [`BatchError`]; close the lane.
    pub fn header(&self, frame: &[u8; BATCH_HEADER_SIZE]) -> Result<BatchHeader, BatchError> {
        let mut fields = Fields(frame);
        if fields.u32() != BATCH_MAGIC {
            return Err(BatchError::Magic);
        }
        if !is_sealed(frame) {
            return Err(BatchError::Checksum("header"));
        }
        let (runs, seq) = (fields.u32(), BatchSeq(fields.u64()));
        let pages = PageCount(u64::from(fields.u32()));
        let payload = ByteCount(u64::from(fields.u32()));
        // wire.md B8
        let due = self.last.next();
        if seq != due {
            return Err(BatchError::Sequence { due, got: seq });
        }
        // wire.md B9
        bounded("runs", u64::from(runs), 1, BATCH_RUNS_MAX as u64)?;
        bounded("pages", pages.0, u64::from(runs), BATCH_PAGES_MAX.0)?;
        bounded("bytes of payload", payload.0, 0, self.payload_max.0)?;
        if payload > pages.bytes() || !payload.0.is_multiple_of(PAGE_SIZE as u64) {
            return Err(BatchError::Sum("payload"));
        }
        Ok(BatchHeader { seq, pages, payload, runs, seal: fields.u64() })
    }

    /// Judges the descriptors behind `header`, which are `header.runs_size()` bytes. Only after
    /// this may anything of the batch be written in place (wire.md B12).
    ///
    /// # Errors
    /// [`BatchError`]; close the lane.
    pub fn runs(&mut self, header: &BatchHeader, frame: &[u8]) -> Result<&[BatchRun], BatchError> {
        self.runs.clear();
        let (body, sum) = frame.split_last_chunk::<8>().ok_or(BatchError::Sum("runs"))?;
        if XxHash3_64::oneshot_with_seed(header.seal, body) != u64::from_le_bytes(*sum) {
            return Err(BatchError::Checksum("run list"));
        }
        let (mut pages, mut raw, mut after) = (PageCount::ZERO, PageCount::ZERO, (0, 0));
        for descriptor in body.chunks_exact(RUN_SIZE) {
            let BatchRun { run, disposition } = self.run(descriptor, &mut after)?;
            pages += run.count;
            if disposition == Disposition::Raw {
                raw += run.count;
            }
            self.runs.push(BatchRun { run, disposition });
        }
        if pages != header.pages || self.runs.len() != header.runs as usize {
            return Err(BatchError::Sum("pages"));
        }
        if raw.bytes() != header.payload {
            return Err(BatchError::Sum("payload"));
        }
        self.last = header.seq;
        Ok(&self.runs)
    }

    /// The runs that [`BatchReader::runs`] judged last.
    #[must_use]
    pub fn batch(&self) -> &[BatchRun] {
        &self.runs
    }

    /// One descriptor. `after` is where the last one ended: region by its place in the layout,
    /// then page (wire.md B11), so that one comparison finds what overlaps.
    fn run(&self, descriptor: &[u8], after: &mut (usize, u64)) -> Result<BatchRun, BatchError> {
        let mut fields = Fields(descriptor);
        let (first, region, count) = (fields.u64(), RegionId(fields.u32()), fields.u32());
        let run = Run::new(region, first, u64::from(count));
        let (code, reserved) = (fields.u32(), fields.u32());
        let known = [Disposition::Zero, Disposition::Raw].into_iter().find(|d| code_of(*d) == code);
        let disposition = known.filter(|_| reserved == 0).ok_or(BatchError::Disposition(code))?;
        // wire.md B10
        if !self.layout.contains(run) {
            return Err(BatchError::Outside(run));
        }
        let place = self.layout.position(region).ok_or(BatchError::Outside(run))?;
        if (place, first) < *after {
            return Err(BatchError::Disorder(run));
        }
        *after = (place, run.end().0);
        Ok(BatchRun { run, disposition })
    }
}

fn bounded(what: &'static str, got: u64, least: u64, most: u64) -> Result<(), BatchError> {
    if got < least || got > most {
        return Err(BatchError::Length { what, got, most });
    }
    Ok(())
}
