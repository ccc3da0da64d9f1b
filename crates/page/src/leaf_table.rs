//! The leaves of all pages of a guest, with their sums kept up to date as they change.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::{Layout, Leaf, LeafSum, PageCount, PageIndex, RegionId, Run};

/// Pages in a chunk: 2 MiB of memory have a sum of their own, so that two roots that differ can
/// be narrowed down without exchanging every leaf.
pub const CHUNK_PAGES: u64 = 512;

/// The position of a chunk in its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(pub u64);

/// The sum over all leaves of a guest, and how many of them are unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Root {
    /// Σ [`Leaf::mix`] over every known page, modulo 2¹²⁸.
    pub sum: LeafSum,
    /// Pages of which nothing is known.
    pub unknown: PageCount,
}

impl Root {
    /// Whether both stand for the same memory. A root with an unknown leaf agrees with nothing.
    #[must_use]
    pub fn agrees(self, other: Self) -> bool {
        self.unknown == PageCount::ZERO && other.unknown == PageCount::ZERO && self.sum == other.sum
    }
}

/// What is known of every page of a guest. All pages are [`Leaf::Zero`] at first, as fresh memory
/// is; a chunk's leaves take memory (8 KiB) once one of them differs from that, and so does the
/// directory of chunks (8 KiB for 512 MiB of the guest).
#[derive(Clone, Debug, Hash)]
pub struct LeafTable {
    regions: Vec<Region>,
    root: Root,
}

#[derive(Clone, Debug, Hash)]
struct Region {
    id: RegionId,
    pages: PageCount,
    blocks: Vec<Option<Box<Block>>>,
}

/// Chunks that get their place in the directory together.
const BLOCK_CHUNKS: usize = 256;
type Block = [Chunk; BLOCK_CHUNKS];

#[derive(Clone, Debug, Default, Hash)]
struct Chunk {
    sum: LeafSum,
    leaves: Option<Box<[u128; CHUNK_PAGES as usize]>>,
}

impl Region {
    fn new(id: RegionId, pages: PageCount) -> Self {
        let blocks = pages.0.div_ceil(CHUNK_PAGES * BLOCK_CHUNKS as u64);
        Self { id, pages, blocks: (0..blocks).map(|_| None).collect() }
    }

    /// A chunk that has a place; one that has none is all zero.
    ///
    /// # Panics
    /// If the region has no such chunk.
    fn chunk(&self, index: ChunkIndex) -> Option<&Chunk> {
        let Self { id, pages, blocks } = self;
        let known = index.0.checked_mul(CHUNK_PAGES).is_some_and(|first| first < pages.0);
        assert!(known, "chunk {} of {id}, which has {pages}", index.0);
        let (block, place) = place(index);
        blocks[block].as_deref().map(|chunks| &chunks[place])
    }

    fn chunk_mut(&mut self, index: ChunkIndex) -> &mut Chunk {
        let (block, place) = place(index);
        let fresh = || Box::new(core::array::from_fn(|_| Chunk::default()));
        &mut self.blocks[block].get_or_insert_with(fresh)[place]
    }

    fn leaf(&self, page: PageIndex) -> Leaf {
        let leaves = self.chunk(chunk_of(page)).and_then(|chunk| chunk.leaves.as_deref());
        leaves.map_or(Leaf::Zero, |leaves| loaded(leaves[(page.0 % CHUNK_PAGES) as usize]))
    }

    /// The chunks that may differ from fresh memory.
    fn used(&self) -> impl Iterator<Item = (ChunkIndex, &Chunk)> {
        let blocks = self.blocks.iter().enumerate();
        let chunks = blocks.flat_map(|(number, block)| {
            let first = number * BLOCK_CHUNKS;
            let chunks = block.iter().flat_map(|chunks| chunks.iter());
            chunks.enumerate().map(move |(at, chunk)| (ChunkIndex((first + at) as u64), chunk))
        });
        chunks.filter(|(_, chunk)| chunk.leaves.is_some())
    }
}

const fn chunk_of(page: PageIndex) -> ChunkIndex {
    ChunkIndex(page.0 / CHUNK_PAGES)
}

const fn place(chunk: ChunkIndex) -> (usize, usize) {
    (chunk.0 as usize / BLOCK_CHUNKS, chunk.0 as usize % BLOCK_CHUNKS)
}

/// Zero and unknown as stored digests. XXH3 gives one of them for 2 contents in 2¹²⁸: such a page
/// would be stored with another digest, the same one on both sides.
const STORED_ZERO: u128 = 0;
const STORED_UNKNOWN: u128 = 1;

fn stored(leaf: Leaf) -> u128 {
    match leaf {
        Leaf::Zero => STORED_ZERO,
        Leaf::Unknown => STORED_UNKNOWN,
        Leaf::Known(digest) => digest.max(STORED_UNKNOWN + 1),
    }
}

fn loaded(value: u128) -> Leaf {
    match value {
        STORED_ZERO => Leaf::Zero,
        STORED_UNKNOWN => Leaf::Unknown,
        digest => Leaf::Known(digest),
    }
}

impl LeafTable {
    /// A table over the pages of `layout`, all of them zero.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        let regions = layout.regions().iter();
        Self {
            regions: regions.map(|r| Region::new(r.id, r.pages())).collect(),
            root: Root::default(),
        }
    }

    /// What is known of a page.
    ///
    /// # Panics
    /// If the guest has no such page.
    #[must_use]
    pub fn get(&self, region: RegionId, page: PageIndex) -> Leaf {
        let found = self.region(region);
        assert!(page.0 < found.pages.0, "{page} of {region}, which has {}", found.pages);
        found.leaf(page)
    }

    /// Replaces what is known of a page and returns what was.
    ///
    /// # Panics
    /// If the guest has no such page.
    pub fn set(&mut self, region: RegionId, page: PageIndex, leaf: Leaf) -> Leaf {
        let found = self.regions.iter_mut().find(|found| found.id == region);
        let found = found.expect("a page of a region of this guest");
        assert!(page.0 < found.pages.0, "{page} of {region}, which has {}", found.pages);
        if matches!(leaf, Leaf::Zero) && matches!(found.leaf(page), Leaf::Zero) {
            return Leaf::Zero;
        }
        let chunk = found.chunk_mut(chunk_of(page));
        let leaves =
            chunk.leaves.get_or_insert_with(|| Box::new([STORED_ZERO; CHUNK_PAGES as usize]));
        let slot = &mut leaves[(page.0 % CHUNK_PAGES) as usize];
        let old = loaded(core::mem::replace(slot, stored(leaf)));
        let new = loaded(*slot);
        let (gone, come) = (old.mix(region, page), new.mix(region, page));
        chunk.sum = chunk.sum.plus(come).minus(gone);
        self.root.sum = self.root.sum.plus(come).minus(gone);
        self.root.unknown += PageCount(u64::from(matches!(new, Leaf::Unknown)));
        self.root.unknown -= PageCount(u64::from(matches!(old, Leaf::Unknown)));
        old
    }

    /// Whether something other than zero is or may be in a page of `run`, at the cost of a look at
    /// each page that is zero among others that are not.
    ///
    /// # Panics
    /// If the guest has no such pages.
    #[must_use]
    pub fn holds_content(&self, run: Run) -> bool {
        let region = self.region(run.region);
        let (mut at, end) = (run.first.0, run.end().0);
        while at < end {
            let stop = end.min((at / CHUNK_PAGES + 1) * CHUNK_PAGES);
            let chunk = region.chunk(chunk_of(PageIndex(at)));
            if let Some(leaves) = chunk.and_then(|chunk| chunk.leaves.as_deref()) {
                let first = (at % CHUNK_PAGES) as usize;
                let part = &leaves[first..first + (stop - at) as usize];
                if part.iter().any(|leaf| *leaf != STORED_ZERO) {
                    return true;
                }
            }
            at = stop;
        }
        false
    }

    /// The sum over all pages.
    #[must_use]
    pub const fn root(&self) -> Root {
        self.root
    }

    /// The chunks of a region that may differ from fresh memory, with their sums. Chunks that are
    /// not named are all zero.
    ///
    /// # Panics
    /// If the guest has no such region.
    pub fn chunk_sums(&self, region: RegionId) -> impl Iterator<Item = (ChunkIndex, LeafSum)> {
        self.region(region).used().map(|(index, chunk)| (index, chunk.sum))
    }

    /// The sum of one chunk.
    ///
    /// # Panics
    /// If the guest has no such chunk.
    #[must_use]
    pub fn chunk_sum(&self, region: RegionId, chunk: ChunkIndex) -> LeafSum {
        self.region(region).chunk(chunk).map_or(LeafSum::ZERO, |chunk| chunk.sum)
    }

    /// The pages of one chunk with their leaves, in ascending order.
    ///
    /// # Panics
    /// If the guest has no such chunk.
    pub fn leaves(
        &self,
        region: RegionId,
        chunk: ChunkIndex,
    ) -> impl Iterator<Item = (PageIndex, Leaf)> {
        let pages = self.region(region).pages;
        let first = chunk.0 * CHUNK_PAGES;
        assert!(first < pages.0, "chunk {} of {region}, which has {pages}", chunk.0);
        let end = pages.0.min(first + CHUNK_PAGES);
        (first..end).map(move |page| (PageIndex(page), self.get(region, PageIndex(page))))
    }

    fn region(&self, region: RegionId) -> &Region {
        let found = self.regions.iter().find(|found| found.id == region);
        found.expect("a region of this guest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ByteCount;

    const R: RegionId = RegionId(0);

    fn table(pages: u64) -> LeafTable {
        LeafTable::new(&Layout::single(ByteCount(pages * 4096)).expect("valid"))
    }

    #[test]
    fn the_root_follows_every_change_and_forgets_none() {
        let mut table = table(1000);
        let empty = table.root();
        for page in (0..1000).rev() {
            table.set(R, PageIndex(page), Leaf::Known(u128::from(page) + 10));
        }
        let expected = (0..1000).fold(LeafSum::ZERO, |sum, page| {
            sum.plus(Leaf::Known(u128::from(page) + 10).mix(R, PageIndex(page)))
        });
        assert_eq!(table.root().sum, expected);
        let parts = table.chunk_sums(R).fold(LeafSum::ZERO, |sum, (_, chunk)| sum.plus(chunk));
        assert_eq!(parts, expected);
        for page in 0..1000 {
            table.set(R, PageIndex(page), Leaf::Zero);
        }
        assert!(table.root().agrees(empty));
    }

    #[test]
    fn an_unknown_leaf_spoils_the_root_until_it_is_known() {
        let mut table = table(10);
        let before = table.root();
        table.set(R, PageIndex(3), Leaf::Unknown);
        assert!(!table.root().agrees(before) && !table.root().agrees(table.root()));
        assert!(matches!(table.set(R, PageIndex(3), Leaf::Zero), Leaf::Unknown));
        assert!(table.root().agrees(before));
    }

    #[test]
    fn digests_that_look_like_marks_stay_digests() {
        let mut table = table(4);
        for digest in [0, 1, 2] {
            table.set(R, PageIndex(digest as u64), Leaf::Known(digest));
            assert!(matches!(table.get(R, PageIndex(digest as u64)), Leaf::Known(_)));
        }
        assert_eq!(table.root().unknown, PageCount::ZERO);
    }

    #[test]
    fn chunks_far_apart_have_their_places() {
        let blocks = BLOCK_CHUNKS as u64;
        let mut table = table(CHUNK_PAGES * (2 * blocks + 1));
        let ends = [0, blocks - 1, blocks, 2 * blocks].map(|chunk| chunk * CHUNK_PAGES + 5);
        for page in ends {
            assert!(matches!(table.set(R, PageIndex(page), Leaf::Known(9)), Leaf::Zero));
        }
        let named: Vec<_> =
            table.chunk_sums(R).map(|(chunk, _)| chunk.0 * CHUNK_PAGES + 5).collect();
        assert_eq!(named, ends);
        assert_eq!(table.chunk_sum(R, ChunkIndex(1)), LeafSum::ZERO);
        for page in ends {
            assert!(matches!(table.get(R, PageIndex(page)), Leaf::Known(9)));
            let chunk = chunk_of(PageIndex(page));
            assert_eq!(table.chunk_sum(R, chunk), Leaf::Known(9).mix(R, PageIndex(page)));
            table.set(R, PageIndex(page), Leaf::Zero);
        }
        assert!(table.root().agrees(Root::default()));
    }

    #[test]
    #[should_panic(expected = "chunk 1 of")]
    fn a_chunk_that_is_not_there_is_no_zero_chunk() {
        let _ = table(CHUNK_PAGES).chunk_sum(R, ChunkIndex(1));
    }

    #[test]
    fn the_last_chunk_is_as_short_as_the_region() {
        let table = table(CHUNK_PAGES + 3);
        assert_eq!(table.leaves(R, ChunkIndex(1)).count(), 3);
        assert_eq!(table.chunk_sums(R).count(), 0, "untouched chunks are not named");
    }
}
