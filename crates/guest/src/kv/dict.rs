//! Hash tables in guest memory: the keys of the store, the fields of a hash, the members of a set.
//!
//! ```text
//!   head:  link │ kind │ entries │ buckets │ 4 buckets │ segments: 4, 8, 16, … buckets each
//!   entry: next │ hash │ length of key and kind │ value │ end in ms │ key …
//! ```
//!
//! *Linear hashing*: a table grows by one bucket at a time, which takes over its share of one
//! other, and shrinks in the same way. So no step costs more than another, and nothing is ever
//! copied as a whole. A bucket has all hashes that end in its number's bits; read backwards those
//! are an interval, and that is what a [`Cursor`] walks, however the table changes meanwhile.

use super::arena::{Arena, At, Span};
use super::heap::{Full, Heap, cost};

const LINK: u64 = 0;
const KIND: u64 = 1;
const COUNT: u64 = 2;
const BUCKETS: u64 = 3;
/// The first buckets are in the head.
const INLINE: u64 = 4;
const FIRST_BUCKET: u64 = 4;
const SEGMENTS: u64 = FIRST_BUCKET + INLINE;
const SEGMENTS_MAX: u64 = 23;
const HEAD_WORDS: u64 = SEGMENTS + SEGMENTS_MAX;

/// Buckets to an entry at which a table shrinks, and how many may go with one entry.
const SPARSE: u64 = 4;
const SHRINK_MAX: u64 = 2 * SPARSE;

/// What a new dict takes of the heap.
pub(crate) const DICT_COST: u64 = cost(HEAD_WORDS * 8);

/// Words of an entry before its key.
const ENTRY_WORDS: u64 = 5;

/// What an entry with a key of this length takes of the heap.
pub(crate) const fn entry_cost(key: u64) -> u64 {
    cost(ENTRY_WORDS * 8 + key)
}

/// A table whose head is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dict(pub(crate) At);

/// An entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry(pub(crate) At);

impl Entry {
    pub(crate) fn key(self, arena: &Arena) -> Vec<u8> {
        self.key_span(arena).bytes(arena)
    }

    /// Where its key is.
    pub(crate) fn key_span(self, arena: &Arena) -> Span {
        Span { at: self.0.word(ENTRY_WORDS), len: self.key_len(arena) }
    }

    fn key_len(self, arena: &Arena) -> u64 {
        arena.load(self.0.word(2)) & u64::from(u32::MAX)
    }

    /// What the owner of the table has made of it.
    pub(crate) fn kind(self, arena: &Arena) -> u64 {
        arena.load(self.0.word(2)) >> 32
    }

    pub(crate) fn set_kind(self, arena: &Arena, kind: u64) {
        arena.store(self.0.word(2), self.key_len(arena) | kind << 32);
    }

    pub(crate) fn value(self, arena: &Arena) -> At {
        arena.follow(self.0.word(3))
    }

    pub(crate) fn set_value(self, arena: &Arena, value: At) {
        arena.point(self.0.word(3), value);
    }

    /// When it ends, in milliseconds of the epoch; zero for never.
    pub(crate) fn end_ms(self, arena: &Arena) -> u64 {
        arena.load(self.0.word(4))
    }

    pub(crate) fn set_end_ms(self, arena: &Arena, end: u64) {
        arena.store(self.0.word(4), end);
    }
}

/// A place on the way through a table; zero before the first bucket and after the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor(pub(crate) u64);

impl Dict {
    /// A new, empty table of this kind.
    pub(crate) fn new(heap: &Heap, kind: u64) -> Result<Self, Full> {
        let at = heap.allocate(HEAD_WORDS * 8)?;
        let mut head = [0; HEAD_WORDS as usize];
        (head[KIND as usize], head[BUCKETS as usize]) = (kind, INLINE);
        heap.arena().store_words(at, head);
        Ok(Self(at))
    }

    /// What its owner made it for.
    pub(crate) fn kind(self, arena: &Arena) -> u64 {
        arena.load(self.0.word(KIND))
    }

    /// A word in the head for its owner.
    pub(crate) const fn link(self) -> At {
        self.0.word(LINK)
    }

    pub(crate) fn len(self, arena: &Arena) -> u64 {
        arena.load(self.0.word(COUNT))
    }

    fn buckets(self, arena: &Arena) -> u64 {
        arena.load(self.0.word(BUCKETS))
    }

    /// The segment of a bucket beyond the inline ones, and its place there.
    const fn segment(bucket: u64) -> (u64, u64) {
        let top = bucket.ilog2() as u64;
        (top - 2, bucket - (1 << top))
    }

    fn bucket_at(self, arena: &Arena, bucket: u64) -> At {
        if bucket < INLINE {
            return self.0.word(FIRST_BUCKET + bucket);
        }
        let (segment, place) = Self::segment(bucket);
        arena.follow(self.0.word(SEGMENTS + segment)).word(place)
    }

    /// Where a hash belongs in a table of so many buckets, and how many of its bits say so.
    const fn place(hash: u64, buckets: u64) -> (u64, u32) {
        let bits = buckets.ilog2();
        let (narrow, half) = (hash & ((1 << bits) - 1), 1 << bits);
        // The first buckets have been split already, each with one of the second half.
        if narrow + half < buckets { (hash & (half * 2 - 1), bits + 1) } else { (narrow, bits) }
    }

    /// The word that points to the entry with this key.
    fn find(self, arena: &Arena, hash: u64, key: &[u8]) -> Option<(At, Entry)> {
        let (bucket, _) = Self::place(hash, self.buckets(arena));
        let mut pointer = self.bucket_at(arena, bucket);
        while let Some(at) = arena.follow(pointer).place() {
            let [_, found, meta] = arena.load_words(at);
            if found == hash
                && meta & u64::from(u32::MAX) == key.len() as u64
                && arena.equals(at.word(ENTRY_WORDS), key)
            {
                return Some((pointer, Entry(at)));
            }
            pointer = at;
        }
        None
    }

    pub(crate) fn get(self, arena: &Arena, hash: u64, key: &[u8]) -> Option<Entry> {
        self.find(arena, hash, key).map(|(_, entry)| entry)
    }

    /// Adds an entry whose key is not there yet; its kind, value and end are zero.
    pub(crate) fn add(self, heap: &Heap, hash: u64, key: &[u8]) -> Result<Entry, Full> {
        let arena = heap.arena();
        let entry = heap.allocate(ENTRY_WORDS * 8 + key.len() as u64)?;
        let (bucket, _) = Self::place(hash, self.buckets(arena));
        let pointer = self.bucket_at(arena, bucket);
        let next = arena.follow(pointer);
        arena.store_words(entry, [next.0, hash, key.len() as u64, 0, 0]);
        arena.write(entry.word(ENTRY_WORDS), key);
        arena.point(pointer, entry);
        arena.add(self.0.word(COUNT), 1);
        self.grow(heap);
        Ok(Entry(entry))
    }

    /// Takes an entry out and its block back. What its value was is the caller's to free.
    pub(crate) fn remove(self, heap: &Heap, hash: u64, key: &[u8]) -> Option<At> {
        let arena = heap.arena();
        let (pointer, entry) = self.find(arena, hash, key)?;
        let value = entry.value(arena);
        self.unlink(heap, pointer, entry);
        // Growing takes a bucket an entry; this keeps up with entries that go.
        let mut buckets = 0;
        while buckets < SHRINK_MAX && self.shrink(heap) {
            buckets += 1;
        }
        Some(value)
    }

    fn unlink(self, heap: &Heap, pointer: At, entry: Entry) {
        let arena = heap.arena();
        arena.point(pointer, arena.follow(entry.0));
        heap.free(entry.0);
        arena.sub(self.0.word(COUNT), 1);
    }

    /// One more bucket, if there are more entries than buckets and memory to spare.
    fn grow(self, heap: &Heap) {
        let arena = heap.arena();
        let new = self.buckets(arena);
        if self.len(arena) <= new {
            return;
        }
        let (segment, place) = Self::segment(new);
        if place == 0 {
            let spare = segment < SEGMENTS_MAX;
            let Some(Ok(block)) = spare.then(|| heap.allocate_spare(new * 8)) else { return };
            arena.point(self.0.word(SEGMENTS + segment), block);
        }
        let target = self.bucket_at(arena, new);
        arena.store(target, 0);
        arena.store(self.0.word(BUCKETS), new + 1);
        let mut pointer = self.bucket_at(arena, place);
        while let Some(at) = arena.follow(pointer).place() {
            let [next, hash] = arena.load_words(at);
            if Self::place(hash, new + 1).0 == new {
                arena.store(pointer, next);
                arena.point(at, arena.follow(target));
                arena.point(target, at);
            } else {
                pointer = at;
            }
        }
    }

    /// One bucket less, if there are far more of them than entries; whether there were.
    fn shrink(self, heap: &Heap) -> bool {
        let arena = heap.arena();
        let buckets = self.buckets(arena);
        if buckets == INLINE || self.len(arena) * SPARSE > buckets {
            return false;
        }
        let last = buckets - 1;
        let (segment, place) = Self::segment(last);
        let rest = arena.follow(self.bucket_at(arena, last));
        let mut pointer = self.bucket_at(arena, place);
        while let Some(at) = arena.follow(pointer).place() {
            pointer = at;
        }
        arena.point(pointer, rest);
        arena.store(self.0.word(BUCKETS), last);
        if place == 0 {
            let pointer = self.0.word(SEGMENTS + segment);
            heap.free(arena.follow(pointer));
            arena.store(pointer, 0);
        }
        true
    }

    /// The entries of the bucket at `cursor`, and where to go on. Whoever goes on until the cursor
    /// is zero again has seen every entry that was there all the time, some perhaps twice.
    pub(crate) fn scan(self, arena: &Arena, cursor: Cursor) -> (Vec<Entry>, Cursor) {
        let (bucket, bits) = Self::place(cursor.0, self.buckets(arena));
        let mut at = arena.follow(self.bucket_at(arena, bucket));
        let mut found = Vec::new();
        while let Some(here) = at.place() {
            found.push(Entry(here));
            at = arena.follow(here);
        }
        // The end of the bucket's interval of backwards hashes is where the next one begins.
        let next = bucket.reverse_bits().wrapping_add(1 << (u64::BITS - bits));
        (found, Cursor(next.reverse_bits()))
    }

    /// Every entry.
    pub(crate) fn entries(self, arena: &Arena) -> impl Iterator<Item = Entry> + '_ {
        let mut cursor = Some(Cursor::default());
        std::iter::from_fn(move || {
            let (found, next) = self.scan(arena, cursor?);
            cursor = (next != Cursor::default()).then_some(next);
            Some(found)
        })
        .flatten()
    }

    /// Every entry, bucket by bucket, also of a table that is being taken apart.
    pub(crate) fn remains(self, arena: &Arena) -> impl Iterator<Item = Entry> + '_ {
        (0..self.buckets(arena)).flat_map(move |bucket| {
            let mut pointer = self.bucket_at(arena, bucket);
            std::iter::from_fn(move || {
                pointer = arena.follow(pointer).place()?;
                Some(Entry(pointer))
            })
        })
    }

    /// What its head and its segments take of the heap.
    pub(crate) fn blocks(self, heap: &Heap) -> u64 {
        let words = (0..SEGMENTS_MAX).map(|segment| self.0.word(SEGMENTS + segment));
        let segments = words.filter_map(|word| heap.arena().follow(word).place());
        heap.taken(self.0) + segments.map(|segment| heap.taken(segment)).sum::<u64>()
    }

    /// Takes some entry out, if there is one, for a table that is taken apart.
    pub(crate) fn pop(self, heap: &Heap) -> Option<(u64, At)> {
        let arena = heap.arena();
        while self.len(arena) > 0 {
            let last = self.buckets(arena) - 1;
            let pointer = self.bucket_at(arena, last);
            if let Some(at) = arena.follow(pointer).place() {
                let entry = Entry(at);
                let popped = (entry.kind(arena), entry.value(arena));
                self.unlink(heap, pointer, entry);
                return Some(popped);
            }
            self.drop_last(heap, last);
        }
        None
    }

    /// Gives up the last bucket, which is empty.
    fn drop_last(self, heap: &Heap, last: u64) {
        let arena = heap.arena();
        let (segment, place) = Self::segment(last.max(INLINE));
        arena.store(self.0.word(BUCKETS), last);
        if last >= INLINE && place == 0 {
            let pointer = self.0.word(SEGMENTS + segment);
            heap.free(arena.follow(pointer));
            arena.store(pointer, 0);
        }
    }

    /// Gives the head and the buckets of a table back whose entries have been popped.
    pub(crate) fn free(self, heap: &Heap) {
        for segment in 0..SEGMENTS_MAX {
            if let Some(block) = heap.arena().follow(self.0.word(SEGMENTS + segment)).place() {
                heap.free(block);
            }
        }
        heap.free(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::tests::arena;
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use whimbrel_memory::page::ByteCount;

    fn heap(size: ByteCount) -> Heap {
        let heap = Heap::new(arena(size));
        heap.lay_out();
        heap
    }

    /// Few enough bits that hashes collide as well.
    fn hash(key: u64) -> u64 {
        key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20) & 0xffff_0000_ffff
    }

    fn key(key: u64) -> Vec<u8> {
        format!("key:{key}").into_bytes()
    }

    fn add(heap: &Heap, dict: Dict, n: u64) {
        let entry = dict.add(heap, hash(n), &key(n)).expect("room");
        entry.set_value(heap.arena(), At(n * 8));
    }

    #[test]
    fn a_table_grows_and_shrinks_and_leaves_nothing() {
        let heap = heap(ByteCount::mib(4));
        let dict = Dict::new(&heap, 3).expect("room");
        for n in 0..5000 {
            add(&heap, dict, n);
        }
        assert!(dict.buckets(heap.arena()) >= 4999);
        for n in 0..5000 {
            let found = dict.get(heap.arena(), hash(n), &key(n)).expect("there");
            assert_eq!((found.value(heap.arena()), found.key(heap.arena())), (At(n * 8), key(n)));
        }
        for n in 0..5000 {
            assert_eq!(dict.remove(&heap, hash(n), &key(n)), Some(At(n * 8)));
            assert_eq!(dict.remove(&heap, hash(n), &key(n)), None);
        }
        assert!(dict.buckets(heap.arena()) < 10);
        dict.free(&heap);
        assert_eq!(heap.used(), 0);
    }

    #[test]
    fn a_table_is_taken_apart_in_steps() {
        let heap = heap(ByteCount::mib(4));
        let dict = Dict::new(&heap, 0).expect("room");
        (0..3000).for_each(|n| add(&heap, dict, n));
        let popped: BTreeSet<_> = std::iter::from_fn(|| dict.pop(&heap)).collect();
        assert_eq!(popped.len(), 3000);
        dict.free(&heap);
        assert_eq!(heap.used(), 0);
    }

    #[test]
    fn a_scan_sees_all_that_stays_however_the_table_changes() {
        let heap = heap(ByteCount::mib(8));
        let dict = Dict::new(&heap, 0).expect("room");
        (0..1000).for_each(|n| add(&heap, dict, n));
        let (mut cursor, mut seen, mut step) = (Cursor::default(), BTreeSet::new(), 0);
        loop {
            let (found, next) = dict.scan(heap.arena(), cursor);
            seen.extend(found.iter().map(|entry| entry.value(heap.arena()).0 / 8));
            // First it grows, then it shrinks below what it was.
            match step {
                0..200 => (0..10).for_each(|n| add(&heap, dict, 10_000 + step * 10 + n)),
                200..400 => (0..10).for_each(|n| {
                    let n = 10_000 + (step - 200) * 10 + n;
                    dict.remove(&heap, hash(n), &key(n)).expect("there");
                }),
                400..1300 => drop(dict.remove(&heap, hash(step - 300), &key(step - 300))),
                _ => (),
            }
            (cursor, step) = (next, step + 1);
            if cursor == Cursor::default() {
                break;
            }
        }
        assert!((0..100).all(|n| seen.contains(&n)), "those were never removed");
    }

    proptest! {
        #[test]
        fn a_table_is_a_map(
            steps in proptest::collection::vec((0_u64..300, any::<bool>()), 1..1500)
        ) {
            let heap = heap(ByteCount::mib(1));
            let dict = Dict::new(&heap, 0).expect("room");
            let mut model = BTreeMap::new();
            for (n, (k, put)) in steps.into_iter().enumerate() {
                let (hash, name) = (hash(k), key(k));
                let there = dict.get(heap.arena(), hash, &name).map(|e| e.value(heap.arena()));
                prop_assert_eq!(there, model.get(&k).copied());
                if put && there.is_none() {
                    let entry = dict.add(&heap, hash, &name).expect("room");
                    entry.set_value(heap.arena(), At(n as u64));
                    model.insert(k, At(n as u64));
                } else if !put {
                    prop_assert_eq!(dict.remove(&heap, hash, &name), model.remove(&k));
                }
                prop_assert_eq!(dict.len(heap.arena()), model.len() as u64);
            }
            let all: Vec<_> = dict.entries(heap.arena()).map(|e| e.key(heap.arena())).collect();
            let unique: BTreeSet<_> = all.iter().cloned().collect();
            prop_assert_eq!(all.len(), model.len());
            prop_assert_eq!(unique, model.keys().map(|k| key(*k)).collect());
        }
    }
}
