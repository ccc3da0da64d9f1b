//! Guests that leave one host at the same time share what it may send.

use whimbrel_control::{Client, Deadlines, api};
use whimbrel_tests::os;
use whimbrel_tests::program::{Agent, How};

/// It writes faster than the host may send.
const GUEST: [&str; 6] = ["--memory", "64MiB", "--working-set", "32MiB", "--dirty-rate", "8MiB/s"];
const MUCH: u64 = 8 << 20;

/// Two guests of one host that move: the second one's weight is three times the first one's.
struct Two {
    here: Agent,
    there: Agent,
    client: Client,
}

impl Two {
    async fn begin(options: &[&str]) -> Self {
        let how = How::with(&[&["--die-with-parent"], options].concat());
        let here = Agent::start_as(&std::env::temp_dir(), how).await;
        let there = Agent::start().await;
        let address = here.address.parse().expect("an address");
        let client = Client::connect(&address, Deadlines::default()).await.expect("it listens");
        for name in ["one", "three"] {
            here.guest(name, &GUEST).await;
        }
        for (name, weight) in [("one", "100"), ("three", "300")] {
            let words = ["migrate", name, &there.address, "--weight", weight, "--detach"];
            // It goes on until the limit is lifted.
            let _ = here.ask(&[&words[..], &["--policy", "wait"]].concat()).await.ended(0);
        }
        Self { here, there, client }
    }

    /// What the lanes of each have carried. Neither of them must have ended.
    async fn carried(&mut self) -> [u64; 2] {
        let mut carried = [0; 2];
        for (name, bytes) in ["one", "three"].into_iter().zip(&mut carried) {
            let request = api::GetMigrationRequest { migration: name.to_owned() };
            let status = self.client.get_migration(request).await.expect("a migration");
            let ended = status.outcome() != api::Outcome::Unspecified;
            assert!(!ended, "{name} ended too early: {}", status.reason);
            *bytes = status.bytes_on_wire;
        }
        carried
    }

    /// What each carries from now on until one of them has carried much.
    async fn carry(&mut self) -> [u64; 2] {
        let carrying = async {
            let before = self.carried().await;
            loop {
                let now = self.carried().await;
                let more = [0, 1].map(|it| now[it] - before[it]);
                if more.iter().any(|more| *more > MUCH) {
                    return more;
                }
            }
        };
        tokio::time::timeout(os::PATIENCE, carrying).await.expect("guests move")
    }

    /// Waits until what they carry is shared so for a while. A guest may have less than its share
    /// for a moment, and lends it: it gets too little of a processor.
    async fn share(&mut self, so: impl Fn([u64; 2]) -> bool) {
        let mut seen = Vec::new();
        let sharing = async {
            loop {
                let carried = self.carry().await;
                seen.push(carried);
                let Some(last) = seen.last_chunk::<3>() else { continue };
                if so([0, 1].map(|it| last.iter().map(|carried| carried[it]).sum())) {
                    return;
                }
            }
        };
        let shared = tokio::time::timeout(os::PATIENCE, sharing).await;
        shared.unwrap_or_else(|_| panic!("never so: {seen:?}"));
    }
}

#[tokio::test]
async fn guests_share_what_a_host_may_send_by_their_weights_and_lend_what_they_leave() {
    let mut two = Two::begin(&["--limit", "48Mbit/s"]).await;
    two.share(|[one, three]| one > 0 && one * 2 < three).await;
    // The heavier one is held back by itself, and the other one has what it leaves.
    let _ = two.here.ask(&["limit", "three", "--rate", "2Mbit/s"]).await.ended(0);
    two.share(|[one, three]| three * 2 < one).await;
    // And the other way around: weights are changed too.
    let words = ["limit", "three", "--rate", "none", "--weight", "100"];
    let _ = two.here.ask(&words).await.ended(0);
    let _ = two.here.ask(&["limit", "one", "--weight", "1000"]).await.ended(0);
    two.share(|[one, three]| three > 0 && three * 2 < one).await;
    let _ = two.here.ask(&["limit", "--host", "none"]).await.ended(0);
    for name in ["one", "three"] {
        two.there.until(name, |guest| guest["state"] == "running").await;
    }
}
