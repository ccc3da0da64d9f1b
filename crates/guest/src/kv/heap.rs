//! The allocator: a binary buddy system whose every word is in guest memory.
//!
//! ```text
//!   block of order n: 32 << n bytes │ tag: order, and whether it is free │ bytes for the owner …
//!                     free ones:    │ tag │ next │ previous
//! ```
//!
//! The buddy of a block is found by flipping one bit of its offset, so a block that is given back
//! merges with its neighbours at once, and nothing is ever searched. Memory that was never handed
//! out is never touched: a block that is split gets a tag in each half and no more.

use super::arena::{Arena, At};
use super::head::{HEAP, ORDERS, USED, free_list};

/// There is no free block of that size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

const SMALLEST: u64 = 32;
/// Orders there can be: the largest block is 32 << 47 bytes, more than any host has.
const ORDERS_MAX: u32 = 48;
const TAG: u64 = 8;
const FREE_BIT: u64 = 1 << 63;

/// The heap of one store. Takes note, outside guest memory, of what the command that runs now may
/// still need: [`Heap::allocate_spare`] leaves that.
#[derive(Debug)]
pub(crate) struct Heap {
    arena: Arena,
    reserved: u64,
}

/// The order of the smallest block with room for `len` bytes.
const fn order_for(len: u64) -> u32 {
    (len.saturating_add(TAG)).div_ceil(SMALLEST).next_power_of_two().trailing_zeros()
}

/// What a block for `len` bytes takes of the heap.
pub(crate) const fn cost(len: u64) -> u64 {
    SMALLEST << order_for(len)
}

impl Heap {
    pub(crate) const fn new(arena: Arena) -> Self {
        Self { arena, reserved: 0 }
    }

    pub(crate) const fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Makes all memory behind the head one free heap.
    pub(crate) fn lay_out(&self) {
        let (mut at, end) = (0, self.capacity());
        while at < end {
            let aligned = if at == 0 { ORDERS_MAX } else { (at / SMALLEST).trailing_zeros() };
            let fits = ((end - at) / SMALLEST).checked_ilog2();
            let Some(fits) = fits else { return };
            let order = aligned.min(fits);
            self.put(HEAP.plus(at), order);
            at += SMALLEST << order;
        }
    }

    /// Bytes that blocks can be made of.
    pub(crate) fn capacity(&self) -> u64 {
        self.arena.size() - HEAP.0
    }

    /// Bytes of blocks that are in use.
    pub(crate) fn used(&self) -> u64 {
        self.arena.load(USED)
    }

    /// Bytes that are in no block in use.
    pub(crate) fn unused(&self) -> u64 {
        self.capacity() - self.used()
    }

    /// Whether blocks of `bytes` bytes in all, each counted by [`cost`], are there for sure: they
    /// come out of one free block. (Out of a single block, split by need, powers of two never fail
    /// to fit before it is used up.)
    pub(crate) fn has(&self, bytes: u64) -> bool {
        let order = bytes.div_ceil(SMALLEST).next_power_of_two().trailing_zeros();
        order < ORDERS_MAX && self.arena.load(ORDERS) >> order != 0
    }

    /// Whether the largest block there can be is broken up, for little.
    pub(crate) fn is_in_pieces(&self) -> bool {
        let largest = (self.capacity() / SMALLEST).ilog2();
        self.arena.load(ORDERS) >> largest == 0 && self.used() < self.capacity() / 4
    }

    /// Keeps so much from [`Heap::allocate_spare`] from now on.
    pub(crate) fn reserve(&mut self, bytes: u64) {
        self.reserved = bytes;
    }

    /// A block for what the store can do without.
    pub(crate) fn allocate_spare(&self, len: u64) -> Result<At, Full> {
        if self.has(cost(len) + self.reserved) { self.allocate(len) } else { Err(Full) }
    }

    /// A block with room for `len` bytes, whatever is in them.
    pub(crate) fn allocate(&self, len: u64) -> Result<At, Full> {
        let wanted = order_for(len);
        if wanted >= ORDERS_MAX {
            return Err(Full);
        }
        let orders = self.arena.load(ORDERS) >> wanted;
        if orders == 0 {
            return Err(Full);
        }
        let mut order = wanted + orders.trailing_zeros();
        let block = self.arena.follow(free_list(order));
        self.take(block, order);
        while order > wanted {
            order -= 1;
            self.put(block.plus(SMALLEST << order), order);
        }
        self.arena.store(block, u64::from(wanted));
        self.arena.add(USED, SMALLEST << wanted);
        Ok(block.plus(TAG))
    }

    /// How many bytes the owner of this block may use.
    pub(crate) fn room(&self, at: At) -> u64 {
        (SMALLEST << self.order(At(at.0 - TAG))) - TAG
    }

    /// What this block takes of the heap.
    pub(crate) fn taken(&self, at: At) -> u64 {
        self.room(at) + TAG
    }

    /// A block with room for `len` bytes, or the largest there is that has room for `least`.
    pub(crate) fn allocate_up_to(&self, mut len: u64, least: u64) -> Result<At, Full> {
        loop {
            let half = cost(len) / 2 - TAG;
            match self.allocate(len) {
                Err(Full) if half >= least => len = half,
                made => return made,
            }
        }
    }

    /// Gives a block back.
    pub(crate) fn free(&self, at: At) {
        let mut block = At(at.0 - TAG);
        let mut order = self.order(block);
        self.arena.sub(USED, SMALLEST << order);
        while let Some(buddy) = self.free_buddy(block, order) {
            self.take(buddy, order);
            block = block.min(buddy);
            order += 1;
        }
        self.put(block, order);
    }

    fn order(&self, block: At) -> u32 {
        let tag = self.arena.load(block);
        assert!(tag < u64::from(ORDERS_MAX), "no block in use begins here");
        tag as u32
    }

    fn free_buddy(&self, block: At, order: u32) -> Option<At> {
        let size = SMALLEST << order;
        let buddy = HEAP.plus((block.0 - HEAP.0) ^ size);
        let inside = buddy.0 + size <= self.arena.size();
        let free = inside && self.arena.load(buddy) == (u64::from(order) | FREE_BIT);
        free.then_some(buddy)
    }

    /// Puts a free block at the front of its list.
    fn put(&self, block: At, order: u32) {
        let list = free_list(order);
        let next = self.arena.follow(list);
        self.arena.store_words(block, [u64::from(order) | FREE_BIT, next.0, 0]);
        if let Some(next) = next.place() {
            self.arena.point(next.word(2), block);
        }
        self.arena.point(list, block);
        let orders = self.arena.load(ORDERS);
        self.arena.store(ORDERS, orders | 1 << order);
    }

    /// Takes a free block out of its list.
    fn take(&self, block: At, order: u32) {
        let list = free_list(order);
        let [next, previous] = self.arena.load_words(block.word(1));
        let before = At(previous).place().map_or(list, |previous| previous.word(1));
        self.arena.store(before, next);
        if let Some(next) = At(next).place() {
            self.arena.store(next.word(2), previous);
        }
        if self.arena.follow(list) == At::NOWHERE {
            let orders = self.arena.load(ORDERS);
            self.arena.store(ORDERS, orders & !(1 << order));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::arena::tests::arena;
    use super::*;
    use proptest::prelude::*;
    use whimbrel_memory::page::ByteCount;

    fn heap(size: ByteCount) -> Heap {
        let heap = Heap::new(arena(size));
        heap.lay_out();
        heap
    }

    fn free_orders(heap: &Heap) -> Vec<u64> {
        let count = |order| {
            let mut at = heap.arena.follow(free_list(order));
            std::iter::from_fn(|| {
                let here = at.place()?;
                at = heap.arena.follow(here.word(1));
                Some(())
            })
            .count() as u64
        };
        (0..ORDERS_MAX).map(count).collect()
    }

    #[test]
    fn what_is_given_back_is_whole_again() {
        for pages in [2, 3, 8, 57] {
            let heap = heap(ByteCount(pages * 4096));
            let before = free_orders(&heap);
            let mut blocks = Vec::new();
            while let Ok(block) = heap.allocate(24) {
                blocks.push(block);
            }
            assert_eq!(blocks.len() as u64, (pages - 1) * 128, "all of it can be used");
            assert_eq!(heap.used(), heap.capacity());
            blocks.iter().for_each(|block| heap.free(*block));
            assert_eq!((heap.used(), free_orders(&heap)), (0, before));
        }
    }

    #[test]
    fn a_block_is_as_large_as_it_must_be() {
        let heap = heap(ByteCount::mib(1));
        for (len, room) in [(0, 24), (24, 24), (25, 56), (248, 248), (249, 504), (5000, 8184)] {
            let block = heap.allocate(len).expect("there is room");
            assert_eq!((heap.room(block), cost(len)), (room, room + 8));
        }
        assert_eq!(heap.allocate(1 << 20), Err(Full));
        assert_eq!(heap.allocate(u64::MAX), Err(Full));
    }

    #[test]
    fn what_was_never_handed_out_takes_no_memory() {
        let heap = heap(ByteCount::mib(1024));
        heap.allocate(100).expect("there is room");
        assert!(heap.arena.memory().resident().expect("the host says") < ByteCount::mib(1));
    }

    #[test]
    fn spare_blocks_leave_the_reserve() {
        let mut heap = heap(ByteCount(4096 * 3));
        heap.reserve(4096);
        heap.allocate_spare(4000).expect("one page of two");
        assert_eq!(heap.allocate_spare(24), Err(Full));
        heap.allocate(4000).expect("the reserve");
    }

    proptest! {
        /// Blocks do not overlap, hold what was written, and what `has` promises is there.
        #[test]
        fn blocks_are_apart(
            steps in proptest::collection::vec((0_u64..2000, any::<u8>()), 1..300)
        ) {
            let heap = heap(ByteCount::kib(64));
            let mut live: Vec<(At, u64, u8)> = Vec::new();
            for (len, mark) in steps {
                if mark % 3 == 0 && !live.is_empty() {
                    let (at, len, mark) = live.swap_remove(mark as usize % live.len());
                    prop_assert!(heap.arena.equals(at, &vec![mark; len as usize]));
                    heap.free(at);
                    continue;
                }
                let promised = heap.has(cost(len));
                let made = heap.allocate(len);
                prop_assert!(made.is_ok() || !promised);
                if let Ok(at) = made {
                    heap.arena.write(at, &vec![mark; len as usize]);
                    live.push((at, len, mark));
                }
                let used: u64 = live.iter().map(|(_, len, _)| cost(*len)).sum();
                prop_assert_eq!(heap.used(), used);
            }
            for (at, len, mark) in live {
                prop_assert!(heap.arena.equals(at, &vec![mark; len as usize]));
                heap.free(at);
            }
            prop_assert_eq!(heap.used(), 0);
        }

        /// As long as one block has the sum of what is asked, in any order it is there.
        #[test]
        fn a_reserve_never_fails(
            lens in proptest::collection::vec(0_u64..3000, 1..12),
            used in 0_u64..40,
        ) {
            let heap = heap(ByteCount::kib(256));
            for n in 0..used {
                let _ = heap.allocate(n * 37 % 900);
            }
            let total = lens.iter().map(|len| cost(*len)).sum();
            if heap.has(total) {
                for len in lens {
                    prop_assert!(heap.allocate(len).is_ok());
                }
            }
        }
    }
}
