use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use whimbrel_engine::guest::{Guest, GuestFactory};
use whimbrel_engine::protocol::{Policy, Token};
use whimbrel_engine::{
    DestinationAddress, Incoming, IncomingOptions, Outcome, Outgoing, OutgoingOptions,
    VolatileJournal,
};
use whimbrel_guest::kv::{KvFactory, KvGuest, KvMonitor, Position, ToGuest};
use whimbrel_memory::GuestMemory;
use whimbrel_memory::page::{ByteCount, Run};

use crate::common::{PATIENCE, Relay, bulk, command, guest, memory};

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

/// A migration of the engine, over loopback. The guest runs where it is then.
fn migrated(source: KvGuest) -> Moved {
    let factory = KvFactory::default();
    let monitors = factory.monitors();
    let mut options = OutgoingOptions { host: 7, ..OutgoingOptions::default() };
    // How long it takes is not what is looked at.
    options.source.convergence.policy = Policy::SwitchOver;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("threads");
    let (left, right) = runtime.block_on(async {
        let (anywhere, token) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Token(0x5eca7e));
        let journal = Box::<VolatileJournal>::default;
        let (factory, there) = (Box::new(factory), IncomingOptions::default());
        let incoming = Incoming::bind(anywhere, token, factory, journal(), there);
        let incoming = incoming.expect("a free port");
        let to = DestinationAddress { address: incoming.address(), token };
        let outgoing = Outgoing::new(Box::new(source), journal(), to, options);
        tokio::join!(outgoing.run(), incoming.run())
    });
    assert!(matches!(left.outcome, Outcome::Completed { .. }), "{left:?}");
    let guest = right.expect("a destination").guest.expect("it runs there");
    Moved { guest, monitor: monitors.get().expect("one was made") }
}

/// What is replied, which is a number.
#[track_caller]
fn number(relay: &mut Relay, said: &str) -> i64 {
    let start = relay.heard.len();
    relay.say(format!("{said}\r\n").as_bytes());
    relay.listen(|relay| relay.heard[start..].ends_with(b"\r\n"));
    relay.confirm();
    let reply = String::from_utf8_lossy(&relay.heard[start..]);
    let number = reply.strip_prefix(':').and_then(|number| number.trim_end().parse().ok());
    number.unwrap_or_else(|| panic!("{said}: {reply}"))
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

/// When a key ends is in guest memory, and comes along.
#[test]
fn keys_that_end_move_and_end_when_they_would_have() {
    let source = guest(SIZE);
    let mut relay = Relay::new(&source.monitor(), 1, 1);
    relay.hears(b"SET long l EX 1000\r\nSET plain p\r\n", b"+OK\r\n+OK\r\n");
    let (began, soon) = (Instant::now(), Duration::from_secs(2));
    relay.hears(b"SET soon s PX 2000\r\n", b"+OK\r\n");
    let before = number(&mut relay, "PTTL long");
    let moved = migrated(source);
    relay.attach(&moved.monitor);
    let after = number(&mut relay, "PTTL long");
    assert!((before - 60_000..=before).contains(&after), "{after} ms are left of {before}");
    assert_eq!(number(&mut relay, "PTTL plain"), -1);
    // On a slow host it has ended on the way.
    let left = number(&mut relay, "PTTL soon");
    assert!(left == -2 || (1..=2000).contains(&left), "{left} ms are left of 2000");
    assert_eq!(number(&mut relay, "PERSIST plain"), 0, "it would not end");
    assert_eq!(number(&mut relay, "EXPIRE plain 500"), 1);
    assert!((1..=500).contains(&number(&mut relay, "TTL plain")));
    assert_eq!(number(&mut relay, "EXPIRE long 2000 GT"), 1);
    assert_eq!(number(&mut relay, "PERSIST long"), 1);
    assert_eq!(number(&mut relay, "PTTL long"), -1);
    while number(&mut relay, "EXISTS soon") == 1 {
        assert!(began.elapsed() < PATIENCE, "it does not end");
    }
    assert!(began.elapsed() > soon / 2, "it has ended too soon");
    relay.hears(b"MGET long plain soon\r\n", b"*3\r\n$1\r\nl\r\n$1\r\np\r\n$-1\r\n");
    let check = moved.monitor.self_check().expect("still");
    assert_eq!((check.damage, check.keys), (None, 2));
}
