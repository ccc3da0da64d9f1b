//! Bytes in a block that grows: strings, and what a connection has received.
//!
//! A *string* is a block that begins with its length. A *buffer* is three words anywhere in
//! memory (block, start, end) and bytes between start and end of the block.

use super::arena::{Arena, At, Span};
use super::heap::{Full, Heap};

/// What stands before a string's bytes.
pub(crate) const STRING_HEAD: u64 = 8;

/// A new string.
pub(crate) fn new_string(heap: &Heap, bytes: &[u8]) -> Result<At, Full> {
    let at = heap.allocate(STRING_HEAD + bytes.len() as u64)?;
    heap.arena().store(at, bytes.len() as u64);
    heap.arena().write(at.plus(STRING_HEAD), bytes);
    Ok(at)
}

pub(crate) fn string_len(arena: &Arena, at: At) -> u64 {
    arena.load(at)
}

pub(crate) fn string(arena: &Arena, at: At) -> Vec<u8> {
    string_span(arena, at).bytes(arena)
}

/// Where the bytes of a string are.
pub(crate) fn string_span(arena: &Arena, at: At) -> Span {
    Span { at: at.plus(STRING_HEAD), len: string_len(arena, at) }
}

/// Makes a string another one, in place if its block is of the right size. Returns where it is.
pub(crate) fn set_string(heap: &Heap, at: At, bytes: &[u8]) -> Result<At, Full> {
    let needed = STRING_HEAD + bytes.len() as u64;
    if super::heap::cost(needed) != heap.taken(at) {
        let new = new_string(heap, bytes)?;
        heap.free(at);
        return Ok(new);
    }
    heap.arena().store(at, bytes.len() as u64);
    heap.arena().write(at.plus(STRING_HEAD), bytes);
    Ok(at)
}

/// Appends to a string. Returns where it is then.
pub(crate) fn append_string(heap: &Heap, at: At, more: &[u8]) -> Result<At, Full> {
    let arena = heap.arena();
    let (len, added) = (string_len(arena, at), more.len() as u64);
    if STRING_HEAD + len + added <= heap.room(at) {
        arena.write(at.plus(STRING_HEAD + len), more);
        arena.store(at, len + added);
        return Ok(at);
    }
    let mut bytes = string(arena, at);
    bytes.extend_from_slice(more);
    let new = new_string(heap, &bytes)?;
    heap.free(at);
    Ok(new)
}

/// The first block of a buffer, and the one it shrinks back to.
const FIRST: u64 = 2040;

/// A buffer whose three words are at this place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer(pub(crate) At);

impl Buffer {
    /// Words that a buffer's head takes.
    pub(crate) const WORDS: u64 = 3;

    fn parts(self, arena: &Arena) -> (At, u64, u64) {
        let [block, start, end] = arena.load_words(self.0);
        (At(block), start, end)
    }

    pub(crate) fn len(self, arena: &Arena) -> u64 {
        let (_, start, end) = self.parts(arena);
        end - start
    }

    /// Adds bytes at the end; all of them, or none.
    pub(crate) fn append(self, heap: &Heap, bytes: &[u8]) -> Result<(), Full> {
        if bytes.is_empty() {
            return Ok(());
        }
        let added = bytes.len() as u64;
        self.widen(heap, added)?;
        let (block, start, end) = self.parts(heap.arena());
        heap.arena().write(block.plus(end), bytes);
        heap.arena().store_words(self.0, [block.0, start, end + added]);
        Ok(())
    }

    /// Makes sure that so many bytes can be added at the end.
    pub(crate) fn widen(self, heap: &Heap, more: u64) -> Result<(), Full> {
        let arena = heap.arena();
        let (block, start, end) = self.parts(arena);
        let (room, len) = (block.place().map_or(0, |block| heap.room(block)), end - start);
        if end + more <= room {
            return Ok(());
        }
        let new = match heap.allocate((len + more).max(FIRST)) {
            // Where nothing else is free it moves up in its own block.
            Err(Full) if len + more <= room => block,
            made => made?,
        };
        let mut kept = Vec::new();
        if len > 0 {
            arena.read_onto(block.plus(start), len, &mut kept);
            arena.write(new, &kept);
        }
        arena.store_words(self.0, [new.0, 0, len]);
        if let Some(old) = block.place().filter(|old| *old != new) {
            heap.free(old);
        }
        Ok(())
    }

    /// Takes the first `count` bytes away; an empty buffer keeps at most a small block.
    pub(crate) fn consume(self, heap: &Heap, count: u64) {
        let (block, start, end) = self.parts(heap.arena());
        assert!(count <= end - start, "more is consumed than there is");
        if start + count < end {
            heap.arena().store(self.0.word(1), start + count);
        } else if end > 0 {
            self.empty(heap, block);
        }
    }

    fn empty(self, heap: &Heap, block: At) {
        let keep = heap.room(block) <= FIRST;
        if !keep {
            heap.free(block);
        }
        heap.arena().store_words(self.0, [if keep { block.0 } else { 0 }, 0, 0]);
    }

    /// Appends `len` bytes from `offset` on to `into`.
    pub(crate) fn read_onto(self, arena: &Arena, offset: u64, len: u64, into: &mut Vec<u8>) {
        let (block, start, end) = self.parts(arena);
        assert!(start + offset + len <= end, "more is read than there is");
        arena.read_onto(block.plus(start + offset), len, into);
    }

    /// Everything in it.
    pub(crate) fn bytes(self, arena: &Arena) -> Vec<u8> {
        let mut bytes = Vec::new();
        let len = self.len(arena);
        if len > 0 {
            self.read_onto(arena, 0, len, &mut bytes);
        }
        bytes
    }

    /// Gives its memory back.
    pub(crate) fn free(self, heap: &Heap) {
        if let Some(block) = self.parts(heap.arena()).0.place() {
            heap.free(block);
        }
        heap.arena().store_words(self.0, [0; 3]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::tests::arena;
    use super::*;
    use proptest::prelude::*;
    use whimbrel_memory::page::ByteCount;

    fn heap() -> Heap {
        let heap = Heap::new(arena(ByteCount::kib(256)));
        heap.lay_out();
        heap
    }

    #[test]
    fn strings_change_in_place_where_they_fit() {
        let heap = heap();
        let at = new_string(&heap, b"abc").expect("room");
        assert_eq!(set_string(&heap, at, b"0123456789abcdef"), Ok(at));
        assert_eq!(string(heap.arena(), at), b"0123456789abcdef");
        let grown = append_string(&heap, at, b"!").expect("room");
        assert_ne!(grown, at);
        assert_eq!(append_string(&heap, grown, b"?"), Ok(grown));
        assert_eq!(string(heap.arena(), grown), b"0123456789abcdef!?");
        let small = set_string(&heap, grown, b"x").expect("room");
        assert_eq!((heap.used(), string(heap.arena(), small)), (32, b"x".to_vec()));
    }

    #[test]
    fn a_full_heap_leaves_a_buffer_as_it_was() {
        let heap = heap();
        let buffer = Buffer(heap.allocate(24).expect("room"));
        heap.arena().store_words(buffer.0, [0; 3]);
        buffer.append(&heap, &[7; 100_000]).expect("room");
        assert_eq!(buffer.append(&heap, &[8; 200_000]), Err(Full));
        assert_eq!(buffer.bytes(heap.arena()), vec![7; 100_000]);
        buffer.consume(&heap, 100_000);
        assert_eq!((buffer.len(heap.arena()), heap.used()), (0, 32));
    }

    proptest! {
        #[test]
        fn a_buffer_is_a_queue_of_bytes(
            steps in proptest::collection::vec((0_usize..5000, 0_usize..5000), 1..60)
        ) {
            let heap = heap();
            let buffer = Buffer(heap.allocate(24).expect("room"));
            heap.arena().store_words(buffer.0, [0; 3]);
            let mut model = Vec::new();
            for (n, (add, take)) in steps.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..add).map(|at| (at ^ n) as u8).collect();
                if buffer.append(&heap, &bytes).is_ok() {
                    model.extend(bytes);
                }
                let take = take.min(model.len());
                buffer.consume(&heap, take as u64);
                model.drain(..take);
                prop_assert_eq!(&buffer.bytes(heap.arena()), &model);
            }
            buffer.free(&heap);
            prop_assert_eq!(heap.used(), 32);
        }
    }
}
