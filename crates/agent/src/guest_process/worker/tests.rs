//! What a guest process may do with its guest in each phase, without an agent around it.

use std::sync::mpsc::{Sender, channel};

use bytes::Bytes;
use tempfile::TempDir;
use whimbrel_engine::guest::GuestError;
use whimbrel_engine::page::ByteCount;
use whimbrel_engine::page::Layout;
use whimbrel_engine::protocol::{Answer, Process, Question, Token, rule};
use whimbrel_engine::{DestinationAddress, Outgoing, OutgoingOptions};
use whimbrel_guest::kv::{Attach, ConnectionId, FromGuest, KvGuest, Outlet, Overrun, RelayId};
use whimbrel_guest::stress::{HostLimits, StressConfig, StressGuest, StressSpec};

use super::*;
use crate::journal;

const TERM: Term = Term { generation: 3, host: 1 };
const OURS: u64 = 9;

/// A journal whose disk can be full.
struct FullDisk(FileJournal, Arc<Mutex<bool>>);

impl Journal for FullDisk {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        match *lock(&self.1) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.0.record(record),
        }
    }

    fn note(&mut self, record: &Record) -> io::Result<()> {
        self.record(record)
    }

    fn read(&self) -> io::Result<Option<Record>> {
        self.0.read()
    }
}

struct World {
    _folder: TempDir,
    worker: Arc<Worker>,
    full: Arc<Mutex<bool>>,
}

impl World {
    /// A worker with this record, and what holds its parked guest.
    fn new(standing: Standing) -> (Self, Held) {
        let temp = tempfile::tempdir().unwrap();
        let uuid = GuestUuid(5);
        let config = GuestFile { uuid: uuid.to_string(), ..Default::default() };
        let folder = GuestFolder::at(temp.path().to_owned());
        let worker = Arc::new(Worker::new(folder, config).unwrap());
        let layout = Layout::single(ByteCount::mib(1)).unwrap();
        let memory = GuestMemory::allocate(&layout, Backing::Private).unwrap();
        let spec = StressSpec { working_set: ByteCount::kib(64), ..StressSpec::default() };
        let config = StressConfig::new(spec, layout).unwrap();
        let limits = HostLimits::default();
        let guest = StressGuest::new(uuid, "web", config, memory, limits).unwrap();
        *lock(&worker.monitors) = Monitors::Here(Monitor::Stress(guest.monitor()));
        let mut journal = worker.open_journal().unwrap();
        let (guest, peer) = (Box::new(guest), "127.0.0.1:1".to_owned());
        let record = Record { guest: uuid, term: TERM, session: SessionId(1), peer, standing };
        journal.record(&record).unwrap();
        let full = Arc::new(Mutex::new(false));
        let journal = Kept::new(Box::new(FullDisk(journal, Arc::clone(&full))));
        (Self { _folder: temp, worker, full }, Held { guest, journal })
    }

    fn in_doubt() -> Self {
        let (world, held) = Self::new(Standing::Granted);
        world.worker.set_phase(Phase::InDoubt(held));
        world
    }

    fn settle(&self, term: Term, decision: Decision) -> Result<process::Status, Status> {
        self.worker.settle(&process::SettleRequest {
            term_generation: term.generation,
            term_host: term.host,
            decision: Some(decision),
        })
    }

    fn record(&self) -> Record {
        journal::read(&self.worker.folder.journal()).unwrap().unwrap().record
    }

    fn state(&self) -> GuestState {
        self.worker.status().guest.unwrap().state()
    }

    fn runs(&self) -> bool {
        let Some(Monitor::Stress(monitor)) = self.worker.monitor() else { return false };
        monitor.report().is_some_and(|seen| seen.running)
    }

    fn ask(&self, question: Question, term: Term) -> Answer {
        let request = convert::ask_request(self.worker.uuid(), term, question);
        convert::answer(&self.worker.ask(&request).unwrap()).unwrap()
    }
}

#[tokio::test]
async fn a_guest_in_doubt_stands_still_until_the_answer_comes_that_it_is_ours() {
    let world = World::in_doubt();
    assert_eq!((world.state(), world.runs()), (GuestState::InDoubt, false));
    assert!(world.worker.stop(false).unwrap_err().message().contains("elsewhere"));
    let other = world.settle(TERM.next(1), Decision::Run(true)).unwrap_err();
    assert!(other.message().contains("another term"), "{other}");
    assert!(!world.runs());
    world.settle(TERM, Decision::Run(true)).unwrap();
    assert_eq!((world.state(), world.runs()), (GuestState::Running, true));
    assert_eq!((world.record().standing, world.record().term), (Standing::Owner, TERM));
    let again = world.settle(TERM, Decision::GiveUp(true)).unwrap_err();
    assert!(again.message().contains("not in doubt"), "{again}");
    assert!(world.runs());
}

/// The attempt was given up while the disk was full: the guest runs, and its record says less.
#[tokio::test]
async fn a_record_that_is_behind_catches_up_by_itself_and_says_so_until_then() {
    let (world, held) = World::new(Standing::Switching);
    *lock(&world.full) = true;
    world.worker.set_phase(Phase::Here(held));
    world.worker.catch_up();
    let reason = || world.worker.status().guest.unwrap().state_reason;
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while !reason().contains("free space") {
        looks.tick().await;
    }
    assert_eq!(world.record().standing, Standing::Switching);
    *lock(&world.full) = false;
    while !reason().is_empty() {
        looks.tick().await;
    }
    assert_eq!((world.record().standing, world.record().term), (Standing::Owner, TERM));
}

/// `rule` is held against the table in wire.md by a test of its own.
#[tokio::test]
async fn a_living_process_answers_every_question_under_every_record() {
    for standing in Standing::ALL {
        for place in ["here", "gone", "moving"] {
            let (world, held) = World::new(standing);
            world.worker.set_phase(match place {
                "here" => Phase::Here(held),
                "gone" => Phase::Gone,
                _ => Phase::Moving,
            });
            for question in Question::ALL {
                for asked in [Term { generation: 2, host: 9 }, TERM, TERM.next(1)] {
                    expect_answer(&world, place, question, asked);
                }
            }
        }
    }
}

/// The answer is that of the table to the record, brought up to how the guest is where only the
/// process can answer.
fn expect_answer(world: &World, place: &str, question: Question, asked: Term) {
    let mut record = world.record();
    let before = record.standing;
    let mut expected = rule(question, asked, Some(&record), Process::Alive).answer;
    if expected == Answer::AskProcess {
        record.standing = match (place, before) {
            ("here", Standing::Switching | Standing::Running) => Standing::Owner,
            ("gone", Standing::MayOwn | Standing::Running) => Standing::Refused,
            _ => before,
        };
        expected = rule(question, asked, Some(&record), Process::Alive).answer;
    }
    let answer = world.ask(question, asked);
    assert_eq!(answer, expected, "{place} {before:?} {question:?} {asked}");
    assert_eq!(world.record(), record, "{place} {before:?} {question:?} {asked}");
}

/// A journal whose disk does not answer until the other end is dropped.
struct HangingDisk(Kept, Sender<()>, std::sync::mpsc::Receiver<()>);

impl Journal for HangingDisk {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        let _ = self.1.send(());
        let _ = self.2.recv();
        self.0.record(record)
    }

    fn note(&mut self, record: &Record) -> io::Result<()> {
        self.record(record)
    }

    fn read(&self) -> io::Result<Option<Record>> {
        self.0.read()
    }
}

#[tokio::test]
async fn a_disk_that_hangs_keeps_nobody_from_hearing_how_the_guest_is() {
    let (world, held) = World::new(Standing::Switching);
    let ((begun, begins), (release, waits)) = (channel(), channel());
    let journal = Kept::new(Box::new(HangingDisk(held.journal, begun, waits)));
    world.worker.set_phase(Phase::Here(Held { guest: held.guest, journal }));
    world.worker.catch_up();
    tokio::task::spawn_blocking(move || begins.recv()).await.unwrap().unwrap();
    let worker = Arc::clone(&world.worker);
    let looks = tokio::task::spawn_blocking(move || worker.status().guest.unwrap().state());
    let looked = tokio::time::timeout(Duration::from_secs(20), looks).await;
    let answer = looked.is_ok().then(|| world.ask(Question::MayIRun, TERM));
    drop(release);
    assert_eq!(looked.expect("it is told at once").unwrap(), GuestState::Running);
    assert_eq!(answer, Some(Answer::AskProcess), "no promise unrecorded");
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    while world.record().standing != Standing::Owner {
        looks.tick().await;
    }
    assert_eq!(world.ask(Question::MayIRun, TERM), Answer::NotYours);
}

#[tokio::test]
async fn a_guest_that_runs_elsewhere_is_given_up_and_its_memory_with_it() {
    let world = World::in_doubt();
    world.settle(TERM, Decision::GiveUp(true)).unwrap();
    assert_eq!(world.state(), GuestState::Gone);
    assert_eq!(world.record().standing, Standing::Ceded);
    let mut looks = tokio::time::interval(Duration::from_millis(1));
    while world.worker.monitor().unwrap().gaps().is_some() {
        looks.tick().await;
    }
    assert_eq!(world.ask(Question::MayIRun, TERM), Answer::Yours);
}

#[tokio::test]
async fn a_persons_word_burns_a_higher_term() {
    let world = World::in_doubt();
    world.settle(TERM, Decision::Burn(OURS)).unwrap();
    assert!(world.runs());
    assert_eq!(world.record().term, TERM.next(OURS));
    assert_eq!(world.ask(Question::MayIRun, TERM), Answer::NotYours);
}

#[tokio::test]
async fn nothing_follows_from_a_decision_that_cannot_be_recorded() {
    let world = World::in_doubt();
    *lock(&world.full) = true;
    for decision in [Decision::Run(true), Decision::GiveUp(true), Decision::Burn(OURS)] {
        let refused = world.settle(TERM, decision).unwrap_err();
        assert!(refused.message().contains("free space"), "{refused}");
        assert_eq!((world.state(), world.runs()), (GuestState::InDoubt, false));
    }
    *lock(&world.full) = false;
    world.settle(TERM, Decision::Run(true)).unwrap();
    assert!(world.runs());
}

#[tokio::test]
async fn an_engine_that_ended_without_a_record_is_spoken_for_by_what_became_of_the_guest() {
    let (world, mut held) = World::new(Standing::Switching);
    held.guest.resume().unwrap();
    world.worker.set_phase(Phase::Moving);
    assert_eq!(world.ask(Question::MayIRun, TERM), Answer::AskProcess);
    world.worker.set_phase(Phase::Here(held));
    *lock(&world.full) = true;
    assert_eq!(world.ask(Question::MayIRun, TERM), Answer::AskProcess, "no promise unrecorded");
    *lock(&world.full) = false;
    assert_eq!(world.ask(Question::MayIRun, TERM), Answer::NotYours);
    assert_eq!(world.record().standing, Standing::Owner);

    let (world, held) = World::new(Standing::Running);
    world.worker.set_phase(Phase::Arriving);
    assert_eq!(world.ask(Question::DoYouRun, TERM), Answer::AskProcess, "it may fail to run");
    world.worker.set_phase(Phase::Here(held));
    assert_eq!(world.ask(Question::DoYouRun, TERM), Answer::Runs);
    assert_eq!(world.record().standing, Standing::Owner);

    for standing in [Standing::MayOwn, Standing::Running] {
        let (world, _held) = World::new(standing);
        world.worker.set_phase(Phase::Arriving);
        assert_eq!(world.ask(Question::DoYouRun, TERM), Answer::AskProcess);
        world.worker.set_phase(Phase::Gone);
        assert_eq!(world.ask(Question::DoYouRun, TERM), Answer::NeverRan);
        assert_eq!(world.record().standing, Standing::Refused);
    }
}

#[tokio::test]
async fn a_guest_gives_way_to_a_higher_term_and_runs_again_by_a_persons_word() {
    let (world, mut held) = World::new(Standing::Owner);
    held.guest.resume().unwrap();
    world.worker.set_phase(Phase::Here(held));
    for _ in 0..2 {
        world.worker.give_way("it runs elsewhere".to_owned()).unwrap();
        assert_eq!((world.state(), world.runs()), (GuestState::Paused, false));
    }
    assert_eq!(world.worker.status().guest.unwrap().state_reason, "it runs elsewhere");
    *lock(&world.full) = true;
    world.settle(TERM, Decision::Burn(OURS)).unwrap_err();
    assert_eq!((world.state(), world.runs()), (GuestState::Paused, false));
    *lock(&world.full) = false;
    world.settle(TERM, Decision::Burn(OURS)).unwrap();
    assert!(world.runs());
    assert_eq!(world.record().term, TERM.next(OURS));
}

/// Its relays look for the one that runs, and those that have found no other wait for it.
#[tokio::test]
async fn a_store_that_gives_way_lets_go_of_its_clients() {
    let (world, Held { journal, .. }) = World::new(Standing::Owner);
    let layout = Layout::single(ByteCount::mib(1)).unwrap();
    let memory = GuestMemory::allocate(&layout, Backing::Private).unwrap();
    let mut guest = KvGuest::new(world.worker.uuid(), "store", memory).unwrap();
    let port = guest.monitor();
    guest.resume().unwrap();
    world.worker.set_phase(Phase::Here(Held { guest: Box::new(guest), journal }));
    let attach = || {
        let (give, said) = channel();
        let relay = RelayId { host: 1, run: 1 };
        let attach = Attach { relay, last: ConnectionId(0), held: Vec::new() };
        assert!(port.attach(attach, Box::new(Said(give))));
        said
    };
    let attached = attach();
    assert_eq!(attached.recv(), Ok(()));
    world.worker.give_way("it runs elsewhere".to_owned()).unwrap();
    assert!(attached.recv().is_err(), "it is kept");
    let waits = attach();
    world.settle(TERM, Decision::Burn(OURS)).unwrap();
    assert_eq!(waits.recv(), Ok(()));
}

/// What a relay hears.
struct Said(Sender<()>);

impl Outlet for Said {
    fn has_room(&self) -> bool {
        true
    }

    fn is_there(&self) -> bool {
        true
    }

    fn give(&mut self, _: Vec<FromGuest>) -> bool {
        self.0.send(()).is_ok()
    }

    fn cut(&mut self, why: Overrun) {
        panic!("nobody says anything: {why}");
    }
}

#[tokio::test]
async fn what_does_not_fit_the_phase_is_refused() {
    let (world, held) = World::new(Standing::Owner);
    world.worker.set_phase(Phase::Here(held));
    let start = world.worker.start(process::StartRequest {
        config: Some(api::GuestConfig {
            memory_bytes: 1 << 20,
            kind: Some(api::guest_config::Kind::Stress(api::StressConfig::default())),
        }),
        host_id: OURS,
    });
    assert!(start.unwrap_err().message().contains("has a guest already"));
    let receive = process::ReceiveRequest { bind_ip: "127.0.0.1".to_owned(), ..Default::default() };
    let receive = Arc::clone(&world.worker).receive(receive).await.unwrap_err();
    assert!(receive.message().contains("has a guest already"), "{receive}");
    let cancel = world.worker.cancel("a test").await.unwrap_err();
    assert!(cancel.message().contains("not moving"), "{cancel}");
    world.worker.stop(false).unwrap();
    world.worker.ended().await;
}

/// A guest that does not answer when its throttle is taken off, until it is told to.
struct Hanging(Box<dyn Guest>, std::sync::mpsc::Receiver<()>);

impl Guest for Hanging {
    fn describe(&self) -> whimbrel_engine::guest::GuestDescription {
        self.0.describe()
    }

    fn memory(&self) -> GuestMemory {
        self.0.memory()
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        self.0.pause()
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.0.resume()
    }

    fn save_state(&mut self) -> Result<Bytes, GuestError> {
        self.0.save_state()
    }

    fn load_state(&mut self, state: &Bytes) -> Result<(), GuestError> {
        self.0.load_state(state)
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        let _ = self.1.recv();
        self.0.throttle(throttle)
    }
}

#[tokio::test]
async fn a_guest_that_hangs_is_neither_moved_nor_stopped_and_is_here_when_it_answers() {
    let (world, mut held) = World::new(Standing::Owner);
    held.guest.resume().unwrap();
    world.worker.set_phase(Phase::Moving);
    let (answer, waits) = channel();
    let nobody = DestinationAddress { address: ([127, 0, 0, 1], 1).into(), token: Token(1) };
    let options =
        OutgoingOptions { return_timeout: Duration::from_millis(20), ..OutgoingOptions::default() };
    let guest = Box::new(Hanging(held.guest, waits));
    let journal = Box::new(held.journal.clone());
    let ended = Outgoing::new(guest, journal, nobody, options).run().await;
    Arc::clone(&world.worker).sent(ended, held.journal, None).await;
    let seen = world.worker.status();
    let (guest, migration) = (seen.guest.unwrap(), world.worker.watch().borrow().clone());
    assert_eq!(guest.state(), GuestState::Paused);
    assert!(guest.state_reason.contains("hangs"), "{}", guest.state_reason);
    assert_eq!(migration.outcome(), api::Outcome::Aborted);
    assert!(migration.reason.contains("did not answer"), "{}", migration.reason);
    let refused = world.worker.stop(false).unwrap_err();
    assert!(refused.message().contains("hangs"), "{refused}");
    let refused = world.worker.give_way("it runs elsewhere".to_owned()).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    answer.send(()).unwrap();
    let mut looks = tokio::time::interval(Duration::from_millis(1));
    while world.state() != GuestState::Running {
        looks.tick().await;
    }
    assert!(world.runs());
}

/// Its agent lost the answer to the order, asks whether it was followed, and the order comes then.
#[tokio::test]
async fn a_migration_that_was_given_up_does_not_begin_any_more() {
    let (world, held) = World::new(Standing::Owner);
    world.worker.set_phase(Phase::Here(held));
    let order = |id: &str| process::MigrateRequest {
        migration_id: id.to_owned(),
        address: "127.0.0.1:1".to_owned(),
        token: vec![7; 16],
        ..Default::default()
    };
    assert!(!world.worker.give_up("late".to_owned()));
    let refused = Arc::clone(&world.worker).migrate(order("late")).await.unwrap_err();
    assert!(refused.message().contains("given this migration up"), "{refused}");
    assert_eq!(world.state(), GuestState::Running);
    Arc::clone(&world.worker).migrate(order("begun")).await.unwrap();
    assert!(world.worker.give_up("begun".to_owned()));
}
