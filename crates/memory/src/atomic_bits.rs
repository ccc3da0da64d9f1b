//! A bitmap that many threads, and a signal handler, may write while one thread drains it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

const WORD: u64 = 64;

/// Bits with a summary level: one summary bit a word, so that draining a huge, nearly empty map
/// costs what is set. Setting is lock-free and allocates nothing.
///
/// Order: a setter sets the bit, *then* the summary bit; a drain clears the summary bit, *then*
/// takes the word. So a bit whose summary is missed by one drain is found by the next.
pub(crate) struct AtomicBits {
    words: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
    len: u64,
}

impl AtomicBits {
    /// `len` clear bits, in memory that is not touched before it is needed.
    pub(crate) fn new(len: u64) -> Self {
        let words = len.div_ceil(WORD);
        Self {
            words: sys::zeroed_words(words as usize),
            summary: sys::zeroed_words(words.div_ceil(WORD) as usize),
            len,
        }
    }

    /// Sets the bits `first..first + count`, cut to the length of the map. Async-signal-safe.
    pub(crate) fn set(&self, first: u64, count: u64) {
        let end = self.len.min(first.saturating_add(count));
        let mut at = first;
        while at < end {
            let stop = end.min((at / WORD + 1) * WORD);
            let ones = u64::MAX >> (WORD - (stop - at));
            self.or_word(at / WORD, ones << (at % WORD));
            at = stop;
        }
    }

    /// Whether bit `index` is set.
    pub(crate) fn contains(&self, index: u64) -> bool {
        let word = self.words[(index / WORD) as usize].load(Ordering::SeqCst);
        word >> (index % WORD) & 1 == 1
    }

    /// Whether one of the bits `first..first + count` is set, cut to the length of the map.
    pub(crate) fn any(&self, first: u64, count: u64) -> bool {
        let end = self.len.min(first.saturating_add(count));
        let mut at = first;
        while at < end {
            let stop = end.min((at / WORD + 1) * WORD);
            let ones = (u64::MAX >> (WORD - (stop - at))) << (at % WORD);
            if self.words[(at / WORD) as usize].load(Ordering::SeqCst) & ones != 0 {
                return true;
            }
            at = stop;
        }
        false
    }

    /// Clears every bit and hands each run of set ones to `each`, which sees no run cross a
    /// word's boundary.
    pub(crate) fn drain(&self, mut each: impl FnMut(u64, u64)) {
        self.visit(|bits| bits.swap(0, Ordering::SeqCst), &mut each);
    }

    /// As [`AtomicBits::drain`], but leaves the bits set.
    pub(crate) fn peek(&self, mut each: impl FnMut(u64, u64)) {
        self.visit(|bits| bits.load(Ordering::SeqCst), &mut each);
    }

    /// Clears the bits `first..first + count`, and hands the runs that were set to `each`.
    pub(crate) fn take(&self, first: u64, count: u64, mut each: impl FnMut(u64, u64)) {
        let end = self.len.min(first.saturating_add(count));
        let mut at = first;
        while at < end {
            let stop = end.min((at / WORD + 1) * WORD);
            let ones = (u64::MAX >> (WORD - (stop - at))) << (at % WORD);
            let word = &self.words[(at / WORD) as usize];
            if word.load(Ordering::SeqCst) & ones != 0 {
                let taken = word.fetch_and(!ones, Ordering::SeqCst) & ones;
                runs_of(taken, at / WORD * WORD, &mut each);
            }
            at = stop;
        }
    }

    fn or_word(&self, word: u64, ones: u64) {
        self.words[word as usize].fetch_or(ones, Ordering::SeqCst);
        self.summary[(word / WORD) as usize].fetch_or(1 << (word % WORD), Ordering::SeqCst);
    }

    fn visit(&self, read: impl Fn(&AtomicU64) -> u64, each: &mut impl FnMut(u64, u64)) {
        for (index, summary) in self.summary.iter().enumerate() {
            if summary.load(Ordering::SeqCst) == 0 {
                continue;
            }
            let mut left = read(summary);
            while left != 0 {
                let word = index as u64 * WORD + u64::from(left.trailing_zeros());
                runs_of(read(&self.words[word as usize]), word * WORD, each);
                left &= left - 1;
            }
        }
    }
}

/// Hands the runs of ones in `bits` to `each`, where bit 0 has the number `base`.
fn runs_of(mut bits: u64, base: u64, each: &mut impl FnMut(u64, u64)) {
    while bits != 0 {
        let first = u64::from(bits.trailing_zeros());
        let count = u64::from((bits >> first).trailing_ones());
        each(base + first, count);
        bits &= u64::MAX.checked_shl((first + count) as u32).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn drained(bits: &AtomicBits) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        bits.drain(|first, count| found.extend(first..first + count));
        found
    }

    #[test]
    fn what_was_set_is_drained_once() {
        let bits = AtomicBits::new(10_000);
        let runs = [(0, 1), (60, 10), (128, 64), (1000, 700), (9_999, 5)];
        runs.iter().for_each(|(first, count)| bits.set(*first, *count));
        let expected: BTreeSet<_> =
            runs.iter().flat_map(|(first, count)| *first..(first + count).min(10_000)).collect();
        let mut seen = BTreeSet::new();
        bits.peek(|first, count| seen.extend(first..first + count));
        assert_eq!(seen, expected, "a peek takes nothing");
        assert!(bits.contains(69) && !bits.contains(70));
        assert_eq!(drained(&bits), expected);
        assert!(drained(&bits).is_empty());
    }

    #[test]
    fn any_sees_its_range_and_no_other() {
        let bits = AtomicBits::new(300);
        bits.set(130, 2);
        for (first, count, expected) in
            [(0, 130, false), (0, 131, true), (131, 1, true), (132, 500, false), (64, 70, true)]
        {
            assert_eq!(bits.any(first, count), expected, "{count} from {first}");
        }
    }

    #[test]
    fn taking_a_range_leaves_the_rest() {
        let bits = AtomicBits::new(300);
        bits.set(0, 300);
        let mut taken = BTreeSet::new();
        bits.take(50, 100, |first, count| taken.extend(first..first + count));
        assert_eq!(taken, (50..150).collect());
        assert_eq!(drained(&bits), (0..50).chain(150..300).collect());
    }

    #[test]
    fn bits_set_while_others_drain_are_not_lost() {
        let bits = AtomicBits::new(64 * 64 * 4);
        let mut found = BTreeSet::new();
        std::thread::scope(|scope| {
            let setter = scope.spawn(|| (0..bits.len).for_each(|bit| bits.set(bit, 1)));
            while !setter.is_finished() {
                found.extend(drained(&bits));
            }
        });
        found.extend(drained(&bits));
        assert_eq!(found.len() as u64, bits.len);
    }
}
