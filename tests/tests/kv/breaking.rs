//! Clients while what carries the move breaks, and while the side dies that does not own the guest:
//! as pages are sent. What breaks in the switchover is in `switching`.

use std::pin::pin;
use std::sync::Arc;

use tokio::time::timeout;
use whimbrel_tests::faults::host::HERE;
use whimbrel_tests::faults::usher::{Led, Usher};
use whimbrel_tests::faults::way::{Cut, Held, Way};
use whimbrel_tests::faults::{Fate, Step};
use whimbrel_tests::os;
use whimbrel_tests::program::{Agent, How, Said, run};
use whimbrel_tests::redis::{Connection, Reply};

use crate::load::Checker;
use crate::moving::is_sound;
use crate::store;

const MEMORY: u64 = 128 << 20;

/// An agent that does not wait long for a peer that is dead.
pub(crate) async fn agent(more: &[&str]) -> Agent {
    let deadlines = "greeting=5s,silence=4s,resume=5s,doubt=3s,peer-connect=3s,abandon=5s";
    let options = [&["--deadlines", deadlines], more].concat();
    Agent::start_as(&std::env::temp_dir(), How::with(&options)).await
}

/// From one agent to the other, by ways that can be cut.
pub(crate) struct Leg {
    pub(crate) way: Arc<Way>,
    address: String,
    /// Clients are carried through them too, as long as the guest is there.
    _ushers: [Usher; 2],
}

impl Leg {
    pub(crate) async fn between(from: &Agent, to: &Agent) -> Self {
        let way = Arc::new(Way::begin(HERE, MEMORY).await);
        let back = Usher::stand(HERE, &from.address, None).await;
        let led = Led { way: Arc::clone(&way), questions: back.address };
        let there = Usher::stand(HERE, &to.address, Some(led)).await;
        Self { way, address: there.address.to_string(), _ushers: [there, back] }
    }

    /// Has the agent at `from` move the store, and does something as the step comes. Whatever the
    /// agent says of the move.
    pub(crate) async fn moved(
        &self,
        from: &str,
        step: Step,
        breaks: impl AsyncFnOnce(Held),
    ) -> Said {
        let held = self.way.expect(step);
        let words = ["migrate", "store", &self.address, "--lanes", "2", "--json", "--agent", from];
        let mut moving = pin!(run(&words));
        let held = tokio::select! {
            held = timeout(os::PATIENCE, held) => held.expect("the step comes"),
            said = &mut moving => panic!("it has ended before {step:?}: {said:?}"),
        };
        tokio::join!(moving, breaks(held.expect("the way is there"))).0
    }
}

/// A store with something that takes a while to send: where it is entered.
pub(crate) async fn filled_store(agent: &Agent) -> String {
    let address = store(agent, "128MiB").await;
    let mut client = Connection::to(&address).await;
    let value: Vec<u8> =
        (0..60_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for n in 0..100 {
        let key = format!("filling:{n}");
        let reply = client.command(&[b"SET", key.as_bytes(), &value]).await;
        assert_eq!(reply, Reply::Line('+', "OK".into()));
    }
    address
}

/// Kills the one process of a guest that an agent has.
pub(crate) fn kill_guest(agent: &Agent) {
    let processes = os::mentioning(&format!("{}/guests", agent.data().display()));
    assert_eq!(processes.len(), 1, "{processes:?}");
    processes.into_iter().for_each(os::kill);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_that_lanes_and_links_are_lost() {
    let (here, there) = (agent(&["--die-with-parent"]).await, agent(&["--die-with-parent"]).await);
    let checker = Checker::start(&filled_store(&here).await, 4).await;
    let mut legs = Vec::new();
    let cuts = [Cut::OneLane, Cut::Control, Cut::HalfALane, Cut::Lanes];
    for (number, cut) in cuts.into_iter().enumerate() {
        let (from, to) = if number % 2 == 0 { (&here, &there) } else { (&there, &here) };
        let leg = Leg::between(from, to).await;
        let way = Arc::clone(&leg.way);
        let said = leg
            .moved(&from.address, Step::FirstRound, async move |held| {
                way.cut(cut);
                held.go(Fate::Delivered).await;
            })
            .await;
        let moved = said.ended(0).json();
        assert_eq!(moved["outcome"], "completed", "{cut:?}: {moved}");
        to.until("store", |guest| guest["state"] == "running").await;
        legs.push(leg);
    }
    assert!(checker.finish().await > 0);
    is_sound(&here).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_that_the_destination_dies() {
    let (here, mut there) = (agent(&["--die-with-parent"]).await, agent(&[]).await);
    let checker = Checker::start(&filled_store(&here).await, 4).await;
    // Its guest process, and then its agent too.
    let guests = format!("{}/guests", there.data().display());
    let leg = Leg::between(&here, &there).await;
    let kill = async |held: Held| {
        kill_guest(&there);
        held.go(Fate::Lost).await;
    };
    let said = leg.moved(&here.address, Step::FirstRound, kill).await.ended(3).json();
    assert_eq!(said["outcome"], "aborted", "{said}");
    here.until("store", |guest| guest["state"] == "running").await;
    let leg = Leg::between(&here, &there).await;
    let kill = async |held: Held| {
        there.kill().await;
        os::mentioning(&guests).into_iter().for_each(os::kill);
        held.go(Fate::Lost).await;
    };
    let said = leg.moved(&here.address, Step::FirstRound, kill).await.ended(3).json();
    assert_eq!(said["outcome"], "aborted", "{said}");
    // It comes back, and the guest goes there after all.
    there.start_again().await;
    here.until("store", |guest| guest["state"] == "running").await;
    let moved = here.ask(&["migrate", "store", &there.address, "--json"]).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
    assert!(checker.finish().await > 0);
    is_sound(&there).await;
    let _ = there.ask(&["stop", "store"]).await.ended(0);
}
