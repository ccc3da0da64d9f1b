//! Dirty tracking: the trait, the kinds there are, and who may open one.

use std::fmt;
use std::str::FromStr;

use whimbrel_page::{PageCount, PageSet};

use crate::model::Model;
use crate::tracked::Tracked;
use crate::{GuestMemory, MemoryError, sys};

/// What a tracker makes of writes the kernel does for the process (`read(2)` into guest memory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelWrites {
    /// They are harvested like any other.
    Tracked,
    /// They fail with EFAULT and change nothing while the tracker is armed.
    /// [`GuestMemory::read_file`] and [`GuestMemory::read_from`] work all the same.
    Refused,
    /// Some are harvested and some are missed, so nobody may let the kernel write into guest
    /// memory. [`GuestMemory::read_file`] and [`GuestMemory::read_from`] never do.
    Missed,
}

/// Finds out which pages of a guest's memory were written, while the guest goes on writing.
///
/// The order that loses nothing: `arm`, *then* ask [`GuestMemory::touched`] and read pages; for
/// every later round `harvest`, *then* read. A write that falls between a harvest and the read
/// shows in the next harvest.
///
/// Dropping a tracker disarms it and lets another one be opened.
pub trait DirtyTracker: Send {
    /// Which tracker this is.
    fn kind(&self) -> TrackerKind;

    /// Its name, as a person would type it.
    fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// What happens to writes by the kernel while it is armed.
    fn kernel_writes(&self) -> KernelWrites;

    /// Tracks from now on. What was written before is not reported; everything that is written
    /// after this returns is.
    ///
    /// # Errors
    /// The memory is then as fast, and as untracked, as before.
    fn arm(&mut self) -> Result<(), MemoryError>;

    /// Adds every page written since the last harvest (or since `arm`) to `into`, and forgets
    /// them. Returns how many pages this harvest found, whether or not `into` had them. May name
    /// a page that was not written; never leaves one out.
    ///
    /// # Errors
    /// The attempt is lost: some pages may be forgotten and not reported. Disarm; a next attempt
    /// arms again and starts from all touched pages.
    ///
    /// # Panics
    /// If `into` is over another layout than the memory's.
    fn harvest(&mut self, into: &mut PageSet) -> Result<PageCount, MemoryError>;

    /// The harvest of a parked guest: as [`DirtyTracker::harvest`], but free to leave the pages
    /// on record, so that the next harvest may name them again. Cheaper, as no page has to be
    /// protected anew.
    ///
    /// # Errors
    /// As [`DirtyTracker::harvest`].
    fn harvest_paused(&mut self, into: &mut PageSet) -> Result<PageCount, MemoryError> {
        self.harvest(into)
    }

    /// As [`DirtyTracker::harvest_paused`], of a guest that is not parked yet: may take longer, so
    /// that the harvest of the parked guest does not.
    ///
    /// # Errors
    /// As [`DirtyTracker::harvest`].
    fn rehearse(&mut self, into: &mut PageSet) -> Result<PageCount, MemoryError> {
        self.harvest_paused(into)
    }

    /// Ends tracking: the guest then runs at full speed. May be called when not armed, and the
    /// tracker may be armed again.
    ///
    /// # Errors
    /// The tracker is disarmed all the same, but the guest may run slower than it should.
    fn disarm(&mut self) -> Result<(), MemoryError>;
}

/// The trackers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrackerKind {
    /// userfaultfd in its asynchronous write-protect mode, with PAGEMAP_SCAN. Linux 6.7 and later.
    Userfaultfd,
    /// Page protection and a SIGSEGV handler. Any Unix. Threads that write guest memory must not
    /// block that signal.
    Mprotect,
    /// GetWriteWatch, for memory that was allocated to be watched. Windows.
    WriteWatch,
    /// Records what is written through [`GuestMemory`], and sees nothing else: for tests.
    Model,
}

impl TrackerKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Userfaultfd, Self::Mprotect, Self::WriteWatch, Self::Model];

    /// The kinds that this system has, best first; whether one works is for a probe to find out.
    pub fn here() -> impl Iterator<Item = Self> {
        sys::TRACKERS.iter().copied().chain([Self::Model])
    }

    /// Its name, as a person would type it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Userfaultfd => "userfaultfd",
            Self::Mprotect => "mprotect",
            Self::WriteWatch => "write-watch",
            Self::Model => "model",
        }
    }
}

impl fmt::Display for TrackerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no tracker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no tracker {0:?}; there are userfaultfd, mprotect, write-watch and model")]
pub struct NoSuchTracker(String);

impl FromStr for TrackerKind {
    type Err = NoSuchTracker;

    fn from_str(name: &str) -> Result<Self, NoSuchTracker> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| NoSuchTracker(name.to_owned()))
    }
}

/// Who writes a guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Threads of this process, other processes (a second mapping, `process_vm_writev`,
    /// vhost-user, a debugger), devices, and workers of the kernel (KVM's for a vCPU whose page
    /// has been swapped out, vhost's, those of registered io_uring buffers). Right for every
    /// virtual machine.
    Anyone,
    /// Threads of this process and nobody else, by themselves or in a system call of theirs that
    /// has come back. Under KVM nothing would be gained: a vCPU's faults are not logged.
    OwnThreads,
}

/// Opens a tracker of this kind on `memory`, disarmed. A memory has one tracker at a time.
///
/// # Errors
/// [`MemoryError::AlreadyTracked`] while another tracker of this memory exists,
/// [`MemoryError::Unsupported`] if this kind does not work here.
pub fn open(kind: TrackerKind, memory: &GuestMemory) -> Result<Box<dyn DirtyTracker>, MemoryError> {
    open_for(kind, memory, Writers::Anyone)
}

/// As [`open`], for memory that has these writers until the tracker is dropped. What others write
/// where it was said that only own threads do may be missed; in return a harvest costs what was
/// written since the last one, and not what there is. (With userfaultfd, where the host logs page
/// faults for this process: perf events are allowed to it.)
///
/// # Errors
/// As [`open`].
pub fn open_for(
    kind: TrackerKind,
    memory: &GuestMemory,
    writers: Writers,
) -> Result<Box<dyn DirtyTracker>, MemoryError> {
    match kind {
        TrackerKind::Model => Ok(Box::new(Tracked::new(memory, Model)?)),
        real => sys::open(real, memory, writers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for kind in TrackerKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("soft-dirty".parse::<TrackerKind>().is_err());
    }
}
