//! Turns of several clients, and hosts that are gone.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use whimbrel_memory::page::ByteCount;

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

/// A machine with four clients of one relay, who are told of by what is returned.
fn with_clients() -> (Machine, RelayId, Arc<Mutex<Vec<u64>>>) {
    let store = store(ByteCount::mib(16));
    store.set(b"a", &[b'v'; 100_000], false).expect("room");
    let mut machine = Machine::open(store.arena().clone()).expect("a store");
    let (relay, heard) = (RelayId { host: 1, run: 1 }, Arc::default());
    let attach = Attach { relay, last: ConnectionId(0), held: Vec::new() };
    let notes = Box::new(Notes(Arc::clone(&heard)));
    machine.handle(Event::Attach(attach, notes), &|| true);
    for id in 1..=4 {
        machine.handle(Event::FromRelay(relay, ToGuest::Open(ConnectionId(id))), &|| true);
    }
    (machine, relay, heard)
}

fn asks_much(id: u64) -> ToGuest {
    ToGuest::Bytes(ConnectionId(id), Position(0), b"GET a\r\n".repeat(8).into())
}

#[test]
fn everybody_is_told_something_before_anybody_is_told_more() {
    let (mut machine, relay, heard) = with_clients();
    (1..=4).for_each(|id| {
        machine.handle(Event::FromRelay(relay, asks_much(id)), &|| true);
    });
    (0..4).for_each(|_| machine.speak());
    let heard = heard.lock().expect("whole");
    assert_eq!(*heard, [1, 2, 3, 4, 1, 2, 3, 4]);
}

#[test]
fn everybody_goes_on_before_anybody_goes_on_again() {
    let (mut machine, relay, _) = with_clients();
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
