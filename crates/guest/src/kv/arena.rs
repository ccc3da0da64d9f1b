//! Words and bytes of guest memory by their offsets.
//!
//! Everything above speaks of guest memory through this: an [`At`] is an offset from the start of
//! the guest's one region, a word is a little-endian `u64` at a multiple of 8. So what is in memory
//! means the same on a host of any kind, and every write is one that the trackers see.

use whimbrel_memory::GuestMemory;
use whimbrel_memory::page::{ByteCount, RegionId};

/// An offset in guest memory. Zero, where the head of the store is, stands for nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At(pub(crate) u64);

impl At {
    /// No place.
    pub(crate) const NOWHERE: Self = Self(0);

    /// The place, if it is one.
    pub(crate) const fn place(self) -> Option<Self> {
        if self.0 == 0 { None } else { Some(self) }
    }

    /// `words` words further on.
    pub(crate) const fn word(self, words: u64) -> Self {
        Self(self.0 + words * 8)
    }

    /// `bytes` bytes further on.
    pub(crate) const fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// Bytes that lie in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) at: At,
    pub(crate) len: u64,
}

impl Span {
    pub(crate) fn bytes(self, arena: &Arena) -> Vec<u8> {
        let mut bytes = Vec::new();
        arena.read_onto(self.at, self.len, &mut bytes);
        bytes
    }
}

/// The one region of a guest's memory. What is out of range is a bug of the store, or memory
/// that is not what a store has written: the guest stops then.
#[derive(Clone, Debug)]
pub(crate) struct Arena {
    memory: GuestMemory,
    region: RegionId,
}

impl Arena {
    /// The memory of a guest, which has one region.
    pub(crate) fn new(memory: GuestMemory) -> Self {
        let region = memory.layout().regions()[0].id;
        Self { memory, region }
    }

    pub(crate) const fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    pub(crate) fn size(&self) -> u64 {
        self.memory.layout().regions()[0].size.0
    }

    pub(crate) fn load(&self, at: At) -> u64 {
        u64::from_le(self.memory.load_u64(self.region, ByteCount(at.0)).expect(DAMAGED))
    }

    pub(crate) fn store(&self, at: At, value: u64) {
        self.memory.store_u64(self.region, ByteCount(at.0), value.to_le()).expect(DAMAGED);
    }

    /// A word that is an offset.
    pub(crate) fn follow(&self, at: At) -> At {
        At(self.load(at))
    }

    pub(crate) fn point(&self, at: At, to: At) {
        self.store(at, to.0);
    }

    pub(crate) fn add(&self, at: At, more: u64) {
        self.store(at, self.load(at).wrapping_add(more));
    }

    pub(crate) fn sub(&self, at: At, less: u64) {
        self.store(at, self.load(at).wrapping_sub(less));
    }

    pub(crate) fn write(&self, at: At, bytes: &[u8]) {
        self.memory.write(self.region, ByteCount(at.0), bytes).expect(DAMAGED);
    }

    /// Several words at once.
    pub(crate) fn load_words<const N: usize>(&self, at: At) -> [u64; N] {
        let mut bytes = [[0; 8]; N];
        let flat = bytes.as_flattened_mut();
        self.memory.read(self.region, ByteCount(at.0), flat).expect(DAMAGED);
        bytes.map(u64::from_le_bytes)
    }

    pub(crate) fn store_words<const N: usize>(&self, at: At, words: [u64; N]) {
        self.write(at, words.map(u64::to_le_bytes).as_flattened());
    }

    /// Appends `len` bytes of memory to `into`.
    pub(crate) fn read_onto(&self, at: At, len: u64, into: &mut Vec<u8>) {
        // Before anything is made of a length that memory holds.
        assert!(at.0.checked_add(len).is_some_and(|end| end <= self.size()), "{DAMAGED}");
        let start = into.len();
        into.resize(start + len as usize, 0);
        self.memory.read(self.region, ByteCount(at.0), &mut into[start..]).expect(DAMAGED);
    }

    /// Whether memory holds exactly these bytes there.
    pub(crate) fn equals(&self, at: At, bytes: &[u8]) -> bool {
        let mut offset = 0;
        let mut piece = [0; 64];
        for wanted in bytes.chunks(piece.len()) {
            let found = &mut piece[..wanted.len()];
            self.memory.read(self.region, ByteCount(at.0 + offset), found).expect(DAMAGED);
            if found != wanted {
                return false;
            }
            offset += wanted.len() as u64;
        }
        true
    }
}

const DAMAGED: &str = "guest memory is not what this store wrote";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use whimbrel_memory::Backing;
    use whimbrel_memory::page::Layout;

    pub(crate) fn arena(size: ByteCount) -> Arena {
        let layout = Layout::single(size).expect("whole pages");
        Arena::new(GuestMemory::allocate(&layout, Backing::Private).expect("memory"))
    }

    #[test]
    fn words_are_little_endian_bytes() {
        let arena = arena(ByteCount::kib(8));
        arena.store_words(At(16), [0x0102_0304_0506_0708, 9]);
        let mut bytes = Vec::new();
        arena.read_onto(At(16), 9, &mut bytes);
        assert_eq!(bytes, [8, 7, 6, 5, 4, 3, 2, 1, 9]);
        arena.add(At(16), u64::MAX);
        assert_eq!(arena.load_words(At(16)), [0x0102_0304_0506_0707, 9]);
    }

    #[test]
    fn bytes_are_compared_to_their_end() {
        let arena = arena(ByteCount::kib(8));
        let bytes: Vec<u8> = (0..200).collect();
        arena.write(At(3), &bytes);
        assert!(arena.equals(At(3), &bytes));
        for wrong in [0, 63, 64, 199] {
            let mut other = bytes.clone();
            other[wrong] ^= 1;
            assert!(!arena.equals(At(3), &other));
        }
    }

    #[test]
    #[should_panic(expected = "not what this store wrote")]
    fn a_length_past_the_end_is_not_believed() {
        arena(ByteCount::kib(8)).read_onto(At(8), u64::MAX - 4, &mut Vec::new());
    }
}
