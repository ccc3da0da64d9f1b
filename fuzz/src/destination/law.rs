//! What a destination may do, whatever it is told: the laws of `proto/wire.md`, from outside.

use std::collections::{BTreeMap, BTreeSet};

use whimbrel_page::Root;
use whimbrel_protocol::batch::LaneHello;
use whimbrel_protocol::{
    Answer, DestinationAction, DestinationEvent, Epoch, Hello, LaneId, LaneMark, LaneTicket,
    Message, Outcome, Standing, Term, Token, VERIFY_FULL,
};

use crate::say;

/// How a lane stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Issued(Token),
    Open,
    Ended(LaneMark),
}

/// What was seen and heard, as far as the laws ask for it.
#[derive(Debug, Default)]
pub(super) struct Law {
    /// Lanes that may be open at a time.
    lanes_max: u16,
    lanes: BTreeMap<LaneId, Lane>,
    epoch: Epoch,
    begun: bool,
    /// Whether there is a connection: what comes on none is not heard.
    linked: bool,
    reserved: bool,
    created: bool,
    announced: BTreeSet<Term>,
    /// The last term that is recorded durably.
    durable: Option<Term>,
    /// The term whose counts were awaited last, and what has landed of it.
    awaited: Option<Term>,
    /// What the source says that its memory is, with the last Prepare.
    prepare: Option<(Term, Root)>,
    landed: Option<Root>,
    /// Whether the plan asks for the memory itself to be digested; the term for which this was
    /// asked for last and has not been told, and whether it was told since the counts were.
    full: bool,
    verifying: Option<Term>,
    verified: bool,
    /// Loads that are under way, the term that was loaded last, and whether the guest may hold
    /// what only one side may.
    loading: usize,
    loaded: Option<Term>,
    acquired: bool,
    /// The term that was promised, and whether it was granted since.
    promised: Option<Term>,
    granted: Option<Term>,
    noted: Option<Term>,
    runs: Option<Term>,
    ran: bool,
    refusing: Option<Term>,
    refused: bool,
    ended: bool,
}

impl Law {
    pub(super) fn new(lanes_max: u16) -> Self {
        Self { lanes_max, ..Self::default() }
    }

    pub(super) fn is_open(&self, lane: LaneId) -> bool {
        self.lanes.get(&lane) == Some(&Lane::Open)
    }

    /// wire.md S1, S6
    pub(super) fn greeted(&mut self, hello: &Hello, accepted: bool) {
        if !accepted {
            return;
        }
        self.linked = true;
        match hello.resume {
            None => {
                assert!(hello.token == say::TOKEN && !self.begun, "wire.md S1");
                self.begun = true;
            }
            Some((session, epoch)) => {
                assert!(hello.token == say::RESUME_TOKEN && session == say::SESSION, "S1");
                assert!(self.begun && epoch > self.epoch, "wire.md S6");
                self.epoch = epoch;
                self.void();
            }
        }
    }

    /// wire.md B6, S3
    pub(super) fn admitted(&mut self, hello: &LaneHello, current: Epoch, accepted: bool) {
        if !accepted {
            return;
        }
        assert!(hello.session == say::SESSION && hello.epoch == current, "{hello:?}");
        let known = self.lanes.insert(hello.lane, Lane::Open);
        assert_eq!(known, Some(Lane::Issued(hello.token)), "wire.md B6, S3: {hello:?}");
        let open = self.lanes.values().filter(|lane| **lane == Lane::Open).count();
        assert!(open <= usize::from(self.lanes_max), "{open} lanes are open");
        assert!(self.granted.is_none() && self.refusing.is_none(), "a lane after the end");
        // A lane of a later connection says that the attempt was given up.
        self.promised = None;
    }

    /// Tickets of an older connection open nothing.
    fn void(&mut self) {
        for (id, lane) in &mut self.lanes {
            if let Lane::Issued(_) = lane {
                *lane = Lane::Ended(super::mark_of(*id, 0));
            }
        }
    }

    pub(super) fn hear(&mut self, event: &DestinationEvent) {
        match event {
            DestinationEvent::Message(_) if !self.linked => {}
            DestinationEvent::LinkLost(_) => self.linked = false,
            DestinationEvent::Message(Message::Prepare(prepare)) => {
                self.prepare = Some((prepare.term, prepare.root));
            }
            DestinationEvent::Message(Message::Announce(term)) => {
                self.announced.insert(*term);
            }
            DestinationEvent::Message(Message::Grant(term))
            | DestinationEvent::Answered(term, Answer::Yours)
            | DestinationEvent::Asked(term) => self.grant(*term),
            DestinationEvent::Answered(term, Answer::NotYours) if self.granted.is_none() => {
                self.promised = self.promised.filter(|promised| promised != term);
            }
            DestinationEvent::LaneEnded(mark) => {
                self.lanes.insert(mark.lane, Lane::Ended(*mark));
            }
            DestinationEvent::Landed(term, root) if self.awaited == Some(*term) => {
                self.landed = Some(*root);
            }
            DestinationEvent::Verified(term, root) if self.verifying == Some(*term) => {
                (self.landed, self.verified) = (Some(*root), true);
            }
            _ => {}
        }
    }

    fn grant(&mut self, term: Term) {
        if self.promised == Some(term) {
            self.granted = Some(term);
        }
    }

    /// This host has done what it was asked to, or failed.
    pub(super) fn done(&mut self, action: &DestinationAction, well: bool) {
        match action {
            DestinationAction::Load(term, _) => {
                self.loading -= 1;
                self.loaded = Some(*term).filter(|_| well);
            }
            _ if !well => {}
            DestinationAction::Reserve(_) => self.reserved = true,
            DestinationAction::Create => self.created = true,
            DestinationAction::Run(_) => self.ran = true,
            DestinationAction::Record(Standing::MayOwn, term) => self.durable = Some(*term),
            DestinationAction::Record(Standing::Running, term) => self.noted = Some(*term),
            DestinationAction::Record(Standing::Refused, _) => self.refused = true,
            _ => {}
        }
    }

    pub(super) fn see(&mut self, action: &DestinationAction) {
        assert!(!self.ended, "{action:?} after the end");
        match action {
            DestinationAction::Send(message) => self.see_said(message),
            DestinationAction::Reserve(plan) => {
                assert!(!self.reserved, "reserved twice");
                self.full = plan.features.iter().any(|feature| feature == VERIFY_FULL);
            }
            DestinationAction::Verify(term) => {
                assert!(self.full && self.awaited == Some(*term), "nobody asked for it: {self:?}");
                self.verifying = Some(*term);
            }
            DestinationAction::Create => assert!(!self.created, "created twice"),
            DestinationAction::AwaitCounts(term, _) => {
                assert!(self.awaited < Some(*term), "{term} is prepared again: {self:?}");
                (self.awaited, self.landed) = (Some(*term), None);
                (self.verifying, self.verified) = (None, false);
            }
            DestinationAction::Load(..) => {
                assert!(self.verified || !self.full, "wire.md V3: {self:?}");
                assert!(!self.acquired, "loaded again, and nothing was released: {self:?}");
                self.acquired = true;
                self.loading += 1;
            }
            DestinationAction::Hangup => self.linked = false,
            DestinationAction::Release => self.acquired = false,
            DestinationAction::Record(standing, term) => self.see_record(*standing, *term),
            DestinationAction::Run(term) => self.see_run(*term),
            DestinationAction::Finish(outcome) => {
                let completed = matches!(outcome, Outcome::Completed { term }
                    if self.ran && self.runs == Some(*term));
                let aborted = matches!(outcome, Outcome::Aborted(_)) && !self.ran;
                // Told to run, and nobody knows whether it does.
                let in_doubt = matches!(outcome, Outcome::InDoubt { term, .. }
                    if self.granted == Some(*term));
                assert!(completed || aborted || in_doubt, "{outcome:?}: {self:?}");
                self.ended = true;
            }
            _ => {}
        }
    }

    /// wire.md S12: granted, noted, and once.
    fn see_run(&mut self, term: Term) {
        let granted = self.granted == Some(term) && self.noted == Some(term);
        assert!(granted && self.refusing.is_none(), "wire.md S12: {self:?}");
        assert!(self.runs.replace(term).is_none(), "it runs already");
    }

    fn see_record(&mut self, standing: Standing, term: Term) {
        match standing {
            Standing::MayOwn => {
                assert!(self.announced.contains(&term), "an announcement comes first");
                self.promised = None;
            }
            Standing::Running => assert_eq!(self.granted, Some(term), "wire.md S12"),
            Standing::Owner => assert!(self.ran && self.runs == Some(term), "{self:?}"),
            Standing::Refused => {
                assert!(!self.ran, "it has run: {self:?}");
                self.refusing = Some(term);
            }
            other => panic!("{other:?} is no record of a destination"),
        }
    }

    fn see_said(&mut self, message: &Message) {
        match message {
            Message::Accepted(accepted) => {
                assert!(self.reserved, "wire.md S2");
                self.see_tickets(&accepted.lanes);
            }
            Message::Resumed(resumed) => {
                resumed.landed.iter().for_each(|mark| self.see_mark(*mark));
                self.see_tickets(&resumed.lanes);
            }
            Message::LaneClosed(closed) => {
                self.see_mark(closed.mark);
                self.see_tickets(closed.replacement.as_slice());
            }
            Message::Ready(term) => {
                let kept = self.durable == Some(*term) && self.created;
                assert!(kept, "wire.md S8: {self:?}");
            }
            Message::Prepared(term, root) => self.see_promise(*term, *root),
            Message::Digested(..) => assert!(self.full, "wire.md V4"),
            Message::Running(term) => assert!(self.ran && self.runs == Some(*term), "{self:?}"),
            Message::Refused(term, _) => {
                let durable = self.refused && self.refusing == Some(*term);
                assert!(durable && !self.ran, "wire.md S13: {self:?}");
            }
            _ => {}
        }
    }

    /// wire.md S10
    fn see_promise(&mut self, term: Term, root: Root) {
        assert!(self.durable == Some(term) && self.loaded == Some(term), "S10: {self:?}");
        assert!(self.loading == 0 && self.acquired, "wire.md S10: {self:?}");
        assert_eq!(self.landed, Some(root), "wire.md S10: its own root");
        let agrees = |(of, theirs): (Term, Root)| of == term && root.agrees(theirs);
        assert!(self.prepare.is_some_and(agrees), "wire.md S10: {self:?}");
        self.promised = Some(term);
    }

    /// wire.md S3
    fn see_tickets(&mut self, tickets: &[LaneTicket]) {
        for (lane, token) in tickets {
            let known = self.lanes.insert(*lane, Lane::Issued(*token));
            assert_eq!(known, None, "lane {} twice", lane.0);
        }
        let live = self.lanes.values().filter(|lane| !matches!(lane, Lane::Ended(_))).count();
        assert!(live <= usize::from(self.lanes_max), "{live} lanes may be open: {self:?}");
    }

    /// wire.md S4: the report of a lane that was open is its own, and final.
    fn see_mark(&mut self, mark: LaneMark) {
        match self.lanes.get_mut(&mark.lane) {
            Some(Lane::Ended(ended)) if ended.batch == mark.batch => {}
            Some(lane @ Lane::Issued(_)) if mark.batch.0 == 0 => *lane = Lane::Ended(mark),
            Some(Lane::Ended(_)) if mark.batch.0 == 0 => {}
            other => panic!("wire.md S4: {mark:?} of {other:?}"),
        }
    }

    pub(super) fn end(&self) {
        assert!(self.ended, "an end without an outcome");
    }
}
