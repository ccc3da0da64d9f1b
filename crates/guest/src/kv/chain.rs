//! Bytes in a chain of blocks: what a connection is still to be sent, however much that is.
//!
//! ```text
//!   head:  first block │ start │ last block │ end │ bytes │ room        block: next │ bytes …
//! ```
//!
//! A chain takes memory in pieces, from wherever some is free, and gives it back as its bytes go.
//! Nothing is copied as it grows. Blocks behind the last one are for bytes that are to come.

use super::arena::{Arena, At};
use super::heap::{Full, Heap};

/// What stands before a block's bytes.
const LINK: u64 = 8;
/// The one block of an empty chain: a small reply always has a place.
const FIRST: u64 = 2040;
/// The largest block it takes. More would be given back later than need be.
const LARGEST: u64 = (256 << 10) - 8;
/// The smallest one it takes then: what is smaller is for other clients' first ones.
const SMALLEST: u64 = (4 << 10) - 8;
/// A chain of no more than this may take the last that is free; a longer one leaves this share of
/// all, so that others are answered while its client does not read.
const LITTLE: u64 = 64 << 10;
const SHARE: u64 = 64;

/// A chain whose head is here. It has a block once it is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain(pub(crate) At);

/// Its head.
#[derive(Clone, Copy)]
struct Head {
    first: At,
    start: u64,
    last: At,
    end: u64,
    len: u64,
    room: u64,
}

impl Chain {
    /// Words that a chain's head takes.
    pub(crate) const WORDS: u64 = 6;
    /// Room that an empty chain has in any case.
    pub(crate) const ROOM_MIN: u64 = FIRST - LINK;

    fn head(self, arena: &Arena) -> Head {
        let [first, start, last, end, len, room] = arena.load_words(self.0);
        Head { first: At(first), start, last: At(last), end, len, room }
    }

    fn set_head(self, arena: &Arena, head: Head) {
        let Head { first, start, last, end, len, room } = head;
        arena.store_words(self.0, [first.0, start, last.0, end, len, room]);
    }

    pub(crate) fn len(self, arena: &Arena) -> u64 {
        self.head(arena).len
    }

    /// Gives an empty chain its first block.
    pub(crate) fn open(self, heap: &Heap) -> Result<(), Full> {
        let first = heap.allocate(FIRST)?;
        heap.arena().point(first, At::NOWHERE);
        let room = heap.room(first) - LINK;
        let head = Head { first, start: LINK, last: first, end: LINK, len: 0, room };
        self.set_head(heap.arena(), head);
        Ok(())
    }

    /// There is surely no room for more than this at the end.
    pub(crate) fn room_max(self, heap: &Heap) -> u64 {
        self.head(heap.arena()).room + heap.unused()
    }

    /// Makes sure that so many bytes can be added at the end.
    pub(crate) fn widen(self, heap: &Heap, more: u64) -> Result<(), Full> {
        let (arena, mut head) = (heap.arena(), self.head(heap.arena()));
        let Some(mut missing) = more.checked_sub(head.room).filter(|missing| *missing > 0) else {
            return Ok(());
        };
        let left = if head.len + more > LITTLE { heap.capacity() / SHARE } else { 0 };
        let mut blocks = Vec::new();
        while missing > 0 {
            let wanted = (missing + LINK).clamp(SMALLEST, LARGEST);
            let fits = left + missing <= heap.unused();
            let block = if fits { heap.allocate_up_to(wanted, SMALLEST) } else { Err(Full) };
            blocks.extend(block);
            if block.is_err() || heap.unused() < left {
                blocks.into_iter().for_each(|block| heap.free(block));
                return Err(Full);
            }
            let room = blocks.last().map_or(0, |block| heap.room(*block) - LINK);
            missing = missing.saturating_sub(room);
            head.room += room;
        }
        let mut behind = blocks_from(arena, head.last).last().expect("an open chain has a block");
        for block in blocks {
            arena.point(behind, block);
            behind = block;
        }
        arena.point(behind, At::NOWHERE);
        self.set_head(arena, head);
        Ok(())
    }

    /// Adds bytes at the end; all of them, or none.
    pub(crate) fn append(self, heap: &Heap, mut bytes: &[u8]) -> Result<(), Full> {
        self.widen(heap, bytes.len() as u64)?;
        let (arena, mut head) = (heap.arena(), self.head(heap.arena()));
        while !bytes.is_empty() {
            let mut free = heap.room(head.last) - head.end;
            if free == 0 {
                (head.last, head.end) = (arena.follow(head.last), LINK);
                free = heap.room(head.last) - LINK;
            }
            let (here, rest) = bytes.split_at(bytes.len().min(free as usize));
            arena.write(head.last.plus(head.end), here);
            let count = here.len() as u64;
            (head.end, head.len, head.room) =
                (head.end + count, head.len + count, head.room - count);
            bytes = rest;
        }
        self.set_head(arena, head);
        Ok(())
    }

    /// Takes the first `count` bytes away.
    pub(crate) fn consume(self, heap: &Heap, mut count: u64) {
        let (arena, mut head) = (heap.arena(), self.head(heap.arena()));
        assert!(count <= head.len, "more is consumed than there is");
        head.len -= count;
        if head.len == 0 {
            self.empty(heap);
            return;
        }
        while head.first != head.last && count >= heap.room(head.first) - head.start {
            count -= heap.room(head.first) - head.start;
            let next = arena.follow(head.first);
            heap.free(head.first);
            (head.first, head.start) = (next, LINK);
        }
        head.start += count;
        self.set_head(arena, head);
    }

    /// Leaves nothing but a first block, for which there is room where the others were.
    fn empty(self, heap: &Heap) {
        let arena = heap.arena();
        let mut head = self.head(arena);
        let is_small = heap.room(head.first) <= FIRST && arena.follow(head.first) == At::NOWHERE;
        if is_small {
            let room = heap.room(head.first) - LINK;
            (head.start, head.end, head.len, head.room) = (LINK, LINK, 0, room);
            self.set_head(arena, head);
            return;
        }
        self.free(heap);
        self.open(heap).expect("more was just given back");
    }

    /// Appends `len` bytes from `offset` on to `into`.
    pub(crate) fn read_onto(self, heap: &Heap, offset: u64, len: u64, into: &mut Vec<u8>) {
        let (arena, head) = (heap.arena(), self.head(heap.arena()));
        assert!(offset + len <= head.len, "more is read than there is");
        let (mut at, mut left) = (head.start + offset, len);
        let mut blocks = blocks_from(arena, head.first);
        while left > 0 {
            let block = blocks.next().expect("a chain holds all of its bytes");
            let room = heap.room(block);
            if at >= room {
                at = LINK + at - room;
                continue;
            }
            let count = left.min(room - at);
            arena.read_onto(block.plus(at), count, into);
            (at, left) = (LINK, left - count);
        }
    }

    /// Everything in it.
    pub(crate) fn bytes(self, heap: &Heap) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_onto(heap, 0, self.len(heap.arena()), &mut bytes);
        bytes
    }

    fn blocks(self, arena: &Arena) -> impl Iterator<Item = At> + '_ {
        blocks_from(arena, self.head(arena).first)
    }

    /// What its blocks take of the heap.
    pub(crate) fn taken(self, heap: &Heap) -> u64 {
        self.blocks(heap.arena()).map(|block| heap.taken(block)).sum()
    }

    /// Gives its memory back.
    pub(crate) fn free(self, heap: &Heap) {
        let blocks: Vec<_> = self.blocks(heap.arena()).collect();
        blocks.into_iter().for_each(|block| heap.free(block));
        heap.arena().store_words(self.0, [0; Self::WORDS as usize]);
    }
}

/// The blocks of a chain from one on. Memory that no store has written may have a ring of them.
fn blocks_from(arena: &Arena, first: At) -> impl Iterator<Item = At> + '_ {
    let mut left = arena.size() / FIRST;
    std::iter::successors(first.place(), move |block| {
        left = left.checked_sub(1).expect("a chain of blocks has an end");
        arena.follow(*block).place()
    })
}

#[cfg(test)]
mod tests {
    use super::super::arena::tests::arena;
    use super::*;
    use proptest::prelude::*;
    use whimbrel_memory::page::ByteCount;

    /// An empty chain in a heap of its own, and what the two take of it.
    fn chain() -> (Heap, Chain, u64) {
        let heap = Heap::new(arena(ByteCount::mib(1)));
        heap.lay_out();
        let chain = Chain(heap.allocate(Chain::WORDS * 8).expect("room"));
        chain.open(&heap).expect("room");
        let used = heap.used();
        (heap, chain, used)
    }

    #[test]
    fn a_chain_takes_what_is_free_in_pieces_and_leaves_some() {
        let (heap, chain, used) = chain();
        let mut taken = Vec::new();
        while let Ok(block) = heap.allocate(SMALLEST) {
            taken.push(block);
        }
        // Every second one: no two of them are one block.
        let (kept, freed): (Vec<_>, Vec<_>) = taken.chunks(2).map(|two| (two[0], two[1])).unzip();
        freed.iter().for_each(|block| heap.free(*block));
        let free = heap.unused();
        assert_eq!(chain.append(&heap, &vec![1; free as usize]), Err(Full));
        assert_eq!(heap.unused(), free, "nothing is kept of what was in vain");
        let piece = [7; 4000];
        let mut count = 0;
        while chain.append(&heap, &piece).is_ok() {
            count += 1;
        }
        let left = heap.unused();
        assert!((count + 1) * 4000 > free - left, "{count} pieces of {free} bytes");
        assert!(left >= heap.capacity() / SHARE, "{left} bytes are left to others");
        assert_eq!(chain.bytes(&heap), vec![7; count as usize * 4000]);
        chain.consume(&heap, chain.len(heap.arena()));
        assert_eq!(heap.unused(), free);
        kept.iter().for_each(|block| heap.free(*block));
        assert_eq!(heap.used(), used);
    }

    #[test]
    #[should_panic(expected = "has an end")]
    fn a_ring_of_blocks_is_no_chain() {
        let (heap, chain, _) = chain();
        let head = chain.head(heap.arena());
        heap.arena().point(head.last, head.first);
        let _ = chain.taken(&heap);
    }

    proptest! {
        #[test]
        fn a_chain_is_a_queue_of_bytes(
            steps in proptest::collection::vec((0_usize..9000, 0_usize..9000), 1..60)
        ) {
            let (heap, chain, used) = chain();
            let mut model = Vec::new();
            for (n, (add, take)) in steps.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..add).map(|at| (at ^ n) as u8).collect();
                if n % 3 == 0 {
                    let _ = chain.widen(&heap, take as u64);
                }
                prop_assert!(add as u64 <= chain.room_max(&heap));
                if chain.append(&heap, &bytes).is_ok() {
                    model.extend(bytes);
                }
                let take = take.min(model.len());
                let mut part = Vec::new();
                let len = (model.len() - take) as u64;
                chain.read_onto(&heap, take as u64, len, &mut part);
                prop_assert_eq!(&part, &model[take..]);
                chain.consume(&heap, take as u64);
                model.drain(..take);
                prop_assert_eq!(&chain.bytes(&heap), &model);
                prop_assert_eq!(chain.len(heap.arena()), model.len() as u64);
                prop_assert_eq!(chain.taken(&heap) + 64, heap.used());
            }
            chain.consume(&heap, model.len() as u64);
            prop_assert_eq!(heap.used(), used);
        }
    }
}
