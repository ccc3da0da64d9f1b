//! An usher stands between two agents: each calls it in the other's place. What it says of where
//! to find somebody leads over the ways of the harness.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use whimbrel_control::api;
use whimbrel_control::api::agent_client::AgentClient;
use whimbrel_control::api::agent_server::{Agent, AgentServer};
use whimbrel_control::identity::{IdentityFolder, Trust};
use whimbrel_control::{Access, connect_lazy};

use super::way::Way;
use crate::realm::{callers, realm};

/// Stands in an agent's place. Ends when it is dropped.
pub struct Usher {
    /// Where it listens.
    pub address: SocketAddr,
    dark: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
    /// Where its identity is, if it needs one.
    _identity: Option<TempDir>,
}

impl Drop for Usher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a guest that is announced through an usher is led.
#[derive(Clone)]
pub struct Led {
    /// The way to the destination's guest process.
    pub way: Arc<Way>,
    /// Whom the destination's agent asks in place of the source's.
    pub questions: SocketAddr,
}

impl Usher {
    /// Stands at `ip` in the place of the agent at `target`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn stand(ip: IpAddr, target: &str, led: Option<Led>) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (identity, own) = (!ip.is_loopback()).then(|| believed(ip)).unzip();
        let access = own.clone().map_or_else(Access::default, Access::beyond);
        let target = connect_lazy(&target.parse().expect("an address"), &access);
        let dark = Arc::new(watch::Sender::new(false));
        let target = target.expect("an agent to stand for");
        let post = Post { target, led, dark: Arc::clone(&dark) };
        let task = tokio::spawn(async move {
            let incoming = callers(listener, own);
            let server = AgentServer::new(post);
            let _ = Server::builder().serve_with_incoming(server, incoming).await;
        });
        Self { address, dark, task, _identity: identity }
    }

    /// Passes nothing on, or everything again.
    pub fn darken(&self, dark: bool) {
        self.dark.send_replace(dark);
    }
}

/// An identity that agents beyond this host take for one of their own.
fn believed(ip: IpAddr) -> (TempDir, Arc<Trust>) {
    let folder = TempDir::new().expect("a folder");
    let identity = folder.path().join("identity");
    realm().certify("agent", &identity, &[ip]);
    (folder, Trust::open(IdentityFolder::at(identity)).expect("it was just made"))
}

struct Post {
    target: Channel,
    led: Option<Led>,
    dark: Arc<watch::Sender<bool>>,
}

impl Post {
    /// The agent itself, once anything gets through.
    async fn agent(&self) -> AgentClient<Channel> {
        let _ = self.dark.subscribe().wait_for(|dark| !dark).await;
        AgentClient::new(self.target.clone())
    }

    async fn announce(
        &self,
        mut request: api::PrepareIncomingRequest,
    ) -> Answer<api::PrepareIncomingResponse> {
        if let Some(led) = &self.led {
            request.agent_host = led.questions.ip().to_string();
            request.agent_port = led.questions.port().into();
        }
        let mut answer = self.agent().await.prepare_incoming(request).await?;
        if let Some(led) = &self.led {
            let door = answer.get_ref().address.parse();
            led.way.lead_to(door.map_err(|_| Status::internal("a door without an address"))?);
            answer.get_mut().address = led.way.address.to_string();
        }
        Ok(answer)
    }
}

type Answer<T> = Result<Response<T>, Status>;

macro_rules! usher {
    ($($name:ident($request:ident) -> $answer:ident;)*) => {
        #[tonic::async_trait]
        impl Agent for Post {
            type WatchMigrationStream = tonic::Streaming<api::MigrationStatus>;
            type RelayStream = tonic::Streaming<api::GuestFrame>;

            async fn relay(
                &self,
                request: Request<tonic::Streaming<api::RelayFrame>>,
            ) -> Answer<Self::RelayStream> {
                let frames = request.into_inner().map_while(Result::ok);
                self.agent().await.relay(frames).await
            }

            async fn prepare_incoming(
                &self,
                request: Request<api::PrepareIncomingRequest>,
            ) -> Answer<api::PrepareIncomingResponse> {
                self.announce(request.into_inner()).await
            }

            async fn watch_migration(
                &self,
                request: Request<api::WatchMigrationRequest>,
            ) -> Answer<Self::WatchMigrationStream> {
                self.agent().await.watch_migration(request.into_inner()).await
            }

            $(async fn $name(&self, request: Request<api::$request>) -> Answer<api::$answer> {
                self.agent().await.$name(request.into_inner()).await
            })*
        }
    };
}

usher! {
    get_host(GetHostRequest) -> Host;
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
