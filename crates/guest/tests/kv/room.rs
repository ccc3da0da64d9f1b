//! Where there is little room: at the doorway, and in a store that is full.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use whimbrel_engine::guest::{Guest, Throttle};
use whimbrel_guest::kv::{KEPT_MIN, KvMonitor, Position, ToGuest, WINDOW};
use whimbrel_memory::page::ByteCount;

use crate::common::{Relay, bulk, command, finish, guest};

const OOM: &[u8] = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n";

const NO_REPLY: &[u8] = b"-OOM no room in memory for the whole reply: ask for less of it at \
    once (GETRANGE, LRANGE, HSCAN, SSCAN, a smaller count), or delete something first\r\n";

#[test]
fn relays_that_keep_to_their_credit_wait_for_room_and_are_served() {
    let mut guest = guest(ByteCount::mib(8));
    let mut relays: Vec<_> = (0..300).map(|host| Relay::new(&guest.monitor(), host, 1)).collect();
    for relay in &mut relays {
        relay.listen(|relay| relay.credit == Position(WINDOW));
    }
    guest.pause().expect("it comes to a stand");
    // All of its credit in one command.
    let around = command(&[b"EXISTS", &[0; 200_000]]).len() - 200_000;
    let all = command(&[b"EXISTS", &vec![b'k'; WINDOW as usize - around]]);
    let all: bytes::Bytes = all.into();
    assert_eq!(all.len() as u64, WINDOW);
    let say = |relay: &Relay| ToGuest::Bytes(relay.connection, Position(0), all.clone());
    let mut waiting = Vec::new();
    for relay in &relays {
        let mut telling = Box::pin(relay.telling(say(relay)));
        match telling.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(here) => assert!(here),
            Poll::Pending => waiting.push(telling),
        }
    }
    assert!(waiting.len() > 20, "all of {} have room", relays.len());
    guest.resume().expect("it has a store");
    assert!(waiting.into_iter().all(finish));
    for relay in &mut relays {
        relay.listen(|relay| relay.heard == b":0\r\n" && relay.taken == Position(WINDOW));
    }
}

#[test]
fn a_relay_that_waits_for_room_ends_with_the_guest() {
    let mut guest = guest(ByteCount::mib(8));
    let relay = Relay::new(&guest.monitor(), 1, 1);
    guest.pause().expect("it comes to a stand");
    let much: bytes::Bytes = vec![0; 65 << 20].into();
    let say = || ToGuest::Bytes(relay.connection, Position(0), much.clone());
    assert!(finish(relay.telling(say())), "it is empty");
    let mut waits = pin!(relay.telling(say()));
    let now = waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(now, Poll::Pending);
    drop(guest);
    assert!(!finish(waits), "the guest has gone");
}

#[test]
fn a_relay_that_breaks_its_credit_is_cut_off_and_others_are_not() {
    let guest = guest(ByteCount::mib(8));
    let (mut bad, mut good) =
        (Relay::new(&guest.monitor(), 1, 1), Relay::new(&guest.monitor(), 2, 1));
    good.hears(b"PING\r\n", b"+PONG\r\n");
    bad.hears(b"PING\r\n", b"+PONG\r\n");
    let much = vec![b'k'; WINDOW as usize + 1];
    bad.tell(ToGuest::Bytes(bad.connection, Position(6), much.into()));
    bad.is_cut_off();
    good.hears(b"PING\r\n", b"+PONG\r\n");
    // Its client has lost nothing.
    bad.attach(&guest.monitor());
    bad.hears(b"PING\r\n", b"+PONG\r\n");
}

/// What a value of 10 kB is, whichever it is.
fn value(number: u32) -> Vec<u8> {
    format!("{number:010}").repeat(1000).into_bytes()
}

/// Fills a store with values of 10 kB and then with small ones, and what is left for clients with
/// replies that nobody reads, until a value finds no room there either. Three such replies are
/// given up again. Returns who holds the others.
fn fill(monitor: &KvMonitor) -> Vec<Relay> {
    let mut relay = Relay::new(monitor, 1, 1);
    for (name, value) in [("k", value(0)), ("s", vec![b's'; 100])] {
        for number in 0.. {
            let (key, start) = (format!("{name}{number}"), relay.heard.len());
            relay.say(&command(&[b"SET", key.as_bytes(), &value]));
            relay.listen(|relay| relay.heard[start..].ends_with(b"\r\n"));
            relay.confirm();
            if relay.heard[start..] == *OOM {
                break;
            }
        }
    }
    let mut holding = vec![relay];
    for host in 2.. {
        let mut relay = Relay::new(monitor, host, 1);
        relay.say(b"GET k0\r\n");
        relay.listen(|relay| relay.heard.ends_with(b"\r\n"));
        // One that was turned away holds nothing.
        if relay.last {
            break;
        }
        let full = relay.heard == NO_REPLY;
        holding.push(relay);
        if full {
            break;
        }
    }
    let last = holding.len() - 1;
    for mut relay in holding.drain(last - 3..last) {
        relay.tell(ToGuest::Closed(relay.connection));
        relay.listen(|relay| relay.gone);
    }
    holding
}

#[test]
fn clients_of_a_full_store_hear_everything_as_they_read() {
    let guest = guest(ByteCount::mib(4));
    let mut relay = Relay::new(&guest.monitor(), 1000, 1);
    let mut expected = Vec::new();
    for number in 0..30 {
        let length = format!(":{}\r\n", number + 1).into_bytes();
        relay.hears(&command(&[b"RPUSH", b"list", &value(number)]), &length);
        relay.confirm();
        expected.extend(bulk(&value(number)));
    }
    let _holding = fill(&guest.monitor());
    for (asked, wanted) in [
        // What reads, and what takes away: it does that when its reply has a place.
        (b"GET k0\r\n".repeat(100), bulk(&value(0)).repeat(100)),
        (b"LPOP list\r\n".repeat(30), expected),
    ] {
        let start = relay.heard.len();
        relay.say(&asked);
        while relay.heard.len() < start + wanted.len() {
            let have = relay.heard.len();
            relay.listen(|relay| relay.heard.len() > have || relay.last);
            assert!(!relay.last, "it is disconnected: {}", relay.heard.escape_ascii());
            relay.confirm();
        }
        assert!(relay.heard[start..] == wanted, "these are not its replies");
    }
    let check = guest.monitor().self_check().expect("it stands still");
    assert_eq!(check.damage, None);
}

/// A string grows beyond what one command brings and one reply has room for.
#[test]
fn a_string_that_is_too_long_for_one_reply_is_read_in_pieces() {
    let guest = guest(ByteCount::mib(8));
    let mut relay = Relay::new(&guest.monitor(), 1000, 1);
    let (piece, mut whole) = (vec![b'p'; 100_000], Vec::new());
    loop {
        let start = relay.heard.len();
        relay.say(&command(&[b"APPEND", b"long", &piece]));
        relay.listen(|relay| relay.heard[start..].ends_with(b"\r\n"));
        relay.confirm();
        if relay.heard[start..] == *OOM {
            break;
        }
        whole.extend(&piece);
    }
    assert!(whole.len() > 1 << 20, "{} bytes are all", whole.len());
    let _holding = fill(&guest.monitor());
    for asked in [&[b"GET".as_slice(), b"long"] as &[&[u8]], &[b"GETRANGE", b"long", b"0", b"-1"]] {
        relay.hears(&command(asked), NO_REPLY);
        relay.confirm();
    }
    let mut read: Vec<u8> = Vec::new();
    while read.len() < whole.len() {
        let [first, last] = [read.len(), read.len() + 4999].map(|place| place.to_string());
        let start = relay.heard.len();
        let part = &whole[read.len()..whole.len().min(read.len() + 5000)];
        relay.say(&command(&[b"GETRANGE", b"long", first.as_bytes(), last.as_bytes()]));
        relay.listen(|relay| relay.heard.len() >= start + bulk(part).len());
        assert!(relay.heard[start..] == bulk(part), "at {first}");
        read.extend(part);
        relay.confirm();
    }
    relay.hears(b"PING\r\n", b"+PONG\r\n");
    assert_eq!(guest.monitor().self_check().expect("it stands still").damage, None);
}

#[test]
fn what_a_full_store_cannot_keep_of_a_client_its_relay_keeps() {
    let guest = guest(ByteCount::mib(4));
    let mut relay = Relay::new(&guest.monitor(), 1000, 1);
    relay.hears(b"PING\r\n", b"+PONG\r\n");
    relay.confirm();
    let mut holding = fill(&guest.monitor());
    while !holding.last().expect("there are some").last {
        let mut crowd = Relay::new(&guest.monitor(), 2000 + holding.len() as u64, 1);
        crowd.listen(|crowd| crowd.credit.0 > 0 || crowd.last);
        holding.push(crowd);
    }
    // Half a command, and the rest of it.
    let asked = command(&[b"EXISTS", &vec![b'k'; 200_000]]);
    let half = KEPT_MIN as usize - 1;
    relay.say(&asked[..half]);
    relay.say(&[]);
    relay.listen(|relay| relay.credit.0 > 0);
    assert!(!relay.last && relay.taken < Position(KEPT_MIN - 1), "{:?} are taken", relay.taken);
    relay.hears(&asked[half..], b":0\r\n");
    relay.listen(|relay| relay.taken.0 == relay.said.len() as u64);
    // One of which no more can come ends it, with a word.
    relay.confirm();
    let start = relay.heard.len();
    relay.say(&command(&[b"EXISTS", &vec![b'k'; 400_000]])[..KEPT_MIN as usize]);
    relay.listen(|relay| relay.last);
    assert_eq!(&relay.heard[start..], OOM);
}

#[test]
fn a_store_that_was_full_and_is_empty_has_room_for_what_is_large() {
    let guest = guest(ByteCount::mib(16));
    let mut relay = Relay::new(&guest.monitor(), 1000, 1);
    relay.hears(b"CLIENT SETNAME first\r\n", b"+OK\r\n");
    let mut others = fill(&guest.monitor());
    // Some of them hold replies that they have not read, and one has said half a command.
    others.last_mut().expect("there are some").say(b"ECHO ha");
    relay.hears(b"FLUSHALL\r\n", b"+OK\r\n");
    while guest.monitor().report().expect("there").used > 2 << 20 {
        relay.hears(b"PING\r\n", b"+PONG\r\n");
    }
    relay.confirm();
    let large = command(&[b"SET", b"large", &vec![b'v'; 2_000_000]]);
    for piece in large.chunks(60_000) {
        relay.say(piece);
        relay.listen(|relay| relay.taken.0 == relay.said.len() as u64);
    }
    relay.listen(|relay| relay.heard.ends_with(b"+OK\r\n"));
    relay.hears(b"STRLEN large\r\n", b":2000000\r\n");
    relay.hears(b"CLIENT GETNAME\r\n", b"$5\r\nfirst\r\n");
    // And everybody else has lost nothing.
    for other in &mut others {
        other.say(b"\r\nPING\r\n");
        other.listen(|other| other.heard.ends_with(b"+PONG\r\n"));
    }
    let check = guest.monitor().self_check().expect("it stands still");
    let clients = guest.monitor().report().expect("there").clients;
    assert_eq!((check.damage, clients), (None, others.len() as u64 + 1));
}

/// A turn of a throttled guest ends in the middle of what a client has said.
#[test]
fn a_throttled_guest_says_in_between_what_it_has_done() {
    let mut guest = guest(ByteCount::mib(8));
    let mut relay = Relay::new(&guest.monitor(), 1, 1);
    relay.hears(b"PING\r\n", b"+PONG\r\n");
    guest.throttle(Throttle::MOST).expect("it can be");
    guest.pause().expect("it comes to a stand");
    let asked = b"EXISTS no\r\n".repeat(20_000);
    let all = relay.heard.len() + 20_000 * 4;
    relay.say(&asked);
    guest.resume().expect("it has a store");
    let have = relay.heard.len();
    relay.listen(|relay| relay.heard.len() > have);
    assert!(relay.heard.len() < all, "all of it in one turn");
    relay.listen(|relay| relay.heard.len() == all);
}
