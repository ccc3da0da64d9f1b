//! The source's hand: carries out what the machine wants, and tells it what came of it.

use std::collections::BTreeSet;
use std::time::Duration;

use whimbrel_page::{CHUNK_PAGES, ChunkIndex, LeafSum, PageCount, Root, Run};
use whimbrel_protocol::ledger::{LedgerEvent, Pass};
use whimbrel_protocol::{
    Failure, Fault, Ledger, Message, Meter, Now, Outcome, Pace, Process, RoundNumber, Source,
    SourceAction, SourceEvent, Standing, Sums, Term, Verify,
};

use crate::breach::Law;
use crate::broken::Broken;
use crate::harvest::Ahead;
use crate::journal::Journal;
use crate::locks::AGAIN;
use crate::memory::{Memory, Tracker, leaf_of};
use crate::plan::{Plan, Side};
use crate::rates::Excess;
use crate::seen::Seen;
use crate::step::{Chore, Life, LinkId, Step};
use crate::world::World;

/// What the ledger's next event answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    Nothing,
    Round,
    Quiet(u32),
    Flush(u32),
}

/// Everything on the source's host.
#[derive(Debug)]
pub(crate) struct SourceHost {
    pub(crate) machine: Source,
    pub(crate) ledger: Ledger,
    pub(crate) meter: Meter,
    pub(crate) memory: Memory,
    pub(crate) tracker: Tracker,
    pub(crate) journal: Journal,
    pub(crate) running: bool,
    pub(crate) throttle: u8,
    pub(crate) link: Option<LinkId>,
    pub(crate) alive: bool,
    pub(crate) host_up: bool,
    pub(crate) process: Process,
    pub(crate) life: Life,
    pub(crate) outcome: Option<Outcome>,
    /// The term that was granted, once that was said.
    pub(crate) granted: Option<Term>,
    /// The root that was said last, and in which attempt to hand over.
    pub(crate) said: (Term, Root),
    pub(crate) ahead: Ahead,
    /// What the lanes may carry together.
    pub(crate) pace: Pace,
    /// What they have carried beyond it: while the guest runs, and of the last pages.
    pub(crate) excess: [Excess; 2],
    /// When the hand has done all it was given.
    hand: Duration,
    /// When the last event that was told arrives.
    pub(crate) inbox: Duration,
    /// Until when the process stands still.
    pub(crate) frozen: Duration,
    /// Until when nothing that it asks of its guest is done.
    pub(crate) slow_until: Duration,
    /// Until when the agent is down.
    pub(crate) agent_out: Duration,
    /// Since when the guest stands still.
    pub(crate) parked: Option<Duration>,
    /// When it is to run on at the latest, unless it is granted away before.
    pub(crate) run_on_by: Option<Duration>,
    /// The guest is to run on, and waits for what it let go of.
    pub(crate) resuming: bool,
    /// Somebody will try again.
    pub(crate) again: bool,
    /// Batches that were ever sent.
    pub(crate) sent: u64,
    /// Pauses of this attempt.
    pub(crate) pauses: u32,
    pub(crate) pausing: bool,
    watched: Watched,
    round: RoundNumber,
    /// Chunks that were found to differ, ever.
    spoiled: BTreeSet<(u32, u64)>,
    /// What the destination named so far, in answer to one question.
    named: Vec<Sums>,
}

impl SourceHost {
    pub(crate) fn new(plan: &Plan, now: Duration) -> Self {
        let (subject, options) = (plan.subject.clone(), plan.source.clone());
        Self {
            machine: Source::new(Now(now), subject, plan.destination.token, options),
            ledger: Ledger::new(&plan.layout),
            meter: Meter::default(),
            memory: Memory::new(&plan.layout),
            tracker: Tracker::new(&plan.layout),
            journal: Journal::of_owner(plan.subject.term),
            running: true,
            throttle: 0,
            link: None,
            alive: true,
            host_up: true,
            process: Process::Alive,
            life: 0,
            outcome: None,
            granted: None,
            said: (Term::default(), Root::default()),
            ahead: Ahead::default(),
            pace: Pace::default(),
            excess: Default::default(),
            hand: Duration::ZERO,
            inbox: Duration::ZERO,
            frozen: Duration::ZERO,
            slow_until: Duration::ZERO,
            agent_out: Duration::ZERO,
            parked: None,
            run_on_by: None,
            resuming: false,
            again: false,
            sent: 0,
            pauses: 0,
            pausing: false,
            watched: Watched::Nothing,
            round: RoundNumber(0),
            spoiled: BTreeSet::new(),
            named: Vec::new(),
        }
    }
}

impl World {
    /// Puts an event into the source's inbox, behind what is there.
    pub(crate) fn tell_source(&mut self, event: SourceEvent) {
        let at = self.now + self.random.micros(0, 100);
        self.src.inbox = self.src.inbox.max(at);
        self.at(self.src.inbox, Step::Source(self.src.life, event));
    }

    /// Hands an event to the machine, and carries out what follows.
    pub(crate) fn feed_source(&mut self, event: SourceEvent) {
        if !self.src.alive {
            return;
        }
        note!(self, "source [{}] <- {event:?}", self.src.machine.phase());
        let unwinds = match self.broken {
            Some(Broken::ResumeAfterGrant) => matches!(event, SourceEvent::LinkLost(_)),
            Some(Broken::UnwindWhenLate) => event == SourceEvent::Tick,
            _ => false,
        };
        let fed = self.src.machine.handle(Now(self.now), event);
        if unwinds && self.src.machine.granted() && !self.src.machine.ended() {
            self.resume();
        }
        self.judge(Side::Source, fed);
        self.poll_source();
    }

    /// Somebody wants the migration to end. Before the grant it does, at once (law 6).
    pub(crate) fn cancel_at_source(&mut self) {
        let (granted, ended) = (self.src.machine.granted(), self.src.machine.ended());
        let cancel = SourceEvent::Cancel("somebody said so".into());
        if self.now < self.src.frozen {
            return self.tell_source(cancel);
        }
        if granted {
            self.saw(if ended { Seen::CancelledAgain } else { Seen::TooLate });
        }
        if self.broken == Some(Broken::CancelLater) {
            self.tell_source(cancel);
        } else {
            self.feed_source(cancel);
        }
        if self.src.alive && !granted && !self.src.machine.ended() {
            self.breach(Law::Cancel, format!("it goes on {}", self.src.machine.phase()));
        }
    }

    pub(crate) fn poll_source(&mut self) {
        while let Some(action) = self.src.machine.poll() {
            note!(self, "source -> {action:?}");
            self.act_for_source(action);
        }
    }

    fn act_for_source(&mut self, action: SourceAction) {
        let mute = self.broken == Some(Broken::NeverAskAgain) && self.src.machine.granted();
        match action {
            SourceAction::Connect | SourceAction::Ask(_) if mute => {}
            SourceAction::Connect => self.connect(),
            SourceAction::Send(message) => self.say_to_destination(&message),
            SourceAction::Hangup => {
                self.hang_up(Side::Source);
                self.end_workers();
            }
            SourceAction::OpenLane(ticket) => self.open_lane(ticket),
            SourceAction::CloseLane(mark) => {
                if self.lanes.contains_key(&mark.lane) {
                    self.end_worker(mark.lane);
                    self.close_account(mark.lane, Some(mark));
                }
            }
            SourceAction::Arm => self.arm(),
            SourceAction::StartRound(number) => self.start_round(number),
            SourceAction::Harvest => self.chore(Chore::Harvest, 500),
            SourceAction::Rehearse => self.chore(Chore::Look, 500),
            SourceAction::Quiesce(number) => self.quiesce(number),
            SourceAction::Pause => {
                self.src.pausing = true;
                self.src.pauses += 1;
                self.chore(Chore::Pause, 2_000);
            }
            SourceAction::Verify => self.chore(Chore::Verify, self.plan.sweep),
            SourceAction::Flush(number) => self.flush(number),
            SourceAction::Resume if self.broken == Some(Broken::StayPaused) => {}
            SourceAction::Resume => self.resume(),
            SourceAction::Throttle(percent) => self.src.throttle = percent,
            SourceAction::Record(standing, term) => self.record(Side::Source, (standing, term)),
            SourceAction::Note(standing, term) => {
                if self.src.journal.note((standing, term)).is_none() {
                    self.source_written(None);
                }
            }
            SourceAction::Ask(term) => self.ask(Side::Source, term),
            SourceAction::Compare(sums) => self.compare(sums),
            SourceAction::Say(_) => {}
            SourceAction::Finish(outcome) => self.finish_source(outcome),
        }
    }

    fn say_to_destination(&mut self, message: &Message) {
        match message {
            Message::Prepare(prepare) => self.src.said = (prepare.term, prepare.root),
            Message::Grant(term) => self.src.granted = Some(*term),
            _ => {}
        }
        self.send(Side::Source, message);
    }

    fn arm(&mut self) {
        if self.broken == Some(Broken::ArmAfterReading) {
            self.src.ledger.merge(&self.truth.touched);
            self.tell_source(SourceEvent::Armed);
            return self.chore(Chore::Arm, 20_000);
        }
        self.chore(Chore::Arm, 2_000);
    }

    /// One thread does them all, one after the other.
    pub(crate) fn chore(&mut self, chore: Chore, micros: u64) {
        let (life, delay) = (self.src.life, self.random.micros(5, micros));
        let begun = self.src.hand.max(self.now);
        self.src.hand = (begun + delay).max(self.src.slow_until);
        self.at(self.src.hand, Step::Done(life, chore));
    }

    pub(crate) fn chore_done(&mut self, chore: Chore) {
        if self.src.outcome.is_some() {
            return;
        }
        // One thread does all of it, and it is busy.
        if self.src.resuming {
            let life = self.src.life;
            return self.after(AGAIN, Step::Done(life, chore));
        }
        match chore {
            Chore::Arm => {
                self.src.tracker.armed = true;
                self.rehearse_at_source();
                if self.broken == Some(Broken::ArmAfterReading) {
                    return;
                }
                let again = self.broken == Some(Broken::ResendDirtyOnly) && self.attempt > 0;
                let dirty = again.then(|| self.src.tracker.harvest());
                self.src.ledger.merge(dirty.as_ref().unwrap_or(&self.truth.touched));
                self.tell_source(SourceEvent::Armed);
            }
            Chore::LeaveWritten => self.leave_written(),
            Chore::HarvestAhead => self.harvested_ahead(),
            Chore::Harvest => self.harvest_for_round(),
            Chore::Look => self.look(),
            Chore::Pause => self.parked(),
            Chore::Verify => self.verify_source(),
            Chore::Clear(pages) => self.src.tracker.forget(&pages),
        }
        self.wake_lanes();
    }

    fn parked(&mut self) {
        if !std::mem::take(&mut self.src.pausing) {
            return;
        }
        self.src.ahead.forget();
        self.src.running = false;
        self.src.parked = Some(self.now);
        self.release_at_source();
        let dirty = self.src.tracker.harvest();
        self.src.ledger.merge(&dirty);
        let pending = self.src.ledger.pending();
        let state = self.truth.bursts.to_le_bytes().to_vec().into();
        self.tell_source(SourceEvent::Paused { pending, state });
    }

    /// How long the full verification takes, found out while it does no harm.
    fn rehearse_at_source(&mut self) {
        if self.plan.source.verify == Verify::Full {
            let takes = self.random.micros(1, self.plan.sweep);
            let memory = self.plan.layout.bytes();
            self.tell_source(SourceEvent::Rehearsed { memory, takes });
        }
    }

    /// A page that the destination does not hold as it is, and that is not about to be sent, has
    /// changed behind the tracker's back. A guest that was let go on meanwhile is not read.
    fn verify_source(&mut self) {
        if self.src.running {
            return self.saw(Seen::VerifiedInVain);
        }
        let skips = self.broken == Some(Broken::SkipVerify);
        for place @ (region, page) in self.src.memory.places().into_iter().filter(|_| !skips) {
            let found = leaf_of(self.src.memory.get(place));
            if self.src.ledger.settled(region, page).is_some_and(|there| !there.agrees(found)) {
                self.src.ledger.merge_run(Run::new(region, page.0, 1));
                self.saw(Seen::Missed);
            }
        }
        self.rehearse_at_source();
        self.tell_source(SourceEvent::Verified);
    }

    // --- rounds ----------------------------------------------------------------------------

    fn start_round(&mut self, number: u32) {
        self.src.round = RoundNumber(number);
        self.src.watched = Watched::Round;
        let pages = self.src.ledger.start_round(RoundNumber(number), Pass::Once);
        self.harvest_ahead_of(pages);
        self.wake_lanes();
        self.poll_ledger();
    }

    fn quiesce(&mut self, number: u32) {
        self.src.watched = Watched::Quiet(number);
        self.src.ahead.end_round();
        self.src.ledger.end_round();
        self.src.ledger.await_drained(PageCount::ZERO);
        self.poll_ledger();
    }

    fn flush(&mut self, number: u32) {
        self.src.watched = Watched::Flush(number);
        self.src.ahead.end_round();
        let round = self.src.round.next();
        self.src.round = round;
        self.src.ledger.start_round(round, Pass::UntilEmpty);
        self.wake_lanes();
        self.poll_ledger();
    }

    /// Whether the pages that are taken now are the last ones, or will be.
    pub(crate) const fn takes_last_pages(&self) -> bool {
        matches!(self.src.watched, Watched::Flush(_))
    }

    pub(crate) fn poll_ledger(&mut self) {
        self.look_ahead();
        while let Some(event) = self.src.ledger.poll() {
            match (event, self.src.watched) {
                (LedgerEvent::RoundTaken(_), Watched::Round) => {
                    self.tell_source(SourceEvent::RoundTaken);
                }
                (LedgerEvent::RoundTaken(_), Watched::Flush(flush)) => {
                    let root = self.src.ledger.root_when_landed();
                    let sent = self.src.ledger.lanes().collect();
                    self.tell_source(SourceEvent::Flushed { flush, root, sent });
                }
                (LedgerEvent::Drained, Watched::Quiet(number)) => {
                    self.tell_source(SourceEvent::Quiesced(number));
                }
                _ => continue,
            }
            self.src.watched = Watched::Nothing;
        }
    }

    // --- repair ----------------------------------------------------------------------------

    fn compare(&mut self, sums: Sums) {
        let last = sums.last;
        self.src.named.push(sums);
        if !last {
            return;
        }
        let named = std::mem::take(&mut self.src.named);
        let (mut pages, mut again) = (PageCount::ZERO, false);
        for region in self.plan.layout.regions() {
            for chunk in 0..region.pages().0.div_ceil(CHUNK_PAGES) {
                let theirs = theirs(&named, region.id.0, chunk);
                if self.src.ledger.table().chunk_sum(region.id, ChunkIndex(chunk)) == theirs {
                    continue;
                }
                let first = chunk * CHUNK_PAGES;
                let count = CHUNK_PAGES.min(region.pages().0 - first);
                self.src.ledger.spoil(Run::new(region.id, first, count));
                pages += PageCount(count);
                again |= !self.src.spoiled.insert((region.id.0, chunk));
            }
        }
        self.tell_source(SourceEvent::Spoiled { pages, again });
    }

    // --- ends ------------------------------------------------------------------------------

    fn finish_source(&mut self, outcome: Outcome) {
        self.end_workers();
        if self.broken != Some(Broken::LeaveThrottled) {
            self.src.throttle = 0;
            self.src.tracker.armed = false;
        }
        if let Outcome::InDoubt { .. } = outcome {
            self.saw(Seen::Doubted);
            self.after(Duration::from_millis(200), Step::Doubt);
        }
        let aborted = matches!(outcome, Outcome::Aborted(_));
        self.src.outcome = Some(match outcome {
            Outcome::Aborted(_) if self.broken == Some(Broken::ReportSuccess) => {
                Outcome::Completed { term: self.src.machine.term() }
            }
            outcome => outcome,
        });
        if aborted {
            self.maybe_again();
            self.src.tracker.armed |=
                self.src.again && self.broken == Some(Broken::ResendDirtyOnly);
        }
    }

    pub(crate) fn source_written(&mut self, written: Option<Standing>) {
        match written {
            Some(standing) => self.tell_source(SourceEvent::Recorded(standing)),
            None => {
                let failure = Failure::new(Fault::Journal, "the disk is full");
                self.tell_source(SourceEvent::Failed(failure));
            }
        }
    }
}

/// What the destination said of a chunk: one that it did not name is all zero.
fn theirs(named: &[Sums], region: u32, chunk: u64) -> LeafSum {
    let of_region = named.iter().filter(|sums| sums.region.0 == region);
    let mut chunks = of_region.flat_map(|sums| &sums.chunks);
    chunks.find(|(index, _)| index.0 == chunk).map_or(LeafSum::ZERO, |(_, sum)| *sum)
}
