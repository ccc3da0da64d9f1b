//! What the memory handle itself knows of changed pages, for the tracker in force.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering, fence};

use whimbrel_page::{Layout, PAGE_SIZE, PageSet, RegionId, Run};

use crate::atomic_bits::AtomicBits;

/// What the log takes down. Ordered: each takes down what the one before does, and more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Logged {
    Nothing = 0,
    /// Discards, which change content without a write and so pass by the tracker.
    Discards = 1,
    /// Every change made through the handle.
    Writes = 2,
}

/// Pages changed through the handle while a tracker is armed. Lock-free.
///
/// Whoever changes memory does so *first* and looks at the log *then*, with a full barrier
/// between; whoever arms switches the log on *first* and reads memory *then*. So a change that
/// is not logged is one that the first read after arming sees.
pub(crate) struct WriteLog {
    level: AtomicU8,
    ids: Vec<(RegionId, u64)>,
    /// One map a region, made when a tracker is first armed.
    bits: OnceLock<Box<[AtomicBits]>>,
}

impl WriteLog {
    pub(crate) fn new(layout: &Layout) -> Self {
        let ids = layout.regions().iter().map(|region| (region.id, region.pages().0)).collect();
        Self { level: AtomicU8::new(Logged::Nothing as u8), ids, bits: OnceLock::new() }
    }

    /// Forgets what was logged for an earlier tracker and logs `level` from now on.
    pub(crate) fn start(&self, level: Logged) {
        let maps = self
            .bits
            .get_or_init(|| self.ids.iter().map(|(_, pages)| AtomicBits::new(*pages)).collect());
        maps.iter().for_each(|map| map.drain(|_, _| ()));
        self.level.store(level as u8, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn stop(&self) {
        self.level.store(Logged::Nothing as u8, Ordering::SeqCst);
    }

    /// `len` bytes at `offset` of the region at `position` were changed by a `change` of this
    /// kind. To be called after the change.
    pub(crate) fn note(&self, change: Logged, position: usize, offset: u64, len: u64) {
        fence(Ordering::SeqCst);
        if self.level.load(Ordering::Relaxed) < change as u8 || len == 0 {
            return;
        }
        if let Some(maps) = self.bits.get() {
            let first = offset / PAGE_SIZE as u64;
            maps[position].set(first, (offset + len).div_ceil(PAGE_SIZE as u64) - first);
        }
    }

    /// Moves what was logged into `found`.
    pub(crate) fn drain(&self, found: &mut PageSet) {
        self.each_map(|region, map| {
            map.drain(|first, count| {
                found.insert(Run::new(region, first, count));
            });
        });
    }

    /// Copies what was logged into `found`.
    pub(crate) fn peek(&self, found: &mut PageSet) {
        self.each_map(|region, map| {
            map.peek(|first, count| {
                found.insert(Run::new(region, first, count));
            });
        });
    }

    fn each_map(&self, mut each: impl FnMut(RegionId, &AtomicBits)) {
        let maps = self.bits.get().into_iter().flatten();
        self.ids.iter().zip(maps).for_each(|((region, _), map)| each(*region, map));
    }
}
