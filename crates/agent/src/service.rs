//! The calls of the API. Each one is carried out to its end, also if the caller goes away: what
//! was begun is never left half done.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinSet;
use tonic::{Request, Response, Status, Streaming};
use whimbrel_control::api::agent_server::Agent;
use whimbrel_control::api::{self, GuestState};

use crate::agent::Core;
use crate::incoming::Ends;
use crate::process_api as process;
use crate::relay::GuestFrames;
use crate::watching::{self, StatusStream};

pub(crate) struct AgentService {
    core: Arc<Core>,
}

impl AgentService {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    async fn to_its_end<T, F>(
        &self,
        work: impl FnOnce(Arc<Core>) -> F,
    ) -> Result<Response<T>, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let done = tokio::spawn(work(Arc::clone(&self.core))).await;
        done.map_err(|error| Status::internal(format!("the call failed: {error}")))?
            .map(Response::new)
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Agent for AgentService {
    type WatchMigrationStream = StatusStream;

    async fn get_host(&self, _: Request<api::GetHostRequest>) -> Answer<api::Host> {
        self.core.host().map(Response::new)
    }

    async fn start_guest(&self, request: Request<api::StartGuestRequest>) -> Answer<api::Guest> {
        self.to_its_end(|core| core.start_guest(request.into_inner())).await
    }

    async fn list_guests(
        &self,
        request: Request<api::ListGuestsRequest>,
    ) -> Answer<api::ListGuestsResponse> {
        let include_gone = request.into_inner().include_gone;
        // All at once: a process that does not answer costs its deadline only once.
        let mut views = JoinSet::new();
        for guest in self.core.guests.all() {
            let core = Arc::clone(&self.core);
            views.spawn(async move { core.view(&guest).await });
        }
        let mut guests = views.join_all().await;
        guests.retain(|view| include_gone || view.state() != GuestState::Gone);
        guests.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Response::new(api::ListGuestsResponse { guests }))
    }

    async fn get_guest(&self, request: Request<api::GetGuestRequest>) -> Answer<api::Guest> {
        let guest = self.core.guests.find(&request.into_inner().guest)?;
        Ok(Response::new(self.core.view(&guest).await))
    }

    async fn check_guest(
        &self,
        request: Request<api::CheckGuestRequest>,
    ) -> Answer<api::CheckReport> {
        let guest = self.core.guests.find(&request.into_inner().guest)?;
        let mut link = guest.link(self.core.options.deadlines).await?;
        link.check(process::CheckRequest {}).await.map(Response::new)
    }

    async fn stop_guest(
        &self,
        request: Request<api::StopGuestRequest>,
    ) -> Answer<api::StopGuestResponse> {
        self.to_its_end(|core| core.stop_guest(request.into_inner())).await
    }

    async fn resolve_guest(
        &self,
        request: Request<api::ResolveGuestRequest>,
    ) -> Answer<api::Guest> {
        self.to_its_end(|core| core.resolve_guest(request.into_inner())).await
    }

    async fn migrate(&self, request: Request<api::MigrateRequest>) -> Answer<api::MigrationStatus> {
        self.to_its_end(|core| core.migrate(request.into_inner())).await
    }

    async fn get_migration(
        &self,
        request: Request<api::GetMigrationRequest>,
    ) -> Answer<api::MigrationStatus> {
        let migration = self.core.guests.find_migration(&request.into_inner().migration)?;
        Ok(Response::new(migration.status()))
    }

    async fn watch_migration(
        &self,
        request: Request<api::WatchMigrationRequest>,
    ) -> Answer<StatusStream> {
        let migration = self.core.guests.find_migration(&request.into_inner().migration)?;
        Ok(Response::new(watching::stream(migration.watch())))
    }

    async fn cancel_migration(
        &self,
        request: Request<api::CancelMigrationRequest>,
    ) -> Answer<api::CancelMigrationResponse> {
        self.to_its_end(|core| core.cancel_migration(request.into_inner())).await
    }

    async fn prepare_incoming(
        &self,
        request: Request<api::PrepareIncomingRequest>,
    ) -> Answer<api::PrepareIncomingResponse> {
        let ends = ends(request.local_addr(), request.remote_addr())?;
        self.to_its_end(|core| core.prepare_incoming(request.into_inner(), ends)).await
    }

    async fn cancel_incoming(
        &self,
        request: Request<api::CancelIncomingRequest>,
    ) -> Answer<api::CancelIncomingResponse> {
        self.to_its_end(|core| core.cancel_incoming(request.into_inner())).await
    }

    async fn refresh_endpoints(
        &self,
        request: Request<api::RefreshEndpointsRequest>,
    ) -> Answer<api::RefreshEndpointsResponse> {
        self.to_its_end(|core| core.refresh_endpoints(request.into_inner())).await
    }

    async fn set_limits(
        &self,
        request: Request<api::SetLimitsRequest>,
    ) -> Answer<api::LimitsInForce> {
        self.core.set_limits(&request.into_inner()).map(Response::new)
    }

    async fn probe_paths(
        &self,
        request: Request<api::ProbePathsRequest>,
    ) -> Answer<api::ProbePathsResponse> {
        self.to_its_end(|core| core.probe_paths(request.into_inner())).await
    }

    async fn open_probe(
        &self,
        request: Request<api::OpenProbeRequest>,
    ) -> Answer<api::OpenProbeResponse> {
        let ends = ends(request.local_addr(), request.remote_addr())?;
        self.core.open_probe(ends).await.map(Response::new)
    }

    async fn meet(&self, request: Request<api::MeetRequest>) -> Answer<api::MeetResponse> {
        self.to_its_end(|core| core.meet(request.into_inner())).await
    }

    type RelayStream = GuestFrames;

    async fn relay(&self, request: Request<Streaming<api::RelayFrame>>) -> Answer<GuestFrames> {
        Arc::clone(&self.core).pass_on(request.into_inner()).await.map(Response::new)
    }

    async fn release_guest(
        &self,
        request: Request<api::ReleaseGuestRequest>,
    ) -> Answer<api::ReleaseGuestResponse> {
        self.to_its_end(|core| core.release_guest(request.into_inner())).await
    }

    async fn ask(&self, request: Request<api::AskRequest>) -> Answer<api::AskResponse> {
        self.to_its_end(|core| core.ask(request.into_inner())).await
    }
}

fn ends(local: Option<SocketAddr>, remote: Option<SocketAddr>) -> Result<Ends, Status> {
    match (local, remote) {
        (Some(local), Some(remote)) => Ok(Ends { local, remote }),
        _ => Err(Status::internal("the connection has no addresses")),
    }
}
