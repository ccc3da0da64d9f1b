//! What every phase of the destination shares: the link, the lanes, what was recorded.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::own::Refusing;
use super::{Common, DestinationAction, DestinationEvent, DestinationOptions, Phase};
use crate::batch::{LaneHello, LaneRefusal};
use crate::verify::Cost;
use crate::{
    BatchSeq, Epoch, Failure, Fault, Hello, LaneClosed, LaneId, LaneMark, LaneTicket, Message, Now,
    Offer, Outcome, PROTOCOL_VERSIONS, Rejected, Resumed, SessionId, Standing, Term, Token,
    Violation,
};
use whimbrel_page::LeafSum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// A ticket was given out.
    Issued(Token),
    Open,
    /// Its end was asked for.
    Closing,
    /// It has ended so far on.
    Closed(LaneMark),
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Core {
    pub(super) options: DestinationOptions,
    pub(super) now: Now,
    pub(super) actions: VecDeque<DestinationAction>,
    pub(super) phase: &'static str,
    pub(super) violation: Option<Violation>,
    pub(super) epoch: Epoch,
    /// Every lane the session ever had; its size is bounded by the number of lane tokens.
    lanes: BTreeMap<LaneId, Lane>,
    /// Lanes the plan asked for.
    pub(super) lanes_wanted: u16,
    /// What a full verification of the guest's memory may cost here, if the plan asks for one.
    pub(super) verification: Option<Cost>,
    /// A resumption waits for the old epoch's lanes to end.
    resuming: bool,
    /// The term this host has recorded that it may own.
    pub(super) may_own: Option<Term>,
    /// Whether it has said that it is prepared: the source may have granted.
    pub(super) promised: bool,
    link: bool,
    heard: Now,
    /// Since when there is no link, once there was one.
    unlinked: Option<Now>,
}

impl Core {
    pub(super) fn new(now: Now, options: DestinationOptions) -> Self {
        Self {
            options,
            now,
            actions: VecDeque::new(),
            phase: "waiting for the source",
            violation: None,
            epoch: Epoch(0),
            lanes: BTreeMap::new(),
            lanes_wanted: 0,
            verification: None,
            resuming: false,
            may_own: None,
            promised: false,
            link: false,
            heard: now,
            unlinked: None,
        }
    }

    pub(super) fn act(&mut self, action: DestinationAction) {
        self.actions.push_back(action);
    }

    pub(super) fn send(&mut self, message: Message) {
        if self.link {
            self.act(DestinationAction::Send(message));
        }
    }

    pub(super) fn say(&mut self, sentence: impl Into<String>) {
        self.act(DestinationAction::Say(sentence.into()));
    }

    pub(super) const fn after_greeting(&self) -> Now {
        self.now.after(self.options.greeting_timeout)
    }

    /// When a verification that takes more than twice what it was rehearsed to take hangs.
    pub(super) fn after_verification(&self, cost: Cost) -> Now {
        self.after_step().after(cost.time().saturating_mul(2))
    }

    pub(super) const fn after_step(&self) -> Now {
        self.now.after(self.options.step_timeout)
    }

    /// A step of this host was not done in time.
    pub(super) fn step_hangs(&mut self, what: &str) -> Phase {
        let within = self.options.step_timeout.as_millis();
        self.abort_by(Fault::Guest, format!("{what} did not come about within {within} ms"))
    }

    pub(super) const fn linked(&self) -> bool {
        self.link
    }

    // --- the link ----------------------------------------------------------------------------

    pub(super) fn taken(&self) -> Failure {
        Failure::new(Fault::Capacity, "a source has begun this session already; ask for a new one")
    }

    pub(super) fn no_session(&self) -> Failure {
        Failure::new(Fault::Link, "there is no such session here any more; begin a new migration")
    }

    fn wrong_token(&self) -> Failure {
        let why = "the session's token is wrong: it is handed out by the destination's agent, once";
        Failure::new(Fault::Incompatible, why)
    }

    /// The first connection of the session (wire.md S1).
    pub(super) fn begin(&mut self, hello: &Hello) -> Result<(), Failure> {
        if hello.token != self.options.token {
            return Err(self.wrong_token());
        }
        self.link_up();
        let offer = self.offer();
        self.send(Message::Offer(offer));
        Ok(())
    }

    pub(super) fn offer(&self) -> Offer {
        Offer {
            session: self.options.session,
            version_min: *PROTOCOL_VERSIONS.start(),
            version_max: *PROTOCOL_VERSIONS.end(),
            features: self.options.features.clone(),
            lanes_max: self.options.lanes_max,
            batch_bytes_max: self.options.batch_bytes_max,
        }
    }

    /// The next connection of the session: all lanes of the older ones are fenced first (wire.md
    /// S6).
    pub(super) fn resume(
        &mut self,
        token: Token,
        session: SessionId,
        epoch: Epoch,
    ) -> Result<(), Failure> {
        if token != self.options.resume_token {
            return Err(self.wrong_token());
        }
        if session != self.options.session || epoch <= self.epoch {
            return Err(self.no_session());
        }
        self.epoch = epoch;
        self.link_up();
        self.resuming = true;
        self.fence();
        self.try_resumed();
        Ok(())
    }

    fn link_up(&mut self) {
        self.link = true;
        self.heard = self.now;
        self.unlinked = None;
    }

    fn link_lost(&mut self) {
        self.link = false;
        self.resuming = false;
        self.unlinked = Some(self.now);
        self.fence();
    }

    /// Handles what means the same in every phase. `may_run` phases are left by their own ways.
    pub(super) fn common(&mut self, event: DestinationEvent, may_run: bool) -> Common {
        match event {
            DestinationEvent::Message(message) => self.heard(message),
            DestinationEvent::LinkLost(why) => {
                self.link_lost();
                self.say(format!("the link was lost: {why}"));
                Common::Phase(DestinationEvent::LinkLost(why))
            }
            DestinationEvent::LaneEnded(mark) => {
                self.lane_ended(mark);
                Common::Done
            }
            DestinationEvent::Digested(bytes, took) => {
                if let Some(cost) = &mut self.verification {
                    cost.there(bytes, took);
                }
                self.send(Message::Digested(bytes, took));
                Common::Done
            }
            DestinationEvent::Cancel(_) if may_run => Common::Done,
            // Only who is prepared can take a grant; the asker is told so by the record.
            DestinationEvent::Asked(_) if !may_run => Common::Done,
            DestinationEvent::Cancel(why) => Common::Abort(Failure::new(Fault::Cancelled, why)),
            DestinationEvent::Failed(failure) if !may_run => Common::Abort(failure),
            DestinationEvent::Tick => self.tick(may_run),
            other => Common::Phase(other),
        }
    }

    fn heard(&mut self, message: Message) -> Common {
        if !self.link {
            return Common::Done;
        }
        self.heard = self.now;
        match message {
            // wire.md C12: at once, whatever the phase.
            Message::Ping(number) => {
                self.send(Message::Pong(number));
                Common::Done
            }
            Message::LaneLost(lane) => {
                self.lane_lost(lane);
                Common::Done
            }
            other => Common::Phase(DestinationEvent::Message(other)),
        }
    }

    fn tick(&mut self, may_run: bool) -> Common {
        if self.link && self.now >= self.heard.after(self.options.silence_timeout) {
            self.act(DestinationAction::Hangup);
            self.link_lost();
            return Common::Phase(DestinationEvent::LinkLost("the source was silent".into()));
        }
        if !may_run && self.window_end().is_some_and(|end| self.now >= end) {
            let why = "the source did not come back within the resume window";
            return Common::Abort(Failure::new(Fault::Link, why));
        }
        Common::Phase(DestinationEvent::Tick)
    }

    fn window_end(&self) -> Option<Now> {
        self.unlinked.map(|since| since.after(self.options.resume_window))
    }

    pub(super) fn deadline(&self, may_run: bool) -> Option<Now> {
        let silence = self.link.then(|| self.heard.after(self.options.silence_timeout));
        // Past its end the window wakes nobody who has to wait for something else.
        silence.or(self.window_end().filter(|end| *end > self.now || !may_run))
    }

    // --- lanes -------------------------------------------------------------------------------

    /// Tickets for up to `count` new lanes; fewer once the session has used up its numbers, none of
    /// which is used twice (wire.md S3).
    pub(super) fn issue(&mut self, count: u16) -> Vec<LaneTicket> {
        let first = self.lanes.len();
        let fresh = self.options.lane_tokens.iter().enumerate().skip(first);
        let tickets: Vec<LaneTicket> = fresh
            .take(usize::from(count))
            .map(|(number, token)| (LaneId(number as u16), *token))
            .collect();
        self.lanes.extend(tickets.iter().map(|(lane, token)| (*lane, Lane::Issued(*token))));
        tickets
    }

    /// wire.md S3: a lane is bound to its session by a token that is used once.
    pub(super) fn admit(&mut self, hello: &LaneHello) -> Result<(), LaneRefusal> {
        if hello.session != self.options.session {
            return Err(LaneRefusal::Session);
        }
        if hello.epoch != self.epoch || !self.link {
            return Err(LaneRefusal::Epoch);
        }
        match self.lanes.get_mut(&hello.lane) {
            None => Err(LaneRefusal::Token),
            Some(Lane::Issued(token)) if *token != hello.token => Err(LaneRefusal::Token),
            Some(lane @ Lane::Issued(_)) => {
                *lane = Lane::Open;
                Ok(())
            }
            Some(_) => Err(LaneRefusal::Lane),
        }
    }

    /// Ends every lane that is open, and voids every ticket.
    fn fence(&mut self) {
        for (id, lane) in &mut self.lanes {
            match lane {
                Lane::Issued(_) => *lane = Lane::Closed(nothing_landed(*id)),
                Lane::Open => {
                    *lane = Lane::Closing;
                    self.actions.push_back(DestinationAction::CloseLane(*id));
                }
                Lane::Closing | Lane::Closed(_) => {}
            }
        }
    }

    fn lane_lost(&mut self, lane: LaneId) {
        match self.lanes.get_mut(&lane) {
            Some(state @ Lane::Open) => {
                *state = Lane::Closing;
                self.act(DestinationAction::CloseLane(lane));
            }
            Some(Lane::Issued(_)) => self.lane_ended(nothing_landed(lane)),
            // Said already, or about to be.
            Some(Lane::Closing | Lane::Closed(_)) | None => {}
        }
    }

    fn lane_ended(&mut self, mark: LaneMark) {
        if let Some(Lane::Closed(_)) | None = self.lanes.get(&mark.lane) {
            return;
        }
        self.lanes.insert(mark.lane, Lane::Closed(mark));
        if self.resuming || !self.link {
            self.try_resumed();
        } else {
            let replacement = self.issue(1).pop();
            self.send(Message::LaneClosed(LaneClosed { mark, replacement }));
        }
    }

    /// wire.md S4: what landed is said only when no thread of the old epoch can land anything more.
    fn try_resumed(&mut self) {
        let closed = self.lanes.values().map(|lane| match lane {
            Lane::Closed(mark) => Some(*mark),
            _ => None,
        });
        let Some(landed) = closed.collect::<Option<Vec<_>>>() else { return };
        if ::core::mem::take(&mut self.resuming) {
            let lanes = self.issue(self.lanes_wanted);
            self.send(Message::Resumed(Resumed { landed, lanes }));
        }
    }

    // --- ends ----------------------------------------------------------------------------------

    /// Ends the attempt. Before anything was promised the source is told at once, because it may
    /// stand still; a host that may own the guest says durably that it never will.
    pub(super) fn abort(&mut self, failure: Failure) -> Phase {
        if !self.promised {
            let why = failure.why.clone();
            self.send(Message::Rejected(Rejected { fault: failure.fault, why }));
        }
        match self.may_own {
            Some(term) => Refusing::start(self, term, failure),
            None => self.finish(Outcome::Aborted(failure)),
        }
    }

    pub(super) fn abort_by(&mut self, fault: Fault, why: impl Into<String>) -> Phase {
        self.abort(Failure::new(fault, why))
    }

    pub(super) fn finish(&mut self, outcome: Outcome) -> Phase {
        self.fence();
        self.act(DestinationAction::Finish(outcome));
        Phase::Ended
    }

    pub(super) fn record(&mut self, standing: Standing, term: Term) {
        self.act(DestinationAction::Record(standing, term));
    }

    /// The one helper for what is not allowed. A source that breaks the protocol ends the attempt
    /// where that is still ours to decide.
    pub(super) fn unexpected(&mut self, stay: Phase, event: &DestinationEvent) -> Phase {
        let by_peer = matches!(event, DestinationEvent::Message(_));
        let what = match event {
            DestinationEvent::Message(message) => message.name().to_string(),
            other => format!("{other:?}"),
        };
        let violation = Violation { phase: self.phase, event: what, by_peer };
        let next = if by_peer && !stay.may_run() {
            self.abort_by(Fault::Peer, format!("{violation}"))
        } else {
            stay
        };
        self.violation = Some(violation);
        next
    }
}

const fn nothing_landed(lane: LaneId) -> LaneMark {
    LaneMark { lane, batch: BatchSeq(0), sum: LeafSum::ZERO }
}
