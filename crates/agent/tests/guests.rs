//! Guests of one agent: begun, looked at, found again, lost and stopped.

mod common;

use common::{AgentProcess, MIB, guest, guest_when, is_alive, kill, start_filled, stress};
use tonic::Code;
use whimbrel_control::api::{self, GuestState};

fn stop(name: &str, force: bool) -> api::StopGuestRequest {
    api::StopGuestRequest { guest: name.to_owned(), force }
}

#[tokio::test]
async fn a_guest_starts_works_checks_itself_and_stops_without_a_trace() {
    let agent = AgentProcess::start();
    let mut client = agent.client().await;
    let seen = start_filled(&mut client, "web", 32 * MIB).await;
    assert_eq!((seen.kind.as_str(), seen.memory_bytes), ("stress", 32 * MIB));
    assert_eq!(seen.standing, "owner");
    assert!(seen.rss_bytes > 32 * MIB, "{}", seen.rss_bytes);
    let worked = |guest: &api::Guest| guest.stress.as_ref().is_some_and(|s| s.operations > 100);
    guest_when(&mut client, &seen.uuid, worked).await;
    let report = client.check_guest(api::CheckGuestRequest { guest: "web".to_owned() }).await;
    let report = report.unwrap();
    assert!(report.sound, "{}", report.sentence);
    assert_eq!(report.pages_checked, 32 * MIB / 4096);
    client.stop_guest(stop("web", false)).await.unwrap();
    assert!(!is_alive(seen.pid));
    assert!(agent.guest_folders().is_empty());
    assert_eq!(guest(&mut client, "web").await.unwrap_err().refusal(), Some(Code::NotFound));
}

/// What a process has open that others can have as well: files, sockets and pipes, each by name.
#[cfg(target_os = "linux")]
fn open_files(pid: u32) -> std::collections::BTreeSet<std::path::PathBuf> {
    let numbers = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let names = numbers.filter_map(|number| std::fs::read_link(number.unwrap().path()).ok());
    // All of these have one name, and are made by who has them.
    let own = |name: &std::path::PathBuf| name.to_string_lossy().starts_with("anon_inode:");
    names.filter(|name| !name.starts_with("/dev") && !own(name)).collect()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_guest_process_inherits_nothing_but_what_it_is_given() {
    // Whoever runs the tests may have left files open for all, as Cargo does.
    let for_all = open_files(std::process::id());
    let agent = AgentProcess::start();
    let mut client = agent.client().await;
    let first = start_filled(&mut client, "one", 16 * MIB).await;
    let second = start_filled(&mut client, "two", 16 * MIB).await;
    let mut of_agent = open_files(agent.pid());
    of_agent.retain(|name| !for_all.contains(name));
    assert!(of_agent.iter().any(|name| name.ends_with("agent.lock")), "{of_agent:?}");
    // The agent of the tests is started with a parent to die with.
    let lifeline = std::fs::read_link(format!("/proc/{}/fd/0", agent.pid())).unwrap();
    for (guest, other) in [(&first, &second), (&second, &first)] {
        let open = open_files(guest.pid);
        assert!(open.contains(&lifeline), "{open:?}");
        let shared = open.intersection(&of_agent).filter(|name| **name != lifeline);
        let is_log = |name: &&std::path::PathBuf| name.ends_with("log");
        let given =
            |name: &&std::path::PathBuf| is_log(name) && !open_files(other.pid).contains(*name);
        let shared: Vec<_> = shared.filter(|name| !given(name)).collect();
        assert!(shared.is_empty(), "{shared:?}");
    }
}

#[tokio::test]
async fn what_the_host_cannot_hold_is_refused_and_leaves_nothing() {
    let agent = AgentProcess::start_with(&["memory=100663296", "guests=2"]);
    let mut client = agent.client().await;
    let refused = client.start_guest(stress("big", 128 * MIB)).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Code::ResourceExhausted));
    assert!(refused.to_string().contains("no room"), "{refused}");
    start_filled(&mut client, "one", 16 * MIB).await;
    let refused = client.start_guest(stress("one", 16 * MIB)).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Code::AlreadyExists));
    let refused = client.start_guest(stress("two words", 16 * MIB)).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Code::InvalidArgument));
    let refused = client.start_guest(stress("odd", 16 * MIB + 1)).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Code::InvalidArgument));
    client.start_guest(stress("two", 16 * MIB)).await.unwrap();
    let refused = client.start_guest(stress("three", 16 * MIB)).await.unwrap_err();
    assert!(refused.to_string().contains("limit of 2 guests"), "{refused}");
    assert_eq!(agent.guest_folders().len(), 2);
    let host = client.get_host(api::GetHostRequest {}).await.unwrap();
    assert_eq!((host.guests, host.memory_promised_bytes), (2, 32 * MIB));
    assert_eq!(host.memory_free_bytes, 64 * MIB);
    assert!(host.trackers.iter().any(|tracker| tracker.usable), "{:?}", host.trackers);
}

#[tokio::test]
async fn an_agent_that_was_killed_finds_its_guests_again() {
    let mut agent = AgentProcess::start();
    let mut client = agent.client().await;
    let before = start_filled(&mut client, "web", 16 * MIB).await;
    agent.kill_and_restart();
    let mut client = agent.client().await;
    let after = guest(&mut client, "web").await.unwrap();
    assert_eq!(
        (after.state(), &after.uuid, after.pid),
        (GuestState::Running, &before.uuid, before.pid)
    );
    let operations = |guest: &api::Guest| guest.stress.as_ref().unwrap().operations;
    let done = operations(&before);
    guest_when(&mut client, "web", |guest| operations(guest) > done).await;
    client.stop_guest(stop("web", false)).await.unwrap();
    assert!(!is_alive(before.pid));
}

#[tokio::test]
async fn a_guest_process_that_died_is_noticed_with_and_without_an_agent() {
    let mut agent = AgentProcess::start();
    let mut client = agent.client().await;
    let first = start_filled(&mut client, "first", 16 * MIB).await;
    let second = start_filled(&mut client, "second", 16 * MIB).await;
    kill(first.pid);
    // While it dies it only does not answer.
    let died = |guest: &api::Guest| guest.state_reason.contains("died");
    let seen = guest_when(&mut client, "first", died).await;
    assert_eq!(seen.state(), GuestState::Failed);
    let lifeline = agent.kill();
    kill(second.pid);
    agent.restart();
    drop(lifeline);
    let mut client = agent.client().await;
    for name in ["first", "second"] {
        let seen = guest(&mut client, name).await.unwrap();
        assert_eq!(seen.state(), GuestState::Failed, "{name}: {}", seen.state_reason);
        client.stop_guest(stop(name, false)).await.unwrap();
    }
    assert!(agent.guest_folders().is_empty());
}

#[tokio::test]
async fn a_second_agent_on_the_folder_is_refused() {
    let agent = AgentProcess::start();
    let said = agent.second_on_the_same_folder();
    assert!(said.contains("another agent works in"), "{said}");
}

#[tokio::test]
async fn guests_of_an_agent_that_dies_with_its_parent_die_too() {
    let mut agent = AgentProcess::start();
    let mut client = agent.client().await;
    let seen = start_filled(&mut client, "web", 16 * MIB).await;
    // The agent is killed; its guest hangs on the same lifeline as it did.
    let lifeline = agent.kill();
    assert!(is_alive(seen.pid));
    drop(lifeline);
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
    let gone = async {
        while is_alive(seen.pid) {
            looks.tick().await;
        }
    };
    tokio::time::timeout(common::WATCHDOG, gone).await.expect("the guest process ends");
}
