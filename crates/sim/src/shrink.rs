//! Makes a case that breaks a law smaller, for as long as it still breaks that law.
//!
//! Whatever is taken away changes all chance that comes after it, so each smaller case is tried
//! with several streams of chance. The result is the same every time.

use std::time::Duration;

use whimbrel_page::{Layout, PageCount, RegionLayout};
use whimbrel_protocol::Verify;

use crate::breach::{Breach, Law};
use crate::case::Case;
use crate::plan::{Plan, Trigger};

/// Streams of chance that a smaller case is tried with, besides its own.
const STREAMS: u64 = 12;
/// Worlds after which what was found has to do.
const RUNS_MAX: u64 = 6_000;

/// The smallest case that was found.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// It breaks the same law.
    pub case: Case,
    /// And this is how.
    pub breach: Breach,
    /// Worlds that were run for it.
    pub runs: u64,
}

impl Case {
    /// Drops faults, shortens them, and takes pages, lanes and attempts away while the same law is
    /// still broken. Nothing if no law is broken in the first place.
    #[must_use]
    pub fn shrink(&self) -> Option<Shrunk> {
        let breach = self.run().err()?;
        let law = breach.law;
        let mut smallest = Shrunk { case: self.clone(), breach, runs: 1 };
        while let Some(next) = smallest.smaller(law) {
            smallest = next;
        }
        Some(smallest)
    }
}

impl Shrunk {
    fn smaller(&self, law: Law) -> Option<Self> {
        let mut runs = self.runs;
        for plan in smaller_plans(&self.case.plan) {
            for stream in std::iter::once(self.case.stream).chain(0..STREAMS) {
                if runs >= RUNS_MAX {
                    return None;
                }
                runs += 1;
                let case = Case { plan: plan.clone(), stream, broken: self.case.broken };
                if let Some(breach) = case.run().err().filter(|breach| breach.law == law) {
                    return Some(Self { case, breach, runs });
                }
            }
        }
        None
    }
}

/// Plans that are smaller in one way each, the best first.
fn smaller_plans(plan: &Plan) -> Vec<Plan> {
    // Looks and harvests ahead shift everything after them: away with them before the rest.
    let calm = plan.ahead.map(|_| Plan { ahead: None, ..plan.clone() });
    let mut plans: Vec<_> = calm.into_iter().collect();
    // So does a verification, with pauses that find something.
    if plan.source.verify == Verify::Full {
        let mut quick = plan.clone();
        quick.source.verify = Verify::Digest;
        plans.push(quick);
    }
    plans.extend(fewer_faults(plan));
    let mut add = |change: &dyn Fn(&mut Plan) -> bool| {
        let mut smaller = plan.clone();
        if change(&mut smaller) {
            plans.push(smaller);
        }
    };
    add(&|plan| lower(&mut plan.attempts, 1));
    add(&|plan| lower(&mut plan.source.lanes, 1));
    add(&|plan| plan.source.lanes > 1 && lower(&mut plan.source.lanes, 2));
    add(&|plan| {
        let pages = plan.layout.pages().0;
        resize(plan, pages.div_ceil(2))
    });
    add(&|plan| {
        let pages = plan.layout.pages().0;
        resize(plan, pages - 1)
    });
    add(&|plan| lower(&mut plan.burst, 0));
    add(&|plan| lower(&mut plan.burst, 1));
    add(&|plan| lower(&mut plan.write_back, 0));
    add(&|plan| std::mem::take(&mut plan.locks));
    add(&|plan| plan.slow_lane.take().is_some());
    add(&|plan| lower(&mut plan.window, 1));
    add(&|plan| lower(&mut plan.batch, PageCount(1)));
    add(&|plan| lower(&mut plan.fsync, 200));
    add(&|plan| lower(&mut plan.link_delay, (100, 100)));
    add(&|plan| lower(&mut plan.lane_delay, (100, 100)));
    plans.extend(simpler_faults(plan));
    plans
}

fn lower<T: PartialOrd>(value: &mut T, to: T) -> bool {
    let is = *value > to;
    if is {
        *value = to;
    }
    is
}

/// One region of so many pages.
fn resize(plan: &mut Plan, pages: u64) -> bool {
    if pages == 0 || (pages == plan.layout.pages().0) {
        return false;
    }
    let id = plan.layout.regions()[0].id;
    let region = RegionLayout { id, size: PageCount(pages).bytes() };
    plan.layout = Layout::new(vec![region]).expect("a small layout");
    plan.subject.layout = plan.layout.clone();
    plan.working_set = plan.working_set.min(pages);
    true
}

fn fewer_faults(plan: &Plan) -> Vec<Plan> {
    let without = |gone: std::ops::Range<usize>| {
        let mut smaller = plan.clone();
        smaller.faults.drain(gone);
        smaller
    };
    let count = plan.faults.len();
    let mut plans = Vec::new();
    if count > 1 {
        plans.extend([without(0..count), without(0..count / 2), without(count / 2..count)]);
    }
    plans.extend((0..count).map(|at| without(at..at + 1)));
    plans
}

fn simpler_faults(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    for at in 0..plan.faults.len() {
        let (trigger, fault) = plan.faults[at];
        let sooner = match trigger {
            Trigger::Change(change, delay) if delay > Duration::ZERO => {
                Some(Trigger::Change(change, Duration::ZERO))
            }
            Trigger::Enter(side, phase, delay) if delay > Duration::ZERO => {
                Some(Trigger::Enter(side, phase, Duration::ZERO))
            }
            _ => None,
        };
        let shorter = fault.shorter().filter(|shorter| *shorter != fault);
        let changed = [sooner.map(|at| (at, fault)), shorter.map(|fault| (trigger, fault))];
        for change in changed.into_iter().flatten() {
            let mut simpler = plan.clone();
            simpler.faults[at] = change;
            plans.push(simpler);
        }
    }
    plans
}
