//! Somebody who may order nothing moves one guest, by a ticket of somebody who may.

use std::fs;

use whimbrel_control::{Client, api};
use whimbrel_tests::program::{Agent, Said, run};

use crate::trusted::{Authority, announcement, ask, client, guest, own, until_refused};

/// The clocks are the same, so that a ticket is over nearly when it says.
const CLOCKS: [&str; 2] = ["--deadlines", "clock-skew=1s"];
const POLICY: &str = "manage = ['ops']\n";

struct World {
    authority: Authority,
    ops: String,
    scheduler: String,
    a: Agent,
    b: Agent,
}

impl World {
    async fn new() -> Self {
        let authority = Authority::new().await;
        let ops = authority.person("ops", "30").await;
        let scheduler = authority.person("scheduler", "30").await;
        let a = authority.agent("host-a", 2, POLICY, &CLOCKS).await;
        let b = authority.agent("host-b", 3, POLICY, &CLOCKS).await;
        Self { authority, ops, scheduler, a, b }
    }

    /// A ticket for this guest, by this signer; the file.
    async fn ticket(&self, by: &str, guest: &str, ways: [&str; 2], lifetime: &str) -> String {
        let file = self.authority.path("ticket");
        let [from, to] = ways;
        let words = ["ticket", guest, "--from", from, "--to", to, "--for", lifetime];
        let _ = run(&[&words[..], &["--out", &file, "--identity", by]].concat()).await.ended(0);
        file
    }

    /// The scheduler spends a ticket on a move of `name` from a to b.
    async fn spend(&self, name: &str, ticket: &str) -> Said {
        let words = ["migrate", name, &self.b.address, "--json", "--ticket", ticket];
        ask(&self.a, &self.scheduler, &words).await
    }

    /// A source of which the first host's agent is not the one that asks: nobody holds anything
    /// against a ticket there.
    async fn lawless(&self) -> Lawless {
        Lawless { client: client(&self.b, own(&self.a)).await, asked: 0 }
    }
}

/// Whoever has the first host's key announces guests to the other host with whatever ticket.
struct Lawless {
    client: Client,
    asked: u64,
}

impl Lawless {
    /// Why the guest is not taken; nothing if it is.
    async fn announces(&mut self, guest: &str, ticket: &[u8], carrier: api::Carrier) -> String {
        self.asked += 1;
        let request = api::PrepareIncomingRequest {
            migration_id: format!("m-{}", self.asked),
            guest_name: "lawless".to_owned(),
            ticket: ticket.to_vec(),
            carrier: carrier.into(),
            ..announcement(guest, &[7; 32])
        };
        let answered = self.client.prepare_incoming(request).await;
        answered.map_or_else(|error| error.to_string(), |_| String::new())
    }

    async fn refused(&mut self, guest: &str, ticket: &str, why: &str) {
        let ticket = fs::read(ticket).expect("a ticket");
        let said = self.announces(guest, &ticket, api::Carrier::Tls).await;
        assert!(said.contains(why), "{why}: {said:?}");
    }
}

#[tokio::test]
async fn a_ticket_moves_its_guest_once_and_nobody_needs_a_standing_right() {
    let mut world = World::new().await;
    let uuid = guest(&world.a, &world.ops, "web").await;
    let words = ["migrate", "web", &world.b.address];
    let refused = ask(&world.a, &world.scheduler, &words).await.ended(6);
    assert!(refused.err.contains("may not order moves"), "{refused:?}");

    let ticket = world.ticket(&world.ops, &uuid, ["host-a", "host-b"], "600s").await;
    let kept = world.authority.path("kept");
    fs::copy(&ticket, &kept).unwrap();
    // What is at the cost of others is not in it, and costs it nothing to be asked for.
    for more in [["--weight", "200"], ["--policy", "switch"], ["--downtime", "301ms"]] {
        let words = ["migrate", "web", &world.b.address, "--json", "--ticket", &ticket];
        let words = [&words[..], &more].concat();
        let refused = ask(&world.a, &world.scheduler, &words).await.ended(6);
        assert!(refused.out.contains(more[0]), "{refused:?}");
    }
    // The scheduler follows what it began, though it may not look at anything else.
    let moved = world.spend("web", &ticket).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
    let _ = ask(&world.b, &world.scheduler, &["list"]).await.ended(6);

    // Home again, by a ticket that the desk signs under the hood.
    let back = ["migrate", "web", &world.a.address, "--json"];
    let back = ask(&world.b, &world.ops, &back).await.ended(0).json();
    assert_eq!(back["outcome"], "completed", "{back}");
    // The first ticket is spent, also for another run of the agent.
    let replayed = world.spend("web", &kept).await.ended(6);
    assert!(replayed.out.contains("spent already"), "{replayed:?}");
    let _ = world.a.end().await;
    world.a.start_again().await;
    let replayed = world.spend("web", &kept).await.ended(6);
    assert!(replayed.out.contains("spent already"), "{replayed:?}");
}

#[tokio::test]
async fn a_ticket_is_good_for_nothing_but_what_it_says() {
    let world = World::new().await;
    let uuid = guest(&world.a, &world.ops, "web").await;
    let other = guest(&world.a, &world.ops, "other").await;
    let ways = ["host-a", "host-b"];
    let refused = |said: Said, why: &str| {
        let said = said.ended(6);
        assert!(said.out.contains(why), "{why}: {said:?}");
    };
    let ticket = world.ticket(&world.ops, &other, ways, "600s").await;
    refused(world.spend("web", &ticket).await, "the ticket is for guest");
    let ticket = world.ticket(&world.ops, &uuid, ["host-a", "host-c"], "600s").await;
    refused(world.spend("web", &ticket).await, "the ticket is for a move to host-c");
    let ticket = world.ticket(&world.ops, &uuid, ["host-b", "host-a"], "600s").await;
    refused(world.spend("web", &ticket).await, "the ticket is for a guest of host-b");
    let ticket = world.ticket(&world.ops, &uuid, ways, "86400s").await;
    refused(world.spend("web", &ticket).await, "at most 3600 s");
    let ticket = world.ticket(&world.scheduler, &uuid, ways, "600s").await;
    refused(world.spend("web", &ticket).await, "the signer of the ticket: scheduler");
    let forger = Authority::new().await;
    let ops = forger.person("ops", "30").await;
    let ticket = world.ticket(&ops, &uuid, ways, "600s").await;
    refused(world.spend("web", &ticket).await, "nobody who is trusted has signed");
    let ticket = world.ticket(&world.ops, &uuid, ways, "600s").await;
    let mut altered = fs::read(&ticket).unwrap();
    // The first byte of the uuid: field, length, version, field, length.
    altered[7] ^= 1;
    fs::write(&ticket, altered).unwrap();
    refused(world.spend("web", &ticket).await, "nobody who is trusted has signed");
    // For another guest until it is over, so that it never moves one.
    let ticket = world.ticket(&world.ops, &other, ways, "0s").await;
    let words = ["migrate", "web", &world.b.address, "--ticket", &ticket];
    until_refused(&world.a, &world.scheduler, &words, "ended").await;
    // Nothing of all that has moved the guest, or kept it from moving; nor does a destination that
    // says no cost the ticket.
    let ticket = world.ticket(&world.ops, &uuid, ways, "600s").await;
    let _ = guest(&world.b, &world.ops, "web").await;
    refused(world.spend("web", &ticket).await, "a guest called `web` is here already");
    let _ = ask(&world.b, &world.ops, &["stop", "web"]).await.ended(0);
    let moved = world.spend("web", &ticket).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
}

/// What a source would not hold against a ticket, the destination does, and the other way around.
#[tokio::test]
async fn the_destination_believes_no_source_about_a_ticket() {
    let world = World::new().await;
    let [uuid, other] =
        ["5a1f", "6b2f"].map(|begin| format!("{begin}6d3e-0c35-4b8e-9a50-0e3f7a9c1d21"));
    let (uuid, other) = (uuid.as_str(), other.as_str());
    let (ops, ways) = (world.ops.as_str(), ["host-a", "host-b"]);
    let mut source = world.lawless().await;
    let refusal = source.announces(uuid, &[], api::Carrier::Tls).await;
    assert!(refusal.contains("send = [\"host-a\"]"), "{refusal}");
    for (by, guest, ways, lifetime, why) in [
        (ops, other, ways, "600s", "the ticket is for guest"),
        (ops, uuid, ["host-a", "host-c"], "600s", "the ticket is for a move to host-c"),
        (ops, uuid, ["host-c", "host-b"], "600s", "the ticket is for a guest of host-c"),
        (ops, uuid, ways, "86400s", "at most 3600 s"),
        (world.scheduler.as_str(), uuid, ways, "600s", "the signer of the ticket: scheduler"),
    ] {
        let ticket = world.ticket(by, guest, ways, lifetime).await;
        source.refused(uuid, &ticket, why).await;
    }
    let ticket = world.ticket(ops, uuid, ways, "600s").await;
    let mut bytes = fs::read(&ticket).expect("a ticket");
    let in_clear = source.announces(uuid, &bytes, api::Carrier::Signed).await;
    assert!(in_clear.contains("encrypted only"), "{in_clear}");
    bytes[7] ^= 1;
    let altered = source.announces(uuid, &bytes, api::Carrier::Tls).await;
    assert!(altered.contains("nobody who is trusted has signed"), "{altered}");
    bytes[7] ^= 1;
    assert_eq!(source.announces(uuid, &bytes, api::Carrier::Tls).await, "", "that is its move");
    source.refused(uuid, &ticket, "spent already").await;
    // It is over as soon as a clock may be wrong by no more.
    let ticket = world.ticket(ops, other, ways, "0s").await;
    let ended = async {
        loop {
            let bytes = fs::read(&ticket).expect("a ticket");
            // For another guest than it is asked for, so that it is never spent.
            let said = source.announces(uuid, &bytes, api::Carrier::Tls).await;
            if !said.contains("the ticket is for guest") {
                return said;
            }
        }
    };
    let said = tokio::time::timeout(std::time::Duration::from_secs(120), ended).await;
    let said = said.expect("it is over soon");
    assert!(said.contains("the ticket ended"), "{said}");
}

/// What somebody signed is worth no more than they are, at both hosts.
#[tokio::test]
async fn a_ticket_of_a_signer_who_was_taken_back_moves_nothing() {
    let world = World::new().await;
    let uuid = guest(&world.a, &world.ops, "web").await;
    let other = guest(&world.a, &world.ops, "other").await;
    let ways = ["host-a", "host-b"];
    let ticket = world.ticket(&world.ops, &uuid, ways, "600s").await;
    let good = fs::read(&ticket).expect("a ticket");
    // One that moves nothing tells when both have heard of it.
    let idle = world.ticket(&world.ops, &other, ways, "600s").await;
    world.authority.revoke("ops", &[&world.a, &world.b]).await;
    let words = ["migrate", "web", &world.b.address, "--ticket", &idle];
    until_refused(&world.a, &world.scheduler, &words, "revoked").await;
    let kept = world.authority.path("kept");
    fs::write(&kept, &good).expect("a file");
    let refused = world.spend("web", &kept).await.ended(6);
    assert!(refused.out.contains("its certificate is revoked"), "{refused:?}");
    let mut source = world.lawless().await;
    let heard = async {
        loop {
            let said = source.announces(&uuid, &fs::read(&idle).unwrap(), api::Carrier::Tls).await;
            if !said.contains("the ticket is for guest") {
                return said;
            }
        }
    };
    let said = tokio::time::timeout(std::time::Duration::from_secs(120), heard).await;
    assert!(said.expect("it hears of it").contains("revoked"));
    source.refused(&uuid, &kept, "its certificate is revoked").await;
}
