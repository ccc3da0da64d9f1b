//! The guest's outside resources, a disk say: only one host may hold them (museum M4).

use std::time::Duration;

use whimbrel_protocol::Policy;

use crate::breach::Law;
use crate::broken::Broken;
use crate::laws::WAIT_MAX;
use crate::seen::Seen;
use crate::step::Step;
use crate::world::World;

/// Who holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Source,
    /// The destination of this attempt.
    Destination(usize),
}

/// How soon a source tries again to take them back.
pub(crate) const AGAIN: Duration = Duration::from_millis(10);
/// How long a guest that was not granted away may stand still, when nothing hangs: longer than a
/// destination that is cut off holds what it has taken.
const STAND_STILL_MAX: Duration = Duration::from_secs(6);

impl World {
    /// The paused source lets go of them.
    pub(crate) fn release_at_source(&mut self) {
        if self.lock == Some(Holder::Source) {
            self.lock = None;
        }
    }

    /// The destination of this attempt takes them; returns whether it could.
    pub(crate) fn acquire_at_destination(&mut self) -> bool {
        let own = Holder::Destination(self.attempt);
        if self.plan.locks && self.lock.is_none() {
            self.lock = Some(own);
        }
        !self.plan.locks || self.lock == Some(own)
    }

    /// It lets go of them, also by dying.
    pub(crate) fn release_at_destination(&mut self) {
        if self.lock == Some(Holder::Destination(self.attempt)) {
            self.lock = None;
        }
    }

    /// The source runs the guest on, once it has what it needs.
    pub(crate) fn resume(&mut self) {
        self.src.pausing = false;
        if !self.src.running && !self.src.resuming {
            self.src.resuming = true;
            self.saw(Seen::RanOn);
            self.reacquire();
        }
    }

    pub(crate) fn reacquire(&mut self) {
        if !self.src.resuming {
            return;
        }
        let careless = self.broken == Some(Broken::RunWithoutLocks);
        if self.plan.locks && !careless {
            if self.lock.is_some_and(|holder| holder != Holder::Source) {
                self.saw(Seen::WaitedForLocks);
                let life = self.src.life;
                return self.after(AGAIN, Step::Reacquire(life));
            }
            self.lock = Some(Holder::Source);
        }
        (self.src.resuming, self.src.running) = (false, true);
        (self.src.parked, self.src.run_on_by) = (None, None);
    }

    /// Who runs the guest holds them.
    pub(crate) fn without_locks(&self) -> Option<String> {
        let wrong = |runs: bool, holder: Holder| runs && self.lock != Some(holder);
        let here = wrong(self.src.running, Holder::Source);
        let there = wrong(self.dst.running, Holder::Destination(self.attempt));
        (self.plan.locks && (here || there))
            .then(|| format!("the guest runs, and its disk is held by {:?}", self.lock))
    }

    /// Before the grant the source runs its guest on when the pause has used up its budget.
    pub(crate) fn look_at_pause(&mut self) {
        let (src, options) = (&self.src, &self.plan.source);
        let waits = ["verifying", "sending the last pages", "switchover"];
        let paused = src.alive && src.parked.is_some() && !src.resuming;
        if !paused || !waits.contains(&src.machine.phase()) {
            return;
        }
        // Only the policy that accepts a long downtime is given the time for it, as it is forecast.
        let budget = match options.convergence.policy {
            Policy::SwitchOver => WAIT_MAX,
            _ => options.pause_budget.max(options.convergence.downtime_max * 2),
        };
        let (by, frozen) = (src.run_on_by.unwrap_or(self.now + budget), src.frozen);
        self.src.run_on_by = Some(by);
        if self.now > by.max(frozen) {
            self.breach(Law::StandStill, format!("the guest was to run on by {by:?}"));
        }
    }

    /// A guest that was not granted away does not stand still for long.
    pub(crate) fn look_at_stand_still(&mut self) {
        let granted = self.src.machine.granted() && self.src.outcome.is_none();
        let moved = self
            .src
            .outcome
            .as_ref()
            .is_some_and(|outcome| !matches!(outcome, whimbrel_protocol::Outcome::Aborted(_)));
        let Some(parked) = self.src.parked.filter(|_| self.src.alive && !granted && !moved) else {
            return;
        };
        let (src, dst) = (&self.src, &self.dst);
        let hung = [src.frozen, src.slow_until, dst.frozen, dst.slow_until];
        let since = hung.into_iter().fold(parked, Duration::max);
        if self.now > since + STAND_STILL_MAX {
            self.breach(Law::StandStill, "nobody runs the guest on");
        }
    }
}
