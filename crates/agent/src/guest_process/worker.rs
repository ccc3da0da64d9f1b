//! One guest and what may be done with it now.

mod record;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::Status;
use whimbrel_control::api::{self, GuestState};
use whimbrel_engine::guest::{Guest, Throttle};
use whimbrel_engine::memory::{Backing, GuestMemory, TrackerKind};
use whimbrel_engine::protocol::{GuestUuid, Record, SessionId, Standing, Term};
use whimbrel_engine::transport::DoorKey;
use whimbrel_engine::{Asked, Cancel, Identity, Journal, MemoryMap, Traffic};

use super::{REMEMBERED_FOR, TOLD_WITHIN};
use crate::folder::GuestFolder;
use crate::journal::FileJournal;
use crate::kinds::{Config, Monitor, Slot};
use crate::lock::lock;
use crate::process_api::{self as process, GuestFile, settle_request::Decision};
use crate::{convert, watching};
use record::BEHIND;
pub(super) use record::Kept;

/// How long a cancel waits for the outcome before it says that there is none yet.
const CANCELLED_WITHIN: Duration = Duration::from_secs(3);

/// What the process has, in the order in which a guest passes through it.
pub(super) enum Phase {
    /// Nobody has said yet what the process is for.
    Empty,
    /// The memory is being filled.
    Starting,
    /// The guest runs here.
    Here(Held),
    /// The engine has it, to send it.
    Moving,
    /// The engine has what has arrived of it.
    Arriving,
    /// It is parked, and who owns it is not known here.
    InDoubt(Held),
    /// It is parked, because it runs elsewhere under a higher term.
    Yielded(Held, String),
    /// The engine has ended, and a call to the guest has not: it comes back when that does.
    Hanging,
    /// It was handed over, or never came.
    Gone,
    /// It could not be made.
    Failed(String),
}

/// A guest and its journal.
pub(super) struct Held {
    pub(super) guest: Box<dyn Guest>,
    pub(super) journal: Kept,
}

impl Phase {
    fn words(&self) -> (GuestState, &str) {
        match self {
            Self::Empty => (GuestState::Starting, "its process has just begun"),
            Self::Starting => (GuestState::Starting, "its memory is being filled"),
            Self::Here(_) => (GuestState::Running, ""),
            Self::Moving => (GuestState::Migrating, "it runs here and moves away"),
            Self::Arriving => (GuestState::Migrating, "it moves here"),
            Self::InDoubt(_) => (
                GuestState::InDoubt,
                "it stands still: the destination may run it and does not answer; `whimbrel \
                 resolve` settles it by a person's word",
            ),
            Self::Yielded(_, why) => (GuestState::Paused, why),
            Self::Hanging => (GuestState::Paused, "it hangs: it does not answer the engine"),
            Self::Gone => (GuestState::Gone, "it has left this process"),
            Self::Failed(why) => (GuestState::Failed, why),
        }
    }
}

/// The guest of this process.
pub(super) struct Worker {
    pub(super) folder: GuestFolder,
    config: GuestFile,
    uuid: GuestUuid,
    phase: Mutex<Phase>,
    /// The migration that its agent gave up before it had begun.
    given_up: Mutex<String>,
    monitors: Mutex<Monitors>,
    cancel: Mutex<Option<Cancel>>,
    asked: Mutex<Option<Asked>>,
    traffic: Mutex<Option<Traffic>>,
    door: Mutex<Option<DoorKey>>,
    tracker: Mutex<Option<TrackerKind>>,
    /// For the next migration from here.
    pub(super) identity: Mutex<Option<Arc<Identity>>>,
    pub(super) map: Mutex<MemoryMap>,
    migration: watch::Sender<api::MigrationStatus>,
    end: watch::Sender<bool>,
    runtime: Handle,
    /// The record says less than the phase: how a migration ended could not be written.
    behind: AtomicBool,
    /// Held by whoever writes what the record lacks.
    recording: Mutex<()>,
}

/// Where the view of the guest is.
#[derive(Default)]
enum Monitors {
    #[default]
    None,
    Here(Monitor),
    Arriving(Slot),
}

impl Worker {
    pub(super) fn new(folder: GuestFolder, config: GuestFile) -> io::Result<Self> {
        let uuid = convert::parse_uuid(&config.uuid)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the config has no uuid"))?;
        Ok(Self {
            folder,
            config,
            uuid,
            phase: Mutex::new(Phase::Empty),
            given_up: Mutex::default(),
            monitors: Mutex::default(),
            cancel: Mutex::default(),
            asked: Mutex::default(),
            traffic: Mutex::default(),
            door: Mutex::default(),
            tracker: Mutex::default(),
            identity: Mutex::default(),
            map: Mutex::default(),
            migration: watch::Sender::default(),
            end: watch::Sender::default(),
            runtime: Handle::current(),
            behind: AtomicBool::new(false),
            recording: Mutex::default(),
        })
    }

    pub(super) fn uuid(&self) -> GuestUuid {
        self.uuid
    }

    pub(super) fn config(&self) -> &GuestFile {
        &self.config
    }

    /// Follows the running migration, or has the last one.
    pub(super) fn watch(&self) -> watch::Receiver<api::MigrationStatus> {
        self.migration.subscribe()
    }

    pub(super) fn publish(&self, change: impl FnOnce(&mut api::MigrationStatus)) {
        self.migration.send_modify(change);
    }

    pub(super) fn set_cancel(&self, cancel: Option<Cancel>) {
        *lock(&self.cancel) = cancel;
    }

    pub(super) fn set_asked(&self, asked: Asked) {
        *lock(&self.asked) = Some(asked);
    }

    /// The way to the lanes of the running migration, from here or to here.
    pub(super) fn set_ways(&self, traffic: Option<Traffic>, door: Option<DoorKey>) {
        (*lock(&self.traffic), *lock(&self.door)) = (traffic, door);
    }

    pub(super) fn traffic(&self) -> Option<Traffic> {
        lock(&self.traffic).clone()
    }

    pub(super) fn door_key(&self) -> Option<DoorKey> {
        lock(&self.door).clone()
    }

    pub(super) fn set_tracker(&self, tracker: Option<TrackerKind>) {
        *lock(&self.tracker) = tracker;
    }

    pub(super) fn set_monitors(&self, slot: Slot) {
        *lock(&self.monitors) = Monitors::Arriving(slot);
    }

    /// The view of the guest, once there is one.
    pub(super) fn monitor(&self) -> Option<Monitor> {
        match &*lock(&self.monitors) {
            Monitors::None => None,
            Monitors::Here(monitor) => Some(monitor.clone()),
            Monitors::Arriving(slot) => slot.get(),
        }
    }

    /// Replaces the phase if it is one that `change` can take; otherwise says why it cannot.
    pub(super) fn enter<T>(
        &self,
        change: impl FnOnce(Phase) -> Result<(Phase, T), (Phase, Status)>,
    ) -> Result<T, Status> {
        let mut phase = lock(&self.phase);
        let (next, result) = match change(std::mem::replace(&mut *phase, Phase::Gone)) {
            Ok((next, value)) => (next, Ok(value)),
            Err((same, status)) => (same, Err(status)),
        };
        *phase = next;
        result
    }

    /// Has a migration never begin, unless it has: then true.
    pub(super) fn give_up(&self, id: String) -> bool {
        let _no_other = lock(&self.phase);
        let begun = self.migration.borrow().migration_id == id;
        if !begun {
            *lock(&self.given_up) = id;
        }
        begun
    }

    /// Whether it was given up before it had begun.
    pub(super) fn was_given_up(&self, id: &str) -> bool {
        *lock(&self.given_up) == id
    }

    pub(super) fn set_phase(self: &Arc<Self>, phase: Phase) {
        if matches!(phase, Phase::Gone | Phase::Failed(_)) {
            self.end_later(REMEMBERED_FOR, |_| true);
        }
        let before = std::mem::replace(&mut *lock(&self.phase), phase);
        // A guest's memory is given back without the lock in hand.
        drop(before);
    }

    /// Makes the guest and lets it run; its memory is filled after the answer.
    pub(super) fn start(
        self: &Arc<Self>,
        request: process::StartRequest,
    ) -> Result<process::StartResponse, Status> {
        let config = request.config.unwrap_or_default();
        let config = Config::of(&config)?;
        self.enter(|phase| match phase {
            Phase::Empty => Ok((Phase::Starting, ())),
            other => Err((other, Status::failed_precondition("this process has a guest already"))),
        })?;
        self.begin(config, request.host_id).inspect_err(|status| {
            self.set_phase(Phase::Failed(status.message().to_owned()));
        })?;
        Ok(process::StartResponse {})
    }

    fn begin(self: &Arc<Self>, config: Config, host: u64) -> Result<(), Status> {
        let memory = GuestMemory::allocate(config.layout(), Backing::Private)
            .map_err(|error| Status::resource_exhausted(format!("no memory: {error}")))?;
        let record = Record {
            guest: self.uuid,
            term: Term::default().next(host),
            session: SessionId(0),
            peer: String::new(),
            standing: Standing::Owner,
        };
        let mut journal = self.open_journal()?;
        journal.record(&record).map_err(|error| unrecorded(&error))?;
        let worker = Arc::clone(self);
        let fill = move || worker.fill(config, memory, Kept::new(Box::new(journal)));
        let thread = std::thread::Builder::new().name("fill".to_owned()).spawn(fill);
        thread.map_err(|error| Status::internal(format!("no thread can be started: {error}")))?;
        Ok(())
    }

    fn fill(self: &Arc<Self>, config: Config, memory: GuestMemory, journal: Kept) {
        let made = config.make(self.uuid, &self.config.name, memory);
        let phase = match made.and_then(|(mut guest, monitor)| {
            guest.resume().map_err(|error| error.to_string())?;
            Ok((guest, monitor))
        }) {
            Ok((guest, monitor)) => {
                *lock(&self.monitors) = Monitors::Here(monitor);
                tracing::info!("the guest runs");
                Phase::Here(Held { guest, journal })
            }
            Err(why) => {
                tracing::error!("the guest could not be made: {why}");
                Phase::Failed(why)
            }
        };
        self.set_phase(phase);
    }

    pub(super) fn open_journal(&self) -> Result<FileJournal, Status> {
        FileJournal::open(&self.folder.journal()).map_err(|error| unrecorded(&error))
    }

    /// How the guest is.
    pub(super) fn status(&self) -> process::Status {
        let phase = lock(&self.phase);
        let (state, mut reason) = phase.words();
        if self.behind.load(Ordering::Relaxed) {
            reason = BEHIND;
        }
        let mut guest = api::Guest {
            state: state.into(),
            state_reason: reason.to_owned(),
            tracker: lock(&self.tracker).map_or_else(String::new, |kind| kind.name().to_owned()),
            ..Default::default()
        };
        if let Some(monitor) = self.monitor() {
            monitor.describe(&mut guest);
        }
        let migration = self.migration.borrow().clone();
        let migration = (!migration.migration_id.is_empty()).then_some(migration);
        process::Status { guest: Some(guest), migration }
    }

    /// The guest looks at all its memory.
    pub(super) fn check(&self) -> Result<api::CheckReport, Status> {
        let monitor = self.monitor();
        let monitor =
            monitor.ok_or_else(|| Status::failed_precondition("there is no guest yet"))?;
        monitor.check()
    }

    /// Asks the engine for the end of the migration, and says what came of it.
    pub(super) async fn cancel(
        &self,
        reason: &str,
    ) -> Result<api::CancelMigrationResponse, Status> {
        let cancel = lock(&self.cancel).clone();
        let cancel =
            cancel.ok_or_else(|| Status::failed_precondition("the guest is not moving"))?;
        cancel.cancel(reason);
        let mut statuses = self.watch();
        let ended = tokio::time::timeout(CANCELLED_WITHIN, statuses.wait_for(watching::is_last));
        let outcome = match ended.await {
            Ok(Ok(status)) => status.outcome(),
            _ => api::Outcome::Unspecified,
        };
        let comes = statuses.borrow().direction() == api::Direction::In;
        let (accepted, sentence) = match outcome {
            api::Outcome::Aborted if comes => {
                (true, "the migration is cancelled; the guest does not come here")
            }
            api::Outcome::Aborted => (true, "the migration is cancelled; the guest stays here"),
            api::Outcome::Completed => (false, "too late: the guest has been handed over"),
            api::Outcome::InDoubt => (false, "too late: the guest was granted to the destination"),
            api::Outcome::Unspecified => (true, "the cancel is under way; watch the migration"),
        };
        Ok(api::CancelMigrationResponse { accepted, sentence: sentence.to_owned() })
    }

    /// Ends the doubt about a parked guest.
    pub(super) fn settle(
        self: &Arc<Self>,
        request: &process::SettleRequest,
    ) -> Result<process::Status, Status> {
        let decision = request
            .decision
            .ok_or_else(|| Status::invalid_argument("the request decides nothing"))?;
        let about = Term { generation: request.term_generation, host: request.term_host };
        let within = self.span().entered();
        let gone = self.enter(|phase| match phase {
            Phase::InDoubt(held) => decide(held, about, decision, Phase::InDoubt),
            Phase::Yielded(held, why) => {
                decide(held, about, decision, |held| Phase::Yielded(held, why))
            }
            other => Err((other, Status::failed_precondition("the guest is not in doubt"))),
        })?;
        drop(within);
        if let Some(held) = gone {
            self.set_phase(Phase::Gone);
            // Giving gigabytes back takes longer than a call may.
            self.runtime.spawn_blocking(move || drop(held));
        }
        Ok(self.status())
    }

    /// Parks the guest, whose term is not the highest one any more.
    pub(super) fn give_way(&self, reason: String) -> Result<process::YieldResponse, Status> {
        let _within = self.span().entered();
        self.enter(|phase| match phase {
            Phase::Here(mut held) => match held.guest.pause() {
                Ok(()) => {
                    tracing::error!("the guest is paused: {reason}");
                    // Its clients are to find the one that runs.
                    if let Err(error) = held.guest.release() {
                        tracing::error!("it holds on to what it had: {error}");
                    }
                    Ok((Phase::Yielded(held, reason), process::YieldResponse {}))
                }
                Err(error) => Err((Phase::Here(held), Status::internal(error.to_string()))),
            },
            Phase::Moving | Phase::Starting | Phase::Hanging => {
                let status = Status::unavailable("the guest cannot be paused now; try again");
                Err((phase, status))
            }
            // Nothing runs.
            other => Ok((other, process::YieldResponse {})),
        })
    }

    /// Ends the process soon.
    pub(super) fn stop(&self, force: bool) -> Result<process::StopResponse, Status> {
        let busy = match &*lock(&self.phase) {
            Phase::Moving | Phase::Arriving => Some("it is moving"),
            Phase::InDoubt(_) => Some("it may run elsewhere, or only exist here"),
            Phase::Hanging => Some("it hangs, and may answer yet"),
            _ => None,
        };
        if let Some(why) = busy.filter(|_| !force) {
            let why = format!("the guest is not stopped: {why}; stop it by force, or wait");
            return Err(Status::failed_precondition(why));
        }
        tracing::info!(force, "stop");
        self.end.send_replace(true);
        Ok(process::StopResponse {})
    }

    /// Comes back when the process is to end.
    pub(super) async fn ended(&self) {
        // The sender lives as long as `self`.
        let _ = self.end.subscribe().wait_for(|end| *end).await;
    }

    /// Ends the process if nobody says what it is for.
    pub(super) fn expect_work(self: &Arc<Self>) {
        self.end_later(TOLD_WITHIN, |phase| matches!(phase, Phase::Empty));
    }

    fn end_later(self: &Arc<Self>, deadline: Duration, still: fn(&Phase) -> bool) {
        let worker = Arc::clone(self);
        let runtime = worker.runtime.clone();
        runtime.spawn(async move {
            tokio::time::sleep(deadline).await;
            if still(&lock(&worker.phase)) {
                worker.end.send_replace(true);
            }
        });
    }
}

type Settled = Result<(Phase, Option<Held>), (Phase, Status)>;

/// `stay` is the phase of a guest about which nothing was decided.
fn decide(
    mut held: Held,
    about: Term,
    decision: Decision,
    stay: impl FnOnce(Held) -> Phase,
) -> Settled {
    let record = match held.journal.read() {
        Ok(Some(record)) if record.term == about => record,
        Ok(_) => {
            let status = Status::failed_precondition("the decision is about another term");
            return Err((stay(held), status));
        }
        Err(error) => return Err((stay(held), unrecorded(&error))),
    };
    let record = match decision {
        Decision::GiveUp(_) => Record { standing: Standing::Ceded, ..record },
        Decision::Run(_) => Record { standing: Standing::Owner, ..record },
        Decision::Burn(host) => {
            Record { standing: Standing::Owner, term: record.term.next(host), ..record }
        }
    };
    // Durable before anything follows from it.
    if let Err(error) = held.journal.record(&record) {
        return Err((stay(held), unrecorded(&error)));
    }
    tracing::info!(term = %record.term, standing = ?record.standing, "the doubt is settled");
    if record.standing == Standing::Ceded {
        return Ok((Phase::Gone, Some(held)));
    }
    let guest = &mut held.guest;
    let run = guest.reacquire().and_then(|()| guest.throttle(Throttle::OFF));
    match run.and_then(|()| guest.resume()) {
        Ok(()) => Ok((Phase::Here(held), None)),
        Err(error) => Err((stay(held), Status::internal(error.to_string()))),
    }
}

pub(super) fn unrecorded(error: &io::Error) -> Status {
    Status::internal(format!(
        "the ownership journal cannot be written: {error}; free space in the agent's data folder"
    ))
}

#[cfg(test)]
mod tests;
