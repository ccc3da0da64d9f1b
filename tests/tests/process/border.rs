//! Guests cross the border between Linux and Windows, and what Windows lacks is said. Windows is
//! Wine here.

use std::env::temp_dir;

use whimbrel_tests::program::{Agent, How};
use whimbrel_tests::{demo, windows};

const CROSSINGS: u32 = 10;
const MIB: u64 = 1 << 20;

async fn abroad() -> Agent {
    let how = How { windows: true, ..How::with(&["--die-with-parent"]) };
    Agent::start_as(&temp_dir(), how).await
}

async fn migrate(from: &Agent, to: &Agent, how: &[&str]) {
    let words = ["migrate", "web", &to.address, "--json"];
    let moved = from.ask(&[&words, how].concat()).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
    to.assert_runs("web").await;
}

#[tokio::test]
async fn a_guest_crosses_the_border_ten_times_each_way() {
    if !windows::is_here() {
        return;
    }
    let (here, there) = (Agent::start().await, abroad().await);
    here.guest("web", &["--memory", "64MiB", "--dirty-rate", "20MiB/s"]).await;
    for crossing in 0..CROSSINGS {
        // Each way with a digest of both memories, once encrypted and once in clear.
        let how = ["--verify", "full", "--encrypt", "on"];
        let how = if crossing % 2 == 0 { &how[..2] } else { &how[..] };
        migrate(&here, &there, how).await;
        migrate(&there, &here, how).await;
    }
}

#[tokio::test]
async fn the_demo_runs_with_two_agents_of_windows() {
    if !windows::is_here() {
        return;
    }
    let words = ["demo", "--json", "--memory", "128MiB", "--dirty-rate", "20MiB/s"];
    let said = windows::run(&words).await.ended(0);
    assert_eq!(demo::faults(&said.out, 128 * MIB), [""; 0], "{said:?}");
}

#[tokio::test]
async fn a_guest_of_windows_that_loses_its_agent_ends() {
    if !windows::is_here() {
        return;
    }
    let mut agent = abroad().await;
    agent.guest("web", &["--memory", "16MiB"]).await;
    agent.kill().await;
    agent.start_again().await;
    // It was tied to the agent, whose end has ended it.
    let list = agent.ask(&["list", "--json"]).await.ended(0).json();
    let states: Vec<_> = list.as_array().expect("a list").iter().map(|it| &it["state"]).collect();
    assert!(states.iter().all(|state| **state != "running"), "{list}");
}

#[tokio::test]
async fn what_windows_lacks_is_said() {
    if !windows::is_here() {
        return;
    }
    let said = windows::run(&["doctor", "--json"]).await.ended(0);
    let subjects = ["system", "tracker", "post-copy", "commitment", "marks", "congestion"];
    for subject in subjects {
        assert!(said.out.contains(&format!("\"{subject}\"")), "{subject}: {said:?}");
    }
    assert!(said.out.contains("write-watch is used"), "{said:?}");
}
