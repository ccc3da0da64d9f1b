//! The store by way of the `redis` crate, at rest and on the move.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Commands as _, RedisResult};
use whimbrel_tests::program::{Agent, WATCHDOG};

use crate::store;

/// Each kind of value, as a program of somebody else writes and reads it.
fn converse(client: &mut redis::Connection) -> RedisResult<()> {
    let binary = b"\r\n\0\xff".as_slice();
    client.set::<_, _, ()>("text", "hello")?;
    client.set::<_, _, ()>(binary, binary)?;
    assert_eq!(client.get::<_, String>("text")?, "hello");
    assert_eq!(client.get::<_, Vec<u8>>(binary)?, binary);
    assert_eq!(client.get::<_, Option<String>>("nothing")?, None);
    client.set_ex::<_, _, ()>("mortal", 1, 1000)?;
    assert!((990..=1000).contains(&client.ttl::<_, i64>("mortal")?));
    client.hset_multiple::<_, _, _, ()>("hash", &[("a", 1), ("b", 2)])?;
    let hash: BTreeMap<String, i64> = client.hgetall("hash")?;
    assert_eq!(hash, BTreeMap::from([("a".into(), 1), ("b".into(), 2)]));
    client.rpush::<_, _, ()>("list", &["x", "y", "z"])?;
    assert_eq!(client.lrange::<_, Vec<String>>("list", 0, -1)?, ["x", "y", "z"]);
    client.sadd::<_, _, ()>("set", &["p", "q"])?;
    let set: BTreeSet<String> = client.smembers("set")?;
    assert_eq!(set, BTreeSet::from(["p".into(), "q".into()]));
    let (one, two): (i64, i64) = redis::pipe().incr("pipe", 1).incr("pipe", 1).query(client)?;
    assert_eq!((one, two), (1, 2));
    let wrong = client.incr::<_, _, i64>("text", 1).expect_err("no number");
    assert_eq!(wrong.code(), Some("ERR"), "{wrong}");
    let wrong = client.rpush::<_, _, i64>("text", 1).expect_err("no list");
    assert_eq!(wrong.code(), Some("WRONGTYPE"), "{wrong}");
    let keys: BTreeSet<Vec<u8>> = client.scan()?.collect::<RedisResult<_>>()?;
    assert_eq!(keys.len(), 7, "{keys:?}");
    redis::cmd("FLUSHALL").query(client)
}

/// Counts until it is enough; what was counted.
fn count(client: &mut redis::Connection, key: &str, enough: &AtomicBool) -> RedisResult<i64> {
    let mut counted = 0;
    while !enough.load(Ordering::Relaxed) {
        counted += 1;
        assert_eq!(client.incr::<_, _, i64>(key, 1)?, counted);
    }
    Ok(counted)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_crate_is_served_in_both_versions_and_does_not_notice_a_move() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    let address = store(&here, "32MiB").await;
    let talk = tokio::task::spawn_blocking(move || {
        let connect = |version: &str| {
            let url = format!("redis://{address}/?protocol={version}");
            let mut client = redis::Client::open(url)?.get_connection()?;
            converse(&mut client).map(|()| client)
        };
        Ok::<_, redis::RedisError>([connect("resp2")?, connect("resp3")?])
    });
    let clients = talk.await.expect("no assertion fails").expect("no error is said");
    let enough = Arc::new(AtomicBool::new(false));
    let mut at_work = Vec::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        let enough = Arc::clone(&enough);
        at_work.push(tokio::task::spawn_blocking(move || {
            count(&mut client, &format!("counted:{number}"), &enough)
        }));
    }
    for (from, to) in [(&here, &there), (&there, &here)] {
        let moved = from.ask(&["migrate", "store", &to.address, "--json"]).await.ended(0).json();
        assert_eq!(moved["outcome"], "completed", "{moved}");
        to.until("store", |guest| guest["state"] == "running").await;
    }
    enough.store(true, Ordering::Relaxed);
    for client in at_work {
        let counted = client.await.expect("no reply is wrong").expect("no error is said");
        assert!(counted > 0);
    }
}

/// This crate writes all of a pipeline before it reads anything of the replies.
#[tokio::test]
async fn a_pipeline_that_is_written_as_a_whole_is_answered() {
    let agent = Agent::start().await;
    let address = store(&agent, "512MiB").await;
    let talk = tokio::task::spawn_blocking(move || {
        let mut client = redis::Client::open(format!("redis://{address}/"))?.get_connection()?;
        client.set_read_timeout(Some(WATCHDOG))?;
        client.set_write_timeout(Some(WATCHDOG))?;
        let value = "v".repeat(1000);
        client.set::<_, _, ()>("a", &value)?;
        let mut pipe = redis::pipe();
        for _ in 0..100_000 {
            pipe.get("a");
        }
        let replies: Vec<String> = pipe.query(&mut client)?;
        Ok::<_, redis::RedisError>(replies.iter().filter(|reply| **reply == value).count())
    });
    let answered = talk.await.expect("no panic").expect("no error is said");
    assert_eq!(answered, 100_000);
}
