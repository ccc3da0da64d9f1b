//! The model tracker: the memory handle's own log.

use whimbrel_page::PageSet;

use crate::tracked::Mechanism;
use crate::write_log::Logged;
use crate::{GuestMemory, KernelWrites, MemoryError, TrackerKind};

/// Reports what was written through [`GuestMemory`]. Works everywhere, for there is no operating
/// system in it; a write that goes past the handle is not seen.
pub(crate) struct Model;

impl Mechanism for Model {
    const KIND: TrackerKind = TrackerKind::Model;
    const KERNEL_WRITES: KernelWrites = KernelWrites::Tracked;
    const LOGGED: Logged = Logged::Writes;

    fn arm(&mut self, _: &GuestMemory) -> Result<(), MemoryError> {
        Ok(())
    }

    fn harvest(&mut self, _: &GuestMemory, _: &mut PageSet) -> Result<(), MemoryError> {
        Ok(())
    }

    fn peek(&mut self, _: &GuestMemory, _: &mut PageSet) -> Result<(), MemoryError> {
        Ok(())
    }

    fn disarm(&mut self, _: &GuestMemory) -> Result<(), MemoryError> {
        Ok(())
    }
}
