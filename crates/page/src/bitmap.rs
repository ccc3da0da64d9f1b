//! A bitmap with a summary level: finding the few set bits of a huge map costs what is set.

use alloc::vec;

use bitvec::boxed::BitBox;
use bitvec::order::Lsb0;
use bitvec::vec::BitVec;

/// `len` bits, all clear at first. Storage is zeroed lazily by the allocator, so that a bitmap
/// over untouched memory costs address space only.
#[derive(Clone, Debug, Hash)]
pub struct Bitmap {
    words: BitBox<u64, Lsb0>,
    /// One bit a word of `words`: set if the word is not 0.
    summary: BitBox<u64, Lsb0>,
    len: u64,
    ones: u64,
}

const WORD: u64 = 64;

fn zeroed(bits: u64) -> BitBox<u64, Lsb0> {
    BitVec::from_vec(vec![0; bits.div_ceil(WORD) as usize]).into_boxed_bitslice()
}

/// The bits `first..end` of one word, both within 0..=64.
const fn mask(first: u64, end: u64) -> u64 {
    let below_end = if end == WORD { u64::MAX } else { (1 << end) - 1 };
    below_end & (u64::MAX << first)
}

impl Bitmap {
    /// A bitmap of `len` clear bits.
    #[must_use]
    pub fn new(len: u64) -> Self {
        Self { words: zeroed(len), summary: zeroed(len.div_ceil(WORD)), len, ones: 0 }
    }

    /// How many bits there are.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// How many bits are set.
    #[must_use]
    pub const fn ones(&self) -> u64 {
        self.ones
    }

    /// Whether no bit is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ones == 0
    }

    /// Whether bit `index` is set; bits past the end are clear.
    #[must_use]
    pub fn contains(&self, index: u64) -> bool {
        index < self.len && self.word(index / WORD) >> (index % WORD) & 1 == 1
    }

    /// Sets `count` bits from `first`; returns how many of them were clear.
    ///
    /// # Panics
    /// If the range ends past the bitmap.
    pub fn insert(&mut self, first: u64, count: u64) -> u64 {
        let before = self.ones;
        self.for_each_word(first, count, |word, mask| word | mask);
        self.ones - before
    }

    /// Clears `count` bits from `first`; returns how many of them were set.
    ///
    /// # Panics
    /// If the range ends past the bitmap.
    pub fn remove(&mut self, first: u64, count: u64) -> u64 {
        let before = self.ones;
        self.for_each_word(first, count, |word, mask| word & !mask);
        before - self.ones
    }

    /// Clears every bit, at the cost of what is set.
    pub fn clear(&mut self) {
        let mut next = self.next_word(0);
        while let Some(word) = next {
            self.put(word, 0);
            next = self.next_word(word + 1);
        }
    }

    /// Sets every bit that is set in `other`; returns how many of them were clear here.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn union_with(&mut self, other: &Self) -> u64 {
        assert_eq!(self.len, other.len, "bitmaps of different regions");
        let before = self.ones;
        let mut next = other.next_word(0);
        while let Some(word) = next {
            self.put(word, self.word(word) | other.word(word));
            next = other.next_word(word + 1);
        }
        self.ones - before
    }

    /// Clears every bit that is clear in `other`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn intersect_with(&mut self, other: &Self) {
        assert_eq!(self.len, other.len, "bitmaps of different regions");
        let mut next = self.next_word(0);
        while let Some(word) = next {
            self.put(word, self.word(word) & other.word(word));
            next = self.next_word(word + 1);
        }
    }

    /// The lowest set bit at or after `from`.
    #[must_use]
    pub fn next_one(&self, from: u64) -> Option<u64> {
        if from >= self.len {
            return None;
        }
        let first = self.word(from / WORD) & mask(from % WORD, WORD);
        if first != 0 {
            return Some(from / WORD * WORD + u64::from(first.trailing_zeros()));
        }
        let word = self.next_word(from / WORD + 1)?;
        Some(word * WORD + u64::from(self.word(word).trailing_zeros()))
    }

    /// How many of `count` bits from `first` are set; bits past the end are clear.
    #[must_use]
    pub fn ones_in(&self, first: u64, count: u64) -> u64 {
        let end = self.len.min(first.saturating_add(count));
        let mut ones = 0;
        let mut next = self.next_word(first / WORD);
        while let Some(word) = next.filter(|word| word * WORD < end) {
            let from = first.saturating_sub(word * WORD);
            let to = (end - word * WORD).min(WORD);
            ones += u64::from((self.word(word) & mask(from, to)).count_ones());
            next = self.next_word(word + 1);
        }
        ones
    }

    /// How many bits from `first` on are set without a gap, counted up to `most`.
    #[must_use]
    pub fn run_length(&self, first: u64, most: u64) -> u64 {
        let end = self.len.min(first.saturating_add(most));
        let mut at = first;
        while at < end {
            let gaps = !self.word(at / WORD) & mask(at % WORD, WORD);
            if gaps != 0 {
                return end.min(at / WORD * WORD + u64::from(gaps.trailing_zeros())) - first;
            }
            at = (at / WORD + 1) * WORD;
        }
        end.saturating_sub(first)
    }

    fn word(&self, index: u64) -> u64 {
        self.words.as_raw_slice()[index as usize]
    }

    /// Stores a word; the only place that changes one, so that count and summary stay true.
    fn put(&mut self, index: u64, value: u64) {
        let old = core::mem::replace(&mut self.words.as_raw_mut_slice()[index as usize], value);
        self.ones = self.ones + u64::from(value.count_ones()) - u64::from(old.count_ones());
        if (old == 0) != (value == 0) {
            self.summary.set(index as usize, value != 0);
        }
    }

    /// The lowest word at or after `from` that is not 0.
    fn next_word(&self, from: u64) -> Option<u64> {
        let raw = self.summary.as_raw_slice();
        let first = raw.get((from / WORD) as usize)? & mask(from % WORD, WORD);
        if first != 0 {
            return Some(from / WORD * WORD + u64::from(first.trailing_zeros()));
        }
        let skipped = (from / WORD + 1) as usize;
        let at = skipped + raw.get(skipped..)?.iter().position(|word| *word != 0)?;
        Some(at as u64 * WORD + u64::from(raw[at].trailing_zeros()))
    }

    fn for_each_word(&mut self, first: u64, count: u64, change: impl Fn(u64, u64) -> u64) {
        let end = first.checked_add(count).expect("a range of bits ends somewhere");
        assert!(end <= self.len, "bits {first}..{end} of a bitmap of {}", self.len);
        let mut at = first;
        while at < end {
            let word = at / WORD;
            let stop = end.min((word + 1) * WORD);
            self.put(word, change(self.word(word), mask(at % WORD, stop - word * WORD)));
            at = stop;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    /// A small deterministic generator (Marsaglia's xorshift64), so that a failure repeats.
    fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        }
    }

    fn bits(map: &Bitmap) -> Vec<u64> {
        let mut found = Vec::new();
        let mut next = map.next_one(0);
        while let Some(bit) = next {
            found.push(bit);
            next = map.next_one(bit + 1);
        }
        found
    }

    #[test]
    fn behaves_as_a_set_of_numbers() {
        for len in [1, 63, 64, 65, 4096, 10_007] {
            let mut random = numbers(len);
            let (mut map, mut model) = (Bitmap::new(len), BTreeSet::new());
            for _ in 0..200 {
                let first = random(len);
                let count = random(len - first + 1).min(200);
                if random(3) == 0 {
                    let gone = map.remove(first, count);
                    let before = model.len() as u64;
                    model.retain(|bit| !(first..first + count).contains(bit));
                    assert_eq!(gone, before - model.len() as u64);
                } else {
                    let before = model.len() as u64;
                    model.extend(first..first + count);
                    assert_eq!(map.insert(first, count), model.len() as u64 - before);
                }
                assert_eq!(map.ones(), model.len() as u64);
            }
            assert_eq!(bits(&map), model.iter().copied().collect::<Vec<_>>());
            map.clear();
            assert!(map.is_empty() && bits(&map).is_empty());
        }
    }

    #[test]
    fn ones_of_a_range_are_counted() {
        let mut random = numbers(7);
        let mut map = Bitmap::new(1000);
        for _ in 0..40 {
            let first = random(990);
            map.insert(first, random(10));
        }
        for _ in 0..500 {
            let (first, count) = (random(1100), random(300));
            let counted = (first..first + count).filter(|bit| map.contains(*bit)).count() as u64;
            assert_eq!(map.ones_in(first, count), counted, "{first} + {count}");
        }
        assert_eq!(map.ones_in(0, u64::MAX), map.ones());
    }

    #[test]
    fn runs_are_as_long_as_they_are() {
        let mut map = Bitmap::new(300);
        map.insert(10, 200);
        assert_eq!(map.run_length(10, 1000), 200);
        assert_eq!(map.run_length(10, 7), 7);
        assert_eq!(map.run_length(9, 7), 0);
        map.insert(210, 90);
        assert_eq!(map.run_length(10, u64::MAX), 290);
        assert_eq!(map.run_length(300, 5), 0);
    }

    #[test]
    fn a_union_counts_what_is_new() {
        let (mut a, mut b) = (Bitmap::new(1000), Bitmap::new(1000));
        a.insert(0, 100);
        b.insert(50, 100);
        b.insert(990, 10);
        assert_eq!(a.union_with(&b), 60);
        assert_eq!(a.ones(), 160);
        assert!(a.contains(999) && !a.contains(150) && !a.contains(5000));
    }

    #[test]
    fn an_intersection_has_what_is_in_both() {
        let (mut a, mut b) = (Bitmap::new(1000), Bitmap::new(1000));
        a.insert(0, 100);
        a.insert(500, 3);
        b.insert(50, 100);
        a.intersect_with(&b);
        assert_eq!((a.ones(), a.next_one(0)), (50, Some(50)));
        assert_eq!(a.next_one(100), None);
        a.intersect_with(&Bitmap::new(1000));
        assert!(a.is_empty());
    }

    #[test]
    #[should_panic(expected = "bits 60..70 of a bitmap of 64")]
    fn a_range_past_the_end_is_refused() {
        Bitmap::new(64).insert(60, 10);
    }
}
