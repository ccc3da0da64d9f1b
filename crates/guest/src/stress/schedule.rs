//! Which page a vCPU writes with its n-th write, as a pure function that can be asked both ways.
//!
//! A vCPU counts its writes. From that count alone follows which page comes next and **how often
//! each page has been written**: no table of expected versions exists that could be lost in a
//! move together with the pages it speaks of. The count travels as vCPU state, in eight bytes.
//!
//! ```text
//!   page_at(n) ─► slot, sequence        what the n-th write (from 0) writes
//!   sequence_after(n, slot)             how often `slot` was written by the first n writes
//! ```
//!
//! The price: within one pass every page comes exactly once, in shuffled order. For migration
//! this is the harder case: a rate of writes is a rate of *unique* pages.

use super::config::Pattern;
use super::mix::mix2;
use super::permutation::Permutation;

/// Windows that [`Pattern::Phases`] divides the working set into.
const WINDOWS: u64 = 4;
/// Passes over one window before the guest turns to the next.
const PASSES_PER_PHASE: u64 = 8;
/// Of so many writes of [`Pattern::HotSpot`] one goes to the pages that are not hot.
const HOT_TURNS: u64 = 10;
/// Of so many pages one is hot.
const HOT_PAGES: u64 = 10;
/// Writes a vCPU counts at most, so that no sum here overflows: 3,600 years at 10⁷ a second.
pub(crate) const WRITES_MAX: u64 = 1 << 60;

/// The writing order of one vCPU over its share of the working set: slots `0..len`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pattern: Pattern,
    len: u64,
    seed: u64,
}

/// One write: which slot, and the how-manieth write of that slot it is (from 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) slot: u64,
    pub(crate) sequence: u64,
}

impl Schedule {
    /// `len` slots, not 0, in the order that `pattern` and `seed` give.
    pub(crate) const fn new(pattern: Pattern, len: u64, seed: u64) -> Self {
        Self { pattern, len, seed }
    }

    /// The write that follows after `n` writes.
    pub(crate) const fn page_at(&self, n: u64) -> Write {
        match self.pattern {
            Pattern::Sequential => Write { slot: n % self.len, sequence: n / self.len + 1 },
            Pattern::Uniform => self.shuffled(0, self.len, n),
            Pattern::Zipf => {
                let octaves = self.octaves();
                let (first, len) = self.octave(n % octaves);
                let Write { slot, sequence } = self.shuffled(first, len, n / octaves);
                Write { slot: self.scatter().at(slot), sequence }
            }
            Pattern::Phases => {
                let (cycle, rest) = self.cycle(n);
                let (first, len) = self.window_of(rest / PASSES_PER_PHASE);
                let done = cycle * PASSES_PER_PHASE * len + rest - PASSES_PER_PHASE * first;
                self.shuffled(first, len, done)
            }
            Pattern::HotSpot => {
                let (hot, cold, round, turn) = self.hot_turn(n);
                let Write { slot, sequence } = if cold == 0 {
                    self.shuffled(0, hot, n)
                } else if turn + 1 < HOT_TURNS {
                    self.shuffled(0, hot, round * (HOT_TURNS - 1) + turn)
                } else {
                    self.shuffled(hot, cold, round)
                };
                Write { slot: self.scatter().at(slot), sequence }
            }
        }
    }

    /// How often `slot` has been written by the first `n` writes.
    pub(crate) const fn sequence_after(&self, n: u64, slot: u64) -> u64 {
        match self.pattern {
            Pattern::Sequential => n / self.len + (slot < n % self.len) as u64,
            Pattern::Uniform => self.shuffled_count(0, self.len, n, slot),
            Pattern::Zipf => {
                let slot = self.scatter().position(slot);
                let octaves = self.octaves();
                let octave = min((slot + 1).ilog2() as u64, octaves - 1);
                let (first, len) = self.octave(octave);
                let turns = n / octaves + (octave < n % octaves) as u64;
                self.shuffled_count(first, len, turns, slot)
            }
            Pattern::Phases => {
                let (cycle, rest) = self.cycle(n);
                let (first, len) = self.window_of(slot);
                let now =
                    min(rest.saturating_sub(PASSES_PER_PHASE * first), PASSES_PER_PHASE * len);
                self.shuffled_count(first, len, cycle * PASSES_PER_PHASE * len + now, slot)
            }
            Pattern::HotSpot => {
                let slot = self.scatter().position(slot);
                let (hot, cold, round, turn) = self.hot_turn(n);
                if cold == 0 {
                    self.shuffled_count(0, hot, n, slot)
                } else if slot < hot {
                    self.shuffled_count(0, hot, round * (HOT_TURNS - 1) + turn, slot)
                } else {
                    self.shuffled_count(hot, cold, round, slot)
                }
            }
        }
    }

    /// Pass after pass over `first..first + len`, each one shuffled anew.
    const fn shuffled(&self, first: u64, len: u64, n: u64) -> Write {
        let pass = n / len;
        Write { slot: first + self.pass(first, len, pass).at(n % len), sequence: pass + 1 }
    }

    const fn shuffled_count(&self, first: u64, len: u64, n: u64, slot: u64) -> u64 {
        let pass = n / len;
        pass + (self.pass(first, len, pass).position(slot - first) < n % len) as u64
    }

    const fn pass(&self, first: u64, len: u64, pass: u64) -> Permutation {
        Permutation::new(len, mix2(self.seed ^ first, pass))
    }

    /// Zipf with exponent 1 gives each octave of ranks (1, 2–3, 4–7, …) about the same share of
    /// the writes, so the octaves simply take turns.
    const fn octaves(&self) -> u64 {
        (self.len + 1).ilog2() as u64
    }

    /// Ranks from 0 of one octave: the first one and how many; the last octave takes the rest.
    const fn octave(&self, octave: u64) -> (u64, u64) {
        let first = (1 << octave) - 1;
        let len = if octave + 1 == self.octaves() { self.len - first } else { 1 << octave };
        (first, len)
    }

    /// Which slot has which rank: hot pages are not neighbours.
    const fn scatter(&self) -> Permutation {
        Permutation::new(self.len, !self.seed)
    }

    /// How many pages are hot, how many are not, full rounds of turns, and the turns since: all of
    /// which but the last of a round are the hot pages'.
    const fn hot_turn(&self, n: u64) -> (u64, u64, u64, u64) {
        let hot = self.len.div_ceil(HOT_PAGES);
        (hot, self.len - hot, n / HOT_TURNS, n % HOT_TURNS)
    }

    /// Full rounds over all windows, and the writes since.
    const fn cycle(&self, n: u64) -> (u64, u64) {
        let cycle = PASSES_PER_PHASE * self.len;
        (n / cycle, n % cycle)
    }

    /// The window that `slot` is in: its first slot and how many.
    const fn window_of(&self, slot: u64) -> (u64, u64) {
        let window = ((slot + 1) * WINDOWS - 1) / self.len;
        let first = self.len * window / WINDOWS;
        (first, self.len * (window + 1) / WINDOWS - first)
    }
}

/// `Ord::min`, which is not `const`.
const fn min(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERNS: &[Pattern] = Pattern::ALL;

    #[test]
    fn the_count_is_what_replaying_every_write_gives() {
        for &pattern in PATTERNS {
            for len in [1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 200] {
                let schedule = Schedule::new(pattern, len, len * 31);
                let mut written = vec![0; len as usize];
                for n in 0..len * 20 {
                    if n % 17 == 0 {
                        let closed = (0..len).map(|slot| schedule.sequence_after(n, slot));
                        assert!(closed.eq(written.iter().copied()), "{pattern} {len} {n}");
                    }
                    let write = schedule.page_at(n);
                    written[write.slot as usize] += 1;
                    assert_eq!(written[write.slot as usize], write.sequence, "{pattern} {len} {n}");
                }
            }
        }
    }

    #[test]
    fn nothing_overflows_at_the_end_of_counting() {
        for &pattern in PATTERNS {
            for len in [1, 3, 4096, 1 << 52] {
                let schedule = Schedule::new(pattern, len, 5);
                let write = schedule.page_at(WRITES_MAX);
                assert!(write.slot < len);
                let after = schedule.sequence_after(WRITES_MAX, write.slot);
                assert_eq!(write.sequence, after + 1);
            }
        }
    }

    #[test]
    fn uniform_and_sequential_write_each_page_once_a_pass() {
        for pattern in [Pattern::Uniform, Pattern::Sequential] {
            let schedule = Schedule::new(pattern, 1000, 1);
            assert!((0..1000).all(|slot| schedule.sequence_after(3000, slot) == 3));
        }
    }

    #[test]
    fn zipf_has_few_hot_pages_and_a_long_tail() {
        let schedule = Schedule::new(Pattern::Zipf, 1 << 12, 1);
        let mut counts: Vec<_> =
            (0..1 << 12).map(|slot| schedule.sequence_after(1 << 20, slot)).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let hottest: u64 = counts[..41].iter().sum();
        assert!(hottest > (1 << 20) * 2 / 5, "1 % of the pages take {hottest} writes");
        assert!(counts[4095] > 0);
    }

    #[test]
    fn a_tenth_of_the_pages_takes_nine_of_ten_writes() {
        let schedule = Schedule::new(Pattern::HotSpot, 1000, 1);
        let mut counts: Vec<_> =
            (0..1000).map(|slot| schedule.sequence_after(100_000, slot)).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(counts[..100].iter().sum::<u64>(), 90_000);
        assert!(counts[100] < counts[99] && counts[999] > 0);
    }

    #[test]
    fn a_phase_stays_in_its_window() {
        let schedule = Schedule::new(Pattern::Phases, 400, 1);
        for phase in 0..12 {
            let first = phase * 800;
            let window = phase % 4 * 100..(phase % 4 + 1) * 100;
            assert!((first..first + 800).all(|n| window.contains(&schedule.page_at(n).slot)));
        }
    }
}
