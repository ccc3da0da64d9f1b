//! Linux.

#[cfg(test)]
mod adopting;
mod crew;
mod extents;
mod fault;
mod fault_log;
mod guarded;
mod mprotect;
mod own;
#[cfg(test)]
mod own_process;
mod pagemap;
mod placer;
mod populator;
#[cfg(test)]
mod sparse;
mod suspects;
mod turns;
mod userfaultfd;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use whimbrel_page::{PAGE_SIZE, PageCount};

use super::Mapping;
use crate::tracked::Tracked;
use crate::{DirtyTracker, GuestMemory, MemoryError, TrackerKind, Writers};
use extents::Extents;
pub(super) use fault::Guard;
use fault_log::FaultLog;
use mprotect::Mprotect;
pub(super) use own::Own;
use pagemap::populated;
pub(crate) use placer::Placer;
pub(crate) use populator::Populator;
pub use turns::take_long_turns;
use userfaultfd::Userfaultfd;

/// The trackers that Linux has, best first.
pub(crate) const TRACKERS: &[TrackerKind] = &[TrackerKind::Userfaultfd, TrackerKind::Mprotect];

/// Opens one of [`TRACKERS`].
pub(crate) fn open(
    kind: TrackerKind,
    memory: &GuestMemory,
    writers: Writers,
) -> Result<Box<dyn DirtyTracker>, MemoryError> {
    Ok(match kind {
        TrackerKind::Userfaultfd => Box::new(Tracked::new(memory, Userfaultfd::new(writers)?)?),
        TrackerKind::Mprotect => Box::new(Tracked::new(memory, Mprotect)?),
        _ => return Err(super::foreign(kind)),
    })
}

/// What there is to say of the harvests of such a tracker on this host.
pub(crate) fn harvests(kind: TrackerKind) -> Option<String> {
    (kind == TrackerKind::Userfaultfd).then(|| match FaultLog::open() {
        Ok(_) => "the host logs page faults, so that a harvest looks where a guest has written \
            whose memory only its own threads write"
            .to_owned(),
        Err(error) => {
            let hint = match error.raw_os_error() {
                Some(libc::EACCES | libc::EPERM | libc::ENOSYS) => {
                    "; allow perf_event_open in the container or sandbox, and see the sysctl \
                     kernel.perf_event_paranoid"
                }
                _ => "",
            };
            let why = "a harvest looks at all of a guest's memory, as page faults cannot be logged";
            format!("{why} here: {error}{hint}")
        }
    })
}

/// The value of a system call, or the error it set.
fn checked(outcome: libc::c_long) -> io::Result<libc::c_long> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}

/// The number of an ioctl that hands a structure in and out: Linux's `_IOWR`.
const fn iowr(group: u8, number: u8, size: usize) -> u64 {
    ioctl(3, group, number, size)
}

/// The number of an ioctl that is said to hand a structure out: Linux's `_IOR`.
const fn ior(group: u8, number: u8, size: usize) -> u64 {
    ioctl(2, group, number, size)
}

const fn ioctl(way: u64, group: u8, number: u8, size: usize) -> u64 {
    way << 30 | (size as u64) << 16 | (group as u64) << 8 | number as u64
}

/// A file of `size` zero bytes that lives in memory and cannot change its size: a shorter file
/// would be a SIGBUS at the next access.
pub(super) fn memory_file(size: u64, huge: bool) -> io::Result<File> {
    let huge = if huge { libc::MFD_HUGETLB | libc::MFD_HUGE_2MB } else { 0 };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | huge;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"whimbrel-guest".as_ptr(), flags) };
    checked(fd.into())?;
    // SAFETY: the descriptor was just made and is nobody else's.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(size)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: a call without pointers.
    checked(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) }.into())?;
    Ok(file)
}

/// Whether reads from this file may go into memory by DMA, which no page table sees.
pub(crate) fn writes_behind_the_mmu(file: &File) -> bool {
    // SAFETY: a call without pointers.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    flags < 0 || flags & libc::O_DIRECT != 0
}

/// Whether the kernel could not write where it was told to.
pub(crate) fn is_fault(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EFAULT)
}

/// One `read(2)`.
///
/// # Safety
/// `len` bytes at `to` are mapped and may change.
pub(super) unsafe fn read_into(file: &File, to: *mut u8, len: usize) -> io::Result<usize> {
    // SAFETY: as the caller promised.
    let count = unsafe { libc::read(file.as_raw_fd(), to.cast(), len) };
    Ok(checked(count as libc::c_long)? as usize)
}

impl Mapping {
    /// The memory file, if the page tables forget what it knows: a page of it that is swapped out
    /// leaves no entry. Files of reserved huge pages are never swapped, nor do they tell data
    /// from holes.
    fn file(&self) -> Option<&File> {
        self.backing().filter(|_| self.granule == PageCount(1))
    }

    fn pages(&self) -> u64 {
        self.size() / PAGE_SIZE as u64
    }
}

/// Gives whole granules back, which are then zero.
pub(super) fn give_back(mapping: &Mapping, offset: u64, len: u64) -> io::Result<()> {
    let at = mapping.at(offset, len as usize);
    match mapping.backing() {
        Some(file) => punch_hole(file, offset, len),
        // SAFETY: `at` has checked the range; no reference to guest memory exists.
        None => unsafe { forget(at, len as usize) },
    }
}

/// Hands every run of pages that are populated to `each`, as first page and count.
pub(super) fn touched(mapping: &Mapping, each: impl FnMut(u64, u64)) -> io::Result<()> {
    match mapping.file() {
        Some(file) => Extents::new(file, mapping.size()).within(0..mapping.pages(), each),
        None => populated(mapping.addresses(), each),
    }
}

/// Bytes of memory that a mapping takes.
pub(super) fn resident(mapping: &Mapping) -> io::Result<u64> {
    if let Some(file) = mapping.file() {
        return allocated(file);
    }
    let mut pages = 0;
    touched(mapping, |_, count| pages += count)?;
    Ok(pages * PAGE_SIZE as u64)
}

/// Gives `len` bytes of a memory file back.
fn punch_hole(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (offset, len) = (offset as libc::off_t, len as libc::off_t);
    // SAFETY: a call without pointers.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) }.into()).map(drop)
}

/// Gives private memory back.
///
/// # Safety
/// The range is mapped, private and anonymous, and nothing refers to its content.
unsafe fn forget(at: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: as the caller promised.
    checked(unsafe { libc::madvise(at.cast(), len, libc::MADV_DONTNEED) }.into()).map(drop)
}

/// Bytes a memory file takes.
fn allocated(file: &File) -> io::Result<u64> {
    const BLOCK: u64 = 512;
    Ok(file.metadata()?.blocks() * BLOCK)
}

#[cfg(test)]
mod tests;
