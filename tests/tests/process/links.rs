//! What protects a guest on its way follows from the addresses of its lanes, from what both hosts'
//! policies trust, and from the ticket.

use std::net::IpAddr;

use whimbrel_tests::net::Namespace;
use whimbrel_tests::program::{Agent, Said};
use whimbrel_tests::skipped;

use crate::trusted::{Authority, SMALL, ask, guest};

const OFF: [&str; 2] = ["--encrypt", "off"];

/// An agent that is called on loopback, and has its migration network elsewhere.
async fn networked(ip: IpAddr) -> Agent {
    let network = format!("{ip}/32");
    let how = whimbrel_tests::program::How::with(&["--die-with-parent", "--network", &network]);
    Agent::start_as(&std::env::temp_dir(), how).await
}

fn trust(agent: &Agent, links: &str) {
    agent.set_policy(format!("trusted-links = [{links}]\n"));
}

async fn migrate(from: &Agent, to: &Agent, more: &[&str]) -> Said {
    let words = ["migrate", "web", &to.address, "--json"];
    from.ask(&[words.as_slice(), more].concat()).await
}

/// The agent looks at its policy twice a second.
async fn until(from: &Agent, to: &Agent, why: &str) {
    let asking = async {
        loop {
            let said = migrate(from, to, &OFF).await;
            assert_ne!(said.status, Some(0), "{said:?}");
            if [&said.out, &said.err].iter().any(|said| said.contains(why)) {
                return;
            }
        }
    };
    let within = std::time::Duration::from_secs(120);
    tokio::time::timeout(within, asking).await.unwrap_or_else(|_| panic!("never: {why}"));
}

#[tokio::test]
async fn agents_that_meet_on_loopback_send_nothing_in_clear_over_other_networks() {
    let Some(wire) = Namespace::make() else {
        return skipped("a network of our own takes a privilege");
    };
    let (here, there) = (networked(wire.outside).await, networked(wire.outside).await);
    here.guest("web", &SMALL).await;
    let moved = migrate(&here, &there, &[]).await.ended(0).json();
    assert_eq!((&moved["outcome"], &moved["transport"]), (&"completed".into(), &"tls".into()));
    // One of them has no networks of its own, and would have been sent to in clear.
    let plain = Agent::start().await;
    let refused = migrate(&there, &plain, &OFF).await;
    assert_ne!(refused.status, Some(0), "{refused:?}");
    assert!(format!("{refused:?}").contains("trust"), "{refused:?}");
    plain.guest("web", &SMALL).await;
    let refused = migrate(&plain, &here, &[]).await;
    assert_ne!(refused.status, Some(0), "{refused:?}");
    assert!(format!("{refused:?}").contains("beyond this host"), "{refused:?}");
    let moved = migrate(&plain, &here, &["--encrypt", "on"]).await.ended(0).json();
    assert_eq!((&moved["outcome"], &moved["transport"]), (&"completed".into(), &"tls".into()));
}

#[tokio::test]
async fn memory_travels_in_clear_only_on_links_that_both_hosts_trust() {
    let Some(wire) = Namespace::make() else {
        return skipped("a network of our own takes a privilege");
    };
    let (here, there) = (networked(wire.outside).await, networked(wire.outside).await);
    here.guest("web", &SMALL).await;
    let why = "is on no link that this host trusts";
    let refused = migrate(&here, &there, &OFF).await;
    assert_ne!(refused.status, Some(0), "{refused:?}");
    let said = format!("{refused:?}");
    assert!(said.contains(why) && !said.contains("refuses"), "{said}");
    here.assert_runs("web").await;
    // The source trusts it, the destination another one only.
    trust(&here, "\"198.18.0.0/15\"");
    trust(&there, "\"198.20.0.0/24\"");
    until(&here, &there, "refuses").await;
    let refused = format!("{:?}", migrate(&here, &there, &OFF).await);
    assert!(refused.contains(why) && refused.contains("trusted-links"), "{refused}");
    here.assert_runs("web").await;
    trust(&there, "\"198.18.0.0/15\"");
    let moving = async {
        loop {
            let said = migrate(&here, &there, &OFF).await;
            if said.status == Some(0) {
                return said.json();
            }
        }
    };
    let within = std::time::Duration::from_secs(120);
    let moved = tokio::time::timeout(within, moving).await.expect("both trust the link now");
    let told = (&moved["outcome"], &moved["transport"]);
    assert_eq!(told, (&"completed".into(), &"tcp-signed".into()), "{moved}");
}

#[tokio::test]
async fn a_ticket_says_whether_memory_may_travel_in_clear() {
    let authority = Authority::new().await;
    let policy = "manage = ['ops']\n";
    let ops = authority.person("ops", "30").await;
    let scheduler = authority.person("scheduler", "30").await;
    let a = authority.agent("host-a", 4, policy, &[]).await;
    let b = authority.agent("host-b", 5, policy, &[]).await;
    let uuid = guest(&a, &ops, "web").await;
    let spend = async |signed: &[&str]| {
        let file = authority.path("ticket");
        let words = ["ticket", &uuid, "--from", "host-a", "--to", "host-b", "--out", &file];
        let words = [words.as_slice(), &["--identity", &ops], signed].concat();
        let _ = whimbrel_tests::program::run(&words).await.ended(0);
        let words = ["migrate", "web", &b.address, "--json", "--ticket", &file];
        ask(&a, &scheduler, &[words.as_slice(), &OFF].concat()).await
    };
    let refused = spend(&[]).await.ended(6);
    assert!(refused.out.contains("encrypted only"), "{refused:?}");
    let moved = spend(&OFF).await.ended(0).json();
    assert_eq!(
        (&moved["outcome"], &moved["transport"]),
        (&"completed".into(), &"tcp-signed".into())
    );
}
