//! The shape of a guest's memory: which regions there are and how large each one is.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::{ByteCount, PAGE_SIZE, PageCount, RegionId, Run};

/// One region of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionLayout {
    /// Its number, unique within the guest.
    pub id: RegionId,
    /// Its size: a multiple of [`PAGE_SIZE`], not 0.
    pub size: ByteCount,
}

impl RegionLayout {
    /// The pages of the region.
    #[must_use]
    pub const fn pages(self) -> PageCount {
        PageCount(self.size.0 / PAGE_SIZE as u64)
    }

    /// The whole region as one run.
    #[must_use]
    pub const fn run(self) -> Run {
        Run::new(self.id, 0, self.pages().0)
    }
}

/// Why a list of regions is not a layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A guest without memory cannot be moved.
    #[error("a guest needs at least one memory region")]
    Empty,
    /// The size is 0, no multiple of the page size, or past [`Layout::REGION_SIZE_MAX`].
    #[error("{0} has {1}: the size must be a multiple of 4096 between 1 page and 64 TiB")]
    Size(RegionId, ByteCount),
    /// Two regions have one id.
    #[error("{0} is listed twice")]
    Duplicate(RegionId),
    /// More regions than [`Layout::REGIONS_MAX`].
    #[error("{0} regions: a guest has at most {max}", max = Layout::REGIONS_MAX)]
    TooMany(usize),
}

/// The regions of one guest, checked: 1..=[`Layout::REGIONS_MAX`] of them, ids unique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    regions: Vec<RegionLayout>,
}

impl Layout {
    /// Regions a guest may have.
    pub const REGIONS_MAX: usize = 256;
    /// Bytes a region may have.
    pub const REGION_SIZE_MAX: ByteCount = ByteCount(64 << 40);

    /// Checks `regions` and keeps their order.
    ///
    /// # Errors
    /// [`LayoutError`] says which region is wrong and why.
    pub fn new(regions: Vec<RegionLayout>) -> Result<Self, LayoutError> {
        if regions.is_empty() {
            return Err(LayoutError::Empty);
        }
        if regions.len() > Self::REGIONS_MAX {
            return Err(LayoutError::TooMany(regions.len()));
        }
        let mut seen = BTreeSet::new();
        for region in &regions {
            let size = region.size.0;
            if size == 0 || size % PAGE_SIZE as u64 != 0 || size > Self::REGION_SIZE_MAX.0 {
                return Err(LayoutError::Size(region.id, region.size));
            }
            if !seen.insert(region.id) {
                return Err(LayoutError::Duplicate(region.id));
            }
        }
        Ok(Self { regions })
    }

    /// A guest with one region, number 0.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn single(size: ByteCount) -> Result<Self, LayoutError> {
        Self::new(alloc::vec![RegionLayout { id: RegionId(0), size }])
    }

    /// The regions, in the order they were given.
    #[must_use]
    pub fn regions(&self) -> &[RegionLayout] {
        &self.regions
    }

    /// The region with this id.
    #[must_use]
    pub fn region(&self, id: RegionId) -> Option<RegionLayout> {
        self.regions.iter().copied().find(|region| region.id == id)
    }

    /// Where the region with this id stands in [`Layout::regions`].
    #[must_use]
    pub fn position(&self, id: RegionId) -> Option<usize> {
        self.regions.iter().position(|region| region.id == id)
    }

    /// All pages of all regions.
    #[must_use]
    pub fn pages(&self) -> PageCount {
        self.regions.iter().map(|region| region.pages()).sum()
    }

    /// All bytes of all regions.
    #[must_use]
    pub fn bytes(&self) -> ByteCount {
        self.pages().bytes()
    }

    /// Whether `run` is not empty and lies wholly within one region of the guest.
    #[must_use]
    pub fn contains(&self, run: Run) -> bool {
        run.count.0 > 0
            && run.first.0.checked_add(run.count.0).is_some_and(|end| {
                self.region(run.region).is_some_and(|region| end <= region.pages().0)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn region(id: u32, size: u64) -> RegionLayout {
        RegionLayout { id: RegionId(id), size: ByteCount(size) }
    }

    #[test]
    fn refuses_what_is_no_layout() {
        assert_eq!(Layout::new(vec![]), Err(LayoutError::Empty));
        let odd = Layout::new(vec![region(0, 4097)]);
        assert_eq!(odd, Err(LayoutError::Size(RegionId(0), ByteCount(4097))));
        let twice = Layout::new(vec![region(3, 4096), region(3, 8192)]);
        assert_eq!(twice, Err(LayoutError::Duplicate(RegionId(3))));
        let many = Layout::new((0..257).map(|id| region(id, 4096)).collect());
        assert_eq!(many, Err(LayoutError::TooMany(257)));
        assert!(Layout::single(ByteCount(!4095)).is_err());
    }

    #[test]
    fn a_run_is_inside_or_it_is_not() {
        let layout = Layout::new(vec![region(7, 16 * 4096), region(9, 4096)]).expect("valid");
        assert_eq!(layout.pages(), PageCount(17));
        assert!(layout.contains(Run::new(RegionId(7), 0, 16)));
        assert!(!layout.contains(Run::new(RegionId(7), 0, 17)));
        assert!(!layout.contains(Run::new(RegionId(7), 3, 0)));
        assert!(!layout.contains(Run::new(RegionId(7), u64::MAX, 2)));
        assert!(!layout.contains(Run::new(RegionId(8), 0, 1)));
    }
}
