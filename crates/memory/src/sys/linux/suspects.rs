//! The blocks of guest memory in which anything may have been written.

use std::ops::Range;
use std::thread::{self, JoinHandle};
use std::{io, mem};

use whimbrel_page::{Bitmap, PAGE_SIZE, PageSet, RegionId, Run};

use super::fault_log::FaultLog;
use super::userfaultfd::TABLE_PAGES;
use crate::sys::Mapping;
use crate::{GuestMemory, Writers};

/// Bytes of a block: what one page table maps, by absolute addresses. More than a page may come
/// with a fault (all of a block, where it is a huge page), but in memory that we map ourselves not
/// more than that; a reserved huge page is a block.
const BLOCK: usize = TABLE_PAGES as usize * PAGE_SIZE;

/// What a scan is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Protects what it finds.
    Harvest,
    /// Is followed by others that are to be quick.
    Rehearsal,
    /// Is what a parked guest waits for.
    Parked,
}

/// While armed: every page that can be written without a fault lies in a suspected block, or has a
/// fault in the log.
pub(super) struct Suspects {
    log: Log,
    regions: Vec<Blocks>,
    /// How often it was known where to look.
    #[cfg(test)]
    pub(super) led: u64,
}

enum Log {
    /// Nobody has to wait for it.
    Opening(JoinHandle<io::Result<FaultLog>>),
    Open(FaultLog),
    /// The host has none for us.
    None,
}

/// One region's.
struct Blocks {
    region: RegionId,
    addresses: Range<usize>,
    /// Bytes of a block here, and where the first one begins, which may be before the region.
    size: usize,
    first: usize,
    suspected: Bitmap,
}

impl Suspects {
    /// Suspects everything until the log is open, and always where others may write or have mapped
    /// the memory as they liked, or where a page that was only read can be written: a reserved huge
    /// page that is shared.
    pub(super) fn new(memory: &GuestMemory, writers: Writers) -> Self {
        let fits = |mapping: &Mapping| {
            let shared_and_huge = mapping.backing().is_some() && mapping.file().is_none();
            mapping.is_own() && !shared_and_huge
        };
        let log = match writers {
            Writers::OwnThreads if memory.regions().all(|(_, mapping)| fits(mapping)) => {
                let opening = thread::Builder::new().name("whimbrel-log".into());
                opening.spawn(FaultLog::open).map_or(Log::None, Log::Opening)
            }
            _ => Log::None,
        };
        let blocks = |(region, mapping): (RegionId, &Mapping)| {
            let size = BLOCK.max(mapping.granule.bytes().0 as usize);
            Blocks::new(region, mapping.addresses(), size)
        };
        let regions = memory.regions().map(blocks).collect();
        Self {
            log,
            regions,
            #[cfg(test)]
            led: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn has_log(&self) -> bool {
        !matches!(self.log, Log::None)
    }

    /// Begins a scan: at which addresses to look for what was written, ascending in each region;
    /// none means everywhere. A harvest leaves nothing suspected; another scan that looked
    /// everywhere must [`Suspects::add`] what it has found.
    pub(super) fn begin_scan(&mut self, purpose: Purpose) -> Option<Vec<Range<usize>>> {
        let complete = self.look(purpose).unwrap_or_else(|_| {
            // What could not be read is worth nothing, now and later.
            self.log = Log::None;
            false
        });
        let count = |of: fn(&Bitmap) -> u64| -> u64 {
            self.regions.iter().map(|blocks| of(&blocks.suspected)).sum()
        };
        // Many scans of little cost more than one of everything.
        let few = count(Bitmap::ones) * 4 <= count(Bitmap::len);
        let parts: Option<Vec<_>> =
            (complete && few).then(|| self.regions.iter().flat_map(Blocks::parts).collect());
        #[cfg(test)]
        (self.led += u64::from(parts.is_some()));
        if purpose == Purpose::Harvest {
            self.regions.iter_mut().for_each(|blocks| blocks.suspected.clear());
        }
        parts
    }

    /// Suspects what the log has. Returns whether that is all; otherwise the log begins anew,
    /// unless somebody waits. Its first time is a harvest: until then all of the memory is sent,
    /// and threads are switched more than at any other time.
    fn look(&mut self, purpose: Purpose) -> io::Result<bool> {
        let Some(log) = self.log.open()? else {
            return Ok(false);
        };
        // Regions that lie side by side are one to the kernel, and may share a block.
        let regions = &mut self.regions;
        let complete =
            log.take(|address| regions.iter_mut().for_each(|blocks| blocks.add(address)))?;
        let begins = match purpose {
            Purpose::Harvest => true,
            Purpose::Rehearsal => log.has_begun(),
            Purpose::Parked => false,
        };
        if !complete && begins {
            log.restart()?;
        }
        Ok(complete)
    }

    /// Suspects where pages were found and not protected.
    pub(super) fn add(&mut self, found: &PageSet) {
        for run in found.runs() {
            let blocks = self.regions.iter_mut().find(|blocks| blocks.region == run.region);
            blocks.expect("a region of this memory").add_pages(run);
        }
    }
}

impl Log {
    fn open(&mut self) -> io::Result<Option<&mut FaultLog>> {
        if let Self::Opening(opening) = self {
            if !opening.is_finished() {
                return Ok(None);
            }
            let Self::Opening(opening) = mem::replace(self, Self::None) else { unreachable!() };
            let died = |_| io::Error::other("the thread that opened the log of faults has died");
            *self = Self::Open(opening.join().map_err(died)??);
        }
        Ok(match self {
            Self::Open(log) => Some(log),
            _ => None,
        })
    }
}

impl Blocks {
    fn new(region: RegionId, addresses: Range<usize>, size: usize) -> Self {
        let first = addresses.start / size * size;
        let suspected = Bitmap::new((addresses.end - first).div_ceil(size) as u64);
        Self { region, addresses, size, first, suspected }
    }

    /// Suspects what may have come with a fault at this address.
    fn add(&mut self, address: usize) {
        let block = address.checked_sub(self.first).map(|offset| (offset / self.size) as u64);
        if let Some(block) = block.filter(|block| *block < self.suspected.len()) {
            self.suspected.insert(block, 1);
        }
    }

    fn add_pages(&mut self, run: Run) {
        let before = self.addresses.start - self.first;
        let block = |page: u64| ((before + page as usize * PAGE_SIZE) / self.size) as u64;
        let (from, last) = (block(run.first.0), block(run.end().0 - 1));
        self.suspected.insert(from, last - from + 1);
    }

    fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        let address = |block: u64| {
            let start = self.first + block as usize * self.size;
            start.clamp(self.addresses.start, self.addresses.end)
        };
        let mut at = 0;
        std::iter::from_fn(move || {
            let from = self.suspected.next_one(at)?;
            at = from + self.suspected.run_length(from, u64::MAX);
            Some(address(from)..address(at))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(blocks: &Blocks) -> Vec<(usize, usize)> {
        blocks.parts().map(|range| (range.start, range.end)).collect()
    }

    /// A region that ends and begins within blocks.
    #[test]
    fn a_fault_makes_its_block_suspect() {
        let (start, end) = (10 * BLOCK + 3 * PAGE_SIZE, 13 * BLOCK + PAGE_SIZE);
        let suspected = |address| {
            let mut blocks = Blocks::new(RegionId(0), start..end, BLOCK);
            blocks.add(address);
            parts(&blocks)
        };
        assert_eq!(suspected(start), [(start, 11 * BLOCK)]);
        assert_eq!(suspected(12 * BLOCK - 1), [(11 * BLOCK, 12 * BLOCK)]);
        assert_eq!(suspected(end - 1), [(13 * BLOCK, end)]);
        // In what lies beside it, which a huge page may have in common with it.
        assert_eq!(suspected(10 * BLOCK), [(start, 11 * BLOCK)]);
        assert_eq!(suspected(14 * BLOCK - 1), [(13 * BLOCK, end)]);
        assert_eq!(suspected(10 * BLOCK - 1), []);
        assert_eq!(suspected(14 * BLOCK), []);
    }

    #[test]
    fn pages_make_their_blocks_suspect() {
        let (start, end) = (10 * BLOCK + 3 * PAGE_SIZE, 13 * BLOCK + PAGE_SIZE);
        let suspected = |first, count| {
            let mut blocks = Blocks::new(RegionId(0), start..end, BLOCK);
            blocks.add_pages(Run::new(RegionId(0), first, count));
            parts(&blocks)
        };
        assert_eq!(suspected(0, 1), [(start, 11 * BLOCK)]);
        assert_eq!(suspected(508, 1), [(start, 11 * BLOCK)]);
        assert_eq!(suspected(509, 1), [(11 * BLOCK, 12 * BLOCK)]);
        assert_eq!(suspected(508, 2), [(start, 12 * BLOCK)]);
        assert_eq!(suspected(0, ((end - start) / PAGE_SIZE) as u64), [(start, end)]);
    }
}
