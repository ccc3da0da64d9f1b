//! The scrub, in whole migrations: it finds what the tracker missed, and nothing else.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use whimbrel_engine::guest::{Guest as _, Throttle};
use whimbrel_engine::memory::{Backing, TrackerKind};
use whimbrel_engine::page::{ByteCount, ByteRate, PAGE_SIZE, PageIndex};
use whimbrel_engine::protocol::Policy;
use whimbrel_engine::{
    CoreShare, Ended, Failure, Fault, IncomingOptions, Limits, Outcome, OutgoingOptions,
};

use crate::scribe::{R, Scribe, ScribeFactory};
use crate::verifying::{Haunted, differing, memory_file, said};
use crate::{incoming, options, outgoing};

const KINDS: [TrackerKind; 3] =
    [TrackerKind::Userfaultfd, TrackerKind::Mprotect, TrackerKind::Model];
/// Quiet pages, into which a device writes.
const WRITTEN: [u64; 3] = [1000, 1001, 1500];
/// What the guest writes all the time.
const BUSY: u64 = 64;
/// What it writes when it is told to pause before it shall: too much to be sent in the pause.
const LATE: std::ops::Range<u64> = 2000..19_000;
/// A pause that a guest can have on a busy machine too, but not with all that at this rate.
const LIMIT: Duration = Duration::from_millis(120);
const RATE: ByteRate = ByteRate(200 << 20);

fn waiting(limit: Duration, tracker: TrackerKind, scrub: CoreShare) -> OutgoingOptions {
    let mut wanted = options(limit);
    wanted.source.convergence.policy = Policy::Wait;
    (wanted.tracker, wanted.scrub) = (Some(tracker), scrub);
    wanted
}

/// A device writes while the guest is busy, which goes on until that was found.
async fn migrate_with_device(tracker: TrackerKind, pages: u64) -> (Ended, Ended) {
    let size = ByteCount(pages * PAGE_SIZE as u64);
    let guest = Scribe::on(Backing::Shared, size, 0..pages, BUSY);
    let (calm, memory) = (guest.calm(), guest.memory());
    let found = Arc::new(AtomicBool::new(false));
    // A guest that got no time to write would move before anything was found.
    let (late, mut count) = (found.clone(), 0);
    let guest = Haunted::new(guest, move || {
        if !late.load(Ordering::Relaxed) {
            count += 1;
            for page in LATE {
                memory.store_u64(R, PageIndex(page).offset(), count).expect("inside");
            }
        }
    });
    let (incoming, address) = incoming(ScribeFactory::default(), IncomingOptions::default());
    let mut wanted = waiting(LIMIT, tracker, CoreShare::percent(50));
    wanted.source.pauses_max = u32::MAX;
    wanted.lanes.traffic.set_limits(Limits { rounds: Some(RATE), ..Limits::default() });
    let source = outgoing(guest, address, wanted);
    let mut progress = source.progress();
    let device = async {
        // By then what was pending at first has been read and sent.
        if progress.wait_for(|look| look.rounds.len() > 3).await.is_ok() {
            let file = memory_file(size.0);
            for page in WRITTEN {
                let at = page * PAGE_SIZE as u64 + 1000;
                file.write_all_at(b"a disk has finished reading", at).expect("written");
            }
            let _ = progress.wait_for(|look| look.pages_missed.0 > 0).await;
            let all = WRITTEN.len() as u64;
            let _ = progress.wait_for(|look| look.pages_missed.0 >= all).await;
        }
        found.store(true, Ordering::Relaxed);
        calm();
    };
    let (source, destination, ()) = tokio::join!(source.run(), incoming.run(), device);
    (source, destination.expect("a destination"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_no_tracker_sees_is_found_while_the_guest_runs() {
    for (tracker, pages) in KINDS.into_iter().zip(20_000..) {
        let (source, destination) = migrate_with_device(tracker, pages).await;
        assert!(matches!(source.outcome, Outcome::Completed { .. }), "{tracker}: {source:?}");
        assert_eq!(differing(&source, &destination), [0; 0], "{tracker}: what was found was sent");
        assert_eq!(source.report.progress.pages_missed.0, WRITTEN.len() as u64, "{tracker}");
        assert!(said(&source, "changed without the tracker seeing it"), "{tracker}: {source:?}");
        assert_eq!(source.report.downtime.verify, Duration::ZERO, "{tracker}: not in the pause");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_blamed_for_a_write_that_is_tracked() {
    const PAGES: u64 = 2048;
    const ENOUGH: u64 = 20_000;
    // The model logs a write after it was made: a guest that is interrupted in between for long
    // would be blamed for it. Those of the kernel have no such moment.
    for tracker in [TrackerKind::Userfaultfd, TrackerKind::Mprotect] {
        let mut guest = Scribe::filled(PAGES, PAGES);
        // At full speed every page would be dirty all the time, and none quiet enough to look at.
        guest.throttle(Throttle::MOST).expect("slower");
        let (incoming, address) = incoming(ScribeFactory::default(), IncomingOptions::default());
        // Goes on as long as the guest writes.
        let wanted = waiting(Duration::from_nanos(1), tracker, CoreShare::WHOLE);
        let source = outgoing(guest, address, wanted);
        let (mut progress, cancel) = (source.progress(), source.cancel());
        let watch = async {
            let _ = progress.wait_for(|look| look.pages_scrubbed.0 >= ENOUGH).await;
            cancel.cancel("enough was looked at");
        };
        let (source, _, ()) = tokio::join!(source.run(), incoming.run(), watch);
        let progress = &source.report.progress;
        assert_eq!(progress.pages_missed.0, 0, "{tracker}: {source:?}");
        let rested = |failure: &Failure| failure.fault == Fault::NotConverging;
        let ended = matches!(&source.outcome, Outcome::Aborted(failure) if rested(failure));
        assert!(ended || progress.pages_scrubbed.0 >= ENOUGH, "{tracker}: {source:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrub_that_is_turned_off_looks_at_nothing() {
    let mut wanted = options(Duration::from_secs(1));
    wanted.scrub = CoreShare::NONE;
    let (source, _) =
        crate::migrate(Scribe::filled(1024, 64), ScribeFactory::default(), wanted).await;
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    assert_eq!(source.report.progress.pages_scrubbed.0, 0);
}
