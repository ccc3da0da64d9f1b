//! A set of pages of one guest.

use alloc::vec::Vec;

use crate::{Bitmap, Layout, PageCount, PageIndex, RegionId, Run};

/// Which pages of a guest are meant: one bitmap a region, in the layout's order.
#[derive(Clone, Debug, Hash)]
pub struct PageSet {
    regions: Vec<(RegionId, Bitmap)>,
}

impl PageSet {
    /// The empty set over the pages of `layout`.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        let regions = layout.regions().iter();
        Self { regions: regions.map(|r| (r.id, Bitmap::new(r.pages().0))).collect() }
    }

    /// The set of all pages of `layout`.
    #[must_use]
    pub fn full(layout: &Layout) -> Self {
        let mut all = Self::new(layout);
        for region in layout.regions() {
            all.insert(region.run());
        }
        all
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn count(&self) -> PageCount {
        PageCount(self.regions.iter().map(|(_, map)| map.ones()).sum())
    }

    /// Whether no page is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.regions.iter().all(|(_, map)| map.is_empty())
    }

    /// Whether this page is in the set; a page the guest does not have is not.
    #[must_use]
    pub fn contains(&self, region: RegionId, page: PageIndex) -> bool {
        self.regions.iter().any(|(id, map)| *id == region && map.contains(page.0))
    }

    /// How many pages of `run` are in the set; pages that the guest does not have are not.
    #[must_use]
    pub fn count_in(&self, run: Run) -> PageCount {
        let found = self.regions.iter().find(|(id, _)| *id == run.region);
        PageCount(found.map_or(0, |(_, map)| map.ones_in(run.first.0, run.count.0)))
    }

    /// Adds the pages of `run`; returns how many were new.
    ///
    /// # Panics
    /// If the guest has no such pages: check what comes from outside with [`Layout::contains`].
    pub fn insert(&mut self, run: Run) -> PageCount {
        PageCount(self.bitmap_mut(run.region).insert(run.first.0, run.count.0))
    }

    /// Takes the pages of `run` out; returns how many were in.
    ///
    /// # Panics
    /// As [`PageSet::insert`].
    pub fn remove(&mut self, run: Run) -> PageCount {
        PageCount(self.bitmap_mut(run.region).remove(run.first.0, run.count.0))
    }

    /// Adds every page of `other`; returns how many were new.
    ///
    /// # Panics
    /// If the two sets are over different layouts.
    pub fn union_with(&mut self, other: &Self) -> PageCount {
        assert_eq!(self.regions.len(), other.regions.len(), "sets of different guests");
        let pairs = self.regions.iter_mut().zip(&other.regions);
        PageCount(pairs.map(|((_, map), (_, more))| map.union_with(more)).sum())
    }

    /// Takes every page out that is not in `other`.
    ///
    /// # Panics
    /// If the two sets are over different layouts.
    pub fn intersect_with(&mut self, other: &Self) {
        assert_eq!(self.regions.len(), other.regions.len(), "sets of different guests");
        let pairs = self.regions.iter_mut().zip(&other.regions);
        pairs.for_each(|((_, map), (_, also))| map.intersect_with(also));
    }

    /// Empties the set, at the cost of what is in it.
    pub fn clear(&mut self) {
        self.regions.iter_mut().for_each(|(_, map)| map.clear());
    }

    /// The bitmap of the region at `position` in the layout.
    ///
    /// # Panics
    /// If there is no such region.
    #[must_use]
    pub fn bitmap_at(&self, position: usize) -> &Bitmap {
        &self.regions[position].1
    }

    /// The maximal runs of the set, region by region, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        self.regions.iter().flat_map(|(region, map)| {
            let mut from = 0;
            core::iter::from_fn(move || {
                let first = map.next_one(from)?;
                let count = map.run_length(first, u64::MAX);
                from = first + count;
                Some(Run::new(*region, first, count))
            })
        })
    }

    fn bitmap_mut(&mut self, region: RegionId) -> &mut Bitmap {
        let found = self.regions.iter_mut().find(|(id, _)| *id == region);
        &mut found.expect("a run of a region of this guest").1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RegionLayout;
    use alloc::vec;

    fn layout() -> Layout {
        let region =
            |id, pages: u64| RegionLayout { id: RegionId(id), size: PageCount(pages).bytes() };
        Layout::new(vec![region(4, 100), region(2, 1000)]).expect("valid")
    }

    #[test]
    fn runs_come_back_as_they_went_in() {
        let mut set = PageSet::new(&layout());
        let runs = [
            Run::new(RegionId(4), 0, 100),
            Run::new(RegionId(2), 5, 1),
            Run::new(RegionId(2), 63, 200),
        ];
        runs.iter().for_each(|run| assert_eq!(set.insert(*run), run.count));
        assert_eq!(set.runs().collect::<Vec<_>>(), runs);
        assert_eq!(set.count(), PageCount(301));
        assert_eq!(set.remove(Run::new(RegionId(2), 0, 70)), PageCount(8));
        assert!(!set.contains(RegionId(2), PageIndex(69)));
        assert!(set.contains(RegionId(2), PageIndex(70)));
        assert!(!set.contains(RegionId(9), PageIndex(0)));
        assert_eq!(set.count_in(Run::new(RegionId(2), 60, 20)), PageCount(10));
        assert_eq!(set.count_in(Run::new(RegionId(9), 0, 20)), PageCount::ZERO);
        set.clear();
        assert!(set.is_empty());
    }

    #[test]
    fn a_full_set_has_every_page() {
        let mut all = PageSet::full(&layout());
        assert_eq!(all.count(), layout().pages());
        assert_eq!(all.union_with(&PageSet::full(&layout())), PageCount::ZERO);
    }
}
