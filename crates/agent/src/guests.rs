//! The guests of this host, as their agent knows them.
//!
//! ```text
//!  admit ─► Starting ─► Alive(process) ─► Dead ─► remembered by its record, or forgotten
//! ```
//!
//! A guest's process knows how the guest is; its record knows who owns it; the agent keeps who
//! they are and which migration it watches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::{Notify, watch};
use tonic::Status;
use whimbrel_control::api;
use whimbrel_engine::page::ByteCount;
use whimbrel_engine::protocol::{GuestUuid, Term};
use whimbrel_identity::Fingerprint;

use crate::access::Authenticated;
use crate::convert::parse_uuid;
use crate::deadlines::Deadlines;
use crate::folder::GuestFolder;
use crate::limits::Pace;
use crate::lock::lock;
use crate::log::migration_span;
use crate::os::ProcessIdentity;
use crate::process_api::{CancelRequest, GuestFile, ProcessFile};
use crate::process_link::{self, ProcessLink};
use crate::watching::is_last;

/// Migrations that are remembered after their guest was forgotten.
const RECENT_MAX: usize = 64;

/// One migration that this agent watches.
#[derive(Debug)]
pub(crate) struct Migration {
    pub(crate) id: String,
    pub(crate) direction: api::Direction,
    status: watch::Sender<api::MigrationStatus>,
    /// What is logged of it stands in here.
    span: tracing::Span,
    /// What opens the destination's process: who has it may take the announcement back.
    token: OnceLock<Vec<u8>>,
    /// Whether a destination that has given no token may expect the guest all the same.
    may_be_expected: AtomicBool,
    /// Where the destination's process listens, and where in each of its migration networks.
    ways: Mutex<(String, Vec<api::Endpoint>)>,
    /// How it travels, once that is known.
    carrier: OnceLock<api::Carrier>,
    /// How fast it may go.
    pub(crate) pace: Pace,
    /// Whose order it is, where they proved who they are.
    begun_by: OnceLock<Fingerprint>,
}

impl Migration {
    pub(crate) fn new(status: api::MigrationStatus) -> Arc<Self> {
        let id = status.migration_id.clone();
        let direction = status.direction();
        let status = watch::Sender::new(status);
        let span = migration_span(&id);
        Arc::new(Self {
            id,
            direction,
            status,
            span,
            token: OnceLock::new(),
            begun_by: OnceLock::new(),
            may_be_expected: AtomicBool::new(false),
            ways: Mutex::default(),
            carrier: OnceLock::new(),
            pace: Pace::default(),
        })
    }

    pub(crate) fn set_begun_by(&self, who: &Authenticated) {
        if let Some(who) = &who.0 {
            self.begun_by.get_or_init(|| who.fingerprint);
        }
    }

    /// Whether it is this caller's order.
    pub(crate) fn was_begun_by(&self, who: &Authenticated) -> bool {
        let asks = who.0.as_ref().map(|who| &who.fingerprint);
        asks.is_some() && self.begun_by.get() == asks
    }

    pub(crate) fn span(&self) -> tracing::Span {
        self.span.clone()
    }

    pub(crate) fn set_token(&self, token: &[u8]) {
        self.token.get_or_init(|| token.to_vec());
    }

    /// The token, unless another agent than this one has begun it.
    pub(crate) fn token(&self) -> Option<Vec<u8>> {
        self.token.get().cloned()
    }

    /// The destination's agent was asked, and its answer was not heard.
    pub(crate) fn set_may_be_expected(&self) {
        self.may_be_expected.store(true, Ordering::Relaxed);
    }

    /// Whether a destination's process may wait for the guest.
    pub(crate) fn may_be_expected(&self) -> bool {
        self.token.get().is_some() || self.may_be_expected.load(Ordering::Relaxed)
    }

    pub(crate) fn set_carrier(&self, carrier: api::Carrier) {
        self.carrier.get_or_init(|| carrier);
    }

    /// How it travels; nobody knows that of one which another agent than this one has begun.
    pub(crate) fn carrier(&self) -> api::Carrier {
        self.carrier.get().copied().unwrap_or_default()
    }

    pub(crate) fn set_ways(&self, address: &str, endpoints: &[api::Endpoint]) {
        *lock(&self.ways) = (address.to_owned(), endpoints.to_vec());
    }

    pub(crate) fn add_endpoints(&self, endpoints: impl IntoIterator<Item = api::Endpoint>) {
        lock(&self.ways).1.extend(endpoints);
    }

    pub(crate) fn address(&self) -> String {
        lock(&self.ways).0.clone()
    }

    pub(crate) fn endpoints(&self) -> Vec<api::Endpoint> {
        lock(&self.ways).1.clone()
    }

    pub(crate) fn status(&self) -> api::MigrationStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<api::MigrationStatus> {
        self.status.subscribe()
    }

    pub(crate) fn publish(&self, change: impl FnOnce(&mut api::MigrationStatus)) {
        self.status.send_modify(change);
    }

    /// Whether it still goes on.
    pub(crate) fn is_running(&self) -> bool {
        !is_last(&self.status.borrow())
    }
}

/// What there is of a guest's process.
#[derive(Clone, Debug)]
pub(crate) enum Life {
    /// It is being started.
    Starting,
    /// It was there when it was last looked at.
    Alive(ProcessIdentity, ProcessFile),
    /// It is proven dead, or there never was one.
    Dead,
}

#[derive(Debug)]
struct State {
    life: Life,
    link: Option<ProcessLink>,
    migration: Option<Arc<Migration>>,
    /// It was stopped on purpose: that it is dead is no failure.
    stopped: bool,
    /// Somebody is at work on who owns it.
    in_doubt: bool,
    /// Its process has said that it never ran here and never will.
    never_ran: bool,
    /// The term under which a guest was stopped here in whose place this one is.
    stopped_term: Option<Term>,
}

/// One guest.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) uuid: GuestUuid,
    pub(crate) config: GuestFile,
    pub(crate) folder: GuestFolder,
    state: Mutex<State>,
    /// Whether the end of its process was dealt with; held while that is done.
    pub(crate) buried: tokio::sync::Mutex<bool>,
    /// Held while the agent reads and writes the journal of a dead process.
    journal: Mutex<()>,
    doubt: Notify,
    /// The span of the last migration that an agent before this one watched.
    before: OnceLock<tracing::Span>,
}

impl Guest {
    pub(crate) fn new(uuid: GuestUuid, config: GuestFile, folder: GuestFolder, life: Life) -> Self {
        let stopped = config.stopped;
        let (link, migration, in_doubt, never_ran) = (None, None, false, false);
        let stopped_term = None;
        let state = State { life, link, migration, stopped, in_doubt, never_ran, stopped_term };
        Self {
            uuid,
            config,
            folder,
            state: Mutex::new(state),
            buried: tokio::sync::Mutex::default(),
            journal: Mutex::default(),
            doubt: Notify::new(),
            before: OnceLock::new(),
        }
    }

    pub(crate) fn memory(&self) -> ByteCount {
        ByteCount(self.config.memory_bytes)
    }

    pub(crate) fn life(&self) -> Life {
        lock(&self.state).life.clone()
    }

    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.life(), Life::Dead)
    }

    pub(crate) fn identity(&self) -> Option<ProcessIdentity> {
        match self.life() {
            Life::Alive(identity, _) => Some(identity),
            Life::Starting | Life::Dead => None,
        }
    }

    pub(crate) fn set_alive(&self, identity: ProcessIdentity, file: ProcessFile) {
        let mut state = lock(&self.state);
        state.life = Life::Alive(identity, file);
        state.link = None;
    }

    pub(crate) fn set_dead(&self) {
        let mut state = lock(&self.state);
        state.life = Life::Dead;
        state.link = None;
    }

    pub(crate) fn was_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    pub(crate) fn set_stopped(&self) {
        lock(&self.state).stopped = true;
    }

    /// It comes in the place of one that was stopped under this term.
    pub(crate) fn set_stopped_term(&self, term: Term) {
        lock(&self.state).stopped_term = Some(term);
    }

    /// Whether nothing was recorded since one was stopped here.
    pub(crate) fn is_as_stopped(&self, term: Term) -> bool {
        lock(&self.state).stopped_term == Some(term)
    }

    pub(crate) fn never_ran(&self) -> bool {
        lock(&self.state).never_ran
    }

    pub(crate) fn set_never_ran(&self) {
        lock(&self.state).never_ran = true;
    }

    /// The running migration or the last one.
    pub(crate) fn migration(&self) -> Option<Arc<Migration>> {
        lock(&self.state).migration.clone()
    }

    pub(crate) fn running_migration(&self) -> Option<Arc<Migration>> {
        self.migration().filter(|migration| migration.is_running())
    }

    /// The span of its running migration or the last one, if there is one.
    pub(crate) fn span(&self) -> tracing::Span {
        let before = || self.before.get().cloned().unwrap_or_else(tracing::Span::none);
        self.migration().map_or_else(before, |migration| migration.span())
    }

    /// Writes down for the next agent what the guest is about to be in.
    pub(crate) async fn keep_migration(&self, id: &str) {
        if let Err(error) = self.folder.keep_migration(id).await {
            let name = &self.config.name;
            tracing::warn!(guest = name, "the next agent will not know this id: {error}");
        }
    }

    /// The agent before this one was in this migration with it last.
    pub(crate) fn set_before(&self, id: &str) {
        self.before.get_or_init(|| migration_span(id));
    }

    /// Sets what it is in now, and gives what it was in last.
    pub(crate) fn set_migration(&self, migration: Arc<Migration>) -> Option<Arc<Migration>> {
        lock(&self.state).migration.replace(migration)
    }

    /// What it was about to be in never began.
    pub(crate) fn restore_migration(&self, before: Option<Arc<Migration>>) {
        lock(&self.state).migration = before;
    }

    /// Takes the work on its ownership; false if somebody has it already.
    pub(crate) fn take_doubt(&self) -> bool {
        !std::mem::replace(&mut lock(&self.state).in_doubt, true)
    }

    pub(crate) fn end_doubt(&self) {
        lock(&self.state).in_doubt = false;
    }

    /// Comes when a person has decided.
    pub(crate) async fn doubt_changed(&self) {
        self.doubt.notified().await;
    }

    pub(crate) fn change_doubt(&self) {
        self.doubt.notify_one();
    }

    /// Reads and writes the journal of a dead process while nobody else does.
    pub(crate) fn with_journal<T>(&self, work: impl FnOnce() -> T) -> T {
        let _held = lock(&self.journal);
        work()
    }

    /// A connection to its process, made anew if there is none.
    pub(crate) async fn link(&self, deadlines: Deadlines) -> Result<ProcessLink, Status> {
        let (life, link) = {
            let state = lock(&self.state);
            (state.life.clone(), state.link.clone())
        };
        if let Some(link) = link {
            return Ok(link);
        }
        let file = match life {
            Life::Alive(_, file) => file,
            Life::Starting => {
                return Err(Status::failed_precondition("the guest is being started"));
            }
            Life::Dead => {
                let why = format!("the process of guest `{}` is dead", self.config.name);
                return Err(Status::failed_precondition(why));
            }
        };
        let link = ProcessLink::connect(&file, self.uuid, deadlines).await?;
        let mut state = lock(&self.state);
        if matches!(&state.life, Life::Alive(_, now) if *now == file) {
            state.link = Some(link.clone());
        }
        Ok(link)
    }

    /// Has its process give up the migration that it is in.
    pub(crate) async fn cancel(
        &self,
        deadlines: Deadlines,
        reason: String,
    ) -> Result<api::CancelMigrationResponse, Status> {
        self.link(deadlines).await?.cancel(CancelRequest { reason }).await
    }

    /// Looks whether its process has died, without waiting for it to be noticed.
    pub(crate) fn look(&self) -> Life {
        let life = self.life();
        if let Life::Alive(identity, _) = &life
            && identity.fate().is_ok_and(|fate| fate != whimbrel_engine::protocol::Process::Alive)
        {
            self.set_dead();
            return Life::Dead;
        }
        life
    }
}

/// All guests, by their identity, and the last migrations of those that are no more.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    guests: Mutex<BTreeMap<GuestUuid, Arc<Guest>>>,
    recent: Mutex<VecDeque<Arc<Migration>>>,
}

impl Guests {
    pub(crate) fn all(&self) -> Vec<Arc<Guest>> {
        lock(&self.guests).values().cloned().collect()
    }

    /// The migrations under way from here.
    pub(crate) fn running_out(&self) -> Vec<Arc<Migration>> {
        let running = self.all().into_iter().filter_map(|guest| guest.running_migration());
        running.filter(|migration| migration.direction == api::Direction::Out).collect()
    }

    pub(crate) fn get(&self, uuid: GuestUuid) -> Option<Arc<Guest>> {
        lock(&self.guests).get(&uuid).cloned()
    }

    /// Whether this one is there, and not another one of the same identity that has come since.
    pub(crate) fn has(&self, guest: &Arc<Guest>) -> bool {
        self.get(guest.uuid).is_some_and(|there| Arc::ptr_eq(&there, guest))
    }

    /// Adds `newcomer` if `admit` says so about those that are there.
    pub(crate) fn admit(
        &self,
        newcomer: Guest,
        admit: impl FnOnce(&Guest, &[Arc<Guest>]) -> Result<(), Status>,
    ) -> Result<Arc<Guest>, Status> {
        let mut guests = lock(&self.guests);
        let living: Vec<_> = guests.values().filter(|guest| !guest.is_dead()).cloned().collect();
        admit(&newcomer, &living)?;
        let guest = Arc::new(newcomer);
        guests.insert(guest.uuid, Arc::clone(&guest));
        Ok(guest)
    }

    /// Decides about a guest that is there while nobody else can.
    pub(crate) fn decide<T>(&self, decide: impl FnOnce(&[Arc<Guest>]) -> T) -> T {
        let guests = lock(&self.guests);
        let all: Vec<_> = guests.values().cloned().collect();
        decide(&all)
    }

    /// Forgets a guest, but not what its last migration came to.
    pub(crate) fn forget(&self, guest: &Arc<Guest>) {
        let mut guests = lock(&self.guests);
        if guests.get(&guest.uuid).is_some_and(|there| Arc::ptr_eq(there, guest)) {
            guests.remove(&guest.uuid);
        }
        drop(guests);
        if let Some(migration) = guest.migration() {
            let mut recent = lock(&self.recent);
            recent.truncate(RECENT_MAX - 1);
            recent.push_front(migration);
        }
    }

    /// The guest of this name or identity. A living one comes first: names are used again.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<Guest>, Status> {
        if let Some(guest) = parse_uuid(text).and_then(|uuid| self.get(uuid)) {
            return Ok(guest);
        }
        let mut named = self.all();
        named.retain(|guest| guest.config.name == text);
        named.sort_by_key(|guest| guest.is_dead());
        named.into_iter().next().ok_or_else(|| {
            let why = format!("there is no guest `{text}` here; `whimbrel list` shows all guests");
            Status::not_found(why)
        })
    }

    /// The migration of this id, or the running or last one of a guest.
    pub(crate) fn find_migration(&self, text: &str) -> Result<Arc<Migration>, Status> {
        let guests = self.all();
        let of_guests = guests.iter().filter_map(|guest| guest.migration());
        let recent: Vec<_> = lock(&self.recent).iter().cloned().collect();
        if let Some(found) = of_guests.chain(recent).find(|migration| migration.id == text) {
            return Ok(found);
        }
        let Ok(guest) = self.find(text) else {
            let why = format!("there is no migration and no guest `{text}` here");
            return Err(Status::not_found(why));
        };
        guest.migration().ok_or_else(|| {
            Status::not_found(format!("guest `{text}` has not been migrated by this agent"))
        })
    }
}

/// The identity a process file speaks of; a damaged one speaks of none.
pub(crate) fn life_of(file: Option<ProcessFile>) -> Life {
    let identified = file.and_then(|file| Some((process_link::identity(&file)?, file)));
    match identified {
        Some((identity, file)) => Life::Alive(identity, file),
        None => Life::Dead,
    }
}
