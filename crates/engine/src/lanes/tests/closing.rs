//! How lanes end: at once, with all of their pages accounted for, and with nothing left behind.

use std::net::TcpListener;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use whimbrel_page::{PageCount, PageSet, RegionId, Run};
use whimbrel_protocol::batch::LaneHello;
use whimbrel_protocol::ledger::Pass;
use whimbrel_protocol::{BatchSeq, Epoch, LaneId, SessionId, Token};
use whimbrel_transport::LaneError;

use super::super::{LaneEvent, LaneOptions};
use super::world::{KINDS, Make, PATIENT, Tampered, World, layout};

const SOME: PageCount = PageCount(100);

/// A world with some pages in flight on a lane that loses what is sent on it. It waits, and does
/// not know what becomes of it at the destination.
fn with_some_lost(make: Make) -> (World, LaneId) {
    let mut world = World::new(make);
    let lane = world.open_with(Tampered::wrap(|_, bytes| {
        bytes.clear();
        None
    }));
    let mut some = PageSet::new(&layout());
    some.insert(Run::new(RegionId(4), 70, SOME.0));
    some.runs().flat_map(Run::pages).for_each(|page| world.write((RegionId(4), page), 8));
    world.source.merge(&some);
    world.start_round(Pass::Once);
    assert_eq!(world.round_taken().pages, SOME);
    (world, lane)
}

#[test]
fn a_round_that_begins_after_a_close_has_the_pages_of_the_lane() {
    for make in KINDS {
        let (mut world, lane) = with_some_lost(make);
        world.close(World::nothing_landed(lane));
        assert_eq!(world.source.pending(), SOME);
        world.start_round(Pass::UntilEmpty);
        world.open();
        assert_eq!(world.round_taken().pages, SOME);
        world.quiesce();
        world.assert_equal();
    }
}

/// A world with a lane whose thread hangs in its first batch, until it is let go.
fn with_one_that_hangs(make: Make, stall_timeout: Duration) -> (World, LaneId, Sender<()>) {
    let mut world = World::with(make, LaneOptions { stall_timeout, ..LaneOptions::default() });
    let ((begun, begins), (release, waits)) = (channel(), channel());
    let lane = world.open_with(Tampered::wrap(move |_, bytes| {
        bytes.clear();
        begun.send(()).expect("the test waits");
        // Whoever lets go of it has dropped the other end, or says so.
        let _ = waits.recv();
        None
    }));
    world.write_all(3);
    world.start_round(Pass::Once);
    begins.recv().expect("it begins");
    (world, lane, release)
}

/// A guest that stands still is not held up by it, and its pages are not lost.
#[test]
fn a_lane_that_does_not_end_in_time_gives_its_pages_back_later() {
    for make in KINDS {
        let (mut world, lane, release) = with_one_that_hangs(make, PATIENT);
        let before = world.source.pending();
        assert!(before < layout().pages(), "it has taken nothing");
        world.source.close(World::nothing_landed(lane), Duration::ZERO);
        assert!(world.unheard().is_none());
        assert_eq!(world.source.pending(), before, "it may still read them");
        release.send(()).expect("it hangs");
        world.close(World::nothing_landed(lane));
        assert_eq!(world.source.pending(), layout().pages());
        world.open();
        world.finish_round();
        world.assert_equal();
    }
}

#[test]
fn a_lane_that_never_ends_is_told_where_nobody_waited_for_it() {
    for make in KINDS {
        let (mut world, lane, release) = with_one_that_hangs(make, Duration::from_millis(50));
        for within in [Duration::ZERO, PATIENT] {
            world.source.close(World::nothing_landed(lane), within);
            let told = world.hear();
            assert!(matches!(told, LaneEvent::Stuck(stuck) if stuck == lane), "{told:?}");
        }
        drop(release);
    }
}

#[test]
fn quiet_that_nobody_waits_for_any_more_is_not_told() {
    for make in KINDS {
        let (mut world, lane) = with_some_lost(make);
        world.source.quiesce(0);
        world.start_round(Pass::Once);
        assert_eq!(world.round_taken().pages, PageCount::ZERO);
        world.close(World::nothing_landed(lane));
        assert!(world.unheard().is_none());
        world.open();
        world.start_round(Pass::Once);
        assert_eq!(world.round_taken().pages, SOME);
        world.quiesce();
        world.assert_equal();
    }
}

#[test]
fn a_peer_that_stalls_holds_nobody_else_up() {
    for make in KINDS {
        // Longer than a busy machine holds the other one up, which would fail too.
        let options =
            LaneOptions { stall_timeout: Duration::from_secs(5), ..LaneOptions::default() };
        let mut world = World::with(make, options);
        // Its first batch arrives without its last byte: the peer waits for it, and never acks.
        let stalled = world.open_with(Tampered::wrap(|send, bytes| {
            match send {
                1 => drop(bytes.pop()),
                _ => bytes.clear(),
            }
            None::<LaneError>
        }));
        world.open();
        world.write_all(3);
        world.start_round(Pass::Once);
        let (mut taken, mut failed) = (None, false);
        while taken.is_none() || !failed {
            match world.hear() {
                LaneEvent::RoundTaken(tally) => taken = Some(tally.pages),
                LaneEvent::Failed(lane, why) => {
                    assert!(lane == stalled && why.contains("acknowledged nothing"), "{why}");
                    failed = true;
                }
                other => panic!("{other:?}"),
            }
        }
        // The other one did the rest of the round by itself.
        assert_eq!(taken, Some(layout().pages()));
        let mark = world.replace(stalled);
        assert_eq!(mark.batch, BatchSeq(0));
        world.finish_round();
        world.assert_equal();
    }
}

#[test]
fn nothing_is_left_when_it_is_finished() {
    for make in KINDS {
        let mut world = World::new(make);
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("bound");
        let entered = world.runtime.handle().clone();
        let guard = entered.enter();
        let (session, epoch, token) = (SessionId(1), Epoch(0), Token(1));
        world.source.open(address, LaneHello { session, epoch, lane: LaneId(9), token });
        drop(guard);
        world.open_all(3);
        world.write_all(1);
        world.start_round(Pass::UntilEmpty);
        world.source.finish();
        world.destination.finish();
        // What opened a lane is dropped by its runtime, long before its deadline.
        world.runtime.block_on(async {
            while world.source.handles() > 1 {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(world.destination.handles(), 1);
        let World { source, destination, .. } = &world;
        assert!(source.reports().iter().all(|lane| !lane.open));
        assert!(destination.reports().iter().all(|lane| !lane.open));
    }
}
