//! What the page tables say of a range: the PAGEMAP_SCAN ioctl of Linux 6.7.

use std::fs::File;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;

use whimbrel_page::PAGE_SIZE;

use super::checked;

pub(super) const PRESENT: u64 = 1 << 3;
pub(super) const SWAPPED: u64 = 1 << 4;
const ZERO_FRAME: u64 = 1 << 5;

/// Runs one call can report. A call that fills its buffer is followed by another.
const RUNS: usize = 2048;

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u64 = 0xc060_6610;
const _: () = assert!(PAGEMAP_SCAN == super::iowr(b'f', 16, size_of::<ScanArg>()));
const _: () = assert!(offset_of!(ScanArg, vec) == 40 && offset_of!(ScanArg, return_mask) == 88);
const _: () = assert!(size_of::<PageRegion>() == 24);

/// Which pages a scan finds: those with all categories of `all` (after `inverted` ones are
/// turned round) and at least one of `any`, where that is not 0.
#[derive(Clone, Copy)]
pub(super) struct Query {
    pub(super) flags: u64,
    pub(super) inverted: u64,
    pub(super) all: u64,
    pub(super) any: u64,
    pub(super) report: u64,
}

/// This process's page tables.
pub(super) struct Pagemap {
    file: File,
}

impl Pagemap {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/pagemap")? })
    }

    /// Hands the pages from `start` to `end` (addresses) that `query` finds to `each`, as first
    /// page and count, counted from `start`.
    pub(super) fn scan(
        &self,
        start: usize,
        end: usize,
        query: Query,
        mut each: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let mut found = vec![PageRegion::default(); RUNS];
        let mut at = start as u64;
        while at < end as u64 {
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                flags: query.flags,
                start: at,
                end: end as u64,
                vec: found.as_mut_ptr().addr() as u64,
                vec_len: found.len() as u64,
                category_inverted: query.inverted,
                category_mask: query.all,
                category_anyof_mask: query.any,
                return_mask: query.report,
                ..ScanArg::default()
            };
            // SAFETY: `arg` is a pm_scan_arg whose vector is RUNS page_regions of ours.
            let count = unsafe {
                libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN as libc::Ioctl, &raw mut arg)
            };
            let count = checked(count.into())? as usize;
            for run in &found[..count] {
                let first = (run.start - start as u64) / PAGE_SIZE as u64;
                each(first, (run.end - run.start) / PAGE_SIZE as u64);
            }
            at = arg.walk_end;
        }
        Ok(())
    }
}

/// Hands the populated runs of a private range to `each`. A page that maps the shared frame of
/// zeros was read and never written, and does not count.
pub(in crate::sys) fn populated(
    address: usize,
    len: usize,
    each: impl FnMut(u64, u64),
) -> io::Result<()> {
    let query = Query {
        flags: 0,
        inverted: ZERO_FRAME,
        all: ZERO_FRAME,
        any: PRESENT | SWAPPED,
        report: 0,
    };
    Pagemap::open()?.scan(address, address + len, query, each)
}
