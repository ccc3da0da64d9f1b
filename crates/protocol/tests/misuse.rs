//! Peers that take liberties: each was found by a fuzzer, or could have been.

use std::time::Duration;

use bytes::Bytes;
use whimbrel_page::{ByteCount, Layout, LeafSum, PAGE_SIZE, PageCount, Root};
use whimbrel_protocol::{
    Accepted, BatchSeq, Destination, DestinationAction, DestinationEvent, DestinationOptions,
    Epoch, Fault, GuestUuid, Hello, LaneClosed, LaneId, LaneMark, Message, Now, Offer, Outcome,
    Plan, Prepare, Resumed, SessionId, Source, SourceAction, SourceEvent, SourceOptions, Standing,
    Subject, Term, Token,
};

const TOKEN: Token = Token(7);
const RESUME: Token = Token(8);
const SESSION: SessionId = SessionId(9);
const LANES: u16 = 2;
const ROOT: Root = Root { sum: LeafSum(42), unknown: PageCount::ZERO };

const fn term(generation: u64) -> Term {
    Term { generation, host: 5 }
}

fn layout() -> Layout {
    Layout::single(ByteCount::mib(1)).expect("valid")
}

fn tickets(lanes: u16) -> Vec<(LaneId, Token)> {
    (0..lanes).map(|lane| (LaneId(lane), Token(lane.into()))).collect()
}

// --- the destination -------------------------------------------------------------------------

struct There(Destination);

impl There {
    /// A destination that waits for a plan.
    fn greeted() -> Self {
        let secs = Duration::from_secs;
        let options = DestinationOptions {
            session: SESSION,
            token: TOKEN,
            resume_token: RESUME,
            lane_tokens: (0..64).map(Token).collect(),
            features: Vec::new(),
            lanes_max: 4,
            batch_bytes_max: 1 << 18,
            greeting_timeout: secs(10),
            silence_timeout: secs(5),
            resume_window: secs(30),
            step_timeout: secs(60),
            doubt_timeout: secs(30),
        };
        let mut there = Self(Destination::new(Now::default(), options));
        let hello = Hello { version_min: 1, version_max: 1, token: TOKEN, resume: None };
        there.0.greet(Now::default(), &hello).expect("a good greeting");
        there.acts();
        there
    }

    /// A destination that receives.
    fn receiving() -> Self {
        let mut there = Self::greeted();
        let plan = Plan {
            version: 1,
            features: Vec::new(),
            guest: GuestUuid(1),
            name: "g".into(),
            kind: "model".into(),
            state_version: 1,
            little_endian: cfg!(target_endian = "little"),
            layout: layout(),
            page_size: PAGE_SIZE as u32,
            lanes: LANES,
        };
        there.hears(Message::Plan(plan));
        there.tell(DestinationEvent::Reserved);
        there
    }

    /// A destination that prepares this term, and is loading the state.
    fn loading(of: Term) -> Self {
        let mut there = Self::receiving();
        there.hears(Message::Announce(of));
        there.tell(DestinationEvent::Created);
        there.tell(DestinationEvent::Recorded(Standing::MayOwn));
        there.hears(prepare(of));
        there.tell(DestinationEvent::Landed(of, ROOT));
        there
    }

    fn resumed(&mut self, epoch: u32) -> Result<Vec<DestinationAction>, Fault> {
        let resume = Some((SESSION, Epoch(epoch)));
        let hello = Hello { version_min: 1, version_max: 1, token: RESUME, resume };
        self.0.greet(Now::default(), &hello).map_err(|failure| failure.fault)?;
        Ok(self.acts())
    }

    fn hears(&mut self, message: Message) -> Vec<DestinationAction> {
        self.tell(DestinationEvent::Message(message))
    }

    /// What follows from an event, allowed or not.
    fn tell(&mut self, event: DestinationEvent) -> Vec<DestinationAction> {
        let _ = self.0.handle(Now::default(), event);
        self.acts()
    }

    fn acts(&mut self) -> Vec<DestinationAction> {
        std::iter::from_fn(|| self.0.poll()).collect()
    }
}

fn prepare(term: Term) -> Message {
    let state = Bytes::from_static(b"state");
    Message::Prepare(Prepare { term, root: ROOT, sent: Vec::new(), state })
}

fn says(actions: &[DestinationAction], name: &str) -> bool {
    actions.iter().any(|action| matches!(action, DestinationAction::Send(m) if m.name() == name))
}

#[test]
fn a_record_for_an_older_term_makes_no_later_one_ready() {
    let mut there = There::receiving();
    there.hears(Message::Announce(term(1)));
    there.hears(Message::Announce(term(2)));
    there.tell(DestinationEvent::Created);
    let first = there.tell(DestinationEvent::Recorded(Standing::MayOwn));
    assert!(!says(&first, "Ready"), "wire.md S8: {first:?}");
    let second = there.tell(DestinationEvent::Recorded(Standing::MayOwn));
    assert_eq!(second, [DestinationAction::Send(Message::Ready(term(2)))]);
}

#[test]
fn who_was_not_accepted_comes_back_to_nothing() {
    let mut there = There::greeted();
    assert_eq!(there.resumed(1), Err(Fault::Link));
    let mut there = There::receiving();
    assert!(there.resumed(1).is_ok_and(|actions| says(&actions, "Resumed")));
}

#[test]
fn what_was_loaded_is_released_when_the_source_comes_back() {
    let mut there = There::loading(term(1));
    let actions = there.resumed(1).expect("the next epoch");
    assert!(actions.contains(&DestinationAction::Release), "{actions:?}");
}

#[test]
fn no_term_is_prepared_twice() {
    let mut there = There::loading(term(1));
    there.resumed(1).expect("the next epoch");
    assert!(there.hears(Message::Announce(term(1))).is_empty());
    let actions = there.hears(prepare(term(1)));
    assert!(says(&actions, "Rejected"), "wire.md S19: {actions:?}");
}

#[test]
fn sums_are_asked_for_once_after_each_mismatch() {
    let mut there = There::receiving();
    assert!(says(&there.hears(Message::AskSums), "Rejected"), "wire.md S18");
    let mut there = There::receiving();
    there.hears(Message::Announce(term(1)));
    there.tell(DestinationEvent::Created);
    there.tell(DestinationEvent::Recorded(Standing::MayOwn));
    there.hears(prepare(term(1)));
    let other = Root { sum: LeafSum(43), ..ROOT };
    assert!(says(&there.tell(DestinationEvent::Landed(term(1), other)), "Differs"));
    assert_eq!(there.hears(Message::AskSums), [DestinationAction::SendSums]);
    assert!(says(&there.hears(Message::AskSums), "Rejected"), "wire.md S18");
}

// --- the source ------------------------------------------------------------------------------

/// A source whose plan is being looked at.
fn planning() -> Source {
    planning_with(LANES)
}

fn planning_with(lanes: u16) -> Source {
    let subject = Subject {
        guest: GuestUuid(1),
        name: "g".into(),
        kind: "model".into(),
        state_version: 1,
        layout: layout(),
        state_size: ByteCount::ZERO,
        term: Term::default(),
        host: 5,
    };
    let options = SourceOptions { lanes, ..SourceOptions::default() };
    let mut source = Source::new(Now::default(), subject, TOKEN, options);
    acts(&mut source, SourceEvent::LinkUp);
    let offer = Offer {
        session: SESSION,
        version_min: 1,
        version_max: 1,
        features: Vec::new(),
        lanes_max: lanes.max(4),
        batch_bytes_max: 1 << 18,
    };
    acts(&mut source, SourceEvent::Message(Message::Offer(offer)));
    source
}

fn acts(source: &mut Source, event: SourceEvent) -> Vec<SourceAction> {
    acts_at(source, Now::default(), event)
}

fn acts_at(source: &mut Source, now: Now, event: SourceEvent) -> Vec<SourceAction> {
    source.handle(now, event).expect("an allowed event");
    std::iter::from_fn(|| source.poll()).collect()
}

fn refuses(actions: &[SourceAction]) -> bool {
    let opened = actions.iter().any(|action| matches!(action, SourceAction::OpenLane(_)));
    let Some(SourceAction::Finish(Outcome::Aborted(failure))) = actions.last() else {
        return false;
    };
    !opened && failure.fault == Fault::Peer && failure.why.contains("3 lanes, where 2")
}

#[test]
fn more_lanes_than_were_agreed_on_are_not_opened() {
    let accepted = |lanes| {
        let accepted = Accepted { lanes: tickets(lanes), resume_token: RESUME };
        SourceEvent::Message(Message::Accepted(accepted))
    };
    assert!(refuses(&acts(&mut planning(), accepted(LANES + 1))), "wire.md S17");
    let mut source = planning();
    let opened = acts(&mut source, accepted(LANES));
    let opened = opened.iter().filter(|action| matches!(action, SourceAction::OpenLane(_)));
    assert_eq!(opened.count(), usize::from(LANES));
    acts(&mut source, SourceEvent::LinkLost("cut".into()));
    acts(&mut source, SourceEvent::LinkUp);
    let resumed = Resumed { landed: Vec::new(), lanes: tickets(LANES + 1) };
    let actions = acts(&mut source, SourceEvent::Message(Message::Resumed(resumed)));
    assert!(refuses(&actions), "wire.md S17: {actions:?}");
}

/// A network that is away for half a minute: each lane that cannot be opened costs a ticket, of
/// which a session has 1024.
#[test]
fn a_network_that_is_away_does_not_use_the_tickets_up() {
    const MANY: u16 = 64;
    let mut source = planning_with(MANY);
    let accepted = Accepted { lanes: tickets(MANY), resume_token: RESUME };
    let accepted = SourceEvent::Message(Message::Accepted(accepted));
    let (mut given, mut now) = (MANY, Now::default());
    let mut opened = Vec::new();
    let mut open = lanes_of(&acts(&mut source, accepted));
    while !source.ended() && now.0 < Duration::from_secs(25) {
        opened.extend(open.clone());
        for lane in std::mem::take(&mut open) {
            let failed = SourceEvent::LaneFailed(lane, "no way".into());
            open.extend(lanes_of(&acts_at(&mut source, now, failed)));
            let mark = LaneMark { lane, batch: BatchSeq(0), sum: LeafSum::ZERO };
            let replacement = Some((LaneId(given), Token(given.into())));
            given += 1;
            let closed = Message::LaneClosed(LaneClosed { mark, replacement });
            open.extend(lanes_of(&acts_at(&mut source, now, SourceEvent::Message(closed))));
        }
        now = source.deadline().expect("it waits").max(now);
        acts_at(&mut source, now, SourceEvent::Message(Message::Pong(0)));
        open.extend(lanes_of(&acts_at(&mut source, now, SourceEvent::Tick)));
    }
    assert!(!source.ended(), "the network may come back yet");
    let tries = opened.len() - usize::from(MANY);
    assert!((10..100).contains(&tries), "{tries} tickets were tried in half a minute");
    // It is back: the next lane comes up, and all the others at once.
    while open.is_empty() {
        now = source.deadline().expect("it waits").max(now);
        acts_at(&mut source, now, SourceEvent::Message(Message::Pong(0)));
        open.extend(lanes_of(&acts_at(&mut source, now, SourceEvent::Tick)));
    }
    assert_eq!(open.len(), 1);
    acts_at(&mut source, now, SourceEvent::LaneUp(open[0]));
    now = now.after(Duration::from_secs(1));
    let rest = lanes_of(&acts_at(&mut source, now, SourceEvent::Tick));
    assert_eq!(rest.len(), usize::from(MANY) - 1);
}

fn lanes_of(actions: &[SourceAction]) -> Vec<LaneId> {
    let lane = |action: &SourceAction| match action {
        SourceAction::OpenLane((lane, _)) => Some(*lane),
        _ => None,
    };
    actions.iter().filter_map(lane).collect()
}
