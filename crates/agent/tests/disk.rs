//! A data folder on a disk that is full.

mod common;

use std::time::Instant;

use common::{AgentProcess, MIB, ended, filled, guest, guest_when, migrate_request, stress};
use whimbrel_control::api::{self, GuestState, Outcome};

/// Room for the files of one guest with some bytes to spare, and for the agent's own.
const DISK: &str = "256k";

#[tokio::test]
async fn a_full_disk_is_said_and_guests_go_on() {
    let Some(here) = AgentProcess::on_a_small_disk(DISK) else {
        common::skipped("no small disk can be mounted without privileges here");
        return;
    };
    let there = AgentProcess::start();
    let mut source = here.client().await;
    filled(&mut source, stress("web", 16 * MIB)).await;
    here.fill_disk();
    // A new guest has no room for its journal.
    let refused = source.start_guest(stress("second", 16 * MIB)).await.unwrap_err();
    assert!(refused.to_string().contains("space"), "{refused}");
    assert_eq!(guest(&mut source, "web").await.unwrap().state(), GuestState::Running);
    // The journal of the first has its blocks: records are written in place.
    let begun = source.migrate(migrate_request("web", &there.address)).await.unwrap();
    let last = ended(&mut source, &begun.migration_id).await;
    assert_eq!(last.outcome(), Outcome::Completed, "{}", last.reason);

    // What the guest has left behind gives room once its process has ended: twice, as what is
    // kept of it is written just after that.
    let began = Instant::now();
    while here.remembers_a_process() {
        assert!(began.elapsed() < common::WATCHDOG, "its process does not end");
    }
    here.fill_disk();
    here.fill_disk();
    // A guest that comes to a full disk is refused, and goes on where it is.
    let mut destination = there.client().await;
    let refused = destination.migrate(migrate_request("web", &here.address)).await.unwrap_err();
    assert!(refused.to_string().contains("space"), "{refused}");
    let operations = |guest: &api::Guest| guest.stress.as_ref().map_or(0, |s| s.operations);
    let before = guest(&mut destination, "web").await.unwrap();
    guest_when(&mut destination, "web", |now| operations(now) > operations(&before)).await;
}
