//! Guests come to a host where the process of one that has moved away has not ended yet.

mod common;

use common::{
    AgentProcess, MIB, WATCHDOG, ended, guest, guest_when, is_alive, migrate_request, signal,
    start_filled,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use whimbrel_control::api::{self, GuestState, MigrationStatus, Outcome};

/// Two agents, the guest `web` of the first one at the second, and its process here, which stands
/// still: this agent was started again, and has not heard of it.
struct LeftBehind {
    here: AgentProcess,
    there: AgentProcess,
    process: u32,
    _lifeline: std::process::ChildStdin,
}

impl Drop for LeftBehind {
    fn drop(&mut self) {
        if is_alive(self.process) {
            signal(self.process, "-KILL");
        }
    }
}

impl LeftBehind {
    /// The first host may promise as much as one guest has, and not two.
    async fn begin() -> Self {
        let memory = format!("memory={}", 48 * MIB);
        let mut here = AgentProcess::start_with(&[&memory]);
        let there = AgentProcess::start();
        let mut source = here.client().await;
        let before = start_filled(&mut source, "web", 32 * MIB).await;
        let begun = source.migrate(migrate_request("web", &there.address)).await.unwrap();
        let lifeline = here.kill();
        let mut destination = there.client().await;
        let last = ended(&mut destination, &begun.migration_id).await;
        assert_eq!(last.outcome(), Outcome::Completed, "{}", last.reason);
        // The destination is done before this side has it in its record.
        timeout(WATCHDOG, async {
            while !here.guest_logs().contains("the migration ended") {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it ends on both sides");
        signal(before.pid, "-STOP");
        // The next one waits so long for what stands still, and for the process of a guest that
        // comes in.
        here.arguments.push("process_call_ms=5000".to_owned());
        here.restart();
        Self { here, there, process: before.pid, _lifeline: lifeline }
    }

    /// Begins to move a guest of the second host to the first one.
    async fn send_back(&self, name: &str) -> JoinHandle<MigrationStatus> {
        let (mut client, request) =
            (self.there.client().await, migrate_request(name, &self.here.address));
        tokio::spawn(async move {
            let begun = client.migrate(request).await.unwrap();
            ended(&mut client, &begun.migration_id).await
        })
    }

    async fn arrives(&self, name: &str, moving: JoinHandle<MigrationStatus>) {
        let last = moving.await.unwrap();
        assert_eq!(last.outcome(), Outcome::Completed, "{}", last.reason);
        assert!(!is_alive(self.process), "two processes of one guest");
        let mut client = self.here.client().await;
        let runs = |guest: &api::Guest| guest.state() == GuestState::Running;
        guest_when(&mut client, name, runs).await;
    }
}

#[tokio::test]
async fn a_guest_that_comes_back_is_taken_when_its_process_here_has_ended() {
    let left = LeftBehind::begin().await;
    let gone = guest(&mut left.here.client().await, "web").await.unwrap();
    assert_eq!((gone.state(), gone.pid), (GuestState::Gone, left.process), "{}", gone.state_reason);
    let moving = left.send_back("web").await;
    signal(left.process, "-CONT");
    left.arrives("web", moving).await;
}

#[tokio::test]
async fn a_guest_is_not_refused_for_what_one_that_has_left_gives_back() {
    let left = LeftBehind::begin().await;
    start_filled(&mut left.there.client().await, "two", 32 * MIB).await;
    let moving = left.send_back("two").await;
    signal(left.process, "-CONT");
    left.arrives("two", moving).await;
}
