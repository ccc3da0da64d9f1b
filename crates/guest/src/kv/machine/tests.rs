//! Turns of several clients, and hosts that are gone.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use whimbrel_memory::page::ByteCount;

use super::super::check::check;
use super::super::port::KEPT_MIN;
use super::super::store::tests::store;
use super::*;

/// A relay that is there until it is told otherwise.
struct Relay(Arc<AtomicBool>);

impl Outlet for Relay {
    fn has_room(&self) -> bool {
        true
    }

    fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn give(&mut self, _: Vec<FromGuest>) -> bool {
        self.is_there()
    }

    fn cut(&mut self, _: Overrun) {}
}

/// A relay that notes whose replies it is given.
struct Notes(Arc<Mutex<Vec<u64>>>);

impl Outlet for Notes {
    fn has_room(&self) -> bool {
        true
    }

    fn is_there(&self) -> bool {
        true
    }

    fn give(&mut self, said: Vec<FromGuest>) -> bool {
        for said in said {
            let FromGuest::Said(Said { connection, bytes, .. }) = said else { continue };
            if !bytes.is_empty() {
                self.0.lock().expect("whole").push(connection.0);
            }
        }
        true
    }

    fn cut(&mut self, _: Overrun) {}
}

/// A machine with so many clients of one relay, who are told of by what is returned.
fn with_clients(count: u64, size: ByteCount) -> (Machine, RelayId, Arc<Mutex<Vec<u64>>>) {
    let store = store(size);
    store.set(b"a", &[b'v'; 100_000], false).expect("room");
    let mut machine = Machine::open(store.arena().clone()).expect("a store");
    let (relay, heard) = (RelayId { host: 1, run: 1 }, Arc::default());
    let attach = Attach { relay, last: ConnectionId(0), held: Vec::new() };
    let notes = Box::new(Notes(Arc::clone(&heard)));
    machine.handle(Event::Attach(attach, notes), &|| true);
    for id in 1..=count {
        machine.handle(Event::FromRelay(relay, ToGuest::Open(ConnectionId(id))), &|| true);
    }
    (machine, relay, heard)
}

fn asks_much(id: u64) -> ToGuest {
    ToGuest::Bytes(ConnectionId(id), Position(0), b"GET a\r\n".repeat(8).into())
}

#[test]
fn everybody_is_told_something_before_anybody_is_told_more() {
    let (mut machine, relay, heard) = with_clients(4, ByteCount::mib(16));
    (1..=4).for_each(|id| {
        machine.handle(Event::FromRelay(relay, asks_much(id)), &|| true);
    });
    (0..4).for_each(|_| machine.speak());
    let heard = heard.lock().expect("whole");
    assert_eq!(*heard, [1, 2, 3, 4, 1, 2, 3, 4]);
}

#[test]
fn everybody_goes_on_before_anybody_goes_on_again() {
    let (mut machine, relay, _) = with_clients(4, ByteCount::mib(16));
    for id in 1..=4 {
        machine.handle(Event::FromRelay(relay, asks_much(id)), &|| false);
    }
    for _ in 0..8 {
        // As long as a throttled guest works at once: one command of one client.
        let left = Cell::new(2_u32);
        machine.go_on(&|| left.replace(left.get().saturating_sub(1)) > 0);
    }
    let arena = machine.store.arena();
    let replies = |session: &Session| session.said_in_all(arena).0 / 100_000;
    let done: Vec<_> = machine.sessions.values().map(replies).collect();
    assert_eq!(done, [2; 4]);
}

/// They do not read, and there are more of them than the relay has room for.
#[test]
fn all_clients_hear_something_and_their_relay_never_keeps_more_than_it_has_room_for() {
    let count = 150;
    let (mut machine, relay, heard) = with_clients(count, ByteCount::mib(512));
    for id in 1..=count {
        machine.handle(Event::FromRelay(relay, asks_much(id)), &|| true);
    }
    while !machine.attached[&1].news.is_empty() {
        machine.speak();
    }
    let arena = machine.store.arena().clone();
    let on_way = |machine: &Machine| {
        machine.sessions.values().map(|session| session.on_way(&arena)).sum::<u64>()
    };
    let most = ON_WAY_MAX + count * (16 << 10);
    assert!(
        (ON_WAY_MAX - (1 << 20)..most).contains(&on_way(&machine)),
        "{} bytes",
        on_way(&machine)
    );
    heard.lock().expect("whole").sort_unstable();
    heard.lock().expect("whole").dedup();
    assert_eq!(heard.lock().expect("whole").len() as u64, count);
    // One that reads goes on; and what all have read is on its way no more.
    let last = ConnectionId(count);
    let delivered = |machine: &mut Machine, id| {
        let said = Position(machine.sessions[&(1, id)].on_way(&arena));
        let before = machine.sessions[&(1, id)].record.delivered(&arena);
        let delivered = ToGuest::Delivered(id, Position(before + said.0));
        machine.handle(Event::FromRelay(relay, delivered), &|| true);
    };
    for _ in 0..100 {
        delivered(&mut machine, last);
        machine.speak();
    }
    assert_eq!(machine.sessions[&(1, last)].on_way(&arena), 0, "it has heard everything");
    (1..=count).for_each(|id| delivered(&mut machine, ConnectionId(id)));
    assert_eq!((machine.attached[&1].on_way, on_way(&machine)), (0, 0));
}

#[test]
fn numbers_of_clients_are_whatever_a_relay_says() {
    let (mut machine, relay, _) = with_clients(1, ByteCount::mib(4));
    let last = ConnectionId(u64::MAX);
    machine.handle(Event::FromRelay(relay, ToGuest::Open(last)), &|| true);
    machine.speak();
    let said = ToGuest::Bytes(last, Position(0), b"PING\r\n"[..].into());
    machine.handle(Event::FromRelay(relay, said), &|| false);
    (0..2).for_each(|_| machine.turn(&|| true));
    let session = &machine.sessions[&(1, last)];
    assert_eq!(session.said_in_all(machine.store.arena()), Position(7));
}

#[test]
fn a_client_that_is_killed_is_there_no_more() {
    let (mut machine, relay, _) = with_clients(3, ByteCount::mib(4));
    let said =
        |id, words: &str| ToGuest::Bytes(ConnectionId(id), Position(0), words.to_owned().into());
    // It does not hear what it has been replied before either.
    machine.handle(Event::FromRelay(relay, said(2, "PING\r\n")), &|| true);
    let kills = said(1, "CLIENT KILL ID 2\r\nCLIENT KILL ID 1\r\nCLIENT LIST ID 1 2 3\r\n");
    machine.handle(Event::FromRelay(relay, kills), &|| true);
    let left: Vec<_> = machine.sessions.keys().map(|(_, id)| id.0).collect();
    assert_eq!(left, [1, 3]);
    assert_eq!(machine.attached[&1].notes, [FromGuest::Gone(ConnectionId(2))]);
    let heap = &machine.store.heap;
    let replies = machine.sessions[&(1, ConnectionId(1))].record.outbox().bytes(heap);
    let replies = String::from_utf8(replies).expect("text");
    let lines: Vec<_> = replies.lines().filter(|line| !line.starts_with('$')).collect();
    assert_eq!(lines[..2], [":1", ":0"], "it does not kill itself unless it says so");
    assert!(lines[2].starts_with("id=1 ") && lines[3].starts_with("id=3 "), "{replies}");
    let itself = "CLIENT KILL ID 3 SKIPME no\r\nPING\r\n";
    machine.handle(Event::FromRelay(relay, said(3, itself)), &|| true);
    let record = machine.sessions[&(1, ConnectionId(3))].record;
    assert_eq!(record.outbox().bytes(&machine.store.heap), b":1\r\n");
    assert!(record.client(machine.store.arena()).leaving);
}

#[test]
fn a_client_that_wants_no_replies_has_none_wherever_the_guest_goes_on() {
    let (mut machine, relay, _) = with_clients(2, ByteCount::mib(4));
    let said = |machine: &mut Machine, id, at, words: &str| {
        let bytes = ToGuest::Bytes(ConnectionId(id), Position(at), words.to_owned().into());
        machine.handle(Event::FromRelay(relay, bytes), &|| true);
        at + words.len() as u64
    };
    let off = said(&mut machine, 1, 0, "CLIENT REPLY OFF\r\n");
    let skip = said(&mut machine, 2, 0, "CLIENT REPLY SKIP\r\n");
    let mut machine = Machine::open(machine.store.arena().clone()).expect("a store");
    let held = vec![(ConnectionId(1), Position(0)), (ConnectionId(2), Position(0))];
    let attach = Attach { relay, last: ConnectionId(2), held };
    let here = Arc::new(AtomicBool::new(true));
    machine.handle(Event::Attach(attach, Box::new(Relay(here))), &|| true);
    let mut replies = |id, at, words: &str| {
        said(&mut machine, id, at, words);
        let mut records = Record::all(machine.store.arena());
        let arena = machine.store.arena();
        let record = records.find(|record| record.id(arena).0 == id).expect("it is there");
        String::from_utf8(record.outbox().bytes(&machine.store.heap)).expect("text")
    };
    assert_eq!(replies(1, off, "PING\r\nCLIENT REPLY ON\r\n"), "+OK\r\n");
    assert_eq!(replies(2, skip, "PING\r\nECHO a\r\n"), "$1\r\na\r\n");
}

#[test]
fn records_that_lead_around_end() {
    let (machine, ..) = with_clients(2, ByteCount::mib(4));
    let arena = machine.store.arena().clone();
    for list in [head::CONNECTIONS, head::RELAYS] {
        let first = arena.follow(list);
        let mut last = first;
        while let Some(next) = arena.follow(last).place() {
            last = next;
        }
        arena.point(last, first);
    }
    assert!(check(&arena).damage.is_some());
    let machine = Machine::open(arena).expect("a store");
    assert_eq!(machine.sessions.len(), 2);
}

#[test]
fn connections_of_a_host_that_is_gone_for_good_are_ended_and_no_others() {
    let mut machine = Machine::open(store(ByteCount::mib(4)).arena().clone()).expect("a store");
    let here = [Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(true))];
    for (host, there) in here.iter().enumerate() {
        let relay = RelayId { host: host as u64, run: 1 };
        let attach = Attach { relay, last: ConnectionId(0), held: Vec::new() };
        machine.handle(Event::Attach(attach, Box::new(Relay(Arc::clone(there)))), &|| true);
        for id in [1, 2] {
            let open = ToGuest::Open(ConnectionId(id));
            machine.handle(Event::FromRelay(relay, open), &|| true);
        }
    }
    here[1].store(false, Ordering::Relaxed);
    let began = machine.looked;
    // It is missed at the first look, and has its time from then on.
    for (waited, left) in [(LOOK_EVERY, 4), (ABSENT_MAX, 4), (LOOK_EVERY + ABSENT_MAX, 2)] {
        machine.end_absent(began + waited);
        assert_eq!(machine.sessions.len(), left, "after {waited:?}");
    }
    assert!(machine.sessions.keys().all(|(host, _)| *host == 0));
    assert_eq!(machine.store.arena().load(head::CONNECTION_COUNT), 2);
}

/// Half a command has no room, and its relay keeps no more of it than it must.
#[test]
fn a_client_whose_bytes_have_no_room_goes_on_when_they_have_or_is_told() {
    let (mut machine, relay, _) = with_clients(2, ByteCount::mib(4));
    let say = |machine: &mut Machine, id, from: usize, bytes: &[u8]| {
        let said = ToGuest::Bytes(ConnectionId(id), Position(from as u64), bytes.to_vec().into());
        machine.handle(Event::FromRelay(relay, said), &|| true);
    };
    let record = |machine: &Machine, id| machine.sessions[&(1, ConnectionId(id))].record;
    let mut blocks = Vec::new();
    for len in [100_000, 1000] {
        blocks.extend(std::iter::from_fn(|| machine.store.heap.allocate(len).ok()));
    }
    let asked =
        [b"*2\r\n$6\r\nEXISTS\r\n$200000\r\n".as_slice(), &[b'k'; 200_000], b"\r\n"].concat();
    let first = KEPT_MIN as usize - 1;
    say(&mut machine, 1, 0, &asked[..first]);
    say(&mut machine, 2, 0, &asked[..first]);
    say(&mut machine, 2, first, &asked[first..=first]);
    let arena = machine.store.arena().clone();
    assert_eq!(record(&machine, 1).taken(&arena), 0);
    assert!(record(&machine, 2).client(&arena).leaving, "no more of it may ever come");
    let replies = record(&machine, 2).outbox().bytes(&machine.store.heap);
    assert!(replies.starts_with(b"-OOM"), "{}", replies.escape_ascii());
    // Memory is given back, and nothing else happens.
    blocks.into_iter().for_each(|block| machine.store.heap.free(block));
    machine.turn(&|| true);
    assert_eq!(record(&machine, 1).taken(&arena), first as u64);
    for from in (first..asked.len()).step_by(10_000) {
        say(&mut machine, 1, from, &asked[from..asked.len().min(from + 10_000)]);
    }
    assert_eq!(record(&machine, 1).outbox().bytes(&machine.store.heap), b":0\r\n");
}

#[test]
fn clients_that_do_not_read_leave_room_for_values() {
    let (mut machine, relay, _) = with_clients(6, ByteCount::mib(64));
    let asks = b"GET a\r\n".repeat(1000);
    for id in 1..=5 {
        let said = ToGuest::Bytes(ConnectionId(id), Position(0), asks.clone().into());
        machine.handle(Event::FromRelay(relay, said), &|| true);
    }
    let unused = machine.store.unused();
    assert!(unused > 1 << 20, "{unused} bytes are left");
    let held = machine.store.heap.used();
    assert!(held > 40 << 20, "{held} bytes, though there is room");
}
