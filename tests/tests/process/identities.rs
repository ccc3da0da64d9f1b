//! Agents that ask everybody who they are: certificates, pairing, and the policy.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use whimbrel_tests::net::Namespace;
use whimbrel_tests::program::{Agent, How, Said, run};
use whimbrel_tests::skipped;

use crate::trusted::{Authority, ask, guest, own, secure_agent, until_refused};

/// Ten times what the slowest of these waits takes.
const WATCHDOG: Duration = Duration::from_secs(120);
/// What is told about somebody whom nobody vouches for.
const STRANGER: &str = "does not know our identity";
/// How a record of TLS begins that says what went wrong.
const ALERT: u8 = 21;

#[tokio::test]
async fn certified_hosts_move_guests_for_those_who_may_order_it() {
    let authority = Authority::new().await;
    let ops = authority.person("ops", "30").await;
    let monitor = authority.person("monitor", "30").await;
    let policy = "manage = ['ops']\nlook = ['monitor']\n";
    let a = authority.agent("host-a", 2, policy, &[]).await;
    let b = authority.agent("host-b", 3, policy, &[]).await;
    guest(&a, &ops, "web").await;

    // Who may only look looks, and is told which line is missing for more.
    let seen = ask(&a, &monitor, &["list", "--json"]).await.ended(0).json();
    assert_eq!(seen[0]["name"], "web", "{seen}");
    let refused = ask(&a, &monitor, &["stop", "web"]).await.ended(6);
    assert!(refused.err.contains("monitor (SHA256:"), "{refused:?}");
    assert!(refused.err.contains("manage = [\"ops\", \"monitor\"]"), "{refused:?}");
    let refused = ask(&a, &monitor, &["migrate", "web", &b.address]).await.ended(6);
    assert!(refused.err.contains("may not order moves"), "{refused:?}");

    // The host itself may do everything here, but the other one says nothing of it.
    let itself = own(&a).to_str().expect("UTF-8").to_owned();
    let refused = ask(&a, &itself, &["migrate", "web", &b.address]).await.ended(6);
    assert!(refused.err.contains("refuses") && refused.err.contains("host-a"), "{refused:?}");
    b.set_policy(format!("{policy}send = ['host-a']\n"));
    let moved = moves(&a, &itself, &b).await;
    assert_eq!(moved["outcome"], "completed", "{moved}");
    let there = ask(&b, &monitor, &["status", "web", "--json"]).await.ended(0).json();
    assert_eq!(there["state"], "running", "{there}");
}

/// Nobody has told it to, and nobody has made it an identity.
#[tokio::test]
async fn beyond_this_host_an_agent_asks_everybody_who_they_are() {
    let Some(wire) = Namespace::make() else {
        return skipped("a network of our own takes a privilege");
    };
    let how = How { ip: Some(wire.outside), ..How::with(&["--die-with-parent"]) };
    let agent = Agent::start_as(&std::env::temp_dir(), how).await;
    let mut tcp = TcpStream::connect(&agent.address).await.expect("it listens");
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = timeout(WATCHDOG, tcp.read_to_end(&mut answer)).await.expect("it hangs up");
    assert!(answer.len() <= 7 && answer.first().is_none_or(|it| *it == ALERT), "{answer:?}");
    let stranger = TempDir::new().expect("a folder");
    let stranger = stranger.path().join("identity").to_str().expect("UTF-8").to_owned();
    let _ = known_by(&stranger).await;
    let refused = ask(&agent, &stranger, &["list"]).await;
    assert_ne!(refused.status, Some(0), "{refused:?}");
    let itself = own(&agent).to_str().expect("UTF-8").to_owned();
    let _ = ask(&agent, &itself, &["list"]).await.ended(0);
}

/// A move that is allowed from the moment on at which the agent has read its policy again.
async fn moves(from: &Agent, identity: &str, to: &Agent) -> serde_json::Value {
    let asking = async {
        loop {
            let words = ["migrate", "web", &to.address, "--json"];
            let said = ask(from, identity, &words).await;
            if said.status != Some(6) {
                return said.ended(0).json();
            }
        }
    };
    timeout(WATCHDOG, asking).await.expect("it moves")
}

#[tokio::test]
async fn strangers_the_expired_and_the_revoked_are_refused() {
    let authority = Authority::new().await;
    let (ops, late) = (authority.person("ops", "30").await, authority.person("late", "0").await);
    let other = Authority::new().await;
    let stranger = other.person("ops", "30").await;
    let policy = "look = ['ops', 'late']\n";
    let a = authority.agent("host-a", 2, policy, &[]).await;
    let _ = ask(&a, &ops, &["list"]).await.ended(0);

    let said = ask(&a, &stranger, &["list"]).await.ended(6);
    assert!(said.err.contains("certifies"), "{said:?}");
    until_refused(&a, &late, &["list"], "expired").await;
    // Without an identity there is no talking, on this host either.
    let said = run(&["list", "--agent", &a.address]).await.ended(6);
    assert!(said.err.contains("prove who they are") && said.err.contains("--identity"), "{said:?}");
    // A plain agent shows nothing to one who asks for proof.
    let plain = Agent::start().await;
    let said = ask(&plain, &ops, &["list"]).await.ended(6);
    assert!(said.err.contains("asks for no identity") && said.out.is_empty(), "{said:?}");

    authority.revoke("ops", &[&a]).await;
    until_refused(&a, &ops, &["list"], "revoked").await;
    assert!(a.logs().contains("was not let in"), "{}", a.logs());
}

/// The clients that a host carries to a guest which left it are let go with the trust in it.
#[tokio::test]
async fn a_host_that_is_trusted_no_more_carries_nobody() {
    let authority = Authority::new().await;
    let ops = authority.person("ops", "30").await;
    let policy = "manage = ['ops']\nsend = ['host-a']\n";
    let a = authority.agent("host-a", 2, policy, &[]).await;
    let b = authority.agent("host-b", 3, policy, &[]).await;
    let words = ["run", "--name", "web", "--guest", "kv", "--memory", "16MiB", "--json"];
    let _ = ask(&a, &ops, &words).await.ended(0);
    let status =
        async |agent: &Agent| ask(agent, &ops, &["status", "web", "--json"]).await.ended(0).json();
    let address = status(&a).await["service_address"].as_str().expect("a port").to_owned();
    let mut client = TcpStream::connect(&address).await.expect("it listens");
    let mut pong = [0; 7];
    let said = async |client: &mut TcpStream, pong: &mut [u8]| {
        client.write_all(b"PING\r\n").await?;
        timeout(WATCHDOG, client.read_exact(pong)).await.expect("it answers or hangs up")
    };
    assert!(said(&mut client, &mut pong).await.is_ok() && &pong == b"+PONG\r\n");
    let moved = moves(&a, &ops, &b).await;
    assert_eq!(moved["outcome"], "completed", "{moved}");
    assert!(said(&mut client, &mut pong).await.is_ok() && status(&b).await["clients"] == 1);

    authority.revoke("host-a", &[&b]).await;
    let said_so = || b.logs().contains("a relay is let go: its host is not trusted any more");
    timeout(WATCHDOG, async {
        while !said_so() {
            tokio::task::yield_now().await
        }
    })
    .await
    .unwrap();
    // It is kept for the guest, and heard once the host may speak with it again.
    let missed = || a.logs().contains("its clients wait: it is not found");
    timeout(WATCHDOG, async {
        while !missed() {
            tokio::task::yield_now().await
        }
    })
    .await
    .unwrap();
    client.write_all(b"PING\r\n").await.expect("its host holds it still");
    fs::remove_file(b.data().join("identity/revoked.pem")).expect("it was there");
    timeout(WATCHDOG, client.read_exact(&mut pong))
        .await
        .expect("in time")
        .expect("it is answered");
}

/// The fingerprint of the identity in a folder; made if there is none.
async fn known_by(folder: &str) -> String {
    let said = run(&["identity", "--json", "--identity", folder]).await.ended(0).json();
    said["fingerprint"].as_str().expect("a fingerprint").to_owned()
}

async fn pair(folder: &str, words: &[&str]) -> Said {
    run(&[&["pair", "--identity", folder], words].concat()).await
}

#[tokio::test]
async fn a_key_is_trusted_after_it_was_compared_and_only_where_it_answers() {
    let temp = TempDir::new().expect("a folder");
    let desk = temp.path().join("desk").to_str().expect("UTF-8").to_owned();
    let a = secure_agent([127, 0, 0, 2].into(), "manage = ['ops']\n", &[], |_| ()).await;
    let b = secure_agent([127, 0, 0, 3].into(), "send = ['a']\n", &[], |_| ()).await;
    let [at_a, at_b] = [&a, &b].map(|agent| own(agent).to_str().expect("UTF-8").to_owned());
    let of_ops = known_by(&desk).await;
    let (of_a, of_b) = (known_by(&at_a).await, known_by(&at_b).await);

    // The other one's key, or nobody to compare: nothing is paired.
    let said = pair(&desk, &[&a.address, "--name", "a", "--fingerprint", &of_b]).await.ended(6);
    assert!(said.err.contains("somebody stands in between"), "{said:?}");
    let said = pair(&desk, &[&a.address]).await.ended(2);
    assert!(said.err.contains("--fingerprint"), "{said:?}");
    let said = ask(&a, &desk, &["list"]).await.ended(6);
    assert!(said.err.contains("not paired"), "{said:?}");

    let _ = pair(&desk, &[&a.address, "--name", "a", "--fingerprint", &of_a]).await.ended(0);
    let said = ask(&a, &desk, &["list"]).await.ended(6);
    assert!(said.err.contains(STRANGER), "{said:?}");
    let _ = pair(&at_a, &["--name", "ops", "--fingerprint", &of_ops]).await.ended(0);
    let _ = pair(&at_a, &[&b.address, "--name", "b", "--fingerprint", &of_b]).await.ended(0);
    let _ = pair(&at_b, &[&a.address, "--name", "a", "--fingerprint", &of_a]).await.ended(0);
    // The name is taken.
    let said = pair(&at_a, &["--name", "b", "--fingerprint", &of_a]).await.ended(6);
    assert!(said.err.contains("another key"), "{said:?}");
    let at_work = async { while ask(&a, &desk, &["list"]).await.status != Some(0) {} };
    timeout(WATCHDOG, at_work).await.expect("it reads whom it trusts again");
    guest(&a, &desk, "web").await;

    // The desk does not know b, so that it signs nothing: what counts is what a may send where.
    // It, too, reads whom it trusts again.
    until_refused(&a, &desk, &["migrate", "web", &b.address], "receive = [\"b\"]").await;
    let policy = "manage = ['ops']\nreceive = ['b']\n";
    a.set_policy(policy);
    let moved = moves(&a, &desk, &b).await;
    assert_eq!(moved["outcome"], "completed", "{moved}");
    let _ = run(&["unpair", "ops", "--identity", &at_a]).await.ended(0);
    until_refused(&a, &desk, &["list"], STRANGER).await;
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_allows_nothing_and_says_so() {
    let authority = Authority::new().await;
    let ops = authority.person("ops", "30").await;
    let a = authority.agent("host-a", 2, "manage = ['ops']\n", &[]).await;
    let _ = ask(&a, &ops, &["list"]).await.ended(0);
    a.set_policy("mange = ['ops']\n");
    let broken = async {
        loop {
            let said = ask(&a, &ops, &["list"]).await;
            if said.status != Some(0) {
                return said;
            }
        }
    };
    // The agent has answered: it is there.
    let said = timeout(WATCHDOG, broken).await.expect("it is read again").ended(6);
    assert!(said.err.contains("unknown field `mange`"), "{said:?}");
    let data = a.data().to_str().expect("UTF-8");
    let found = run(&["doctor", "--data", data, "--json"]).await;
    assert!(found.out.contains("unknown field `mange`"), "{found:?}");
}

/// The policy of either host changes, or a host's certificate is taken back, while memory flows.
#[tokio::test]
async fn trust_that_is_withdrawn_ends_a_move_that_is_under_way() {
    let authority = Authority::new().await;
    let ops = authority.person("ops", "30").await;
    let manage = "manage = ['ops']\n";
    let (receive, send) = ("receive = ['host-b']\n", "send = ['host-a']\n");
    let a = authority.agent("host-a", 2, &format!("{manage}{receive}"), &[]).await;
    let b = authority.agent("host-b", 3, &format!("{manage}{send}"), &[]).await;
    guest(&a, &ops, "web").await;
    // Whoever has `order` on both would sign a ticket, and a move by ticket rests on no policy.
    let itself = own(&a).to_str().expect("UTF-8").to_owned();
    for (agent, right, line) in [(&b, "send", send), (&a, "receive", receive)] {
        let id = sets_out(&a, &itself, &b).await;
        agent.set_policy(manage);
        ends_for(&a, &ops, &id, right).await;
        agent.set_policy(format!("{manage}{line}"));
    }
    let id = sets_out(&a, &itself, &b).await;
    // Who may look no more hears no more; who may not order it cannot end it.
    a.set_policy(receive);
    let watched = ask(&a, &ops, &["watch", &id, "--json"]).await;
    assert_eq!(watched.status, Some(6), "{watched:?}");
    authority.revoke("host-b", &[&a]).await;
    ends_for(&a, &itself, &id, "revoked").await;
}

/// A move that takes longer than anybody needs to change their mind; its id.
async fn sets_out(from: &Agent, identity: &str, to: &Agent) -> String {
    let asking = async {
        loop {
            let words =
                ["migrate", "web", &to.address, "--detach", "--json", "--limit", "256KiB/s"];
            let said = ask(from, identity, &words).await;
            if said.status != Some(6) {
                return said.ended(0).json()["migration"].as_str().expect("an id").to_owned();
            }
        }
    };
    timeout(WATCHDOG, asking).await.expect("it begins")
}

async fn ends_for(at: &Agent, identity: &str, migration: &str, why: &str) {
    let ended = ask(at, identity, &["watch", migration, "--json"]).await.ended(3).json();
    let reason = ended["reason"].as_str().expect("a reason");
    assert!(reason.contains("trust was withdrawn") && reason.contains(why), "{why}: {reason}");
}
