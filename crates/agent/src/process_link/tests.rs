//! Guest processes of other versions, other guests, and other secrets.

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use whimbrel_control::Client;

use super::*;
use crate::agent::Agent;
use crate::folder::DataFolder;
use crate::options::AgentOptions;
use crate::process_api::process_server::{Process, ProcessServer};
use crate::process_api::{self as process, GuestFile};
use crate::watching::StatusStream;

const GUEST: GuestUuid = GuestUuid(8);
const SECRET: &str = "0123";

/// A guest process of some version that only says who it is.
struct Stub {
    versions: RangeInclusive<u32>,
}

macro_rules! silent {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        #[tonic::async_trait]
        impl Process for Stub {
            type WatchStream = StatusStream;

            async fn hello(
                &self,
                request: Request<process::HelloRequest>,
            ) -> Result<Response<process::HelloResponse>, Status> {
                if request.metadata().get(TOKEN_KEY).is_none_or(|token| token != SECRET) {
                    return Err(Status::unauthenticated("who are you?"));
                }
                Ok(Response::new(process::HelloResponse {
                    version_min: *self.versions.start(),
                    version_max: *self.versions.end(),
                    program_version: "9.9".to_owned(),
                    guest_uuid: GUEST.to_string(),
                }))
            }

            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$answer>, Status> {
                Err(Status::unimplemented("a stub"))
            })*
        }
    };
}

silent! {
    start(process::StartRequest) -> process::StartResponse;
    receive(process::ReceiveRequest) -> process::ReceiveResponse;
    get_status(process::GetStatusRequest) -> process::Status;
    check(process::CheckRequest) -> api::CheckReport;
    migrate(process::MigrateRequest) -> process::MigrateResponse;
    watch(process::WatchRequest) -> Self::WatchStream;
    cancel(process::CancelRequest) -> api::CancelMigrationResponse;
    ask(api::AskRequest) -> api::AskResponse;
    settle(process::SettleRequest) -> process::Status;
    stop(process::StopRequest) -> process::StopResponse;
}

/// A process of these versions, which is in truth this test.
async fn process_of(versions: RangeInclusive<u32>) -> ProcessFile {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().into();
    let service = ProcessServer::new(Stub { versions });
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(Server::builder().serve_with_incoming(service, incoming));
    let own = ProcessIdentity::own().unwrap();
    let boot_id = own.boot.0.to_vec();
    ProcessFile { pid: own.pid, started: own.started, boot_id, port, token: SECRET.to_owned() }
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
    let agent = Agent::bind(AgentOptions::new(temp.path(), ([127, 0, 0, 1], 0).into()));
    let agent = agent.await.unwrap();
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
