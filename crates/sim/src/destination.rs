//! The destination's hand: carries out what the machine wants, and tells it what came of it.

use std::time::Duration;

use whimbrel_page::{PageCount, PageSet};
use whimbrel_protocol::{
    BatchSeq, Destination, DestinationAction, DestinationEvent, Failure, Fault, LaneId, Message,
    Now, Outcome, Process, Standing, Sums, Term, Verify,
};

use crate::breach::Law;
use crate::broken::Broken;
use crate::journal::Journal;
use crate::lander::Stage;
use crate::lanes::Lane;
use crate::memory::{Landing, leaf_of};
use crate::plan::{Plan, Side};
use crate::seen::Seen;
use crate::step::{Life, LinkId, Step};
use crate::world::World;

/// Everything on the destination's host.
#[derive(Debug)]
pub(crate) struct DestinationHost {
    pub(crate) machine: Destination,
    pub(crate) landing: Landing,
    pub(crate) journal: Journal,
    pub(crate) running: bool,
    pub(crate) link: Option<LinkId>,
    pub(crate) alive: bool,
    pub(crate) host_up: bool,
    pub(crate) process: Process,
    pub(crate) life: Life,
    pub(crate) outcome: Option<Outcome>,
    /// What has to land before the machine is told.
    pub(crate) awaited: Option<(Term, Vec<(LaneId, BatchSeq)>)>,
    /// The guest will not run when it is told to.
    pub(crate) no_run: bool,
    /// When the last event that was told arrives.
    pub(crate) inbox: Duration,
    /// Until when the process stands still.
    pub(crate) frozen: Duration,
    /// Until when nothing that it asks of its guest is done.
    pub(crate) slow_until: Duration,
    /// Until when the agent is down.
    pub(crate) agent_out: Duration,
    /// Pages that were made to differ.
    pub(crate) rotten: PageSet,
    /// The number of the last batch in the order of sending that has landed.
    pub(crate) landed_last: u64,
    /// The machine as it was before it let the last lane in, for a door that forgets.
    pub(crate) forgetful: Option<Destination>,
    /// Nothing is being written in place since a verification began.
    pub(crate) verifying: bool,
    /// The term for which the memory has not been read yet, and is to be.
    pub(crate) unswept: Option<Term>,
    /// The state that the parked guest has taken.
    state: Option<u64>,
}

impl DestinationHost {
    pub(crate) fn new(plan: &Plan, now: Duration) -> Self {
        Self {
            machine: Destination::new(Now(now), plan.destination.clone()),
            landing: Landing::new(&plan.layout),
            journal: Journal::default(),
            running: false,
            link: None,
            alive: true,
            host_up: true,
            process: Process::Alive,
            life: 0,
            outcome: None,
            awaited: None,
            no_run: false,
            inbox: Duration::ZERO,
            frozen: Duration::ZERO,
            slow_until: Duration::ZERO,
            agent_out: Duration::ZERO,
            rotten: PageSet::new(&plan.layout),
            landed_last: 0,
            forgetful: None,
            verifying: false,
            unswept: None,
            state: None,
        }
    }

    /// When it looks at the clock.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let deadline = self.machine.deadline().filter(|_| self.alive);
        deadline.map(|Now(at)| at.max(self.frozen))
    }
}

impl World {
    /// Puts an event into the destination's inbox, behind what is there.
    pub(crate) fn tell_destination(&mut self, event: DestinationEvent) {
        self.tell_destination_in(Duration::ZERO, event);
    }

    fn tell_destination_in(&mut self, delay: Duration, event: DestinationEvent) {
        let at = self.now + delay + self.random.micros(0, 100);
        self.dst.inbox = self.dst.inbox.max(at);
        self.at(self.dst.inbox, Step::Destination(self.dst.life, event));
    }

    /// Hands an event to the machine, and carries out what follows.
    pub(crate) fn feed_destination(&mut self, event: DestinationEvent) {
        if !self.dst.alive {
            return;
        }
        note!(self, "destination [{}] <- {event:?}", self.dst.machine.phase());
        let fed = self.dst.machine.handle(Now(self.now), event);
        self.judge(Side::Destination, fed);
        self.poll_destination();
    }

    pub(crate) fn poll_destination(&mut self) {
        while let Some(action) = self.dst.machine.poll() {
            note!(self, "destination -> {action:?}");
            self.act_for_destination(action);
        }
    }

    fn act_for_destination(&mut self, action: DestinationAction) {
        let took = self.random.micros(1, 20_000);
        let took = took.max(self.dst.slow_until.saturating_sub(self.now));
        let mute = self.broken == Some(Broken::NeverAskAgain);
        match action {
            DestinationAction::Ask(_) if mute => {}
            DestinationAction::Send(message) => self.send(Side::Destination, &message),
            DestinationAction::Hangup => self.hang_up(Side::Destination),
            DestinationAction::Reserve(_) => {
                self.tell_destination_in(took, DestinationEvent::Reserved);
                self.digested();
            }
            DestinationAction::CloseLane(lane) => self.close_lander(lane),
            DestinationAction::Create => self.tell_destination_in(took, DestinationEvent::Created),
            DestinationAction::AwaitCounts(term, counts) => {
                self.dst.awaited = Some((term, counts));
                self.dst.unswept = Some(term);
                self.look_at_counts();
            }
            DestinationAction::Verify(term) => self.verify_destination(term),
            DestinationAction::Load(term, state) => self.load(took, term, &state),
            DestinationAction::Run(term) => self.run_at_destination(term),
            DestinationAction::SendSums => self.send_sums(),
            DestinationAction::Record(standing, term) => {
                self.record(Side::Destination, (standing, term));
            }
            DestinationAction::Ask(term) => self.ask(Side::Destination, term),
            DestinationAction::Release => self.release_at_destination(),
            DestinationAction::Say(_) => {}
            DestinationAction::Finish(outcome) => {
                // In doubt it is not known whether the guest runs with them.
                if matches!(outcome, Outcome::Aborted(_)) {
                    self.release_at_destination();
                }
                self.dst.outcome = Some(outcome);
                self.settle_destination();
            }
        }
    }

    /// A guest of which it was not known whether it runs has answered by now, and the record says
    /// which it is: as the engine's hands do in the end, after what they were still writing.
    fn settle_destination(&mut self) {
        let Some(Outcome::InDoubt { term, why }) = &self.dst.outcome else { return };
        if self.dst.journal.under_way().is_some() {
            return;
        }
        let (term, why) = (*term, why.clone());
        let standing = if self.dst.running { Standing::Owner } else { Standing::Refused };
        if !self.dst.running {
            self.release_at_destination();
        }
        if !self.dst.journal.full {
            self.dst.journal.put((standing, term));
        }
        self.dst.outcome = Some(match self.dst.running {
            true => Outcome::Completed { term },
            false => Outcome::Aborted(Failure::new(Fault::Guest, why)),
        });
    }

    /// How long it takes to read the memory, as the source is told.
    fn digested(&mut self) {
        if self.plan.source.verify == Verify::Full {
            let took = self.random.micros(1, self.plan.sweep);
            let memory = self.plan.layout.bytes();
            self.tell_destination(DestinationEvent::Digested(memory, took));
        }
    }

    /// The memory is read, which takes a while.
    fn verify_destination(&mut self, term: Term) {
        let lands = |lane: &Lane| matches!(lane.lander.stage, Stage::Landing(_));
        self.dst.verifying = !self.lanes.values().any(lands);
        let (took, life) = (self.random.micros(1, self.plan.sweep), self.dst.life);
        let took = took.max(self.dst.slow_until.saturating_sub(self.now));
        self.after(took, Step::Swept(life, term));
    }

    /// What is known of each page is what was found in it, unless something was written meanwhile:
    /// then nobody waits for it any more.
    pub(crate) fn swept(&mut self, term: Term) {
        self.dst.unswept.take_if(|unswept| *unswept == term);
        let whole = std::mem::take(&mut self.dst.verifying);
        if whole && self.broken != Some(Broken::SkipVerifyThere) {
            self.know_what_is_there();
        }
        let mut root = self.dst.landing.table.root();
        if !whole {
            root.unknown = root.unknown.max(PageCount(1));
        }
        self.digested();
        self.tell_destination(DestinationEvent::Verified(term, root));
    }

    fn know_what_is_there(&mut self) {
        let Landing { memory, table } = &mut self.dst.landing;
        let mut turned = false;
        for place @ (region, page) in memory.places() {
            let found = leaf_of(memory.get(place));
            turned |= !table.get(region, page).agrees(found);
            table.set(region, page, found);
        }
        if turned {
            self.saw(Seen::Turned);
        }
    }

    fn load(&mut self, took: Duration, term: Term, state: &[u8]) {
        match state.try_into() {
            Ok(bytes) => self.dst.state = Some(u64::from_le_bytes(bytes)),
            Err(_) => return self.breach(Law::SameMemory, "the state is not what was saved"),
        }
        if !self.acquire_at_destination() {
            let failure = Failure::new(Fault::Guest, "its disk is locked elsewhere");
            return self.tell_destination(DestinationEvent::Failed(failure));
        }
        self.tell_destination_in(took, DestinationEvent::Loaded(term));
        if self.broken == Some(Broken::RunBeforeGrant) {
            self.dst.running = true;
        }
    }

    fn run_at_destination(&mut self, term: Term) {
        if std::mem::take(&mut self.dst.no_run) {
            let failure = Failure::new(Fault::Guest, "it does not run here");
            return self.tell_destination(DestinationEvent::Failed(failure));
        }
        if let Some((region, page)) = self.dst.landing.memory.difference(&self.truth.memory) {
            let what = format!("the guest runs on a {page} of {region} that is not its own");
            self.breach(Law::SameMemory, what);
        }
        if self.dst.state != Some(self.truth.bursts) {
            let what = format!("the guest runs from state {:?}, not its last", self.dst.state);
            self.breach(Law::SameMemory, what);
        }
        self.dst.running = true;
        let took = self.dst.slow_until.saturating_sub(self.now);
        self.tell_destination_in(took, DestinationEvent::Ran(term));
    }

    fn send_sums(&mut self) {
        let regions = self.plan.layout.regions().to_vec();
        for (place, region) in regions.iter().enumerate() {
            let chunks = self.dst.landing.table.chunk_sums(region.id).collect();
            let last = place + 1 == regions.len();
            let sums = Message::Sums(Sums { region: region.id, chunks, last });
            self.send(Side::Destination, &sums);
        }
    }

    pub(crate) fn destination_written(&mut self, written: Option<Standing>) {
        match written {
            Some(standing) => {
                if standing == Standing::Refused {
                    self.saw(Seen::Refused);
                }
                self.tell_destination(DestinationEvent::Recorded(standing));
            }
            None => {
                let failure = Failure::new(Fault::Journal, "the disk is full");
                self.tell_destination(DestinationEvent::Failed(failure));
            }
        }
        self.settle_destination();
    }
}
