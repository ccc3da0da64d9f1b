//! A coarse picture of where the guest's memory is, taken only when somebody asks for it.

use std::sync::{Arc, OnceLock};

use whimbrel_page::{Layout, Run};
use whimbrel_protocol::ledger::Cell;

use crate::lanes::{SourceLanes, WeakLanes};

/// The most cells of a picture.
pub const CELLS_MAX: u64 = 4096;
/// Pages that are looked at before lanes get their turn at the ledger again.
const PAGES_AT_ONCE: u64 = 1 << 18;

/// Looks at the memory of a guest that is being sent. Clones look at the same one; they hold
/// nothing that the migration has to give back.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap(Arc<OnceLock<WeakLanes>>);

impl MemoryMap {
    pub(super) fn begin(&self, lanes: &SourceLanes) {
        self.0.get_or_init(|| lanes.downgrade());
    }

    /// The guest's memory in at most `cells` equal pieces, and [`CELLS_MAX`], in the order of its
    /// regions; the last piece of a region may be smaller. Empty before the migration has begun
    /// and after it has ended. Costs some hundred microseconds a GiB, and holds up no lane for
    /// longer than a part of that.
    #[must_use]
    pub fn look(&self, cells: u64) -> Vec<Cell> {
        let Some(lanes) = self.0.get().and_then(WeakLanes::upgrade) else { return Vec::new() };
        let runs = pieces(lanes.layout(), cells.min(CELLS_MAX));
        let pages = runs.first().map_or(1, |run| run.count.0.max(1));
        let at_once = (PAGES_AT_ONCE / pages).max(1) as usize;
        runs.chunks(at_once).flat_map(|some| lanes.cells(some)).collect()
    }
}

/// The guest's memory in at most `most` runs of equal length, but for the ends of regions.
fn pieces(layout: &Layout, most: u64) -> Vec<Run> {
    let regions = layout.regions();
    let whole = most.saturating_sub(regions.len() as u64).max(1);
    let length = layout.pages().0.div_ceil(whole).max(1);
    let pieces = regions.iter().flat_map(|region| {
        let (id, pages) = (region.id, region.pages().0);
        let firsts = (0..pages).step_by(length as usize);
        firsts.map(move |first| Run::new(id, first, length.min(pages - first)))
    });
    pieces.take(most as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use whimbrel_page::{PageCount, RegionId, RegionLayout};

    fn layout(pages: &[u64]) -> Layout {
        let region = |(id, pages): (usize, &u64)| RegionLayout {
            id: RegionId(id as u32),
            size: PageCount(*pages).bytes(),
        };
        Layout::new(pages.iter().enumerate().map(region).collect()).expect("valid")
    }

    #[test]
    fn pieces_cover_every_page_once_and_are_few() {
        for (pages, most) in [(&[1][..], 4096), (&[1000, 24], 64), (&[262_144], 4096), (&[7, 7], 2)]
        {
            let layout = layout(pages);
            let runs = pieces(&layout, most);
            assert!(runs.len() as u64 <= most, "{pages:?}: {}", runs.len());
            for region in layout.regions() {
                let mut next = 0;
                for run in runs.iter().filter(|run| run.region == region.id) {
                    assert_eq!(run.first.0, next);
                    next = run.end().0;
                }
                assert_eq!(next, region.pages().0, "{pages:?} in {most}");
            }
        }
    }

    #[test]
    fn there_is_nothing_to_see_before_it_begins() {
        assert!(MemoryMap::default().look(10).is_empty());
    }
}
