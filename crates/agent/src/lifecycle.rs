//! Guests begin, are looked at, and end.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;
use tracing::Instrument;
use whimbrel_control::api::{self, Direction, GuestState};
use whimbrel_control::{API_VERSION, PRODUCT};
use whimbrel_engine::memory::{Backing, probe_host};
use whimbrel_engine::page::ByteCount;
use whimbrel_engine::protocol::{GuestUuid, PROTOCOL_VERSIONS, Standing};

use crate::agent::Core;
use crate::guests::{Guest, Life, life_of};
use crate::journal::{self, Entry};
use crate::os;
use crate::process_api::{self as process, GuestFile};
use crate::{admission, convert, kinds, process_link, relay};

impl Core {
    /// What this host has and what of it is free.
    pub(crate) fn host(&self) -> Result<api::Host, Status> {
        let available = available()?;
        let all = self.guests.all();
        let living: Vec<_> = all.iter().filter(|guest| !guest.is_dead()).cloned().collect();
        let limits = &self.options.limits;
        let memory = admission::memory(limits, available, &living);
        Ok(api::Host {
            clock_us: crate::probing::clock_us(),
            product: PRODUCT.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: API_VERSION,
            protocol_version_min: *PROTOCOL_VERSIONS.start(),
            protocol_version_max: *PROTOCOL_VERSIONS.end(),
            host_id: format!("{:016x}", self.folder.host()),
            memory_free_bytes: memory.free.0,
            memory_promised_bytes: memory.promised.0,
            memory_limit_bytes: memory.limit.0,
            guests: living.len() as u32,
            guests_limit: limits.guests,
            migrations_out: admission::migrations(Direction::Out, &all),
            migrations_in: admission::migrations(Direction::In, &all),
            migrations_limit: limits.migrations,
            trackers: self.trackers.clone(),
            networks: self.networks(),
            // Each caller is told by itself what its policy lets it know.
            policy_error: String::new(),
        })
    }

    /// Starts a guest; its memory is filled after the answer.
    pub(crate) async fn start_guest(
        self: Arc<Self>,
        request: api::StartGuestRequest,
    ) -> Result<api::Guest, Status> {
        let config = request.config.unwrap_or_default();
        let kind = kinds::Config::of(&config)?.kind();
        let door = relay::door(&config).await?;
        let uuid = uuid::Uuid::new_v4();
        let name = match request.name.as_str() {
            "" => format!("guest-{}", &uuid.to_string()[..8]),
            name => name.to_owned(),
        };
        let file = GuestFile {
            uuid: uuid.to_string(),
            name,
            kind: kind.to_owned(),
            memory_bytes: config.memory_bytes,
            stopped: false,
            service_address: door.as_ref().map(relay::Door::address).unwrap_or_default(),
        };
        let admit = || {
            let newcomer = self.newcomer(GuestUuid(uuid.as_u128()), file.clone());
            let available = available()?;
            self.guests.admit(newcomer, |newcomer, living| {
                admission::check(&self.options.limits, available, newcomer, living)
            })
        };
        let guest = self.admit(admit).await?;
        let host_id = self.folder.host();
        let request = process::StartRequest { config: Some(config), host_id };
        if let Err(status) = self.begin(&guest, request).await {
            self.end_process(&guest).await;
            self.erase(&guest);
            return Err(status);
        }
        if let Some(door) = door {
            self.relay(&guest, door);
        }
        tracing::info!(guest = %guest.config.name, uuid = %guest.uuid, "a guest was started");
        Ok(self.view(&guest).await)
    }

    pub(crate) fn newcomer(&self, uuid: GuestUuid, config: GuestFile) -> Guest {
        Guest::new(uuid, config, self.folder.guest(uuid), Life::Starting)
    }

    async fn begin(
        self: &Arc<Self>,
        guest: &Arc<Guest>,
        request: process::StartRequest,
    ) -> Result<(), Status> {
        self.start_process(guest).await?;
        let mut link = guest.link(self.options.deadlines).await?;
        link.start(request).await?;
        Ok(())
    }

    /// Starts the process of a guest that was admitted.
    pub(crate) async fn start_process(self: &Arc<Self>, guest: &Arc<Guest>) -> Result<(), Status> {
        guest.folder.write_config(&guest.config).map_err(|error| {
            Status::internal(format!("the guest's folder cannot be written: {error}"))
        })?;
        let file = process_link::start(&self.program, &guest.folder, &self.options).await?;
        let Life::Alive(identity, file) = life_of(Some(file)) else {
            return Err(Status::internal("the guest process does not say who it is"));
        };
        guest.set_alive(identity, file);
        self.watch_process(guest);
        Ok(())
    }

    /// Notices when the process of a guest has ended.
    pub(crate) fn watch_process(self: &Arc<Self>, guest: &Arc<Guest>) {
        let Some(identity) = guest.identity() else { return };
        let (core, guest) = (Arc::clone(self), Arc::clone(guest));
        tokio::spawn(async move {
            if let Err(error) = identity.ended().await {
                tracing::warn!(guest = %guest.config.name, "its end will not be noticed: {error}");
                return;
            }
            guest.set_dead();
            let span = guest.span();
            core.process_ended(&guest).instrument(span).await;
        });
    }

    /// Ends the process of a guest, by force where it does not end by itself.
    pub(crate) async fn end_process(&self, guest: &Arc<Guest>) {
        let Some(identity) = guest.identity() else {
            guest.set_dead();
            return;
        };
        let deadlines = self.options.deadlines;
        let asked = match guest.link(deadlines).await {
            Ok(mut link) => link.stop(process::StopRequest { force: true }).await.map(drop),
            Err(status) => Err(status),
        };
        let patience = if asked.is_ok() { deadlines.process_stop } else { Duration::ZERO };
        if !matches!(timeout(patience, identity.ended()).await, Ok(Ok(()))) {
            tracing::warn!(guest = %guest.config.name, "its process is killed");
            let killed = async {
                identity.kill()?;
                timeout(deadlines.process_stop, identity.ended()).await?
            };
            if let Err(error) = killed.await {
                let (guest, pid) = (&guest.config.name, identity.pid);
                tracing::error!(guest, pid, "it does not die: {error}");
                return;
            }
        }
        guest.set_dead();
    }

    /// Waits for guests that end by themselves as this agent does: nobody who waits for the agent
    /// is to find them after it.
    pub(crate) async fn outlive_guests(&self) {
        let patience = Instant::now() + self.options.deadlines.process_stop;
        os::untie();
        for identity in self.guests.all().iter().filter_map(|guest| guest.identity()) {
            if !matches!(timeout_at(patience, identity.ended()).await, Ok(Ok(()))) {
                tracing::warn!(pid = identity.pid, "a guest process is killed");
                if let Err(error) = identity.kill() {
                    tracing::error!(pid = identity.pid, "it does not die: {error}");
                }
            }
        }
    }

    /// Forgets a guest with all its files.
    pub(crate) fn erase(&self, guest: &Arc<Guest>) {
        if let Err(error) = guest.folder.remove() {
            let path = guest.folder.path().display();
            tracing::error!(%path, "a guest's folder cannot be removed: {error}");
        }
        self.guests.forget(guest);
    }

    /// Stops a guest for good, or forgets one that is dead.
    pub(crate) async fn stop_guest(
        self: Arc<Self>,
        request: api::StopGuestRequest,
    ) -> Result<api::StopGuestResponse, Status> {
        let guest = self.guests.find(&request.guest)?;
        if let Err(moved) = self.check_here(&guest) {
            // What is left of its process here can be ended.
            if request.force && !guest.is_dead() {
                self.end_process(&guest).await;
                self.process_ended(&guest).await;
                return Ok(api::StopGuestResponse {});
            }
            return Err(moved);
        }
        if !request.force {
            self.check_stoppable(&guest)?;
        } else if guest.running_migration().is_some() {
            self.stop_moving(&guest).await?;
        }
        guest.set_stopped();
        self.end_relay(guest.uuid);
        self.end_process(&guest).await;
        if !guest.is_dead() {
            return Err(Status::internal("the guest's process does not end; see the agent's log"));
        }
        // Another host may still ask about a guest that came from there or was to go there.
        match self.entry(&guest)? {
            Some(entry) if !entry.record.peer.is_empty() => self.remember(&guest),
            _ => self.erase(&guest),
        }
        tracing::info!(guest = %guest.config.name, "a guest was stopped");
        Ok(api::StopGuestResponse {})
    }

    /// A guest that is to end does not come to life elsewhere.
    async fn stop_moving(&self, guest: &Guest) -> Result<(), Status> {
        let reason = "the guest is being stopped".to_owned();
        let cancelled = guest.cancel(self.options.deadlines, reason).await;
        match cancelled {
            Ok(answer) if !answer.accepted => Err(Status::failed_precondition(answer.sentence)),
            // A process that does not answer is killed.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn check_stoppable(&self, guest: &Guest) -> Result<(), Status> {
        let name = &guest.config.name;
        let why = if guest.running_migration().is_some() {
            "it is moving: cancel the migration first"
        } else if self.is_in_doubt(guest) {
            "who owns it is in doubt: `whimbrel resolve` settles that"
        } else {
            return Ok(());
        };
        let why = format!("guest `{name}` is not stopped: {why}, or stop it by force");
        Err(Status::failed_precondition(why))
    }

    /// Keeps of a dead guest only what answers questions.
    pub(crate) fn remember(&self, guest: &Arc<Guest>) {
        // Clients of a guest that has moved on still come here.
        let service_address = self.relays.look(guest.uuid).map_or_else(String::new, |(at, _)| at);
        let config = GuestFile { stopped: true, service_address, ..guest.config.clone() };
        let kept = guest.folder.forget_process().and_then(|()| guest.folder.write_config(&config));
        if let Err(error) = kept {
            tracing::error!(guest = %guest.config.name, "its folder cannot be written: {error}");
        }
        guest.set_stopped();
        self.prune();
    }

    /// What the guest's journal says. One that cannot be read says nothing, which is not the same
    /// as one in which nothing was written.
    pub(crate) fn entry(&self, guest: &Guest) -> Result<Option<Entry>, Status> {
        journal::read(&guest.folder.journal()).map_err(|error| {
            let name = &guest.config.name;
            tracing::error!(guest = name, "its journal cannot be read: {error}");
            Status::internal(format!("the journal of guest `{name}` cannot be read: {error}"))
        })
    }

    /// All guests as people see them, those that have gone if `include_gone`, by their names.
    pub(crate) async fn views(self: &Arc<Self>, include_gone: bool) -> Vec<api::Guest> {
        // All at once: a process that does not answer costs its deadline only once.
        let mut views = JoinSet::new();
        for guest in self.guests.all() {
            let core = Arc::clone(self);
            views.spawn(async move { core.view(&guest).await });
        }
        let mut guests = views.join_all().await;
        guests.retain(|view| include_gone || view.state() != GuestState::Gone);
        guests.sort_by(|one, other| one.name.cmp(&other.name));
        guests
    }

    /// A guest as people see it.
    pub(crate) async fn view(&self, guest: &Guest) -> api::Guest {
        let (mut view, link) = match guest.look() {
            Life::Starting => (said(GuestState::Starting, "its process is being started"), None),
            Life::Dead => (self.view_of_dead(guest), None),
            // It gives its memory back, and need not answer any more.
            Life::Alive(identity, _) if self.has_left(guest) => {
                (self.view_of_dead(guest), Some(identity))
            }
            Life::Alive(identity, _) => (self.view_of_living(guest).await, Some(identity)),
        };
        view.uuid = guest.uuid.to_string();
        view.name.clone_from(&guest.config.name);
        view.kind.clone_from(&guest.config.kind);
        view.memory_bytes = guest.config.memory_bytes;
        if let Some(identity) = link {
            view.rss_bytes = identity.resident().0;
            view.pid = identity.pid;
        }
        if let Ok(Some(Entry { record, .. })) = self.entry(guest) {
            view.term_generation = record.term.generation;
            view.term_host = record.term.host;
            view.standing = convert::standing_word(record.standing).to_owned();
            view.peer = record.peer;
        }
        if let Some((address, carried)) = self.relays.look(guest.uuid) {
            view.service_address = address;
            view.carried = carried;
        }
        view.migration_id = guest.migration().map(|last| last.id.clone()).unwrap_or_default();
        view
    }

    /// Where the memory of a guest is that moves away; empty if it does not.
    pub(crate) async fn memory_map(&self, guest: &str) -> Result<process::MemoryMap, Status> {
        let mut link = self.guests.find(guest)?.link(self.options.deadlines).await?;
        link.get_memory_map(process::GetMemoryMapRequest { cells_max: 0 }).await
    }

    async fn view_of_living(&self, guest: &Guest) -> api::Guest {
        let status = match guest.link(self.options.deadlines).await {
            Ok(mut link) => link.get_status(process::GetStatusRequest {}).await,
            Err(status) => Err(status),
        };
        match status {
            Ok(status) => status.guest.unwrap_or_default(),
            Err(_) if matches!(guest.look(), Life::Dead) => self.view_of_dead(guest),
            Err(status) => said(GuestState::Failed, status.message()),
        }
    }

    fn view_of_dead(&self, guest: &Guest) -> api::Guest {
        let entry = match self.entry(guest) {
            Ok(Some(entry)) => entry,
            Ok(None) => return said(GuestState::Failed, "its process died before it was a guest"),
            Err(status) => return said(GuestState::Failed, status.message()),
        };
        let peer = &entry.record.peer;
        match entry.record.standing {
            Standing::Ceded => said(GuestState::Gone, &format!("it was handed over to {peer}")),
            Standing::Refused => said(GuestState::Gone, "it was to come here and never ran here"),
            _ if guest.was_stopped() => said(GuestState::Gone, "it was stopped"),
            Standing::Owner | Standing::Running => {
                said(GuestState::Failed, "its process died; `whimbrel stop` forgets it")
            }
            Standing::Switching | Standing::Granted | Standing::MayOwn => {
                let why = format!("its process died in a switchover; {peer} is being asked for it");
                said(GuestState::InDoubt, &why)
            }
        }
    }
}

fn said(state: GuestState, reason: &str) -> api::Guest {
    api::Guest { state: state.into(), state_reason: reason.to_owned(), ..Default::default() }
}

/// Memory that the host has left.
pub(crate) fn available() -> Result<ByteCount, Status> {
    os::memory_available()
        .map_err(|error| Status::internal(format!("the host's memory is not known: {error}")))
}

/// The trackers of this host, best first, with the reason for each.
pub(crate) fn trackers() -> Vec<api::Tracker> {
    let candidates = probe_host(Backing::Private).candidates;
    let tracker = |found: whimbrel_engine::memory::Candidate| api::Tracker {
        name: found.kind.name().to_owned(),
        usable: found.works,
        why: found.reason,
    };
    candidates.into_iter().map(tracker).collect()
}
