//! Lanes that die, garble and fall silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use whimbrel_page::{ByteRate, PageCount, PageIndex, PageSet, RegionId, Run};
use whimbrel_protocol::BatchSeq;
use whimbrel_protocol::batch::BATCH_HEADER_SIZE;
use whimbrel_protocol::ledger::Pass;
use whimbrel_transport::LaneError;

use super::super::{LaneEvent, LaneOptions, Limits, Traffic};
use super::world::{KINDS, Tampered, World, layout};

#[test]
fn a_lane_that_dies_within_a_batch_gives_its_pages_to_another() {
    for make in KINDS {
        for cut in [0, 10, BATCH_HEADER_SIZE, BATCH_HEADER_SIZE + 5, 50_000] {
            let mut world = World::new(make);
            let dying = world.open_with(Tampered::wrap(move |send, bytes| {
                (send == 4).then(|| {
                    bytes.truncate(cut);
                    LaneError::Closed
                })
            }));
            world.write_all(5);
            world.start_round(Pass::UntilEmpty);
            assert!(matches!(world.hear(), LaneEvent::Failed(lane, _) if lane == dying));
            let mark = world.replace(dying);
            assert!(mark.batch <= BatchSeq(3), "what was not whole has not landed");
            world.round_taken();
            world.quiesce();
            world.assert_equal();
        }
    }
}

#[test]
fn a_lane_that_is_cut_from_the_far_side_is_survived() {
    for make in KINDS {
        let mut world = World::new(make);
        let lanes = [world.open(), world.open()];
        world.write_all(5);
        world.start_round(Pass::UntilEmpty);
        world.destination.close(lanes[0]);
        world.round_taken();
        world.quiesce();
        // The cut may have come when the round was over; then it is heard of now.
        world.write_all(6);
        world.finish_round();
        world.assert_equal();
    }
}

#[test]
fn a_garbled_payload_is_found_by_the_sum_and_goes_again() {
    for make in KINDS {
        let mut world = World::new(make);
        let garbling = world.open_with(Tampered::wrap(|send, bytes| {
            if send == 3 {
                *bytes.last_mut().expect("payload") ^= 1;
            }
            None
        }));
        world.write_all(5);
        world.start_round(Pass::UntilEmpty);
        let LaneEvent::Failed(lane, why) = world.hear() else { panic!("it is found") };
        assert_eq!(lane, garbling);
        assert!(why.contains("did not land as it was sent"), "{why}");
        world.replace(lane);
        world.round_taken();
        world.quiesce();
        world.assert_equal();
    }
}

#[test]
fn of_a_garbled_head_nothing_lands() {
    for make in KINDS {
        // A bit in the header, and one in the first descriptor: its page number.
        for at in [9, BATCH_HEADER_SIZE] {
            let mut world = World::new(make);
            let garbling = world.open_with(Tampered::wrap(move |_, bytes| {
                bytes[at] ^= 1;
                None
            }));
            world.write_all(5);
            world.start_round(Pass::UntilEmpty);
            assert!(matches!(world.hear(), LaneEvent::Failed(lane, _) if lane == garbling));
            assert_eq!(world.mark(garbling), World::nothing_landed(garbling));
            for region in layout().regions() {
                assert!(world.there(region.run()).iter().all(|byte| *byte == 0));
            }
            world.close(World::nothing_landed(garbling));
            world.open();
            world.round_taken();
            world.quiesce();
            world.assert_equal();
        }
    }
}

#[test]
fn pages_of_a_dead_lane_wait_for_the_destinations_word() {
    for make in KINDS {
        let mut world = World::new(make);
        let dying =
            world.open_with(Tampered::wrap(|send, _| (send == 2).then_some(LaneError::Closed)));
        world.write_all(5);
        world.start_round(Pass::UntilEmpty);
        assert!(matches!(world.hear(), LaneEvent::Failed(..)));
        let pending = world.source.pending();
        world.open();
        // The batch that failed was whole and may be landing: its 64 pages are not touched.
        world.destination.close(dying);
        let mark = world.mark(dying);
        assert!(pending <= layout().pages() - PageCount(64));
        world.close(mark);
        world.round_taken();
        world.quiesce();
        world.assert_equal();
        let reports = world.source.reports();
        assert_eq!(reports.iter().filter(|lane| lane.open).count(), 1);
    }
}

#[test]
fn a_destination_that_lands_nothing_is_given_up() {
    for make in KINDS {
        let stall_timeout = Duration::from_millis(100);
        let options = LaneOptions { stall_timeout, ..LaneOptions::default() };
        let mut world = World::with(make, options);
        let swallowing = world.open_with(Tampered::wrap(|_, bytes| {
            bytes.clear();
            None
        }));
        let mut one = PageSet::new(&layout());
        one.insert(Run::new(RegionId(4), 0, 1));
        world.write((RegionId(4), PageIndex(0)), 1);
        world.source.merge(&one);
        world.start_round(Pass::UntilEmpty);
        assert!(matches!(world.hear(), LaneEvent::RoundTaken(_)));
        let LaneEvent::Failed(lane, why) = world.hear() else { panic!("it is given up") };
        assert!(lane == swallowing && why.contains("acknowledged nothing"), "{why}");
        world.replace(lane);
        world.quiesce();
    }
}

#[test]
fn a_panic_in_a_lane_fails_the_lane_only() {
    for make in KINDS {
        let mut world = World::new(make);
        let dying = world.open_with(Tampered::wrap(|_, _| panic!("on purpose")));
        world.write_all(2);
        world.start_round(Pass::UntilEmpty);
        let LaneEvent::Failed(lane, why) = world.hear() else { panic!("it is told") };
        assert!(lane == dying && why.contains("on purpose"), "{why}");
        world.replace(lane);
        world.round_taken();
        world.quiesce();
        world.assert_equal();
    }
}

/// Law 4's trap: a lane dies in the middle of a page, or its last word is lost, and the guest
/// writes back what the page held before. Nobody knows what is there now, so it goes again.
#[test]
fn what_is_written_back_after_a_dead_lane_goes_again() {
    let run = Run::new(RegionId(4), 70, 8);
    let half_a_page = BATCH_HEADER_SIZE + 32 + 2 * 4096 + 2048;
    for (make, cut) in KINDS.into_iter().flat_map(|make| [(make, half_a_page), (make, 0)]) {
        let mut world = World::new(make);
        let first = world.open();
        world.write_all(1);
        world.finish_round();
        let dying = world.open_with(Tampered::wrap(move |_, bytes| {
            if cut > 0 {
                bytes.truncate(cut);
            }
            Some(LaneError::Closed)
        }));
        // The dying one is to be the only one.
        world.destination.close(first);
        let mark = world.mark(first);
        world.close(mark);
        let mut some = PageSet::new(&layout());
        some.insert(run);
        run.pages().for_each(|page| world.write((run.region, page), 2));
        world.source.merge(&some);
        world.start_round(Pass::UntilEmpty);
        while !matches!(world.hear(), LaneEvent::Failed(lane, _) if lane == dying) {}
        run.pages().for_each(|page| world.write((run.region, page), 1));
        world.source.merge(&some);
        world.replace(dying);
        let tally = world.finish_round();
        assert_eq!((tally.raw, tally.unchanged), (run.count, PageCount::ZERO), "cut at {cut}");
        world.assert_equal();
    }
}

#[test]
fn a_path_is_not_blamed_for_one_lane_that_starves() {
    let traffic = Traffic::default();
    // So slow that there is something to send for longer than both of them take to fail.
    traffic.set_limits(Limits { rounds: Some(ByteRate(512 << 10)), ..Limits::default() });
    // Longer than a busy machine holds the other one up, which would fail before this one.
    let stall_timeout = Duration::from_secs(6);
    let options = LaneOptions { stall_timeout, traffic, ..LaneOptions::default() };
    let mut world = World::with(KINDS[0], options);
    let swallow = |swallows: Arc<AtomicBool>| {
        Tampered::wrap(move |_, bytes| {
            if swallows.load(Ordering::Relaxed) {
                bytes.clear();
            }
            None
        })
    };
    let dead = Arc::new(AtomicBool::new(false));
    let starves = world.open_with(swallow(Arc::new(AtomicBool::new(true))));
    let other = world.open_with(swallow(dead.clone()));
    world.write_all(5);
    world.start_round(Pass::UntilEmpty);
    let mut is_up_when_it_failed = |silent| loop {
        if let LaneEvent::Failed(lane, why) = world.hear() {
            assert_eq!(lane, silent, "{why}");
            return world.source.path_reports()[0].up;
        }
    };
    assert!(is_up_when_it_failed(starves), "the other lane lands pages on it");
    dead.store(true, Ordering::Relaxed);
    assert!(!is_up_when_it_failed(other), "nothing lands on it");
}
