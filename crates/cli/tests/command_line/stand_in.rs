//! An agent that says what a test wants it to say, in this process, on a real socket.

use std::collections::VecDeque;
use std::process::{Child, Command, Output};
use std::sync::Mutex;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use whimbrel_control::api::agent_server::{Agent, AgentServer};
use whimbrel_control::{API_VERSION, PRODUCT, api};

/// What the agent says.
#[derive(Default)]
pub(crate) struct Script {
    /// To `GetGuest`, one after the other; the last one stays.
    pub(crate) guests: Vec<api::Guest>,
    /// To `WatchMigration`.
    pub(crate) statuses: Vec<api::MigrationStatus>,
    /// To `CheckGuest`.
    pub(crate) check: api::CheckReport,
    /// To `CancelMigration`.
    pub(crate) cancel: api::CancelMigrationResponse,
    /// To `Migrate`, in place of a beginning.
    pub(crate) refusal: Option<Status>,
}

/// The running agent. Dropping it ends it.
pub(crate) struct StandIn {
    pub(crate) address: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl StandIn {
    pub(crate) fn start(script: Script) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let left = Mutex::new(script.guests.clone().into());
        let agent = AgentServer::new(Player { script, left });
        let server = tonic::transport::Server::builder()
            .serve_with_incoming(agent, TcpListenerStream::new(listener));
        runtime.spawn(server);
        Self { address, runtime: Some(runtime) }
    }

    /// Runs the program against this agent.
    pub(crate) fn whimbrel(&self, words: &[&str]) -> Output {
        command(words).env("WHIMBREL_AGENT", &self.address).output().unwrap()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// The program with an environment that says nothing.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whimbrel"));
    command.args(words).env_remove("WHIMBREL_AGENT").env_remove("NO_COLOR");
    command
}

/// Standard output, standard error and exit status.
pub(crate) fn said(output: &Output) -> (String, String, i32) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let status = output.status.code().expect("it ended by itself");
    (text(&output.stdout), text(&output.stderr), status)
}

/// Sends a signal by its name, as a shell does.
pub(crate) fn signal(to: &Child, name: &str) {
    let pid = to.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
}

struct Player {
    script: Script,
    left: Mutex<VecDeque<api::Guest>>,
}

type Answer<T> = Result<Response<T>, Status>;

fn no_such<T>() -> Answer<T> {
    Err(Status::not_found("no guest of that name is here"))
}

#[tonic::async_trait]
impl Agent for Player {
    type WatchMigrationStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<api::MigrationStatus, Status>>>;
    type RelayStream = tokio_stream::Pending<Result<api::GuestFrame, Status>>;

    async fn relay(
        &self,
        _: Request<tonic::Streaming<api::RelayFrame>>,
    ) -> Answer<Self::RelayStream> {
        no_such()
    }

    async fn release_guest(
        &self,
        _: Request<api::ReleaseGuestRequest>,
    ) -> Answer<api::ReleaseGuestResponse> {
        no_such()
    }

    async fn get_host(&self, _: Request<api::GetHostRequest>) -> Answer<api::Host> {
        Ok(Response::new(api::Host {
            product: PRODUCT.into(),
            version: "9.9.9".into(),
            api_version: API_VERSION,
            protocol_version_min: 1,
            protocol_version_max: 1,
            memory_free_bytes: 3 << 30,
            memory_limit_bytes: 8 << 30,
            guests_limit: 8,
            ..api::Host::default()
        }))
    }

    async fn start_guest(&self, asked: Request<api::StartGuestRequest>) -> Answer<api::Guest> {
        let asked = asked.into_inner();
        let memory_bytes = asked.config.map_or(0, |config| config.memory_bytes);
        Ok(Response::new(api::Guest { name: asked.name, memory_bytes, ..api::Guest::default() }))
    }

    async fn list_guests(
        &self,
        _: Request<api::ListGuestsRequest>,
    ) -> Answer<api::ListGuestsResponse> {
        Ok(Response::new(api::ListGuestsResponse { guests: self.script.guests.clone() }))
    }

    async fn get_guest(&self, _: Request<api::GetGuestRequest>) -> Answer<api::Guest> {
        let mut left = self.left.lock().unwrap();
        let next = if left.len() > 1 { left.pop_front() } else { left.front().cloned() };
        next.map_or_else(no_such, |guest| Ok(Response::new(guest)))
    }

    async fn check_guest(&self, _: Request<api::CheckGuestRequest>) -> Answer<api::CheckReport> {
        Ok(Response::new(self.script.check.clone()))
    }

    async fn stop_guest(
        &self,
        _: Request<api::StopGuestRequest>,
    ) -> Answer<api::StopGuestResponse> {
        Ok(Response::new(api::StopGuestResponse {}))
    }

    async fn resolve_guest(&self, _: Request<api::ResolveGuestRequest>) -> Answer<api::Guest> {
        no_such()
    }

    async fn migrate(&self, asked: Request<api::MigrateRequest>) -> Answer<api::MigrationStatus> {
        if let Some(refusal) = &self.script.refusal {
            return Err(refusal.clone());
        }
        let guest_name = asked.into_inner().guest;
        let migration_id = "m-1".to_owned();
        let begun = api::MigrationStatus { migration_id, guest_name, ..Default::default() };
        Ok(Response::new(begun))
    }

    async fn get_migration(
        &self,
        _: Request<api::GetMigrationRequest>,
    ) -> Answer<api::MigrationStatus> {
        no_such()
    }

    async fn list_migrations(
        &self,
        _: Request<api::ListMigrationsRequest>,
    ) -> Answer<api::ListMigrationsResponse> {
        Ok(Response::new(api::ListMigrationsResponse::default()))
    }

    async fn watch_migration(
        &self,
        asked: Request<api::WatchMigrationRequest>,
    ) -> Answer<Self::WatchMigrationStream> {
        if asked.into_inner().migration != "m-1" {
            return no_such();
        }
        let statuses: Vec<_> = self.script.statuses.iter().cloned().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(statuses)))
    }

    async fn cancel_migration(
        &self,
        _: Request<api::CancelMigrationRequest>,
    ) -> Answer<api::CancelMigrationResponse> {
        Ok(Response::new(self.script.cancel.clone()))
    }

    async fn prepare_incoming(
        &self,
        _: Request<api::PrepareIncomingRequest>,
    ) -> Answer<api::PrepareIncomingResponse> {
        no_such()
    }

    async fn cancel_incoming(
        &self,
        _: Request<api::CancelIncomingRequest>,
    ) -> Answer<api::CancelIncomingResponse> {
        no_such()
    }

    async fn refresh_endpoints(
        &self,
        _: Request<api::RefreshEndpointsRequest>,
    ) -> Answer<api::RefreshEndpointsResponse> {
        no_such()
    }

    async fn set_limits(&self, _: Request<api::SetLimitsRequest>) -> Answer<api::LimitsInForce> {
        no_such()
    }

    async fn probe_paths(
        &self,
        _: Request<api::ProbePathsRequest>,
    ) -> Answer<api::ProbePathsResponse> {
        no_such()
    }

    async fn open_probe(
        &self,
        _: Request<api::OpenProbeRequest>,
    ) -> Answer<api::OpenProbeResponse> {
        no_such()
    }

    async fn close_probe(
        &self,
        _: Request<api::CloseProbeRequest>,
    ) -> Answer<api::CloseProbeResponse> {
        no_such()
    }

    async fn meet(&self, _: Request<api::MeetRequest>) -> Answer<api::MeetResponse> {
        no_such()
    }

    async fn ask(&self, _: Request<api::AskRequest>) -> Answer<api::AskResponse> {
        no_such()
    }
}
