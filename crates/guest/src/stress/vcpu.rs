//! The bodies of the guest's threads: the vCPUs that write, and the one that beats.

use std::time::Duration;

use super::content::Sequence;
use super::gate::Pass;
use super::heart::BEAT_PERIOD;
use super::pace::{Duty, Pacer, Step};
use super::plan::Plan;
use super::shared::Shared;

/// A vCPU thread: waits at the gate, works while it is open, and returns when the guest is gone
/// or turns out to have no vCPU `index`.
pub(crate) fn write_pages(shared: &Shared, index: usize) {
    let Some(plan) = first_entry(shared, index) else { return };
    let (now, vcpus) = (shared.now(), plan.schedules.len() as u64);
    let pacer = Pacer::new(plan.config.spec().rate, vcpus, now);
    let mut vcpu = Vcpu { shared, plan, index, pacer, duty: Duty::new(now) };
    while vcpu.turn() == Pass::Inside {}
}

/// The heartbeat thread.
pub(crate) fn beat(shared: &Shared) {
    let Some(plan) = first_entry(shared, 0) else { return };
    let now = shared.now();
    let mut beater = Beater { shared, plan, duty: Duty::new(now), next: now };
    if beater.turn() == Pass::Ended {
        return;
    }
    // The guest is alive: now there is time for the threads that it does not need.
    shared.gate.dismiss();
    while beater.turn() == Pass::Inside {}
}

/// Waits for the gate to open first: until then there may be no plan.
fn first_entry(shared: &Shared, rank: usize) -> Option<&Plan> {
    match shared.gate.first_enter(rank) {
        Pass::Ended => None,
        Pass::Inside => Some(shared.plan.get().expect("the gate opens when there is a plan")),
    }
}

struct Vcpu<'a> {
    shared: &'a Shared,
    plan: &'a Plan,
    index: usize,
    pacer: Pacer,
    duty: Duty,
}

impl Vcpu<'_> {
    fn turn(&mut self) -> Pass {
        let gate = &self.shared.gate;
        if !gate.is_open() {
            return gate.stand(Some(Duration::ZERO));
        }
        let now = self.shared.now();
        if let Some(until) = self.duty.stand_until(gate.throttle(), now) {
            let pass = gate.stand(Some(until - now));
            let woken = self.shared.now();
            self.pacer.stood(woken - now);
            self.duty.works(woken);
            return pass;
        }
        match self.pacer.step(now) {
            Step::Write(pages) => self.write(pages),
            Step::StandUntil(until) => {
                let until = until.min(self.duty.works_until(gate.throttle()));
                return gate.stand(Some(until.saturating_sub(now)));
            }
            Step::Idle => return gate.stand(None),
        }
        Pass::Inside
    }

    /// Writes `pages` pages, or fewer if the gate closes.
    fn write(&self, pages: u64) {
        let Self { shared, plan, index, .. } = *self;
        let writes = &shared.writes[index];
        let first = writes.done();
        for n in (first..first + pages).take_while(|_| shared.gate.is_open()) {
            let (name, sequence) = plan.write_at(index, n);
            shared.write_page(plan, name, sequence);
            writes.set(n + 1);
        }
    }
}

struct Beater<'a> {
    shared: &'a Shared,
    plan: &'a Plan,
    duty: Duty,
    next: Duration,
}

impl Beater<'_> {
    fn turn(&mut self) -> Pass {
        let (shared, gate) = (self.shared, &self.shared.gate);
        if !gate.is_open() {
            return gate.stand(Some(Duration::ZERO));
        }
        let now = shared.now();
        if let Some(until) = self.duty.stand_until(gate.throttle(), now) {
            let pass = gate.stand(Some(until - now));
            self.duty.works(shared.now());
            return pass;
        }
        let mut heart = shared.heart();
        let sequence = Sequence(heart.pulse().beats + 1);
        shared.write_page(self.plan, self.plan.heart_page(), sequence);
        heart.beat(shared.moment(), shared.operations());
        drop(heart);
        self.next = (self.next + BEAT_PERIOD).max(now);
        gate.stand(Some(self.next.saturating_sub(shared.now())))
    }
}
