//! What the page tables say of a range: the PAGEMAP_SCAN ioctl of Linux 6.7.

use std::fs::File;
use std::io;
use std::mem::{offset_of, size_of};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use whimbrel_page::PAGE_SIZE;

use super::checked;

/// Not write-protected, or not any more.
pub(super) const WRITTEN: u64 = 1 << 1;
/// In memory.
pub(super) const PRESENT: u64 = 1 << 3;
/// In swap; a mark that stands for an absent page counts as well.
pub(super) const SWAPPED: u64 = 1 << 4;
/// The shared frame of zeros: read, never written.
const ZERO_FRAME: u64 = 1 << 5;

/// Write-protect what is found, in the same step.
pub(super) const PROTECT: u64 = 1 << 0;
/// Fail where writes are not recorded.
pub(super) const CHECK_ARMED: u64 = 1 << 1;

/// Runs one call can report. A call that fills its buffer is followed by another.
const RUNS: usize = 2048;
/// Pages that one read of a kernel without scans lists.
const ENTRIES: usize = 8192;

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

/// What a scan does and which pages it finds: those with all categories of `all` (after
/// `inverted` ones are turned round) and, where `any` is not 0, at least one of those.
#[derive(Clone, Copy, Default)]
pub(super) struct Query {
    pub(super) flags: u64,
    pub(super) inverted: u64,
    pub(super) all: u64,
    pub(super) any: u64,
    /// The categories that are told apart in the runs it reports.
    pub(super) report: u64,
}

/// This process's page tables.
pub(super) struct Pagemap {
    file: File,
    runs: Vec<PageRegion>,
}

impl Pagemap {
    pub(super) fn open() -> io::Result<Self> {
        let file = File::open("/proc/self/pagemap")?;
        Ok(Self { file, runs: vec![PageRegion::default(); RUNS] })
    }

    /// Hands the pages of a range of addresses that `query` finds to `each`, as first page and
    /// count, counted from the start of the range. After a call that had no room for more runs the
    /// kernel goes back a little: some come twice, and one that was written in between comes only
    /// then, behind others.
    pub(super) fn scan(
        &mut self,
        range: Range<usize>,
        query: Query,
        mut each: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let start = range.start as u64;
        let mut at = start;
        while at < range.end as u64 {
            let vec = self.runs.as_mut_ptr().expose_provenance() as u64;
            let wanted = ScanArg { start: at, vec, vec_len: RUNS as u64, ..query.into() };
            let (count, walk_end) = self.call(ScanArg { end: range.end as u64, ..wanted })?;
            for run in &self.runs[..count] {
                let first = (run.start - start) / PAGE_SIZE as u64;
                each(first, (run.end - run.start) / PAGE_SIZE as u64);
            }
            at = walk_end;
        }
        Ok(())
    }

    /// Does what `query` says to a range of addresses, and reports nothing.
    pub(super) fn apply(&mut self, range: Range<usize>, query: Query) -> io::Result<()> {
        let (start, end) = (range.start as u64, range.end as u64);
        self.call(ScanArg { start, end, ..query.into() }).map(drop)
    }

    /// One call; returns how many runs it reports and where it stopped.
    fn call(&self, mut arg: ScanArg) -> io::Result<(usize, u64)> {
        let request = PAGEMAP_SCAN as libc::Ioctl;
        // SAFETY: `arg` is a pm_scan_arg; its vector is none, or the runs of `self`, which is
        // borrowed exclusively where that is passed.
        let count = unsafe { libc::ioctl(self.file.as_raw_fd(), request, &raw mut arg) };
        Ok((checked(count.into())? as usize, arg.walk_end))
    }
}

/// For who counts what a scan finds: each page once, as it was when it was come by first.
pub(super) fn once(mut each: impl FnMut(u64, u64)) -> impl FnMut(u64, u64) {
    let mut told = 0;
    move |first, count| {
        let (from, end) = (first.max(told), first + count);
        if from < end {
            each(from, end - from);
            told = end;
        }
    }
}

impl From<Query> for ScanArg {
    fn from(query: Query) -> Self {
        Self {
            size: size_of::<Self>() as u64,
            flags: query.flags,
            category_inverted: query.inverted,
            category_mask: query.all,
            category_anyof_mask: query.any,
            return_mask: query.report,
            ..Self::default()
        }
    }
}

/// Hands the populated runs of a private range to `each`. A page that maps the shared frame of
/// zeros was read and never written, and does not count.
pub(in crate::sys) fn populated(
    range: Range<usize>,
    mut each: impl FnMut(u64, u64),
) -> io::Result<()> {
    let query =
        Query { inverted: ZERO_FRAME, all: ZERO_FRAME, any: PRESENT | SWAPPED, ..Query::default() };
    match Pagemap::open()?.scan(range.clone(), query, once(&mut each)) {
        // The first call fails, or none does: nothing has been reported yet.
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => populated_by_page(range, each),
        other => other,
    }
}

/// For kernels without the scan: costs what exists, not what is populated, and takes pages that
/// were only read for populated.
fn populated_by_page(range: Range<usize>, mut each: impl FnMut(u64, u64)) -> io::Result<()> {
    const ENTRY: usize = size_of::<u64>();
    const PRESENT_OR_SWAPPED: u64 = 1 << 63 | 1 << 62;
    let file = File::open("/proc/self/pagemap")?;
    let (first, end) = (range.start / PAGE_SIZE, range.end / PAGE_SIZE);
    let mut entries = vec![0; ENTRIES * ENTRY];
    for at in (first..end).step_by(ENTRIES) {
        let entries = &mut entries[..ENTRIES.min(end - at) * ENTRY];
        file.read_exact_at(entries, (at * ENTRY) as u64)?;
        for (index, entry) in entries.chunks_exact(ENTRY).enumerate() {
            let entry = u64::from_ne_bytes(entry.try_into().expect("8 bytes"));
            if entry & PRESENT_OR_SWAPPED != 0 {
                each((at - first + index) as u64, 1);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use whimbrel_page::{PageCount, RegionId, RegionLayout};

    use crate::sys::Mapping;
    use crate::{Backing, HugePages};

    #[test]
    fn both_ways_to_list_populated_pages_agree() {
        let size = PageCount(3 * ENTRIES as u64).bytes();
        let region = RegionLayout { id: RegionId(0), size };
        let mapping = Mapping::allocate(region, Backing::Private, HugePages::HostDefault)
            .expect("a small mapping");
        let pages = [0, 1, ENTRIES - 1, ENTRIES, 2 * ENTRIES + 77, 3 * ENTRIES - 1];
        pages.iter().for_each(|page| mapping.store_u64((page * PAGE_SIZE) as u64, 1));
        let (mut scanned, mut listed) = (Vec::new(), Vec::new());
        populated(mapping.addresses(), |first, count| scanned.extend(first..first + count))
            .expect("scanned");
        populated_by_page(mapping.addresses(), |first, count| listed.extend(first..first + count))
            .expect("listed");
        assert_eq!(scanned, pages.map(|page| page as u64));
        assert_eq!(listed, scanned);
    }

    /// As many runs as one call reports, far from each other: the kernel goes back a little then.
    #[test]
    fn no_page_is_told_twice() {
        for pages in [RUNS as u64, 3 * RUNS as u64 / 2] {
            let apart = 512;
            let size = PageCount(pages * apart).bytes();
            let region = RegionLayout { id: RegionId(0), size };
            let mapping = Mapping::allocate(region, Backing::Private, HugePages::HostDefault)
                .expect("an empty mapping");
            let written: Vec<_> = (0..pages).map(|page| page * apart).collect();
            written.iter().for_each(|page| mapping.store_u64(page * PAGE_SIZE as u64, 1));
            let mut scanned = Vec::new();
            populated(mapping.addresses(), |first, count| scanned.extend(first..first + count))
                .expect("scanned");
            assert_eq!(scanned, written);
        }
    }
}
