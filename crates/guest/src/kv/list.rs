//! Lists: elements linked both ways.
//!
//! ```text
//!   head: link │ kind │ elements │ first │ last        element: next │ previous │ length │ bytes …
//! ```

use super::arena::{Arena, At, Span};
use super::heap::{Full, Heap, cost};

const COUNT: u64 = 2;
const HEAD_WORDS: u64 = 5;
const ELEMENT_WORDS: u64 = 3;

/// What a new list takes of the heap.
pub(crate) const LIST_COST: u64 = cost(HEAD_WORDS * 8);

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Left,
    Right,
}

impl End {
    /// The word of the head that points to the element at this end.
    const fn of_head(self) -> u64 {
        match self {
            Self::Left => 3,
            Self::Right => 4,
        }
    }

    /// The word of an element that points away from this end, to its neighbour.
    const fn inwards(self) -> u64 {
        match self {
            Self::Left => 0,
            Self::Right => 1,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }
}

/// A list whose head is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct List(pub(crate) At);

impl List {
    pub(crate) fn new(heap: &Heap, kind: u64) -> Result<Self, Full> {
        let at = heap.allocate(HEAD_WORDS * 8)?;
        heap.arena().store_words(at, [0, kind, 0, 0, 0]);
        Ok(Self(at))
    }

    pub(crate) fn len(self, arena: &Arena) -> u64 {
        arena.load(self.0.word(COUNT))
    }

    pub(crate) fn push(self, heap: &Heap, end: End, bytes: &[u8]) -> Result<(), Full> {
        let arena = heap.arena();
        let new = heap.allocate(ELEMENT_WORDS * 8 + bytes.len() as u64)?;
        let end_pointer = self.0.word(end.of_head());
        let neighbour = arena.follow(end_pointer);
        let mut links = [0; 2];
        links[end.inwards() as usize] = neighbour.0;
        arena.store_words(new, [links[0], links[1], bytes.len() as u64]);
        arena.write(new.word(ELEMENT_WORDS), bytes);
        let back = match neighbour.place() {
            Some(neighbour) => neighbour.word(end.other().inwards()),
            None => self.0.word(end.other().of_head()),
        };
        arena.point(back, new);
        arena.point(end_pointer, new);
        arena.add(self.0.word(COUNT), 1);
        Ok(())
    }

    /// Takes the element at this end away; whether there was one.
    pub(crate) fn drop_one(self, heap: &Heap, end: End) -> bool {
        let element = heap.arena().follow(self.0.word(end.of_head())).place();
        element.is_some_and(|element| {
            self.cut(heap, end, element);
            true
        })
    }

    fn cut(self, heap: &Heap, end: End, element: At) {
        let arena = heap.arena();
        let neighbour = arena.follow(element.word(end.inwards()));
        let back = match neighbour.place() {
            Some(neighbour) => neighbour.word(end.other().inwards()),
            None => self.0.word(end.other().of_head()),
        };
        arena.point(back, At::NOWHERE);
        arena.point(self.0.word(end.of_head()), neighbour);
        arena.sub(self.0.word(COUNT), 1);
        heap.free(element);
    }

    /// Where each element is, from the left; or what is wrong with how they are linked.
    pub(crate) fn elements(self, arena: &Arena) -> Result<Vec<At>, String> {
        let (mut found, mut before) = (Vec::new(), At::NOWHERE);
        let mut at = arena.follow(self.0.word(End::Left.of_head()));
        while let Some(here) = at.place() {
            let [next, previous] = arena.load_words(here);
            if At(previous) != before || found.len() as u64 >= self.len(arena) {
                return Err("an element is not linked to its neighbour".to_owned());
            }
            found.push(here);
            (before, at) = (here, At(next));
        }
        Ok(found)
    }

    /// Calls `each` with `count` elements, which are there, from this end on.
    pub(crate) fn at_end(self, arena: &Arena, end: End, count: u64, mut each: impl FnMut(Span)) {
        let mut at = arena.follow(self.0.word(end.of_head()));
        for _ in 0..count {
            each(span(arena, at));
            at = arena.follow(at.word(end.inwards()));
        }
    }

    /// Calls `each` with the elements `first` up to, but without, `end`.
    pub(crate) fn range(self, arena: &Arena, first: u64, end: u64, mut each: impl FnMut(Span)) {
        let len = self.len(arena);
        // From the nearer end.
        let (side, steps) =
            if first <= len / 2 { (End::Left, first) } else { (End::Right, len - 1 - first) };
        let mut at = arena.follow(self.0.word(side.of_head()));
        for _ in 0..steps {
            at = arena.follow(at.word(side.inwards()));
        }
        for _ in first..end {
            each(span(arena, at));
            at = arena.follow(at);
        }
    }
}

/// Where the bytes of an element are.
fn span(arena: &Arena, element: At) -> Span {
    Span { at: element.word(ELEMENT_WORDS), len: arena.load(element.word(2)) }
}

#[cfg(test)]
mod tests {
    use super::super::arena::tests::arena;
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use whimbrel_memory::page::ByteCount;

    proptest! {
        #[test]
        fn a_list_is_a_queue_with_two_ends(
            steps in proptest::collection::vec((any::<bool>(), 0_u8..5, 0_usize..100), 1..200)
        ) {
            let heap = Heap::new(arena(ByteCount::kib(256)));
            heap.lay_out();
            let list = List::new(&heap, 0).expect("room");
            let mut model = VecDeque::new();
            for (left, what, len) in steps {
                let end = if left { End::Left } else { End::Right };
                if what < 3 {
                    let bytes = vec![what; len];
                    list.push(&heap, end, &bytes).expect("room");
                    if left { model.push_front(bytes) } else { model.push_back(bytes) }
                } else {
                    let popped = if left { model.pop_front() } else { model.pop_back() };
                    let mut last = None;
                    let there = u64::from(popped.is_some());
                    let arena = heap.arena();
                    list.at_end(arena, end, there, |span| last = Some(span.bytes(arena)));
                    prop_assert_eq!(list.drop_one(&heap, end), popped.is_some());
                    prop_assert_eq!(last, popped);
                }
                let count = model.len();
                prop_assert_eq!(list.len(heap.arena()), count as u64);
                let first = len.min(count);
                let mut found = Vec::new();
                if first < count {
                    let (first, end) = (first as u64, count as u64);
                    let arena = heap.arena();
                    list.range(arena, first, end, |span| found.push(span.bytes(arena)));
                }
                prop_assert_eq!(&found, &model.iter().skip(first).cloned().collect::<Vec<_>>());
            }
            while list.drop_one(&heap, End::Left) {}
            prop_assert_eq!((list.len(heap.arena()), heap.used()), (0, LIST_COST));
        }
    }
}
