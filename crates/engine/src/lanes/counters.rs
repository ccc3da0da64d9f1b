//! What the lanes of a source have done so far.

#[cfg(test)]
use std::sync::Arc;
use std::time::Instant;

use whimbrel_page::ByteCount;
use whimbrel_protocol::{LaneId, Throughput};

use super::SourceLanes;
use super::source::{Entry, Stage};
use crate::progress::LaneReport;

impl SourceLanes {
    /// Everything written to lanes so far.
    pub(crate) fn bytes(&self) -> ByteCount {
        self.shared.lock().lanes.values().map(|entry| entry.carried.bytes()).sum()
    }

    /// What the lanes have carried, by what was acknowledged.
    pub(crate) fn throughput(&self) -> Throughput {
        let now = self.shared.at(Instant::now());
        self.shared.lock().meter.read(now)
    }

    /// How many hold on to these lanes, their threads included.
    #[cfg(test)]
    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.shared)
    }

    /// Every lane there ever was.
    pub(crate) fn reports(&self) -> Vec<LaneReport> {
        let state = self.shared.lock();
        let report = |(lane, entry): (&LaneId, &Entry)| {
            entry.carried.report(*lane, entry.stage == Stage::Running)
        };
        state.lanes.iter().map(report).collect()
    }
}
