//! One region's mapping.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;

use whimbrel_page::{ByteCount, PAGE_SIZE, PageCount, RegionLayout};

use super::{AdoptedRegion, copy, os};
use crate::{Backing, HugePages, MemoryError};

/// A mapped region. Every access is checked against its size and panics past it: callers check
/// what comes from outside.
pub(crate) struct Mapping {
    /// Made when writes are first to be found. Goes before the mapping does.
    guard: OnceLock<os::Guard>,
    raw: Raw,
    /// The memory file behind a shared mapping.
    file: Option<File>,
    /// What the host hands out, protects and takes back at once.
    pub(super) granule: PageCount,
}

/// Whose mapping it is.
enum Raw {
    Own(os::Own),
    Adopted(AdoptedRegion),
}

impl Raw {
    fn at(&self) -> *mut u8 {
        match self {
            Self::Own(own) => own.at(),
            Self::Adopted(adopted) => adopted.at(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Own(own) => own.len(),
            Self::Adopted(adopted) => adopted.len(),
        }
    }
}

impl Mapping {
    /// Takes memory that somebody else has mapped, and keeps.
    pub(crate) fn adopt(
        region: RegionLayout,
        mut adopted: AdoptedRegion,
    ) -> Result<Self, MemoryError> {
        let (id, size) = (region.id, region.size);
        let found = ByteCount(adopted.len() as u64);
        if found != size || !adopted.at().addr().is_multiple_of(PAGE_SIZE) {
            return Err(MemoryError::Adopted { region: id, size, found });
        }
        let (guard, file) = (OnceLock::new(), adopted.take_file());
        Ok(Self { guard, raw: Raw::Adopted(adopted), file, granule: PageCount(1) })
    }

    pub(crate) fn allocate(
        region: RegionLayout,
        backing: Backing,
        huge: HugePages,
    ) -> Result<Self, MemoryError> {
        let (id, size) = (region.id, region.size);
        let granule = PageCount(if huge == HugePages::Reserved { HUGE_PAGES } else { 1 });
        if !size.0.is_multiple_of(granule.bytes().0) {
            return Err(MemoryError::HugePageSize { region: id, size, granule });
        }
        Self::map(size.0, backing, huge, granule).map_err(|source| MemoryError::Allocation {
            region: id,
            size,
            source,
        })
    }

    fn map(size: u64, backing: Backing, huge: HugePages, granule: PageCount) -> io::Result<Self> {
        let reserved = huge == HugePages::Reserved;
        let file = match backing {
            Backing::Private => None,
            Backing::Shared => Some(os::memory_file(size, reserved)?),
        };
        let len = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let own = os::Own::map(len, file.as_ref(), huge)?;
        Ok(Self { guard: OnceLock::new(), raw: Raw::Own(own), file, granule })
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.raw.len() as u64
    }

    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        // SAFETY: `at` has checked the range; a slice of ours does not overlap guest memory.
        unsafe { copy::copy(into.as_mut_ptr(), from, into.len()) };
    }

    pub(crate) fn prefetch(&self, offset: u64, len: usize) {
        copy::prefetch(self.at(offset, len), len);
    }

    pub(crate) fn write(&self, offset: u64, from: &[u8]) {
        let to = self.at(offset, from.len());
        // SAFETY: `at` has checked the range; a slice of ours does not overlap guest memory.
        unsafe { copy::copy(to, from.as_ptr(), from.len()) };
    }

    pub(crate) fn load_u64(&self, offset: u64) -> u64 {
        // SAFETY: `word_at` has checked range and alignment.
        unsafe { copy::load_u64(self.word_at(offset)) }
    }

    pub(crate) fn store_u64(&self, offset: u64, value: u64) {
        // SAFETY: `word_at` has checked range and alignment.
        unsafe { copy::store_u64(self.word_at(offset), value) };
    }

    pub(crate) fn fetch_add_u64(&self, offset: u64, value: u64) -> u64 {
        // SAFETY: `word_at` has checked range and alignment.
        unsafe { copy::fetch_add_u64(self.word_at(offset), value) }
    }

    /// One read by the kernel into guest memory.
    pub(crate) fn read_file(&self, offset: u64, len: usize, file: &File) -> io::Result<usize> {
        let to = self.at(offset, len);
        // SAFETY: `at` has checked the range.
        unsafe { os::read_into(file, to, len) }
    }

    /// Makes whole pages zero. Gives back the granules that lie wholly within, unless the host
    /// refuses, as it does for memory that is locked.
    pub(crate) fn discard(&self, offset: u64, len: u64) {
        let granule = self.granule.bytes().0;
        let end = offset + len;
        let first = offset.next_multiple_of(granule).min(end);
        let last = (end / granule * granule).max(first);
        self.clear(offset, first);
        self.clear(last, end);
        if first < last && os::give_back(self, first, last - first).is_err() {
            self.clear(first, last);
        }
    }

    /// Writes zeros from `start` to `end`.
    pub(super) fn clear(&self, start: u64, end: u64) {
        let pages = (start..end).step_by(PAGE_SIZE);
        pages.for_each(|page| self.write(page, &ZERO_PAGE));
    }

    /// Hands every run of pages that the host has populated to `each`, as first page and count.
    pub(crate) fn touched(&self, each: impl FnMut(u64, u64)) -> io::Result<()> {
        os::touched(self, each)
    }

    /// Bytes of host memory that the region takes.
    pub(crate) fn resident(&self) -> io::Result<u64> {
        os::resident(self)
    }

    /// The memory file behind a shared mapping.
    pub(super) fn backing(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Whether this process has mapped it for itself: nobody else has a say in it.
    #[cfg(target_os = "linux")]
    pub(super) fn is_own(&self) -> bool {
        matches!(self.raw, Raw::Own(_))
    }

    /// Where the mapping is.
    pub(super) fn addresses(&self) -> Range<usize> {
        let start = self.raw.at().expose_provenance();
        start..start + self.raw.len()
    }

    /// What knows of writes to this mapping alone.
    pub(super) fn guard(&self) -> io::Result<&os::Guard> {
        if let Some(guard) = self.guard.get() {
            return Ok(guard);
        }
        let guard = os::Guard::new(self.addresses().start, self.raw.len(), self.granule.0)?;
        Ok(self.guard.get_or_init(|| guard))
    }

    /// The address of `len` bytes at `offset`; panics if they are not all within the region.
    pub(super) fn at(&self, offset: u64, len: usize) -> *mut u8 {
        let end = offset.checked_add(len as u64);
        assert!(end.is_some_and(|end| end <= self.size()), "{len} bytes at {offset}");
        self.raw.at().wrapping_add(offset as usize)
    }

    fn word_at(&self, offset: u64) -> *mut u8 {
        assert!(offset.is_multiple_of(8), "a word at {offset}");
        self.at(offset, 8)
    }
}

/// Small pages in a reserved huge one.
const HUGE_PAGES: u64 = (2 << 20) / PAGE_SIZE as u64;
static ZERO_PAGE: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
