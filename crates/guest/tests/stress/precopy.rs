//! Pre-copy by hand under a guest at work: its self-check is the judge of a move, so it must
//! accept a right one and catch a wrong one.

use whimbrel_engine::guest::Guest;
use whimbrel_guest::stress::{DirtyRate, Fill, Operations, Pattern, StressMonitor, StressSpec};
use whimbrel_memory::page::{ByteCount, PAGE_SIZE, PageCount, PageSet};
use whimbrel_memory::{DirtyTracker, GuestMemory, TrackerKind, open};

use crate::common::*;

/// Rounds copied while the guest runs.
const ROUNDS: u32 = 4;

/// What a migration forgets to copy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forgets {
    Nothing,
    /// What was written between the last round and the pause.
    LastHarvest,
    /// What the last round before that has found.
    LastRound,
}

fn copy(pages: &PageSet, from: &GuestMemory, to: &GuestMemory) {
    let mut bytes = [0; PAGE_SIZE];
    for run in pages.runs() {
        for page in run.pages() {
            from.read(run.region, page.offset(), &mut bytes).expect("a page of it");
            to.write(run.region, page.offset(), &bytes).expect("the same layout");
        }
    }
}

fn harvest(tracker: &mut dyn DirtyTracker, memory: &GuestMemory) -> PageSet {
    let mut dirty = PageSet::new(memory.layout());
    tracker.harvest(&mut dirty).expect("armed");
    dirty
}

/// Tracks the writes to `memory`, if this kind of tracker works here.
fn armed(kind: TrackerKind, memory: &GuestMemory) -> Option<Box<dyn DirtyTracker>> {
    let opened = open(kind, memory).and_then(|mut tracker| {
        tracker.arm()?;
        Ok(tracker)
    });
    opened.inspect_err(|why| skipped(&why.to_string())).ok()
}

/// Moves a guest that does so many operations between two harvests, and gives its view on the
/// other side.
fn moved(
    spec: StressSpec,
    operations: u64,
    kind: TrackerKind,
    forgets: Forgets,
) -> Option<(Box<dyn Guest>, StressMonitor)> {
    let (mut source, monitor) = stress(spec);
    let memory = source.memory();
    let mut tracker = armed(kind, &memory)?;
    let landing = allocate();
    let (mut guest, slot) = destination(landing.clone());
    let work = || {
        let goal = Operations(report(&monitor).operations.0 + operations);
        until("working", || report(&monitor).operations >= goal);
    };
    source.resume().expect("parked");
    copy(&memory.touched().expect("known"), &memory, &landing);
    for round in 1..=ROUNDS {
        work();
        let dirty = harvest(&mut *tracker, &memory);
        if round < ROUNDS || forgets != Forgets::LastRound {
            copy(&dirty, &memory, &landing);
        }
    }
    work();
    source.pause().expect("running");
    if forgets != Forgets::LastHarvest {
        copy(&harvest(&mut *tracker, &memory), &memory, &landing);
    }
    guest.load_state(&source.save_state().expect("parked")).expect("valid");
    Some((guest, slot.get().expect("made")))
}

fn skipped(why: &str) {
    println!("SKIPPED: {why}");
    let required = std::env::var("WHIMBREL_REQUIRE").is_ok_and(|what| what == "all");
    assert!(!required, "this test is required, but {why}");
}

#[test]
fn a_guest_moved_while_it_writes_arrives_whole() {
    for kind in TrackerKind::here() {
        for (pattern, fill) in Pattern::ALL.iter().zip(Fill::ALL.iter().cycle()) {
            let busy = StressSpec { pattern: *pattern, fill: *fill, ..spec(DirtyRate::Max) };
            let Some((mut guest, monitor)) = moved(busy, 1000, kind, Forgets::Nothing) else {
                continue;
            };
            clean(&monitor);
            guest.resume().expect("loaded");
            until("beating", || report(&monitor).beats_here.0 > 0);
            clean(&monitor);
        }
    }
}

#[test]
fn what_a_migration_forgets_is_noticed() {
    // Slow and sequential: what one round forgets is not written again before the pause.
    let slow = StressSpec {
        pattern: Pattern::Sequential,
        working_set: ByteCount::mib(5),
        ..spec(DirtyRate::PerSecond(ByteCount::mib(1)))
    };
    for forgets in [Forgets::LastHarvest, Forgets::LastRound] {
        let (_guest, monitor) = moved(slow, 50, TrackerKind::Model, forgets).expect("works");
        let verdict = monitor.self_check().expect("an answer");
        assert!(verdict.stale >= PageCount(50), "{verdict}");
    }
}
