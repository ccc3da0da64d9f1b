//! All chance in a world comes from here, and from one seed.

use std::time::Duration;

/// Sebastiano Vigna's SplitMix64: small, fast, and good enough to choose faults with.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number from `low` to `high`, both included.
    pub(crate) const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of all cases.
    pub(crate) const fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }

    /// A duration between two numbers of microseconds; short ones are as likely as long ones of
    /// ten times the length, so that close races are not rare.
    pub(crate) fn micros(&mut self, low: u64, high: u64) -> Duration {
        let (mut floor, mut ceiling) = (low, high);
        while ceiling / 10 > floor && self.chance(50) {
            ceiling /= 10;
        }
        floor = floor.min(ceiling);
        Duration::from_micros(self.between(floor, ceiling))
    }
}
