//! The source's hand in these worlds: it carries out what the machine wants, when it is its turn.

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_page::{ByteCount, PageCount};
use whimbrel_protocol::batch::LaneHello;
use whimbrel_protocol::{
    BatchSeq, Failure, Fault, Harvest, LaneTicket, Message, Outcome, Question, SourceAction,
    SourceEvent, Standing, Sums, Term, Verify,
};

use super::host::{Batch, Cut, End, Holds, Host, Job, Lane, Link, Pages, Pass, Said};
use super::{Ask, Handover, Mutant};

/// One byte for each content there may be, so that a state needs no memory of its own.
static CONTENTS: [u8; 32] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
    26, 27, 28, 29, 30, 31,
];

/// The memory that is digested in full.
pub(crate) const MEMORY: ByteCount = ByteCount::kib(8);

/// Time is a choice here and nothing that is measured: digesting takes none. The forecast alone
/// hears of it, so that it does not matter when.
const REHEARSED: SourceEvent = SourceEvent::Rehearsed { memory: MEMORY, takes: Duration::ZERO };

pub(crate) fn failure(fault: Fault) -> Failure {
    Failure::new(fault, "it failed")
}

impl Handover {
    pub(crate) fn feed_a(&mut self, event: SourceEvent) {
        if !self.a.life.drives() {
            return;
        }
        let lost = matches!(event, SourceEvent::LinkLost(_));
        let failed = matches!(event, SourceEvent::Failed(_));
        let now = self.a.life.clock;
        let fed = self.a.machine.handle(now, event);
        if fed.is_err_and(|violation| violation.by_peer) {
            self.breach("an honest destination was blamed");
        }
        self.poll_a();
        self.mutate_a(lost, failed);
    }

    /// What the models that must fail do otherwise.
    fn mutate_a(&mut self, lost: bool, failed: bool) {
        let granted = self.a.machine.phase() == "granted";
        let entry = self.a.life.journal.written.map(|(standing, ..)| standing);
        let unwinds = match self.mutant {
            Some(Mutant::UnwindAfterGrant) => lost && granted && !self.moved,
            Some(Mutant::ResumeAfterMove) => failed && granted && self.moved,
            _ => false,
        };
        if unwinds && entry == Some(Standing::Granted) {
            self.run_on();
        }
    }

    pub(crate) fn poll_a(&mut self) {
        while let Some(action) = self.a.machine.poll() {
            self.act_a(action);
        }
    }

    fn act_a(&mut self, action: SourceAction) {
        match action {
            SourceAction::Connect => self.a.connecting = true,
            SourceAction::Send(message) => self.send_to_destination(message),
            SourceAction::Hangup => {
                self.close_at_source();
                (self.a.connecting, self.a.lane, self.a.opening) = (false, None, None);
            }
            SourceAction::OpenLane(ticket) => self.a.opening = Some(ticket),
            SourceAction::CloseLane(mark) => {
                self.a.lane = self.a.lane.filter(|(lane, _)| *lane != mark.lane);
            }
            SourceAction::StartRound(_) => self.a.pass = Some(Pass::Round),
            SourceAction::Quiesce(number) => self.a.pass = Some(Pass::Quiesce(number)),
            SourceAction::Flush(number) => self.a.pass = Some(Pass::Flush(number)),
            SourceAction::Arm => self.a.jobs.push_back(Job::Arm),
            SourceAction::Harvest => self.a.jobs.push_back(Job::Harvest),
            SourceAction::Rehearse => self.a.jobs.push_back(Job::Look),
            SourceAction::Pause => self.a.jobs.push_back(Job::Pause),
            SourceAction::Verify => self.a.jobs.push_back(Job::Verify),
            SourceAction::Resume => self.a.jobs.push_back(Job::Resume),
            SourceAction::Compare(sums) => self.a.jobs.push_back(Job::Compare(sums)),
            SourceAction::Record(standing, term) if standing.is_note() => {
                let noted = self.note_a(standing, term);
                let recorded =
                    noted.map_or_else(SourceEvent::Failed, |()| SourceEvent::Recorded(standing));
                // As the engine does: before anything else that was polled.
                let now = self.a.life.clock;
                let _ = self.a.machine.handle(now, recorded);
            }
            SourceAction::Record(standing, term) => {
                self.a.jobs.push_back(Job::Record(standing, term));
            }
            SourceAction::Note(standing, term) => {
                if let Err(failure) = self.note_a(standing, term) {
                    let now = self.a.life.clock;
                    let _ = self.a.machine.handle(now, SourceEvent::Failed(failure));
                }
            }
            SourceAction::Ask(term) => {
                let to = Host::DESTINATIONS[self.a.to];
                self.asks.insert(Ask {
                    asker: Host::A,
                    question: Question::DoYouRun,
                    agent: false,
                    to,
                    term,
                    answer: None,
                });
            }
            SourceAction::Throttle(_) | SourceAction::Say(_) => {}
            SourceAction::Finish(outcome) => self.finish_a(&outcome),
        }
    }

    fn note_a(&mut self, standing: Standing, term: Term) -> Result<(), Failure> {
        if std::mem::take(&mut self.a.life.failing) {
            return Err(failure(Fault::Journal));
        }
        let to = Host::DESTINATIONS[self.a.to];
        self.a.life.journal.note((standing, term, to));
        Ok(())
    }

    fn finish_a(&mut self, outcome: &Outcome) {
        self.a.life.said = Some(outcome.into());
        self.a.jobs.push_back(match outcome {
            Outcome::Aborted(_) => Job::Retreat,
            Outcome::Completed { .. } | Outcome::InDoubt { .. } => Job::LetGo,
        });
        (self.a.pass, self.a.opening, self.a.connecting) = (None, None, false);
        self.a.inbox.clear();
    }

    // --- the hands --------------------------------------------------------------------------

    /// The guest runs on here, and is another one than before: it has written.
    pub(crate) fn run_on(&mut self) {
        if !self.a.life.running {
            self.a.life.running = true;
            self.truth += 1;
        }
    }

    fn parked(&self) -> SourceEvent {
        let at = usize::from(self.truth);
        let state: &'static [u8] = &CONTENTS[at..=at];
        SourceEvent::Paused { pending: PageCount(1), state: state.into() }
    }

    pub(crate) fn job_a(&mut self) {
        let Some(job) = self.a.jobs.pop_front() else { return };
        let event = match job {
            Job::Arm => return self.armed(),
            Job::Harvest => return self.feed_a(SourceEvent::Harvested(Harvest::default())),
            Job::Look => return self.feed_a(SourceEvent::Looked(Harvest::default())),
            Job::Pause if std::mem::take(&mut self.a.life.failing) => {
                SourceEvent::Failed(failure(Fault::Guest))
            }
            Job::Pause => {
                self.a.life.running = false;
                self.parked()
            }
            Job::Verify if std::mem::take(&mut self.a.life.failing) => {
                SourceEvent::Failed(failure(Fault::Memory))
            }
            Job::Verify => self.verify_a(),
            Job::Record(..) if std::mem::take(&mut self.a.life.failing) => {
                SourceEvent::Failed(failure(Fault::Journal))
            }
            Job::Record(standing, term) => {
                let peer = Host::DESTINATIONS[self.a.to];
                self.a.life.journal.record((standing, term, peer));
                SourceEvent::Recorded(standing)
            }
            Job::Compare(sums) => self.compare_a(&sums),
            Job::Resume | Job::Retreat => return self.run_on(),
            Job::LetGo => return,
        };
        if self.a.life.drives() {
            self.a.inbox.push_back(event);
        }
    }

    fn armed(&mut self) {
        if self.verify == Verify::Full {
            self.feed_a(REHEARSED);
        }
        self.feed_a(SourceEvent::Armed);
    }

    /// wire.md V2: what nobody was about to send and is not what the destination holds goes too.
    fn verify_a(&mut self) -> SourceEvent {
        let a = &mut self.a;
        if self.mutant != Some(Mutant::SkipVerifyHere) {
            a.cold_goes |= a.cold != a.there.cold;
        }
        self.feed_a(REHEARSED);
        SourceEvent::Verified
    }

    /// The pages that differ are to go again; the hot one does anyway.
    fn compare_a(&mut self, named: &Sums) -> SourceEvent {
        let a = &mut self.a;
        let mut differ = a.there.differ(named);
        if self.mutant == Some(Mutant::RepairNothing) {
            differ = [false; 2];
        }
        let mut again = false;
        for (spoiled, differs) in a.spoiled.iter_mut().zip(differ) {
            again |= *spoiled && differs;
            *spoiled |= differs;
        }
        a.cold_goes |= differ[1];
        let pages = differ.iter().filter(|differs| **differs).count();
        SourceEvent::Spoiled { pages: PageCount(pages as u64), again }
    }

    /// What is sent in a pause, and counts as held by the destination from then on.
    fn last_pages(&mut self) -> Batch {
        let a = &mut self.a;
        let cold = a.cold_goes.then_some(a.cold);
        a.there = Pages { hot: self.truth, cold: cold.unwrap_or(a.there.cold) };
        Batch { hot: self.truth, cold }
    }

    /// The driver has ended and the hands are done: the process says what it has.
    pub(crate) fn settle_a(&mut self) {
        let done = self.a.life.alive && self.a.jobs.is_empty();
        let (Some(said), Holds::Moving, true) = (self.a.life.said, self.a.life.holds, done) else {
            return;
        };
        self.a.life.holds = match said {
            Said::Completed(_) => Holds::Gone,
            Said::Aborted => Holds::Here,
            Said::InDoubt(term) => Holds::InDoubt(term),
        };
        self.a.lane = None;
        self.close_at_source();
    }

    // --- lanes ------------------------------------------------------------------------------

    /// Whether what the lanes are at can come to its end.
    pub(crate) fn passes(&self) -> bool {
        match self.a.pass {
            Some(Pass::Round | Pass::Quiesce(_)) => true,
            Some(Pass::Flush(_)) => self.a.lane.is_some(),
            None => false,
        }
    }

    pub(crate) fn pass_a(&mut self) {
        let Some(pass) = self.a.pass.take() else { return };
        match pass {
            Pass::Round => self.feed_a(SourceEvent::RoundTaken),
            Pass::Quiesce(number) => self.feed_a(SourceEvent::Quiesced(number)),
            Pass::Flush(flush) => {
                let Some((id, last)) = self.a.lane.as_mut() else { return };
                *last = last.next();
                let (id, last) = (*id, *last);
                let batch = self.last_pages();
                let there = self.d[self.a.to].lane.as_mut().filter(|lane| lane.id == id);
                if let Some(lane) = there {
                    lane.wire.push_back((last, batch));
                }
                let (root, sent) = (self.a.there.root(), BTreeMap::from([(id, last)]));
                self.feed_a(SourceEvent::Flushed { flush, root, sent });
            }
        }
    }

    /// The lane's greeting arrives, and its answer.
    pub(crate) fn open_lane(&mut self) {
        let Some((lane, token)): Option<LaneTicket> = self.a.opening.take() else { return };
        let Some((session, epoch)) = self.a.machine.session() else { return };
        let there = &mut self.d[self.a.to];
        let hello = LaneHello { session, epoch, lane, token };
        let admitted = there.life.drives() && there.machine.admit(&hello).is_ok();
        if !admitted {
            return self.feed_a(SourceEvent::LaneFailed(lane, "not let in".into()));
        }
        there.lane = Some(Lane { id: lane, wire: Default::default(), closing: false });
        self.poll_d(self.a.to);
        self.a.lane = Some((lane, BatchSeq(0)));
        self.feed_a(SourceEvent::LaneUp(lane));
    }

    /// Whether the lane that is up here has ended there.
    pub(crate) fn lane_is_gone(&self) -> bool {
        let there = self.d[self.a.to].lane.as_ref().map(|lane| lane.id);
        self.a.lane.is_some_and(|(lane, _)| there != Some(lane))
    }

    pub(crate) fn lose_lane(&mut self) {
        if let Some((lane, _)) = self.a.lane.take() {
            self.feed_a(SourceEvent::LaneFailed(lane, "it broke".into()));
        }
    }

    // --- the link ---------------------------------------------------------------------------

    /// The attempt to connect comes to its end.
    pub(crate) fn connected(&mut self) {
        self.a.connecting = false;
        let there = &mut self.d[self.a.to];
        if !there.life.drives() {
            return self.feed_a(SourceEvent::LinkLost("nobody answers".into()));
        }
        there.links.push(Link::new());
        self.feed_a(SourceEvent::LinkUp);
    }

    fn close_at_source(&mut self) {
        if let Some(link) = self.link_a() {
            link.source = false;
            link.to_source.clear();
        }
        self.d[self.a.to].links.retain(|link| !link.is_over());
    }

    /// The connection that the source has.
    pub(crate) fn link_a(&mut self) -> Option<&mut Link> {
        self.d[self.a.to].links.iter_mut().find(|link| link.source)
    }

    fn send_to_destination(&mut self, message: Message) {
        if let Message::Grant(term) = message {
            self.granted = Some(term);
        }
        let message = match message {
            Message::Ping(_) => return,
            Message::Abort(_) => Message::Abort(String::new()),
            message => message,
        };
        if let Some(link) = self.link_a().filter(|link| link.cut == Cut::Whole)
            && link.end != End::Closed
        {
            link.to_destination.push_back(message);
        }
    }

    /// The source notices that its connection is gone.
    pub(crate) fn notice_a(&mut self) {
        self.close_at_source();
        self.feed_a(SourceEvent::LinkLost("cut".into()));
    }

    pub(crate) fn hear_a(&mut self) {
        let Some(message) = self.link_a().and_then(|link| link.to_source.pop_front()) else {
            return;
        };
        self.moved |= matches!(message, Message::Running(_));
        self.feed_a(SourceEvent::Message(message));
    }
}
