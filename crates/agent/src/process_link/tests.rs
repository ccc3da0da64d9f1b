//! Guest processes of other versions, other guests, and other secrets.

use tokio::net::TcpListener;
use whimbrel_control::Client;

use super::*;
use crate::agent::Agent;
use crate::folder::DataFolder;
use crate::options::AgentOptions;
use crate::process_api::GuestFile;
use crate::stub_process::StubProcess;

const GUEST: GuestUuid = GuestUuid(8);

async fn process_of(versions: RangeInclusive<u32>) -> ProcessFile {
    StubProcess::of_versions(GUEST, versions).await.file
}
async fn connect(file: &ProcessFile, guest: GuestUuid) -> Result<ProcessLink, LinkError> {
    ProcessLink::connect(file, guest, Deadlines::default()).await
}

#[test]
fn ranges_overlap_where_one_version_is_in_both() {
    assert!(overlap(&(1..=1), &(1..=1)));
    assert!(overlap(&(1..=3), &(3..=9)));
    assert!(!overlap(&(1..=2), &(3..=9)));
    assert!(!overlap(&(4..=5), &(1..=3)));
}

#[tokio::test]
async fn a_version_in_the_range_is_enough() {
    let (min, max) = VERSIONS.into_inner();
    connect(&process_of(min..=max).await, GUEST).await.unwrap();
    connect(&process_of(max..=max + 7).await, GUEST).await.unwrap();
    connect(&process_of(0..=min).await, GUEST).await.unwrap();
    for versions in [0..=min - 1, max + 1..=max + 1] {
        let error = connect(&process_of(versions).await, GUEST).await.unwrap_err();
        assert!(matches!(error, LinkError::Version { .. }), "{error}");
    }
}

#[tokio::test]
async fn another_guest_another_secret_and_nobody_are_told_apart() {
    let file = process_of(VERSIONS).await;
    let error = connect(&file, GuestUuid(9)).await.unwrap_err();
    assert!(matches!(error, LinkError::Another), "{error}");
    let guessed = ProcessFile { token: "3210".to_owned(), ..file.clone() };
    let error = connect(&guessed, GUEST).await.unwrap_err();
    assert!(error.to_string().contains("who are you?"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().into();
    drop(listener);
    let error = connect(&ProcessFile { port, ..file }, GUEST).await.unwrap_err();
    assert!(matches!(error, LinkError::Unreachable(_)), "{error}");
}

#[tokio::test]
async fn a_guest_of_a_version_not_understood_is_left_alone_and_shown_with_the_reason() {
    let temp = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(temp.path()).unwrap().guest(GUEST);
    let name = "old".to_owned();
    let config = GuestFile { uuid: GUEST.to_string(), name, ..Default::default() };
    folder.write_config(&config).unwrap();
    folder.write_process(&process_of(7..=9).await).unwrap();
    let options = AgentOptions::new(temp.path(), ([127, 0, 0, 1], 0).into());
    let agent = Agent::bound(options).await;
    let address = agent.address().to_string().parse().unwrap();
    tokio::spawn(agent.serve(std::future::pending()));
    let mut client = Client::connect(&address, Default::default()).await.unwrap();
    let seen = client.get_guest(api::GetGuestRequest { guest: "old".to_owned() }).await.unwrap();
    assert_eq!(seen.state(), api::GuestState::Failed);
    assert!(seen.state_reason.contains("speaks versions 7 to 9"), "{}", seen.state_reason);
    let check = client.check_guest(api::CheckGuestRequest { guest: "old".to_owned() }).await;
    let refused = check.unwrap_err();
    assert_eq!(refused.refusal(), Some(tonic::Code::FailedPrecondition), "{refused}");
    assert!(folder.read_process().unwrap().is_some());
}
