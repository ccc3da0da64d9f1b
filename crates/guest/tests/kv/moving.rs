use whimbrel_engine::guest::{Guest, GuestFactory};
use whimbrel_guest::kv::{KvFactory, KvGuest, KvMonitor, Position, ToGuest};
use whimbrel_memory::GuestMemory;
use whimbrel_memory::page::{ByteCount, Run};

use crate::common::{Relay, bulk, command, guest, memory};

const SIZE: ByteCount = ByteCount::mib(8);

/// A guest that was made by a factory, as the engine gives it back.
struct Moved {
    guest: Box<dyn Guest>,
    monitor: KvMonitor,
}

/// What a migration does, without one: memory and state, and nothing else, become another guest,
/// which is still parked.
fn moved(mut source: KvGuest) -> Moved {
    source.pause().expect("it comes to a stand");
    let state = source.save_state().expect("parked");
    let copied = copy(&source.memory());
    let description = source.describe();
    drop(source);
    let mut factory = KvFactory::default();
    factory.check(&description, copied.layout()).expect("it can live here");
    let mut guest = factory.create(&description, copied).expect("made");
    guest.load_state(&state).expect("its memory is here");
    let monitor = factory.monitors().get().expect("one was made");
    Moved { guest, monitor }
}

fn pages(memory: &GuestMemory) -> Vec<u8> {
    let region = memory.layout().regions()[0];
    let mut all = vec![0; SIZE.0 as usize];
    for (index, page) in all.chunks_mut(4096).enumerate() {
        memory.copy_run(Run::new(region.id, index as u64, 1), page).expect("a page");
    }
    all
}

fn copy(from: &GuestMemory) -> GuestMemory {
    let to = memory(SIZE);
    let region = to.layout().regions()[0];
    let mut page = vec![0; 4096];
    for index in 0..region.pages().0 {
        let run = Run::new(region.id, index, 1);
        from.copy_run(run, &mut page).expect("a page");
        if page.iter().any(|byte| *byte != 0) {
            to.write(region.id, run.first.offset(), &page).expect("a page");
        }
    }
    to
}

#[test]
fn half_a_command_and_undelivered_replies_move_with_the_guest() {
    let source = guest(SIZE);
    let mut relay = Relay::new(&source.monitor(), 1, 1);
    relay.hears(b"SET a 1\r\n", b"+OK\r\n");
    relay.confirm();
    relay.hears(b"INCR a\r\n", b":2\r\n");
    relay.say(b"*2\r\n$4\r\nINCR\r\n$1\r");
    relay.listen(|relay| relay.taken.0 == relay.said.len() as u64);
    // The last reply is said, but as far as the guest knows the client does not have it.
    relay.heard.truncate(5);
    let mut moved = moved(source);
    relay.attach(&moved.monitor);
    moved.guest.resume().expect("it has a state");
    relay.listen(|relay| relay.heard == b"+OK\r\n:2\r\n");
    relay.hears(b"\na\r\n", b":3\r\n");
}

/// More than one message brings, of either.
#[test]
fn half_of_a_large_command_and_half_of_a_large_reply_move_with_the_guest() {
    let source = guest(SIZE);
    let mut relay = Relay::new(&source.monitor(), 1, 1);
    let (mut whole, mut all) = (Vec::new(), Vec::new());
    for part in b'a'..=b'l' {
        whole.extend([part; 100_000]);
        relay.say(&command(&[b"APPEND", b"large", &[part; 100_000]]));
        all.extend(format!(":{}\r\n", whole.len()).bytes());
        relay.listen(|relay| relay.heard == all);
    }
    relay.confirm();
    all.extend(bulk(&whole));
    let appends = command(&[b"APPEND", b"other", &vec![b'c'; 200_000]]);
    relay.say(b"GET large\r\n");
    relay.say(&appends[..100_000]);
    relay.listen(|relay| relay.taken.0 == relay.said.len() as u64 && relay.heard.len() > 500_000);
    // The guest knows of some of what the client has, and the client has some of what was said.
    relay.tell(ToGuest::Delivered(relay.connection, Position(300_000)));
    relay.heard.truncate(400_000);
    let mut moved = moved(source);
    relay.attach(&moved.monitor);
    moved.guest.resume().expect("it has a state");
    while relay.heard.len() < all.len() {
        let have = relay.heard.len();
        relay.listen(|relay| relay.heard.len() > have);
        relay.confirm();
    }
    assert!(relay.heard == all, "these are not its replies");
    relay.hears(&appends[100_000..], b":200000\r\n");
    let check = moved.monitor.self_check().expect("still");
    assert_eq!((check.damage, check.keys), (None, 2));
}

#[test]
fn what_comes_while_it_is_parked_is_not_lost_and_not_twice() {
    let mut source = guest(SIZE);
    let mut relay = Relay::new(&source.monitor(), 1, 1);
    relay.hears(b"INCR a\r\n", b":1\r\n");
    source.pause().expect("it comes to a stand");
    // It waits at the doorway, and the doorway does not move.
    relay.say(b"INCR a\r\n");
    let mut moved = moved(source);
    relay.attach(&moved.monitor);
    moved.guest.resume().expect("it has a state");
    relay.say_again();
    relay.say_again();
    relay.listen(|relay| relay.heard == b":1\r\n:2\r\n");
    relay.hears(b"GET a\r\n", b"$1\r\n2\r\n");
}

#[test]
fn a_parked_guest_lets_go_of_relays_and_goes_on_with_them_where_it_stood() {
    let mut source = guest(SIZE);
    let mut relay = Relay::new(&source.monitor(), 1, 1);
    relay.hears(b"INCR a\r\n", b":1\r\n");
    assert!(source.release().is_err(), "it runs");
    source.pause().expect("it comes to a stand");
    let before = pages(&source.memory());
    relay.say(b"INCR a\r\n");
    source.release().expect("parked");
    relay.is_let_go();
    assert!(before == pages(&source.memory()), "letting go wrote to memory");
    // The attempt is given up. Of two that have asked meanwhile one does not wait any more.
    relay.attach(&source.monitor());
    relay.attach(&source.monitor());
    source.reacquire().expect("nothing to take");
    source.resume().expect("it has a store");
    relay.say_again();
    relay.listen(|relay| relay.heard == b":1\r\n:2\r\n");
    relay.attach_late();
    relay.attach(&source.monitor());
    relay.hears(b"GET a\r\n", b"$1\r\n2\r\n");
}

#[test]
fn a_connection_that_is_over_is_not_begun_again() {
    let source = guest(SIZE);
    let mut relay = Relay::new(&source.monitor(), 1, 1);
    relay.hears(b"INCR a\r\nQUIT\r\n", b":1\r\n+OK\r\n");
    relay.tell(ToGuest::Closed(relay.connection));
    relay.listen(|relay| relay.gone);
    relay.gone = false;
    let mut moved = moved(source);
    // The relay has not heard that it is gone, and says everything again.
    relay.attach(&moved.monitor);
    moved.guest.resume().expect("it has a state");
    relay.taken = Position(0);
    relay.say_again();
    relay.listen(|relay| relay.gone);
    let mut other = Relay::new(&moved.monitor, 2, 1);
    other.hears(b"GET a\r\n", b"$1\r\n1\r\n");
    let check = moved.monitor.self_check().expect("still");
    assert_eq!((check.damage, check.keys), (None, 1));
}

#[test]
fn a_guest_whose_older_memory_goes_on_elsewhere_keeps_no_client_that_knows_more() {
    let mut source = guest(SIZE);
    let mut writes = Relay::new(&source.monitor(), 1, 1);
    writes.hears(b"INCR a\r\n", b":1\r\n");
    let mut waits = Relay::new(&source.monitor(), 2, 1);
    waits.hears(b"GET a\r\n", b"$1\r\n1\r\n");
    source.pause().expect("it comes to a stand");
    let older = copy(&source.memory());
    let state = source.save_state().expect("parked");
    source.resume().expect("it has a store");
    // One client goes on with a guest that a person does not want any more.
    writes.hears(b"INCR a\r\n", b":2\r\n");
    let mut comes = Relay::new(&source.monitor(), 3, 1);
    comes.hears(b"GET a\r\n", b"$1\r\n2\r\n");
    let mut factory = KvFactory::default();
    let mut guest = factory.create(&source.describe(), older).expect("made");
    guest.load_state(&state).expect("its memory is here");
    let monitor = factory.monitors().get().expect("one was made");
    for relay in [&mut writes, &mut waits, &mut comes] {
        relay.attach(&monitor);
    }
    guest.resume().expect("it has a state");
    for knows_more in [&mut writes, &mut comes] {
        knows_more.listen(|relay| relay.gone);
    }
    waits.hears(b"GET a\r\n", b"$1\r\n1\r\n");
    let check = monitor.self_check().expect("still");
    assert_eq!((check.damage, check.keys), (None, 1));
}
