//! Building a batch from what was found in the pages of a taking.

use alloc::vec::Vec;

use twox_hash::XxHash3_64;
use whimbrel_page::{ByteCount, Disposition, PageCount, PageIndex, RegionId, Run};

use super::{BATCH_HEADER_SIZE, BATCH_MAGIC, BatchRun, RUN_SIZE, RUNS_CHECKSUM_SIZE, code_of};
use crate::BatchSeq;
use crate::limits::BATCH_PAGES_MAX;

/// Describes and encodes one batch after the other, in buffers it keeps.
#[derive(Debug, Default)]
pub struct BatchWriter {
    runs: Vec<BatchRun>,
    pages: PageCount,
    /// Those of them that stand in the payload.
    raw: PageCount,
    head: Vec<u8>,
}

impl BatchWriter {
    /// Describes the pages of a taking, in its order; `Unchanged` ones are left out, neighbours
    /// that travel the same way become one run.
    ///
    /// # Panics
    /// If there are more than [`BATCH_PAGES_MAX`] of them.
    pub fn describe(&mut self, pages: impl Iterator<Item = (RegionId, PageIndex, Disposition)>) {
        self.runs.clear();
        (self.pages, self.raw) = (PageCount::ZERO, PageCount::ZERO);
        for (region, page, disposition) in pages {
            if disposition != Disposition::Unchanged {
                assert!(self.pages < BATCH_PAGES_MAX, "a batch has at most {BATCH_PAGES_MAX}");
                self.push(region, page, disposition);
            }
        }
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs of the batch.
    #[must_use]
    pub fn runs(&self) -> &[BatchRun] {
        &self.runs
    }

    /// How many pages it has.
    #[must_use]
    pub const fn pages(&self) -> PageCount {
        self.pages
    }

    /// Bytes of the payload: the raw pages, one after the other.
    #[must_use]
    pub fn payload_size(&self) -> ByteCount {
        self.raw.bytes()
    }

    /// All bytes of the batch on the wire.
    #[must_use]
    pub fn wire_size(&self) -> ByteCount {
        let runs = self.runs.len() * RUN_SIZE + RUNS_CHECKSUM_SIZE;
        ByteCount((BATCH_HEADER_SIZE + runs) as u64) + self.payload_size()
    }

    /// Header and descriptors as they stand on the wire, before the payload (wire.md B7). The
    /// number is given here, when the batch is about to be sent, and nowhere earlier (B8).
    ///
    /// # Panics
    /// If nothing was described.
    pub fn encode(&mut self, seq: BatchSeq) -> &[u8] {
        assert!(!self.is_empty(), "a batch has at least one run");
        let payload = self.payload_size();
        self.head.clear();
        put(&mut self.head, &BATCH_MAGIC.to_le_bytes());
        put(&mut self.head, &(self.runs.len() as u32).to_le_bytes());
        put(&mut self.head, &seq.0.to_le_bytes());
        put(&mut self.head, &(self.pages.0 as u32).to_le_bytes());
        put(&mut self.head, &(payload.0 as u32).to_le_bytes());
        let seal = XxHash3_64::oneshot(&self.head);
        put(&mut self.head, &seal.to_le_bytes());
        for BatchRun { run, disposition } in &self.runs {
            put(&mut self.head, &run.first.0.to_le_bytes());
            put(&mut self.head, &run.region.0.to_le_bytes());
            put(&mut self.head, &(run.count.0 as u32).to_le_bytes());
            put(&mut self.head, &code_of(*disposition).to_le_bytes());
            put(&mut self.head, &[0; 4]);
        }
        let runs = XxHash3_64::oneshot_with_seed(seal, &self.head[BATCH_HEADER_SIZE..]);
        put(&mut self.head, &runs.to_le_bytes());
        &self.head
    }

    /// What [`BatchWriter::encode`] gave last.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    fn push(&mut self, region: RegionId, page: PageIndex, disposition: Disposition) {
        self.pages += PageCount(1);
        self.raw += PageCount(u64::from(disposition == Disposition::Raw));
        if let Some(last) = self.runs.last_mut() {
            let joins = last.run.region == region && last.run.end() == page;
            if joins && last.disposition == disposition {
                last.run.count += PageCount(1);
                return;
            }
        }
        self.runs.push(BatchRun { run: Run::new(region, page.0, 1), disposition });
    }
}

fn put(head: &mut Vec<u8>, field: &[u8]) {
    head.extend_from_slice(field);
}
