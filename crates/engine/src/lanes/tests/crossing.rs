//! Pages cross, each once, while the guest writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use whimbrel_memory::{TrackerKind, open};
use whimbrel_page::{ByteCount, PageCount, PageIndex, PageSet, RegionId, Run};
use whimbrel_protocol::ledger::Pass;

use super::super::LaneOptions;
use super::world::{KINDS, PATIENT, World, layout, places, write_page};

#[test]
fn everything_crosses_over_any_number_of_lanes() {
    for make in KINDS {
        for lanes in [1, 3] {
            let mut world = World::new(make);
            world.open_all(lanes);
            world.write_all(7);
            world.start_round(Pass::Once);
            let tally = world.round_taken();
            assert_eq!((tally.pages, tally.raw), (layout().pages(), layout().pages()));
            world.quiesce();
            world.assert_equal();
            let reports = world.source.reports();
            assert_eq!(reports.len(), lanes);
            let pages: PageCount = reports.iter().map(|lane| lane.pages).sum();
            assert_eq!(pages, layout().pages());
            assert_eq!(world.source.bytes(), tally.bytes);
            let there = world.destination.reports();
            assert_eq!(there.iter().map(|lane| lane.bytes).sum::<ByteCount>(), tally.bytes);
        }
    }
}

#[test]
fn zero_and_unchanged_pages_cost_no_payload() {
    for make in KINDS {
        let mut world = World::new(make);
        world.open();
        // Fresh memory is zero on both sides: nothing is sent.
        world.source.merge(&PageSet::full(&layout()));
        assert_eq!(world.finish_round().unchanged, layout().pages());
        assert_eq!(world.source.bytes(), ByteCount::ZERO);
        world.write_all(1);
        assert_eq!(world.finish_round().raw, layout().pages());
        // The same once more is unchanged, and what became zero is a run without payload.
        let before = world.source.bytes();
        let (region, zeroed) = (RegionId(4), 100);
        let zero = vec![0; PageCount(zeroed).bytes().0 as usize];
        world.memory.write(region, PageIndex(50).offset(), &zero).expect("inside");
        world.source.merge(&PageSet::full(&layout()));
        let tally = world.finish_round();
        assert_eq!((tally.raw, tally.zero), (PageCount::ZERO, PageCount(zeroed)));
        assert!((world.source.bytes() - before).0 < 4096);
        assert_eq!(world.there(Run::new(region, 50, zeroed)), zero);
        world.assert_equal();
    }
}

#[test]
fn a_guest_that_writes_all_the_time_arrives_whole() {
    for make in KINDS {
        let mut world = World::new(make);
        world.open_all(3);
        let mut tracker = open(TrackerKind::Model, &world.memory).expect("everywhere");
        let mut dirty = PageSet::new(&layout());
        tracker.arm().expect("armed");
        let (memory, parked) = (world.memory.clone(), Arc::new(AtomicBool::new(false)));
        let stop = parked.clone();
        let guest = thread::spawn(move || {
            for version in 1.. {
                for place in places().step_by(1 + version as usize % 7) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    write_page(&memory, place, version);
                }
            }
        });
        world.source.merge(&PageSet::full(&layout()));
        for _ in 0..8 {
            world.start_round(Pass::Once);
            world.round_taken();
            dirty.clear();
            tracker.harvest(&mut dirty).expect("harvested");
            world.source.merge(&dirty);
        }
        parked.store(true, Ordering::Relaxed);
        guest.join().expect("no panic");
        dirty.clear();
        tracker.harvest(&mut dirty).expect("harvested");
        world.source.merge(&dirty);
        world.finish_round();
        world.assert_equal();
    }
}

#[test]
fn pages_that_are_scattered_fit_batches_too() {
    for make in KINDS {
        // More parts than one call takes, and batches of other sizes than the default.
        for batch in [ByteCount::kib(4), ByteCount::mib(1)] {
            let options = LaneOptions { batch, stall_timeout: PATIENT, ..LaneOptions::default() };
            let mut world = World::with(make, options);
            world.open();
            let mut scattered = PageSet::new(&layout());
            for (region, page) in places().step_by(2) {
                world.write((region, page), 3);
                scattered.insert(Run::new(region, page.0, 1));
            }
            world.source.merge(&scattered);
            assert_eq!(world.finish_round().raw, scattered.count());
            world.assert_equal();
        }
    }
}

#[test]
fn a_window_smaller_than_a_batch_still_moves() {
    for make in KINDS {
        let window = ByteCount::kib(12);
        let options = LaneOptions { window, stall_timeout: PATIENT, ..LaneOptions::default() };
        let mut world = World::with(make, options);
        world.open();
        world.write_all(9);
        world.finish_round();
        world.assert_equal();
    }
}
