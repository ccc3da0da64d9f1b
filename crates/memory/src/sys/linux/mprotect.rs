//! The mprotect tracker: clean pages cannot be written, and the fault of the first write marks
//! the page. How nothing gets lost is told in [`super::guarded`].

use whimbrel_page::{PageSet, Run};

use crate::tracked::Mechanism;
use crate::write_log::Logged;
use crate::{GuestMemory, KernelWrites, MemoryError, TrackerKind};

/// Works on every Linux.
pub(super) struct Mprotect;

impl Mechanism for Mprotect {
    const KIND: TrackerKind = TrackerKind::Mprotect;
    const KERNEL_WRITES: KernelWrites = KernelWrites::Refused;
    const LOGGED: Logged = Logged::Discards;

    fn arm(&mut self, memory: &GuestMemory) -> Result<(), MemoryError> {
        // A page that is placed is not written by anybody who could fault.
        drop(memory.placer().take());
        for (_, mapping) in memory.regions() {
            let guard =
                mapping.guard().map_err(MemoryError::os("install its page fault handler"))?;
            guard.take(|_, _| ());
            guard.close().map_err(MemoryError::os("write-protect guest memory"))?;
        }
        Ok(())
    }

    fn harvest(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError> {
        for (region, mapping) in memory.regions() {
            let guard = mapping.guard().map_err(MemoryError::os("find its page fault handler"))?;
            let mut insert = |first, count| {
                found.insert(Run::new(region, first, count));
            };
            let mut any = false;
            let all = guard.take(|first, count| {
                any = true;
                insert(first, count);
            });
            if any || all {
                guard.close().map_err(MemoryError::os("write-protect guest memory again"))?;
            }
            if all {
                mapping
                    .touched(insert)
                    .map_err(MemoryError::os("list the populated pages of guest memory"))?;
            }
        }
        Ok(())
    }

    fn peek(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError> {
        for (region, mapping) in memory.regions() {
            let guard = mapping.guard().map_err(MemoryError::os("find its page fault handler"))?;
            let mut insert = |first, count| {
                found.insert(Run::new(region, first, count));
            };
            if guard.peek(&mut insert) {
                mapping
                    .touched(insert)
                    .map_err(MemoryError::os("list the populated pages of guest memory"))?;
            }
        }
        Ok(())
    }

    fn disarm(&mut self, memory: &GuestMemory) -> Result<(), MemoryError> {
        let each = memory.regions().map(|(_, mapping)| mapping.guard()?.release());
        each.fold(Ok(()), Result::and).map_err(MemoryError::os("lift the write protection"))
    }
}
