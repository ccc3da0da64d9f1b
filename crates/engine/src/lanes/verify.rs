//! What was found in memory itself, against what the lanes have sent or landed.

use std::collections::BTreeMap;

use whimbrel_page::{
    CHUNK_PAGES, ChunkIndex, Layout, Leaf, LeafSum, LeafTable, PageCount, PageIndex, PageSet,
    RegionId, Root, Run,
};
use whimbrel_protocol::Ledger;

use super::{DestinationLanes, SourceLanes};

/// The chunks of which something is known.
fn used(table: &LeafTable, layout: &Layout) -> Vec<Run> {
    let regions = layout.regions().iter();
    let chunks = regions.flat_map(|region| {
        table.chunk_sums(region.id).map(move |(chunk, _)| {
            let first = chunk.0 * CHUNK_PAGES;
            Run::new(region.id, first, CHUNK_PAGES.min(region.pages().0 - first))
        })
    });
    chunks.collect()
}

impl SourceLanes {
    /// Compares the destination's chunk sums with ours, and makes the pages of chunks that differ
    /// pending. Chunks that are not named are all zero there; chunks that this guest does not have
    /// are left out. Returns the pages that go again.
    pub(crate) fn spoil_differing(&self, named: &[(RegionId, ChunkIndex, LeafSum)]) -> PageSet {
        let layout = self.shared.memory.layout();
        let mut differing = PageSet::new(layout);
        let mut state = self.shared.lock();
        let table = state.ledger.table();
        let theirs: BTreeMap<_, _> = named.iter().map(|(r, c, sum)| ((*r, *c), *sum)).collect();
        for region in layout.regions() {
            let ours = table.chunk_sums(region.id).map(|(chunk, _)| chunk);
            let named = theirs.keys().filter(|(id, _)| *id == region.id).map(|(_, chunk)| *chunk);
            for chunk in ours.chain(named) {
                let first = chunk.0.saturating_mul(CHUNK_PAGES);
                if first >= region.pages().0 {
                    continue;
                }
                let there = theirs.get(&(region.id, chunk)).copied().unwrap_or_default();
                if table.chunk_sum(region.id, chunk) != there {
                    let count = CHUNK_PAGES.min(region.pages().0 - first);
                    differing.insert(Run::new(region.id, first, count));
                }
            }
        }
        differing.runs().for_each(|run| state.ledger.spoil(run));
        differing
    }

    /// The chunks that the destination does not hold as fresh memory.
    pub(crate) fn used_chunks(&self) -> Vec<Run> {
        used(self.shared.lock().ledger.table(), self.shared.memory.layout())
    }

    /// Makes those pages of a chunk pending that hold something else than the destination does,
    /// as `found` in the memory of a paused guest, and are not about to be sent. Returns them.
    pub(crate) fn catch_missed(&self, chunk: Run, found: &[Leaf]) -> Vec<Run> {
        let mut state = self.shared.lock();
        let missed = |ledger: &Ledger, page: PageIndex, leaf: Leaf| {
            ledger.settled(chunk.region, page).is_some_and(|there| !there.agrees(leaf))
        };
        let pages = chunk.pages().zip(found);
        let pages = pages.filter(|(page, leaf)| missed(&state.ledger, *page, **leaf));
        let mut runs: Vec<Run> = Vec::new();
        for (page, _) in pages {
            match runs.last_mut() {
                Some(last) if last.end() == page => last.count += PageCount(1),
                _ => runs.push(Run::new(chunk.region, page.0, 1)),
            }
        }
        runs.iter().for_each(|run| state.ledger.merge_run(*run));
        runs
    }

    /// What the destination holds of each page of `run`, unless something newer is to be sent or
    /// on its way.
    pub(crate) fn settled(&self, run: Run) -> Vec<Option<Leaf>> {
        let state = self.shared.lock();
        run.pages().map(|page| state.ledger.settled(run.region, page)).collect()
    }

    /// Adds pages that the tracker has missed; returns how many are pending now.
    pub(crate) fn merge_missed(&self, missed: &[Run]) -> PageCount {
        let mut state = self.shared.lock();
        missed.iter().for_each(|run| state.ledger.merge_run(*run));
        state.ledger.pending()
    }
}

impl DestinationLanes {
    /// Begins a verification: from now on, until a batch is written in place, what is in memory is
    /// what shall be known of it. One that is being written just now is none of that.
    pub(crate) fn begin_verifying(&self) {
        self.shared.lock().begin_verifying();
    }

    /// Ends a verification that nobody waits for, after the chunk that is being looked at.
    pub(crate) fn stop_verifying(&self) {
        self.shared.lock().verifying = false;
    }

    /// The chunks that are not known to be fresh memory.
    pub(crate) fn used_chunks(&self) -> Vec<Run> {
        used(&self.shared.lock().leaves, self.shared.landing.layout())
    }

    /// Takes what was `found` in the pages of a chunk for what is known of them. `false` says that
    /// something has been written meanwhile, and nothing was taken.
    pub(crate) fn take_found(&self, chunk: Run, found: &[Leaf]) -> bool {
        let mut state = self.shared.lock();
        if !state.verifying {
            return false;
        }
        let mut differing = PageCount::ZERO;
        for (page, leaf) in chunk.pages().zip(found) {
            if !state.leaves.get(chunk.region, page).agrees(*leaf) {
                state.leaves.set(chunk.region, page, *leaf);
                differing += PageCount(1);
            }
        }
        drop(state);
        if differing > PageCount::ZERO {
            tracing::error!("{differing} of {chunk} do not hold what has landed there");
        }
        true
    }

    /// The root of what memory itself holds; one that agrees with nothing if something was
    /// written since the verification began.
    pub(crate) fn verified(&self) -> Root {
        let mut state = self.shared.lock();
        let root = state.leaves.root();
        match std::mem::take(&mut state.verifying) {
            true => root,
            false => Root { unknown: root.unknown.max(PageCount(1)), ..root },
        }
    }
}
