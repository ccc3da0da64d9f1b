//! A world that can be run again: what a seed made of it, and from what number its chance comes.

use std::fmt;

use crate::breach::Breach;
use crate::broken::Broken;
use crate::plan::Plan;
use crate::random::Random;
use crate::world::{Ending, World};

/// What makes one world, and always the same one.
#[derive(Clone, Debug)]
pub struct Case {
    pub(crate) plan: Plan,
    /// The seed of all chance while the world runs.
    pub(crate) stream: u64,
    pub(crate) broken: Option<Broken>,
}

/// How much there is to a case; less is easier to understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// What is to go wrong.
    pub faults: usize,
    /// Attempts to move the guest.
    pub attempts: u32,
    /// Lanes of a session.
    pub lanes: u16,
    /// Pages of the guest.
    pub pages: u64,
}

impl Case {
    /// The world of `seed`, with one law broken if that is wanted.
    #[must_use]
    pub fn new(seed: u64, broken: Option<Broken>) -> Self {
        let mut random = Random::new(seed);
        let mut plan = Plan::new(&mut random);
        if let Some(broken) = broken {
            plan.provoke(broken, &mut random);
        }
        Self { plan, stream: random.next(), broken }
    }

    /// The world at its beginning.
    #[must_use]
    pub fn world(&self) -> World {
        World::of(self.plan.clone(), self.stream, self.broken)
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// The first law that was broken.
    pub fn run(&self) -> Result<Ending, Breach> {
        self.world().run()
    }

    /// How much there is to it.
    #[must_use]
    pub fn size(&self) -> Size {
        Size {
            faults: self.plan.faults.len(),
            attempts: self.plan.attempts,
            lanes: self.plan.source.lanes,
            pages: self.plan.layout.pages().0,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { source, faults, .. } = &self.plan;
        let plan = &self.plan;
        let regions: Vec<u64> = plan.layout.regions().iter().map(|r| r.pages().0).collect();
        writeln!(f, "regions of {regions:?} pages, {} % touched", plan.touched)?;
        let (beat, set) = (plan.beat, plan.working_set);
        writeln!(f, "every {beat:?} the guest writes {} of {set} pages", plan.burst)?;
        writeln!(f, "  of these {} % back, locks: {}", plan.write_back, plan.locks)?;
        let (batch, window) = (plan.batch.0, plan.window);
        writeln!(f, "{} lanes, {window} batches of {batch} pages each", source.lanes)?;
        writeln!(f, "  late by {:?} µs, slow: {:?}", plan.lane_delay, plan.slow_lane)?;
        writeln!(f, "control late by {:?} µs, disk by {} µs", plan.link_delay, plan.fsync)?;
        writeln!(f, "{:?}, at most {} attempts", source.convergence, plan.attempts)?;
        writeln!(f, "verified by {:?}, which takes up to {} µs", source.verify, plan.sweep)?;
        for (trigger, fault) in faults {
            writeln!(f, "fault: {trigger:?}: {fault:?}")?;
        }
        match self.broken {
            Some(broken) => writeln!(f, "broken: {broken}"),
            None => Ok(()),
        }
    }
}
