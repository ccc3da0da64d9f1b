//! The first page of guest memory: what the store is, and where everything in it begins.
//!
//! ```text
//!   magic │ version │ size of memory │ hash seed │ keys (a dict) │ keys with an end │ graves
//!   connections, their number, the last client's id │ counters │ expiry's cursor
//!   heap: bytes in use │ orders with free blocks │ free list of each order
//!   ── second page on: the heap ──
//! ```
//!
//! All are little-endian words at fixed places; an offset of zero is none.

use super::arena::{Arena, At};

/// `whimbrel` in ASCII, as a little-endian word.
const MAGIC: u64 = u64::from_le_bytes(*b"whimbrel");
/// The version of everything the store lays out in memory.
const VERSION: u64 = 2;

const fn field(number: u64) -> At {
    At(number * 8)
}

const MAGIC_AT: At = field(0);
const VERSION_AT: At = field(1);
const SIZE_AT: At = field(2);
/// What keys are hashed with, so that a client cannot know which collide.
pub(crate) const SEED: At = field(3);
/// The dict of all keys.
pub(crate) const KEYS: At = field(4);
/// Keys that have an end.
pub(crate) const MORTALS: At = field(5);
/// The first of what is dead and not yet taken apart.
pub(crate) const GRAVES: At = field(6);
/// The first connection.
pub(crate) const CONNECTIONS: At = field(7);
pub(crate) const CONNECTION_COUNT: At = field(8);
/// The id that the last client was given.
pub(crate) const CLIENT_ID: At = field(9);
/// Where the search for keys that have ended goes on.
pub(crate) const REAPER: At = field(10);
pub(crate) const COMMANDS: At = field(11);
pub(crate) const ACCEPTED: At = field(12);
pub(crate) const EXPIRED: At = field(13);
pub(crate) const HITS: At = field(14);
pub(crate) const MISSES: At = field(15);
/// When the guest was made, in milliseconds of the epoch.
pub(crate) const BORN_MS: At = field(16);
/// When the guest last looked at its clock, and the longest it ever had to wait to.
pub(crate) const LAST_BEAT_US: At = field(17);
pub(crate) const BEATS: At = field(18);
pub(crate) const LONGEST_GAP_US: At = field(19);
pub(crate) const LOST_US: At = field(20);
/// The first of what is known about relays.
pub(crate) const RELAYS: At = field(21);
/// Bytes of the heap in use.
pub(crate) const USED: At = field(32);
/// A bit for each order that has a free block.
pub(crate) const ORDERS: At = field(33);
const FREE: u64 = 34;

/// The first free block of an order.
pub(crate) const fn free_list(order: u32) -> At {
    field(FREE + order as u64)
}

/// Where the heap begins.
pub(crate) const HEAP: At = At(4096);

/// Writes the head of an empty store into memory that is zero.
pub(crate) fn lay_out(arena: &Arena, seed: u64, now_ms: u64) {
    arena.store(VERSION_AT, VERSION);
    arena.store(SIZE_AT, arena.size());
    arena.store(SEED, seed);
    arena.store(BORN_MS, now_ms);
    arena.store(MAGIC_AT, MAGIC);
}

/// Why memory is not a store's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoStore {
    #[error("guest memory does not begin as a key-value store: it is another guest's, or damaged")]
    Magic,
    #[error("the store has layout {0}, this host knows {VERSION}: use one release on both hosts")]
    Version(u64),
    #[error("the store was laid out in {found} bytes of memory, the guest has {expected}")]
    Size { found: u64, expected: u64 },
}

/// Whether memory that arrived is a store that this program can read.
pub(crate) fn recognise(arena: &Arena) -> Result<(), NoStore> {
    if arena.load(MAGIC_AT) != MAGIC {
        return Err(NoStore::Magic);
    }
    let version = arena.load(VERSION_AT);
    if version != VERSION {
        return Err(NoStore::Version(version));
    }
    let (found, expected) = (arena.load(SIZE_AT), arena.size());
    if found == expected { Ok(()) } else { Err(NoStore::Size { found, expected }) }
}
