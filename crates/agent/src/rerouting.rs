//! Paths come and go while a guest moves: both sides look at their addresses now and then.
//!
//! ```text
//!  source's agent ─► RefreshEndpoints ─► destination's: looks, has its process listen there too
//!        └─► matches both ─► its process: these paths from now on
//! ```

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use whimbrel_control::{AgentAddress, Client, api};

use crate::access::Authenticated;
use crate::agent::Core;
use crate::convert;
use crate::guests::{Guest, Migration};
use crate::networks;
use crate::process_api as process;
use crate::secret::same;

/// How often both sides look. An address that appears is a rare event, and a person's doing.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Core {
    /// Keeps the paths of a guest that leaves up to date, until it has left.
    pub(crate) async fn keep_routed(
        self: Arc<Self>,
        guest: Arc<Guest>,
        migration: Arc<Migration>,
        destination: AgentAddress,
    ) {
        if self.options.networks.is_empty() && migration.endpoints().is_empty() {
            return;
        }
        let mut peer = None;
        let mut last = Vec::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if !migration.is_running() {
                return;
            }
            match self.route(&guest, &migration, &destination, &mut peer).await {
                Ok(paths) if paths != last && !paths.is_empty() => {
                    let told = process::RerouteRequest { paths: paths.clone() };
                    let told =
                        async { guest.link(self.options.deadlines).await?.reroute(told).await };
                    if told.await.is_ok() {
                        last = paths;
                    }
                }
                Ok(_) => {}
                Err(status) => {
                    peer = None;
                    tracing::debug!(peer = %destination, "paths stay: {}", status.message());
                }
            }
        }
    }

    async fn route(
        &self,
        guest: &Guest,
        migration: &Migration,
        destination: &AgentAddress,
        peer: &mut Option<Client>,
    ) -> Result<Vec<process::Path>, Status> {
        let ours = networks::endpoints(&self.options.networks)?;
        if peer.is_none() {
            *peer = Some(self.connect(destination).await?);
        }
        let request = api::RefreshEndpointsRequest {
            migration_id: migration.id.clone(),
            token: migration.token().unwrap_or_default(),
        };
        let theirs = match peer {
            Some(peer) => peer.refresh_endpoints(request).await,
            None => return Ok(Vec::new()),
        };
        let theirs = theirs.map_err(|error| Status::unavailable(error.to_string()))?;
        tracing::trace!(guest = %guest.config.name, "both sides have looked at their addresses");
        let expected = api::PrepareIncomingResponse {
            address: theirs.address,
            endpoints: theirs.endpoints,
            ..Default::default()
        };
        let mut paths = networks::paths(&ours, &expected)?;
        paths.retain(|path| self.may_go(migration.carrier(), path).is_ok());
        Ok(networks::to_process(&paths))
    }

    /// Where a guest that is expected here can come to by now.
    pub(crate) async fn refresh_endpoints(
        self: Arc<Self>,
        request: api::RefreshEndpointsRequest,
        who: Authenticated,
    ) -> Result<api::RefreshEndpointsResponse, Status> {
        let migration = self.guests.find_migration(&request.migration_id)?;
        if !migration.token().is_some_and(|token| same(&token, &request.token)) {
            return Err(Status::permission_denied("only who announced a guest asks for its way"));
        }
        let uuid = convert::parse_uuid(&migration.status().guest_uuid);
        if let Some(guest) = uuid.and_then(|uuid| self.guests.get(uuid)) {
            guest.check_party(who.0.as_ref())?;
        }
        let known = migration.endpoints();
        let mut fresh = networks::endpoints(&self.options.networks).unwrap_or_default();
        fresh.retain(|endpoint| {
            let at = |known: &api::Endpoint| networks::is_at(known, endpoint.address.ip());
            let ip = endpoint.address.ip();
            !known.iter().any(at) && self.guard.carries(migration.carrier(), ip).is_ok()
        });
        if migration.is_running() && !known.is_empty() && !fresh.is_empty() {
            let guest = self.guests.find(&migration.status().guest_uuid)?;
            let mut link = guest.link(self.options.deadlines).await?;
            let ports = self.options.ports;
            let request = process::ListenRequest {
                ips: fresh.iter().map(|it| it.address.ip().to_string()).collect(),
                port_first: ports.first.into(),
                port_last: ports.last.into(),
            };
            let opened = link.listen(request).await?.addresses;
            let told = fresh.iter().zip(opened).filter(|(_, address)| !address.is_empty());
            let told = told.map(|(it, address)| networks::told(it, address));
            migration.add_endpoints(told);
        }
        let address = migration.address();
        Ok(api::RefreshEndpointsResponse { address, endpoints: migration.endpoints() })
    }
}
