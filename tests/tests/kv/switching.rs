//! Clients while something breaks in the switchover: nobody hears an error, whoever it is that owns
//! the guest then. Only with the agent that relays them they are reset, and nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use whimbrel_tests::faults::way::{Cut, Held};
use whimbrel_tests::faults::{Fate, Step};
use whimbrel_tests::program::Agent;
use whimbrel_tests::redis::{Connection, Reply};

use crate::breaking::{Leg, agent, filled_store, kill_guest};
use crate::load::{Checker, Pinger, Writers};
use crate::moving::{entrance, is_sound, migrate};
use crate::store;

/// What breaks at which step, after what was said then has arrived, or with it.
const CUTS: [(Step, Cut, Fate); 10] = [
    (Step::Announce, Cut::Control, Fate::Lost),
    (Step::Announce, Cut::Control, Fate::Delivered),
    (Step::Prepare, Cut::Control, Fate::Lost),
    (Step::Prepare, Cut::Control, Fate::Delivered),
    (Step::Prepare, Cut::OneLane, Fate::Delivered),
    (Step::Prepared, Cut::Control, Fate::Lost),
    (Step::Prepared, Cut::Control, Fate::Delivered),
    (Step::Grant, Cut::Control, Fate::Lost),
    (Step::Grant, Cut::Control, Fate::Delivered),
    (Step::Running, Cut::Control, Fate::Lost),
];

/// The gap that a client feels has all of the one that the guest has seen. That it has little else
/// is a matter of the order in which things happen, see below.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_waits_as_long_as_the_reported_blackout() {
    // With deadlines that a slow look at the destination does not come near.
    let (here, there) = (Agent::start().await, Agent::start().await);
    let address = store(&here, "32MiB").await;
    let pinger = Pinger::start(&address).await;
    let leg = Leg::between(&here, &there).await;
    let mut stood = Duration::ZERO;
    // For a while it runs at the source no more, and at the destination not yet.
    let holds = async |held: Held| {
        let since = Instant::now();
        let _ = there.status("store").await;
        stood = since.elapsed();
        held.go(Fate::Delivered).await;
    };
    let moved = leg.moved(&here.address, Step::Grant, holds).await.ended(0).json();
    let blackout = Duration::from_micros(moved["blackout_us"].as_u64().expect("a gap"));
    assert!(blackout >= stood, "it stood still for {stood:?}: {moved}");
    let pings = pinger.finish().await;
    // The last answer before it stood still may have come late: what it answers was asked before.
    let around = pings.windows(2).map(|two| two[1].answered - two[0].asked).max();
    let around = around.expect("some were answered");
    assert!(around >= stood, "it was answered after {around:?}, within {stood:?}");
}

/// Whoever carries a client asks for the guest where it will run, and waits for nothing that ends
/// with the move.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_answered_before_the_source_has_heard_that_the_guest_runs() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    let mut client = Connection::to(&store(&here, "32MiB").await).await;
    let incr: [&[u8]; 2] = [b"INCR", b"a"];
    assert_eq!(client.command(&incr).await, Reply::Line(':', "1".into()));
    let leg = Leg::between(&here, &there).await;
    let mut then = None;
    let holds = async |held: Held| {
        assert_eq!(client.command(&incr).await, Reply::Line(':', "2".into()));
        then = Some(here.status("store").await);
        held.go(Fate::Delivered).await;
    };
    let moved = leg.moved(&here.address, Step::Running, holds).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
    let then = then.expect("it was answered");
    assert!(then["state"] != "gone", "the source has done with it: {then}");
    here.until("store", |guest| guest["state"] == "gone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_that_a_link_is_lost_in_the_switchover() {
    let (here, there) = (agent(&["--die-with-parent"]).await, agent(&["--die-with-parent"]).await);
    let checker = Checker::start(&filled_store(&here).await, 4).await;
    let (mut legs, hits) = (Vec::new(), AtomicU32::new(0));
    for (number, (step, cut, fate)) in CUTS.into_iter().enumerate() {
        let (from, to) = if number % 2 == 0 { (&here, &there) } else { (&there, &here) };
        let leg = Leg::between(from, to).await;
        let (way, hits) = (Arc::clone(&leg.way), &hits);
        let breaks = async move |held: Held| {
            held.go(fate).await;
            // Without its last word the control link is lost already, and after a late one it may
            // be of no use any more.
            hits.fetch_add(u32::from(way.cut(cut) || fate == Fate::Lost), Ordering::Relaxed);
        };
        let moved = leg.moved(&from.address, step, breaks).await.ended(0).json();
        assert_eq!(moved["outcome"], "completed", "{step:?}, {cut:?}, {fate:?}: {moved}");
        to.until("store", |guest| guest["state"] == "running").await;
        legs.push(leg);
    }
    assert!(hits.into_inner() > CUTS.len() as u32 / 2, "most were cut");
    assert!(checker.finish().await > 0);
    is_sound(&here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_that_the_destination_dies_before_it_was_granted_anything() {
    let (here, there) = (agent(&["--die-with-parent"]).await, agent(&["--die-with-parent"]).await);
    let checker = Checker::start(&filled_store(&here).await, 4).await;
    for step in [Step::Announce, Step::Prepared] {
        let leg = Leg::between(&here, &there).await;
        let kill = async |held: Held| {
            kill_guest(&there);
            held.go(Fate::Lost).await;
        };
        let said = leg.moved(&here.address, step, kill).await.ended(3).json();
        assert_eq!(said["outcome"], "aborted", "{step:?}: {said}");
        here.until("store", |guest| guest["state"] == "running").await;
    }
    migrate(&here, &there).await;
    assert!(checker.finish().await > 0);
    is_sound(&there).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_that_the_source_dies_once_it_has_granted() {
    let (here, there) = (agent(&["--die-with-parent"]).await, agent(&["--die-with-parent"]).await);
    let checker = Checker::start(&filled_store(&here).await, 4).await;
    let mut legs = Vec::new();
    // The grant arrives, or only the record of the dead tells that it was given.
    for (from, to, fate) in [(&here, &there, Fate::Delivered), (&there, &here, Fate::Lost)] {
        let leg = Leg::between(from, to).await;
        let kill = async |held: Held| {
            kill_guest(from);
            held.go(fate).await;
        };
        // It has moved; what the source knew of how is lost.
        let moved = leg.moved(&from.address, Step::Grant, kill).await.ended(7).json();
        assert_eq!(moved["outcome"], "completed", "{fate:?}: {moved}");
        to.until("store", |guest| guest["state"] == "running").await;
        legs.push(leg);
    }
    assert!(checker.finish().await > 0);
    is_sound(&here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relaying_agent_that_is_killed_in_the_switchover_loses_no_acknowledged_write() {
    for step in [Step::Prepare, Step::Grant] {
        let (mut here, there) = (agent(&[]).await, agent(&["--die-with-parent"]).await);
        let address = filled_store(&here).await;
        let writers = Writers::start(&address, 4).await;
        let leg = Leg::between(&here, &there).await;
        let from = here.address.clone();
        let kill = async |held: Held| {
            here.kill().await;
            held.go(Fate::Delivered).await;
        };
        // Whoever asked for the move has lost the agent.
        let _ = leg.moved(&from, step, kill).await.ended(5);
        // The processes need no agent.
        let entered = entrance(&there).await;
        here.start_again().await;
        writers.have_lost_nothing(&mut Connection::to(&entered).await).await;
        let mut again = Connection::to(&address).await;
        let written = again.command(&[b"SET", b"again", b"1"]).await;
        assert_eq!(written, Reply::Line('+', "OK".into()), "{step:?}");
        here.until("store", |guest| guest["state"] == "gone").await;
        is_sound(&there).await;
    }
}
