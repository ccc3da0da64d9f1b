//! What is under way on one lane.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use whimbrel_page::{ByteCount, Leaf, LeafSum, PageIndex, RegionId, Run};

use super::Take;
use crate::BatchSeq;

/// How much is sent on a lane and not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flight {
    /// Bytes on the wire, in kernel buffers, and landed without an ack that arrived.
    pub bytes: ByteCount,
    /// Batches.
    pub batches: usize,
}

/// Why an acknowledgement cannot be true. The destination is at fault, or the link garbled a batch:
/// close the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckFault {
    /// It goes back, or names a batch that was never sent.
    #[error("batch {} was acknowledged, which is not under way; the lane is closed", .0.0)]
    NotInFlight(BatchSeq),
    /// What landed is not what was sent.
    #[error("batch {} did not land as it was sent; the lane is closed, its pages go again", .0.0)]
    Differs(BatchSeq),
}

#[derive(Clone, Debug, Default, Hash)]
pub(super) struct LaneAccount {
    /// Taken and not yet sent.
    pub(super) taken: Vec<Run>,
    /// The last batch that was sent.
    pub(super) last: BatchSeq,
    /// The sum the destination will have when that batch has landed.
    pub(super) sum: LeafSum,
    /// The last good acknowledgement.
    acked: BatchSeq,
    batches: VecDeque<Sent>,
    bytes: ByteCount,
}

/// One batch that was sent and is not acknowledged: the changed pages of a taking.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Sent {
    seq: BatchSeq,
    wire: ByteCount,
    /// The lane's sum when this batch has landed.
    sum: LeafSum,
    pub(super) runs: Vec<Run>,
    leaves: Vec<Leaf>,
}

impl LaneAccount {
    pub(super) fn flight(&self) -> Flight {
        Flight { bytes: self.bytes, batches: self.batches.len() }
    }

    pub(super) fn batches(&self) -> impl Iterator<Item = &Sent> {
        self.batches.iter()
    }

    pub(super) fn unacked_runs(&self) -> impl Iterator<Item = Run> {
        self.batches.iter().flat_map(|batch| batch.runs.iter().copied())
    }

    pub(super) fn push(&mut self, mut batch: Sent, wire: ByteCount) -> BatchSeq {
        self.last = self.last.next();
        self.sum = batch.sum;
        self.bytes += wire;
        batch.seq = self.last;
        batch.wire = wire;
        self.batches.push_back(batch);
        self.last
    }

    /// Whether `landed` and `sum` can be true. Said again, the last good ack is true.
    pub(super) fn check(&self, landed: BatchSeq, sum: LeafSum) -> Result<(), AckFault> {
        if landed == self.acked {
            return Ok(());
        }
        let batch = self.batches.iter().find(|batch| batch.seq == landed);
        match batch.ok_or(AckFault::NotInFlight(landed))?.sum == sum {
            true => Ok(()),
            false => Err(AckFault::Differs(landed)),
        }
    }

    /// The oldest batch, if it is not after `landed`.
    pub(super) fn pop_landed(&mut self, landed: BatchSeq) -> Option<Sent> {
        let batch = self.batches.pop_front_if(|batch| batch.seq <= landed)?;
        self.acked = batch.seq;
        self.bytes -= batch.wire;
        Some(batch)
    }
}

impl Sent {
    /// The changed pages of `take`, on top of a lane whose sum is `before`.
    pub(super) fn fill(&mut self, take: &Take, before: LeafSum) {
        self.runs.clear();
        self.leaves.clear();
        self.sum = before;
        for (region, page, leaf, _) in take.each().filter(|(.., changed)| *changed) {
            self.sum = self.sum.plus(leaf.mix(region, page));
            self.leaves.push(leaf);
            match self.runs.last_mut() {
                Some(last) if last.region == region && last.end() == page => last.count.0 += 1,
                _ => self.runs.push(Run::new(region, page.0, 1)),
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(super) fn pages(&self) -> impl Iterator<Item = (RegionId, PageIndex, Leaf)> {
        let places = self.runs.iter().flat_map(|run| run.pages().map(|page| (run.region, page)));
        places.zip(&self.leaves).map(|((region, page), leaf)| (region, page, *leaf))
    }
}
