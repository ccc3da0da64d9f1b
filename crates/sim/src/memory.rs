//! Model memory: a page is one number, and the number 0 is a page of zeros.

use whimbrel_page::{Layout, Leaf, LeafTable, PageIndex, PageSet, RegionId, Run};

/// Where a page is.
pub(crate) type Place = (RegionId, PageIndex);

/// What a page holds. A write never writes a number that was written before, except for 0 and for
/// what the page held before its last write.
pub(crate) type Content = u64;

/// Half one page, half another.
const TORN: Content = u64::MAX - 2;

/// What a page turned into after it had landed. Its digest does not say so until it is read.
pub(crate) const TURNED: Content = u64::MAX - 3;

/// The leaf of a page with this content.
pub(crate) fn leaf_of(content: Content) -> Leaf {
    match content {
        0 => Leaf::Zero,
        content => Leaf::Known(u128::from(content) << 64 | u128::from(!content)),
    }
}

/// The pages of one guest on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    layout: Layout,
    pages: Vec<Content>,
}

impl Memory {
    pub(crate) fn new(layout: &Layout) -> Self {
        let pages = layout.pages().0 as usize;
        Self { layout: layout.clone(), pages: vec![0; pages] }
    }

    fn index(&self, (region, page): Place) -> usize {
        let before = self.layout.regions().iter().take_while(|r| r.id != region);
        (before.map(|r| r.pages().0).sum::<u64>() + page.0) as usize
    }

    pub(crate) fn get(&self, place: Place) -> Content {
        self.pages[self.index(place)]
    }

    pub(crate) fn set(&mut self, place: Place, content: Content) {
        let index = self.index(place);
        self.pages[index] = content;
    }

    /// Every page there is.
    pub(crate) fn places(&self) -> Vec<Place> {
        let runs = self.layout.regions().iter().map(|region| region.run());
        runs.flat_map(|run| run.pages().map(move |page| (run.region, page))).collect()
    }

    /// The first page that differs.
    pub(crate) fn difference(&self, other: &Self) -> Option<Place> {
        self.places().into_iter().find(|place| self.get(*place) != other.get(*place))
    }
}

/// The dirty log of one guest.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    pub(crate) armed: bool,
    dirty: PageSet,
}

impl Tracker {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self { armed: false, dirty: PageSet::new(layout) }
    }

    pub(crate) fn written(&mut self, (region, page): Place) {
        if self.armed {
            self.dirty.insert(Run::new(region, page.0, 1));
        }
    }

    /// What is dirty, without clearing it: what a harvest must never be.
    pub(crate) fn peek(&self) -> PageSet {
        self.dirty.clone()
    }

    /// Fetches and clears in one step.
    pub(crate) fn harvest(&mut self) -> PageSet {
        let dirty = self.dirty.clone();
        self.dirty.clear();
        dirty
    }

    pub(crate) fn forget(&mut self, pages: &PageSet) {
        for run in pages.runs() {
            self.dirty.remove(run);
        }
    }
}

/// The destination's memory and what is known of it.
#[derive(Debug)]
pub(crate) struct Landing {
    pub(crate) memory: Memory,
    pub(crate) table: LeafTable,
}

impl Landing {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self { memory: Memory::new(layout), table: LeafTable::new(layout) }
    }

    /// Law 4: unknown from the first byte that is written in place.
    pub(crate) fn begin(&mut self, (region, page): Place) {
        self.table.set(region, page, Leaf::Unknown);
    }

    /// Half of the page is written when its thread dies: it holds what never was, and nobody knows.
    pub(crate) fn tear(&mut self, place: Place) {
        self.memory.set(place, TORN);
    }

    pub(crate) fn end(&mut self, place: Place, content: Content) {
        self.memory.set(place, content);
        self.table.set(place.0, place.1, leaf_of(content));
    }
}
