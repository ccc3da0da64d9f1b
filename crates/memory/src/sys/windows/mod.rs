//! Windows.
//!
//! Memory is private, committed as a whole, and watched for writes from its allocation on. There
//! is no memory file, no page that may be given back while others write beside it, and no kernel
//! write that a watch is sure to see: what is read from a file goes through ordinary memory.

mod own;
#[cfg(test)]
mod tests;
mod watch;

use std::fs::File;
use std::io;

use windows_sys::Win32::Foundation::ERROR_NOACCESS;

use super::Mapping;
use crate::tracked::Tracked;
use crate::{DirtyTracker, GuestMemory, MemoryError, TrackerKind, Writers};
pub(super) use own::Own;
pub(super) use watch::Guard;
use watch::WriteWatch;

/// The trackers that Windows has.
pub(crate) const TRACKERS: &[TrackerKind] = &[TrackerKind::WriteWatch];

/// Opens one of [`TRACKERS`].
pub(crate) fn open(
    kind: TrackerKind,
    memory: &GuestMemory,
    _: Writers,
) -> Result<Box<dyn DirtyTracker>, MemoryError> {
    match kind {
        TrackerKind::WriteWatch => Ok(Box::new(Tracked::new(memory, WriteWatch::new(memory)?)?)),
        _ => Err(super::foreign(kind)),
    }
}

/// There is nothing to say: the kernel is asked for the pages that were written.
pub(crate) fn harvests(_: TrackerKind) -> Option<String> {
    None
}

/// There is none: Windows watches no mapping of a file.
pub(super) fn memory_file(_: u64, _: bool) -> io::Result<File> {
    let why = "Windows finds no writes to shared memory; choose private memory";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

/// No file is read past the page tables here, as [`read_into`] reads none at all.
pub(crate) fn writes_behind_the_mmu(_: &File) -> bool {
    false
}

/// Whether the kernel could not write where it was told to.
pub(crate) fn is_fault(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ERROR_NOACCESS as i32)
}

/// Refuses, as a page would that cannot be written: the kernel marks a page when a call begins,
/// and a harvest between that and the write would lose it.
///
/// # Safety
/// `len` bytes at `to` are mapped and may change.
pub(super) unsafe fn read_into(_: &File, _: *mut u8, _: usize) -> io::Result<usize> {
    Err(io::Error::from_raw_os_error(ERROR_NOACCESS as i32))
}

/// Makes the pages zero that may be something else. Their memory is kept: pages that were
/// decommitted would fault whoever reads or writes them at that moment.
pub(super) fn give_back(mapping: &Mapping, offset: u64, len: u64) -> io::Result<()> {
    mapping.guard()?.touched_within(offset, len, |start, end| mapping.clear(start, end))
}

/// All memory is there from the beginning.
pub(crate) struct Populator;

impl Populator {
    pub(crate) const fn new() -> Self {
        Self
    }

    #[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
    pub(crate) fn populate<'a>(
        &self,
        _: impl Iterator<Item = (&'a Mapping, u64, usize)>,
    ) -> io::Result<()> {
        Ok(())
    }
}

/// Memory and content never come in one step here.
#[derive(Default)]
pub(crate) struct Placer;

impl Placer {
    pub(crate) fn begin<'a>(&self, _: impl Iterator<Item = &'a Mapping>) {}

    pub(crate) fn place(&self, _: &Mapping, _: u64, _: &[u8]) -> bool {
        false
    }
}

/// Hands every run of pages that were ever written to `each`, as first page and count. Those that
/// were discarded are among them.
pub(super) fn touched(mapping: &Mapping, each: impl FnMut(u64, u64)) -> io::Result<()> {
    mapping.guard()?.touched(each)
}

/// Bytes of the pages that were ever written.
pub(super) fn resident(mapping: &Mapping) -> io::Result<u64> {
    let mut pages = 0;
    touched(mapping, |_, count| pages += count)?;
    Ok(pages * whimbrel_page::PAGE_SIZE as u64)
}

/// The scheduler of Windows knows no turns that a thread could ask for: nothing is to be done.
///
/// # Errors
/// None here; other systems have some.
pub fn take_long_turns() -> io::Result<()> {
    Ok(())
}
