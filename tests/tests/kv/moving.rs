//! Clients stay connected while the store moves, and nothing that they were told is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use whimbrel_tests::program::{Agent, How};
use whimbrel_tests::redis::{Connection, Reply, tool};

use crate::load::{Checker, Writers};
use crate::store;

pub(crate) async fn migrate(from: &Agent, to: &Agent) {
    let moved = from.ask(&["migrate", "store", &to.address, "--json"]).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
    let _ = entrance(to).await;
}

/// Where clients connect to a store: the agent takes those of one that came just after it runs.
pub(crate) async fn entrance(agent: &Agent) -> String {
    let is_open =
        |guest: &Value| guest["state"] == "running" && guest["service_address"].is_string();
    let status = agent.until("store", is_open).await;
    status["service_address"].as_str().expect("it was a string").to_owned()
}

pub(crate) async fn is_sound(agent: &Agent) {
    let status = agent.ask(&["status", "store", "--check", "--json"]).await.ended(0).json();
    assert_eq!(status["check"]["sound"], true, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_ten_moves_back_and_forth() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    let address = store(&here, "64MiB").await;
    let checker = Checker::start(&address, 6).await;
    for _ in 0..10 {
        migrate(&here, &there).await;
        migrate(&there, &here).await;
    }
    assert!(checker.finish().await > 0);
    is_sound(&here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_benchmark_does_not_notice_either() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    let address = store(&here, "128MiB").await;
    let port = address.rsplit(':').next().expect("a port").to_owned();
    let done = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            let kinds = "ping,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,lrange_100,mset";
            let words =
                ["-p", &port, "-c", "50", "-P", "8", "-n", "5000", "-r", "5000", "-t", kinds];
            while !done.load(Ordering::Relaxed) {
                let said = tool("redis-benchmark", &[&words[..], &["-q"]].concat(), b"").await?;
                assert!(said.contains("MSET"), "{said}");
            }
            Some(())
        }
    });
    for _ in 0..10 {
        migrate(&here, &there).await;
        migrate(&there, &here).await;
    }
    done.store(true, Ordering::Relaxed);
    if load.await.expect("no connection was reset").is_some() {
        is_sound(&here).await;
    }
}

/// A store that takes no more says so, and is moved as it is.
#[tokio::test]
async fn a_store_that_is_full_moves() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    let mut client = Connection::to(&store(&here, "16MiB").await).await;
    let (value, mut kept) = (vec![b'v'; 10_000], 0_u32);
    let full = loop {
        let reply = client.command(&[b"SET", format!("k{kept}").as_bytes(), &value]).await;
        if reply != Reply::Line('+', "OK".into()) {
            break reply;
        }
        kept += 1;
    };
    let words = "OOM command not allowed when used memory > 'maxmemory'.";
    assert_eq!(full, Reply::Line('-', words.into()));
    assert!(kept > 500, "only {kept} values of 10 kB fit in 16 MiB");
    migrate(&here, &there).await;
    assert_eq!(client.command(&[b"SET", b"more", &value]).await, full);
    assert_eq!(client.command(&[b"DBSIZE"]).await, Reply::Line(':', kept.to_string()));
    for n in 0..kept {
        let reply = client.command(&[b"GET", format!("k{n}").as_bytes()]).await;
        assert!(reply == Reply::Bulk('$', value.clone()), "{n}");
    }
    is_sound(&there).await;
    assert_eq!(client.command(&[b"FLUSHALL"]).await, Reply::Line('+', "OK".into()));
    assert_eq!(client.command(&[b"SET", b"more", &value]).await, Reply::Line('+', "OK".into()));
}

#[tokio::test]
async fn a_host_relays_until_it_is_told_to_let_go() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    let address = store(&here, "16MiB").await;
    let mut first = Connection::to(&address).await;
    assert_eq!(first.command(&[b"SET", b"a", b"1"]).await, Reply::Line('+', "OK".into()));
    let refused = here.ask(&["release", "store"]).await.ended(6);
    assert!(refused.err.contains("is here"), "{refused:?}");
    migrate(&here, &there).await;
    // Old connections and new ones, through either host.
    let mut second = Connection::to(&address).await;
    let mut third = Connection::to(&entrance(&there).await).await;
    for connection in [&mut first, &mut second, &mut third] {
        let one = Reply::Bulk('$', b"1".to_vec());
        assert_eq!(connection.command(&[b"GET", b"a"]).await, one);
    }
    here.until("store", |guest| guest["state"] == "gone" && guest["carried"] == 2).await;
    let released = here.ask(&["release", "store"]).await.ended(0);
    assert!(released.out.contains("2 connections"), "{released:?}");
    assert!(first.is_closed().await && second.is_closed().await);
    // The guest does not count them any more.
    there.until("store", |guest| guest["clients"] == 1).await;
    assert_eq!(third.command(&[b"INCR", b"a"]).await, Reply::Line(':', "2".into()));
}

/// Each agent tells others that carry clients where the store goes, and is not needed after that.
#[tokio::test(flavor = "multi_thread")]
async fn clients_follow_a_store_over_several_hosts() {
    let (here, mut between, there) =
        (Agent::start().await, Agent::start().await, Agent::start().await);
    let address = store(&here, "64MiB").await;
    let checker = Checker::start(&address, 4).await;
    for _ in 0..3 {
        migrate(&here, &between).await;
        migrate(&between, &there).await;
        migrate(&there, &here).await;
    }
    migrate(&here, &between).await;
    let mut second = Connection::to(&entrance(&between).await).await;
    assert_eq!(second.command(&[b"SET", b"a", b"1"]).await, Reply::Line('+', "OK".into()));
    migrate(&between, &there).await;
    let one = Reply::Bulk('$', b"1".to_vec());
    assert_eq!(second.command(&[b"GET", b"a"]).await, one);
    // Each of them carries those that came to it, and the guest counts them all.
    here.until("store", |guest| guest["state"] == "gone" && guest["carried"] == 4).await;
    between.until("store", |guest| guest["state"] == "gone" && guest["carried"] == 1).await;
    there.until("store", |guest| guest["clients"] == 5).await;
    let released = between.ask(&["release", "store"]).await.ended(0);
    assert!(released.out.contains("1 connection"), "{released:?}");
    assert!(second.is_closed().await);
    there.until("store", |guest| guest["clients"] == 4).await;
    between.kill().await;
    let mut late = Connection::to(&address).await;
    assert_eq!(late.command(&[b"GET", b"a"]).await, one);
    assert!(checker.finish().await > 0);
    is_sound(&there).await;
    let released = here.ask(&["release", "store"]).await.ended(0);
    assert!(released.out.contains("connection"), "{released:?}");
    assert!(late.is_closed().await);
    there.until("store", |guest| guest["clients"] == 0).await;
}

#[tokio::test]
async fn a_relaying_agent_that_is_killed_loses_no_acknowledged_write() {
    let (mut here, there) = (Agent::start().await, Agent::start().await);
    let address = store(&here, "16MiB").await;
    migrate(&here, &there).await;
    let mut client = Connection::to(&address).await;
    assert_eq!(client.command(&[b"INCR", b"a"]).await, Reply::Line(':', "1".into()));
    let writers = Writers::start(&address, 4).await;
    here.kill().await;
    assert!(client.is_closed().await, "its relay was killed");
    here.start_again().await;
    let mut other = Connection::to(&entrance(&there).await).await;
    assert_eq!(other.command(&[b"GET", b"a"]).await, Reply::Bulk('$', b"1".to_vec()));
    writers.have_lost_nothing(&mut other).await;
    // The next agent takes clients where that one did.
    let mut again = Connection::to(&address).await;
    assert_eq!(again.command(&[b"INCR", b"a"]).await, Reply::Line(':', "2".into()));
    there.until("store", |guest| guest["clients"] == 2).await;
}

#[tokio::test]
async fn clients_of_a_guest_that_died_elsewhere_are_not_kept_for_ever() {
    let how = How::with(&["--die-with-parent", "--deadlines", "relay=1s"]);
    let here = Agent::start_as(&std::env::temp_dir(), how).await;
    let there = Agent::start().await;
    let address = store(&here, "16MiB").await;
    migrate(&here, &there).await;
    let mut client = Connection::to(&address).await;
    assert_eq!(client.command(&[b"SET", b"a", b"1"]).await, Reply::Line('+', "OK".into()));
    let _ = there.ask(&["stop", "store"]).await.ended(0);
    assert!(client.is_closed().await, "its guest is no more");
    let logs = here.logs();
    assert!(logs.contains("its clients are disconnected: it was not found for 1s"), "{logs}");
    here.until("store", |guest| guest["carried"] == 0).await;
}
