use super::super::store::Store;
use super::super::store::tests::store;
use super::*;
use whimbrel_memory::page::ByteCount;

/// A client of a store of its own.
struct Talk {
    store: Store,
    client: Client,
    outbox: Chain,
}

impl Talk {
    fn new(size: ByteCount) -> Self {
        let store = store(size);
        let outbox = Chain(store.heap.allocate(Chain::WORDS * 8).expect("room"));
        outbox.open(&store.heap).expect("room");
        Self { store, client: Client { id: 1, ..Client::default() }, outbox }
    }

    /// Whether there was room for the reply, and the reply.
    fn reply(&mut self, words: &[&[u8]]) -> (bool, Vec<u8>) {
        let mut reply = Reply::default();
        let done = execute(&mut self.store, &mut self.client, &mut reply, self.outbox, words);
        (done.is_ok(), reply.bytes)
    }

    fn say(&mut self, words: &[&[u8]]) -> String {
        let (has_room, reply) = self.reply(words);
        if !has_room {
            return "no room for a reply".to_owned();
        }
        String::from_utf8_lossy(&reply).replace("\r\n", " ").trim_end().to_owned()
    }

    /// A command of words without spaces, and what is replied, its lines in one.
    #[track_caller]
    fn hears(&mut self, command: &str, reply: &str) {
        let words: Vec<_> = command.split(' ').map(str::as_bytes).collect();
        assert_eq!(self.say(&words), reply, "{command}");
    }
}

fn talk() -> Talk {
    Talk::new(ByteCount::mib(4))
}

#[test]
fn strings_are_set_read_and_counted() {
    let mut talk = talk();
    for (command, reply) in [
        ("GET a", "$-1"),
        ("SET a 1", "+OK"),
        ("get a", "$1 1"),
        ("SET a 2 NX", "$-1"),
        ("SET b 2 XX", "$-1"),
        ("SET a 2 XX GET", "$1 1"),
        ("SET a 3 NX GET", "$1 2"),
        ("SET c 3 GET", "$-1"),
        ("SET a 1 NX XX", "-ERR syntax error"),
        ("SET a 1 EX", "-ERR syntax error"),
        ("SET a 1 EX 1 KEEPTTL", "-ERR syntax error"),
        ("SET a 1 EX 10 EX 20", "+OK"),
        ("TTL a", ":20"),
        ("SET a 1 EX 10 EXAT 20", "-ERR syntax error"),
        ("SET a 1 ", "-ERR syntax error"),
        ("SET a 1 EX x", "-ERR value is not an integer or out of range"),
        ("SET a 1 PX 0", "-ERR invalid expire time in 'set' command"),
        ("SET a 1 EX 9223372036854775807", "-ERR invalid expire time in 'set' command"),
        ("MSET x 1 y 2", "+OK"),
        ("MSET x 1 y", "-ERR wrong number of arguments for 'mset' command"),
        ("MGET x nil y", "*3 $1 1 $-1 $1 2"),
        ("SETNX x 3", ":0"),
        ("SETNX z 3", ":1"),
        ("GETSET z 4", "$1 3"),
        ("APPEND z 567", ":4"),
        ("APPEND new 56", ":2"),
        ("STRLEN z", ":4"),
        ("GETRANGE z 1 2", "$2 56"),
        ("GETRANGE z -2 -1", "$2 67"),
        ("GETRANGE z -100 100", "$4 4567"),
        ("GETRANGE z 4 9", "$0"),
        ("GETRANGE none 0 -1", "$0"),
        ("INCR z", ":4568"),
        ("DECRBY z 8", ":4560"),
        ("INCRBY z 9223372036854775807", "-ERR increment or decrement would overflow"),
        ("DECRBY z -9223372036854775808", "-ERR decrement would overflow"),
        ("SET z 01", "+OK"),
        ("INCR z", "-ERR value is not an integer or out of range"),
        ("RPUSH list a", ":1"),
        ("GET list", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
        ("SET list now", "+OK"),
        ("TYPE list", "+string"),
    ] {
        talk.hears(command, reply);
    }
}

#[test]
fn keys_end_as_they_are_told_to() {
    let mut talk = talk();
    talk.hears("SET a 1 PX 1499", "+OK");
    talk.hears("TTL a", ":1");
    talk.hears("PTTL a", ":1499");
    talk.hears("SET a 2 KEEPTTL", "+OK");
    talk.hears("INCR a", ":3");
    talk.hears("PTTL a", ":1499");
    talk.store.now_ms += 1498;
    talk.hears("EXISTS a a b", ":2");
    talk.store.now_ms += 1;
    talk.hears("EXISTS a", ":0");
    talk.hears("TTL a", ":-2");
    talk.hears("SET a 1", "+OK");
    talk.hears("TTL a", ":-1");
    talk.hears("EXPIRE a 100 XX", ":0");
    talk.hears("EXPIRE a 100 NX", ":1");
    talk.hears("EXPIRE a 50 GT", ":0");
    talk.hears("EXPIRE a 50 LT", ":1");
    talk.hears("EXPIRE a 5 GT LT", "-ERR GT and LT options at the same time are not compatible");
    talk.hears("EXPIRE a 5 or", "-ERR Unsupported option or");
    talk.hears("PERSIST a", ":1");
    talk.hears("PERSIST a", ":0");
    talk.hears("EXPIRE a -1", ":1");
    talk.hears("DBSIZE", ":0");
    talk.hears("EXPIRE a 9223372036854775807", "-ERR invalid expire time in 'expire' command");
}

#[test]
fn lists_have_two_ends() {
    let mut talk = talk();
    for (command, reply) in [
        ("RPUSH l a b c", ":3"),
        ("LPUSH l x y", ":5"),
        ("LRANGE l 0 -1", "*5 $1 y $1 x $1 a $1 b $1 c"),
        ("LRANGE l -2 100", "*2 $1 b $1 c"),
        ("LRANGE l 3 1", "*0"),
        ("LRANGE l -100 0", "*1 $1 y"),
        ("LRANGE l 0 -6", "*0"),
        ("LRANGE none 0 -1", "*0"),
        ("LPOP l", "$1 y"),
        ("RPOP l 2", "*2 $1 c $1 b"),
        ("LPOP l 0", "*0"),
        ("LPOP l -1", "-ERR value is out of range, must be positive"),
        ("LPOP l 1 2", "-ERR wrong number of arguments for 'lpop' command"),
        ("LLEN l", ":2"),
        ("LPOP l 9", "*2 $1 x $1 a"),
        ("EXISTS l", ":0"),
        ("LPOP l", "$-1"),
        ("LPOP l 2", "*-1"),
    ] {
        talk.hears(command, reply);
    }
}

#[test]
fn hashes_and_sets_have_members() {
    let mut talk = talk();
    for (command, reply) in [
        ("HSET h a 1 b 2", ":2"),
        ("HSET h a 3 c 4", ":1"),
        ("HSET h a", "-ERR wrong number of arguments for 'hset' command"),
        ("HSET h a 1 b", "-ERR wrong number of arguments for 'hset' command"),
        ("HGET h a", "$1 3"),
        ("HMGET h c none b", "*3 $1 4 $-1 $1 2"),
        ("HLEN h", ":3"),
        ("HDEL h a b none", ":2"),
        ("HGETALL h", "*2 $1 c $1 4"),
        ("HDEL h c", ":1"),
        ("EXISTS h", ":0"),
        ("HGETALL h", "*0"),
        ("SADD s a b a", ":2"),
        ("SADD s b", ":0"),
        ("SISMEMBER s a", ":1"),
        ("SREM s a x", ":1"),
        ("SMEMBERS s", "*1 $1 b"),
        ("SCARD s", ":1"),
        ("SPOP s", "$1 b"),
        ("SPOP s", "$-1"),
        ("SPOP s 3", "*0"),
        ("DBSIZE", ":0"),
    ] {
        talk.hears(command, reply);
    }
}

#[test]
fn what_cannot_be_is_said_in_redis_words() {
    let mut talk = talk();
    for (command, reply) in [
        ("NOPE a b", "-ERR unknown command 'NOPE', with args beginning with: 'a' 'b'"),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command"),
        ("SELECT 1", "-ERR DB index is out of range"),
        ("SELECT x", "-ERR value is not an integer or out of range"),
        (
            "SELECT 2147483648",
            "-ERR value is out of range, value must between -2147483648 and 2147483647",
        ),
        ("CLIENT LIST TYPE nope", "-ERR Unknown client type 'nope'"),
        ("CLIENT LIST ID", "-ERR syntax error"),
        ("CLIENT KILL 127.0.0.1:1", "-ERR No such client"),
        ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0"),
        ("CLIENT KILL ID 1 TYPE", "-ERR syntax error"),
        ("CLIENT REPLY x", "-ERR syntax error"),
        ("CLIENT nope", "-ERR unknown subcommand 'nope'. Try CLIENT HELP."),
        ("CLIENT id x", "-ERR wrong number of arguments for 'client|id' command"),
        ("SCAN x", "-ERR invalid cursor"),
        ("SCAN 0 COUNT 0", "-ERR syntax error"),
        ("FLUSHALL now", "-ERR syntax error"),
        ("HELLO 4", "-NOPROTO unsupported protocol version"),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range"),
        ("HELLO 3 nope", "-ERR Syntax error in HELLO option 'nope'"),
    ] {
        talk.hears(command, reply);
    }
    let reply = talk.say(&[b"a\r\nb"]);
    assert_eq!(reply, "-ERR unknown command 'a  b', with args beginning with:");
}

#[test]
fn a_client_that_wants_no_replies_has_none() {
    let mut talk = talk();
    for (command, reply) in [
        ("CLIENT REPLY SKIP", ""),
        ("SET a 1", ""),
        ("GET a", "$1 1"),
        ("CLIENT REPLY SKIP", ""),
        ("CLIENT REPLY SKIP", ""),
        ("NOPE", ""),
        ("GET a", "$1 1"),
        ("CLIENT REPLY SKIP", ""),
        ("CLIENT REPLY ON", "+OK"),
        ("CLIENT REPLY OFF", ""),
        ("INCR a", ""),
        ("NOPE", ""),
        ("CLIENT REPLY SKIP", ""),
        ("INCR a", ""),
        ("CLIENT REPLY x", ""),
        ("CLIENT REPLY ON", "+OK"),
        ("GET a", "$1 3"),
    ] {
        talk.hears(command, reply);
    }
}

/// What nobody hears needs no room.
#[test]
fn a_client_that_wants_no_replies_waits_for_no_room_for_them() {
    let mut talk = Talk::new(ByteCount::mib(4));
    let (large, filling) = (vec![b'v'; 400_000], vec![b'v'; 20_000]);
    assert_eq!(talk.say(&[b"SET", b"a", &large]), "+OK");
    let mut names = (0..).map(|number| format!("filling:{number}"));
    while talk.say(&[b"SET", names.next().expect("endless").as_bytes(), &filling]) == "+OK" {}
    let taken: [&[u8]; 3] = [b"GETSET", b"a", b"x"];
    assert_eq!(talk.say(&taken), "no room for a reply");
    for how in ["SKIP", "OFF"] {
        assert_eq!(talk.say(&[b"SET", b"a", b"y"]), "+OK");
        talk.hears(&format!("CLIENT REPLY {how}"), "");
        assert_eq!(talk.say(&taken), "");
        talk.client.hears = Hears::Everything;
        talk.hears("GET a", "$1 x");
    }
}

#[test]
fn the_third_version_has_words_of_its_own() {
    let mut talk = talk();
    assert!(talk.say(&[b"HELLO", b"3", b"SETNAME", b"me"]).starts_with("%7 $6 server"));
    for (command, reply) in [
        ("CLIENT GETNAME", "$2 me"),
        ("GET a", "_"),
        ("LPOP a 1", "_"),
        ("HSET h a 1", ":1"),
        ("HGETALL h", "%1 $1 a $1 1"),
        ("SADD s a", ":1"),
        ("SMEMBERS s", "~1 $1 a"),
        ("CONFIG GET save", "%1 $4 save $0"),
    ] {
        talk.hears(command, reply);
    }
    assert!(talk.say(&[b"INFO", b"memory"]).contains("txt:# Memory used_memory:"));
    talk.say(&[b"HELLO", b"2"]);
    talk.hears("GET a", "$-1");
}

#[test]
fn a_scan_comes_around() {
    let mut talk = talk();
    let names: Vec<String> = (0..300).map(|n| format!("key:{n}")).collect();
    names.iter().for_each(|name| talk.hears(&format!("SET {name} v"), "+OK"));
    talk.hears("SADD other v", ":1");
    let (mut cursor, mut seen) = ("0".to_owned(), std::collections::BTreeSet::new());
    loop {
        let reply = talk.say(&[b"SCAN", cursor.as_bytes(), b"MATCH", b"key:*", b"COUNT", b"20"]);
        let words: Vec<_> = reply.split(' ').collect();
        seen.extend(words[4..].iter().filter(|w| w.starts_with("key:")).map(|w| w.to_string()));
        cursor = words[2].to_owned();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen, names.into_iter().collect());
    talk.hears("HSET fields a 1 b 2", ":2");
    assert_eq!(talk.say(&[b"SSCAN", b"other", b"0"]), "*2 $1 0 *1 $1 v");
    talk.hears("HSCAN fields 0 MATCH b", "*2 $1 0 *2 $1 b $1 2");
    talk.hears("HSCAN fields 0 TYPE hash", "-ERR syntax error");
    let sets = talk.say(&[b"SCAN", b"0", b"TYPE", b"set", b"COUNT", b"10000"]);
    assert_eq!(sets, "*2 $1 0 *1 $5 other");
}

#[test]
fn full_memory_is_an_error_and_no_more() {
    let mut talk = Talk::new(ByteCount::mib(1));
    let value = [7; 3000];
    let oom = "-OOM command not allowed when used memory > 'maxmemory'.";
    let mut stored = 0_u64;
    while talk.say(&[b"SET", format!("k{stored}").as_bytes(), &value]) == "+OK" {
        stored += 1;
    }
    assert!(stored > 150, "only {stored} values of 4 KiB fit in a mebibyte");
    assert_eq!(talk.say(&[b"SET", b"more", &value]), oom);
    // All of it or nothing.
    assert_eq!(talk.say(&[b"MSET", b"m1", b"v", b"m2", &value]), oom);
    talk.hears("EXISTS m1 m2", ":0");
    assert_eq!(talk.say(&[b"APPEND", b"k0", &value]), oom);
    talk.hears("STRLEN k0", ":3000");
    talk.hears("DBSIZE", &format!(":{stored}"));
    // Reading and deleting go on, and make room again.
    talk.hears("DEL k0 k1 k2", ":3");
    assert_eq!(talk.say(&[b"MSET", b"m1", b"v", b"m2", &value]), "+OK");
    talk.hears("FLUSHALL", "+OK");
    for n in 0..stored {
        assert_eq!(talk.say(&[b"SET", format!("k{n}").as_bytes(), &value]), "+OK", "{n}");
    }
}

#[test]
fn commands_describe_themselves() {
    let mut talk = talk();
    talk.hears("COMMAND COUNT", &format!(":{}", table::COMMANDS.len()));
    talk.hears(
        "COMMAND INFO get nope",
        "*2 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *0 *0 *0 *0 $-1",
    );
    let all = talk.say(&[b"COMMAND"]);
    assert!(all.starts_with(&format!("*{} *10 $6 append :3", table::COMMANDS.len())));
}

/// A store in which a block of so many bytes is free, and none that is larger.
fn nearly_full(mut talk: Talk, block: u64) -> (Talk, Vec<At>) {
    talk.store.limit = u64::MAX;
    let heap = &talk.store.heap;
    let blocks: Vec<_> = std::iter::from_fn(|| heap.allocate(block - 8).ok()).collect();
    heap.free(blocks[0]);
    (talk, blocks[1..].to_vec())
}

#[test]
fn what_takes_away_what_it_replies_with_has_room_for_it_or_changes_nothing() {
    let mut talk = talk();
    let value = "v".repeat(3000);
    for number in 0..3 {
        let element = format!("{number}{value}");
        talk.say(&[b"RPUSH", b"list", element.as_bytes()]);
        talk.say(&[b"SADD", b"set", element.as_bytes()]);
    }
    let long = value.repeat(3);
    talk.hears(&format!("SET string {long}"), "+OK");
    let (mut talk, blocks) = nearly_full(talk, 4096);
    for (command, count, left) in [
        ("LPOP list 3", "LLEN list", ":3"),
        ("RPOP list 3", "LLEN list", ":3"),
        ("SPOP set 3", "SCARD set", ":3"),
        ("GETSET string x", "STRLEN string", ":9000"),
        ("SET string x GET", "STRLEN string", ":9000"),
        ("GET string", "STRLEN string", ":9000"),
    ] {
        talk.hears(command, "no room for a reply");
        talk.hears(count, left);
    }
    talk.hears("LPOP list", &format!("$3001 0{value}"));
    blocks.into_iter().for_each(|block| talk.store.heap.free(block));
    talk.hears("RPOP list 3", &format!("*2 $3001 2{value} $3001 1{value}"));
    talk.hears("EXISTS list", ":0");
    let members = talk.say(&[b"SPOP", b"set", b"3"]);
    assert!((0..3).all(|number| members.contains(&format!("{number}{value}"))), "{members}");
    talk.hears("EXISTS set", ":0");
    talk.hears("SET string x GET", &format!("$9000 {long}"));
    talk.hears("GETSET string y", "$1 x");
}

/// Short commands may ask for more than any host has.
#[test]
fn a_reply_takes_no_more_of_the_host_than_the_store_has_room_for() {
    let mut talk = talk();
    let value = "v".repeat(500_000);
    talk.hears(&format!("SET string {value}"), "+OK");
    talk.hears(&format!("HSET hash field {value}"), ":1");
    let counted = [head::COMMANDS, head::HITS, head::MISSES].map(|at| talk.store.arena().load(at));
    for (first, again, times) in
        [("MGET", "string", 2000), ("HMGET hash", "field", 2000), ("COMMAND INFO", "get", 200_000)]
    {
        let mut words: Vec<_> = first.split(' ').map(str::as_bytes).collect();
        words.extend(std::iter::repeat_n(again.as_bytes(), times));
        let (has_room, reply) = talk.reply(&words);
        assert!(!has_room && reply.is_empty(), "{first}");
        assert!(reply.capacity() < 8 << 20, "{first}: {} bytes of the host", reply.capacity());
    }
    let after = [head::COMMANDS, head::HITS, head::MISSES].map(|at| talk.store.arena().load(at));
    assert_eq!(after, counted, "what was not carried out is counted");
    // In a store of any size.
    let mut large = Talk::new(ByteCount::mib(2048));
    large.hears(&format!("SET string {value}"), "+OK");
    let words = [&[b"MGET".as_slice()][..], &[b"string".as_slice(); 1200]].concat();
    assert_eq!(large.say(&words), "no room for a reply");
    assert!(large.reply(&words[..1000]).0, "it is no longer than a string may be");
    talk.hears("HSCAN hash 0 COUNT 100", &format!("*2 $1 0 *2 $5 field $500000 {value}"));
}
