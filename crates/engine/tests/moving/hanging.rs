//! Guests that do not answer: every wait has an end, and what follows is decided by who owns.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, GuestFactory, Throttle};
use whimbrel_engine::memory::GuestMemory;
use whimbrel_engine::page::{ByteCount, Layout};
use whimbrel_engine::protocol::{Record, Standing};
use whimbrel_engine::{
    Ended, Fault, Incoming, IncomingOptions, Journal, Outcome, Outgoing, OutgoingOptions,
    VolatileJournal,
};

use crate::scribe::{R, Scribe, ScribeFactory};
use crate::{TOKEN, assert_writes, options, standing};

/// For what hangs, and for nothing else.
const SOON: Duration = Duration::from_secs(1);
/// For what hangs, where the same deadline is one of steps that do not.
const STEP: Duration = Duration::from_secs(5);
/// For what does not hang, however busy the machine is.
const PATIENT: Duration = Duration::from_secs(30);
const PAGES: u64 = 256;

/// The calls in which a guest can hang here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Pause,
    LoadState,
    Resume,
}

/// Hangs in the first call of one kind, until it is told to go on.
struct Hanging {
    guest: Box<dyn Guest>,
    call: Call,
    waits: Arc<Mutex<Receiver<()>>>,
}

impl Hanging {
    fn enter(&self, call: Call) {
        if call == self.call {
            let _ = self.waits.lock().expect("no panics").recv();
        }
    }
}

impl Guest for Hanging {
    fn describe(&self) -> GuestDescription {
        self.guest.describe()
    }

    fn memory(&self) -> GuestMemory {
        self.guest.memory()
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        self.enter(Call::Pause);
        self.guest.pause()
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.enter(Call::Resume);
        self.guest.resume()
    }

    fn save_state(&mut self) -> Result<Bytes, GuestError> {
        self.guest.save_state()
    }

    fn load_state(&mut self, state: &Bytes) -> Result<(), GuestError> {
        self.enter(Call::LoadState);
        self.guest.load_state(state)
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.guest.throttle(throttle)
    }
}

/// Makes guests that hang.
struct HangingFactory(ScribeFactory, Call, Arc<Mutex<Receiver<()>>>);

impl GuestFactory for HangingFactory {
    fn check(&self, guest: &GuestDescription, layout: &Layout) -> Result<(), String> {
        self.0.check(guest, layout)
    }

    fn create(
        &mut self,
        guest: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        let guest = self.0.create(guest, memory)?;
        Ok(Box::new(Hanging { guest, call: self.1, waits: self.2.clone() }))
    }
}

/// A way to let a guest go on, and where it waits for that.
fn leash() -> (Sender<()>, Arc<Mutex<Receiver<()>>>) {
    let (release, waits) = channel();
    (release, Arc::new(Mutex::new(waits)))
}

/// For a source that waits for everything.
fn sends() -> OutgoingOptions {
    let mut options = options(Duration::from_secs(1));
    options.source.pause_budget = PATIENT;
    options.source.pause_timeout = PATIENT;
    options.source.doubt_timeout = PATIENT;
    options.return_timeout = PATIENT;
    options
}

/// For a source whose disk hangs.
fn sends_past_a_disk() -> OutgoingOptions {
    let mut options = sends();
    options.source.pause_budget = SOON;
    // The pause itself may take twice as long as this, the notes in it do not.
    options.source.convergence.downtime_max = PATIENT;
    options.return_timeout = SOON;
    options
}

/// For a destination that waits for everything.
fn takes() -> IncomingOptions {
    IncomingOptions { step_timeout: PATIENT, return_timeout: PATIENT, ..IncomingOptions::default() }
}

/// For a destination where something hangs.
fn takes_what_hangs() -> IncomingOptions {
    IncomingOptions { step_timeout: STEP, return_timeout: SOON, ..IncomingOptions::default() }
}

async fn migrate(
    source: Box<dyn Guest>,
    sends: OutgoingOptions,
    factory: Box<dyn GuestFactory>,
    takes: IncomingOptions,
) -> (Ended, Ended) {
    let anywhere = ([127, 0, 0, 1], 0).into();
    let journal = Box::<VolatileJournal>::default();
    let incoming = Incoming::bind(anywhere, TOKEN, factory, journal, takes).expect("a port");
    let to = whimbrel_engine::DestinationAddress { address: incoming.address(), token: TOKEN };
    let outgoing = Outgoing::new(source, Box::<VolatileJournal>::default(), to, sends);
    let (source, destination) = tokio::join!(outgoing.run(), incoming.run());
    (source, destination.expect("a destination"))
}

fn aborted(ended: &Ended) -> &whimbrel_engine::Failure {
    let Outcome::Aborted(failure) = &ended.outcome else { panic!("{ended:?}") };
    failure
}

/// The guest comes back, and it runs.
async fn comes_back(ended: Ended) -> Ended {
    let Ended { hung, journal, outcome, report, .. } = ended;
    let back = hung.expect("a guest to wait for").back();
    let back = tokio::time::timeout(Duration::from_secs(60), back).await.expect("it answers");
    let back = back.expect("it is not lost");
    assert!(back.runs, "{back:?}");
    assert_writes(back.guest).await;
    Ended { hung: None, guest: None, journal, outcome, report }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_hangs_in_its_pause_stays_and_runs_when_it_answers() {
    let (release, waits) = leash();
    let guest = Box::new(Scribe::filled(PAGES, 8));
    let guest = Box::new(Hanging { guest, call: Call::Pause, waits });
    let mut options = sends();
    (options.source.pause_timeout, options.return_timeout) = (SOON, SOON);
    let factory = Box::new(ScribeFactory::default());
    let (source, destination) = migrate(guest, options, factory, takes()).await;
    let failure = aborted(&source);
    assert_eq!(failure.fault, Fault::Guest);
    assert!(failure.why.contains("the guest hangs"), "{failure}");
    assert!(failure.why.contains("it runs on when it does"), "{failure}");
    assert!(source.guest.is_none());
    assert!(matches!(destination.outcome, Outcome::Aborted(_)), "{destination:?}");
    assert_eq!(standing(&destination), Some(Standing::Refused));
    assert_eq!(standing(&source), Some(Standing::Owner), "noted before it is told to run on");
    release.send(()).expect("it waits");
    let source = comes_back(source).await;
    assert_eq!(standing(&source), Some(Standing::Owner));
}

/// A journal whose disk hangs under one kind of note.
struct HangingDisk(VolatileJournal, Standing, Arc<Mutex<Receiver<()>>>);

impl Journal for HangingDisk {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.0.record(record)
    }

    fn note(&mut self, record: &Record) -> io::Result<()> {
        if record.standing == self.1 {
            let _ = self.2.lock().expect("no panics").recv();
        }
        self.0.note(record)
    }

    fn read(&self) -> io::Result<Option<Record>> {
        self.0.read()
    }
}

/// Law 6: what was not noted is not said, and the destination gives the guest back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_under_the_grant_ends_the_attempt() {
    let (release, waits) = leash();
    let (incoming, to) = crate::incoming(ScribeFactory::default(), takes());
    let journal = HangingDisk(VolatileJournal::default(), Standing::Granted, waits);
    let guest = Box::new(Scribe::filled(PAGES, 8));
    let outgoing = Outgoing::new(guest, Box::new(journal), to, sends_past_a_disk());
    let (source, destination) = tokio::join!(outgoing.run(), incoming.run());
    let destination = destination.expect("ran");
    assert!(aborted(&source).why.contains("the disk hangs"), "{source:?}");
    assert_eq!(standing(&destination), Some(Standing::Refused), "{destination:?}");
    assert!(destination.guest.is_none());
    release.send(()).expect("it waits");
    let source = comes_back(source).await;
    // What was begun came through, and what was recorded since stands.
    assert_eq!(standing(&source), Some(Standing::Owner));
}

/// Law 6, on the other side: a guest whose start is not noted does not start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_under_the_start_starts_nothing() {
    let (release, waits) = leash();
    let journal = Box::new(HangingDisk(VolatileJournal::default(), Standing::Running, waits));
    let (anywhere, factory) = (([127, 0, 0, 1], 0).into(), Box::new(ScribeFactory::default()));
    let incoming = Incoming::bind(anywhere, TOKEN, factory, journal, takes_what_hangs());
    let incoming = incoming.expect("a port");
    let to = whimbrel_engine::DestinationAddress { address: incoming.address(), token: TOKEN };
    let guest = Box::new(Scribe::filled(PAGES, 8));
    let mut options = sends();
    options.source.doubt_timeout = STEP;
    let outgoing = Outgoing::new(guest, Box::<VolatileJournal>::default(), to, options);
    let (source, destination) = tokio::join!(outgoing.run(), incoming.run());
    let destination = destination.expect("ran");
    // It cannot be recorded that it never ran, so that the source does not hear it.
    assert!(matches!(source.outcome, Outcome::InDoubt { .. }), "{source:?}");
    assert!(aborted(&destination).why.contains("the disk hangs"), "{destination:?}");
    assert!(destination.guest.is_none());
    release.send(()).expect("it waits");
    let refused = async {
        while standing(&destination) != Some(Standing::Refused) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), refused).await.expect("it never ran here");
}

/// Law 6: the guest is the source's, and does not stand still until a disk answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_under_a_note_does_not_keep_the_guest_from_running_on() {
    let (release, waits) = leash();
    let factory = ScribeFactory { fails_to_load: true, ..ScribeFactory::default() };
    let (incoming, to) = crate::incoming(factory, takes());
    let guest = Scribe::filled(PAGES, 8);
    let memory = guest.memory();
    let journal = HangingDisk(VolatileJournal::default(), Standing::Owner, waits);
    let journal = Box::new(journal);
    let outgoing = Outgoing::new(Box::new(guest), journal, to, sends_past_a_disk());
    let (source, destination) = tokio::join!(outgoing.run(), incoming.run());
    assert!(aborted(&source).why.contains("it was told not to"), "{source:?}");
    assert!(matches!(destination.expect("ran").outcome, Outcome::Aborted(_)));
    // It writes numbered words into its first pages, and the record is not written yet.
    let look = || {
        let words = (0..512).map(|word| memory.load_u64(R, ByteCount(word * 8)).expect("inside"));
        words.max()
    };
    let before = look();
    let running = async {
        while look() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), running).await.expect("it runs");
    release.send(()).expect("it waits");
    comes_back(source).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_hangs_over_its_state_keeps_nobody_waiting() {
    let (release, waits) = leash();
    let factory = Box::new(HangingFactory(ScribeFactory::default(), Call::LoadState, waits));
    let guest = Box::new(Scribe::filled(PAGES, 8));
    let (source, destination) = migrate(guest, sends(), factory, takes_what_hangs()).await;
    let failure = aborted(&source).clone();
    let late = format!("did not come about within {} ms", STEP.as_millis());
    assert!(failure.why.contains(&late), "{failure}");
    assert_eq!(standing(&source), Some(Standing::Owner));
    assert_writes(source.guest.expect("back")).await;
    assert_eq!(&aborted(&destination).why, &failure.why);
    assert!(destination.guest.is_none() && destination.hung.is_none(), "nobody wants it");
    assert_eq!(standing(&destination), Some(Standing::MayOwn), "nothing could be recorded");
    release.send(()).expect("it waits");
    let refused = async {
        while standing(&destination) != Some(Standing::Refused) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), refused).await.expect("it never ran here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_hangs_when_it_is_run_is_in_doubt_until_it_answers() {
    let (release, waits) = leash();
    let factory = ScribeFactory { busy_pages: 8, ..ScribeFactory::default() };
    let factory = Box::new(HangingFactory(factory, Call::Resume, waits));
    let guest = Box::new(Scribe::filled(PAGES, 8));
    let mut options = sends();
    options.source.doubt_timeout = STEP;
    let (source, destination) = migrate(guest, options, factory, takes_what_hangs()).await;
    // It was granted: neither side may run it, and neither may say that the other will not.
    assert!(matches!(source.outcome, Outcome::InDoubt { .. }), "{source:?}");
    assert_eq!(standing(&source), Some(Standing::Granted));
    let Outcome::InDoubt { why, .. } = &destination.outcome else { panic!("{destination:?}") };
    assert!(why.contains("the guest hangs"), "{why}");
    assert_eq!(standing(&destination), Some(Standing::Running));
    release.send(()).expect("it waits");
    let destination = comes_back(destination).await;
    assert_eq!(standing(&destination), Some(Standing::Owner), "now it can be said");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_nobody_awaits_goes_on_and_its_end_is_kept() {
    let (incoming, address) = crate::incoming(ScribeFactory::default(), IncomingOptions::default());
    let source = crate::outgoing(Scribe::filled(4096, 0), address, options(Duration::from_secs(1)));
    let (left, right) = (source.ending(), incoming.ending());
    assert!(left.take().await.is_none(), "nothing has begun");
    // Begun, and dropped at once.
    drop((source.run(), incoming.run()));
    let source = left.take().await.expect("the end");
    let destination = right.take().await.expect("the end").expect("a destination");
    crate::assert_moved_whole(source, destination);
    assert!(left.take().await.is_none(), "it was taken");
}
