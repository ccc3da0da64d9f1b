//! The loop: the next step, and the laws after it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use whimbrel_page::PageSet;
use whimbrel_protocol::{DestinationEvent, LaneId, Now, Outcome, SourceEvent};

use crate::broken::Broken;
use crate::destination::DestinationHost;
use crate::guest::Truth;
use crate::lanes::Lane;
use crate::links::Network;
use crate::memory::Memory;
use crate::plan::{Fault, HEALED, PATIENCE, Plan, Trigger};
use crate::queue::Queue;
use crate::random::Random;
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

/// A law that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach(pub(crate) String);

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Two hosts, a network and a guest, made from one seed.
#[derive(Debug)]
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) now: Duration,
    pub(crate) queue: Queue<Step>,
    pub(crate) truth: Truth,
    pub(crate) next_burst: Duration,
    pub(crate) storm: bool,
    pub(crate) src: SourceHost,
    pub(crate) dst: DestinationHost,
    pub(crate) network: Network,
    pub(crate) lanes: BTreeMap<LaneId, Lane>,
    /// The next page that lands is garbled.
    pub(crate) garble: bool,
    /// Pages that were made to differ.
    pub(crate) rotten: PageSet,
    pub(crate) needs_person: bool,
    pub(crate) broken: Option<Broken>,
    /// Phases that the machines have left.
    pub(crate) changes: u32,
    phases: (&'static str, &'static str),
    /// Events that came too late for their phase.
    pub(crate) strays: u64,
    steps: u64,
    breach: Option<Breach>,
    trace: Option<Vec<String>>,
}

impl World {
    /// The world of `seed`, with one law broken if that is wanted.
    #[must_use]
    pub fn new(seed: u64, broken: Option<Broken>) -> Self {
        let mut random = Random::new(seed);
        let mut plan = Plan::new(&mut random);
        if let Some(broken) = broken {
            plan.provoke(broken, &mut random);
        }
        Self::of(plan, random, broken)
    }

    /// A world of a few pages in which only these things go wrong, each after so many steps.
    #[must_use]
    pub fn tiny(faults: &[(u64, Fault)]) -> Self {
        let faults = faults.iter().map(|(step, fault)| (Trigger::Step(*step), *fault));
        Self::of(Plan::tiny(faults.collect()), Random::new(0), None)
    }

    fn of(plan: Plan, random: Random, broken: Option<Broken>) -> Self {
        let truth = Truth {
            memory: Memory::new(&plan.layout),
            bursts: 0,
            writes: 0,
            touched: PageSet::new(&plan.layout),
        };
        let mut world = Self {
            src: SourceHost::new(&plan),
            dst: DestinationHost::new(&plan),
            rotten: PageSet::new(&plan.layout),
            random,
            now: Duration::ZERO,
            queue: Queue::new(),
            truth,
            next_burst: plan.beat,
            storm: false,
            network: Network::default(),
            lanes: BTreeMap::new(),
            garble: false,
            needs_person: false,
            broken,
            changes: 0,
            phases: ("", ""),
            strays: 0,
            steps: 0,
            breach: None,
            trace: None,
            plan,
        };
        world.fill_guest();
        world.plan_faults();
        world
    }

    /// Keeps a trace of everything that happens from now on.
    pub fn keep_trace(&mut self) {
        let plan = format!("{:#?}", self.plan);
        self.trace = Some(vec![plan]);
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

    /// What each side says became of the migration, as far as it lives to say it.
    #[must_use]
    pub fn outcomes(&self) -> (Option<&Outcome>, Option<&Outcome>) {
        let source = self.src.outcome.as_ref().filter(|_| self.src.alive);
        (source, self.dst.outcome.as_ref().filter(|_| self.dst.alive))
    }

    /// Whether anything was to go wrong in this world.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        !self.plan.faults.is_empty()
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
        let deadlines = [self.source_deadline(), self.destination_deadline()];
        let due = deadlines.into_iter().chain([self.queue.next_at()]).flatten().min();
        let Some(due) = due else {
            return self.breach("nothing is due, and nothing has ended".into());
        };
        if self.steps > STEPS_MAX || due > HEALED + PATIENCE {
            let phases = (self.src.machine.phase(), self.dst.machine.phase());
            return self.breach(format!("it does not end: {phases:?}"));
        }
        if self.next_burst < due {
            self.now = self.next_burst;
            return self.burst();
        }
        self.now = self.now.max(due);
        if self.queue.next_at().is_some_and(|at| at <= self.now) {
            let (_, step) = self.queue.pop().expect("as looked at");
            self.happen(step);
        } else if self.source_deadline().is_some_and(|at| at <= self.now) {
            self.feed_source(SourceEvent::Tick);
        } else {
            self.feed_destination(DestinationEvent::Tick);
        }
        self.look_at_phases();
        self.stepped(self.steps);
    }

    fn source_deadline(&self) -> Option<Duration> {
        let deadline = self.src.machine.deadline().filter(|_| self.src.alive);
        deadline.map(|Now(at)| at)
    }

    fn destination_deadline(&self) -> Option<Duration> {
        let deadline = self.dst.machine.deadline().filter(|_| self.dst.alive);
        deadline.map(|Now(at)| at)
    }

    fn look_at_phases(&mut self) {
        let phases = (self.src.machine.phase(), self.dst.machine.phase());
        if phases != self.phases {
            self.phases = phases;
            self.phase_changed();
        }
    }

    fn happen(&mut self, step: Step) {
        match step {
            Step::Source(life, event) if life == self.src.life => self.feed_source(event),
            Step::Destination(life, event) if life == self.dst.life => self.feed_destination(event),
            Step::Connected(life) if life == self.src.life => self.connected(),
            Step::Frame(link, to, body) => self.frame(link, to, &body),
            Step::LinkGone(link, side) => self.link_gone(link, side),
            Step::Done(life, chore) if life == self.src.life => self.chore_done(chore),
            Step::Written(life, side) if life == self.life(side) => self.written(side),
            Step::Question(asker, term) => self.question(asker, term),
            Step::Answer(asker, term, answer) => self.answer(asker, term, answer),
            Step::Doubt => self.doubt(),
            Step::Fault(fault) => self.fault(fault),
            Step::Mend(fault) => self.mend(fault),
            Step::Source(..) | Step::Destination(..) | Step::Connected(_) => {}
            Step::Done(..) | Step::Written(..) => {}
            of_a_lane => self.happen_on_lane(of_a_lane),
        }
    }

    fn happen_on_lane(&mut self, step: Step) {
        match step {
            Step::LaneHello(life, ticket, epoch) if life == self.src.life => {
                self.lane_hello(ticket, epoch);
            }
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
        self.queue.push(self.now + delay, step);
    }

    pub(crate) fn breach(&mut self, what: String) {
        note!(self, "BREACH {what}");
        self.breach.get_or_insert(Breach(what));
    }

    /// Adds a line to the trace, if one is kept.
    pub(crate) fn add_note(&mut self, line: &str) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12.6} {line}", self.now.as_secs_f64()));
        }
    }

    pub(crate) const fn traced(&self) -> bool {
        self.trace.is_some()
    }
}
