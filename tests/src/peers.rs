//! Destinations that are not what they should be: in this process, on real sockets.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use whimbrel_control::api::agent_server::{Agent, AgentServer};
use whimbrel_control::{API_VERSION, PRODUCT, api};
use whimbrel_protocol::PROTOCOL_VERSIONS;

/// A task that ends with whoever holds this.
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a good agent says about itself.
#[must_use]
pub fn good_host() -> api::Host {
    api::Host {
        product: PRODUCT.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        api_version: API_VERSION,
        protocol_version_min: *PROTOCOL_VERSIONS.start(),
        protocol_version_max: *PROTOCOL_VERSIONS.end(),
        host_id: "00000000000000bd".into(),
        memory_free_bytes: 1 << 40,
        memory_limit_bytes: 1 << 40,
        guests_limit: 64,
        migrations_limit: 2,
        ..api::Host::default()
    }
}

/// Listens and does `each` to every connection.
///
/// # Panics
/// If there is no free port.
pub async fn listen<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> Peer
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    Peer { address, task }
}

/// An address at which nobody listens.
///
/// # Panics
/// If there is no free port.
#[must_use]
pub fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

/// An agent that is as `host` says and sends every guest that is announced to `door`.
///
/// # Panics
/// If there is no free port.
pub async fn agent(host: api::Host, door: SocketAddr) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = AgentServer::new(Usher { host, door });
    let task = tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        let _ = tonic::transport::Server::builder().serve_with_incoming(server, incoming).await;
    });
    Peer { address, task }
}

struct Usher {
    host: api::Host,
    door: SocketAddr,
}

type Answer<T> = Result<Response<T>, Status>;

macro_rules! usher {
    ($($name:ident($request:ident) -> $answer:ident;)*) => {
        #[tonic::async_trait]
        impl Agent for Usher {
            type WatchMigrationStream =
                tokio_stream::Pending<Result<api::MigrationStatus, Status>>;
            type RelayStream = tokio_stream::Pending<Result<api::GuestFrame, Status>>;

            async fn relay(
                &self,
                _: Request<tonic::Streaming<api::RelayFrame>>,
            ) -> Answer<Self::RelayStream> {
                Err(Status::not_found("nothing is here"))
            }

            async fn get_host(&self, _: Request<api::GetHostRequest>) -> Answer<api::Host> {
                Ok(Response::new(self.host.clone()))
            }

            async fn prepare_incoming(
                &self,
                _: Request<api::PrepareIncomingRequest>,
            ) -> Answer<api::PrepareIncomingResponse> {
                Ok(Response::new(api::PrepareIncomingResponse {
                    address: self.door.to_string(),
                    token: vec![7; 16],
                    host_id: self.host.host_id.clone(),
                    ..Default::default()
                }))
            }

            async fn watch_migration(
                &self,
                _: Request<api::WatchMigrationRequest>,
            ) -> Answer<Self::WatchMigrationStream> {
                Ok(Response::new(tokio_stream::pending()))
            }

            $(async fn $name(&self, _: Request<api::$request>) -> Answer<api::$answer> {
                Err(Status::not_found("nothing is here"))
            })*
        }
    };
}

usher! {
    start_guest(StartGuestRequest) -> Guest;
    list_guests(ListGuestsRequest) -> ListGuestsResponse;
    get_guest(GetGuestRequest) -> Guest;
    check_guest(CheckGuestRequest) -> CheckReport;
    stop_guest(StopGuestRequest) -> StopGuestResponse;
    resolve_guest(ResolveGuestRequest) -> Guest;
    release_guest(ReleaseGuestRequest) -> ReleaseGuestResponse;
    migrate(MigrateRequest) -> MigrationStatus;
    get_migration(GetMigrationRequest) -> MigrationStatus;
    list_migrations(ListMigrationsRequest) -> ListMigrationsResponse;
    cancel_migration(CancelMigrationRequest) -> CancelMigrationResponse;
    cancel_incoming(CancelIncomingRequest) -> CancelIncomingResponse;
    refresh_endpoints(RefreshEndpointsRequest) -> RefreshEndpointsResponse;
    set_limits(SetLimitsRequest) -> LimitsInForce;
    probe_paths(ProbePathsRequest) -> ProbePathsResponse;
    open_probe(OpenProbeRequest) -> OpenProbeResponse;
    close_probe(CloseProbeRequest) -> CloseProbeResponse;
    ask(AskRequest) -> AskResponse;
    meet(MeetRequest) -> MeetResponse;
}

/// A message as it stands on a control connection (wire.md C3).
///
/// # Panics
/// If it is longer than any message is.
#[must_use]
pub fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short frame").to_le_bytes();
    let mut frame = [length.as_slice(), body].concat();
    frame.extend(twox_hash::XxHash3_64::oneshot(&frame).to_le_bytes());
    frame
}
