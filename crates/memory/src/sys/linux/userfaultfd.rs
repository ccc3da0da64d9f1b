//! The userfaultfd tracker: the kernel write-protects pages, and takes the protection away by
//! itself when they are written (`WP_ASYNC`); PAGEMAP_SCAN finds and protects those in one step.
//!
//! Memory that was never populated reads as written, and protecting it takes page tables. So
//! only what is populated is protected, only that is asked for, and what is populated later needs
//! no protection to be found. What tells populated from not is different:
//!
//! - *Private* memory keeps a page table entry when a page is swapped out: an empty one is a page
//!   that was never written, or was discarded, which the memory handle logs.
//! - *Shared* memory may lose the entry of a written page with its swap-out. But the memory file
//!   knows: an area has been populated if the file has data there. Such areas are protected and
//!   scanned with their empty entries, which take a mark for that.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use whimbrel_page::{Bitmap, PAGE_SIZE, PageSet, Run};

use super::crew::Crew;
use super::pagemap::{CHECK_ARMED, PROTECT, Pagemap, Query, WRITTEN};
use super::suspects::{Purpose, Suspects};
use super::{Extents, checked};
use crate::sys::Mapping;
use crate::tracked::Mechanism;
use crate::write_log::Logged;
use crate::{GuestMemory, KernelWrites, MemoryError, TrackerKind, Writers};

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct AddressRange {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: AddressRange,
    mode: u64,
    ioctls: u64,
}

const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const REGISTER_MODE_WP: u64 = 1 << 1;
const FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const FEATURES: u64 = FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC;

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const _: () = assert!(UFFDIO_API == super::iowr(0xaa, 0x3f, size_of::<Api>()));
const _: () = assert!(UFFDIO_REGISTER == super::iowr(0xaa, 0x00, size_of::<Register>()));
const _: () = assert!(UFFDIO_UNREGISTER == super::ior(0xaa, 0x01, size_of::<AddressRange>()));

/// Pages that one page table maps: what is looked at together.
pub(super) const TABLE_PAGES: u64 = 512;

pub(super) struct Userfaultfd {
    writers: Writers,
    pagemap: Pagemap,
    /// While armed.
    armed: Option<Armed>,
}

struct Armed {
    descriptor: OwnedFd,
    /// Scans the regions in private memory.
    crew: Crew,
    suspects: Suspects,
    /// For each region in shared memory, the page tables that are protected as a whole.
    tables: Vec<Option<Bitmap>>,
}

impl Userfaultfd {
    /// Whether the host has what is needed is found out here, not when arming.
    pub(super) fn new(writers: Writers) -> Result<Self, MemoryError> {
        connect().map_err(unsupported)?;
        let pagemap = Pagemap::open().map_err(MemoryError::os("open /proc/self/pagemap"))?;
        Ok(Self { writers, pagemap, armed: None })
    }

    fn gather(
        &mut self,
        memory: &GuestMemory,
        purpose: Purpose,
        found: &mut PageSet,
    ) -> Result<(), MemoryError> {
        let flags = match purpose {
            Purpose::Harvest => PROTECT | CHECK_ARMED,
            Purpose::Rehearsal | Purpose::Parked => CHECK_ARMED,
        };
        let failed = || MemoryError::os("scan guest memory for written pages");
        let armed = self.armed.as_mut().expect("armed");
        let parts = armed.suspects.begin_scan(purpose);
        match &parts {
            Some(parts) => armed.crew.scan_parts(parts, flags, found),
            None => armed.crew.scan(flags, found),
        }
        .map_err(failed())?;
        for ((region, mapping), tables) in memory.regions().zip(&mut armed.tables) {
            let insert = |first, count| {
                found.insert(Run::new(region, first, count));
            };
            if let (Some(file), Some(tables)) = (mapping.file(), tables) {
                let mut shared = Shared { pagemap: &mut self.pagemap, mapping, file, tables };
                shared.scan(flags, parts.as_deref(), insert).map_err(failed())?;
            }
        }
        if parts.is_none() && purpose != Purpose::Harvest {
            armed.suspects.add(found);
        }
        Ok(())
    }
}

impl Mechanism for Userfaultfd {
    const KIND: TrackerKind = TrackerKind::Userfaultfd;
    const KERNEL_WRITES: KernelWrites = KernelWrites::Tracked;
    const LOGGED: Logged = Logged::Discards;

    fn arm(&mut self, memory: &GuestMemory) -> Result<(), MemoryError> {
        // What came here was placed, and is registered already.
        let descriptor = memory.placer().take().map_or_else(connect, Ok).map_err(unsupported)?;
        let none = |mapping: &Mapping| Bitmap::new(mapping.pages().div_ceil(TABLE_PAGES));
        let tables =
            memory.regions().map(|(_, mapping)| mapping.file().map(|_| none(mapping))).collect();
        let private = memory.regions().filter(|(_, mapping)| mapping.file().is_none());
        let protected = || MemoryError::os("write-protect guest memory");
        let crew = Crew::start(memory.layout(), private).map_err(protected())?;
        let suspects = Suspects::new(memory, self.writers);
        let armed = self.armed.insert(Armed { descriptor, crew, suspects, tables });
        for (_, mapping) in memory.regions() {
            register(&armed.descriptor, mapping)
                .map_err(MemoryError::os("register guest memory"))?;
        }
        armed.crew.protect(memory.layout()).map_err(protected())?;
        for ((_, mapping), tables) in memory.regions().zip(&mut armed.tables) {
            if let (Some(file), Some(tables)) = (mapping.file(), tables) {
                let mut shared = Shared { pagemap: &mut self.pagemap, mapping, file, tables };
                shared.protect().map_err(protected())?;
            }
        }
        Ok(())
    }

    fn harvest(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError> {
        self.gather(memory, Purpose::Harvest, found)
    }

    fn peek(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError> {
        self.gather(memory, Purpose::Parked, found)
    }

    fn rehearse(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError> {
        self.gather(memory, Purpose::Rehearsal, found)
    }

    fn disarm(&mut self, memory: &GuestMemory) -> Result<(), MemoryError> {
        let Some(Armed { descriptor, .. }) = self.armed.take() else {
            return Ok(());
        };
        // Closing the descriptor would do, but would not say what went wrong.
        let each = memory.regions().map(|(_, mapping)| unregister(&descriptor, mapping));
        each.fold(Ok(()), Result::and).map_err(MemoryError::os("release guest memory"))
    }
}

/// A userfaultfd that needs no privilege, as it handles no faults of the kernel: with WP_ASYNC
/// it handles none at all.
pub(super) fn connect() -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: a call without pointers.
    let fd = checked(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?;
    // SAFETY: the descriptor was just made and is nobody else's.
    let descriptor = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let mut api = Api { api: UFFD_API, features: FEATURES, ioctls: 0 };
    // SAFETY: the argument is a uffdio_api.
    unsafe { control(descriptor.as_raw_fd(), UFFDIO_API, &mut api) }?;
    Ok(descriptor)
}

fn unsupported(error: io::Error) -> MemoryError {
    let why = match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel was built without userfaultfd".to_owned(),
        Some(libc::EPERM) => {
            "userfaultfd is forbidden here; allow the system call in the container or sandbox"
                .to_owned()
        }
        Some(libc::EINVAL) => "the kernel does not record writes asynchronously; \
            that came with Linux 6.7"
            .to_owned(),
        _ => format!("userfaultfd failed: {error}"),
    };
    MemoryError::Unsupported { kind: TrackerKind::Userfaultfd, why }
}

fn address_range(mapping: &Mapping) -> AddressRange {
    AddressRange { start: mapping.addresses().start as u64, len: mapping.size() }
}

pub(super) fn register(descriptor: &OwnedFd, mapping: &Mapping) -> io::Result<()> {
    let mut arg = Register { range: address_range(mapping), mode: REGISTER_MODE_WP, ioctls: 0 };
    // SAFETY: the argument is a uffdio_register of a range that is mapped.
    unsafe { control(descriptor.as_raw_fd(), UFFDIO_REGISTER, &mut arg) }
}

fn unregister(descriptor: &OwnedFd, mapping: &Mapping) -> io::Result<()> {
    // SAFETY: the argument is a uffdio_range of a range that is mapped.
    unsafe { control(descriptor.as_raw_fd(), UFFDIO_UNREGISTER, &mut address_range(mapping)) }
}

/// # Safety
/// `T` is the structure that belongs to `request`, and what it points to may be read and written
/// as the request does.
pub(super) unsafe fn control<T>(fd: RawFd, request: u64, arg: &mut T) -> io::Result<()> {
    // SAFETY: as the caller promised.
    checked(unsafe { libc::ioctl(fd, request as libc::Ioctl, &raw mut *arg) }.into()).map(drop)
}

/// One region of shared memory under protection.
struct Shared<'a> {
    pagemap: &'a mut Pagemap,
    mapping: &'a Mapping,
    file: &'a File,
    /// Page tables all of whose entries have been protected, empty ones included.
    tables: &'a mut Bitmap,
}

impl Shared<'_> {
    /// Protects all areas where the file has data.
    fn protect(&mut self) -> io::Result<()> {
        for tables in self.new_tables()? {
            let query = Query { flags: PROTECT | CHECK_ARMED, ..Query::default() };
            self.pagemap.apply(self.addresses(&tables), query)?;
            self.tables.insert(tables.start, tables.end - tables.start);
        }
        Ok(())
    }

    /// Hands what was written to `each`, which lies in `parts` if that is known.
    fn scan(
        &mut self,
        flags: u64,
        parts: Option<&[Range<usize>]>,
        mut each: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        // Looked up first: what gets data later is found by the next scan.
        let fresh = self.new_tables()?;
        let mut wanted = self.tables.clone();
        if let Some(parts) = parts {
            wanted.intersect_with(&self.tables_of(parts));
        }
        let mut next = wanted.next_one(0);
        while let Some(start) = next {
            let end = start + wanted.run_length(start, u64::MAX);
            self.scan_tables(start..end, flags, &mut each)?;
            next = wanted.next_one(end);
        }
        for tables in fresh {
            self.scan_fresh(tables.clone(), flags, &mut each)?;
            if flags & PROTECT != 0 {
                self.tables.insert(tables.start, tables.end - tables.start);
            }
        }
        Ok(())
    }

    fn scan_tables(
        &mut self,
        tables: Range<u64>,
        flags: u64,
        mut each: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let query = Query { flags, all: WRITTEN, ..Query::default() };
        let before = tables.start * TABLE_PAGES;
        let range = self.addresses(&tables);
        self.pagemap.scan(range, query, |first, count| each(before + first, count))
    }

    /// As [`Shared::scan_tables`], where empty entries have not been protected before: only those
    /// count that the file has data for.
    fn scan_fresh(
        &mut self,
        tables: Range<u64>,
        flags: u64,
        mut each: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let mut found = Vec::new();
        self.scan_tables(tables, flags, |first, count| found.push(first..first + count))?;
        let mut extents = Extents::new(self.file, self.mapping.size());
        found.into_iter().try_for_each(|run| extents.within(run, &mut each))
    }

    /// The page tables that are not protected and have data to map. Costs a system call for each
    /// and for each gap between protected ones.
    fn new_tables(&self) -> io::Result<Vec<Range<u64>>> {
        let extents = Extents::new(self.file, self.mapping.size());
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut at = 0;
        while at < self.tables.len() {
            at += self.tables.run_length(at, u64::MAX);
            let Some(page) = extents.next_data(at * TABLE_PAGES)? else {
                break;
            };
            at = page / TABLE_PAGES;
            if self.tables.contains(at) {
                continue;
            }
            match found.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => found.push(at..at + 1),
            }
            at += 1;
        }
        Ok(found)
    }

    /// The page tables that map a part of this region.
    fn tables_of(&self, parts: &[Range<usize>]) -> Bitmap {
        let mut tables = Bitmap::new(self.tables.len());
        let own = self.mapping.addresses();
        let table = |address| ((address - own.start) / PAGE_SIZE) as u64 / TABLE_PAGES;
        for range in parts.iter().filter(|range| own.contains(&range.start)) {
            let (first, last) = (table(range.start), table(range.end - 1));
            tables.insert(first, last - first + 1);
        }
        tables
    }

    fn addresses(&self, tables: &Range<u64>) -> Range<usize> {
        let within = self.mapping.addresses();
        let address = |table: u64| {
            within.start + (table * TABLE_PAGES).min(self.mapping.pages()) as usize * PAGE_SIZE
        };
        address(tables.start)..address(tables.end)
    }
}

#[cfg(test)]
mod tests;
