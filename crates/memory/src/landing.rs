//! A destination's memory while pages arrive.

use whimbrel_page::{Layout, PageIndex, RegionId, Run};

use crate::atomic_bits::AtomicBits;
use crate::guest_memory::check_buffer;
use crate::sys::Populator;
use crate::{GuestMemory, MemoryError};

/// Guest memory that only arriving pages are written to, until it goes live. The guest it belongs
/// to exists already and is parked.
///
/// Several lander threads share it; no two of them may land the same page at the same time (at
/// most one copy of a page is in flight). Pages that are zero and were never anything else take
/// no memory.
pub struct Landing {
    memory: GuestMemory,
    /// The pages that may not be zero, one map a region in the layout's order.
    written: Vec<(RegionId, AtomicBits)>,
    populator: Populator,
}

impl Landing {
    /// Takes `memory` to land in. It need not be fresh. On Linux its private regions may be
    /// registered with a userfaultfd until a tracker is armed or the memory goes: no other one can
    /// register them meanwhile.
    ///
    /// # Errors
    /// [`MemoryError::Os`] if the host does not say which pages are populated.
    pub fn new(memory: GuestMemory) -> Result<Self, MemoryError> {
        let regions = memory.layout().regions().iter();
        let written: Vec<_> =
            regions.map(|region| (region.id, AtomicBits::new(region.pages().0))).collect();
        let landing = Self { written, memory, populator: Populator::new() };
        for run in landing.memory.touched()?.runs() {
            landing.map_of(run)?.set(run.first.0, run.count.0);
        }
        landing.memory.begin_placing();
        Ok(landing)
    }

    /// The shape of the memory.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.memory.layout()
    }

    /// Writes the pages of `run`.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchRun`], [`MemoryError::BufferSize`] if `from` is not exactly as large
    /// as the run: nothing is written then. [`MemoryError::Os`] if the host has no memory left:
    /// some of it may be written then.
    pub fn write_pages(&self, run: Run, from: &[u8]) -> Result<(), MemoryError> {
        self.write_runs(std::iter::once((run, from)))
    }

    /// Writes the pages of several runs, each with its bytes.
    ///
    /// # Errors
    /// As [`Landing::write_pages`].
    pub fn write_runs<'a>(
        &self,
        runs: impl Iterator<Item = (Run, &'a [u8])> + Clone,
    ) -> Result<(), MemoryError> {
        for (run, from) in runs.clone() {
            self.map_of(run)?;
            check_buffer(run, from.len())?;
        }
        let (mut fresh, mut rest) = (Vec::new(), Vec::new());
        for (run, from) in runs {
            let is_fresh = self.begin(run);
            if is_fresh && self.memory.place(run, from) {
                continue;
            }
            fresh.extend(is_fresh.then_some(run));
            rest.push((run, from));
        }
        // A call or two instead of a fault a page, and a host without memory says so.
        self.memory.populate(&self.populator, fresh.into_iter())?;
        let write = |(run, from): (Run, _)| self.memory.write(run.region, run.first.offset(), from);
        rest.into_iter().try_for_each(write)
    }

    /// Makes the pages of `run` zero: gives back what was written, leaves alone what was not.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchRun`].
    pub fn zero(&self, run: Run) -> Result<(), MemoryError> {
        self.map_of(run)?.take(run.first.0, run.count.0, |first, count| {
            let written = Run::new(run.region, first, count);
            self.memory.discard(written).expect("a part of a run that is there");
        });
        Ok(())
    }

    /// Copies all bytes of `run` into `into`: the base of a delta, or what a verification reads.
    ///
    /// # Errors
    /// As [`GuestMemory::copy_run`].
    pub fn copy_run(&self, run: Run, into: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.copy_run(run, into)
    }

    /// Whether nothing but zeros can be in this page, so that reading it can be spared. A page
    /// the guest does not have is.
    #[must_use]
    pub fn is_untouched(&self, region: RegionId, page: PageIndex) -> bool {
        !self.map_of(Run { region, first: page, count: PAGE }).is_ok_and(|map| map.contains(page.0))
    }

    /// The end of landing: the memory belongs to the guest.
    #[must_use]
    pub fn into_live(self) -> GuestMemory {
        self.memory
    }

    /// Takes note that the pages of `run` are written, and says whether none of them was before.
    fn begin(&self, run: Run) -> bool {
        let map = self.map_of(run).expect("a run that was checked");
        let fresh = !map.any(run.first.0, run.count.0);
        map.set(run.first.0, run.count.0);
        fresh
    }

    fn map_of(&self, run: Run) -> Result<&AtomicBits, MemoryError> {
        let found = self.written.iter().find(|(region, _)| *region == run.region);
        match found {
            Some((_, map)) if self.layout().contains(run) => Ok(map),
            _ => Err(MemoryError::NoSuchRun(run)),
        }
    }
}

const PAGE: whimbrel_page::PageCount = whimbrel_page::PageCount(1);
