//! What all trackers share: the claim on the memory, the armed state, the log of the handle.

use whimbrel_page::{PageCount, PageSet};

use crate::write_log::Logged;
use crate::{DirtyTracker, GuestMemory, KernelWrites, MemoryError, TrackerKind};

/// How one kind of tracker finds written pages. Called in order: `arm`, any number of `harvest`
/// and `peek`, `disarm`; then perhaps `arm` again.
pub(crate) trait Mechanism: Send {
    const KIND: TrackerKind;
    const KERNEL_WRITES: KernelWrites;
    /// What the memory handle has to write down, because the mechanism does not see it.
    const LOGGED: Logged;

    /// On failure, `disarm` is called next.
    fn arm(&mut self, memory: &GuestMemory) -> Result<(), MemoryError>;

    /// Adds what was written to `found` and forgets it.
    fn harvest(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError>;

    /// Adds what was written to `found`.
    fn peek(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError>;

    /// As `peek`, and may take longer so that the next one does not.
    fn rehearse(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError> {
        self.peek(memory, found)
    }

    fn disarm(&mut self, memory: &GuestMemory) -> Result<(), MemoryError>;
}

/// A tracker of a memory it has a claim on.
pub(crate) struct Tracked<M: Mechanism> {
    claim: Claim,
    armed: bool,
    mechanism: M,
    /// The pages of one harvest, kept so that they can be counted.
    found: PageSet,
}

impl<M: Mechanism> Tracked<M> {
    pub(crate) fn new(memory: &GuestMemory, mechanism: M) -> Result<Self, MemoryError> {
        let claim = Claim::take(memory, M::KIND)?;
        Ok(Self { claim, armed: false, mechanism, found: PageSet::new(memory.layout()) })
    }

    fn expect(&self, armed: bool) -> Result<(), MemoryError> {
        let wrong = MemoryError::Armed { kind: M::KIND, armed: self.armed };
        if self.armed == armed { Ok(()) } else { Err(wrong) }
    }

    /// Lets the mechanism and the log add to an empty set, then merges and counts it.
    fn collect(
        &mut self,
        into: &mut PageSet,
        gather: impl FnOnce(&mut M, &GuestMemory, &mut PageSet) -> Result<(), MemoryError>,
    ) -> Result<PageCount, MemoryError> {
        self.expect(true)?;
        self.found.clear();
        gather(&mut self.mechanism, &self.claim.memory, &mut self.found)?;
        into.union_with(&self.found);
        Ok(self.found.count())
    }

    /// Collects, and leaves the log as it is.
    fn look(
        &mut self,
        into: &mut PageSet,
        gather: fn(&mut M, &GuestMemory, &mut PageSet) -> Result<(), MemoryError>,
    ) -> Result<PageCount, MemoryError> {
        self.collect(into, |mechanism, memory, found| {
            memory.log().peek(found);
            gather(mechanism, memory, found)
        })
    }

    fn end(&mut self) -> Result<(), MemoryError> {
        let memory = &self.claim.memory;
        let outcome = self.mechanism.disarm(memory);
        memory.refuse_kernel_writes(false);
        memory.log().stop();
        self.armed = false;
        outcome
    }
}

impl<M: Mechanism> DirtyTracker for Tracked<M> {
    fn kind(&self) -> TrackerKind {
        M::KIND
    }

    fn kernel_writes(&self) -> KernelWrites {
        M::KERNEL_WRITES
    }

    fn arm(&mut self) -> Result<(), MemoryError> {
        self.expect(false)?;
        let memory = &self.claim.memory;
        memory.log().start(M::LOGGED);
        memory.refuse_kernel_writes(M::KERNEL_WRITES != KernelWrites::Tracked);
        if let Err(error) = self.mechanism.arm(memory) {
            // The reason why it could not be armed is the one to report.
            let _ = self.end();
            return Err(error);
        }
        self.armed = true;
        Ok(())
    }

    fn harvest(&mut self, into: &mut PageSet) -> Result<PageCount, MemoryError> {
        self.collect(into, |mechanism, memory, found| {
            memory.log().drain(found);
            mechanism.harvest(memory, found)
        })
    }

    fn harvest_paused(&mut self, into: &mut PageSet) -> Result<PageCount, MemoryError> {
        self.look(into, M::peek)
    }

    fn rehearse(&mut self, into: &mut PageSet) -> Result<PageCount, MemoryError> {
        self.look(into, M::rehearse)
    }

    fn disarm(&mut self) -> Result<(), MemoryError> {
        if self.armed { self.end() } else { Ok(()) }
    }
}

impl<M: Mechanism> Drop for Tracked<M> {
    fn drop(&mut self) {
        // Nobody is left to be told, and the mechanism's own drop comes next.
        let _ = self.disarm();
    }
}

/// The right to track a memory, held by one tracker at a time.
struct Claim {
    memory: GuestMemory,
}

impl Claim {
    fn take(memory: &GuestMemory, kind: TrackerKind) -> Result<Self, MemoryError> {
        let mut owner = memory.tracker_owner();
        if let Some(other) = *owner {
            return Err(MemoryError::AlreadyTracked(other));
        }
        *owner = Some(kind);
        drop(owner);
        Ok(Self { memory: memory.clone() })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        *self.memory.tracker_owner() = None;
    }
}
