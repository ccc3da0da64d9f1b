//! A migration that failed is tried again: with a new session and all pages once more, to the same
//! host or to another one, while what is left of the old attempt is still about.

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_protocol::{DestinationEvent, LaneId, Outcome};

use crate::broken::Broken;
use crate::destination::DestinationHost;
use crate::lanes::Lane;
use crate::plan::{HEALED, destination_options};
use crate::seen::Seen;
use crate::source::SourceHost;
use crate::step::Step;
use crate::world::World;

/// The destination of an attempt that is over for the source, and its ends of the lanes.
#[derive(Debug)]
pub(crate) struct Former {
    pub(crate) dst: DestinationHost,
    lanes: BTreeMap<LaneId, Lane>,
}

impl World {
    /// Does something in the attempt that it belongs to.
    pub(crate) fn in_attempt(&mut self, attempt: usize, work: impl FnOnce(&mut Self)) {
        if attempt == self.attempt {
            return work(self);
        }
        let current = std::mem::replace(&mut self.attempt, attempt);
        self.swap(attempt);
        work(self);
        self.swap(attempt);
        self.attempt = current;
    }

    fn swap(&mut self, attempt: usize) {
        let former = &mut self.former[attempt];
        std::mem::swap(&mut self.dst, &mut former.dst);
        std::mem::swap(&mut self.lanes, &mut former.lanes);
    }

    /// Some former destination looks at the clock.
    pub(crate) fn tick_former(&mut self) {
        let now = self.now;
        let due = |former: &Former| former.dst.deadline().is_some_and(|at| at <= now);
        if let Some(attempt) = self.former.iter().position(due) {
            self.saw(Seen::Leftover);
            self.in_attempt(attempt, |world| world.feed_destination(DestinationEvent::Tick));
        }
    }

    /// The source has the guest back: somebody may try again.
    pub(crate) fn maybe_again(&mut self) {
        self.src.again = self.attempt + 1 < self.plan.attempts as usize;
        if self.src.again {
            let delay = self.random.micros(100, 500_000);
            self.after(delay, Step::Again);
        }
    }

    pub(crate) fn again(&mut self) {
        if !self.src.alive || self.now >= HEALED {
            self.src.again = false;
            self.src.tracker.armed &= self.broken == Some(Broken::LeaveThrottled);
        } else if !self.src.running || self.src.journal.under_way().is_some() {
            self.after(Duration::from_millis(10), Step::Again);
        } else {
            self.begin_attempt();
        }
    }

    fn begin_attempt(&mut self) {
        let number = self.attempt + 1;
        self.plan.destination = destination_options(number as u32);
        // As an agent does it: the last term that was burned is what the record says.
        if let Some((_, term)) = self.src.journal.entry() {
            self.plan.subject.term = term;
        }
        let mut next = DestinationHost::new(&self.plan, self.now);
        next.journal.one_slot = self.broken == Some(Broken::OneSlot);
        let over = !self.dst.alive || self.dst.outcome.is_some();
        if over && self.dst.host_up && self.random.chance(50) {
            next.journal = std::mem::take(&mut self.dst.journal);
            self.saw(Seen::SameHostAgain);
        } else {
            self.saw(Seen::ThirdHost);
        }
        note!(self, "attempt {number}");
        let dst = std::mem::replace(&mut self.dst, next);
        let lanes = std::mem::take(&mut self.lanes);
        self.former.push(Former { dst, lanes });
        self.attempt = number;
        self.begin_again_at_source();
    }

    /// The guest process lives on; everything that belongs to one migration is made anew.
    fn begin_again_at_source(&mut self) {
        let mut fresh = SourceHost::new(&self.plan, self.now);
        let old = &mut self.src;
        std::mem::swap(&mut fresh.memory, &mut old.memory);
        std::mem::swap(&mut fresh.journal, &mut old.journal);
        if self.broken == Some(Broken::ResendDirtyOnly) {
            std::mem::swap(&mut fresh.tracker, &mut old.tracker);
        }
        (fresh.life, fresh.frozen) = (old.life + 1, old.frozen);
        (fresh.agent_out, fresh.slow_until) = (old.agent_out, old.slow_until);
        (fresh.sent, fresh.inbox) = (old.sent, old.inbox);
        self.src = fresh;
        self.poll_source();
    }

    /// Whether all former attempts have come to rest.
    pub(crate) fn former_settled(&self) -> bool {
        self.former.iter().all(|Former { dst, .. }| !dst.alive || dst.outcome.is_some())
    }

    /// A former destination that says something else than that it failed.
    pub(crate) fn former_disagrees(&self) -> Option<String> {
        let said = self.former.iter().filter(|former| former.dst.alive);
        let mut said = said.filter_map(|former| former.dst.outcome.as_ref());
        let other = said.find(|outcome| !matches!(outcome, Outcome::Aborted(_)))?;
        Some(format!("an attempt that is over ended at its destination: {other:?}"))
    }
}
