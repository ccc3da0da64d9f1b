//! How lanes come to rest before a pause: nothing is in flight, and none is about to end. A lane
//! that ended while the guest stands still would have to be settled before it may run anywhere.

use whimbrel_page::PageCount;
use whimbrel_protocol::LaneId;
use whimbrel_protocol::ledger::{LedgerEvent, RoundTally};

use super::source::{Entry, LaneEvent, Shared, SourceLanes, Stage, State};

impl SourceLanes {
    /// Stops the lanes from taking, and from moving to other paths; [`LaneEvent::Quiesced`] tells
    /// when nothing is in flight and no lane that has ended waits to be closed. The next round lets
    /// them take again, and an event that was not told by then is not told.
    pub(crate) fn quiesce(&self, number: u32) {
        let mut state = self.shared.lock();
        (state.last, state.quiesce, state.drained) = (true, number, false);
        state.stay();
        state.ahead.end();
        state.ledger.end_round();
        state.ledger.await_drained(PageCount::ZERO);
        self.shared.announce(&mut state);
        state.wake_idle(usize::MAX);
    }
}

impl Shared {
    /// Tells the driver what has come about in the ledger.
    pub(super) fn announce(&self, state: &mut State) {
        let RoundTally { number, pages, .. } = state.ledger.tally();
        if let Some(due) = state.ahead.due(pages) {
            self.tell(LaneEvent::RoundDue(number, due));
        }
        while let Some(event) = state.ledger.poll() {
            match event {
                LedgerEvent::RoundTaken(tally) => self.tell(LaneEvent::RoundTaken(tally)),
                LedgerEvent::Drained => state.drained = true,
            }
        }
        if state.drained && !state.lanes.values().any(Entry::is_ending) {
            state.drained = false;
            self.tell(LaneEvent::Quiesced(state.quiesce));
        }
    }
}

impl State {
    /// Lanes that were to move and have not left yet stay where they are.
    fn stay(&mut self) {
        let staying = self.lanes.values_mut().filter(|entry| !entry.leaving);
        staying.for_each(|entry| entry.moving = false);
    }

    /// Whether the lane moves and is to end now: all it sent has landed, and it takes nothing more.
    pub(super) fn leaves(&mut self, lane: LaneId, in_flight: usize) -> bool {
        let Some(entry) = self.lanes.get_mut(&lane) else { return false };
        entry.leaving |= entry.moving && in_flight == 0;
        entry.leaving
    }
}

impl Entry {
    /// It ends, or has ended, and its account is open.
    const fn is_ending(&self) -> bool {
        match self.stage {
            Stage::Running => self.leaving,
            Stage::Ended => true,
            Stage::Opening | Stage::Closed => false,
        }
    }
}
