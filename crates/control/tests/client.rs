//! What the client says when what answers is not the agent it expects.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use whimbrel_control::api::agent_server::{Agent, AgentServer};
use whimbrel_control::{Access, AgentAddress, Client, ClientError, Deadlines, PRODUCT, api};
use whimbrel_identity::{IdentityFolder, Trust};

/// For what comes, however busy the machine is.
const PATIENT: Duration = Duration::from_secs(60);
/// For what does not come.
const SHORT: Duration = Duration::from_secs(3);

fn patient() -> Deadlines {
    Deadlines { connect: PATIENT, call: PATIENT, check: PATIENT, quiet: PATIENT }
}

fn hurried() -> Deadlines {
    Deadlines { connect: SHORT, call: SHORT, ..patient() }
}

async fn listen() -> (TcpListener, AgentAddress) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    (listener, address)
}

async fn connect(address: &AgentAddress) -> Result<Client, ClientError> {
    Client::connect(address, patient()).await
}

/// Answers every connection with `words` and then holds it open.
fn say(listener: TcpListener, words: &'static [u8]) {
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(words).await.unwrap();
            open.push(stream);
        }
    });
}

#[tokio::test]
async fn nobody_there() {
    let (listener, address) = listen().await;
    drop(listener);
    let error = connect(&address).await.unwrap_err();
    assert!(matches!(error, ClientError::NotThere { .. }), "{error:?}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_name_that_does_not_exist() {
    let address: AgentAddress = "no-such-host.invalid".parse().unwrap();
    let unnamed = connect(&address).await.unwrap_err();
    assert!(matches!(unnamed, ClientError::NoIdentity { .. }), "not loopback: {unnamed:?}");

    let temp = tempfile::tempdir().unwrap();
    let folder = IdentityFolder::at(temp.path());
    folder.ensure().unwrap();
    let access = Access::beyond(Trust::open(folder).unwrap());
    // Whoever knows of names may not answer: that comes to the same.
    let error = Client::connect_as(&address, hurried(), &access).await.unwrap_err();
    assert!(matches!(error, ClientError::NotThere { .. }), "{error:?}");
}

#[tokio::test]
async fn somebody_else_there() {
    for (words, deadlines) in [
        (b"SSH-2.0-OpenSSH_9.9\r\n".as_slice(), patient()),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", patient()),
        (b"", hurried()),
    ] {
        let (listener, address) = listen().await;
        say(listener, words);
        let error = Client::connect(&address, deadlines).await.unwrap_err();
        assert!(matches!(error, ClientError::NotWhimbrel { .. }), "{error:?}");
        assert!(error.to_string().contains("not a Whimbrel agent"), "{error}");
    }
}

#[tokio::test]
async fn somebody_who_hangs_up() {
    let (listener, address) = listen().await;
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let error = connect(&address).await.unwrap_err();
    assert!(matches!(error, ClientError::NotWhimbrel { .. }), "{error:?}");
}

/// A watch that has nothing to say.
type Silence = tokio_stream::Pending<Result<api::MigrationStatus, tonic::Status>>;

/// An agent that says who it is, if it is anybody, and refuses or delays everything else.
struct Stub {
    host: api::Host,
}

macro_rules! refuse {
    ($($name:ident($request:ident) -> $answer:ident;)*) => {
        #[tonic::async_trait]
        impl Agent for Stub {
            type WatchMigrationStream = Silence;
            type RelayStream = tokio_stream::Pending<Result<api::GuestFrame, tonic::Status>>;

            async fn relay(
                &self,
                _: tonic::Request<tonic::Streaming<api::RelayFrame>>,
            ) -> Result<tonic::Response<Self::RelayStream>, tonic::Status> {
                Err(tonic::Status::not_found("no guest of that name is here"))
            }

            async fn get_host(
                &self,
                _: tonic::Request<api::GetHostRequest>,
            ) -> Result<tonic::Response<api::Host>, tonic::Status> {
                match self.host.product.as_str() {
                    "" => Err(tonic::Status::unauthenticated("its certificate has expired")),
                    _ => Ok(tonic::Response::new(self.host.clone())),
                }
            }

            async fn watch_migration(
                &self,
                _: tonic::Request<api::WatchMigrationRequest>,
            ) -> Result<tonic::Response<Self::WatchMigrationStream>, tonic::Status> {
                Ok(tonic::Response::new(tokio_stream::pending()))
            }

            async fn list_guests(
                &self,
                _: tonic::Request<api::ListGuestsRequest>,
            ) -> Result<tonic::Response<api::ListGuestsResponse>, tonic::Status> {
                std::future::pending().await
            }

            $(async fn $name(
                &self,
                _: tonic::Request<api::$request>,
            ) -> Result<tonic::Response<api::$answer>, tonic::Status> {
                Err(tonic::Status::not_found("no guest of that name is here"))
            })*
        }
    };
}

refuse! {
    start_guest(StartGuestRequest) -> Guest;
    get_guest(GetGuestRequest) -> Guest;
    check_guest(CheckGuestRequest) -> CheckReport;
    stop_guest(StopGuestRequest) -> StopGuestResponse;
    resolve_guest(ResolveGuestRequest) -> Guest;
    release_guest(ReleaseGuestRequest) -> ReleaseGuestResponse;
    migrate(MigrateRequest) -> MigrationStatus;
    get_migration(GetMigrationRequest) -> MigrationStatus;
    list_migrations(ListMigrationsRequest) -> ListMigrationsResponse;
    cancel_migration(CancelMigrationRequest) -> CancelMigrationResponse;
    prepare_incoming(PrepareIncomingRequest) -> PrepareIncomingResponse;
    cancel_incoming(CancelIncomingRequest) -> CancelIncomingResponse;
    refresh_endpoints(RefreshEndpointsRequest) -> RefreshEndpointsResponse;
    set_limits(SetLimitsRequest) -> LimitsInForce;
    probe_paths(ProbePathsRequest) -> ProbePathsResponse;
    open_probe(OpenProbeRequest) -> OpenProbeResponse;
    close_probe(CloseProbeRequest) -> CloseProbeResponse;
    ask(AskRequest) -> AskResponse;
    meet(MeetRequest) -> MeetResponse;
}

/// A runtime of its own: dropping it ends the server with its connections.
struct Server(Option<tokio::runtime::Runtime>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

fn serve(product: &str, api_version: u32) -> (AgentAddress, Server) {
    let host = api::Host { product: product.to_owned(), api_version, ..Default::default() };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
        let agent = AgentServer::new(Stub { host });
        tonic::transport::Server::builder().serve_with_incoming(agent, incoming).await.unwrap();
    });
    (address, Server(Some(runtime)))
}

#[tokio::test]
async fn another_product_and_another_version() {
    let (address, _server) = serve("dunlin", 1);
    let error = connect(&address).await.unwrap_err();
    assert!(error.to_string().contains("dunlin"), "{error}");

    let (address, _server) = serve(PRODUCT, 7);
    let error = connect(&address).await.unwrap_err();
    assert!(matches!(error, ClientError::Version { theirs: 7, .. }), "{error:?}");
}

/// The handshake passes a moment before a certificate runs out, and the first call comes after.
#[tokio::test]
async fn who_is_not_trusted_any_more_is_told_so() {
    let (address, _server) = serve("", 1);
    let error = connect(&address).await.unwrap_err();
    assert!(matches!(error, ClientError::Unproven { .. }), "{error:?}");
    assert!(error.to_string().contains("its certificate has expired"), "{error}");
}

#[tokio::test]
async fn a_refusal_is_the_agents_own_sentence() {
    let (address, _server) = serve(PRODUCT, 1);
    let mut client = connect(&address).await.unwrap();
    let error = client.get_guest(api::GetGuestRequest::default()).await.unwrap_err();
    assert_eq!(error.refusal(), Some(tonic::Code::NotFound));
    assert_eq!(error.to_string(), "no guest of that name is here");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_late() {
    let (address, _server) = serve(PRODUCT, 1);
    let deadlines = Deadlines { call: SHORT, ..patient() };
    let mut client = Client::connect(&address, deadlines).await.unwrap();
    let error = client.list_guests(api::ListGuestsRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Late { .. }), "{error:?}");
}

#[tokio::test]
async fn an_agent_that_dies_ends_the_watch() {
    let (address, server) = serve(PRODUCT, 1);
    let mut client = connect(&address).await.unwrap();
    let mut watch = client.watch("guest").await.unwrap();
    drop(server);
    // Well before anybody misses a sign of life.
    let ended = tokio::time::timeout(PATIENT / 2, watch.next()).await;
    let error = ended.expect("the watch ends by itself").unwrap_err();
    assert!(matches!(error, ClientError::Lost { .. }), "{error:?}");
}
