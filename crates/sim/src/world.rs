//! The loop: the next step, and the laws after it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use whimbrel_protocol::{DestinationEvent, LaneId, Now, Outcome, SourceEvent, Verify};

use crate::attempts::Former;
use crate::breach::{Breach, Law};
use crate::broken::Broken;
use crate::destination::DestinationHost;
use crate::guest::Truth;
use crate::lander::Greeting;
use crate::lanes::Lane;
use crate::links::Network;
use crate::locks::Holder;
use crate::plan::{Fault, HEALED, PATIENCE, Plan, Side, Trigger};
use crate::queue::Queue;
use crate::random::Random;
use crate::seen::{Seen, Sights};
use crate::source::SourceHost;
use crate::step::Step;

/// Steps after which a world counts as one that never ends.
const STEPS_MAX: u64 = 400_000;

/// How a world ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// The guest has moved.
    Completed,
    /// The guest runs at the source.
    Aborted,
    /// Only a person can decide: a host restarted at the wrong moment.
    InDoubt,
    /// The process that had the guest died with it.
    Lost,
}

/// A source, its destinations one after the other, a network and a guest.
#[derive(Debug)]
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Duration,
    /// Each step belongs to an attempt.
    pub(crate) queue: Queue<(usize, Step)>,
    pub(crate) truth: Truth,
    pub(crate) next_burst: Duration,
    pub(crate) storm: bool,
    pub(crate) src: SourceHost,
    pub(crate) dst: DestinationHost,
    pub(crate) network: Network,
    pub(crate) lanes: BTreeMap<LaneId, Lane>,
    /// The attempt that `dst` and `lanes` belong to.
    pub(crate) attempt: usize,
    pub(crate) former: Vec<Former>,
    /// Who holds the guest's outside resources.
    pub(crate) lock: Option<Holder>,
    /// Every greeting that ever arrived at a destination.
    pub(crate) greetings: Vec<Greeting>,
    /// The next page that lands is garbled.
    pub(crate) garble: bool,
    /// Something was garbled, or has rotted.
    pub(crate) spoilt: bool,
    pub(crate) needs_person: bool,
    pub(crate) broken: Option<Broken>,
    /// Phases that the machines have left.
    pub(crate) changes: u32,
    phases: (&'static str, &'static str),
    /// Phases that a machine of a side has ever been in.
    pub(crate) entered: BTreeSet<(Side, &'static str)>,
    /// Events that came too late for their phase.
    pub(crate) strays: u64,
    pub(crate) sights: Sights,
    steps: u64,
    breach: Option<Breach>,
    trace: Option<Vec<String>>,
}

impl World {
    /// A world of a few pages in which only these things go wrong, each after so many steps.
    #[must_use]
    pub fn tiny(faults: &[(u64, Fault)]) -> Self {
        let faults = faults.iter().map(|(step, fault)| (Trigger::Step(*step), *fault));
        Self::of(Plan::tiny(faults.collect()), 0, None)
    }

    /// As [`World::tiny`], where both memories are verified in full.
    #[must_use]
    pub fn verified(faults: &[(u64, Fault)]) -> Self {
        let faults = faults.iter().map(|(step, fault)| (Trigger::Step(*step), *fault));
        let mut plan = Plan::tiny(faults.collect());
        plan.source.verify = Verify::Full;
        Self::of(plan, 0, None)
    }

    /// As [`World::tiny`], with a guest that always writes back what a page held before: the trap
    /// of law 4. `broken` is broken in it.
    #[must_use]
    pub fn seesaw(faults: &[(u64, Fault)], broken: Option<Broken>) -> Self {
        let faults = faults.iter().map(|(step, fault)| (Trigger::Step(*step), *fault));
        let mut plan = Plan::tiny(faults.collect());
        plan.write_back = 100;
        Self::of(plan, 0, broken)
    }

    pub(crate) fn of(plan: Plan, stream: u64, broken: Option<Broken>) -> Self {
        let mut world = Self {
            src: SourceHost::new(&plan, Duration::ZERO),
            dst: DestinationHost::new(&plan, Duration::ZERO),
            truth: Truth::new(&plan.layout),
            random: Random::new(stream),
            now: Duration::ZERO,
            queue: Queue::new(),
            next_burst: plan.beat,
            storm: false,
            network: Network::default(),
            lanes: BTreeMap::new(),
            attempt: 0,
            former: Vec::new(),
            lock: plan.locks.then_some(Holder::Source),
            greetings: Vec::new(),
            garble: false,
            spoilt: false,
            needs_person: false,
            broken,
            changes: 0,
            phases: ("", ""),
            entered: BTreeSet::new(),
            strays: 0,
            sights: Sights::new(),
            steps: 0,
            breach: None,
            trace: None,
            plan,
        };
        if broken == Some(Broken::OneSlot) {
            (world.src.journal.one_slot, world.dst.journal.one_slot) = (true, true);
        }
        world.fill_guest();
        world.plan_faults();
        world
    }

    /// Keeps a trace of everything that happens from now on.
    pub fn keep_trace(&mut self) {
        self.trace = Some(Vec::new());
    }

    /// What happened, if it was to be kept.
    #[must_use]
    pub fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or_default()
    }

    /// How many steps it took, and how many events came too late for their phase.
    #[must_use]
    pub const fn counts(&self) -> (u64, u64) {
        (self.steps, self.strays)
    }

    /// What came about, and how often.
    #[must_use]
    pub const fn sights(&self) -> &Sights {
        &self.sights
    }

    /// What each side says became of the migration, as far as it lives to say it.
    #[must_use]
    pub fn outcomes(&self) -> (Option<&Outcome>, Option<&Outcome>) {
        let source = self.src.outcome.as_ref().filter(|_| self.src.alive);
        (source, self.dst.outcome.as_ref().filter(|_| self.dst.alive))
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first law that was broken.
    pub fn run(&mut self) -> Result<Ending, Breach> {
        self.poll_source();
        while self.breach.is_none() && !self.settled() {
            self.step();
            self.look_at_laws();
        }
        self.breach.clone().map_or_else(|| self.judge_end(), Err)
    }

    fn step(&mut self) {
        self.steps += 1;
        let ticks = [self.source_deadline(), self.destination_deadline()];
        let former = self.former.iter().filter_map(|former| former.dst.deadline()).min();
        let due = ticks.into_iter().chain([self.queue.next_at(), former]).flatten().min();
        let Some(due) = due else {
            return self.breach(Law::Ends, "nothing is due, and nothing has ended");
        };
        if self.steps > STEPS_MAX || due > HEALED + PATIENCE {
            let phases = (self.src.machine.phase(), self.dst.machine.phase());
            return self.breach(Law::Ends, format!("it does not end: {phases:?}"));
        }
        if self.next_burst < due {
            self.now = self.next_burst;
            return self.burst();
        }
        self.now = self.now.max(due);
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= self.now);
        if is_due(self.queue.next_at()) {
            let (_, (attempt, step)) = self.queue.pop().expect("as looked at");
            self.happen_in(attempt, step);
        } else if is_due(self.source_deadline()) {
            self.feed_source(SourceEvent::Tick);
        } else if is_due(self.destination_deadline()) {
            self.feed_destination(DestinationEvent::Tick);
        } else {
            self.tick_former();
        }
        self.look_at_phases();
        self.stepped(self.steps);
    }

    /// When the source looks at the clock.
    fn source_deadline(&self) -> Option<Duration> {
        let deaf = match self.broken {
            Some(Broken::NoClock) => true,
            Some(Broken::IgnorePauseBudget) => self.src.run_on_by.is_some(),
            _ => false,
        };
        let looks = self.src.alive && !deaf;
        let deadline = self.src.machine.deadline().filter(|_| looks);
        deadline.map(|Now(at)| at.max(self.src.frozen))
    }

    fn destination_deadline(&self) -> Option<Duration> {
        self.dst.deadline()
    }

    fn look_at_phases(&mut self) {
        let phases = (self.src.machine.phase(), self.dst.machine.phase());
        if phases != self.phases {
            self.phases = phases;
            self.phase_changed();
        }
    }

    /// A side that stands still does nothing before it goes on.
    fn happen_in(&mut self, attempt: usize, step: Step) {
        // What goes wrong goes wrong with the attempt that is being made.
        let attempt = if matches!(step, Step::Fault(_)) { self.attempt } else { attempt };
        self.in_attempt(attempt, |world| {
            let frozen = match step.side() {
                Some(Side::Source) => world.src.frozen,
                Some(Side::Destination) => world.dst.frozen,
                None => Duration::ZERO,
            };
            if frozen > world.now {
                world.queue.push(frozen, (attempt, step));
            } else {
                world.happen(step);
            }
        });
    }

    fn happen(&mut self, step: Step) {
        match step {
            Step::Source(life, event) if life == self.src.life => self.feed_source(event),
            Step::Destination(life, event) if life == self.dst.life => self.feed_destination(event),
            Step::Swept(life, term) if life == self.dst.life => self.swept(term),
            Step::Connected(life) if life == self.src.life => self.connected(),
            Step::Frame(link, to, body) => self.frame(link, to, &body),
            Step::LinkGone(link, side) => self.link_gone(link, side),
            Step::Done(life, chore) if life == self.src.life => self.chore_done(chore),
            Step::Written(life, side) if life == self.life(side) => self.written(side),
            Step::Reacquire(life) if life == self.src.life => self.reacquire(),
            Step::Question(asker, term) => self.question(asker, term),
            Step::Answer(asker, term, answer) => self.answer(asker, term, answer),
            Step::Doubt => self.doubt(),
            Step::Again => self.again(),
            Step::Fault(fault) => self.fault(fault),
            Step::Mend(fault) => self.mend(fault),
            Step::Source(..) | Step::Destination(..) | Step::Connected(_) => {}
            Step::Done(..) | Step::Written(..) | Step::Reacquire(_) | Step::Swept(..) => {}
            of_a_lane => self.happen_on_lane(of_a_lane),
        }
    }

    fn happen_on_lane(&mut self, step: Step) {
        match step {
            Step::LaneHello(life, hello) if life == self.src.life => self.lane_hello(&hello),
            Step::LaneAnswer(life, lane, admitted) if life == self.src.life => {
                self.lane_answered(lane, admitted);
            }
            Step::LaneLate(life, lane) if life == self.src.life => self.lane_late(lane),
            Step::Work(lane) => self.work(lane),
            Step::Arrive(lane) => self.arrive(lane),
            Step::Land(lane) => self.land(lane),
            Step::Ack(lane, landed, sum) => self.acked(lane, landed, sum),
            Step::Watch(lane) => self.watch(lane),
            Step::LaneGone(lane, side) => self.lane_gone(lane, side),
            Step::ThreadEnds(lane) => self.thread_ends(lane),
            _ => {}
        }
    }

    pub(crate) fn after(&mut self, delay: Duration, step: Step) {
        self.at(self.now + delay, step);
    }

    pub(crate) fn at(&mut self, at: Duration, step: Step) {
        self.queue.push(at, (self.attempt, step));
    }

    pub(crate) fn breach(&mut self, law: Law, what: impl Into<String>) {
        let breach = Breach::new(law, what);
        note!(self, "BREACH {breach}");
        self.breach.get_or_insert(breach);
    }

    pub(crate) fn saw(&mut self, sight: Seen) {
        *self.sights.entry(sight).or_insert(0) += 1;
    }

    /// Adds a line to the trace, if one is kept.
    pub(crate) fn add_note(&mut self, line: &str) {
        let (now, attempt) = (self.now.as_secs_f64(), self.attempt);
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now:>12.6} {attempt} {line}"));
        }
    }

    pub(crate) const fn traced(&self) -> bool {
        self.trace.is_some()
    }
}
