use whimbrel_guest::kv::{Position, ToGuest};
use whimbrel_memory::page::ByteCount;

use crate::common::{Relay, bulk, command, guest};

#[test]
fn commands_come_in_any_pieces_and_replies_in_order() {
    let guest = guest(ByteCount::mib(8));
    let mut relay = Relay::new(&guest.monitor(), 1, 1);
    relay.hears(b"PING\r\n", b"+PONG\r\n");
    let bytes = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$5\r\nhello\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n";
    for piece in 1..9 {
        let start = relay.heard.len();
        bytes.chunks(piece).for_each(|piece| relay.say(piece));
        let reply = b"+OK\r\n$5\r\nhello\r\n";
        relay.listen(|relay| relay.heard.len() >= start + reply.len());
        assert_eq!(&relay.heard[start..], reply);
    }
    relay.listen(|relay| relay.taken.0 == relay.said.len() as u64);
}

#[test]
fn a_large_value_goes_in_and_out() {
    let guest = guest(ByteCount::mib(64));
    let mut relay = Relay::new(&guest.monitor(), 1, 1);
    let value: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    relay.say(format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n", value.len()).as_bytes());
    for piece in value.chunks(60_000) {
        relay.say(piece);
        relay.listen(|relay| relay.taken.0 == relay.said.len() as u64);
    }
    relay.hears(b"\r\n", b"+OK\r\n");
    relay.confirm();
    let start = relay.heard.len();
    relay.say(b"GET a\r\nPING\r\n");
    // More than may wait: what follows comes as the client reads.
    while relay.heard.len() < start + value.len() + 10 + 2 + 7 {
        let have = relay.heard.len();
        relay.listen(|relay| relay.heard.len() > have);
        relay.confirm();
    }
    assert!(relay.heard.ends_with(b"\r\n+PONG\r\n"));
    assert_eq!(&relay.heard[start + 10..start + 10 + value.len()], &value);
}

#[test]
fn a_wrong_word_is_answered_and_the_connection_closed() {
    let guest = guest(ByteCount::mib(8));
    let mut relay = Relay::new(&guest.monitor(), 1, 1);
    relay.say(&[b"SET a ".as_slice(), &[b'v'; 70_000], b"\r\nPING\r\n"].concat());
    relay.listen(|relay| relay.last);
    assert_eq!(relay.heard, b"-ERR Protocol error: too big inline request\r\n");
    relay.tell(ToGuest::Closed(relay.connection));
    relay.listen(|relay| relay.gone);
    assert_eq!(guest.monitor().report().expect("there").clients, 0);
    assert_eq!(guest.monitor().self_check().expect("it stands still").damage, None);
}

#[test]
fn a_client_that_does_not_read_is_waited_for() {
    let guest = guest(ByteCount::mib(32));
    let mut relay = Relay::new(&guest.monitor(), 1, 1);
    relay.say(
        format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$100000\r\n{}\r\n", "v".repeat(100_000)).as_bytes(),
    );
    relay.listen(|relay| relay.heard == b"+OK\r\n");
    // More replies than half of memory has room for, which nobody confirms, and a word after them.
    relay.say(&b"GET a\r\n".repeat(300));
    relay.say(b"SET done 1\r\n");
    relay.listen(|relay| relay.credit == relay.taken);
    let mut other = Relay::new(&guest.monitor(), 2, 1);
    other.hears(b"EXISTS done\r\n", b":0\r\n");
    let all = 5 + 300 * (9 + 100_000 + 2) + 5;
    while relay.heard.len() < all {
        relay.confirm();
        let have = relay.heard.len();
        relay.listen(|relay| relay.heard.len() > have);
    }
    assert!(relay.heard.ends_with(b"v\r\n+OK\r\n"));
    other.hears(b"EXISTS done\r\n", b":1\r\n");
}

/// As clients do that write all of a pipeline before they read.
#[test]
fn a_client_may_say_a_lot_before_it_reads_anything() {
    let guest = guest(ByteCount::mib(64));
    let mut relay = Relay::new(&guest.monitor(), 1, 1);
    let value = "v".repeat(1000);
    relay.hears(format!("SET a {value}\r\n").as_bytes(), b"+OK\r\n");
    for _ in 0..3 {
        relay.say(&b"GET a\r\n".repeat(8000));
        relay.listen(|relay| relay.taken.0 == relay.said.len() as u64);
    }
    relay.say(b"SET done 1\r\n");
    relay.listen(|relay| relay.taken.0 == relay.said.len() as u64);
    let mut other = Relay::new(&guest.monitor(), 2, 1);
    other.hears(b"EXISTS done\r\n", b":1\r\n");
    let replies = [b"+OK\r\n".to_vec(), bulk(value.as_bytes()).repeat(24_000), b"+OK\r\n".to_vec()];
    let replies = replies.concat();
    while relay.heard.len() < replies.len() {
        relay.confirm();
        let have = relay.heard.len();
        relay.listen(|relay| relay.heard.len() > have);
    }
    assert!(relay.heard == replies, "these are not its replies");
    relay.confirm();
    relay.hears(b"PING\r\n", b"+PONG\r\n");
    assert_eq!(guest.monitor().self_check().expect("it stands still").damage, None);
    let used = guest.monitor().report().expect("there").used;
    assert!(used < 1 << 20, "{used} bytes are kept of what was delivered");
}

/// The one that has taken most of memory is not there any more.
#[test]
fn a_client_that_waits_for_room_goes_on_when_others_give_it_back() {
    let guest = guest(ByteCount::mib(8));
    let mut hog = Relay::new(&guest.monitor(), 1, 1);
    let value = "v".repeat(100_000);
    hog.hears(&command(&[b"SET", b"a", value.as_bytes()]), b"+OK\r\n");
    hog.say(&b"GET a\r\n".repeat(100));
    hog.listen(|hog| hog.credit == hog.taken);
    let mut relay = Relay::new(&guest.monitor(), 2, 1);
    relay.say(&b"GET a\r\n".repeat(30));
    relay.listen(|relay| relay.taken > Position(0) && relay.credit == relay.taken);
    hog.tell(ToGuest::Closed(hog.connection));
    relay.listen(|relay| relay.credit > relay.taken);
}

#[test]
fn what_a_client_said_last_is_carried_out() {
    let guest = guest(ByteCount::mib(8));
    let mut relay = Relay::new(&guest.monitor(), 1, 1);
    relay.say(b"SET last word\r\nQUIT\r\nSET never said\r\n");
    relay.listen(|relay| relay.last);
    assert_eq!(relay.heard, b"+OK\r\n+OK\r\n");
    relay.tell(ToGuest::Closed(relay.connection));
    relay.listen(|relay| relay.gone);
    let mut other = Relay::new(&guest.monitor(), 1, 2);
    other.hears(b"GET last\r\n", b"$4\r\nword\r\n");
    other.hears(b"EXISTS never\r\n", b":0\r\n");
}

#[test]
fn a_client_that_says_no_more_still_hears_its_replies() {
    let guest = guest(ByteCount::mib(8));
    let mut relay = Relay::new(&guest.monitor(), 1, 1);
    relay.say(b"PING\r\nECHO bye\r\nECHO never");
    relay.tell(ToGuest::Ended(relay.connection, Position(relay.said.len() as u64)));
    relay.listen(|relay| relay.last);
    assert_eq!(relay.heard, b"+PONG\r\n$3\r\nbye\r\n");
    relay.tell(ToGuest::Closed(relay.connection));
    relay.listen(|relay| relay.gone);
}

#[test]
fn a_new_run_of_a_relay_ends_the_old_ones_clients() {
    let guest = guest(ByteCount::mib(8));
    let mut first = Relay::new(&guest.monitor(), 1, 1);
    first.hears(b"CLIENT SETNAME first\r\n", b"+OK\r\n");
    let mut elsewhere = Relay::new(&guest.monitor(), 2, 1);
    elsewhere.hears(b"CLIENT SETNAME other\r\n", b"+OK\r\n");
    let mut second = Relay::new(&guest.monitor(), 1, 2);
    let list = ["id=2 name=other", "id=3 name="].map(|who| {
        let same = "flags=N db=0 sub=0 psub=0 ssub=0 multi=-1 user=default redir=-1 resp=2";
        format!("{who} {same}\n")
    });
    let list = list.concat();
    let reply = format!("${}\r\n{list}\r\n", list.len());
    second.hears(b"CLIENT LIST\r\n", reply.as_bytes());
    elsewhere.hears(b"PING\r\n", b"+PONG\r\n");
}
