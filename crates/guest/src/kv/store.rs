//! The keyspace: keys, what they hold, and when they end.

use std::collections::BTreeSet;

use twox_hash::XxHash3_64;

use super::arena::{Arena, At};
use super::buffer::{self, STRING_HEAD};
use super::connections::{Record, TakenOut};
use super::dict::{Cursor, DICT_COST, Dict, Entry, entry_cost};
use super::head::{self, NoStore};
use super::heap::{Full, Heap, cost};
use super::list::{End, LIST_COST, List};
use super::request::BULK_MAX;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    String,
    List,
    Hash,
    Set,
}

impl Kind {
    const fn code(self) -> u64 {
        match self {
            Self::String => 1,
            Self::List => 2,
            Self::Hash => 3,
            Self::Set => 4,
        }
    }

    /// The kind of something dead; nothing for the keyspace.
    pub(crate) fn of_grave(code: u64) -> Option<Self> {
        (code != KEYSPACE).then(|| Self::of(code))
    }

    pub(crate) fn of(code: u64) -> Self {
        match code {
            1 => Self::String,
            2 => Self::List,
            3 => Self::Hash,
            4 => Self::Set,
            _ => panic!("guest memory holds a key of no kind"),
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Hash => "hash",
            Self::Set => "set",
        }
    }
}

/// The kind of the dict of all keys, for when it is dead.
const KEYSPACE: u64 = 5;
/// What a dead thing may have in it to be taken apart at once.
const SMALL: u64 = 32;
/// Steps of taking apart in one go when memory is needed now.
const URGENT_STEPS: u64 = 64;
/// Buckets that one look for ended keys goes through.
const REAP_BUCKETS: u64 = 64;
/// What any command may need beside what its arguments say: a head, and the entry around it.
const COMMAND_SPARE: u64 = if DICT_COST > LIST_COST { DICT_COST } else { LIST_COST } + cost(64);

/// What stands beside an argument in its block.
const BULK_SPARE: u64 = 64;

/// A key that has a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) entry: Entry,
    pub(crate) kind: Kind,
    pub(crate) value: At,
}

/// The store in one guest's memory.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) heap: Heap,
    /// Now, in milliseconds of the epoch: one moment for a whole command.
    pub(crate) now_ms: u64,
    seed: u64,
    /// Bytes of keys and values; the rest is for what serves them.
    pub(crate) limit: u64,
    /// Clients that commands have ended: whoever carries commands out ends their connections.
    pub(crate) ended: BTreeSet<u64>,
}

impl Store {
    /// Lays an empty store out in memory that is zero.
    pub(crate) fn lay_out(arena: Arena, seed: u64, now_ms: u64) -> Result<Self, Full> {
        head::lay_out(&arena, seed, now_ms);
        let store = Self::over(arena, now_ms);
        store.heap.lay_out();
        store.arena().point(head::KEYS, Dict::new(&store.heap, KEYSPACE)?.0);
        Ok(store)
    }

    /// The store that memory holds.
    pub(crate) fn open(arena: Arena, now_ms: u64) -> Result<Self, NoStore> {
        head::recognise(&arena)?;
        Ok(Self::over(arena, now_ms))
    }

    fn over(arena: Arena, now_ms: u64) -> Self {
        let seed = arena.load(head::SEED);
        let heap = Heap::new(arena);
        // A sixteenth is for what connections send and are sent.
        let limit = heap.capacity() / 16 * 15;
        Self { heap, now_ms, seed, limit, ended: BTreeSet::new() }
    }

    pub(crate) fn arena(&self) -> &Arena {
        self.heap.arena()
    }

    /// No argument is longer: beside the larger ones there would be no room for the value, even in
    /// an empty store (see [`Store::make_room`]).
    pub(crate) fn bulk_max(&self) -> u64 {
        let largest_block = 1 << self.heap.capacity().ilog2();
        (largest_block / 4 - BULK_SPARE).min(BULK_MAX)
    }

    pub(crate) fn hash(&self, bytes: &[u8]) -> u64 {
        XxHash3_64::oneshot_with_seed(self.seed, bytes)
    }

    pub(crate) fn keys(&self) -> Dict {
        Dict(self.arena().follow(head::KEYS))
    }

    /// Bytes that keys and values may take yet.
    pub(crate) fn unused(&self) -> u64 {
        self.limit.saturating_sub(self.heap.used())
    }

    /// Makes sure that a command whose arguments have these lengths, and which adds `more` bytes
    /// to something there is, cannot run out of memory half-way; or says that it would.
    pub(crate) fn make_room(
        &mut self,
        arguments: impl Iterator<Item = u64>,
        more: u64,
    ) -> Result<(), Full> {
        let each = arguments.map(|len| entry_cost(len) + cost(STRING_HEAD + len));
        let needed = each.sum::<u64>() + COMMAND_SPARE + if more == 0 { 0 } else { cost(more) };
        while self.heap.used() + needed > self.limit || !self.heap.has(needed) {
            if !self.dig(URGENT_STEPS) {
                return Err(Full);
            }
        }
        self.heap.reserve(needed);
        Ok(())
    }

    /// The key, if it is there and has not ended.
    pub(crate) fn look_up(&self, key: &[u8]) -> Option<Found> {
        let arena = self.arena();
        let hash = self.hash(key);
        let entry = self.keys().get(arena, hash, key)?;
        if self.has_ended(entry) {
            self.expire(key);
            return None;
        }
        let kind = Kind::of(entry.kind(arena));
        Some(Found { entry, kind, value: entry.value(arena) })
    }

    /// As [`Store::look_up`], for a client that reads; counted.
    pub(crate) fn read(&self, key: &[u8]) -> Option<Found> {
        let found = self.look_up(key);
        self.arena().add(if found.is_some() { head::HITS } else { head::MISSES }, 1);
        found
    }

    pub(crate) fn has_ended(&self, entry: Entry) -> bool {
        let end = entry.end_ms(self.arena());
        end != 0 && end <= self.now_ms
    }

    fn expire(&self, key: &[u8]) {
        self.delete(key);
        self.arena().add(head::EXPIRED, 1);
    }

    /// Adds a key that is not there.
    pub(crate) fn add(&self, key: &[u8], kind: Kind, value: At) -> Result<Entry, Full> {
        let entry = self.keys().add(&self.heap, self.hash(key), key)?;
        entry.set_kind(self.arena(), kind.code());
        entry.set_value(self.arena(), value);
        Ok(entry)
    }

    /// The collection at a key that is not there.
    pub(crate) fn add_collection(&self, key: &[u8], kind: Kind) -> Result<At, Full> {
        let value = match kind {
            Kind::List => List::new(&self.heap, kind.code())?.0,
            _ => Dict::new(&self.heap, kind.code())?.0,
        };
        self.add(key, kind, value)?;
        Ok(value)
    }

    /// Makes a key a string, whatever it was; an end that it had stays if `keep_end`.
    pub(crate) fn set(&self, key: &[u8], bytes: &[u8], keep_end: bool) -> Result<Entry, Full> {
        let arena = self.arena();
        let Some(Found { entry, kind, value }) = self.look_up(key) else {
            let value = buffer::new_string(&self.heap, bytes)?;
            return self.add(key, Kind::String, value);
        };
        if kind == Kind::String {
            entry.set_value(arena, buffer::set_string(&self.heap, value, bytes)?);
        } else {
            entry.set_value(arena, buffer::new_string(&self.heap, bytes)?);
            entry.set_kind(arena, Kind::String.code());
            self.bury(kind.code(), value);
        }
        if !keep_end {
            self.set_end(entry, 0);
        }
        Ok(entry)
    }

    /// When a key ends; zero for never.
    pub(crate) fn set_end(&self, entry: Entry, end_ms: u64) {
        let arena = self.arena();
        match (entry.end_ms(arena) != 0, end_ms != 0) {
            (false, true) => arena.add(head::MORTALS, 1),
            (true, false) => arena.sub(head::MORTALS, 1),
            _ => (),
        }
        entry.set_end_ms(arena, end_ms);
    }

    /// Takes a key away, whether or not it has ended.
    pub(crate) fn delete(&self, key: &[u8]) -> bool {
        let (arena, keys, hash) = (self.arena(), self.keys(), self.hash(key));
        let Some(entry) = keys.get(arena, hash, key) else { return false };
        let kind = entry.kind(arena);
        self.set_end(entry, 0);
        let value = keys.remove(&self.heap, hash, key).expect("it was just found");
        self.bury(kind, value);
        true
    }

    /// Takes all keys away. Their memory comes back bit by bit.
    pub(crate) fn flush(&self) {
        let arena = self.arena();
        let dead = self.keys();
        if dead.len(arena) == 0 {
            return;
        }
        arena.store(head::MORTALS, 0);
        match Dict::new(&self.heap, KEYSPACE) {
            Ok(fresh) => {
                arena.point(head::KEYS, fresh.0);
                self.bury(KEYSPACE, dead.0);
            }
            // Not even that much is free: it is made free by doing it at once.
            Err(Full) => {
                let names: Vec<_> = dead.entries(arena).map(|entry| entry.key(arena)).collect();
                for name in &names {
                    self.delete(name);
                }
            }
        }
    }

    /// Whether all memory has come back that keys had.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys().len(self.arena()) == 0 && self.arena().load(head::GRAVES) == 0
    }

    /// Makes the heap of an empty store whole again: what came while the store was full lies where
    /// room was, and keeps what is free around it from being one. Where the records are then.
    pub(crate) fn gather(&mut self) -> Vec<Record> {
        let (heap, arena) = (&self.heap, self.arena());
        let taken_out = TakenOut::of(heap);
        self.keys().free(heap);
        let fresh = Dict::new(heap, KEYSPACE).expect("nothing else is there");
        arena.point(head::KEYS, fresh.0);
        taken_out.put_back(heap).expect("there was room for it")
    }

    /// Frees what a key held: at once if it is small, bit by bit otherwise.
    fn bury(&self, kind: u64, value: At) {
        let arena = self.arena();
        if kind == Kind::String.code() {
            self.heap.free(value);
            return;
        }
        // Dicts and lists begin alike.
        let link = Dict(value).link();
        arena.store(link, arena.load(head::GRAVES));
        arena.point(head::GRAVES, value);
        if kind != KEYSPACE && Dict(value).len(arena) <= SMALL {
            self.dig(SMALL + 1);
        }
    }

    /// Takes up to `steps` parts off the dead; whether there was anything.
    pub(crate) fn dig(&self, steps: u64) -> bool {
        let arena = self.arena();
        let mut dug = false;
        for _ in 0..steps {
            let Some(dead) = arena.follow(head::GRAVES).place() else { break };
            dug = true;
            let kind = Dict(dead).kind(arena);
            if kind == Kind::List.code() {
                if !List(dead).drop_one(&self.heap, End::Left) {
                    arena.store(head::GRAVES, arena.load(Dict(dead).link()));
                    self.heap.free(dead);
                }
                continue;
            }
            match Dict(dead).pop(&self.heap) {
                Some((_, value)) if kind == Kind::Hash.code() => self.heap.free(value),
                Some((inner, value)) if kind == KEYSPACE => self.bury_below(dead, inner, value),
                Some(_) => (),
                None => {
                    arena.store(head::GRAVES, arena.load(Dict(dead).link()));
                    Dict(dead).free(&self.heap);
                }
            }
        }
        dug
    }

    /// What a dead key held goes second in the line: the dead keyspace stays first.
    fn bury_below(&self, keyspace: At, kind: u64, value: At) {
        let arena = self.arena();
        if kind == Kind::String.code() {
            self.heap.free(value);
            return;
        }
        let link = Dict(keyspace).link();
        arena.store(Dict(value).link(), arena.load(link));
        arena.point(link, value);
    }

    /// Looks through some of the keys and takes those away that have ended; whether it found so
    /// many that it is worth going on at once.
    pub(crate) fn reap(&self) -> bool {
        let arena = self.arena();
        if arena.load(head::MORTALS) == 0 {
            return false;
        }
        let (mut cursor, mut seen) = (Cursor(arena.load(head::REAPER)), 0);
        let mut ended = Vec::new();
        for _ in 0..REAP_BUCKETS {
            let (entries, next) = self.keys().scan(arena, cursor);
            seen += entries.len();
            let over = entries.into_iter().filter(|entry| self.has_ended(*entry));
            ended.extend(over.map(|entry| entry.key(arena)));
            cursor = next;
            if cursor == Cursor::default() {
                break;
            }
        }
        arena.store(head::REAPER, cursor.0);
        ended.iter().for_each(|key| self.expire(key));
        ended.len() * 4 > seen
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::arena::tests::arena;
    use super::*;
    use whimbrel_memory::page::ByteCount;

    pub(crate) fn store(size: ByteCount) -> Store {
        Store::lay_out(arena(size), 7, 1_000_000).expect("room")
    }

    #[test]
    fn a_key_ends_when_it_is_looked_at_and_when_it_is_not() {
        let mut store = store(ByteCount::mib(1));
        for n in 0..100_u64 {
            let entry = store.set(format!("k{n}").as_bytes(), b"v", false).expect("room");
            store.set_end(entry, if n < 50 { store.now_ms + 10 } else { 0 });
        }
        store.now_ms += 9;
        assert!(store.look_up(b"k0").is_some());
        store.now_ms += 1;
        assert!(store.look_up(b"k0").is_none());
        assert_eq!(store.keys().len(store.arena()), 99);
        for _ in 0..100 {
            store.reap();
        }
        assert_eq!(store.keys().len(store.arena()), 50);
        assert_eq!(store.arena().load(head::EXPIRED), 50);
        assert_eq!(store.arena().load(head::MORTALS), 0);
    }

    #[test]
    fn the_dead_are_taken_apart_bit_by_bit_and_wholly() {
        let store = store(ByteCount::mib(4));
        let empty = store.heap.used();
        for (kind, name) in [(Kind::List, b"l"), (Kind::Hash, b"h"), (Kind::Set, b"s")] {
            let value = store.add_collection(name, kind).expect("room");
            for n in 0..500_u64 {
                let bytes = n.to_string().into_bytes();
                if kind == Kind::List {
                    List(value).push(&store.heap, End::Left, &bytes).unwrap();
                    continue;
                }
                let hash = store.hash(&bytes);
                let entry = Dict(value).add(&store.heap, hash, &bytes).expect("room");
                if kind == Kind::Hash {
                    let held = buffer::new_string(&store.heap, &bytes).expect("room");
                    entry.set_value(store.arena(), held);
                }
            }
        }
        store.set(b"string", b"value", false).expect("room");
        assert!(store.delete(b"l"));
        assert!(store.heap.used() > empty, "a long list is not freed at once");
        store.flush();
        assert_eq!(store.keys().len(store.arena()), 0);
        assert!(store.dig(10));
        while store.dig(100) {}
        assert_eq!(store.heap.used(), empty);
    }

    #[test]
    fn memory_that_is_no_store_is_refused() {
        let store = store(ByteCount::mib(1));
        let arena = store.arena().clone();
        assert!(Store::open(arena.clone(), 0).is_ok());
        arena.store(At(8), 99);
        assert_eq!(Store::open(arena.clone(), 0).err(), Some(NoStore::Version(99)));
        arena.store(At(0), 1);
        assert_eq!(Store::open(arena, 0).err(), Some(NoStore::Magic));
    }
}
