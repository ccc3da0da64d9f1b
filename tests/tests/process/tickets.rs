//! Somebody who may order nothing moves one guest, by a ticket of somebody who may.

use std::fs;

use whimbrel_tests::program::{Agent, Said, run};

use crate::trusted::{Authority, ask, guest, until_refused};

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
