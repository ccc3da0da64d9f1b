//! The userfaultfd tracker: the kernel write-protects pages, and takes the protection away by
//! itself when they are written (`WP_ASYNC`); PAGEMAP_SCAN finds and protects those in one step.
//!
//! Only populated pages are protected, as protecting holes takes page tables. What is populated
//! later is unprotected, and so reads as written. That needs care where a page that was written
//! may lose its page table entry, because an entry that is gone reads as a hole:
//!
//! - *Private* memory keeps an entry when a page is swapped out, so a hole is a page that was
//!   never written, or was discarded, which the memory handle logs. Holes are not reported.
//! - *Shared* memory loses the entry of an unprotected page with its swap-out. So every empty
//!   entry of an existing page table is reported as written, and protected by a mark in it. What
//!   is wrongly reported where a page table is new is left out if the memory file has a hole there.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use whimbrel_page::{Bitmap, PageSet, RegionId, Run};

use super::pagemap::{CHECK_ARMED, PRESENT, PROTECT, Pagemap, Query, SWAPPED, WRITTEN};
use super::{Extents, checked};
use crate::sys::Mapping;
use crate::tracked::Mechanism;
use crate::write_log::Logged;
use crate::{GuestMemory, KernelWrites, MemoryError, TrackerKind};

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

/// Pages that one page table maps.
const TABLE_PAGES: u64 = 512;

pub(crate) struct Userfaultfd {
    pagemap: Pagemap,
    /// While armed.
    armed: Option<Armed>,
}

struct Armed {
    descriptor: OwnedFd,
    /// For each region in shared memory, the page tables whose empty entries have marks.
    marked: Vec<Option<Bitmap>>,
}

impl Userfaultfd {
    /// Whether the host has what is needed is found out here, not when arming.
    pub(crate) fn new() -> Result<Self, MemoryError> {
        connect().map_err(unsupported)?;
        let pagemap = Pagemap::open().map_err(MemoryError::os("open /proc/self/pagemap"))?;
        Ok(Self { pagemap, armed: None })
    }

    fn gather(
        &mut self,
        memory: &GuestMemory,
        flags: u64,
        found: &mut PageSet,
    ) -> Result<(), MemoryError> {
        let armed = self.armed.as_mut().expect("armed");
        for ((region, mapping), marked) in memory.regions().zip(&mut armed.marked) {
            let outcome = match marked {
                None => scan_private(&mut self.pagemap, mapping, flags, |first, count| {
                    found.insert(Run::new(region, first, count));
                }),
                Some(marked) => {
                    scan_shared(&mut self.pagemap, (region, mapping), flags, marked, found)
                }
            };
            outcome.map_err(MemoryError::os("scan guest memory for written pages"))?;
        }
        Ok(())
    }
}

impl Mechanism for Userfaultfd {
    const KIND: TrackerKind = TrackerKind::Userfaultfd;
    const KERNEL_WRITES: KernelWrites = KernelWrites::Tracked;
    const LOGGED: Logged = Logged::Discards;

    fn arm(&mut self, memory: &GuestMemory) -> Result<(), MemoryError> {
        let descriptor = connect().map_err(unsupported)?;
        let tables = |mapping: &Mapping| Bitmap::new(mapping.pages().div_ceil(TABLE_PAGES));
        let marked =
            memory.regions().map(|(_, mapping)| mapping.file().map(|_| tables(mapping))).collect();
        let fd = descriptor.as_raw_fd();
        self.armed = Some(Armed { descriptor, marked });
        for (_, mapping) in memory.regions() {
            register(fd, mapping).map_err(MemoryError::os("register guest memory"))?;
            protect(&mut self.pagemap, mapping)
                .map_err(MemoryError::os("write-protect guest memory"))?;
        }
        Ok(())
    }

    fn harvest(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError> {
        self.gather(memory, PROTECT | CHECK_ARMED, found)
    }

    fn peek(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError> {
        self.gather(memory, CHECK_ARMED, found)
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
fn connect() -> io::Result<OwnedFd> {
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

fn register(fd: RawFd, mapping: &Mapping) -> io::Result<()> {
    let mut arg = Register { range: address_range(mapping), mode: REGISTER_MODE_WP, ioctls: 0 };
    // SAFETY: the argument is a uffdio_register of a range that is mapped.
    unsafe { control(fd, UFFDIO_REGISTER, &mut arg) }
}

fn unregister(descriptor: &OwnedFd, mapping: &Mapping) -> io::Result<()> {
    // SAFETY: the argument is a uffdio_range of a range that is mapped.
    unsafe { control(descriptor.as_raw_fd(), UFFDIO_UNREGISTER, &mut address_range(mapping)) }
}

/// # Safety
/// `T` is the structure that belongs to `request`.
unsafe fn control<T>(fd: RawFd, request: u64, arg: &mut T) -> io::Result<()> {
    // SAFETY: as the caller promised.
    checked(unsafe { libc::ioctl(fd, request as libc::Ioctl, &raw mut *arg) }.into()).map(drop)
}

/// Protects what is populated.
fn protect(pagemap: &mut Pagemap, mapping: &Mapping) -> io::Result<()> {
    let flags = PROTECT | CHECK_ARMED;
    let query = Query { flags, any: PRESENT | SWAPPED, ..Query::default() };
    match mapping.file() {
        // A scan that reports leaves empty entries alone; one that does not gives them marks.
        None => pagemap.scan(mapping.addresses(), query, |_, _| ()),
        Some(_) => pagemap.apply(mapping.addresses(), query),
    }
}

fn scan_private(
    pagemap: &mut Pagemap,
    mapping: &Mapping,
    flags: u64,
    each: impl FnMut(u64, u64),
) -> io::Result<()> {
    let query = Query { flags, all: WRITTEN, any: PRESENT | SWAPPED, ..Query::default() };
    pagemap.scan(mapping.addresses(), query, each)
}

fn scan_shared(
    pagemap: &mut Pagemap,
    (region, mapping): (RegionId, &Mapping),
    flags: u64,
    marked: &mut Bitmap,
    found: &mut PageSet,
) -> io::Result<()> {
    // Exactly this query makes the kernel report empty entries.
    let query = Query { flags, all: WRITTEN, report: WRITTEN, ..Query::default() };
    let mut fresh = Vec::new();
    pagemap.scan(mapping.addresses(), query, |first, count| {
        let (table, last) = (first / TABLE_PAGES, (first + count - 1) / TABLE_PAGES);
        if marked.run_length(table, last - table + 1) == last - table + 1 {
            found.insert(Run::new(region, first, count));
        } else {
            fresh.push((first, first + count));
        }
    })?;
    let file: Option<&File> = mapping.file();
    let mut extents = Extents::new(file.expect("shared memory"), mapping.size());
    for (first, end) in fresh {
        extents.within(first..end, |first, count| {
            found.insert(Run::new(region, first, count));
        })?;
        if flags & PROTECT != 0 {
            let (table, last) = (first / TABLE_PAGES, (end - 1) / TABLE_PAGES);
            marked.insert(table, last - table + 1);
        }
    }
    Ok(())
}
