use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, channel};
use whimbrel_memory::{DirtyTracker, KernelWrites, MemoryError, TrackerKind, open};
use whimbrel_page::{ByteCount, PageCount, PageIndex, PageSet, RegionId};
use whimbrel_protocol::{Harvest, SourceEvent};

use super::{Comparison, Hands, Job, Work};
use crate::guest::Guest as _;
use crate::guest::still::Still;
use crate::journal::{SharedJournal, VolatileJournal};
use crate::lanes::{LaneOptions, SourceLanes};
use crate::options::CoreShare;
use crate::outgoing::Happened;
use crate::spawn::spawn;

/// Hands on a guest of sixteen pages, and what they say.
fn hands() -> (Work, Receiver<Happened>) {
    let guest = Still::of_pages(16);
    let memory = guest.memory();
    let layout = memory.layout().clone();
    let (happened, said) = channel(16);
    let lanes = SourceLanes::new(memory.clone(), LaneOptions::default(), channel(16).0);
    let work = Work {
        guest: Box::new(guest),
        tracker: open(TrackerKind::Model, &memory).expect("it works everywhere"),
        lanes,
        journal: SharedJournal::new(Box::<VolatileJournal>::default()),
        dirty: PageSet::new(&layout),
        spoiled: PageSet::new(&layout),
        memory,
        ahead: None,
        parked: false,
        released: false,
        left: false,
        reacquire_timeout: Duration::ZERO,
        stuck: None,
        comparison: Comparison::default(),
        digesters: None,
        scrub: None,
        scrub_share: CoreShare::NONE,
        happened,
    };
    (work, said)
}

fn write(work: &Work, page: u64) {
    let at = PageIndex(page).offset() + ByteCount(8);
    work.memory.store_u64(RegionId(0), at, page + 1).expect("inside");
}

fn harvest(work: &mut Work, said: &mut Receiver<Happened>, asked: Instant) -> Harvest {
    work.perform(Job::Harvest(asked));
    match said.try_recv() {
        Ok(Happened::Machine(SourceEvent::Harvested(harvest))) => harvest,
        _ => panic!("a harvest is answered"),
    }
}

/// Museum M23: the lanes were held up between the harvest and the end of the round.
#[test]
fn a_harvest_that_was_made_long_ago_does_not_stand_for_the_guest_now() {
    let (mut work, mut said) = hands();
    work.perform(Job::Arm);
    assert!(matches!(said.try_recv(), Ok(Happened::Machine(SourceEvent::Armed))));
    let round = |work: &mut Work, said: &mut Receiver<Happened>, late: Duration| {
        write(work, 1);
        let before = Instant::now();
        work.perform(Job::HarvestAhead);
        assert!(said.try_recv().is_err(), "nobody asked yet");
        write(work, 2);
        harvest(work, said, before + late).written
    };
    // Asked for while it was made: the second page is for the next one.
    assert_eq!(round(&mut work, &mut said, Duration::ZERO), PageCount(1));
    assert_eq!(harvest(&mut work, &mut said, Instant::now()).written, PageCount(1));
    // An hour late: both are of one harvest, and nothing is left for the next one.
    assert_eq!(round(&mut work, &mut said, Duration::from_secs(3600)), PageCount(2));
    assert_eq!(harvest(&mut work, &mut said, Instant::now()).written, PageCount::ZERO);
}

/// A tracker that finds nothing, says when it ends, and takes its time to.
struct Slow(Arc<AtomicBool>);

impl DirtyTracker for Slow {
    fn kind(&self) -> TrackerKind {
        TrackerKind::Model
    }

    fn kernel_writes(&self) -> KernelWrites {
        KernelWrites::Tracked
    }

    fn arm(&mut self) -> Result<(), MemoryError> {
        Ok(())
    }

    fn harvest(&mut self, _: &mut PageSet) -> Result<PageCount, MemoryError> {
        Ok(PageCount::ZERO)
    }

    fn disarm(&mut self) -> Result<(), MemoryError> {
        Ok(())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Whoever does not wait for it comes too early.
        (0..1000).for_each(|_| std::thread::yield_now());
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Museum M28: who moves it again at once would find the memory tracked.
#[test]
fn a_guest_that_stays_is_given_back_when_nobody_tracks_it_any_more() {
    for last in [Job::Retreat, Job::LetGo] {
        let (mut work, _said) = hands();
        let ended = Arc::new(AtomicBool::new(false));
        work.tracker = Box::new(Slow(Arc::clone(&ended)));
        let Ok(hands) = Hands::start(work, spawn) else { panic!("there is no thread") };
        let back = hands.finish(last).blocking_recv();
        assert!(ended.load(Ordering::SeqCst), "it is tracked still");
        assert!(back.is_ok_and(|back| back.runs), "the guest comes back");
    }
}
