//! The handing over of a guest, in every order of what happens.
//!
//! Two hosts, and a third for a second attempt; on each a guest process with the shipping machine
//! and an agent with its journal. What a process does with an action, what travels and what is
//! written are steps of their own, which may come in any order that keeps what the system keeps: a
//! connection delivers in order, hands do one thing after the other. Time is not a step but a
//! choice: a deadline passes where nothing else can happen, or, as a fault, at any moment.
//!
//! Not in here: how pages travel (that is [`super::pages`]); what the engine does with threads and
//! sockets.

mod agents;
mod attempt;
mod destination;
mod faults;
mod host;
mod laws;
mod mutant;
mod source;

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash as _, Hasher as _};
use std::rc::Rc;
use std::time::Duration;

use whimbrel_protocol::{
    Answer, DestinationEvent, Message, Now, Process, Question, SourceEvent, Standing, Term, Verify,
};

use self::host::{Cut, DestinationHost, End, Kept, SourceHost};
use super::digest::Digest;
use super::explore::Model;

pub use self::faults::Fault;
pub use self::host::Host;
pub use self::mutant::Mutant;

/// A question to an agent, or its answer on the way back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ask {
    pub(crate) asker: Host,
    pub(crate) question: Question,
    /// Whether the agent asks, for a process that is dead or in doubt.
    pub(crate) agent: bool,
    pub(crate) to: Host,
    pub(crate) term: Term,
    pub(crate) answer: Option<Answer>,
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asker, question, to, term, answer, .. } = self;
        let who = if self.agent { "'s agent" } else { "" };
        write!(f, "{asker:?}{who} asks {to:?} {question:?} under term {}", term.generation)?;
        answer.map_or(Ok(()), |answer| write!(f, ": {answer:?}"))
    }
}

/// A row of the law's table that was met: the question, how the record's term compares with the
/// term asked about and its standing, and what was known of the process.
pub type Row = (Question, Option<(Ordering, Standing)>, Process);

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A process hears what its hands have done.
    Told(Host),
    /// The hands of a process do the next thing.
    Job(Host),
    /// The source's lanes come to the end of what they are at.
    Pass,
    /// The source's attempt to connect comes to its end.
    Connected,
    /// The source hears the next message.
    HearA,
    /// A destination hears the next message of one of its connections.
    Hear(Host, usize),
    /// A lane's greeting is answered.
    OpenLane,
    /// A batch lands.
    Land(Host),
    /// A lane's thread at the destination ends.
    EndLane(Host),
    /// The source notices that its lane is gone.
    LaneGone,
    /// A side notices that its connection is gone.
    Notice(Host),
    /// A question arrives at an agent.
    Asked(Ask),
    /// An answer arrives.
    Answered(Ask),
    /// An agent is started again.
    AgentBack(Host),
    /// An agent asks about a guest in doubt.
    Settle(Ask),
    /// An agent refuses for a process that is dead.
    GiveUp(Host),
    /// An agent ends a process that has nothing any more.
    EndProcess(Host),
    /// A deadline passes.
    Tick(Host),
    /// A process that was stopped goes on.
    GoOn(Host),
    /// Something goes wrong.
    Fault(Fault),
}

/// Hosts, processes, agents and what is between them.
#[derive(Clone, Debug)]
pub struct Handover {
    pub(crate) a: Kept<SourceHost>,
    pub(crate) d: Vec<Kept<DestinationHost>>,
    pub(crate) asks: BTreeSet<Ask>,
    /// What the guest's hot page and its state are: another number whenever it has run on.
    pub(crate) truth: u8,
    /// How much may still go wrong.
    pub(crate) faults: u32,
    pub(crate) third_host: bool,
    pub(crate) verify: Verify,
    pub(crate) mutant: Option<Mutant>,
    /// The term that was said to be granted last.
    pub(crate) granted: Option<Term>,
    /// Whether the source has heard that the guest runs there.
    pub(crate) moved: bool,
    /// How much might go wrong when it began.
    pub(crate) planned: u32,
    /// Whether nothing goes wrong but that the source's process died when the destination had all
    /// of the guest.
    pub(crate) saved: bool,
    pub(crate) breach: Option<&'static str>,
    rows: Rc<RefCell<BTreeSet<Row>>>,
}

impl Handover {
    /// A guest that is about to be handed over, in a world where so much may go wrong.
    #[must_use]
    pub fn new(faults: u32) -> Self {
        Self::verified_by(Verify::Digest, faults)
    }

    /// The same, where both memories are verified in full while the guest stands still.
    #[must_use]
    pub fn verified_in_full(faults: u32) -> Self {
        Self::verified_by(Verify::Full, faults)
    }

    fn verified_by(verify: Verify, faults: u32) -> Self {
        let mut world = Self {
            a: attempt::source_host(verify).into(),
            d: vec![attempt::destination(Now::default(), 0).into()],
            asks: BTreeSet::new(),
            truth: 0,
            faults,
            third_host: false,
            verify,
            mutant: None,
            granted: None,
            moved: false,
            planned: faults,
            saved: false,
            breach: None,
            rows: Rc::default(),
        };
        world.poll_a();
        world.set_up();
        world
    }

    /// The same, where a page of the destination is not what was sent any more.
    #[must_use]
    pub fn with_rot(mut self) -> Self {
        self.faults += 1;
        self.take(Step::Fault(Fault::Rot(Host::B)));
        self
    }

    /// A guest that is about to be handed over to the third host. The second one has promised to
    /// take it and does not know that the source has given that attempt up.
    #[must_use]
    pub fn after_a_broken_promise(faults: u32) -> Self {
        let mut world = Self::new(3).with_third_host();
        while world.d[0].machine.phase() != "prepared" {
            world.go_on_with(|_| true);
        }
        world.take(Step::Fault(Fault::Break));
        world.take(Step::Fault(Fault::Cancel(Host::A)));
        while world.a.life.holds == host::Holds::Moving {
            world.go_on_with(|step| matches!(step, Step::Job(Host::A) | Step::Told(Host::A)));
        }
        world.take(Step::Fault(Fault::ThirdHost));
        Self { faults, planned: faults, ..world }
    }

    /// The next of these things happens.
    fn go_on_with(&mut self, which: impl Fn(&Step) -> bool) {
        let step = self.plain_steps().into_iter().find(which);
        self.take(step.expect("an attempt goes on by itself"));
    }

    /// The same, where the source may send the guest to a third host after a failed attempt.
    #[must_use]
    pub fn with_third_host(self) -> Self {
        Self { third_host: true, ..self }
    }

    /// The same, with a rule less.
    #[must_use]
    pub fn with_mutant(self, mutant: Mutant) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    /// The rows of the law's table that were met so far in this world and in what came of it.
    #[must_use]
    pub fn rows(&self) -> BTreeSet<Row> {
        self.rows.borrow().clone()
    }

    /// Greeting, plan and arming, one thing after the other, until a term is announced.
    fn set_up(&mut self) {
        let before = self.a.machine.term();
        let to = Host::DESTINATIONS[self.a.to];
        while self.a.machine.term() == before {
            self.go_on_with(|step| step.concerns(to));
        }
    }

    pub(crate) fn number(&self) -> u64 {
        let Self { a, d, asks, truth, faults, third_host, verify, .. } = self;
        let Self { mutant, granted, moved, saved, breach, .. } = self;
        a.machine.count(a.life.clock);
        a.count(a.life.clock);
        for there in d {
            there.machine.count(there.life.clock);
            there.count(there.life.clock);
        }
        let mut digest = Digest::default();
        (a, d, asks, truth, faults, third_host, verify).hash(&mut digest);
        (mutant, granted, moved, saved, breach).hash(&mut digest);
        digest.finish()
    }

    // --- what may happen --------------------------------------------------------------------

    /// All that may happen but for deadlines and processes that go on.
    fn plain_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        self.steps_of_source(&mut steps);
        for host in Host::DESTINATIONS.into_iter().take(self.d.len()) {
            self.steps_of_destination(host, &mut steps);
        }
        let asks = self.asks.iter().map(|ask| match ask.answer {
            None => Step::Asked(*ask),
            Some(_) => Step::Answered(*ask),
        });
        steps.extend(asks);
        for host in self.hosts() {
            self.steps_of_agent(host, &mut steps);
        }
        steps
    }

    fn steps_of_source(&self, steps: &mut Vec<Step>) {
        let a = &self.a;
        if !a.life.acts() {
            return;
        }
        let there = &self.d[a.to];
        if !a.inbox.is_empty() {
            steps.push(Step::Told(Host::A));
        }
        if !a.jobs.is_empty() {
            steps.push(Step::Job(Host::A));
        }
        if a.life.said.is_some() {
            return;
        }
        if self.passes() {
            steps.push(Step::Pass);
        }
        // A process that is stopped answers neither yes nor no.
        if !there.life.stopped {
            steps.extend(a.connecting.then_some(Step::Connected));
            steps.extend(a.opening.map(|_| Step::OpenLane));
        }
        if self.lane_is_gone() {
            steps.push(Step::LaneGone);
        }
        let Some(link) = there.links.iter().find(|link| link.source) else { return };
        if !link.to_source.is_empty() {
            steps.push(Step::HearA);
        } else if link.cut != Cut::Silent && (link.cut == Cut::Broken || link.end == End::Closed) {
            steps.push(Step::Notice(Host::A));
        }
    }

    fn steps_of_destination(&self, host: Host, steps: &mut Vec<Step>) {
        let there = &self.d[host.place()];
        if !there.life.acts() {
            return;
        }
        if !there.inbox.is_empty() {
            steps.push(Step::Told(host));
        }
        if !there.tasks.is_empty() {
            steps.push(Step::Job(host));
        }
        if there.life.said.is_some() {
            return;
        }
        if let Some(lane) = &there.lane {
            steps.extend((!lane.wire.is_empty()).then_some(Step::Land(host)));
            steps.extend(lane.closing.then_some(Step::EndLane(host)));
        }
        for (at, link) in there.links.iter().enumerate() {
            let gone = link.cut != Cut::Silent && (link.cut == Cut::Broken || !link.source);
            if link.end != End::Closed && !link.to_destination.is_empty() {
                steps.push(Step::Hear(host, at));
            } else if link.end == End::Held && gone {
                steps.push(Step::Notice(host));
            }
        }
    }

    fn steps_of_agent(&self, host: Host, steps: &mut Vec<Step>) {
        if !self.life(host).agent {
            return steps.push(Step::AgentBack(host));
        }
        if self.gives_up_alone(host) {
            steps.push(Step::GiveUp(host));
        }
        if self.is_idle(host) {
            steps.push(Step::EndProcess(host));
        }
        if let Some(ask) = self.settling(host) {
            let waits = self.asks.iter().any(|other| other.asker == host && other.agent);
            if !waits && self.asking_helps(ask) {
                steps.push(Step::Settle(ask));
            }
        }
    }

    // --- time -------------------------------------------------------------------------------

    /// When the machine of a host wants to be told of the time.
    pub(crate) fn deadline(&self, host: Host) -> Option<Now> {
        if !self.life(host).acts() || !self.life(host).drives() {
            return None;
        }
        match host {
            Host::A => self.a.machine.deadline(),
            host => self.d[host.place()].machine.deadline(),
        }
    }

    fn overdue(&self, host: Host) -> bool {
        self.deadline(host).is_some_and(|deadline| deadline <= self.life(host).clock)
    }

    /// Lets time pass up to the next whole unit at which something is due.
    pub(crate) fn tick(&mut self, host: Host) {
        let Some(Now(due)) = self.deadline(host) else { return };
        let unit = attempt::UNIT.as_nanos();
        let due = Duration::from_nanos((due.as_nanos().div_ceil(unit) * unit) as u64);
        let overdue = self.overdue(host);
        let healthy = self.is_heard(host);
        let life = self.life_mut(host);
        life.clock = life.clock.max(Now(due));
        match host {
            Host::A => {
                if healthy && !overdue {
                    self.feed_a(SourceEvent::Message(Message::Pong(0)));
                }
                self.feed_a(SourceEvent::Tick);
            }
            host => {
                if healthy && !overdue {
                    let ping = DestinationEvent::Message(Message::Ping(0));
                    self.feed_d(host.place(), ping);
                }
                self.feed_d(host.place(), DestinationEvent::Tick);
            }
        }
    }

    /// Whether the pings of the other side arrive, so that this one does not take it for dead.
    fn is_heard(&self, host: Host) -> bool {
        let place = if host == Host::A { self.a.to } else { host.place() };
        let there = &self.d[place];
        let whole =
            |link: &host::Link| link.source && link.end == End::Held && link.cut == Cut::Whole;
        let other = if host == Host::A { &there.life } else { &self.a.life };
        other.acts() && other.drives() && there.links.iter().any(whole)
    }
}

impl Step {
    /// Whether it belongs to an attempt to bring the guest to that host.
    fn concerns(self, to: Host) -> bool {
        match self {
            Self::Told(host) | Self::Job(host) => host == to || host == Host::A,
            Self::Hear(host, _) => host == to,
            Self::Pass | Self::Connected | Self::HearA | Self::OpenLane => true,
            _ => false,
        }
    }
}

impl Model for Handover {
    type Step = Step;

    fn digest(&self) -> u64 {
        self.number()
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = self.plain_steps();
        let still = steps.is_empty();
        let due = self.hosts().filter(|host| {
            if still { self.deadline(*host).is_some() } else { self.overdue(*host) }
        });
        steps.extend(due.map(Step::Tick));
        let stopped = self.hosts().filter(|host| self.life(*host).stopped);
        steps.extend(stopped.map(Step::GoOn));
        steps
    }

    fn faults(&self) -> Vec<Step> {
        self.possible_faults().into_iter().map(Step::Fault).collect()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Told(Host::A) => {
                if let Some(event) = self.a.inbox.pop_front() {
                    self.feed_a(event);
                }
            }
            Step::Told(host) => {
                if let Some(event) = self.d[host.place()].inbox.pop_front() {
                    self.feed_d(host.place(), event);
                }
            }
            Step::Job(Host::A) => self.job_a(),
            Step::Job(host) => self.task_d(host.place()),
            Step::Pass => self.pass_a(),
            Step::Connected => self.connected(),
            Step::HearA => self.hear_a(),
            Step::Hear(host, at) => self.hear_d(host.place(), at),
            Step::OpenLane => self.open_lane(),
            Step::Land(host) => self.land(host.place()),
            Step::EndLane(host) => self.end_lane(host.place()),
            Step::LaneGone => self.lose_lane(),
            Step::Notice(Host::A) => self.notice_a(),
            Step::Notice(host) => self.notice_d(host.place()),
            Step::Asked(ask) => self.asked(ask),
            Step::Answered(ask) => self.answered(ask, ask.answer.unwrap_or(Answer::Unknown)),
            Step::AgentBack(host) => self.life_mut(host).agent = true,
            Step::Settle(ask) => drop(self.asks.insert(ask)),
            Step::GiveUp(host) => self.give_up_alone(host),
            Step::EndProcess(host) => self.end_process(host),
            Step::Tick(host) => self.tick(host),
            Step::GoOn(host) => self.go_on(host),
            Step::Fault(fault) => self.go_wrong(fault),
        }
        self.settle_a();
        (0..self.d.len()).for_each(|place| self.settle_d(place));
    }

    fn check(&self) -> Result<(), String> {
        self.broken_law().map_or(Ok(()), Err)
    }

    fn end(&self) -> Result<&'static str, String> {
        self.judge()
    }
}
