//! The guest: writes of its own, wherever it runs.

use std::time::Duration;

use whimbrel_page::{Layout, PageSet, Run};

use crate::broken::Broken;
use crate::memory::{Content, Memory, Place};
use crate::plan::HEALED;
use crate::seen::Seen;
use crate::world::World;

/// What the guest has done, wherever it ran: the one history that there may be.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) memory: Memory,
    /// Bursts so far; moves with the guest's state.
    pub(crate) bursts: u64,
    /// The last content that was written anywhere.
    pub(crate) writes: Content,
    /// Pages that were ever written.
    pub(crate) touched: PageSet,
    /// What each page held before it was written last.
    before: Memory,
}

impl Truth {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            memory: Memory::new(layout),
            bursts: 0,
            writes: 0,
            touched: PageSet::new(layout),
            before: Memory::new(layout),
        }
    }
}

impl World {
    pub(crate) fn fill_guest(&mut self) {
        for place in self.truth.memory.places() {
            if self.random.chance(self.plan.touched) {
                self.write(place);
            }
        }
    }

    /// The next burst of writes, if the guest runs anywhere, and when the one after it is due.
    pub(crate) fn burst(&mut self) {
        self.next_burst = self.now + self.beat();
        let here = self.src.running && self.now >= self.src.frozen;
        let there = self.dst.running && self.now >= self.dst.frozen;
        if self.now >= HEALED || !(here || there) {
            return;
        }
        self.truth.bursts += 1;
        let storm = if self.storm { 8 } else { 1 };
        for _ in 0..self.plan.burst * storm {
            let place = self.any_place(self.plan.working_set);
            self.write(place);
        }
    }

    fn beat(&self) -> Duration {
        let share = 100 - u32::from(self.src.throttle);
        self.plan.beat * 100 / share.max(1)
    }

    pub(crate) fn any_place(&mut self, among: u64) -> Place {
        let places = self.truth.memory.places();
        places[self.random.below(among.min(places.len() as u64)) as usize]
    }

    /// The guest writes something new, zeros, or what was there before into a page, on the host
    /// where it runs.
    pub(crate) fn write(&mut self, place: Place) {
        self.truth.writes += 1;
        let content = if self.truth.bursts > 0 && self.random.chance(self.plan.write_back) {
            self.saw(Seen::WroteBack);
            self.truth.before.get(place)
        } else if self.random.chance(15) {
            0
        } else {
            self.truth.writes
        };
        self.truth.before.set(place, self.truth.memory.get(place));
        self.truth.memory.set(place, content);
        self.truth.touched.insert(Run::new(place.0, place.1.0, 1));
        if self.dst.running {
            self.dst.landing.memory.set(place, content);
            return;
        }
        self.src.memory.set(place, content);
        if !(self.broken == Some(Broken::UntrackedWriter) && self.random.chance(10)) {
            self.src.tracker.written(place);
        }
    }

    /// Copies a page as a lane does, while the guest may write it.
    pub(crate) fn copy(&mut self, place: Place) -> Content {
        if self.src.running && self.random.chance(self.plan.burst) {
            self.write(place);
            self.saw(Seen::TornCopy);
            // Half old, half new: a content that never was.
            self.truth.writes += 1;
            return self.truth.writes;
        }
        self.src.memory.get(place)
    }
}
