//! What an agent says to relays of other hosts, before anything moves.

use tempfile::TempDir;
use tokio::net::TcpStream;
use whimbrel_engine::Journal as _;
use whimbrel_engine::protocol::{Record, SessionId, Term};

use super::*;
use crate::agent::Agent;
use crate::folder::DataFolder;
use crate::journal::FileJournal;
use crate::options::AgentOptions;
use crate::process_api::ProcessFile;
use crate::stub_process::StubProcess;

const GUEST: GuestUuid = GuestUuid(6);
/// Where nobody is.
const PEER: &str = "127.0.0.1:1";

/// An agent whose guest has this record, and a client of the agent. The process of the guest is the
/// test: it says one word to a relay, and lets go of it.
async fn agent(standing: Standing) -> (TempDir, Client) {
    let process = StubProcess::of(GUEST).await;
    found(standing, PEER, GuestFile::default(), Some(&process.file)).await
}

/// An agent that finds a guest with this record, and a client of the agent.
async fn found(
    standing: Standing,
    peer: &str,
    config: GuestFile,
    process: Option<&ProcessFile>,
) -> (TempDir, Client) {
    let temp = tempfile::tempdir().unwrap();
    let data = DataFolder::open(temp.path()).unwrap();
    let (folder, term) = (data.guest(GUEST), Term { generation: 4, host: data.host() });
    folder.write_config(&GuestFile { uuid: GUEST.to_string(), ..config }).unwrap();
    process.into_iter().for_each(|file| folder.write_process(file).unwrap());
    let (session, peer) = (SessionId(1), peer.to_owned());
    let record = Record { guest: GUEST, term, session, peer, standing };
    FileJournal::open(&folder.journal()).unwrap().record(&record).unwrap();
    drop(data);
    let options = AgentOptions::new(temp.path(), "127.0.0.1:0".parse().unwrap());
    let agent = Agent::bound(options).await;
    let address = agent.address().to_string().parse().unwrap();
    tokio::spawn(agent.serve(std::future::pending()));
    let client = Client::connect(&address, whimbrel_control::Deadlines::default()).await.unwrap();
    (temp, client)
}

/// Where the guest is said to go by each frame.
async fn said(client: &mut Client, asks: &str) -> Vec<String> {
    let (guest_uuid, asks) = (GUEST.to_string(), asks.to_owned());
    let attach = api::RelayAttach { guest_uuid, asks, host: 1, run: 1, ..Default::default() };
    let frame = api::RelayFrame { attach: Some(attach), words: Vec::new() };
    let mut frames = client.relay(iter([frame])).await.unwrap();
    let mut said = Vec::new();
    while let Some(frame) = frames.message().await.unwrap() {
        said.push(frame.moved_to);
    }
    said
}

#[tokio::test]
async fn relays_of_other_hosts_hear_where_a_guest_goes_before_its_process_has_ended() {
    for standing in [Standing::Switching, Standing::Granted] {
        let (_folder, mut client) = agent(standing).await;
        assert_eq!(said(&mut client, "").await, [PEER], "{standing:?}");
        // One that asks there already is attached here, in case that the guest stays; and one that
        // the guest has let go of hears it in the same breath.
        assert_eq!(said(&mut client, PEER).await, ["", PEER], "{standing:?}");
    }
}

#[tokio::test]
async fn a_guest_that_stays_leads_nowhere() {
    for standing in [Standing::Owner, Standing::Running, Standing::MayOwn] {
        let (_folder, mut client) = agent(standing).await;
        assert_eq!(said(&mut client, "").await, [""], "{standing:?}");
    }
}

/// Longer than an agent that asks again and again lets pass, and than anything takes.
const QUIET: Duration = Duration::from_secs(2);
/// Less than the time in which nobody is asked.
const WATCHDOG: Duration = Duration::from_secs(40);

#[tokio::test]
async fn nobody_is_asked_for_a_guest_that_nobody_waits_for() {
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = peer.local_addr().unwrap().to_string();
    let service_address = "127.0.0.1:0".to_owned();
    let config = GuestFile { service_address, ..Default::default() };
    let (_folder, mut client) = found(Standing::Ceded, &there, config, None).await;
    let asked = || timeout(WATCHDOG, peer.accept());
    asked().await.expect("it is looked for once").unwrap();
    let calms_down = async { while timeout(QUIET, peer.accept()).await.is_ok() {} };
    timeout(WATCHDOG, calms_down).await.expect("it is looked for again and again");
    let request = api::GetGuestRequest { guest: GUEST.to_string() };
    let guest = client.get_guest(request).await.unwrap();
    let _waits = TcpStream::connect(guest.service_address).await.unwrap();
    asked().await.expect("somebody waits for it").unwrap();
}

#[test]
fn nobody_is_served_to_another_network_than_before() {
    for (asked, near, places) in [
        ("127.0.0.1:6379", None, vec!["127.0.0.1:6379", "127.0.0.1:0"]),
        ("0.0.0.0:6379", None, vec!["0.0.0.0:6379", "0.0.0.0:0"]),
        (
            "10.9.0.1:6379",
            Some("10.9.0.2"),
            vec!["10.9.0.1:6379", "10.9.0.1:0", "10.9.0.2:6379", "10.9.0.2:0"],
        ),
        (
            "10.9.0.1:6379",
            None,
            vec!["10.9.0.1:6379", "10.9.0.1:0", "127.0.0.1:6379", "127.0.0.1:0"],
        ),
        ("[fd00::1]:1", None, vec!["[fd00::1]:1", "[fd00::1]:0", "[::1]:1", "[::1]:0"]),
    ] {
        let places: Vec<SocketAddr> = places.iter().map(|place| place.parse().unwrap()).collect();
        let near = |_| near.map(|ip: &str| ip.parse().unwrap());
        assert_eq!(served_at(asked, near), places, "{asked}");
    }
}
