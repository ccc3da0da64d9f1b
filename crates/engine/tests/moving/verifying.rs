//! Museum M15: writes that no tracker sees. What each way of verifying makes of them.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, GuestFactory, Throttle};
use whimbrel_engine::memory::{Backing, GuestMemory, TrackerKind};
use whimbrel_engine::page::{ByteCount, Layout, PAGE_SIZE, PageIndex};
use whimbrel_engine::protocol::Standing;
use whimbrel_engine::{Ended, Fault, IncomingOptions, Outcome, OutgoingOptions, Verify};

use crate::scribe::{R, Scribe, ScribeFactory, assert_same_memory};
use crate::{PAGES, assert_writes, incoming, migrate, options, outgoing, standing};

/// A guest to which something happens whenever it is being parked: everything has been sent and
/// acknowledged by then.
pub(crate) struct Haunted {
    guest: Scribe,
    ghost: Box<dyn FnMut() + Send>,
}

impl Haunted {
    pub(crate) fn new(guest: Scribe, ghost: impl FnMut() + Send + 'static) -> Self {
        Self { guest, ghost: Box::new(ghost) }
    }
}

impl Guest for Haunted {
    fn describe(&self) -> GuestDescription {
        self.guest.describe()
    }

    fn memory(&self) -> GuestMemory {
        self.guest.memory()
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        (self.ghost)();
        self.guest.pause()
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.guest.resume()
    }

    fn save_state(&mut self) -> Result<Bytes, GuestError> {
        self.guest.save_state()
    }

    fn load_state(&mut self, state: &Bytes) -> Result<(), GuestError> {
        self.guest.load_state(state)
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.guest.throttle(throttle)
    }
}

/// The memory file of this size, as another process that maps it would have it.
pub(crate) fn memory_file(size: u64) -> File {
    let open = std::fs::read_dir("/proc/self/fd").expect("a Linux host");
    let found = open.filter_map(Result::ok).map(|entry| entry.path()).find(|path| {
        let to = std::fs::read_link(path).unwrap_or_default();
        let memory = to.to_string_lossy().starts_with("/memfd:");
        memory && std::fs::metadata(path).is_ok_and(|about| about.len() == size)
    });
    let path = found.expect("a memory file of that size");
    OpenOptions::new().write(true).open(path).expect("it can be opened again")
}

/// Pages that a device writes without telling anybody: two neighbours, one alone, one that nobody
/// had touched.
const WRITTEN: [u64; 4] = [9, 10, 100, 15];

/// Moves a guest on shared memory into which a device writes while it is being parked.
async fn migrate_with_device(tracker: TrackerKind, verify: Verify, pages: u64) -> (Ended, Ended) {
    let size = ByteCount(pages * PAGE_SIZE as u64);
    let written = (0..pages).filter(|page| page % 8 != 7);
    let guest = Scribe::on(Backing::Shared, size, written, 0);
    let device = move || {
        let file = memory_file(size.0);
        for page in WRITTEN {
            let at = page * PAGE_SIZE as u64 + 1000;
            file.write_all_at(b"a disk has finished reading", at).expect("written");
        }
    };
    let mut wanted = options(Duration::from_secs(10));
    (wanted.tracker, wanted.source.verify) = (Some(tracker), verify);
    migrate(Haunted::new(guest, device), ScribeFactory::default(), wanted).await
}

/// The pages that are not the same on both sides.
pub(crate) fn differing(source: &Ended, destination: &Ended) -> Vec<u64> {
    let memory = |ended: &Ended| ended.guest.as_ref().expect("there").memory();
    let (left, right) = (memory(source), memory(destination));
    let (mut ours, mut theirs) = (vec![0; PAGE_SIZE], vec![0; PAGE_SIZE]);
    let pages = left.layout().pages().0;
    let differs = |page: &u64| {
        let at = PageIndex(*page).offset();
        left.read(R, at, &mut ours).expect("inside");
        right.read(R, at, &mut theirs).expect("inside");
        ours != theirs
    };
    (0..pages).filter(differs).collect()
}

pub(crate) fn said(ended: &Ended, what: &str) -> bool {
    ended.report.progress.events.iter().any(|(_, sentence)| sentence.contains(what))
}

/// The known limit of digests, which is why there is another way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_digest_alone_a_write_that_no_tracker_sees_is_lost() {
    let kinds = [TrackerKind::Userfaultfd, TrackerKind::Mprotect, TrackerKind::Model];
    for (tracker, pages) in kinds.into_iter().zip(2000..) {
        let (source, destination) = migrate_with_device(tracker, Verify::Digest, pages).await;
        assert!(matches!(source.outcome, Outcome::Completed { .. }), "{tracker}: {source:?}");
        let lost = differing(&source, &destination);
        assert!(lost.starts_with(&[9, 10]) && lost.contains(&100), "{tracker}: {lost:?}");
        assert_eq!(source.report.progress.pages_missed.0, 0, "{tracker}: nobody knows");
        assert_eq!(source.report.downtime.verify, Duration::ZERO, "{tracker}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_full_a_write_that_no_tracker_sees_is_sent_and_told() {
    let kinds = [TrackerKind::Userfaultfd, TrackerKind::Mprotect, TrackerKind::Model];
    for (tracker, pages) in kinds.into_iter().zip(3000..) {
        let (source, destination) = migrate_with_device(tracker, Verify::Full, pages).await;
        assert!(matches!(source.outcome, Outcome::Completed { .. }), "{tracker}: {source:?}");
        assert_eq!(differing(&source, &destination), [0; 0], "{tracker}");
        // A tracker may see that memory was populated: the page nobody had touched.
        let missed = source.report.progress.pages_missed.0;
        assert!(missed == 3 || missed == 4, "{tracker}: {missed}");
        assert!(said(&source, "changed without the tracker seeing it"), "{tracker}: {source:?}");
        assert!(said(&source, "0/9-10"), "{tracker}: {source:?}");
        assert_eq!(source.report.verify, Verify::Full);
        assert!(source.report.downtime.verify > Duration::ZERO, "{tracker}: its price is told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_guest_is_verified_in_full_and_nothing_was_missed() {
    let mut wanted = options(Duration::from_secs(10));
    wanted.source.verify = Verify::Full;
    let guest = Scribe::filled(PAGES, 512);
    let (source, destination) = migrate(guest, ScribeFactory::default(), wanted).await;
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    assert_eq!(source.report.progress.pages_missed.0, 0, "{source:?}");
    assert!(source.report.downtime.verify > Duration::ZERO, "{source:?}");
    let (mut left, mut right) = (source.guest.expect("back"), destination.guest.expect("there"));
    assert_same_memory(&mut *left, &mut *right);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_that_takes_longer_than_allowed_is_not_begun() {
    let mut wanted = options(Duration::from_nanos(1));
    wanted.source.verify = Verify::Full;
    let guest = Scribe::filled(PAGES, 64);
    let (source, destination) = migrate(guest, ScribeFactory::default(), wanted).await;
    let Outcome::Aborted(failure) = &source.outcome else { panic!("{source:?}") };
    assert_eq!(failure.fault, Fault::NotConverging);
    assert!(failure.why.contains("verify by digest"), "{failure}");
    assert!(matches!(destination.outcome, Outcome::Aborted(_)), "{destination:?}");
    assert_writes(source.guest.expect("back")).await;
}

/// Moves a guest and cancels it once it is seen to be verified. Whether it was, and how it ended.
async fn cancel_in_a_verification() -> (bool, Ended, Ended) {
    let mut wanted = options(Duration::from_secs(10));
    wanted.source.verify = Verify::Full;
    let (incoming, address) = incoming(ScribeFactory::default(), IncomingOptions::default());
    // Reading all of it takes longer than the time between two looks.
    let source = outgoing(Scribe::filled(16 * PAGES, 64), address, wanted);
    let (mut progress, cancel) = (source.progress(), source.cancel());
    let cancelling = tokio::spawn(async move {
        let seen = progress.wait_for(|look| look.phase == "verifying").await.is_ok();
        cancel.cancel("enough");
        seen
    });
    let (source, destination) = tokio::join!(source.run(), incoming.run());
    (cancelling.await.expect("no panics"), source, destination.expect("a destination"))
}

/// Law 6: a cancel is an event, also while memory is being read and the guest stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_in_the_middle_of_a_verification_runs_the_guest_on() {
    // A look may come just as it is over.
    for _ in 0..10 {
        let (seen, source, destination) = cancel_in_a_verification().await;
        match (&source.outcome, seen) {
            (Outcome::Completed { .. }, _) => {}
            (Outcome::Aborted(failure), true) => {
                assert_eq!((failure.fault, &failure.why[..]), (Fault::Cancelled, "enough"));
                assert!(matches!(destination.outcome, Outcome::Aborted(_)), "{destination:?}");
                assert_eq!(standing(&source), Some(Standing::Owner));
                return assert_writes(source.guest.expect("back")).await;
            }
            (other, _) => panic!("{other:?}"),
        }
    }
    panic!("no verification was long enough to be seen");
}

/// Makes the guest, and leaves its memory where the test finds it.
struct Leaky(Arc<Mutex<Option<GuestMemory>>>);

impl GuestFactory for Leaky {
    fn check(&self, guest: &GuestDescription, layout: &Layout) -> Result<(), String> {
        ScribeFactory::default().check(guest, layout)
    }

    fn create(
        &mut self,
        guest: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        *self.0.lock().expect("no panics") = Some(memory.clone());
        ScribeFactory::default().create(guest, memory)
    }
}

/// Moves a guest whose pages are spoiled at the destination after they have landed.
async fn migrate_to_bad_memory(wanted: OutgoingOptions) -> (Ended, Ended) {
    let leaked = Arc::new(Mutex::new(None));
    let factory = Leaky(leaked.clone());
    let spoil = move || {
        // Once: the guest is made before the source pauses for the first time.
        let Some(memory) = leaked.lock().expect("no panics").take() else { return };
        for page in [3, 700] {
            memory.store_u64(R, PageIndex(page).offset(), 0xbad).expect("inside");
        }
    };
    migrate(Haunted::new(Scribe::filled(PAGES, 0), spoil), factory, wanted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_does_not_keep_what_landed_is_found_in_full_only() {
    let mut wanted = options(Duration::from_secs(10));
    let (source, destination) = migrate_to_bad_memory(wanted.clone()).await;
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    assert_eq!(differing(&source, &destination), [3, 700], "digests are of what landed");
    wanted.source.verify = Verify::Full;
    let (source, destination) = migrate_to_bad_memory(wanted).await;
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    assert!(said(&source, "1024 pages differ at the destination"), "two chunks: {source:?}");
    assert_eq!(differing(&source, &destination), [0; 0]);
}
