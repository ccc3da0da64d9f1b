//! `select() -> event`, then a synchronous `apply(action)`: everything after the await is plain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::watch;
use whimbrel_protocol::batch::LaneHello;
use whimbrel_protocol::ledger::Pass;
use whimbrel_protocol::{
    Failure, Fault, LaneMark, LaneTicket, Message, Now, Outcome, Question, Record, SessionId,
    Source, SourceAction, SourceEvent, Standing, Subject, Term,
};

use super::Happened;
use super::account::Account;
use super::hands::{Hands, Job};
use crate::ended::{Ended, HungGuest, Returned};
use crate::journal::SharedJournal;
use crate::lanes::{Due, LaneEvent, SourceLanes, in_this_span};
use crate::link::{Connection, Link, LinkEvent, LinkNumber};
use crate::options::{DestinationAddress, OutgoingOptions};
use crate::progress::Progress;

/// An attempt to open the control connection has ended.
pub(super) struct Connected {
    number: LinkNumber,
    link: Result<Connection, String>,
}

pub(super) struct Driver {
    source: Source,
    destination: DestinationAddress,
    options: OutgoingOptions,
    subject: Subject,
    hands: Hands,
    lanes: SourceLanes,
    journal: SharedJournal,
    began: Instant,
    link: Option<Link>,
    /// The newest connection, or attempt at one; what older ones say is not heard.
    number: LinkNumber,
    flush: Option<u32>,
    /// The number of the pass that is under way: what an older one reports is not heard.
    pass: u32,
    /// Ends the verification that is under way.
    stop_verifying: Arc<AtomicBool>,
    outcome: Option<Outcome>,
}

enum Input {
    Happened(Happened),
    Lane(LaneEvent),
    Cancel(String),
    Time,
}

impl Driver {
    pub(super) fn new(
        subject: Subject,
        destination: DestinationAddress,
        options: OutgoingOptions,
        hands: Hands,
        lanes: SourceLanes,
        journal: SharedJournal,
    ) -> Self {
        let source =
            Source::new(Now::default(), subject.clone(), destination.token, options.source.clone());
        Self {
            source,
            destination,
            options,
            subject,
            hands,
            lanes,
            journal,
            began: Instant::now(),
            link: None,
            number: LinkNumber(0),
            flush: None,
            pass: 0,
            stop_verifying: Arc::default(),
            outcome: None,
        }
    }

    pub(super) async fn run(
        mut self,
        happened: Sender<Happened>,
        mut events: Receiver<Happened>,
        mut lanes_say: Receiver<LaneEvent>,
        mut cancel: Receiver<String>,
        publish: watch::Sender<Progress>,
    ) -> Ended {
        let allowed = self.options.source.convergence.downtime_max;
        let mut account = Account::new(self.subject.layout.pages(), allowed, publish);
        if let Some(own) = self.options.guest_heartbeat.filter(|own| allowed >= *own) {
            account.say(format!(
                "the guest may stand still for {allowed:?}, and its own heartbeat ends after \
                 {own:?}: allow less downtime, or its cluster may take it for dead"
            ));
        }
        loop {
            while let Some(action) = self.source.poll() {
                account.acts(&action, &self.source);
                self.apply(action, &happened, &mut account);
            }
            if self.outcome.is_some() || Instant::now() >= account.due() {
                account.publish(&self.source, &self.lanes);
            }
            if self.outcome.is_some() {
                break;
            }
            let due = self.next_wake(account.due());
            let input = tokio::select! {
                Some(happened) = events.recv() => Input::Happened(happened),
                Some(event) = lanes_say.recv() => Input::Lane(event),
                Some(why) = cancel.recv() => Input::Cancel(why),
                () = tokio::time::sleep_until(due) => Input::Time,
            };
            if let Some(event) = self.understand(input, &happened, &mut account) {
                account.hears(&event);
                self.tell(event);
            }
        }
        // Nobody listens any more: whoever has something to say must not wait for it to be heard.
        drop((events, lanes_say));
        self.end(account).await
    }

    fn now(&self) -> Now {
        Now(self.began.elapsed())
    }

    fn next_wake(&self, publish: Instant) -> tokio::time::Instant {
        let publish = publish.saturating_duration_since(self.began);
        let due = self.source.deadline().map_or(publish, |deadline| deadline.0.min(publish));
        (self.began + due).into()
    }

    fn tell(&mut self, event: SourceEvent) {
        if let Err(violation) = self.source.handle(self.now(), event) {
            tracing::warn!("{violation}");
        }
    }

    // --- from the world to the machine -----------------------------------------------------

    fn understand(
        &mut self,
        input: Input,
        happened: &Sender<Happened>,
        account: &mut Account,
    ) -> Option<SourceEvent> {
        match input {
            Input::Happened(Happened::Machine(event)) => Some(event),
            Input::Happened(Happened::Parked(times)) => {
                account.parked(times);
                None
            }
            Input::Happened(Happened::Missed(runs)) => {
                account.missed(&runs);
                None
            }
            Input::Happened(Happened::Scrubbed(pages)) => {
                account.scrubbed(pages);
                None
            }
            Input::Happened(Happened::Connected(connected)) => self.connected(connected, happened),
            Input::Happened(Happened::Link(event)) => self.link_event(event),
            Input::Lane(event) => self.lane_event(event, account),
            Input::Cancel(why) => Some(SourceEvent::Cancel(why)),
            Input::Time => {
                let due = self.source.deadline().is_some_and(|deadline| deadline <= self.now());
                due.then_some(SourceEvent::Tick)
            }
        }
    }

    fn connected(
        &mut self,
        connected: Connected,
        happened: &Sender<Happened>,
    ) -> Option<SourceEvent> {
        if connected.number != self.number {
            return None;
        }
        Some(match connected.link {
            Ok(connection) => {
                self.lanes.sign_with(connection.secret());
                self.link = Some(Link::start(connected.number, connection, happened.clone()));
                SourceEvent::LinkUp
            }
            Err(why) => SourceEvent::LinkLost(why),
        })
    }

    fn link_event(&mut self, event: LinkEvent) -> Option<SourceEvent> {
        let current = self.link.as_ref().map(Link::number);
        match event {
            LinkEvent::Said(number, message) if current == Some(number) => {
                Some(SourceEvent::Message(message))
            }
            LinkEvent::Lost(number, why) if current == Some(number) => {
                self.link = None;
                Some(SourceEvent::LinkLost(why))
            }
            LinkEvent::Said(..) | LinkEvent::Lost(..) => None,
        }
    }

    fn lane_event(&mut self, event: LaneEvent, account: &mut Account) -> Option<SourceEvent> {
        Some(match event {
            LaneEvent::Up(lane) => SourceEvent::LaneUp(lane),
            LaneEvent::Failed(lane, why) => SourceEvent::LaneFailed(lane, why),
            LaneEvent::Quiesced(number) => SourceEvent::Quiesced(number),
            LaneEvent::Limited { rounds, last } => SourceEvent::Limited { rounds, last },
            LaneEvent::Path(sentence) => {
                account.say(sentence);
                return None;
            }
            LaneEvent::Stuck(lane) => {
                let why = format!("lane {} does not end: it hangs in guest memory", lane.0);
                SourceEvent::Failed(Failure::new(Fault::Memory, why))
            }
            LaneEvent::RoundDue(number, due) => {
                if number.0 == self.pass {
                    self.job(match due {
                        Due::Look => Job::LeaveWritten,
                        Due::Harvest => Job::HarvestAhead,
                    });
                }
                return None;
            }
            LaneEvent::RoundTaken(tally) if tally.number.0 != self.pass => return None,
            LaneEvent::RoundTaken(tally) => {
                account.round_taken(&tally);
                match self.flush {
                    None => SourceEvent::RoundTaken,
                    Some(flush) => {
                        let (root, sent) = self.lanes.flushed();
                        SourceEvent::Flushed { flush, root, sent }
                    }
                }
            }
        })
    }

    // --- from the machine to the world -----------------------------------------------------

    fn apply(&mut self, action: SourceAction, happened: &Sender<Happened>, account: &mut Account) {
        match action {
            SourceAction::Connect => self.connect(happened),
            SourceAction::Send(message) => self.send(message),
            SourceAction::Hangup => {
                self.number.0 += 1;
                self.link = None;
                self.lanes.hang_up();
            }
            SourceAction::OpenLane(ticket) => self.open_lane(ticket),
            SourceAction::CloseLane(mark) => self.close_lane(mark),
            SourceAction::StartRound(_) => self.start_round(None),
            SourceAction::Flush(flush) => self.start_round(Some(flush)),
            SourceAction::Quiesce(number) => self.lanes.quiesce(number),
            SourceAction::Arm => self.job(Job::Arm),
            SourceAction::Harvest => self.job(Job::Harvest(Instant::now())),
            SourceAction::Rehearse => self.job(Job::Rehearse),
            SourceAction::Pause => {
                self.warn_of_pause(account);
                self.job(Job::Pause);
            }
            SourceAction::Verify => {
                self.stop_verifying = Arc::default();
                self.job(Job::Verify(self.stop_verifying.clone()));
            }
            SourceAction::Resume => {
                // The guest does not wait for a verification that nobody waits for.
                self.stop_verifying.store(true, Ordering::Relaxed);
                self.job(Job::Resume);
            }
            SourceAction::Throttle(percent) => self.job(Job::Throttle(percent)),
            SourceAction::Compare(sums) => self.job(Job::Compare(sums)),
            SourceAction::Record(standing, term) => self.record(standing, term),
            SourceAction::Note(standing, term) => self.note(standing, term),
            SourceAction::Ask(term) => self.ask(term, happened),
            SourceAction::Say(sentence) => account.say(sentence),
            SourceAction::Finish(outcome) => self.outcome = Some(outcome),
        }
    }

    /// A cluster within the guest may take it for dead.
    fn warn_of_pause(&self, account: &mut Account) {
        let (expected, own) = (self.source.estimate(), self.options.guest_heartbeat);
        if let (Some(expected), Some(own)) = (expected, own)
            && expected >= own
        {
            account.say(format!(
                "the guest is about to stand still for about {expected:.1?}, and its own heartbeat \
                 ends after {own:?}: its cluster may take it for dead"
            ));
        }
    }

    fn job(&mut self, job: Job) {
        if !self.hands.give(job) {
            let why = "the destination makes more work than this side can do";
            self.tell(SourceEvent::Failed(Failure::new(Fault::Peer, why)));
        }
    }

    fn connect(&mut self, happened: &Sender<Happened>) {
        self.number.0 += 1;
        let number = self.number;
        let within = self.options.source.greeting_timeout;
        let (happened, call) =
            (happened.clone(), self.lanes.call(self.destination.address, within));
        tokio::spawn(async move {
            let link = call.await;
            let _ = happened.send(Happened::Connected(Connected { number, link })).await;
        });
    }

    fn send(&mut self, message: Message) {
        let Some(link) = &self.link else { return };
        if let Err(why) = link.send(vec![message]) {
            self.link = None;
            self.tell(SourceEvent::LinkLost(why));
        }
    }

    fn open_lane(&self, (lane, token): LaneTicket) {
        if let Some((session, epoch)) = self.source.session() {
            self.lanes.agree_on(self.source.batch_bytes_max());
            self.lanes.open(self.destination.address, LaneHello { session, epoch, lane, token });
        }
    }

    /// A lane that does not end holds up a guest that stands still no longer than it may.
    fn close_lane(&mut self, mark: LaneMark) {
        let until = self.source.paused_until();
        let within = until.map_or(Duration::MAX, |until| until.since(self.now()));
        self.lanes.close(mark, within);
        if until.is_some_and(|until| until <= self.now()) {
            // Before anybody hears of a last round that lacks the pages of the lane.
            self.tell(SourceEvent::Tick);
        }
    }

    fn start_round(&mut self, flush: Option<u32>) {
        self.flush = flush;
        self.pass += 1;
        let pass = if flush.is_some() { Pass::UntilEmpty } else { Pass::Once };
        self.lanes.start_round(self.pass, pass);
    }

    fn record_of(&self, standing: Standing, term: Term) -> Record {
        Record {
            guest: self.subject.guest,
            term,
            session: self.source.session().map_or(SessionId(0), |(session, _)| session),
            peer: self.options.peer.clone(),
            standing,
        }
    }

    fn record(&mut self, standing: Standing, term: Term) {
        let record = self.record_of(standing, term);
        if !standing.is_note() {
            return self.job(Job::Record(record));
        }
        // It stands in the blackout. Where it does not come about, the grant is not said.
        match self.journal.note_within(record, self.options.source.pause_budget) {
            Ok(()) => self.tell(SourceEvent::Recorded(standing)),
            Err(failure) => self.tell(SourceEvent::Failed(failure)),
        }
    }

    /// The guest stands still, is this side's, and runs on after this however that goes.
    fn note(&mut self, standing: Standing, term: Term) {
        let record = self.record_of(standing, term);
        let within = self.options.source.pause_budget;
        if let Err(failure) = self.journal.note_within(record, within) {
            self.tell(SourceEvent::Failed(failure));
        }
    }

    fn ask(&self, term: Term, happened: &Sender<Happened>) {
        let Some(ask) = self.options.ask.clone() else { return };
        let (guest, happened) = (self.subject.guest, happened.clone());
        tokio::task::spawn_blocking(in_this_span(move || {
            let answer = ask.ask(Question::DoYouRun, guest, term);
            let _ = happened.blocking_send(Happened::Machine(SourceEvent::Answered(answer)));
        }));
    }

    // --- the end -----------------------------------------------------------------------------

    async fn end(mut self, account: Account) -> Ended {
        let outcome = self.outcome.take().expect("a driver ends with an outcome");
        let last = match outcome {
            Outcome::Aborted(_) => Job::Retreat,
            Outcome::InDoubt { .. } => Job::LetGo,
            Outcome::Completed { .. } => Job::Leave,
        };
        let Self { source, hands, lanes, subject, journal, link, options, .. } = self;
        lanes.stop();
        let completed = matches!(outcome, Outcome::Completed { .. });
        let told = (options.source.verify, &subject.layout);
        let report = account.close(&source, completed, told);
        let mut returned = hands.finish(last);
        let back = tokio::time::timeout(options.return_timeout, &mut returned).await;
        if let Some(link) = link {
            link.close().await;
        }
        let Ok(back) = back else {
            let hung = Some(HungGuest(returned));
            let outcome = but(outcome, &hangs(options.return_timeout));
            return Ended { outcome, guest: None, hung, journal: journal.lend(), report };
        };
        let Returned { guest, stuck, .. } = back.expect("panics of a job are caught");
        let outcome = stuck.iter().fold(outcome, but);
        let journal = journal.take_back();
        Ended { outcome, guest: Some(guest), hung: None, journal, report }
    }
}

/// What went wrong when the guest was to be given back after `outcome`.
fn but(outcome: Outcome, stuck: &Failure) -> Outcome {
    match outcome {
        Outcome::Aborted(failure) => {
            let why = format!("{}; and then {}", failure.why, stuck.why);
            Outcome::Aborted(Failure::new(stuck.fault, why))
        }
        other => other,
    }
}

fn hangs(within: Duration) -> Failure {
    let why = format!("the guest did not answer for {within:?}; it runs on when it does");
    Failure::new(Fault::Guest, why)
}
