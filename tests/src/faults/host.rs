//! One side of a run: an agent as a process, its disk, and everything that it was seen to say.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use whimbrel_control::api::{self, GuestState};
use whimbrel_control::{Client, ClientError, Deadlines};

use crate::os::{self, Pid, SmallDisk};
use crate::program::{Agent, How};
use crate::realm;

/// Short ones for everything that waits for a peer, in the order in which they hold: a silent link
/// is noticed before a doubt ends, and that before an outcome is told as in doubt.
pub(super) const DEADLINES: &str = "greeting=2s,silence=1s,resume=3s,retry=100ms,pause=1s,doubt=3s,\
    reacquire=1s,lane-open=1s,lane-stall=1s,ask=1s,ask-pause=100ms,ask-pause-max=500ms,\
    abandon=2s,settle=4s,collect=2s,peer-connect=1s,process-call=1s,process-stop=3s";

/// How long an answer is waited for where something may be wrong, and where nothing is.
const HURRIED: Duration = Duration::from_secs(3);
const PATIENT: Duration = Duration::from_secs(60);

/// How often each side is looked at.
const LOOK: Duration = Duration::from_millis(30);

/// The guest, as one side told of it at some time between two moments.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Before it was asked.
    pub asked: Instant,
    /// After it had answered.
    pub answered: Instant,
    /// What it said.
    pub guest: api::Guest,
}

/// How things are on one side when all is over.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// The guest, if this side knows it.
    pub guest: Option<api::Guest>,
    /// The migration, if this side knows it.
    pub migration: Option<api::MigrationStatus>,
}

impl Ending {
    /// What is said of the guest; nothing is said of one that is not known.
    #[must_use]
    pub fn state(&self) -> GuestState {
        self.guest.as_ref().map_or(GuestState::Gone, api::Guest::state)
    }

    /// What the migration came to, as far as this side knows.
    #[must_use]
    pub fn outcome(&self) -> Option<api::Outcome> {
        self.migration.as_ref().map(api::MigrationStatus::outcome)
    }

    /// Whether it waits for the other side or for a person, and says so.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        let doubt = api::Outcome::InDoubt;
        self.state() == GuestState::InDoubt || self.outcome() == Some(doubt)
    }

    /// Whether there is nothing more to come.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let state = match self.state() {
            GuestState::Running => true,
            // What an agent has just heard it has yet to write down.
            GuestState::Gone => self.guest.as_ref().is_none_or(|guest| guest.standing != "granted"),
            // A process that is just ending does not answer any more, and is not dead yet; one that
            // is dead and never had the guest is about to be forgotten.
            GuestState::Failed => {
                self.guest.as_ref().is_some_and(|guest| guest.pid == 0 && owns(&guest.standing))
            }
            _ => false,
        };
        state && self.outcome() != Some(api::Outcome::Unspecified)
    }
}

/// One side.
pub struct Host {
    /// Its agent.
    pub agent: Agent,
    disk: Option<SmallDisk>,
    /// How many sockets its agent had before anybody called.
    sockets: usize,
    samples: Arc<Mutex<Vec<Sample>>>,
    sampler: Option<JoinHandle<()>>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.remains().into_iter().for_each(os::kill);
    }
}

impl Host {
    /// A host of its own, with a disk of its own where that is wanted.
    ///
    /// # Panics
    /// If its agent does not begin to listen, or if this user may mount no disk.
    pub async fn begin(disk: bool, elsewhere: Option<(String, IpAddr)>) -> Self {
        let disk = disk.then(|| SmallDisk::mount().expect("root mounts disks"));
        let folder = disk.as_ref().map_or_else(std::env::temp_dir, |it| it.folder().to_owned());
        let how = How { elsewhere, ..How::with(&["--deadlines", DEADLINES]) };
        let agent = Agent::start_as(&folder, how).await;
        let sockets = os::sockets(agent.pid());
        Self { agent, disk, sockets, samples: Arc::default(), sampler: None }
    }

    /// A connection to its agent.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn client(&self) -> Result<Client, ClientError> {
        connect(&self.agent.address, HURRIED).await
    }

    /// The same while nothing is wrong: whoever is only slow is waited for.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn patient(&self) -> Result<Client, ClientError> {
        connect(&self.agent.address, PATIENT).await
    }

    /// Looks at the guest from now on.
    pub fn watch(&mut self, uuid: &str) {
        let (address, uuid) = (self.agent.address.clone(), uuid.to_owned());
        let samples = Arc::clone(&self.samples);
        self.sampler = Some(tokio::spawn(async move {
            let mut looks = interval(LOOK);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                let Ok(mut client) = connect(&address, HURRIED).await else { continue };
                loop {
                    looks.tick().await;
                    let asked = Instant::now();
                    match client.get_guest(api::GetGuestRequest { guest: uuid.clone() }).await {
                        Ok(guest) => {
                            let sample = Sample { asked, answered: Instant::now(), guest };
                            samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                        }
                        // The guest is not known here, or not yet.
                        Err(ClientError::Refused { .. }) => {}
                        Err(_) => break,
                    }
                }
            }
        }));
    }

    /// Everything that was seen.
    pub fn seen(&mut self) -> Vec<Sample> {
        if let Some(sampler) = self.sampler.take() {
            sampler.abort();
        }
        std::mem::take(&mut self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How the guest and its migration are here now; nothing while the agent does not answer.
    pub async fn ending(&self, uuid: &str) -> Option<Ending> {
        let mut client = self.client().await.ok()?;
        let known = |error: ClientError| match error {
            ClientError::Refused { code: tonic::Code::NotFound, .. } => Some(()),
            _ => None,
        };
        let guest = client.get_guest(api::GetGuestRequest { guest: uuid.to_owned() }).await;
        let guest = guest.map(Some).or_else(|error| known(error).map(|()| None).ok_or(())).ok()?;
        let request = api::GetMigrationRequest { migration: uuid.to_owned() };
        let migration = client.get_migration(request).await;
        let migration =
            migration.map(Some).or_else(|error| known(error).map(|()| None).ok_or(())).ok()?;
        Some(Ending { guest, migration })
    }

    /// The process of the guest.
    pub async fn guest(&self, uuid: &str) -> Option<Pid> {
        let mut client = self.client().await.ok()?;
        let guest = client.get_guest(api::GetGuestRequest { guest: uuid.to_owned() }).await.ok()?;
        (guest.pid > 0).then(|| Pid::new(guest.pid))
    }

    /// Fills the disk so that the next record of the guest finds no room, while its process does
    /// not look.
    ///
    /// # Panics
    /// If the host has no disk of its own.
    pub async fn fill_disk(&self, uuid: &str) {
        let disk = self.disk.as_ref().expect("a disk of its own");
        let process = self.guest(uuid).await;
        process.into_iter().for_each(os::stop);
        disk.fill_under(&self.agent.data().join("guests").join(uuid).join("journal"));
        process.into_iter().for_each(os::go_on);
    }

    /// Gives the disk back.
    ///
    /// # Panics
    /// If the host has no disk of its own.
    pub fn empty_disk(&self) {
        self.disk.as_ref().expect("a disk of its own").empty();
    }

    /// Sockets of its agent that nobody has closed.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        os::sockets(self.agent.pid()).saturating_sub(self.sockets)
    }

    /// Processes of guests here.
    #[must_use]
    pub fn remains(&self) -> Vec<Pid> {
        let data = self.agent.data().to_str().expect("UTF-8").to_owned();
        let mut processes = os::mentioning(&format!("{data}/guests"));
        processes.retain(|pid| os::is_alive(*pid));
        processes
    }

    /// Files that should not be there when no guest lives here.
    #[must_use]
    pub fn litter(&self, uuid: &str) -> Vec<PathBuf> {
        let guest = format!("guests/{uuid}");
        let kept = ["config", "journal", "log", "migration", "parties"];
        let kept = kept.map(|file| format!("{guest}/{file}"));
        let mut expected: BTreeSet<_> = kept.into_iter().map(PathBuf::from).collect();
        expected.extend(["agent.lock", "host", "guests", &guest].map(PathBuf::from));
        expected.extend(realm::FILES.map(PathBuf::from));
        let data = self.agent.data();
        let found = walk(data)
            .into_iter()
            .filter_map(|path| path.strip_prefix(data).ok().map(Path::to_owned));
        // What migrations came to is told for a long time after; the agent bounds it.
        let told = |path: &PathBuf| path.starts_with("migrations") && path.extension().is_none();
        found.filter(|path| !expected.contains(path) && !told(path)).collect()
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        found.extend(walk(&entry.path()));
    }
    found
}

/// Whether a record of such a standing says that the guest is here.
pub(super) fn owns(standing: &str) -> bool {
    matches!(standing, "owner" | "running")
}

async fn connect(address: &str, within: Duration) -> Result<Client, ClientError> {
    let deadlines = Deadlines { connect: within, call: within, ..Deadlines::default() };
    let address = address.parse().expect("an agent's address");
    Client::connect_as(&address, deadlines, &realm::realm().access()).await
}

/// Where hosts are that are on this one.
pub const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
