//! A dump is brought in again with the client of Redis: the same data, at another store of ours
//! and at a real server.

use whimbrel_tests::program::Agent;
use whimbrel_tests::redis::{Connection, Reply, Server, tool};

use crate::store;

/// Keys of every kind, and how each is read.
const READ: [&str; 9] = [
    "GET text",
    "GET binary",
    "GET empty",
    "GET large",
    "GET mortal",
    "LRANGE list 0 -1",
    "~~HGETALL hash",
    "~SMEMBERS set",
    "DBSIZE",
];

async fn read(store: &mut Connection, line: &str) -> Reply {
    let bare = line.trim_start_matches('~');
    let words: Vec<_> = bare.split(' ').map(str::as_bytes).collect();
    let reply = store.command(&words).await;
    if bare == line { reply } else { reply.unordered(line.len() - bare.len()) }
}

/// One key of each kind, some of them larger than one command of a dump.
async fn fill(store: &mut Connection) {
    let large = vec![b'x'; 600_000];
    let elements: Vec<String> = (0..2500).map(|n| format!("element {n}")).collect();
    let elements: Vec<&[u8]> = elements.iter().map(String::as_bytes).collect();
    let with = |verb: &'static [u8], key: &'static [u8]| [&[verb, key], &elements[..]].concat();
    let commands: [&[&[u8]]; 8] = [
        &[b"SET", b"text", b"hello"],
        &[b"SET", b"binary", b"\r\n$3\r\n\0\xff"],
        &[b"SET", b"empty", b""],
        &[b"SET", b"large", &large],
        &[b"SET", b"mortal", b"soon", b"EX", b"5000"],
        &with(b"RPUSH", b"list"),
        &with(b"HSET", b"hash"),
        &with(b"SADD", b"set"),
    ];
    for words in commands {
        let reply = store.command(words).await;
        assert!(matches!(reply, Reply::Line('+' | ':', _)), "{reply:?}");
    }
}

#[tokio::test]
async fn a_dump_goes_through_redis_own_client_into_any_store() {
    let (agent, other) = (Agent::start().await, Agent::start().await);
    let (from, to) = (store(&agent, "64MiB").await, store(&other, "64MiB").await);
    let mut original = Connection::to(&from).await;
    fill(&mut original).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store.resp");
    let path = file.to_str().expect("UTF-8");
    let said = agent.ask(&["dump", "store", "--output", path]).await.ended(0);
    assert_eq!(said.out.trim(), path);
    let commands = std::fs::read(&file).expect("a dump");

    let server = Server::start().await;
    let theirs = server.as_ref().map(|server| server.address.clone());
    for address in theirs.into_iter().chain([to]) {
        let mut copy = Connection::to(&address).await;
        // What is there already under a key of the dump is replaced.
        let _ = copy.command(&[b"RPUSH", b"list", b"another"]).await;
        let port = address.rsplit(':').next().expect("a port");
        let Some(said) = tool("redis-cli", &["-p", port, "--pipe"], &commands).await else {
            return;
        };
        assert!(said.contains("errors: 0"), "{said}");
        for line in READ {
            assert_eq!(read(&mut copy, line).await, read(&mut original, line).await, "{line}");
        }
        let Reply::Line(':', left) = read(&mut copy, "TTL mortal").await else { panic!("no TTL") };
        assert!((4000..=5000).contains(&left.parse::<i64>().expect("a number")), "{left}");
    }
}

/// Values for whose reply in one piece the store has no room.
#[tokio::test]
async fn what_is_too_large_for_one_reply_is_dumped_in_pieces() {
    let (agent, other) = (Agent::start().await, Agent::start().await);
    let (from, to) = (store(&agent, "32MiB").await, store(&other, "64MiB").await);
    let mut original = Connection::to(&from).await;
    let (piece, pieces) = (vec![b'p'; 250_000], 11);
    for _ in 0..pieces {
        let reply = original.command(&[b"APPEND", b"long", &piece]).await;
        assert!(matches!(reply, Reply::Line(':', _)), "{reply:?}");
    }
    let element = |n: u32| [n.to_string().into_bytes(), vec![b'x'; 20_000]].concat();
    for n in 0..250 {
        let (n, element) = (n.to_string(), element(n));
        for words in [
            &[b"RPUSH", b"list".as_slice(), &element] as &[&[u8]],
            &[b"SADD", b"set", &element],
            &[b"HSET", b"hash", n.as_bytes(), &element],
        ] {
            let reply = original.command(words).await;
            assert!(matches!(reply, Reply::Line(':', _)), "{reply:?}");
        }
    }
    // What is left is room for some of their elements at a time.
    let mut fillers = 0;
    for size in [400_000, 10_000] {
        let filler = vec![b'x'; size];
        while original.command(&[b"SET", format!("f{fillers}").as_bytes(), &filler]).await
            == Reply::Line('+', "OK".into())
        {
            fillers += 1;
        }
    }
    assert_eq!(original.command(&[b"DEL", b"f0"]).await, Reply::Line(':', "1".into()));
    for line in ["LRANGE list 0 -1", "HGETALL hash", "SMEMBERS set", "GET long"] {
        let refused = read(&mut original, line).await;
        assert!(matches!(&refused, Reply::Line('-', why) if why.starts_with("OOM")), "{line}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("store.resp");
    let path = file.to_str().expect("UTF-8");
    let _ = agent.ask(&["dump", "store", "--output", path]).await.ended(0);
    let port = to.rsplit(':').next().expect("a port");
    let commands = std::fs::read(&file).expect("a dump");
    let Some(said) = tool("redis-cli", &["-p", port, "--pipe"], &commands).await else { return };
    assert!(said.contains("errors: 0"), "{said}");
    let mut copy = Connection::to(&to).await;
    for (count, line) in [("LLEN list", 250), ("SCARD set", 250), ("HLEN hash", 250)] {
        assert_eq!(read(&mut copy, count).await, Reply::Line(':', line.to_string()), "{count}");
    }
    let long = Reply::Bulk('$', piece.repeat(pieces));
    assert!(read(&mut copy, "GET long").await == long, "it is another one");
    for n in 0..250 {
        let (number, element) = (n.to_string(), element(n));
        let at = copy.command(&[b"LRANGE", b"list", number.as_bytes(), number.as_bytes()]).await;
        assert!(at == Reply::Many('*', vec![Reply::Bulk('$', element.clone())]), "{n}");
        let of = copy.command(&[b"HGET", b"hash", number.as_bytes()]).await;
        assert!(of == Reply::Bulk('$', element.clone()), "{n}");
        let there = copy.command(&[b"SISMEMBER", b"set", &element]).await;
        assert_eq!(there, Reply::Line(':', "1".into()), "{n}");
    }
}

#[tokio::test]
async fn only_a_store_is_dumped() {
    let agent = Agent::start().await;
    agent.guest("web", &["--memory", "16MiB", "--dirty-rate", "0"]).await;
    let refused = agent.ask(&["dump", "web", "--output", "-"]).await.ended(6);
    assert!(refused.err.contains("only a key-value guest"), "{refused:?}");
    let unknown = agent.ask(&["dump", "nobody", "--output", "-"]).await.ended(6);
    assert!(unknown.err.contains("nobody"), "{unknown:?}");
}
