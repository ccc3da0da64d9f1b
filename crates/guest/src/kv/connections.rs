//! Connections as they lie in guest memory, one record each.
//!
//! ```text
//!   connection: next │ host │ run │ number │ client's id │ flags │ taken │ delivered │ name
//!               │ inbox: a buffer │ outbox: a chain
//!   relay:      next │ host │ run │ highest number
//! ```

use super::arena::{Arena, At};
use super::buffer::{self, Buffer};
use super::chain::Chain;
use super::commands::{Client, Hears};
use super::head;
use super::heap::{Full, Heap};
use super::port::{ConnectionId, RelayId};
use super::store::Store;

const RECORD_WORDS: u64 = 9 + Buffer::WORDS + Chain::WORDS;
const RELAY_WORDS: u64 = 4;
/// Clients at a time, over all relays.
pub(crate) const CLIENTS_MAX: u64 = 10_000;
const THIRD: u64 = 1;
const LEAVING: u64 = 2;
const HEARS_NOTHING: u64 = 4;
const HEARS_AFTER_THIS: u64 = 8;

/// A connection's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record(At);

impl Record {
    const FLAGS: u64 = 5;
    const TAKEN: u64 = 6;
    const DELIVERED: u64 = 7;
    const NAME: u64 = 8;

    /// A new connection, first in the list.
    pub(crate) fn add(heap: &Heap, relay: RelayId, id: ConnectionId) -> Result<Self, Full> {
        let arena = heap.arena();
        let at = heap.allocate(RECORD_WORDS * 8)?;
        let (next, client) = (arena.load(head::CONNECTIONS), arena.load(head::CLIENT_ID) + 1);
        let mut words = [0; RECORD_WORDS as usize];
        words[..5].copy_from_slice(&[next, relay.host, relay.run, id.0, client]);
        arena.store_words(at, words);
        // A small reply always finds room.
        if let Err(full) = Self(at).outbox().open(heap) {
            heap.free(at);
            return Err(full);
        }
        arena.store(head::CLIENT_ID, client);
        arena.point(head::CONNECTIONS, at);
        arena.add(head::CONNECTION_COUNT, 1);
        arena.add(head::ACCEPTED, 1);
        Ok(Self(at))
    }

    /// Every connection there is.
    pub(crate) fn all(arena: &Arena) -> impl Iterator<Item = Self> + '_ {
        list(arena, head::CONNECTIONS).take(CLIENTS_MAX as usize).map(Self)
    }

    /// What it takes of the heap.
    pub(crate) fn blocks(self, heap: &Heap) -> u64 {
        let arena = heap.arena();
        let name = arena.follow(self.0.word(Self::NAME)).place();
        let blocks = arena.follow(self.inbox().0).place().into_iter().chain(name);
        let held = self.outbox().taken(heap);
        heap.taken(self.0) + held + blocks.map(|block| heap.taken(block)).sum::<u64>()
    }

    /// What is known of relays takes so much of the heap.
    pub(crate) fn relays(heap: &Heap) -> u64 {
        list(heap.arena(), head::RELAYS).map(|relay| heap.taken(relay)).sum()
    }

    /// Ends it.
    pub(crate) fn remove(self, heap: &Heap) {
        let arena = heap.arena();
        let mut pointer = head::CONNECTIONS;
        while arena.follow(pointer) != self.0 {
            pointer = arena.follow(pointer).place().expect("a record is in the list");
        }
        arena.point(pointer, arena.follow(self.0));
        self.free(heap);
        arena.sub(head::CONNECTION_COUNT, 1);
    }

    fn free(self, heap: &Heap) {
        self.inbox().free(heap);
        self.outbox().free(heap);
        if let Some(name) = heap.arena().follow(self.0.word(Self::NAME)).place() {
            heap.free(name);
        }
        heap.free(self.0);
    }

    pub(crate) fn relay(self, arena: &Arena) -> RelayId {
        let [host, run] = arena.load_words(self.0.word(1));
        RelayId { host, run }
    }

    pub(crate) fn id(self, arena: &Arena) -> ConnectionId {
        ConnectionId(arena.load(self.0.word(3)))
    }

    pub(crate) const fn inbox(self) -> Buffer {
        Buffer(self.0.word(9))
    }

    pub(crate) const fn outbox(self) -> Chain {
        Chain(self.0.word(9 + Buffer::WORDS))
    }

    /// How many of the client's bytes were ever taken.
    pub(crate) fn taken(self, arena: &Arena) -> u64 {
        arena.load(self.0.word(Self::TAKEN))
    }

    pub(crate) fn set_taken(self, arena: &Arena, taken: u64) {
        arena.store(self.0.word(Self::TAKEN), taken);
    }

    /// How many bytes of replies are with the client; the outbox begins there.
    pub(crate) fn delivered(self, arena: &Arena) -> u64 {
        arena.load(self.0.word(Self::DELIVERED))
    }

    /// The client has what was said up to `position`.
    pub(crate) fn deliver(self, heap: &Heap, position: u64) {
        let arena = heap.arena();
        let (before, held) = (self.delivered(arena), self.outbox().len(arena));
        let count = position.saturating_sub(before).min(held);
        if count > 0 {
            self.outbox().consume(heap, count);
            arena.store(self.0.word(Self::DELIVERED), before + count);
        }
    }

    pub(crate) fn client_id(self, arena: &Arena) -> u64 {
        arena.load(self.0.word(4))
    }

    pub(crate) fn client(self, arena: &Arena) -> Client {
        let [id, flags] = arena.load_words(self.0.word(4));
        let name = arena.follow(self.0.word(Self::NAME)).place();
        Client {
            id,
            name: name.map_or_else(Vec::new, |at| buffer::string(arena, at)),
            third: flags & THIRD != 0,
            leaving: flags & LEAVING != 0,
            hears: match flags & (HEARS_NOTHING | HEARS_AFTER_THIS) {
                0 => Hears::Everything,
                HEARS_AFTER_THIS => Hears::AfterThis,
                _ => Hears::Nothing,
            },
        }
    }

    /// Keeps what may change of a client.
    pub(crate) fn keep(self, heap: &Heap, client: &Client) -> Result<(), Full> {
        let arena = heap.arena();
        let flag = |set: bool, flag: u64| if set { flag } else { 0 };
        let hears = match client.hears {
            Hears::Everything => 0,
            Hears::AfterNext | Hears::AfterThis => HEARS_AFTER_THIS,
            Hears::Nothing => HEARS_NOTHING,
        };
        let flags = flag(client.third, THIRD) | flag(client.leaving, LEAVING) | hears;
        arena.store(self.0.word(Self::FLAGS), flags);
        let word = self.0.word(Self::NAME);
        let old = arena.follow(word).place();
        let kept = old.map_or_else(Vec::new, |at| buffer::string(arena, at));
        if kept != client.name {
            arena.point(word, buffer::new_string(heap, &client.name)?);
            if let Some(old) = old {
                heap.free(old);
            }
        }
        Ok(())
    }
}

/// What takes memory for clients and relays while the store is empty, out of the heap.
pub(crate) struct TakenOut {
    relays: Vec<[u64; RELAY_WORDS as usize]>,
    records: Vec<Connection>,
}

struct Connection {
    words: [u64; RECORD_WORDS as usize],
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    name: Vec<u8>,
}

impl TakenOut {
    /// Takes it out.
    pub(crate) fn of(heap: &Heap) -> Self {
        let arena = heap.arena();
        let relays: Vec<_> = list(arena, head::RELAYS).collect();
        let records: Vec<_> = Record::all(arena).collect();
        let taken_out = Self {
            relays: relays.iter().map(|at| arena.load_words(*at)).collect(),
            records: records.iter().map(|record| Connection::of(heap, *record)).collect(),
        };
        relays.into_iter().for_each(|at| heap.free(at));
        records.into_iter().for_each(|record| record.free(heap));
        taken_out
    }

    /// Puts it into a heap that is empty; where the records are then, the last one first.
    pub(crate) fn put_back(self, heap: &Heap) -> Result<Vec<Record>, Full> {
        let arena = heap.arena();
        arena.point(head::RELAYS, At::NOWHERE);
        for mut words in self.relays.into_iter().rev() {
            let at = heap.allocate(RELAY_WORDS * 8)?;
            words[0] = arena.load(head::RELAYS);
            arena.store_words(at, words);
            arena.point(head::RELAYS, at);
        }
        arena.point(head::CONNECTIONS, At::NOWHERE);
        self.records.into_iter().rev().map(|one| one.put_back(heap)).collect()
    }
}

impl Connection {
    fn of(heap: &Heap, record: Record) -> Self {
        let arena = heap.arena();
        Self {
            words: arena.load_words(record.0),
            inbox: record.inbox().bytes(arena),
            outbox: record.outbox().bytes(heap),
            name: record.client(arena).name,
        }
    }

    fn put_back(mut self, heap: &Heap) -> Result<Record, Full> {
        let (arena, record) = (heap.arena(), Record(heap.allocate(RECORD_WORDS * 8)?));
        self.words[0] = arena.load(head::CONNECTIONS);
        self.words[Record::NAME as usize..].fill(0);
        arena.store_words(record.0, self.words);
        arena.point(head::CONNECTIONS, record.0);
        record.outbox().open(heap)?;
        record.outbox().append(heap, &self.outbox)?;
        record.inbox().append(heap, &self.inbox)?;
        if !self.name.is_empty() {
            arena.point(record.0.word(Record::NAME), buffer::new_string(heap, &self.name)?);
        }
        Ok(record)
    }
}

/// Memory that came from elsewhere may have it lead around: it ends with what memory has room for.
fn list(arena: &Arena, first: At) -> impl Iterator<Item = At> + '_ {
    let mut pointer = first;
    let room = arena.size() / (RELAY_WORDS * 8);
    let next = std::iter::from_fn(move || {
        pointer = arena.follow(pointer).place()?;
        Some(pointer)
    });
    next.take(room as usize)
}

/// The highest number that a connection of a run has had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelayRecord(At);

impl RelayRecord {
    /// The record of this relay's host; it begins afresh if the run is another one.
    pub(crate) fn of(heap: &Heap, relay: RelayId) -> Result<Self, Full> {
        let arena = heap.arena();
        let known = list(arena, head::RELAYS).find(|at| arena.load(at.word(1)) == relay.host);
        let at = match known {
            Some(at) if arena.load(at.word(2)) == relay.run => return Ok(Self(at)),
            Some(at) => at,
            None => heap.allocate(RELAY_WORDS * 8)?,
        };
        let next = if known.is_some() { arena.load(at) } else { arena.load(head::RELAYS) };
        arena.store_words(at, [next, relay.host, relay.run, 0]);
        if known.is_none() {
            arena.point(head::RELAYS, at);
        }
        Ok(Self(at))
    }

    pub(crate) fn highest(self, arena: &Arena) -> ConnectionId {
        ConnectionId(arena.load(self.0.word(3)))
    }

    pub(crate) fn set_highest(self, arena: &Arena, id: ConnectionId) {
        arena.store(self.0.word(3), id.0);
    }
}

/// One client as `CLIENT INFO` shows it.
pub(crate) fn describe(client: &Client) -> String {
    let name = String::from_utf8_lossy(&client.name);
    let version = if client.third { 3 } else { 2 };
    // What there is none of here is told as Redis tells it where nobody makes use of it.
    format!(
        "id={} name={name} flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 user=default redir=-1 \
         resp={version}\n",
        client.id
    )
}

/// Every client, in the order of their ids; the one that asks as it is now.
pub(crate) fn clients<'a>(store: &'a Store, asking: &'a Client) -> impl Iterator<Item = Client> {
    let arena = store.arena();
    let mut records: Vec<_> = Record::all(arena).collect();
    records.retain(|record| !store.ended.contains(&record.client_id(arena)));
    records.sort_by_key(|record| record.client_id(arena));
    records.into_iter().map(|record| {
        if record.client_id(arena) == asking.id { asking.clone() } else { record.client(arena) }
    })
}
