//! Guests move between two agents, and stay where they are when they cannot.

mod common;

use std::path::PathBuf;

use common::{
    AgentProcess, MIB, WATCHDOG, ended, filled, guest, guest_when, is_alive, kill, migrate_request,
    restless, start_filled, stress,
};
use tonic::Code;
use whimbrel_control::api::{self, GuestState, Outcome};
use whimbrel_control::{AgentAddress, Client};

async fn check(client: &mut Client, name: &str) -> api::CheckReport {
    client.check_guest(api::CheckGuestRequest { guest: name.to_owned() }).await.unwrap()
}

/// A migration that goes on until it is cancelled: for a restless guest no downtime is short
/// enough.
fn endless(name: &str, to: &AgentAddress) -> api::MigrateRequest {
    let mut request = migrate_request(name, to);
    let options = request.options.as_mut().unwrap();
    options.set_policy(api::Policy::Wait);
    options.downtime_limit_us = Some(1);
    request
}

async fn cancel(client: &mut Client, migration: &str) -> api::CancelMigrationResponse {
    let request = api::CancelMigrationRequest { migration: migration.to_owned() };
    client.cancel_migration(request).await.unwrap()
}

/// The guest runs here and all its memory is as it should be.
async fn goes_on(client: &mut Client, name: &str) {
    let operations = |guest: &api::Guest| guest.stress.as_ref().map_or(0, |s| s.operations);
    let running = |guest: &api::Guest| guest.state() == GuestState::Running;
    let before = guest_when(client, name, running).await;
    guest_when(client, name, |now| running(now) && operations(now) > operations(&before)).await;
    let report = check(client, name).await;
    assert!(report.sound, "{}", report.sentence);
}

/// Nothing of an attempt is left: no guest, no process, and of its files at most the record that
/// it never ran here, for those who ask.
async fn has_nothing(agent: &AgentProcess) {
    let mut client = agent.client().await;
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
    let clearing = async {
        loop {
            let list = api::ListGuestsRequest { include_gone: true };
            let guests = client.list_guests(list).await.unwrap().guests;
            let left = |guest: &api::Guest| guest.pid != 0 || guest.standing != "refused";
            let bare = |folder: &PathBuf| !folder.join("process").exists();
            let folders = agent.guest_folders();
            if !guests.iter().any(left) && folders.len() == guests.len() && folders.iter().all(bare)
            {
                return;
            }
            looks.tick().await;
        }
    };
    tokio::time::timeout(WATCHDOG, clearing).await.expect("the attempt is cleared away");
}

fn expect_whole_report(report: &api::MigrationReport) {
    let parts = report.downtime_parts.expect("the parts of the downtime");
    let sum = parts.pause_us
        + parts.harvest_us
        + parts.state_us
        + parts.last_pages_us
        + parts.prepared_us
        + parts.grant_us
        + parts.run_us
        + parts.verify_us;
    assert!(report.downtime_us > 0 && report.downtime_us.abs_diff(sum) < 6, "{report:?}");
    assert!(report.blackout_us.is_some_and(|us| us > 0), "{report:?}");
    assert!(report.lost_us.is_some(), "{report:?}");
    assert_eq!(report.guest_ram_bytes, 64 * MIB);
    assert_eq!(report.pages_verified, 64 * MIB / 4096);
    assert!(report.bytes_on_wire > 64 * MIB, "{report:?}");
    assert!(report.throughput_mib_s > 0.0);
    assert!(report.cpu_source_ms.is_some_and(|ms| ms > 0), "{report:?}");
    assert!(report.cpu_destination_ms.is_some_and(|ms| ms > 0), "{report:?}");
    for peak in [report.peak_rss_source_bytes, report.peak_rss_destination_bytes] {
        assert!(peak.is_some_and(|peak| peak > 64 * MIB && peak < 512 * MIB), "{report:?}");
    }
}

#[tokio::test]
async fn a_guest_moves_there_and_back() {
    let (here, there) = (AgentProcess::start(), AgentProcess::start());
    let (mut source, mut destination) = (here.client().await, there.client().await);
    let before = start_filled(&mut source, "web", 64 * MIB).await;
    let begun = source.migrate(migrate_request("web", &there.address)).await.unwrap();
    let last = ended(&mut source, &begun.migration_id).await;
    assert_eq!(last.outcome(), Outcome::Completed, "{}", last.reason);
    expect_whole_report(last.report.as_ref().unwrap());
    assert!(!last.rounds.is_empty() && last.lanes.len() == 2, "{last:?}");
    goes_on(&mut destination, "web").await;
    let after = guest(&mut destination, &before.uuid).await.unwrap();
    assert_eq!((after.standing.as_str(), after.term_generation), ("owner", 2));
    let left = guest(&mut source, "web").await.unwrap();
    assert_eq!((left.state(), left.standing.as_str()), (GuestState::Gone, "ceded"));
    guest_when(&mut source, "web", |guest| guest.pid == 0).await;
    assert!(!is_alive(before.pid), "the source's process has ended");
    let list = source.list_guests(api::ListGuestsRequest::default()).await.unwrap();
    assert!(list.guests.is_empty());

    let begun = destination.migrate(migrate_request("web", &here.address)).await.unwrap();
    let last = ended(&mut destination, &begun.migration_id).await;
    assert_eq!(last.outcome(), Outcome::Completed, "{}", last.reason);
    goes_on(&mut source, "web").await;
    let back = guest(&mut source, "web").await.unwrap();
    assert_eq!((&back.uuid, back.term_generation), (&before.uuid, 3));
}

#[tokio::test]
async fn a_destination_that_cannot_take_the_guest_refuses_with_a_reason() {
    let here = AgentProcess::start();
    let mut source = here.client().await;
    start_filled(&mut source, "web", 16 * MIB).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_address: AgentAddress = silent.local_addr().unwrap().to_string().parse().unwrap();
    let nobody: AgentAddress = "127.0.0.1:1".parse().unwrap();
    let small = AgentProcess::start_with(&["memory=8388608"]);
    let full = AgentProcess::start_with(&["guests=0"]);
    let busy = AgentProcess::start_with(&["migrations=0"]);
    let namesake = AgentProcess::start();
    start_filled(&mut namesake.client().await, "web", 16 * MIB).await;
    let cases = [
        (&nobody, Code::Unavailable, "no agent answers"),
        (&silent_address, Code::Unavailable, "not a Whimbrel agent"),
        (&here.address, Code::InvalidArgument, "this host itself"),
        (&small.address, Code::ResourceExhausted, "no room"),
        (&full.address, Code::ResourceExhausted, "limit of 0 guests"),
        (&busy.address, Code::ResourceExhausted, "0 guests are moving to"),
        (&namesake.address, Code::AlreadyExists, "choose another name"),
    ];
    for (address, code, why) in cases {
        let refused = source.migrate(migrate_request("web", address)).await.unwrap_err();
        assert_eq!(refused.refusal(), Some(code), "{refused}");
        assert!(refused.to_string().contains(why), "{refused}");
        goes_on(&mut source, "web").await;
    }
    for agent in [&small, &full, &busy] {
        has_nothing(agent).await;
    }
}

#[tokio::test]
async fn settings_and_names_that_make_no_sense_are_refused() {
    let (here, there) = (AgentProcess::start(), AgentProcess::start());
    let mut source = here.client().await;
    start_filled(&mut source, "web", 16 * MIB).await;
    let asked = |change: fn(&mut api::MigrationOptions)| {
        let mut request = migrate_request("web", &there.address);
        change(request.options.as_mut().unwrap());
        request
    };
    let cases = [
        (asked(|options| options.lanes = Some(0)), "1 to 128"),
        (asked(|options| options.throttle_limit_percent = Some(100)), "0 to 99"),
        (asked(|options| options.scrub_percent = Some(101)), "0 to 100"),
        (asked(|options| options.tracker = Some("telepathy".to_owned())), "telepathy"),
        (api::MigrateRequest { destination: "a:b:c".to_owned(), ..asked(|_| ()) }, "brackets"),
    ];
    for (request, why) in cases {
        let refused = source.migrate(request).await.unwrap_err();
        assert_eq!(refused.refusal(), Some(Code::InvalidArgument), "{refused}");
        assert!(refused.to_string().contains(why), "{refused}");
    }
    let refused = source.migrate(migrate_request("nobody", &there.address)).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Code::NotFound), "{refused}");
    has_nothing(&there).await;
    goes_on(&mut source, "web").await;
}

#[tokio::test]
async fn a_migration_is_cancelled_and_leaves_nothing_and_a_moving_guest_moves_once() {
    let (here, there) = (AgentProcess::start(), AgentProcess::start());
    let mut source = here.client().await;
    filled(&mut source, restless("web")).await;
    for _ in 0..2 {
        let begun = source.migrate(endless("web", &there.address)).await.unwrap();
        let twice = source.migrate(endless("web", &there.address)).await.unwrap_err();
        assert!(twice.to_string().contains("already moving"), "{twice}");
        let stop = api::StopGuestRequest { guest: "web".to_owned(), force: false };
        let stopped = source.stop_guest(stop).await.unwrap_err();
        assert!(stopped.to_string().contains("cancel"), "{stopped}");
        let cancelled = cancel(&mut source, "web").await;
        assert!(cancelled.accepted, "{}", cancelled.sentence);
        let last = ended(&mut source, &begun.migration_id).await;
        assert_eq!(last.outcome(), Outcome::Aborted);
        assert_eq!(last.fault(), api::Fault::Cancelled, "{}", last.reason);
        goes_on(&mut source, "web").await;
        has_nothing(&there).await;
        let again = api::CancelMigrationRequest { migration: begun.migration_id };
        let again = source.cancel_migration(again).await.unwrap_err();
        assert!(again.to_string().contains("ended already"), "{again}");
    }
}

#[tokio::test]
async fn whoever_has_cancelled_a_migration_finds_nothing_of_it_on_either_side() {
    let (here, there) = (AgentProcess::start(), AgentProcess::start());
    let (mut source, mut destination) = (here.client().await, there.client().await);
    filled(&mut source, restless("web")).await;
    for round in 0..4 {
        source.migrate(endless("web", &there.address)).await.unwrap();
        let canceller = if round % 2 == 0 { &mut source } else { &mut destination };
        assert!(cancel(canceller, "web").await.accepted);
        let list = api::ListGuestsRequest { include_gone: false };
        let listed = destination.list_guests(list).await.unwrap().guests;
        assert_eq!(listed, [], "in round {round}");
    }
}

#[tokio::test]
async fn simultaneous_migrations_are_limited_at_the_source_too() {
    let here = AgentProcess::start_with(&["migrations=1"]);
    let there = AgentProcess::start();
    let mut source = here.client().await;
    filled(&mut source, restless("one")).await;
    filled(&mut source, restless("two")).await;
    source.migrate(endless("one", &there.address)).await.unwrap();
    let refused = source.migrate(endless("two", &there.address)).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Code::ResourceExhausted), "{refused}");
    goes_on(&mut source, "two").await;
    assert!(cancel(&mut source, "one").await.accepted);
}

#[tokio::test]
async fn two_guests_move_at_once_and_two_come_the_other_way() {
    let (here, there) = (AgentProcess::start(), AgentProcess::start());
    let (mut source, mut destination) = (here.client().await, there.client().await);
    let mut begun = Vec::new();
    for name in ["one", "two"] {
        start_filled(&mut source, name, 16 * MIB).await;
        start_filled(&mut destination, &format!("{name}-back"), 16 * MIB).await;
    }
    for name in ["one", "two"] {
        let there = source.migrate(migrate_request(name, &there.address)).await.unwrap();
        let back = migrate_request(&format!("{name}-back"), &here.address);
        let back = destination.migrate(back).await.unwrap();
        begun.push((there.migration_id, back.migration_id));
    }
    for (there, back) in begun {
        for last in [ended(&mut source, &there).await, ended(&mut destination, &back).await] {
            assert_eq!(last.outcome(), Outcome::Completed, "{}", last.reason);
        }
    }
    for name in ["one", "two"] {
        goes_on(&mut destination, name).await;
        goes_on(&mut source, &format!("{name}-back")).await;
    }
}

#[tokio::test]
async fn a_guest_that_is_stopped_by_force_on_its_way_is_nowhere() {
    let (here, there) = (AgentProcess::start(), AgentProcess::start());
    let mut source = here.client().await;
    let before = filled(&mut source, restless("web")).await;
    let begun = source.migrate(endless("web", &there.address)).await.unwrap();
    let stop = api::StopGuestRequest { guest: "web".to_owned(), force: true };
    source.stop_guest(stop).await.unwrap();
    assert!(!is_alive(before.pid));
    let last = ended(&mut source, &begun.migration_id).await;
    assert_eq!(last.outcome(), Outcome::Aborted, "{}", last.reason);
    has_nothing(&there).await;
    let list = source.list_guests(api::ListGuestsRequest::default()).await.unwrap();
    assert!(list.guests.is_empty(), "{list:?}");
}

#[tokio::test]
async fn strangers_on_the_ports_disturb_nobody() {
    use std::io::Write;
    let (here, there) = (AgentProcess::start(), AgentProcess::start());
    let mut source = here.client().await;
    filled(&mut source, restless("web")).await;
    let expected = there.client().await.prepare_incoming(announcement("other", UUID)).await;
    let port = expected.unwrap().address;
    let mut open = Vec::new();
    let mut bother = |port: &str| {
        for words in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0xff; 8192], &[0; 8192], b""] {
            let mut stranger = std::net::TcpStream::connect(port).unwrap();
            // It may be shown the door before it has finished.
            let _ = stranger.write_all(words);
            open.push(stranger);
        }
    };
    // A guest that is expected is waited for so long, and no longer.
    bother(&port);
    let begun = source.migrate(endless("web", &there.address)).await.unwrap();
    bother(&here.address.to_string());
    bother(&there.address.to_string());
    let running = api::GetMigrationRequest { migration: begun.migration_id.clone() };
    let running = source.get_migration(running).await.unwrap();
    assert_eq!(running.outcome(), Outcome::Unspecified, "{}", running.reason);
    assert!(cancel(&mut source, &begun.migration_id).await.accepted);
    goes_on(&mut source, "web").await;
    assert_eq!(there.client().await.host().product, "whimbrel");
}

#[tokio::test]
async fn a_migration_survives_the_death_of_both_agents() {
    let (mut here, mut there) = (AgentProcess::start(), AgentProcess::start());
    let mut source = here.client().await;
    let before = filled(&mut source, restless("web")).await;
    let begun = source.migrate(endless("web", &there.address)).await.unwrap();
    here.kill_and_restart();
    there.kill_and_restart();
    let mut source = here.client().await;
    let found = api::GetMigrationRequest { migration: begun.migration_id.clone() };
    let found = source.get_migration(found).await.unwrap();
    assert_eq!(found.outcome(), Outcome::Unspecified, "{}", found.reason);
    assert_eq!(guest(&mut source, "web").await.unwrap().state(), GuestState::Migrating);
    let mut destination = there.client().await;
    let coming = guest(&mut destination, &before.uuid).await.unwrap();
    assert_eq!(coming.state(), GuestState::Migrating);
    assert!(cancel(&mut source, &begun.migration_id).await.accepted);
    let last = ended(&mut source, &begun.migration_id).await;
    assert_eq!(last.outcome(), Outcome::Aborted);
    goes_on(&mut source, "web").await;
    has_nothing(&there).await;
}

#[tokio::test]
async fn a_migration_completes_while_no_agent_looks() {
    let (mut here, mut there) = (AgentProcess::start(), AgentProcess::start());
    let mut source = here.client().await;
    let before = start_filled(&mut source, "web", 64 * MIB).await;
    source.migrate(migrate_request("web", &there.address)).await.unwrap();
    let lifelines = (here.kill(), there.kill());
    here.restart();
    there.restart();
    let mut destination = there.client().await;
    goes_on(&mut destination, &before.uuid).await;
    let mut source = here.client().await;
    let gone = |guest: &api::Guest| guest.state() == GuestState::Gone && guest.pid == 0;
    guest_when(&mut source, "web", gone).await;
    assert!(!is_alive(before.pid));
    drop(lifelines);
}

#[tokio::test]
async fn the_guest_stays_when_its_destination_process_dies() {
    let (here, there) = (AgentProcess::start(), AgentProcess::start());
    let mut source = here.client().await;
    filled(&mut source, restless("web")).await;
    let mut request = endless("web", &there.address);
    request.options.as_mut().unwrap().resume_window_ms = Some(100);
    let begun = source.migrate(request).await.unwrap();
    let coming = guest(&mut there.client().await, "web").await.unwrap();
    kill(coming.pid);
    let last = ended(&mut source, &begun.migration_id).await;
    assert_eq!((last.outcome(), last.fault()), (Outcome::Aborted, api::Fault::Link), "{last:?}");
    goes_on(&mut source, "web").await;
    has_nothing(&there).await;
}

#[tokio::test]
async fn nothing_is_left_at_the_destination_when_the_source_process_dies() {
    let here = AgentProcess::start_with(&["abandon_ms=500"]);
    let there = AgentProcess::start();
    let mut source = here.client().await;
    let before = filled(&mut source, restless("web")).await;
    let begun = source.migrate(endless("web", &there.address)).await.unwrap();
    kill(before.pid);
    let last = ended(&mut source, &begun.migration_id).await;
    assert_eq!((last.outcome(), last.fault()), (Outcome::Aborted, api::Fault::Guest), "{last:?}");
    let lost = guest(&mut source, "web").await.unwrap();
    assert_eq!(lost.state(), GuestState::Failed);
    has_nothing(&there).await;
}

fn announcement(name: &str, uuid: &str) -> api::PrepareIncomingRequest {
    api::PrepareIncomingRequest {
        migration_id: format!("of {name}"),
        guest_uuid: uuid.to_owned(),
        guest_name: name.to_owned(),
        kind: "stress".to_owned(),
        state_version: 1,
        memory_bytes: 16 * MIB,
        protocol_version_min: 1,
        protocol_version_max: 1,
        agent_host: String::new(),
        agent_port: 1,
        ..Default::default()
    }
}

const UUID: &str = "01234567-89ab-cdef-0123-456789abcdef";

#[tokio::test]
async fn a_source_that_announces_a_guest_and_never_comes_leaves_nothing() {
    let there = AgentProcess::start();
    let mut client = there.client().await;
    client.prepare_incoming(announcement("web", UUID)).await.unwrap();
    let coming = guest(&mut client, "web").await.unwrap();
    assert_eq!(coming.state(), GuestState::Migrating);
    has_nothing(&there).await;
    assert!(!is_alive(coming.pid));
    let last = ended(&mut client, "of web").await;
    assert_eq!(last.outcome(), Outcome::Aborted, "{}", last.reason);
}

#[tokio::test]
async fn announcements_are_counted_and_taken_back() {
    let there = AgentProcess::start_with(&["migrations=1"]);
    let mut client = there.client().await;
    let expected = client.prepare_incoming(announcement("web", UUID)).await.unwrap();
    let other = announcement("other", "11234567-89ab-cdef-0123-456789abcdef");
    let refused = client.prepare_incoming(other.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("limit"), "{refused}");
    let twice = client.prepare_incoming(announcement("again", UUID)).await.unwrap_err();
    assert_eq!(twice.refusal(), Some(Code::AlreadyExists), "{twice}");
    let cancel = api::CancelIncomingRequest {
        migration_id: "of web".to_owned(),
        token: expected.token.clone(),
    };
    let stranger = api::CancelIncomingRequest { token: vec![0; 16], ..cancel.clone() };
    let refused = client.cancel_incoming(stranger).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Code::PermissionDenied), "{refused}");
    assert!(client.cancel_incoming(cancel.clone()).await.unwrap().accepted);
    has_nothing(&there).await;
    // The folder goes first; its place is another's when the end of it is written down.
    ended(&mut client, "of web").await;
    assert!(!client.cancel_incoming(cancel).await.unwrap().accepted);
    client.prepare_incoming(other).await.unwrap();
}

#[tokio::test]
async fn an_announced_guest_is_waited_for_on_the_configured_port() {
    // Outside of what the system gives to whoever asks for any port.
    let port = 21_210;
    let there = AgentProcess::start_with(&[&format!("port={port}")]);
    let mut client = there.client().await;
    let expected = client.prepare_incoming(announcement("web", UUID)).await.unwrap();
    assert_eq!(expected.address, format!("127.0.0.1:{port}"));
    // The range is used up: the second is refused, and the first is not disturbed.
    let other = announcement("other", "11234567-89ab-cdef-0123-456789abcdef");
    let refused = client.prepare_incoming(other).await.unwrap_err();
    assert!(refused.to_string().contains("no port"), "{refused}");
    assert_eq!(guest(&mut client, "web").await.unwrap().state(), GuestState::Migrating);
    assert_eq!(there.guest_folders().len(), 1);
}

#[tokio::test]
async fn only_so_many_guests_that_left_are_remembered() {
    let here = AgentProcess::start_with(&["remembered=1"]);
    let there = AgentProcess::start();
    let mut source = here.client().await;
    // Its clients are carried until somebody releases it: it is none of the surplus.
    let kv = api::guest_config::Kind::Kv(api::KvConfig::default());
    let config = Some(api::GuestConfig { memory_bytes: 16 * MIB, kind: Some(kv) });
    let store = api::StartGuestRequest { name: "store".to_owned(), config };
    filled(&mut source, store).await;
    for name in ["store", "one", "two", "three"] {
        if name != "store" {
            start_filled(&mut source, name, 16 * MIB).await;
        }
        let begun = source.migrate(migrate_request(name, &there.address)).await.unwrap();
        let last = ended(&mut source, &begun.migration_id).await;
        assert_eq!(last.outcome(), Outcome::Completed, "{}", last.reason);
    }
    assert_eq!(guest(&mut source, "three").await.unwrap().state(), GuestState::Gone);
    // The other two are forgotten when its process has ended.
    let list = api::ListGuestsRequest { include_gone: true };
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
    let forgetting = async {
        while source.list_guests(list).await.unwrap().guests.len() > 2 {
            looks.tick().await;
        }
    };
    tokio::time::timeout(WATCHDOG, forgetting).await.expect("only one of them is remembered");
    assert_eq!(here.guest_folders().len(), 2);
    guest(&mut source, "three").await.unwrap();
    guest(&mut source, "store").await.unwrap();
}

#[tokio::test]
async fn a_guest_whose_memory_is_being_filled_is_not_moved_yet() {
    // Where the machine stalls, all of it may be filled before anybody asks.
    for _ in 0..5 {
        let (here, there) = (AgentProcess::start(), AgentProcess::start());
        let mut source = here.client().await;
        // Seconds of work, of which next to nothing is done when it is over.
        source.start_guest(stress("web", 2048 * MIB)).await.unwrap();
        let asked = source.migrate(migrate_request("web", &there.address)).await;
        if guest(&mut source, "web").await.unwrap().state() == GuestState::Starting {
            let refused = asked.unwrap_err();
            assert!(refused.to_string().contains("being filled"), "{refused}");
            return has_nothing(&there).await;
        }
    }
    panic!("it was never seen to be filled still");
}
