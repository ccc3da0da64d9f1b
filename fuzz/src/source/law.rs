//! What a source may do, whatever it is told: the laws of `proto/wire.md`, from outside.

use std::collections::BTreeSet;

use whimbrel_protocol::{
    Answer, LaneId, Message, Outcome, SourceAction, SourceEvent, Standing, Term, Verify,
};

/// What was seen and heard, as far as the laws ask for it.
#[derive(Debug, Default)]
pub(super) struct Law {
    /// Lanes that both sides agreed on.
    lanes: u16,
    /// Whether the memory itself is to be digested, and whether that was done since the guest was
    /// parked.
    verify: Verify,
    verified: bool,
    open: BTreeSet<LaneId>,
    last_lane: Option<LaneId>,
    /// The term burned last; whether its record is durable, and whether the peer is ready.
    term: Option<Term>,
    durable: bool,
    ready: bool,
    /// From the order to park the guest to the order to run it.
    paused: bool,
    stands_still: bool,
    /// The term of the last Prepare, and whether Prepared came for it since.
    prepared: Option<(Term, bool)>,
    /// The term granted, whether its note is written, and what is known of it.
    granted: Option<Term>,
    noted: bool,
    refused: bool,
    ran: bool,
    /// The last record asked for.
    record: Option<Standing>,
    /// The action before was the note that the guest is ours.
    owner_noted: bool,
    ended: bool,
}

impl Law {
    pub(super) fn new(lanes: u16, verify: Verify) -> Self {
        Self { lanes, verify, ..Self::default() }
    }

    /// The lanes that were agreed on.
    pub(super) const fn agreed(&self) -> u16 {
        self.lanes
    }

    pub(super) fn hear(&mut self, event: &SourceEvent) {
        match event {
            SourceEvent::Message(message) => self.hear_peer(message),
            SourceEvent::Recorded(Standing::Switching) => self.durable = true,
            SourceEvent::Recorded(Standing::Granted) => self.noted |= self.granted.is_some(),
            SourceEvent::Paused { .. } => self.stands_still = self.paused,
            SourceEvent::Verified => self.verified = self.stands_still,
            SourceEvent::Answered(Answer::NeverRan) => self.refused |= self.granted.is_some(),
            SourceEvent::Answered(Answer::Runs) => self.ran |= self.granted.is_some(),
            _ => {}
        }
    }

    fn hear_peer(&mut self, message: &Message) {
        match message {
            Message::Ready(term) => self.ready |= self.term == Some(*term),
            Message::Prepared(term, root) if root.agrees(super::root()) => {
                if let Some((of, prepared)) = &mut self.prepared {
                    *prepared |= of == term;
                }
            }
            Message::Refused(term, _) => self.refused |= self.granted == Some(*term),
            Message::Running(term) => self.ran |= self.granted == Some(*term),
            _ => {}
        }
    }

    pub(super) fn see(&mut self, action: &SourceAction) {
        assert!(!self.ended, "{action:?} after the end");
        match action {
            SourceAction::Send(message) => self.see_said(message),
            SourceAction::OpenLane((lane, _)) => self.see_lane(*lane),
            SourceAction::CloseLane(mark) => {
                self.open.remove(&mark.lane);
            }
            SourceAction::Record(standing, term) => self.see_record(*standing, *term),
            SourceAction::Pause => {
                assert!(!self.paused && self.granted.is_none(), "parked already");
                assert!(self.durable && self.ready, "wire.md S7: {self:?}");
                (self.paused, self.verified) = (true, false);
            }
            SourceAction::Resume => self.see_resume(),
            SourceAction::Throttle(percent) => assert!(*percent <= 99),
            SourceAction::Finish(outcome) => self.see_end(outcome),
            _ => {}
        }
        self.owner_noted = matches!(action, SourceAction::Note(Standing::Owner, term)
            if Some(*term) == self.term);
    }

    fn see_said(&mut self, message: &Message) {
        match message {
            Message::Plan(plan) => {
                assert!(plan.lanes <= self.lanes, "{} lanes", plan.lanes);
                self.lanes = plan.lanes;
            }
            Message::Announce(term) => assert_eq!(Some(*term), self.term, "wire.md S7"),
            Message::Prepare(prepare) => {
                assert!(self.stands_still && self.granted.is_none(), "wire.md S9: {self:?}");
                assert_eq!(Some(prepare.term), self.term);
                let known = self.verify == Verify::Digest || self.verified;
                assert!(known, "wire.md V2: {self:?}");
                self.prepared = Some((prepare.term, false));
            }
            Message::Grant(term) => {
                assert!(self.granted == Some(*term) && self.noted, "wire.md S11: {self:?}");
            }
            Message::Done(term) => assert!(self.granted == Some(*term) && self.ran, "{self:?}"),
            _ => {}
        }
    }

    /// wire.md S3, and no more at a time than were agreed on.
    fn see_lane(&mut self, lane: LaneId) {
        assert!(self.granted.is_none(), "lane {} after the grant", lane.0);
        assert!(self.last_lane < Some(lane), "lane {} again", lane.0);
        self.last_lane = Some(lane);
        self.open.insert(lane);
        let most = usize::from(self.lanes);
        assert!(self.open.len() <= most, "{:?}, where {most} lanes were agreed on", self.open);
    }

    fn see_record(&mut self, standing: Standing, term: Term) {
        if standing == Standing::Switching {
            assert!(self.term < Some(term), "wire.md S7: {term} after {:?}", self.term);
            assert!(!self.paused && self.granted.is_none(), "{self:?}");
            self.term = Some(term);
            (self.durable, self.ready) = (false, false);
        }
        assert_eq!(Some(term), self.term, "{standing:?}");
        if super::gives_up(standing) {
            // Never a grant before the destination is prepared for this very term.
            assert!(self.stands_still && self.prepared == Some((term, true)), "S11: {self:?}");
            self.granted = Some(term);
        }
        assert!(standing != Standing::Ceded || self.ran, "wire.md S15: {self:?}");
        self.record = Some(standing);
    }

    /// wire.md S11, S16, O3
    fn see_resume(&mut self) {
        assert!(self.paused, "it runs already");
        assert!(self.granted.is_none() || self.refused, "wire.md O3: {self:?}");
        assert!(self.owner_noted, "wire.md S16: {self:?}");
        (self.paused, self.stands_still, self.granted) = (false, false, None);
        self.prepared = None;
    }

    fn see_end(&mut self, outcome: &Outcome) {
        self.ended = true;
        match outcome {
            Outcome::Completed { term } => {
                assert!(self.granted == Some(*term) && self.ran && self.paused, "{self:?}");
            }
            Outcome::InDoubt { term, .. } => {
                assert!(self.granted == Some(*term) && self.paused, "{self:?}");
            }
            Outcome::Aborted(_) => {
                assert!(!self.paused && self.granted.is_none(), "{self:?}");
                let taken_back = self.record.is_none_or(|record| record == Standing::Owner);
                assert!(taken_back, "a record is left behind: {self:?}");
            }
        }
    }

    pub(super) fn end(&self) {
        assert!(self.ended, "an end without an outcome");
    }
}
