//! The model tracker: the memory handle's own log.

use whimbrel_page::{PageCount, PageSet};

use crate::tracker::Claim;
use crate::write_log::Logged;
use crate::{DirtyTracker, KernelWrites, MemoryError, TrackerKind};

/// Reports what was written through [`crate::GuestMemory`]. Works everywhere, for there is no
/// operating system in it; a write that goes past the handle is not seen.
pub(crate) struct Model {
    claim: Claim,
    armed: bool,
    /// The pages of one harvest, kept so that they can be counted.
    found: PageSet,
}

impl Model {
    pub(crate) fn new(claim: Claim) -> Self {
        let found = PageSet::new(claim.memory().layout());
        Self { claim, armed: false, found }
    }

    fn expect(&self, armed: bool) -> Result<(), MemoryError> {
        let kind = self.kind();
        if self.armed == armed {
            Ok(())
        } else {
            Err(MemoryError::Armed { kind, armed: self.armed })
        }
    }
}

impl DirtyTracker for Model {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Model
    }

    fn kernel_writes(&self) -> KernelWrites {
        KernelWrites::Tracked
    }

    fn arm(&mut self) -> Result<(), MemoryError> {
        self.expect(false)?;
        self.claim.memory().log().start(Logged::Writes);
        self.armed = true;
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageSet) -> Result<PageCount, MemoryError> {
        self.expect(true)?;
        self.found.clear();
        self.claim.memory().log().drain(&mut self.found);
        into.union_with(&self.found);
        Ok(self.found.count())
    }

    fn harvest_paused(&mut self, into: &mut PageSet) -> Result<PageCount, MemoryError> {
        self.expect(true)?;
        self.found.clear();
        self.claim.memory().log().peek(&mut self.found);
        into.union_with(&self.found);
        Ok(self.found.count())
    }

    fn disarm(&mut self) -> Result<(), MemoryError> {
        self.claim.memory().log().stop();
        self.armed = false;
        Ok(())
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.claim.memory().log().stop();
    }
}
