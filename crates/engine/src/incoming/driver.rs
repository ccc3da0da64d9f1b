//! `select() -> event`, then a synchronous `apply(action)`, on the destination.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;
use tracing::Instrument;
use whimbrel_memory::Landing;
use whimbrel_page::{ByteCount, PageCount, Root};
use whimbrel_protocol::batch::{LaneAnswer, LaneHello, LaneRefusal};
use whimbrel_protocol::limits::{BATCH_PAYLOAD_MAX, LANES_MAX};
use whimbrel_protocol::{
    BatchSeq, Destination, DestinationAction, DestinationEvent, DestinationOptions, Failure, Fault,
    Feature, GuestUuid, Hello, LaneId, LaneMark, Message, Now, Outcome, Question, Record, Rejected,
    Standing, Term, Token, VERIFY_FULL,
};
use whimbrel_transport::{Caller, Door, End, LaneSecret};

use super::hands::{Hands, Job, Last};
use super::{CONTROL, Happened, LANE, Secrets, greeting};
use crate::ended::{Ended, HungGuest};
use crate::journal::SharedJournal;
use crate::lanes::{DestinationLanes, EVENTS_MAX, LandEvent, in_this_span, sign};
use crate::link::{Connection, Link, LinkEvent, LinkNumber};
use crate::options::IncomingOptions;
use crate::progress::{Progress, Report};

/// How often a look is published: whoever looks costs time too.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Driver {
    destination: Destination,
    options: IncomingOptions,
    hands: Hands,
    journal: SharedJournal,
    happened: Sender<Happened>,
    lane_events: Sender<LandEvent>,
    lanes_say: Receiver<LandEvent>,
    /// Once the memory is reserved.
    lanes: Option<DestinationLanes>,
    /// The root that the source was told.
    landed: Root,
    guest: Option<GuestUuid>,
    ram: ByteCount,
    pages: PageCount,
    began: Instant,
    /// When the next look is due.
    look_due: Instant,
    link: Option<Link>,
    /// Of the newest control connection, where lanes are signed.
    secret: Option<LaneSecret>,
    number: LinkNumber,
    progress: Progress,
    outcome: Option<Outcome>,
}

enum Input {
    Happened(Happened),
    Lane(LandEvent),
    Caller(Caller),
    Cancel(String),
    Asked(Term),
    Time,
}

impl Driver {
    pub(super) fn new(
        token: Token,
        options: IncomingOptions,
        hands: Hands,
        journal: SharedJournal,
        happened: Sender<Happened>,
    ) -> io::Result<Self> {
        let secrets = Secrets::draw()?;
        let offer = DestinationOptions {
            session: secrets.session,
            token,
            resume_token: secrets.resume_token,
            lane_tokens: secrets.lane_tokens,
            // wire.md V1
            features: vec![Feature { name: VERIFY_FULL.into(), mandatory: false }],
            lanes_max: options.lanes_max.clamp(1, LANES_MAX as u16),
            batch_bytes_max: BATCH_PAYLOAD_MAX.0 as u32,
            greeting_timeout: options.greeting_timeout,
            silence_timeout: options.silence_timeout,
            resume_window: options.resume_window,
            step_timeout: options.step_timeout,
            doubt_timeout: options.doubt_timeout,
        };
        let (lane_events, lanes_say) = channel(EVENTS_MAX);
        Ok(Self {
            destination: Destination::new(Now::default(), offer),
            options,
            hands,
            journal,
            happened,
            lane_events,
            lanes_say,
            lanes: None,
            landed: Root::default(),
            guest: None,
            ram: ByteCount::ZERO,
            pages: PageCount::ZERO,
            began: Instant::now(),
            look_due: Instant::now(),
            link: None,
            secret: None,
            number: LinkNumber(0),
            progress: Progress::default(),
            outcome: None,
        })
    }

    pub(super) async fn run(
        mut self,
        mut door: Door,
        mut events: Receiver<Happened>,
        (mut cancel, mut asked): (Receiver<String>, Receiver<Term>),
        publish: watch::Sender<Progress>,
    ) -> Ended {
        loop {
            while let Some(action) = self.destination.poll() {
                self.apply(action);
            }
            if self.outcome.is_some() || Instant::now() >= self.look_due {
                self.publish(&publish);
            }
            if self.outcome.is_some() {
                break;
            }
            let due = self.next_wake();
            let input = tokio::select! {
                Some(happened) = events.recv() => Input::Happened(happened),
                Some(event) = self.lanes_say.recv() => Input::Lane(event),
                caller = door.next() => Input::Caller(caller),
                Some(why) = cancel.recv() => Input::Cancel(why),
                Some(term) = asked.recv() => Input::Asked(term),
                () = tokio::time::sleep_until(due) => Input::Time,
            };
            if let Some(event) = self.understand(input) {
                self.tell(event);
            }
        }
        // Nobody listens any more: whoever has something to say must not wait for it to be heard.
        drop(events);
        self.end().await
    }

    fn now(&self) -> Now {
        Now(self.began.elapsed())
    }

    fn next_wake(&self) -> tokio::time::Instant {
        let look = self.look_due.saturating_duration_since(self.began);
        let due = self.destination.deadline().map_or(look, |at| at.0.min(look));
        (self.began + due).into()
    }

    fn tell(&mut self, event: DestinationEvent) {
        if let Err(violation) = self.destination.handle(self.now(), event) {
            tracing::warn!("{violation}");
        }
    }

    // --- from the world to the machine -----------------------------------------------------

    fn understand(&mut self, input: Input) -> Option<DestinationEvent> {
        match input {
            Input::Happened(Happened::Machine(event)) => return Some(event),
            Input::Happened(Happened::Reserved(landing)) => self.reserved(landing),
            Input::Happened(Happened::Greeting(hello, connection)) => {
                self.greeted(&hello, connection);
            }
            Input::Happened(Happened::Link(event)) => return self.link_event(event),
            Input::Lane(LandEvent::Ended(mark, why)) => {
                tracing::info!("lane {} ended: {why}", mark.lane.0);
                return Some(DestinationEvent::LaneEnded(mark));
            }
            Input::Lane(LandEvent::CountsReached(term, root)) => {
                self.landed = root;
                return Some(DestinationEvent::Landed(term, root));
            }
            Input::Caller(caller) => self.called(caller),
            Input::Cancel(why) => return Some(DestinationEvent::Cancel(why)),
            Input::Asked(term) => return Some(DestinationEvent::Asked(term)),
            Input::Time => {
                let due = self.destination.deadline().is_some_and(|at| at <= self.now());
                return due.then_some(DestinationEvent::Tick);
            }
        }
        None
    }

    fn reserved(&mut self, landing: Arc<Landing>) {
        let options = self.options.lanes.clone();
        self.lanes = Some(DestinationLanes::new(landing, options, self.lane_events.clone()));
    }

    fn called(&mut self, caller: Caller) {
        match caller.kind {
            CONTROL => {
                let (options, tell) = (self.options.clone(), self.happened.clone());
                let greeted = greeting(caller, options, tell).in_current_span();
                drop(tokio::spawn(greeted));
            }
            LANE => self.lane_called(caller),
            _ => unreachable!("the door has two kinds"),
        }
    }

    /// A lane is answered before it lands anything; whose it is not is told why.
    fn lane_called(&mut self, mut caller: Caller) {
        let frame = caller.hello.as_slice().try_into().expect("the door reads frames of this size");
        let hello = match LaneHello::decode(frame) {
            Ok(hello) => hello,
            Err(error) => return tracing::warn!("{} is no lane: {error}", caller.from),
        };
        let admitted = match &self.lanes {
            Some(_) => self.destination.admit(&hello),
            None => Err(LaneRefusal::Session),
        };
        let (within, stall) = (self.options.lanes.open_timeout, self.options.lanes.stall_timeout);
        let answer = LaneAnswer(admitted).encode();
        let lanes = self.lanes.clone().filter(|_| admitted.is_ok());
        let events = self.lane_events.clone();
        let (carrier, secret) = (self.options.lanes.carrier.clone(), self.secret.clone());
        let landing = async move {
            let answered = caller.answer(&answer, within).await.map_err(|error| error.to_string());
            let Some(lanes) = lanes else { return };
            let opening = caller.hello.clone();
            let connection = answered.and_then(|()| {
                let lane = caller.into_lane(stall).map_err(|error| error.to_string())?;
                sign(lane, &carrier, secret, &opening, End::Destination)
            });
            match connection {
                Ok(connection) => lanes.land(hello.lane, connection),
                Err(why) => {
                    let _ = events.send(LandEvent::Ended(nothing_landed(hello.lane), why)).await;
                }
            }
        };
        drop(tokio::spawn(landing.in_current_span()));
    }

    fn greeted(&mut self, hello: &Hello, connection: Connection) {
        match self.destination.greet(self.now(), hello) {
            Ok(()) => {
                self.number.0 += 1;
                self.secret = connection.secret();
                self.link = Some(Link::start(self.number, connection, self.happened.clone()));
            }
            Err(failure) => {
                tracing::warn!("a source was turned away: {failure}");
                let rejected = Rejected { fault: failure.fault, why: failure.why };
                tokio::spawn(async move {
                    connection.dismiss(&Message::Rejected(rejected)).await;
                });
            }
        }
    }

    fn link_event(&mut self, event: LinkEvent) -> Option<DestinationEvent> {
        let current = self.link.as_ref().map(Link::number);
        match event {
            LinkEvent::Said(number, message) if current == Some(number) => {
                Some(DestinationEvent::Message(message))
            }
            LinkEvent::Lost(number, why) if current == Some(number) => {
                self.link = None;
                Some(DestinationEvent::LinkLost(why))
            }
            LinkEvent::Said(..) | LinkEvent::Lost(..) => None,
        }
    }

    // --- from the machine to the world -----------------------------------------------------

    fn apply(&mut self, action: DestinationAction) {
        match action {
            DestinationAction::Send(message) => self.send(message),
            DestinationAction::Hangup => self.link = None,
            DestinationAction::Reserve(plan) => {
                self.guest = Some(plan.guest);
                self.ram = plan.layout.bytes();
                self.pages = plan.layout.pages();
                self.job(Job::Reserve(plan));
                self.job(Job::Rehearse);
            }
            DestinationAction::CloseLane(lane) => self.with_lanes(|lanes| lanes.close(lane)),
            DestinationAction::Create => self.job(Job::Create),
            DestinationAction::AwaitCounts(term, counts) => self.await_counts(term, counts),
            DestinationAction::Verify(term) => {
                let lanes = self.lanes.clone().expect("something has landed");
                lanes.begin_verifying();
                self.job(Job::Verify(term, lanes));
            }
            DestinationAction::Load(term, state) => self.job(Job::Load(term, state)),
            DestinationAction::Release => self.job(Job::Release),
            DestinationAction::Run(term) => self.run_guest(term),
            DestinationAction::SendSums => self.send_sums(),
            DestinationAction::Record(standing, term) => self.record(standing, term),
            DestinationAction::Ask(term) => self.ask(term),
            DestinationAction::Say(sentence) => {
                tracing::info!("{sentence}");
                self.progress.events.push((self.began.elapsed(), sentence));
            }
            DestinationAction::Finish(outcome) => self.outcome = Some(outcome),
        }
    }

    fn job(&mut self, job: Job) {
        if !matches!(job, Job::Verify(..)) {
            // Whatever else is to be done does not wait for a verification that is not needed.
            self.with_lanes(DestinationLanes::stop_verifying);
        }
        if !self.hands.give(job) {
            let why = "the source makes more work than this side can do";
            self.tell(DestinationEvent::Failed(Failure::new(Fault::Peer, why)));
        }
    }

    fn with_lanes(&self, act: impl FnOnce(&DestinationLanes)) {
        if let Some(lanes) = &self.lanes {
            act(lanes);
        }
    }

    /// From here on the memory belongs to the guest. A batch that came after the roots were
    /// compared is no page of this guest: it does not run on what it did not agree to.
    fn run_guest(&mut self, term: Term) {
        let sealed = self.lanes.as_ref().map(DestinationLanes::seal).unwrap_or_default();
        if sealed.agrees(self.landed) {
            return self.job(Job::Run(term));
        }
        let why = "pages arrived after the source had said that all were sent";
        self.tell(DestinationEvent::Failed(Failure::new(Fault::Peer, why)));
    }

    fn await_counts(&self, term: Term, counts: Vec<(LaneId, BatchSeq)>) {
        self.with_lanes(|lanes| lanes.await_counts(term, counts));
    }

    fn send(&mut self, message: Message) {
        self.send_all(vec![message]);
    }

    fn send_all(&mut self, messages: Vec<Message>) {
        let Some(link) = &self.link else { return };
        if let Err(why) = link.send(messages) {
            self.link = None;
            self.tell(DestinationEvent::LinkLost(why));
        }
    }

    fn send_sums(&mut self) {
        let sums = self.lanes.as_ref().map(DestinationLanes::sums).unwrap_or_default();
        self.send_all(sums.into_iter().map(Message::Sums).collect());
    }

    fn record_of(&self, standing: Standing, term: Term) -> Record {
        Record {
            guest: self.guest.expect("planned before anything is recorded"),
            term,
            session: self.destination.session().0,
            peer: self.options.peer.clone(),
            standing,
        }
    }

    fn record(&mut self, standing: Standing, term: Term) {
        let record = self.record_of(standing, term);
        if !standing.is_note() {
            return self.job(Job::Record(record));
        }
        match self.journal.note_within(record, self.options.step_timeout) {
            Ok(()) => self.tell(DestinationEvent::Recorded(standing)),
            Err(failure) => self.tell(DestinationEvent::Failed(failure)),
        }
    }

    fn ask(&self, term: Term) {
        let (Some(ask), Some(guest)) = (self.options.ask.clone(), self.guest) else { return };
        let happened = self.happened.clone();
        tokio::task::spawn_blocking(in_this_span(move || {
            let answer = ask.ask(Question::MayIRun, guest, term);
            let answered = DestinationEvent::Answered(term, answer);
            let _ = happened.blocking_send(Happened::Machine(answered));
        }));
    }

    // --- what people see, and the end ------------------------------------------------------

    fn publish(&mut self, publish: &watch::Sender<Progress>) {
        self.look_due = Instant::now() + PUBLISH_INTERVAL;
        self.progress.session = Some(self.destination.session().0);
        self.progress.phase = self.destination.phase();
        self.progress.elapsed = self.began.elapsed();
        self.progress.pages_total = self.pages;
        if let Some(lanes) = &self.lanes {
            self.progress.lanes = lanes.reports();
            self.progress.bytes_on_wire = self.progress.lanes.iter().map(|lane| lane.bytes).sum();
        }
        publish.send_replace(self.progress.clone());
    }

    async fn end(mut self) -> Ended {
        let outcome = self.outcome.take().expect("a driver ends with an outcome");
        let completed = matches!(outcome, Outcome::Completed { .. });
        let aborted = matches!(outcome, Outcome::Aborted(_));
        let report = Report {
            total: self.began.elapsed(),
            pages_verified: if completed { self.pages } else { PageCount::ZERO },
            guest_ram: self.ram,
            progress: std::mem::take(&mut self.progress),
            ..Report::default()
        };
        let unsettled = match &outcome {
            Outcome::InDoubt { term, .. } => Some(self.record_of(Standing::Running, *term)),
            Outcome::Completed { .. } | Outcome::Aborted(_) => None,
        };
        self.with_lanes(DestinationLanes::stop);
        let mut returned = self.hands.finish(Last { lanes: self.lanes, unsettled });
        let back = tokio::time::timeout(self.options.return_timeout, &mut returned).await;
        if let Some(link) = self.link {
            link.close().await;
        }
        let Ok(back) = back else {
            let hung = Some(HungGuest(returned)).filter(|_| !aborted);
            return Ended { outcome, guest: None, hung, journal: self.journal.lend(), report };
        };
        let back = back.ok();
        let outcome = settled(outcome, back.as_ref().is_some_and(|back| back.runs));
        let completed = matches!(outcome, Outcome::Completed { .. });
        let guest = back.map(|back| back.guest).filter(|_| completed);
        Ended { outcome, guest, hung: None, journal: self.journal.take_back(), report }
    }
}

/// There is no doubt any more about a guest that has answered.
fn settled(outcome: Outcome, runs: bool) -> Outcome {
    match outcome {
        Outcome::InDoubt { term, .. } if runs => Outcome::Completed { term },
        Outcome::InDoubt { why, .. } => Outcome::Aborted(Failure::new(Fault::Guest, why)),
        other => other,
    }
}

const fn nothing_landed(lane: LaneId) -> LaneMark {
    LaneMark { lane, batch: BatchSeq(0), sum: whimbrel_page::LeafSum::ZERO }
}
