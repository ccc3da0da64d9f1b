//! Lanes that come to rest before a pause: none is about to end.

use whimbrel_protocol::ledger::Pass;

use super::super::{Due, LaneEvent};
use super::world::{KINDS, Tampered, World};

#[test]
fn a_lane_that_was_to_move_stays_when_a_pause_is_near() {
    for make in KINDS {
        let mut world = World::new(make);
        // What is sent on it is lost, so that it cannot leave before it is told to stay.
        let lane = world.open_with(Tampered::wrap(|_, bytes| {
            bytes.clear();
            None
        }));
        world.write_all(3);
        world.start_round(Pass::Once);
        while world.source.shared.lock().ledger.flight(lane).batches == 0 {
            std::thread::yield_now();
        }
        world.source.shared.lock().begin_move(lane);
        world.source.quiesce(1);
        assert!(!world.source.shared.lock().is_moving(lane));
        let ending = |event| matches!(event, LaneEvent::RoundDue(_, Due::Harvest));
        assert!(world.unheard().is_none_or(ending));
    }
}

#[test]
fn lanes_are_not_at_rest_before_one_that_has_ended_is_closed() {
    for make in KINDS {
        let mut world = World::new(make);
        let lane = world.open();
        world.open();
        world.source.shared.lock().begin_move(lane);
        let moved = world.hear();
        assert!(matches!(moved, LaneEvent::Failed(of, _) if of == lane), "{moved:?}");
        world.source.quiesce(7);
        assert!(world.unheard().is_none(), "its account is open: the destination has not spoken");
        world.replace(lane);
        let rest = world.hear();
        assert!(matches!(rest, LaneEvent::Quiesced(7)), "{rest:?}");
        // What is not waited for any more is not told.
        world.quiesce();
        world.finish_round();
    }
}
