//! What a lane has taken to send.

use alloc::vec::Vec;

use whimbrel_page::{Disposition, Leaf, LeafTable, PageCount, PageIndex, RegionId, Run};

/// The pages of one taking: which they are, what the destination is known to hold of each, and
/// what was found in each once it was copied. Belongs to a lane, which reuses it.
#[derive(Clone, Debug, Default, Hash)]
pub struct Take {
    runs: Vec<Run>,
    committed: Vec<Leaf>,
    found: Vec<Leaf>,
}

impl Take {
    /// The runs, in the order of the layout. Their pages, one after the other, are the order that
    /// everything else counts in.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// How many pages there are.
    #[must_use]
    pub fn pages(&self) -> PageCount {
        PageCount(self.committed.len() as u64)
    }

    /// What was found in the next page that has none yet: the digest of its private copy. Returns
    /// how the page travels.
    ///
    /// # Panics
    /// If every page has one.
    pub fn found(&mut self, leaf: Leaf) -> Disposition {
        let committed = self.committed.get(self.found.len());
        let committed = *committed.expect("one leaf for each page taken");
        self.found.push(leaf);
        disposition(leaf, !leaf.agrees(committed))
    }

    /// How each page travels. A page is unchanged if the destination is *known* to hold what was
    /// found.
    ///
    /// # Panics
    /// If a page was not digested.
    pub fn dispositions(&self) -> impl Iterator<Item = (RegionId, PageIndex, Disposition)> {
        self.each().map(|(region, page, leaf, changed)| (region, page, disposition(leaf, changed)))
    }

    /// Each page, what was found in it, and whether it has to be sent.
    pub(super) fn each(&self) -> impl Iterator<Item = (RegionId, PageIndex, Leaf, bool)> {
        assert_eq!(self.found.len(), self.committed.len(), "every page taken is digested");
        let places = self.runs.iter().flat_map(|run| run.pages().map(|page| (run.region, page)));
        let leaves = self.found.iter().zip(&self.committed);
        places.zip(leaves).map(|((region, page), (found, committed))| {
            (region, page, *found, !found.agrees(*committed))
        })
    }

    /// The pages that need not be sent.
    pub(super) fn unchanged(&self) -> impl Iterator<Item = Run> {
        let unchanged = self.each().filter(|(.., changed)| !changed);
        unchanged.map(|(region, page, ..)| Run::new(region, page.0, 1))
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.committed.clear();
        self.found.clear();
    }

    pub(super) fn push(&mut self, run: Run, committed: &LeafTable) {
        self.runs.push(run);
        self.committed.extend(run.pages().map(|page| committed.get(run.region, page)));
    }
}

const fn disposition(leaf: Leaf, changed: bool) -> Disposition {
    match leaf {
        _ if !changed => Disposition::Unchanged,
        Leaf::Zero => Disposition::Zero,
        Leaf::Known(_) | Leaf::Unknown => Disposition::Raw,
    }
}
