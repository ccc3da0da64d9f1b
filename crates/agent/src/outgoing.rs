//! A guest leaves this host.
//!
//! ```text
//!  Migrate ─► the guest is here and still ─► the other agent expects it ─► its process sends it
//!         ─► followed to its end ─► the other agent's half of the report ─► the process ends
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tonic::Status;
use tracing::Instrument;
use whimbrel_control::api::{self, Direction, GuestState, MigrationStatus};
use whimbrel_control::{AgentAddress, Client, ClientError};
use whimbrel_engine::protocol::PROTOCOL_VERSIONS;
use whimbrel_engine::transport::{Endpoint, Path, comes_from};
use whimbrel_engine::{Failure, Fault};

use crate::access::{Action, Authenticated, Warrant, within_a_ticket};
use crate::agent::Core;
use crate::convert;
use crate::deadlines::MigrationDeadlines;
use crate::guests::{Guest, Life, Migration};
use crate::process_link::ProcessLink;
use crate::trusting::Other;
use crate::{
    admission, carriers, heartbeats, kinds, limits, networks, probing, process_api as process,
};

/// What allows a move.
struct Order {
    /// Is handed on to the destination, which may need it.
    ticket: Vec<u8>,
    /// The ticket, where whoever orders the move may not do so without.
    warrant: Option<Warrant>,
}

impl Core {
    /// Begins to move a guest; comes back when the destination expects it and it is on its way.
    pub(crate) async fn migrate(
        self: Arc<Self>,
        request: api::MigrateRequest,
        who: Authenticated,
    ) -> Result<MigrationStatus, Status> {
        let options = request.options.unwrap_or_default();
        let order = self.order(&who, request.ticket, &options)?;
        let destination: AgentAddress = request
            .destination
            .parse()
            .map_err(|error| Status::invalid_argument(format!("the destination {error}")))?;
        convert::source_options(&options, &self.options.deadlines.migration)?;
        convert::scrub(&options)?;
        convert::dscp(&options)?;
        let asked = limits::asked(&options)?;
        carriers::choose(&options, carriers::is_here(&destination))?;
        let guest = self.guests.find(&request.guest)?;
        if let Some(warrant) = &order.warrant {
            warrant.check_guest(guest.uuid)?;
        }
        // A ticket for a move is none to look where the guest has gone.
        if self.guard.allows(&who, Action::Look)? {
            self.check_here(&guest)?;
        }
        self.await_arrival(&guest).await;
        let (migration, before) = self.begin_outgoing(&guest, &destination)?;
        migration.pace.ask(asked);
        migration.set_begun_by(&who);
        let span = migration.span();
        self.set_out(guest, (migration, before), destination, options, order).instrument(span).await
    }

    async fn set_out(
        self: Arc<Self>,
        guest: Arc<Guest>,
        (migration, before): (Arc<Migration>, Option<Arc<Migration>>),
        destination: AgentAddress,
        options: api::MigrationOptions,
        order: Order,
    ) -> Result<MigrationStatus, Status> {
        let handed = self.hand_out(&guest, &migration, &destination, options, &order).await;
        let (other, by_ticket) = match handed {
            Ok(handed) => handed,
            Err(status) => {
                let failure = Failure::new(Fault::Capacity, status.message());
                if migration.may_be_expected() {
                    self.conclude_failed(&migration, &failure).await;
                } else {
                    guest.restore_migration(before);
                    self.call_off(&migration, &failure);
                }
                return Err(status);
            }
        };
        let status = migration.status();
        let trusted =
            Arc::clone(&self).keep_trusted(guest.clone(), migration.clone(), other, by_ticket);
        drop(tokio::spawn(trusted.in_current_span()));
        let routed =
            Arc::clone(&self).keep_routed(guest.clone(), migration.clone(), destination.clone());
        drop(tokio::spawn(routed.in_current_span()));
        let paced = Arc::clone(&self).keep_paced(guest.clone(), migration.clone());
        drop(tokio::spawn(paced.in_current_span()));
        drop(tokio::spawn(self.see_off(guest, migration, destination).in_current_span()));
        Ok(status)
    }

    /// Refuses whoever may not order moves, unless a ticket allows this one. One that is shown and
    /// good is spent, needed or not: nobody finds it good later.
    fn order(
        &self,
        who: &Authenticated,
        ticket: Vec<u8>,
        options: &api::MigrationOptions,
    ) -> Result<Order, Status> {
        if ticket.is_empty() {
            self.guard.require(who, Action::Order)?;
            return Ok(Order { ticket, warrant: None });
        }
        let standing = self.guard.allows(who, Action::Order)?;
        if !standing {
            within_a_ticket(options)?;
        }
        match self.guard.warrant(&ticket) {
            Err(_) if standing => Ok(Order { ticket, warrant: None }),
            warrant => warrant.map(|warrant| Order { ticket, warrant: Some(warrant) }),
        }
    }

    /// Whether the guest may go to whoever answers there: a ticket says so, which is still to be
    /// spent, or the policy.
    fn may_receive(
        &self,
        guest: &Guest,
        order: &Order,
        peer: &Client,
        carrier: api::Carrier,
    ) -> Result<(), Status> {
        let Some(destination) = peer.who() else {
            let why = "a ticket is for hosts that prove who they are; use --tls on both";
            let refuse = || Status::failed_precondition(why);
            return order.warrant.is_none().then_some(()).ok_or_else(refuse);
        };
        match &order.warrant {
            Some(warrant) => {
                self.guard.check_outgoing(warrant, guest.uuid, destination, carrier)?;
            }
            None => self.guard.require_of(destination, Action::Receive)?,
        }
        guest.add_party(destination, &[])
    }

    /// Marks the guest as moving while nobody else can; also gives what it was in before.
    fn begin_outgoing(
        &self,
        guest: &Arc<Guest>,
        destination: &AgentAddress,
    ) -> Result<(Arc<Migration>, Option<Arc<Migration>>), Status> {
        self.guests.decide(|all| {
            let name = &guest.config.name;
            let refuse = |why: String| Err(Status::failed_precondition(why));
            if let Some(running) = guest.running_migration() {
                let id = &running.id;
                return refuse(format!("guest `{name}` is already moving: migration {id}"));
            }
            if !matches!(guest.look(), Life::Alive(..)) {
                return refuse(format!("guest `{name}` does not run here"));
            }
            admission::check_migrations(&self.options.limits, Direction::Out, all)?;
            let migration = Migration::new(MigrationStatus {
                migration_id: uuid::Uuid::new_v4().to_string(),
                guest_uuid: guest.uuid.to_string(),
                guest_name: name.clone(),
                direction: Direction::Out.into(),
                peer: destination.to_string(),
                phase: "preparing".to_owned(),
                ..Default::default()
            });
            let before = guest.set_migration(Arc::clone(&migration));
            Ok((migration, before))
        })
    }

    /// A connection to the process of a guest that can be moved.
    async fn of_running(&self, guest: &Guest) -> Result<ProcessLink, Status> {
        let mut link = guest.link(self.options.deadlines).await?;
        let status = link.get_status(process::GetStatusRequest {}).await?;
        let state = status.guest.unwrap_or_default();
        if state.state() == GuestState::Running {
            return Ok(link);
        }
        let why = match state.state_reason.as_str() {
            "" => "it does not run yet; try again in a moment",
            why => why,
        };
        let name = &guest.config.name;
        Err(Status::failed_precondition(format!("guest `{name}` cannot be moved now: {why}")))
    }

    async fn hand_out(
        &self,
        guest: &Guest,
        migration: &Migration,
        destination: &AgentAddress,
        options: api::MigrationOptions,
        order: &Order,
    ) -> Result<(Other, bool), Status> {
        let mut link = self.of_running(guest).await?;
        let mut peer = self.connect(destination).await?;
        if peer.host().host_id == format!("{:016x}", self.folder.host()) {
            return Err(Status::invalid_argument(format!("{destination} is this host itself")));
        }
        if let Some(why) = probing::clocks_apart(probing::clock_us(), peer.host().clock_us) {
            tracing::warn!(peer = %destination, "{why}");
        }
        let (carrier, ours) = self.leaves_by(&options, destination)?;
        migration.set_carrier(carrier);
        self.may_receive(guest, order, &peer, carrier)?;
        let announcement = self.announcement(guest, migration, order)?;
        let announcement = carried_by(carrier, &mut link, announcement).await?;
        let expected = announce(&mut peer, migration, announcement).await?;
        let paths = networks::paths(&ours, &expected)
            .and_then(|paths| self.goes_by(carrier, &expected.address, paths));
        let spend =
            |paths| order.warrant.iter().try_for_each(|it| self.guard.spend(it)).map(|()| paths);
        let paths = match paths.and_then(spend) {
            Ok(paths) => paths,
            Err(status) => {
                self.take_back(migration, destination).await;
                return Err(status);
            }
        };
        let ways = ways(&expected.address, &paths);
        self.relays.set_way(guest.uuid, &peer);
        guest.keep_migration(&migration.id).await;
        let peer_ip = expected.address.parse().ok().map(|address: SocketAddr| address.ip());
        let limits = self.limits_of(migration);
        migration.pace.set_told(limits.clone());
        let begun = link.migrate(process::MigrateRequest {
            migration_id: migration.id.clone(),
            peer: destination.to_string(),
            address: expected.address,
            token: expected.token,
            host_id: self.folder.host(),
            options: Some(options),
            deadlines: Some(self.deadlines_to(&paths, peer_ip).into()),
            paths: networks::to_process(&paths),
            pin_lanes: self.options.pin_lanes,
            limits: Some(limits),
            identity: self.guard.identity_for(destination),
            carrier: carrier.into(),
            certificate_sha256: expected.certificate_sha256,
        });
        // The answer may be what is lost.
        if let Err(status) = begun.await
            && !self.has_begun(guest, &migration.id).await
        {
            self.take_back(migration, destination).await;
            return Err(status);
        }
        self.others_look(Some(migration));
        tracing::info!(guest = %guest.config.name, peer = %destination, "the guest is on its way");
        Ok((Other::Destination(peer, ways), order.warrant.is_some()))
    }

    /// What carries a guest there, and this host's addresses in its migration networks, from which
    /// it may go so. Agents that meet on one host may have networks that lead beyond it.
    fn leaves_by(
        &self,
        options: &api::MigrationOptions,
        destination: &AgentAddress,
    ) -> Result<(api::Carrier, Vec<Endpoint>), Status> {
        let ours = match options.transport() {
            api::Transport::Unix => Vec::new(),
            _ => networks::endpoints(&self.options.networks)?,
        };
        let inside = ours.iter().all(|it| it.address.ip().is_loopback());
        let carrier = carriers::choose(options, carriers::is_here(destination) && inside)?;
        ours.iter().try_for_each(|it| self.guard.carries(carrier, it.address.ip()))?;
        Ok((carrier, ours))
    }

    /// Refuses paths over which nothing may go so; without any it is the address where the other
    /// side listens.
    fn goes_by(
        &self,
        carrier: api::Carrier,
        address: &str,
        paths: Vec<Path>,
    ) -> Result<Vec<Path>, Status> {
        let ways = ways(address, &paths);
        if carrier != api::Carrier::Local && ways.is_empty() {
            return Err(Status::internal("the destination names no address"));
        }
        ways.iter().try_for_each(|path| self.may_go(carrier, path))?;
        Ok(paths)
    }

    /// Whether a session so carried may take this path.
    pub(crate) fn may_go(&self, carrier: api::Carrier, path: &Path) -> Result<(), Status> {
        // Where there is no way yet, nobody can say that the one that comes is trusted.
        let here = comes_from(path).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        [here, path.remote.ip()].into_iter().try_for_each(|ip| self.guard.carries(carrier, ip))
    }

    /// How long both processes of a migration over this way wait for each other.
    pub(crate) fn deadlines_to(&self, paths: &[Path], peer: Option<IpAddr>) -> MigrationDeadlines {
        self.deadlines_of(heartbeats::is_near(paths, peer))
    }

    /// The same for ways of a class.
    pub(crate) fn deadlines_of(&self, near: bool) -> MigrationDeadlines {
        self.limits.heartbeats().apply(near, self.options.deadlines.migration)
    }

    fn announcement(
        &self,
        guest: &Guest,
        migration: &Migration,
        order: &Order,
    ) -> Result<api::PrepareIncomingRequest, Status> {
        let (agent_host, agent_port) = self.reached_at();
        let heartbeat = |near| Some(heartbeats::told(&self.deadlines_of(near)));
        Ok(api::PrepareIncomingRequest {
            same_subnet: heartbeat(true),
            cross_subnet: heartbeat(false),
            migration_id: migration.id.clone(),
            guest_uuid: guest.uuid.to_string(),
            guest_name: guest.config.name.clone(),
            kind: guest.config.kind.clone(),
            // A guest that is here is of a kind that is known.
            state_version: kinds::state_version(&guest.config.kind).unwrap_or_default(),
            memory_bytes: guest.config.memory_bytes,
            protocol_version_min: *PROTOCOL_VERSIONS.start(),
            protocol_version_max: *PROTOCOL_VERSIONS.end(),
            agent_host,
            agent_port: agent_port.into(),
            service_address: self.relays.look(guest.uuid).map_or_else(String::new, |(at, _)| at),
            ticket: order.ticket.clone(),
            relays: guest.relays()?,
            ..Default::default()
        })
    }

    /// The folder of the identity that the agent at this address is to be shown.
    pub(crate) fn identity_for(&self, peer: &str) -> String {
        peer.parse().map_or_else(|_| String::new(), |peer| self.guard.identity_for(&peer))
    }

    /// Reaches another agent.
    pub(crate) async fn connect(&self, peer: &AgentAddress) -> Result<Client, Status> {
        let ours = self.options.deadlines;
        let deadlines = whimbrel_control::Deadlines {
            connect: ours.peer_connect,
            call: ours.peer_call,
            ..Default::default()
        };
        let client = Client::connect_as(peer, deadlines, self.guard.access()).await;
        client.map_err(|error| of_peer(peer, &error))
    }

    /// Follows a migration to its end and past it.
    pub(crate) async fn see_off(
        self: Arc<Self>,
        guest: Arc<Guest>,
        migration: Arc<Migration>,
        destination: AgentAddress,
    ) {
        let mut last = self.follow(&guest, &migration).await;
        tracing::info!(guest = %guest.config.name, outcome = ?last.outcome(), "the guest was sent");
        match last.outcome() {
            api::Outcome::InDoubt => {
                self.settle(&guest, Some((&migration, last))).await;
                return;
            }
            api::Outcome::Completed => {
                self.collect(&migration.id, &destination, &mut last).await;
                self.conclude(&migration, last).await;
                // It gives gigabytes back, for which nobody waits who wants the guest there.
                self.end_process(&guest).await;
                return self.process_ended(&guest).await;
            }
            // A process that has not met the destination's leaves it waiting. A link that is lost
            // once they have met is told to both, and this would only wait as well.
            api::Outcome::Aborted
                if guest.is_dead()
                    || last.fault() != api::Fault::Link
                    || last.rounds.is_empty() =>
            {
                self.take_back(&migration, &destination).await;
            }
            api::Outcome::Aborted | api::Outcome::Unspecified => {}
        }
        self.conclude(&migration, last).await;
        // A process whose disk was full could not record how it ended: the other side still knows.
        if guest.is_dead() && self.is_in_doubt(&guest) {
            self.settle(&guest, None).await;
        }
    }

    /// Asks for the end of a migration, and waits until nothing of it is left on either side.
    pub(crate) async fn cancel_migration(
        self: Arc<Self>,
        request: api::CancelMigrationRequest,
        who: Authenticated,
    ) -> Result<api::CancelMigrationResponse, Status> {
        let migration = self.guests.find_migration(&request.migration)?;
        if !migration.was_begun_by(&who) {
            self.guard.require(&who, Action::Order)?;
        }
        let status = migration.status();
        if !migration.is_running() {
            let id = &migration.id;
            let why = match status.outcome() {
                api::Outcome::Completed if status.direction() == Direction::Out => {
                    format!(": `{}` has moved to {}", status.guest_name, status.peer)
                }
                _ => String::new(),
            };
            let why = format!("migration {id} has ended already{why}");
            return Err(Status::failed_precondition(why));
        }
        let guest = self.guests.find(&status.guest_uuid)?;
        let reason = "cancelled by a call to the agent".to_owned();
        let answer = guest.cancel(self.options.deadlines, reason).await?;
        if answer.accepted {
            self.await_clearance(&migration).await;
        }
        Ok(answer)
    }
}

/// These paths; without any the one to the address where the other side listens, if it has one.
fn ways(address: &str, paths: &[Path]) -> Vec<Path> {
    match paths {
        [] => address.parse().map(Path::to).into_iter().collect(),
        some => some.to_vec(),
    }
}

/// Has the guest expected.
async fn announce(
    peer: &mut Client,
    migration: &Migration,
    announcement: api::PrepareIncomingRequest,
) -> Result<api::PrepareIncomingResponse, Status> {
    let expected = peer.prepare_incoming(announcement).await.map_err(|error| {
        // The answer may be what was lost.
        if error.refusal().is_none() {
            migration.set_may_be_expected();
        }
        of_peer(peer.address(), &error)
    })?;
    migration.set_token(&expected.token);
    migration.set_ways(&expected.address, &expected.endpoints);
    Ok(expected)
}

/// Adds how the guest is to travel, and the certificate of its process where it has one.
async fn carried_by(
    carrier: api::Carrier,
    link: &mut ProcessLink,
    announcement: api::PrepareIncomingRequest,
) -> Result<api::PrepareIncomingRequest, Status> {
    let certificate_sha256 = match carriers::is_certified(carrier) {
        true => {
            let certified = link.certify(process::CertifyRequest {}).await;
            certified.map_err(carriers::uncertified)?.certificate_sha256
        }
        false => Vec::new(),
    };
    let carrier = carrier.into();
    Ok(api::PrepareIncomingRequest { carrier, certificate_sha256, ..announcement })
}

/// What another agent said, or that it said nothing, for whoever asked this one.
pub(crate) fn of_peer(peer: &AgentAddress, error: &ClientError) -> Status {
    match error {
        ClientError::Refused { code, why } => {
            Status::new(*code, format!("the agent at {peer} refuses: {why}"))
        }
        ClientError::NotThere { .. }
        | ClientError::NotWhimbrel { .. }
        | ClientError::Lost { .. }
        | ClientError::Late { .. } => Status::unavailable(error.to_string()),
        ClientError::AsksWho { .. } => {
            let why =
                "speaks TLS only: start this agent with --tls, and have both trust each other";
            Status::failed_precondition(format!("the agent at {peer} {why}"))
        }
        ClientError::Version { .. }
        | ClientError::NoIdentity { .. }
        | ClientError::Unproven { .. } => Status::failed_precondition(error.to_string()),
    }
}
