//! A walk through everything the store has in memory: whether all of it hangs together.

use super::arena::{Arena, At};
use super::buffer::STRING_HEAD;
use super::connections::Record;
use super::dict::Dict;
use super::head;
use super::heap::Heap;
use super::list::List;
use super::store::{Kind, Store};

/// What a look at a store found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvCheck {
    /// Keys that were looked at.
    pub keys: u64,
    /// Bytes of blocks that are reached from the head.
    pub bytes: u64,
    /// What is wrong; nothing if the store is sound.
    pub damage: Option<String>,
}

impl KvCheck {
    pub(crate) fn damaged(what: &str) -> Self {
        Self { keys: 0, bytes: 0, damage: Some(what.to_owned()) }
    }
}

/// Memory that stands still.
pub(crate) fn check(arena: &Arena) -> KvCheck {
    let mut walk = Walk { heap: Heap::new(arena.clone()), bytes: 0, keys: 0 };
    let damage = walk.all(arena).err();
    KvCheck { keys: walk.keys, bytes: walk.bytes, damage }
}

struct Walk {
    heap: Heap,
    bytes: u64,
    keys: u64,
}

impl Walk {
    fn all(&mut self, arena: &Arena) -> Result<(), String> {
        let store = Store::open(arena.clone(), 0).map_err(|error| error.to_string())?;
        let mortals = self.keyspace(&store)?;
        self.graves(&store)?;
        let mut connections = 0;
        for record in Record::all(arena) {
            self.bytes += record.blocks(&self.heap);
            connections += 1;
        }
        self.bytes += Record::relays(&self.heap);
        agree("connections", connections, arena.load(head::CONNECTION_COUNT))?;
        agree("keys that end", mortals, arena.load(head::MORTALS))?;
        // Every block in use is reached, and none twice.
        agree("bytes in use", self.bytes, arena.load(head::USED))
    }

    fn keyspace(&mut self, store: &Store) -> Result<u64, String> {
        let (arena, keys) = (store.arena(), store.keys());
        let mut mortals = 0;
        self.bytes += keys.blocks(&self.heap);
        let before = self.keys;
        for entry in keys.entries(arena) {
            self.keys += 1;
            let key = entry.key(arena);
            let found = keys.get(arena, store.hash(&key), &key);
            if found != Some(entry) {
                return Err(format!("the key `{}` is not where it belongs", key.escape_ascii()));
            }
            mortals += u64::from(entry.end_ms(arena) != 0);
            self.bytes += self.heap.taken(entry.0);
            self.value(store, Kind::of(entry.kind(arena)), entry.value(arena))
                .map_err(|what| format!("the key `{}`: {what}", key.escape_ascii()))?;
        }
        agree("keys", self.keys - before, keys.len(arena))?;
        Ok(mortals)
    }

    fn value(&mut self, store: &Store, kind: Kind, at: At) -> Result<(), String> {
        match kind {
            Kind::String => self.string(store.arena(), at),
            Kind::List => self.list(store.arena(), List(at)),
            Kind::Hash | Kind::Set => self.members(store, kind, Dict(at)),
        }
    }

    fn string(&mut self, arena: &Arena, at: At) -> Result<(), String> {
        let (len, room) = (arena.load(at), self.heap.room(at));
        self.bytes += self.heap.taken(at);
        let fits = len.checked_add(STRING_HEAD).is_some_and(|len| len <= room);
        if fits { Ok(()) } else { Err(format!("{len} bytes in a block of {room}")) }
    }

    fn list(&mut self, arena: &Arena, list: List) -> Result<(), String> {
        self.bytes += self.heap.taken(list.0);
        let mut count = 0;
        for element in list.elements(arena)? {
            self.bytes += self.heap.taken(element);
            count += 1;
        }
        agree("elements", count, list.len(arena))
    }

    fn members(&mut self, store: &Store, kind: Kind, dict: Dict) -> Result<(), String> {
        let arena = store.arena();
        self.bytes += dict.blocks(&self.heap);
        let mut count = 0;
        for entry in dict.entries(arena) {
            count += 1;
            self.bytes += self.heap.taken(entry.0);
            let name = entry.key(arena);
            if dict.get(arena, store.hash(&name), &name) != Some(entry) {
                return Err(format!("`{}` is not where it belongs", name.escape_ascii()));
            }
            if kind == Kind::Hash {
                self.string(arena, entry.value(arena))?;
            }
        }
        agree("members", count, dict.len(arena))
    }

    /// What is dead takes memory until it is taken apart; that it can be is checked by the count.
    fn graves(&mut self, store: &Store) -> Result<(), String> {
        let arena = store.arena();
        let mut next = arena.follow(head::GRAVES);
        while let Some(dead) = next.place() {
            next = arena.follow(Dict(dead).link());
            match Kind::of_grave(Dict(dead).kind(arena)) {
                Some(Kind::List) => self.list(arena, List(dead))?,
                Some(kind) => self.dead(store, Some(kind), Dict(dead))?,
                None => self.dead(store, None, Dict(dead))?,
            }
        }
        Ok(())
    }

    /// A dict that may have lost its last buckets; of a dead keyspace the values hang on it.
    fn dead(&mut self, store: &Store, kind: Option<Kind>, dict: Dict) -> Result<(), String> {
        let arena = store.arena();
        self.bytes += dict.blocks(&self.heap);
        for entry in dict.remains(arena) {
            self.bytes += self.heap.taken(entry.0);
            match kind {
                Some(Kind::Hash) => self.string(arena, entry.value(arena))?,
                Some(_) => (),
                None => self.value(store, Kind::of(entry.kind(arena)), entry.value(arena))?,
            }
        }
        Ok(())
    }
}

fn agree(what: &str, found: u64, counted: u64) -> Result<(), String> {
    if found == counted { Ok(()) } else { Err(format!("{found} {what}, and {counted} counted")) }
}
