//! The calls of the API. Each one is carried out to its end, also if the caller goes away: what
//! was begun is never left half done.

use std::future::Future;
use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};
use whimbrel_control::api;
use whimbrel_control::api::agent_server::Agent;

use crate::access::{Action, Authenticated, Caller, Guard};
use crate::agent::Core;
use crate::convert::{self, parse_uuid};
use crate::guests::Migration;
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

impl AgentService {
    /// Whether whoever calls is still somebody, of whom `still` holds: for calls that last.
    fn trusted<T>(
        &self,
        request: &Request<T>,
        still: impl Fn(&Guard, &Authenticated) -> bool + Send + Sync + 'static,
    ) -> Result<impl Fn() -> bool + Send + Sync + 'static, Status> {
        let (core, caller) = (Arc::clone(&self.core), caller(request)?);
        Ok(move || core.guard.who(&caller).is_ok_and(|who| still(&core.guard, &who)))
    }

    /// Refuses whoever may not look, has not begun the migration, and is not its other side; to
    /// them it is all the same whether there is one.
    fn may_follow(
        &self,
        who: &Authenticated,
        migration: Result<Arc<Migration>, Status>,
    ) -> Result<Arc<Migration>, Status> {
        let guard = &self.core.guard;
        if guard.allows(who, Action::Look)? {
            return migration;
        }
        let has_part = |migration: &Arc<Migration>| {
            let uuid = &migration.status().guest_uuid;
            let guest = parse_uuid(uuid).and_then(|uuid| self.core.guests.get(uuid));
            let party = guest.is_some_and(|guest| guest.check_party(who.0.as_ref()).is_ok());
            party || migration.was_begun_by(who)
        };
        match migration {
            Ok(migration) if has_part(&migration) => Ok(migration),
            _ => Err(guard.require(who, Action::Look).err().unwrap_or_else(|| {
                Status::permission_denied("the policy has just changed; ask again")
            })),
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Agent for AgentService {
    type WatchMigrationStream = StatusStream;

    async fn get_host(&self, request: Request<api::GetHostRequest>) -> Answer<api::Host> {
        let host = self.core.host()?;
        // Who may not look learns only who this is, and everybody why nobody may do anything.
        let told = match self.core.guard.allows(&who(&request)?, Action::Look) {
            Ok(true) => host,
            Ok(false) => convert::only_who_it_is(host),
            Err(broken) => {
                let policy_error = broken.message().to_owned();
                api::Host { policy_error, ..convert::only_who_it_is(host) }
            }
        };
        Ok(Response::new(told))
    }

    async fn start_guest(&self, request: Request<api::StartGuestRequest>) -> Answer<api::Guest> {
        self.to_its_end(|core| core.start_guest(request.into_inner())).await
    }

    async fn list_guests(
        &self,
        request: Request<api::ListGuestsRequest>,
    ) -> Answer<api::ListGuestsResponse> {
        let include_gone = request.into_inner().include_gone;
        let guests = self.core.views(include_gone).await;
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
        self.core.check_here(&guest)?;
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
        let who = who(&request)?;
        self.to_its_end(|core| core.migrate(request.into_inner(), who)).await
    }

    async fn get_migration(
        &self,
        request: Request<api::GetMigrationRequest>,
    ) -> Answer<api::MigrationStatus> {
        let who = who(&request)?;
        let asked = request.into_inner().migration;
        match self.may_follow(&who, self.core.guests.find_migration(&asked)) {
            Ok(migration) => Ok(Response::new(migration.status())),
            // What ended before this agent began is for those who may look.
            Err(unknown) if self.core.guard.allows(&who, Action::Look)? => {
                self.core.look_up(&asked).map(Response::new).map_err(|_| unknown)
            }
            Err(refused) => Err(refused),
        }
    }

    async fn list_migrations(
        &self,
        request: Request<api::ListMigrationsRequest>,
    ) -> Answer<api::ListMigrationsResponse> {
        let (core, since) = (Arc::clone(&self.core), request.into_inner().since);
        let listed = tokio::task::spawn_blocking(move || core.ended_migrations(&since)).await;
        let failed = |error| Status::internal(format!("the history was not read: {error}"));
        listed.map(Response::new).map_err(failed)
    }

    async fn watch_migration(
        &self,
        request: Request<api::WatchMigrationRequest>,
    ) -> Answer<StatusStream> {
        let who = who(&request)?;
        let migration = self.core.guests.find_migration(&request.get_ref().migration);
        let migration = self.may_follow(&who, migration)?;
        let looks = self.core.guard.allows(&who, Action::Look)?;
        // Whoever watches because they may look watches no longer than they may. A policy that
        // cannot be read says nothing of anybody.
        let may = self.trusted(&request, move |guard, who| {
            !looks || guard.allows(who, Action::Look).unwrap_or(true)
        })?;
        Ok(Response::new(watching::stream(migration.watch(), may)))
    }

    async fn cancel_migration(
        &self,
        request: Request<api::CancelMigrationRequest>,
    ) -> Answer<api::CancelMigrationResponse> {
        let who = who(&request)?;
        self.to_its_end(|core| core.cancel_migration(request.into_inner(), who)).await
    }

    async fn prepare_incoming(
        &self,
        request: Request<api::PrepareIncomingRequest>,
    ) -> Answer<api::PrepareIncomingResponse> {
        let who = who(&request)?;
        let caller = caller(&request)?;
        self.to_its_end(|core| core.prepare_incoming(request.into_inner(), caller, who)).await
    }

    async fn cancel_incoming(
        &self,
        request: Request<api::CancelIncomingRequest>,
    ) -> Answer<api::CancelIncomingResponse> {
        let who = who(&request)?;
        self.to_its_end(|core| core.cancel_incoming(request.into_inner(), who)).await
    }

    async fn refresh_endpoints(
        &self,
        request: Request<api::RefreshEndpointsRequest>,
    ) -> Answer<api::RefreshEndpointsResponse> {
        let who = who(&request)?;
        self.to_its_end(|core| core.refresh_endpoints(request.into_inner(), who)).await
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
        let caller = caller(&request)?;
        self.core.open_probe(&caller, &request.into_inner()).await.map(Response::new)
    }

    async fn close_probe(
        &self,
        request: Request<api::CloseProbeRequest>,
    ) -> Answer<api::CloseProbeResponse> {
        self.core.close_probe(&request.into_inner());
        Ok(Response::new(api::CloseProbeResponse {}))
    }

    async fn meet(&self, request: Request<api::MeetRequest>) -> Answer<api::MeetResponse> {
        let who = who(&request)?;
        self.to_its_end(|core| core.meet(request.into_inner(), who)).await
    }

    type RelayStream = GuestFrames;

    async fn relay(&self, request: Request<Streaming<api::RelayFrame>>) -> Answer<GuestFrames> {
        let (who, trusted) = (who(&request)?, self.trusted(&request, |_, _| true)?);
        let passed = Arc::clone(&self.core).pass_on(request.into_inner(), &who, trusted);
        passed.await.map(Response::new)
    }

    async fn release_guest(
        &self,
        request: Request<api::ReleaseGuestRequest>,
    ) -> Answer<api::ReleaseGuestResponse> {
        self.to_its_end(|core| core.release_guest(request.into_inner())).await
    }

    async fn ask(&self, request: Request<api::AskRequest>) -> Answer<api::AskResponse> {
        let who = who(&request)?;
        self.to_its_end(|core| core.ask(request.into_inner(), who)).await
    }
}

/// Who makes a call, as the gate has found out.
fn who<T>(request: &Request<T>) -> Result<Authenticated, Status> {
    let who = request.extensions().get::<Authenticated>().cloned();
    who.ok_or_else(|| Status::unauthenticated("the call did not come through the gate"))
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("the connection has no addresses"))
}
