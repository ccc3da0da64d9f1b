//! A disk that is full under the journals, at the source or at the destination. What a host
//! cannot hold otherwise is tested where the agent is.

use whimbrel_tests::os::SmallDisk;
use whimbrel_tests::program::{Agent, How};
use whimbrel_tests::skipped;

const GUEST: [&str; 4] = ["--memory", "16MiB", "--dirty-rate", "20MiB/s"];

#[tokio::test]
async fn a_destination_without_disk_space_refuses() {
    let Some(disk) = SmallDisk::mount() else { return skipped("only root may mount a disk") };
    let here = Agent::start().await;
    let there = Agent::start_in(disk.folder()).await;
    here.guest("g", &GUEST).await;
    disk.fill();
    let said = here.ask(&["migrate", "g", &there.address]).await;
    assert!(matches!(said.status, Some(1 | 3 | 6)), "{said:?}");
    assert!(said.err.contains("No space left") || said.out.contains("No space left"), "{said:?}");
    here.assert_runs("g").await;
    disk.empty();
    let _ = here.ask(&["migrate", "g", &there.address]).await.ended(0);
    there.assert_runs("g").await;
}

#[tokio::test]
async fn an_agent_whose_log_finds_no_room_works_on() {
    let how = How { mute: true, ..How::with(&["--die-with-parent"]) };
    let agent = Agent::start_as(&std::env::temp_dir(), how).await;
    agent.guest("g", &GUEST).await;
    agent.assert_runs("g").await;
}

#[tokio::test]
async fn a_source_without_disk_space_starts_no_guest_and_loses_none() {
    let Some(disk) = SmallDisk::mount() else { return skipped("only root may mount a disk") };
    let here = Agent::start_in(disk.folder()).await;
    let there = Agent::start().await;
    here.guest("g", &GUEST).await;
    disk.fill();
    let said = here.ask(&[["run", "--name", "h"].as_slice(), &GUEST].concat()).await;
    assert!(matches!(said.status, Some(1 | 6)), "{said:?}");
    assert!(said.err.contains("No space left"), "{said:?}");
    here.assert_runs("g").await;
    // The journal has its space since the guest began: that is what it was allocated for.
    let moved = here.ask(&["migrate", "g", &there.address, "--json"]).await;
    let (status, owner) = (moved.status, if moved.status == Some(0) { &there } else { &here });
    assert!(matches!(status, Some(0 | 3)), "{moved:?}");
    owner.assert_runs("g").await;
}
