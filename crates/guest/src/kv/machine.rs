//! The guest's one processor: it takes what relays say, carries commands out, and says what came
//! of them.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::arena::Arena;
use super::connections::{CLIENTS_MAX, Record, RelayRecord};
use super::head::{self, NoStore};
use super::heap::Full;
use super::port::{
    Attach, ConnectionId, FromGuest, Outlet, Overrun, Position, RelayId, Said, ToGuest,
};
use super::reply::Refusal;
use super::session::{Rest, Session};
use super::store::Store;
use super::turns::Turns;

/// Parts of what is dead that are taken off in one turn.
const DIG_STEPS: u64 = 256;
/// Looks for ended keys in one turn, at most.
const REAPS_MAX: usize = 16;
/// Clients that are moved together in one turn, at most, and bytes that they have; with more of
/// them nothing is moved yet.
const GATHERED_MAX: usize = 1000;
const GATHERED_BYTES_MAX: u64 = 64 << 20;
/// Bytes of replies after which the next ones go into another message to a relay.
const SAID_MAX: usize = 512 << 10;
/// Replies that one relay has room for, beside a little for each of its clients.
const ON_WAY_MAX: u64 = 64 << 20;
/// The share of all memory that is a good part of it.
const GIVEN_BACK: u64 = 64;
/// How long a host's connections are kept with no relay of it: its clients wait for the guest as
/// long as their host looks for it, and a host that is gone for good sends nobody to say so.
const ABSENT_MAX: Duration = Duration::from_secs(600);
/// How far apart looks for relays are.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How far apart looks at the clock are while nothing else happens, in microseconds.
pub(crate) const BEAT_US: u64 = 2000;

/// What comes through the doorway.
pub(crate) enum Event {
    Attach(Attach, Box<dyn Outlet>),
    FromRelay(RelayId, ToGuest),
    /// A move begins: the gaps that a user feels are counted from here on.
    BeginMove,
}

/// A connection, whichever relay it comes through.
type Key = (u64, ConnectionId);

struct Attachment {
    run: u64,
    outlet: Box<dyn Outlet>,
    /// Connections about which the relay is to hear.
    news: Turns<ConnectionId>,
    /// Replies on their way to its clients.
    on_way: u64,
    /// What it is to hear about connections that are not there.
    notes: Vec<FromGuest>,
}

impl Attachment {
    fn new(run: u64, outlet: Box<dyn Outlet>) -> Self {
        Self { run, outlet, news: Turns::default(), on_way: 0, notes: Vec::new() }
    }
}

/// The store and the connections to it.
pub(crate) struct Machine {
    store: Store,
    sessions: BTreeMap<Key, Session>,
    attached: BTreeMap<u64, Attachment>,
    /// Connections with commands that are all there.
    ready: BTreeSet<Key>,
    /// The last one of them that went on: those after it have their turn first.
    ran: Key,
    /// Those who wait for memory, and how much of it was in use.
    stalled: BTreeSet<Key>,
    stalled_at: u64,
    /// Since when there was no relay of a host that has connections, and when this was looked at.
    absent: BTreeMap<u64, Instant>,
    looked: Instant,
    /// There was nothing in the store at the end of the last turn.
    was_empty: bool,
}

impl Machine {
    /// What memory holds, with no relay attached.
    pub(crate) fn open(arena: Arena) -> Result<Self, NoStore> {
        let store = Store::open(arena, now_ms())?;
        let arena = store.arena();
        let records = Record::all(arena);
        let keyed = records.map(|record| ((record.relay(arena).host, record.id(arena)), record));
        let sessions: BTreeMap<_, _> =
            keyed.map(|(key, record)| (key, Session::open(arena, record))).collect();
        let ready = sessions.keys().copied().collect();
        Ok(Self {
            store,
            sessions,
            attached: BTreeMap::new(),
            ready,
            ran: (0, ConnectionId(0)),
            stalled: BTreeSet::new(),
            stalled_at: 0,
            absent: BTreeMap::new(),
            looked: Instant::now(),
            was_empty: true,
        })
    }

    /// Whether there is work that waits for nobody.
    pub(crate) fn is_busy(&self) -> bool {
        let mut attached = self.attached.values();
        attached.any(|relay| !relay.news.is_empty() && relay.outlet.has_room())
            || !self.ready.is_empty()
            || self.store.arena().load(head::GRAVES) != 0
    }

    /// One event.
    pub(crate) fn handle(&mut self, event: Event, open: &dyn Fn() -> bool) {
        match event {
            Event::Attach(attach, outlet) => self.attach(&attach, outlet),
            Event::FromRelay(relay, said) => {
                // The word of a relay that has been replaced since.
                if self.attached.get(&relay.host).is_some_and(|known| known.run == relay.run) {
                    self.hear(relay, said, open);
                }
            }
            Event::BeginMove => {
                let arena = self.store.arena();
                arena.store(head::LONGEST_GAP_US, 0);
                arena.store(head::LOST_US, 0);
            }
        }
    }

    fn attach(&mut self, attach: &Attach, mut outlet: Box<dyn Outlet>) {
        let Attach { relay, last, held } = attach;
        let (relay, last) = (*relay, *last);
        // It has asked elsewhere as well, and was answered there.
        if !outlet.give(Vec::new()) {
            return;
        }
        self.attached.insert(relay.host, Attachment::new(relay.run, outlet));
        // Connections of an older run, and those the relay has forgotten, have no client any more.
        let delivered: BTreeMap<_, _> = held.iter().copied().collect();
        for key in self.connections_of(relay.host) {
            let session = &self.sessions[&key];
            let same = session.record.relay(self.store.arena()).run == relay.run;
            if !same || key.1 <= last && !delivered.contains_key(&key.1) {
                self.end(key);
            }
        }
        for (connection, position) in held {
            let key = (relay.host, *connection);
            let session = self.sessions.get(&key);
            if *position > session.map_or(Position(0), |it| it.said_in_all(self.store.arena())) {
                // The client has replies of another guest, which went on from an older memory of
                // this one: it is not led to believe that they are one.
                self.end(key);
                self.note(relay.host, FromGuest::Gone(*connection));
            } else if let Some(session) = self.sessions.get_mut(&key) {
                session.deliver(&self.store, *position);
                session.say_again(self.store.arena());
                self.ready.insert(key);
                self.tell(key);
            } else {
                self.open_connection(relay, *connection);
            }
        }
    }

    fn hear(&mut self, relay: RelayId, said: ToGuest, open: &dyn Fn() -> bool) {
        let id = match &said {
            ToGuest::Open(id) | ToGuest::Bytes(id, ..) => *id,
            ToGuest::Delivered(id, _) | ToGuest::Ended(id, _) | ToGuest::Closed(id) => *id,
        };
        let key = (relay.host, id);
        if matches!(said, ToGuest::Open(_)) && !self.sessions.contains_key(&key) {
            self.open_connection(relay, id);
            return;
        }
        let Some(session) = self.sessions.get_mut(&key) else {
            self.note(relay.host, FromGuest::Gone(id));
            return;
        };
        match said {
            ToGuest::Open(_) => (),
            ToGuest::Bytes(_, from, bytes) => {
                match session.take(self.store.arena(), from, &bytes) {
                    Ok(()) => self.run(key, open),
                    Err(why) => self.cut(relay.host, why),
                }
            }
            ToGuest::Delivered(_, position) => {
                let before = session.on_way(self.store.arena());
                session.deliver(&self.store, position);
                let arrived = before - session.on_way(self.store.arena());
                self.has_arrived(relay.host, arrived);
                self.ready.insert(key);
                self.tell(key);
            }
            ToGuest::Ended(_, total) => {
                session.end_at(total);
                self.run(key, open);
            }
            ToGuest::Closed(_) => {
                self.end(key);
                self.note(relay.host, FromGuest::Gone(id));
            }
        }
    }

    /// A connection that has not been here yet; one that was is over.
    fn open_connection(&mut self, relay: RelayId, id: ConnectionId) {
        let heap = &self.store.heap;
        let arena = heap.arena();
        let counted = RelayRecord::of(heap, relay);
        if let Ok(counted) = counted
            && counted.highest(arena) >= id
        {
            self.note(relay.host, FromGuest::Gone(id));
            return;
        }
        if let Ok(counted) = counted {
            counted.set_highest(arena, id);
        }
        if arena.load(head::CONNECTION_COUNT) >= CLIENTS_MAX {
            self.note(relay.host, turned_away(id, "ERR max number of clients reached"));
            return;
        }
        match counted.and_then(|_| Record::add(heap, relay, id)) {
            Ok(record) => {
                let key = (relay.host, id);
                self.sessions.insert(key, Session::open(arena, record));
                self.tell(key);
            }
            Err(Full) => self.note(relay.host, turned_away(id, Refusal::Full.words())),
        }
    }

    /// Carries out what a connection has of commands.
    fn run(&mut self, key: Key, open: &dyn Fn() -> bool) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        self.store.now_ms = now_ms();
        match session.run(&mut self.store, open) {
            Rest::Commands => self.ready.insert(key),
            Rest::Nothing => self.ready.remove(&key),
        };
        if session.waits_for_memory() {
            self.stalled.insert(key);
            self.stalled_at = self.stalled_at.max(self.store.heap.used());
        } else {
            self.stalled.remove(&key);
        }
        self.tell(key);
        if !self.store.ended.is_empty() {
            self.end_clients();
        }
    }

    /// A relay is heard no more until it attaches anew.
    fn cut(&mut self, host: u64, why: Overrun) {
        if let Some(mut attachment) = self.attached.remove(&host) {
            attachment.outlet.cut(why);
        }
    }

    /// The newest first, as in memory: to end them all takes no search.
    fn connections_of(&self, host: u64) -> Vec<Key> {
        let all = (host, ConnectionId(0))..=(host, ConnectionId(u64::MAX));
        self.sessions.range(all).rev().map(|(key, _)| *key).collect()
    }

    /// Its client has gone.
    fn end(&mut self, key: Key) {
        if let Some(session) = self.sessions.remove(&key) {
            self.has_arrived(key.0, session.on_way(self.store.arena()));
            session.record.remove(&self.store.heap);
        }
        self.ready.remove(&key);
        self.stalled.remove(&key);
        if let Some(attachment) = self.attached.get_mut(&key.0) {
            attachment.news.remove(&key.1);
        }
    }

    /// Another client says so.
    fn end_clients(&mut self) {
        let ended = std::mem::take(&mut self.store.ended);
        let ids = self.sessions.iter().map(|(key, session)| (session.client_id(), *key));
        let mut found: Vec<_> = ids.filter(|(id, _)| ended.contains(id)).collect();
        // The newest are first in memory, where each is looked for from the first on.
        found.sort_unstable();
        for (_, key) in found.into_iter().rev() {
            self.end(key);
            self.note(key.0, FromGuest::Gone(key.1));
        }
    }

    /// So many bytes are not on their way any more to clients of a host.
    fn has_arrived(&mut self, host: u64, count: u64) {
        if let Some(attachment) = self.attached.get_mut(&host) {
            attachment.on_way = attachment.on_way.saturating_sub(count);
        }
    }

    fn tell(&mut self, key: Key) {
        if let Some(attachment) = self.attached.get_mut(&key.0) {
            attachment.news.insert(key.1);
        }
    }

    fn note(&mut self, host: u64, said: FromGuest) {
        if let Some(attachment) = self.attached.get_mut(&host) {
            attachment.notes.push(said);
        }
    }

    /// Goes on with what was left lying.
    pub(crate) fn go_on(&mut self, open: &dyn Fn() -> bool) {
        let mut before = std::mem::take(&mut self.ready);
        let mut after = before.split_off(&self.ran);
        let ran = after.take(&self.ran);
        for key in after.into_iter().chain(before).chain(ran) {
            if open() {
                self.ran = key;
                self.run(key, open);
            } else {
                self.ready.insert(key);
            }
        }
    }

    /// Those who wait for room go on when others have given a good part of it back; what they have
    /// given back themselves they go on with at once.
    fn wake_stalled(&mut self) {
        let heap = &self.store.heap;
        if heap.used() + heap.capacity() / GIVEN_BACK <= self.stalled_at {
            self.stalled_at = heap.used();
            self.ready.append(&mut self.stalled);
        }
    }

    /// The end of a turn: what is left is gone on with, and relays hear the news.
    pub(crate) fn turn(&mut self, open: &dyn Fn() -> bool) {
        self.wake_stalled();
        self.go_on(open);
        self.store.now_ms = now_ms();
        self.store.dig(DIG_STEPS);
        self.end_absent(Instant::now());
        self.gather();
        for _ in 0..REAPS_MAX {
            if !open() || !self.store.reap() {
                break;
            }
        }
        self.beat();
        self.speak();
    }

    /// Ends the connections of hosts that were absent for too long.
    fn end_absent(&mut self, now: Instant) {
        if now.saturating_duration_since(self.looked) < LOOK_EVERY {
            return;
        }
        self.looked = now;
        self.attached.retain(|_, attachment| attachment.outlet.is_there());
        let absent = |key: &&Key| !self.attached.contains_key(&key.0);
        let hosts: BTreeSet<_> = self.sessions.keys().filter(absent).map(|key| key.0).collect();
        self.absent.retain(|host, _| hosts.contains(host));
        for host in hosts {
            let since = *self.absent.entry(host).or_insert(now);
            if now.saturating_duration_since(since) >= ABSENT_MAX {
                self.connections_of(host).into_iter().for_each(|key| self.end(key));
            }
        }
    }

    /// A store that has come to be empty is to have room for what is large, as it had at first.
    fn gather(&mut self) {
        let empty = self.store.is_empty();
        let was_empty = std::mem::replace(&mut self.was_empty, empty);
        let in_pieces = empty && !was_empty && self.store.heap.is_in_pieces();
        if !in_pieces {
            return;
        }
        if self.sessions.len() > GATHERED_MAX || self.store.heap.used() > GATHERED_BYTES_MAX {
            self.was_empty = false;
            return;
        }
        for record in self.store.gather() {
            let arena = self.store.arena();
            let key = (record.relay(arena).host, record.id(arena));
            self.sessions.get_mut(&key).expect("each has a session").record = record;
        }
    }

    /// The guest looks at the clock. It is the host's, so a gap spans a move as a user feels it.
    fn beat(&self) {
        let (arena, now) = (self.store.arena(), now_us());
        let last = arena.load(head::LAST_BEAT_US);
        arena.store(head::LAST_BEAT_US, now);
        arena.add(head::BEATS, 1);
        if last == 0 || now <= last {
            return;
        }
        let gap = now - last;
        if gap > arena.load(head::LONGEST_GAP_US) {
            arena.store(head::LONGEST_GAP_US, gap);
        }
        arena.add(head::LOST_US, gap.saturating_sub(BEAT_US));
    }

    fn speak(&mut self) {
        let (heap, sessions) = (&self.store.heap, &mut self.sessions);
        self.attached.retain(|host, attachment| {
            if attachment.news.is_empty() && attachment.notes.is_empty() {
                return true;
            }
            if !attachment.outlet.has_room() {
                // It is told when it has confirmed something, or in the next turn.
                return true;
            }
            let mut said = std::mem::take(&mut attachment.notes);
            let (mut size, mut unfinished) = (0, Vec::new());
            while size < SAID_MAX
                && let Some(id) = attachment.news.take()
            {
                let Some(session) = sessions.get_mut(&(*host, id)) else { continue };
                let room = ON_WAY_MAX.saturating_sub(attachment.on_way);
                let (news, more) = session.said(heap, id, room);
                let len = if let FromGuest::Said(said) = &news { said.bytes.len() } else { 0 };
                size += len;
                attachment.on_way += len as u64;
                said.push(news);
                if more {
                    unfinished.push(id);
                }
            }
            attachment.news.extend(unfinished);
            attachment.outlet.give(said)
        });
    }
}

fn turned_away(connection: ConnectionId, why: &str) -> FromGuest {
    FromGuest::Said(Said {
        connection,
        taken: Position(0),
        credit: Position(0),
        from: Position(0),
        bytes: format!("-{why}\r\n").into_bytes().into(),
        last: true,
    })
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn now_ms() -> u64 {
    now_us() / 1000
}
