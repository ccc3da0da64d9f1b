//! A guest comes to this host.

use std::sync::Arc;

use tonic::Status;
use tracing::Instrument;
use whimbrel_control::AgentAddress;
use whimbrel_control::api::{self, Direction, MigrationStatus};
use whimbrel_engine::protocol::{GuestUuid, PROTOCOL_VERSIONS, Process, Standing};
use whimbrel_engine::transport::Endpoint;
use whimbrel_engine::{Failure, Fault};

use crate::access::{Action, Authenticated, Caller, Warrant};
use crate::admission;
use crate::agent::Core;
use crate::carriers;
use crate::convert;
use crate::deadlines::MigrationDeadlines;
use crate::guests::{Guest, Migration};
use crate::heartbeats;
use crate::kinds;
use crate::lifecycle::available;
use crate::networks;
use crate::ownership::dead_since;
use crate::process_api::{self as process, GuestFile};
use crate::process_link::overlap;
use crate::secret::same;
use crate::trusting::Other;

impl Core {
    /// Has a guest process wait for a guest that another agent announces.
    pub(crate) async fn prepare_incoming(
        self: Arc<Self>,
        request: api::PrepareIncomingRequest,
        caller: Caller,
        who: Authenticated,
    ) -> Result<api::PrepareIncomingResponse, Status> {
        carriers::accept(request.carrier(), caller.remote.ip().is_loopback())?;
        let uuid = convert::parse_uuid(&request.guest_uuid)
            .ok_or_else(|| Status::invalid_argument("the guest has no uuid"))?;
        let warrant = self.may_send(&who, uuid, &request)?;
        check_fit(&request)?;
        let peer = peer_address(&request, &caller)?;
        let endpoints = self.listens_at(request.carrier(), &caller)?;
        if let Some(guest) = self.guests.get(uuid) {
            self.bury(&guest).await?;
        }
        let (guest, migration) = self.admit(|| self.expect(uuid, &request, &peer)).await?;
        migration.set_carrier(request.carrier());
        let asked = process::ReceiveRequest {
            migration_id: migration.id.clone(),
            peer: peer.clone(),
            carrier: request.carrier,
            deadlines: Some(self.deadlines_from(&request, &endpoints, &caller).into()),
            certificate_sha256: request.certificate_sha256,
            ..Default::default()
        };
        let (span, relays) = (migration.span(), request.relays);
        let with = (relays, endpoints, warrant);
        let awaited = self.await_guest(guest, migration, asked, caller, who, with);
        awaited.instrument(span).await
    }

    /// How long both processes of a migration wait for each other, as its source says. Which way it
    /// takes is for the source to find, where there are several.
    fn deadlines_from(
        &self,
        request: &api::PrepareIncomingRequest,
        endpoints: &[Endpoint],
        caller: &Caller,
    ) -> MigrationDeadlines {
        let near = heartbeats::is_near(&[], Some(caller.remote.ip()));
        let said = [(true, &request.same_subnet), (false, &request.cross_subnet)].into_iter();
        let said = said.filter(|(class, _)| *class == near || !endpoints.is_empty());
        heartbeats::agreed(self.deadlines_of(near), said.filter_map(|(_, said)| said.as_ref()))
    }

    /// This host's addresses in its migration networks, at which a guest so carried may come in.
    /// Where there are none it comes to where the other agent called.
    fn listens_at(&self, carrier: api::Carrier, caller: &Caller) -> Result<Vec<Endpoint>, Status> {
        let endpoints = match carrier {
            api::Carrier::Local => return Ok(Vec::new()),
            _ => networks::endpoints(&self.options.networks)?,
        };
        let called = endpoints.is_empty().then(|| caller.local.ip());
        let mut ips = endpoints.iter().map(|it| it.address.ip()).chain(called);
        ips.try_for_each(|ip| self.guard.carries(carrier, ip))?;
        Ok(endpoints)
    }

    async fn await_guest(
        self: Arc<Self>,
        guest: Arc<Guest>,
        migration: Arc<Migration>,
        asked: process::ReceiveRequest,
        caller: Caller,
        who: Authenticated,
        (relays, endpoints, warrant): (Vec<String>, Vec<Endpoint>, Option<Warrant>),
    ) -> Result<api::PrepareIncomingResponse, Status> {
        let peer = asked.peer.clone();
        let listening = self.listen(&guest, asked, &caller, &who, (&relays, &endpoints));
        let spend = |ways| warrant.iter().try_for_each(|it| self.guard.spend(it)).map(|()| ways);
        let (listening, endpoints) = match listening.await.and_then(spend) {
            Ok(listening) => listening,
            Err(status) => {
                let failure = Failure::new(Fault::Capacity, status.message());
                self.call_off(&migration, &failure);
                self.end_process(&guest).await;
                self.process_ended(&guest).await;
                return Err(status);
            }
        };
        let process::ReceiveResponse { address, token, certificate_sha256, .. } = listening;
        migration.set_token(&token);
        migration.set_ways(&address, &endpoints);
        tracing::info!(guest = %guest.config.name, peer, address, "a guest is expected");
        let (source, core) = (Other::Source(caller), Arc::clone(&self));
        let trusted =
            core.keep_trusted(guest.clone(), migration.clone(), source, warrant.is_some());
        drop(tokio::spawn(trusted.in_current_span()));
        drop(tokio::spawn(self.clone().see_in(guest, migration).in_current_span()));
        Ok(api::PrepareIncomingResponse {
            address,
            token,
            certificate_sha256,
            host_id: format!("{:016x}", self.folder.host()),
            endpoints,
        })
    }

    /// Refuses a source that may not send guests here, unless a ticket allows it this one. One that
    /// is shown and good is still to be spent, needed or not: nobody finds it good later.
    fn may_send(
        &self,
        who: &Authenticated,
        uuid: GuestUuid,
        request: &api::PrepareIncomingRequest,
    ) -> Result<Option<Warrant>, Status> {
        let (guard, ticket) = (&self.guard, &request.ticket);
        match &who.0 {
            Some(source) if !ticket.is_empty() => {
                let fits = |warrant: Warrant| {
                    guard.check_incoming(&warrant, uuid, source, request.carrier())?;
                    Ok(warrant)
                };
                match guard.warrant(ticket).and_then(fits) {
                    Err(_) if guard.may(source, Action::Send)? => Ok(None),
                    warrant => warrant.map(Some),
                }
            }
            _ => guard.require(who, Action::Send).map(|()| None),
        }
    }

    fn expect(
        &self,
        uuid: GuestUuid,
        request: &api::PrepareIncomingRequest,
        peer: &str,
    ) -> Result<(Arc<Guest>, Arc<Migration>), Status> {
        let config = GuestFile {
            uuid: uuid.to_string(),
            name: request.guest_name.clone(),
            kind: request.kind.clone(),
            memory_bytes: request.memory_bytes,
            stopped: false,
            service_address: request.service_address.clone(),
        };
        let migration = Migration::new(MigrationStatus {
            migration_id: request.migration_id.clone(),
            guest_uuid: config.uuid.clone(),
            guest_name: config.name.clone(),
            direction: Direction::In.into(),
            peer: peer.to_owned(),
            phase: "preparing".to_owned(),
            ..Default::default()
        });
        if migration.id.is_empty() || self.guests.find_migration(&migration.id).is_ok() {
            return Err(Status::already_exists("the migration needs an identity of its own"));
        }
        let newcomer = self.newcomer(uuid, config);
        newcomer.set_migration(Arc::clone(&migration));
        let available = available()?;
        let limits = &self.options.limits;
        let before = self.guests.get(uuid);
        let guest = self.guests.admit(newcomer, |newcomer, living| {
            admission::check(limits, available, newcomer, living)?;
            admission::check_migrations(limits, Direction::In, living)?;
            self.check_record(newcomer, before.as_deref())
        })?;
        Ok((guest, migration))
    }

    /// Whoever has died here, or has moved away, is put to rest before another one comes, or before
    /// its clients are let go.
    pub(crate) async fn bury(self: &Arc<Self>, guest: &Arc<Guest>) -> Result<(), Status> {
        if self.has_left(guest) {
            if !self.see_ended(&[Arc::clone(guest)]).await {
                let name = &guest.config.name;
                let why = format!("guest `{name}` has moved away, and its process here still ends");
                return Err(Status::failed_precondition(format!("{why}: try again in a moment")));
            }
            self.process_ended(guest).await;
        }
        if guest.is_dead() {
            drop(guest.buried.lock().await);
        }
        Ok(())
    }

    /// A guest whose process is dead has a record that others ask for, and that a person may need:
    /// an announcement takes its place only where that leaves nothing open.
    fn check_record(&self, newcomer: &Guest, before: Option<&Guest>) -> Result<(), Status> {
        let Some(entry) = self.entry(newcomer)? else { return Ok(()) };
        let why = match entry.record.standing {
            _ if before.is_some_and(Guest::was_stopped) => {
                newcomer.set_stopped_term(entry.record.term);
                return Ok(());
            }
            // A source that has not heard of the refusal is told of it still: wire.md O8.
            Standing::Ceded | Standing::Refused => return Ok(()),
            // Without the note it never ran here, and with a dead process it never will.
            Standing::MayOwn if dead_since(&entry) == Process::Dead => return Ok(()),
            Standing::Owner | Standing::Running => {
                "has died here with its process: `whimbrel stop` it here first, which forgets it"
            }
            Standing::Switching | Standing::Granted | Standing::MayOwn => {
                "was on its way when its process died here, and who owns it is open: try again \
                 when the two agents have settled that, or `whimbrel resolve` it here"
            }
        };
        Err(Status::failed_precondition(format!("guest {} {why}", newcomer.uuid)))
    }

    async fn listen(
        self: &Arc<Self>,
        guest: &Arc<Guest>,
        asked: process::ReceiveRequest,
        caller: &Caller,
        who: &Authenticated,
        (relays, endpoints): (&[String], &[Endpoint]),
    ) -> Result<(process::ReceiveResponse, Vec<api::Endpoint>), Status> {
        self.start_process(guest).await?;
        guest.keep_migration(&asked.migration_id).await;
        if let Some(source) = &who.0 {
            guest.add_party(source, relays)?;
        }
        let mut link = guest.link(self.options.deadlines).await?;
        let ports = self.options.ports;
        let request = process::ReceiveRequest {
            // The address that the other agent could reach us at.
            bind_ip: caller.local.ip().to_string(),
            port_first: ports.first.into(),
            port_last: ports.last.into(),
            host_id: self.folder.host(),
            identity: self.identity_for(&asked.peer),
            bind_ips: endpoints.iter().map(|it| it.address.ip().to_string()).collect(),
            ..asked
        };
        let listening = link.receive(request).await?;
        let told = endpoints.iter().zip(&listening.addresses);
        let told = told.map(|(endpoint, address)| networks::told(endpoint, address.clone()));
        let told = told.collect();
        Ok((listening, told))
    }

    /// Follows an attempt to its end; of one that failed nothing stays but what answers questions.
    pub(crate) async fn see_in(self: Arc<Self>, guest: Arc<Guest>, migration: Arc<Migration>) {
        let last = self.follow(&guest, &migration).await;
        tracing::info!(guest = %guest.config.name, outcome = ?last.outcome(), "the guest came");
        if last.outcome() == api::Outcome::Aborted {
            guest.set_never_ran();
            self.end_process(&guest).await;
            self.process_ended(&guest).await;
        } else if last.outcome() == api::Outcome::Completed {
            self.take_over_port(&guest).await;
        }
        self.conclude(&migration, last).await;
    }

    /// Takes an announcement back.
    pub(crate) async fn cancel_incoming(
        self: Arc<Self>,
        request: api::CancelIncomingRequest,
        who: Authenticated,
    ) -> Result<api::CancelIncomingResponse, Status> {
        let migration = self.guests.find_migration(&request.migration_id)?;
        if !migration.token().is_some_and(|token| same(&token, &request.token)) {
            return Err(Status::permission_denied("only who announced a guest takes it back"));
        }
        if !migration.is_running() {
            return Ok(api::CancelIncomingResponse { accepted: false });
        }
        let guest = self.guests.find(&migration.status().guest_uuid)?;
        guest.check_party(who.0.as_ref())?;
        let reason = "the source's agent took it back".to_owned();
        let cancelled = guest.cancel(self.options.deadlines, reason).await?;
        Ok(api::CancelIncomingResponse { accepted: cancelled.accepted })
    }
}

fn check_fit(request: &api::PrepareIncomingRequest) -> Result<(), Status> {
    let theirs = request.protocol_version_min..=request.protocol_version_max;
    if !overlap(&theirs, &PROTOCOL_VERSIONS) {
        return Err(Status::failed_precondition(format!(
            "the source speaks versions {} to {} of the migration protocol, this host {} to {}; \
             upgrade the older one",
            theirs.start(),
            theirs.end(),
            PROTOCOL_VERSIONS.start(),
            PROTOCOL_VERSIONS.end()
        )));
    }
    let (kind, version) = (&request.kind, request.state_version);
    let known = kinds::state_version(kind).map_err(Status::failed_precondition)?;
    if version != known {
        return Err(Status::failed_precondition(format!(
            "the guest's state has version {version}, this host reads {known}: use one release \
             on both hosts"
        )));
    }
    Ok(())
}

/// Where the source's agent answers questions.
fn peer_address(request: &api::PrepareIncomingRequest, caller: &Caller) -> Result<String, Status> {
    let remote = caller.remote.ip().to_string();
    let host = if request.agent_host.is_empty() { &remote } else { &request.agent_host };
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let address: Result<AgentAddress, _> = format!("{bracketed}:{}", request.agent_port).parse();
    let address = address.map_err(|error| {
        Status::invalid_argument(format!("the source says where its agent is, but {error}"))
    })?;
    Ok(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use whimbrel_control::Client;
    use whimbrel_control::api::GuestState;
    use whimbrel_engine::Journal as _;
    use whimbrel_engine::protocol::{Record, SessionId, Term};
    use whimbrel_guest::stress::{KIND, STATE_VERSION};

    use crate::agent::Agent;
    use crate::folder::DataFolder;
    use crate::journal::{self, FileJournal};
    use crate::options::AgentOptions;

    fn request() -> api::PrepareIncomingRequest {
        api::PrepareIncomingRequest {
            kind: KIND.to_owned(),
            state_version: STATE_VERSION,
            protocol_version_min: *PROTOCOL_VERSIONS.start(),
            protocol_version_max: *PROTOCOL_VERSIONS.end(),
            agent_port: 7117,
            ..Default::default()
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_before_anything_is_made() {
        check_fit(&request()).unwrap();
        let newer = *PROTOCOL_VERSIONS.end() + 1;
        let unfit = [
            api::PrepareIncomingRequest {
                protocol_version_min: newer,
                protocol_version_max: newer,
                ..request()
            },
            api::PrepareIncomingRequest {
                protocol_version_min: 0,
                protocol_version_max: 0,
                ..request()
            },
            api::PrepareIncomingRequest { kind: "toaster".to_owned(), ..request() },
            api::PrepareIncomingRequest { state_version: STATE_VERSION + 1, ..request() },
        ];
        for request in unfit {
            let status = check_fit(&request).unwrap_err();
            assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
        }
    }

    /// What died on a host before its agent was started again.
    struct Past {
        standing: Standing,
        host_restarted: bool,
        stopped: bool,
    }

    impl Past {
        fn is_over(&self) -> bool {
            let never_ran = self.standing == Standing::MayOwn && !self.host_restarted;
            never_ran || matches!(self.standing, Standing::Ceded | Standing::Refused)
        }
    }

    /// An agent on such a host, and one that announces the guest: why it is refused, where it is
    /// for the record.
    async fn announced_over(past: Past) -> Result<(), String> {
        let temp = tempfile::tempdir().unwrap();
        let data = DataFolder::open(temp.path()).unwrap();
        let (uuid, folder) = (GuestUuid(6), data.guest(GuestUuid(6)));
        let (name, stopped) = ("web".to_owned(), past.stopped);
        let config = GuestFile { uuid: uuid.to_string(), name, stopped, ..Default::default() };
        folder.write_config(&config).unwrap();
        let (session, peer) = (SessionId(1), "127.0.0.1:1".to_owned());
        let term = Term { generation: 3, host: data.host() };
        let record = Record { guest: uuid, term, session, peer, standing: past.standing };
        let mut journal = FileJournal::open(&folder.journal()).unwrap();
        if past.host_restarted {
            journal = journal.of_an_earlier_boot();
        }
        journal.record(&record).unwrap();
        drop((data, journal));
        let mut options = AgentOptions::new(temp.path(), ([127, 0, 0, 1], 0).into());
        // Whoever gets as far as this has been let in.
        options.program = Some("/nowhere/whimbrel-agent".into());
        let agent = Agent::bound(options).await;
        let address = agent.address().to_string().parse().unwrap();
        tokio::spawn(agent.serve(std::future::pending()));
        let mut client = Client::connect(&address, Default::default()).await.unwrap();
        let request = api::PrepareIncomingRequest {
            migration_id: "m".to_owned(),
            guest_uuid: uuid.to_string(),
            guest_name: "web".to_owned(),
            memory_bytes: 1 << 20,
            ..request()
        };
        let refused = client.prepare_incoming(request).await.expect_err("there is no program");
        let asked = api::GetGuestRequest { guest: uuid.to_string() };
        let stopped = client.get_guest(asked).await.map(|guest| guest.state() == GuestState::Gone);
        assert_eq!(stopped.unwrap_or(true), past.stopped || past.is_over());
        match refused.to_string() {
            why if why.contains("cannot be started") => Ok(()),
            why => {
                let kept = journal::read(&folder.journal()).unwrap().map(|entry| entry.record);
                assert_eq!(kept, Some(record), "{why}");
                Err(why)
            }
        }
    }

    #[tokio::test]
    async fn no_announcement_takes_the_place_of_a_record_that_leaves_something_open() {
        use Standing::{Ceded, Granted, MayOwn, Owner, Refused, Running, Switching};
        for standing in [Owner, Switching, Granted, Ceded, MayOwn, Running, Refused] {
            for host_restarted in [false, true] {
                let past = Past { standing, host_restarted, stopped: false };
                let over = past.is_over();
                match announced_over(past).await {
                    Ok(()) => assert!(over, "{standing:?} was overwritten"),
                    Err(why) => assert!(!over && why.contains("`whimbrel "), "{standing:?}: {why}"),
                }
                // And it stays so, as nothing came of it.
                let past = Past { standing, host_restarted, stopped: true };
                announced_over(past).await.expect("whoever stopped it wants no more of it");
            }
        }
    }

    #[test]
    fn a_source_that_cannot_say_where_it_is_is_where_it_called_from() {
        let local = "127.0.0.1:1".parse().unwrap();
        for (remote, host, expected) in [
            ("10.0.0.1:999", "", "10.0.0.1:7117"),
            ("10.0.0.1:999", "a.example", "a.example:7117"),
            ("[fe80::1]:999", "", "[fe80::1]:7117"),
            ("10.0.0.1:999", "::1", "[::1]:7117"),
        ] {
            let caller = Caller::local(local, remote.parse().unwrap());
            let request = api::PrepareIncomingRequest { agent_host: host.to_owned(), ..request() };
            assert_eq!(peer_address(&request, &caller).unwrap(), expected);
        }
        let caller = Caller::local(local, local);
        let bad = api::PrepareIncomingRequest { agent_port: 0, ..request() };
        assert!(peer_address(&bad, &caller).is_err());
    }
}
