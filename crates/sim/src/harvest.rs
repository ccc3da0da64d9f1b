//! The source's hand on the dirty log: harvests when they are asked for, one made ahead while the
//! lanes take the last pages of a round, and looks that clear nothing.

use std::time::Duration;

use whimbrel_page::{PageCount, PageSet};
use whimbrel_protocol::{Harvest, Now, SourceEvent};

use crate::broken::Broken;
use crate::seen::Seen;
use crate::step::{Chore, Step};
use crate::world::World;

/// A harvest that was made ahead is used for so long.
const FRESH: Duration = Duration::from_millis(10);

/// What is made, or to be made, before anybody asks for it.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// How many pages of the round have to be taken before it is time.
    due: Option<PageCount>,
    /// The same for a look at what the round can leave.
    look: Option<PageCount>,
    /// What was harvested and not told yet, and when.
    made: Option<(PageSet, Duration)>,
}

impl Ahead {
    /// There is no round to harvest after.
    pub(crate) const fn end_round(&mut self) {
        (self.due, self.look) = (None, None);
    }

    /// What was made is in the ledger; nobody asks for it any more.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl World {
    /// A round of so many pages begins.
    pub(crate) fn harvest_ahead_of(&mut self, pages: PageCount) {
        let left = self.plan.ahead;
        let due = left.map(|left| PageCount(pages.0.saturating_sub(left).max(1)));
        self.src.ahead.due = due;
        self.src.ahead.look = due.map(|due| PageCount(due.0 / 2));
    }

    /// Begins the harvest for the next round when little is left of this one.
    pub(crate) fn look_ahead(&mut self) {
        let taken = self.src.ledger.tally().pages;
        if self.src.ahead.look.take_if(|due| taken >= *due).is_some() {
            self.chore(Chore::LeaveWritten, 500);
        }
        if self.src.ahead.due.take_if(|due| taken >= *due).is_some() {
            self.chore(Chore::HarvestAhead, 2_000);
        }
    }

    /// The round leaves to the next one what was written since the last harvest.
    pub(crate) fn leave_written(&mut self) {
        if self.src.ahead.made.is_none() {
            let dirty = self.src.tracker.peek();
            if !dirty.is_empty() {
                self.saw(Seen::Left);
            }
            self.src.ledger.written(&dirty);
        }
    }

    pub(crate) fn harvested_ahead(&mut self) {
        let dirty = self.harvest();
        self.src.ledger.harvested(&dirty);
        self.src.ahead.made = Some((dirty, self.now));
        self.saw(Seen::HarvestedAhead);
    }

    /// One that was made ahead will do, if that was not too long ago: the guest went on.
    pub(crate) fn harvest_for_round(&mut self) {
        let made = self.src.ahead.made.take();
        let dirty = match made {
            Some((dirty, at)) if self.now <= at + FRESH => dirty,
            Some((before, _)) => {
                self.saw(Seen::HarvestedAgain);
                let mut dirty = self.harvest();
                self.src.ledger.harvested(&dirty);
                dirty.union_with(&before);
                dirty
            }
            None => {
                let dirty = self.harvest();
                self.src.ledger.harvested(&dirty);
                dirty
            }
        };
        let harvest = self.harvest_of(&dirty);
        self.tell_source(SourceEvent::Harvested(harvest));
    }

    pub(crate) fn look(&mut self) {
        let dirty = self.src.tracker.peek();
        self.src.ledger.merge(&dirty);
        let look = self.harvest_of(&dirty);
        self.tell_source(SourceEvent::Looked(look));
    }

    fn harvest_of(&mut self, dirty: &PageSet) -> Harvest {
        let took = self.random.micros(5, 500);
        let (pending, written) = (self.src.ledger.pending(), dirty.count());
        let throughput = self.src.meter.read(Now(self.now));
        Harvest { pending, written, took, parked: took, throughput }
    }

    fn harvest(&mut self) -> PageSet {
        if self.broken != Some(Broken::ClearAfterReading) {
            return self.src.tracker.harvest();
        }
        let read = self.src.tracker.peek();
        let (life, delay) = (self.src.life, self.random.micros(5, 5_000));
        self.after(delay, Step::Done(life, Chore::Clear(read.clone())));
        read
    }
}
