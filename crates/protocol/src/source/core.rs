//! What every phase of the source shares: the link, the lanes, the term, and the way out.

use ::core::time::Duration;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};

use super::{Common, Phase, SourceAction, SourceEvent, SourceOptions, Subject};
use crate::limits::BATCH_PAYLOAD_MAX;
use crate::{
    BatchSeq, Convergence, Epoch, Failure, Fault, Forecast, LaneClosed, LaneId, LaneMark,
    LaneTicket, Message, Now, Outcome, Policy, SessionId, Standing, Term, Token, Verify, Violation,
};
use whimbrel_page::{LeafSum, PageCount};

/// How often the wait before another lane is tried is doubled at most.
const RETRY_DOUBLINGS_MAX: u32 = 3;

/// Where the announcement of a term stands. Both halves are needed before a pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Announced {
    pub(super) recorded: bool,
    pub(super) ready: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Opening,
    Up,
    /// Waiting for `LaneClosed`, until the link counts as lost.
    Lost(Now),
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Core {
    pub(super) options: SourceOptions,
    pub(super) subject: Subject,
    pub(super) token: Token,
    pub(super) now: Now,
    pub(super) actions: VecDeque<SourceAction>,
    pub(super) phase: &'static str,
    pub(super) violation: Option<Violation>,
    pub(super) forecast: Forecast,
    pub(super) session: Option<(SessionId, Epoch)>,
    /// Page bytes that the destination takes in one batch.
    pub(super) batch_bytes_max: u32,
    pub(super) lanes: BTreeMap<LaneId, Lane>,
    /// The highest lane number so far.
    lanes_had: Option<LaneId>,
    /// Lanes to be opened later, after one has failed.
    tickets: VecDeque<(Now, LaneTicket)>,
    /// Since when no lane is up; a migration without lanes ends.
    laneless: Option<Now>,
    /// How often since then the last lane that might have come up did not.
    fruitless: u32,
    /// Not before then another one is tried.
    lane_retry: Now,
    pub(super) term: Term,
    /// The announcement of `term`, if it was made.
    pub(super) announced: Option<Announced>,
    /// Whether a record of `Switching` was begun and not yet taken back.
    pub(super) switching: bool,
    pub(super) paused: bool,
    pub(super) pauses: u32,
    quiesces: u32,
    /// What was dirty when the switchover was decided.
    pub(super) decided: PageCount,
    /// The downtime that was expected just before the last pause.
    pub(super) estimate: Option<Duration>,
    pub(super) link: bool,
    heard: Now,
    pinged: Now,
    pings: u64,
}

impl Core {
    pub(super) fn new(now: Now, subject: Subject, token: Token, options: SourceOptions) -> Self {
        let mut forecast = Forecast::new(options.convergence, subject.layout.pages());
        forecast.state_size(subject.state_size);
        Self {
            forecast,
            term: subject.term,
            options,
            subject,
            token,
            now,
            actions: VecDeque::new(),
            phase: "greeting",
            violation: None,
            session: None,
            batch_bytes_max: BATCH_PAYLOAD_MAX.0 as u32,
            lanes: BTreeMap::new(),
            lanes_had: None,
            tickets: VecDeque::new(),
            laneless: None,
            fruitless: 0,
            lane_retry: now,
            announced: None,
            switching: false,
            paused: false,
            pauses: 0,
            quiesces: 0,
            decided: PageCount::ZERO,
            estimate: None,
            link: false,
            heard: now,
            pinged: now,
            pings: 0,
        }
    }

    pub(super) fn act(&mut self, action: SourceAction) {
        self.actions.push_back(action);
    }

    pub(super) fn send(&mut self, message: Message) {
        self.act(SourceAction::Send(message));
    }

    pub(super) fn say(&mut self, sentence: impl Into<String>) {
        self.act(SourceAction::Say(sentence.into()));
    }

    pub(super) fn after(&self, wait: Duration) -> Now {
        self.now.after(wait)
    }

    /// How long the guest may stand still this time. Only the policy that accepts a long downtime
    /// has to be given the time for it.
    pub(super) fn pause_budget(&self, expected: Duration) -> Duration {
        let Convergence { downtime_max, policy } = self.options.convergence;
        let accepted = if policy == Policy::SwitchOver { expected } else { downtime_max };
        self.options.pause_budget.max(accepted.saturating_mul(2))
    }

    /// Handles what means the same in every phase.
    pub(super) fn common(&mut self, event: SourceEvent, granted: bool) -> Common {
        match event {
            SourceEvent::Message(message) => self.heard(message, granted),
            SourceEvent::Cancel(_) if granted => Common::Done,
            SourceEvent::Cancel(why) => Common::Abort(Failure::new(Fault::Cancelled, why)),
            SourceEvent::Failed(failure) if granted => {
                self.say(failure.to_string());
                Common::Phase(SourceEvent::Failed(failure))
            }
            SourceEvent::Failed(failure) => Common::Abort(failure),
            SourceEvent::Rehearsed { memory, takes } => {
                self.forecast.digests_here(memory, takes);
                self.hopeless(granted)
            }
            SourceEvent::Limited { rounds, last } => {
                self.forecast.limited(rounds, last);
                Common::Done
            }
            SourceEvent::Tick => self.tick(granted),
            SourceEvent::LinkUp => {
                self.link = true;
                self.heard = self.now;
                self.pinged = self.now;
                Common::Phase(SourceEvent::LinkUp)
            }
            SourceEvent::LinkLost(why) => {
                self.link = false;
                Common::Phase(SourceEvent::LinkLost(why))
            }
            other => Common::Phase(other),
        }
    }

    fn heard(&mut self, message: Message, granted: bool) -> Common {
        // A message that was on its way when this side hung up belongs to no connection.
        if !self.link {
            return Common::Done;
        }
        self.heard = self.now;
        match message {
            Message::Pong(number) => {
                if number == self.pings {
                    // Whoever answers later than that is taken for lost; one that says other
                    // things meanwhile does not make a pause longer by it either.
                    let took = self.now.since(self.pinged);
                    self.forecast.round_trip(took.min(self.options.silence_timeout));
                }
                Common::Done
            }
            // wire.md V4: only where it was agreed.
            Message::Digested(bytes, took) if self.options.verify == Verify::Full => {
                self.forecast.digests_there(bytes, took);
                self.hopeless(granted)
            }
            Message::Rejected(rejected) if !granted => {
                Common::Abort(Failure::new(rejected.fault, rejected.why))
            }
            // The destination has given up; what it recorded is no matter before the grant.
            Message::Refused(_, why) if !granted => {
                let why = format!("the destination gave the attempt up: {why}");
                Common::Abort(Failure::new(Fault::Cancelled, why))
            }
            other => Common::Phase(SourceEvent::Message(other)),
        }
    }

    /// What no round can bring about is not begun. A guest that stands still is judged by the
    /// budget of its pause.
    fn hopeless(&self, granted: bool) -> Common {
        match self.forecast.hopeless().filter(|_| !granted && !self.paused) {
            Some(why) => Common::Abort(Failure::new(Fault::NotConverging, why)),
            None => Common::Done,
        }
    }

    fn tick(&mut self, granted: bool) -> Common {
        if self.link && self.now >= self.heard.after(self.options.silence_timeout) {
            let silent = self.options.silence_timeout.as_millis();
            return self.lose_link(format!("the destination was silent for {silent} ms"));
        }
        let overdue = self.lanes.iter().find_map(|(id, lane)| match lane {
            Lane::Lost(deadline) if *deadline <= self.now => Some(*id),
            _ => None,
        });
        if let Some(lane) = overdue.filter(|_| self.link) {
            return self.lose_link(format!("the destination did not close lane {}", lane.0));
        }
        let laneless = self.laneless.filter(|_| !granted);
        if laneless.is_some_and(|since| self.now >= since.after(self.options.resume_window)) {
            let why = "no lane could be opened within the resume window";
            return Common::Abort(Failure::new(Fault::Link, why));
        }
        self.ping();
        self.open_due_lanes();
        Common::Phase(SourceEvent::Tick)
    }

    fn lose_link(&mut self, why: String) -> Common {
        self.link = false;
        Common::Phase(SourceEvent::LinkLost(why))
    }

    fn ping(&mut self) {
        if self.link
            && self.session.is_some()
            && self.now >= self.pinged.after(self.options.ping_interval)
        {
            self.ping_now();
        }
    }

    /// Measures the round trip, and keeps the destination from taking us for dead.
    pub(super) fn ping_now(&mut self) {
        self.pings += 1;
        self.pinged = self.now;
        self.send(Message::Ping(self.pings));
    }

    /// The earliest of the waits that go on in every phase.
    pub(super) fn deadline(&self) -> Option<Now> {
        let silence = self.link.then(|| self.heard.after(self.options.silence_timeout));
        let pings = self.link && self.session.is_some();
        let ping = pings.then(|| self.pinged.after(self.options.ping_interval));
        let lost = self.lanes.values().filter_map(|lane| match lane {
            Lane::Lost(deadline) if self.link => Some(*deadline),
            _ => None,
        });
        let ticket = self.next_lane().map(|(at, _)| at);
        let laneless = self.laneless.map(|since| since.after(self.options.resume_window));
        lost.chain(ticket).chain(silence).chain(ping).chain(laneless).min()
    }

    /// Has the lanes come to rest; the answer to that has this number.
    pub(super) fn quiesce(&mut self) -> u32 {
        self.quiesces += 1;
        self.act(SourceAction::Quiesce(self.quiesces));
        self.quiesces
    }

    // --- lanes -----------------------------------------------------------------------------

    /// wire.md S3: a lane number is not used twice. A ticket that says otherwise opens nothing.
    pub(super) fn open_lane(&mut self, ticket: LaneTicket) {
        if self.lanes_had.is_some_and(|last| ticket.0 <= last) {
            return self
                .say(format!("the destination gave lane {} out again; ignored", ticket.0.0));
        }
        self.lanes_had = Some(ticket.0);
        self.lanes.insert(ticket.0, Lane::Opening);
        self.act(SourceAction::OpenLane(ticket));
    }

    fn open_due_lanes(&mut self) {
        while let Some((_, ticket)) = self.next_lane().filter(|(at, _)| *at <= self.now) {
            self.tickets.pop_front();
            self.open_lane(ticket);
        }
    }

    /// The next lane to be opened, and when: numbers only grow. Where no way was found for any
    /// lane, one is tried at a time: a session has only so many tickets, and they are not spent on
    /// a network that is away.
    fn next_lane(&self) -> Option<(Now, LaneTicket)> {
        let tries = self.link && (self.fruitless == 0 || !self.may_come_up());
        let (at, ticket) = self.tickets.front().filter(|_| tries)?;
        Some(((*at).max(self.lane_retry), *ticket))
    }

    fn may_come_up(&self) -> bool {
        self.lanes.values().any(|lane| matches!(lane, Lane::Opening | Lane::Up))
    }

    pub(super) fn lane_up(&mut self, lane: LaneId) {
        if let Some(Lane::Opening) = self.lanes.get(&lane) {
            self.lanes.insert(lane, Lane::Up);
            self.fruitless = 0;
            // The way is there again: the others need not wait for theirs.
            self.lane_retry = self.now;
        }
        self.count_lanes();
    }

    /// A lane failed here: ask what landed on it (wire.md S5). Without an answer the link counts as
    /// lost.
    pub(super) fn lane_failed(&mut self, lane: LaneId, why: &str) {
        let deadline = self.after(self.options.silence_timeout);
        match self.lanes.get_mut(&lane) {
            None | Some(Lane::Lost(_)) => return,
            Some(known) => *known = Lane::Lost(deadline),
        }
        self.say(format!("lane {} ended: {why}", lane.0));
        if self.link {
            self.send(Message::LaneLost(lane));
        }
        if !self.may_come_up() {
            let doublings = self.fruitless.min(RETRY_DOUBLINGS_MAX);
            self.lane_retry = self.after(self.options.retry_delay.saturating_mul(1 << doublings));
            self.fruitless += 1;
        }
        self.count_lanes();
    }

    /// The destination's word on a lane. Returns the last batch that counts as landed.
    pub(super) fn lane_closed(&mut self, closed: &LaneClosed) -> Option<BatchSeq> {
        self.lanes.remove(&closed.mark.lane)?;
        self.act(SourceAction::CloseLane(closed.mark));
        if let Some(ticket) = closed.replacement {
            self.tickets.push_back((self.after(self.options.retry_delay), ticket));
        }
        self.count_lanes();
        Some(closed.mark.batch)
    }

    /// All lanes of older epochs are fenced: what is not named in `landed` did not land.
    pub(super) fn lanes_fenced(&mut self, landed: &[LaneMark]) {
        let lanes = ::core::mem::take(&mut self.lanes);
        for lane in lanes.into_keys() {
            let none = LaneMark { lane, batch: BatchSeq(0), sum: LeafSum::ZERO };
            let mark = landed.iter().find(|mark| mark.lane == lane).copied().unwrap_or(none);
            self.act(SourceAction::CloseLane(mark));
        }
        self.tickets.clear();
    }

    pub(super) fn lanes_up(&self) -> usize {
        self.lanes.values().filter(|lane| **lane == Lane::Up).count()
    }

    /// Whether the account of some lane is still open: its pages are neither landed nor back.
    pub(super) fn lanes_unsettled(&self) -> bool {
        self.lanes.values().any(|lane| matches!(lane, Lane::Lost(_)))
    }

    fn count_lanes(&mut self) {
        self.laneless = if self.lanes_up() > 0 { None } else { self.laneless.or(Some(self.now)) };
    }

    /// While the link is down lanes are nobody's fault, and after the grant no matter.
    pub(super) fn pause_lane_watch(&mut self) {
        self.laneless = None;
    }

    /// Everything has landed: what becomes of a lane is no matter any more, and none is waited for.
    pub(super) fn forget_lanes(&mut self) {
        self.laneless = None;
        self.lanes.clear();
        self.tickets.clear();
    }

    // --- terms -----------------------------------------------------------------------------

    /// Burns the next term: recorded here and announced there, both before any pause (wire.md S7).
    pub(super) fn announce(&mut self) {
        self.term = self.term.next(self.subject.host);
        self.announced = Some(Announced::default());
        self.switching = true;
        self.act(SourceAction::Record(Standing::Switching, self.term));
        self.send(Message::Announce(self.term));
    }

    /// Says the announcement again on a new connection.
    pub(super) fn announce_again(&mut self) {
        if let Some(announced) = &mut self.announced {
            announced.ready = false;
            self.send(Message::Announce(self.term));
        }
    }

    pub(super) fn both_announced(&self) -> bool {
        self.announced.is_some_and(|announced| announced.recorded && announced.ready)
    }

    pub(super) fn recorded(&mut self, standing: Standing) {
        if let (Standing::Switching, Some(announced)) = (standing, &mut self.announced) {
            announced.recorded = true;
        }
    }

    pub(super) fn ready(&mut self, term: Term) {
        if let Some(announced) = self.announced.as_mut().filter(|_| term == self.term) {
            announced.ready = true;
        }
    }

    /// Runs the guest on. The term of the attempt is spent.
    pub(super) fn resume(&mut self) {
        if ::core::mem::take(&mut self.paused) {
            // wire.md S16: a reader must not take it for a guest that died while it stood still.
            self.act(SourceAction::Note(Standing::Owner, self.term));
            self.act(SourceAction::Resume);
        }
        self.announced = None;
    }

    // --- ends ------------------------------------------------------------------------------

    /// The one way out before the grant: the guest runs first, everything else follows.
    pub(super) fn abort(&mut self, failure: Failure) -> Phase {
        self.resume();
        if self.link {
            self.send(Message::Abort(failure.why.clone()));
        }
        if ::core::mem::take(&mut self.switching) {
            self.act(SourceAction::Record(Standing::Owner, self.term));
        }
        self.finish(Outcome::Aborted(failure))
    }

    pub(super) fn finish(&mut self, outcome: Outcome) -> Phase {
        self.act(SourceAction::Finish(outcome));
        Phase::Ended
    }

    pub(super) fn abort_by(&mut self, fault: Fault, why: impl Into<String>) -> Phase {
        self.abort(Failure::new(fault, why))
    }

    /// The one helper for what is not allowed. A peer that breaks the protocol ends the attempt;
    /// a driver's stray event is reported and changes nothing.
    pub(super) fn unexpected(&mut self, stay: Phase, event: &SourceEvent) -> Phase {
        let by_peer = matches!(event, SourceEvent::Message(_));
        let what = match event {
            SourceEvent::Message(message) => message.name().to_string(),
            other => format!("{other:?}"),
        };
        let violation = Violation { phase: self.phase, event: what, by_peer };
        let next = if by_peer && !matches!(stay, Phase::Granted(_)) {
            self.abort_by(Fault::Peer, format!("{violation}"))
        } else {
            stay
        };
        self.violation = Some(violation);
        next
    }
}
