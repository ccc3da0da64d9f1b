//! A full verification, as the two machines see it: what is digested when, and what follows.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use whimbrel_page::{ByteCount, Layout, LeafSum, PageCount, Root};
use whimbrel_protocol::{
    Accepted, BatchSeq, Convergence, Destination, DestinationAction, DestinationEvent,
    DestinationOptions, Fault, Feature, GuestUuid, Harvest, Hello, LaneId, Message, Now, Offer,
    Outcome, Plan, Policy, Prepare, SessionId, Source, SourceAction, SourceEvent, SourceOptions,
    Standing, Subject, Term, Throughput, Token, VERIFY_FULL, Verify,
};

const TERM: Term = Term { generation: 1, host: 5 };
const ROOT: Root = Root { sum: LeafSum(42), unknown: PageCount::ZERO };
const OTHER: Root = Root { sum: LeafSum(43), unknown: PageCount::ZERO };

fn layout() -> Layout {
    Layout::single(ByteCount::mib(512)).expect("valid")
}

fn full() -> Vec<Feature> {
    vec![Feature { name: VERIFY_FULL.into(), mandatory: false }]
}

// --- the source --------------------------------------------------------------------------------

fn source(verify: Verify) -> Source {
    source_with(SourceOptions { verify, ..SourceOptions::default() })
}

fn source_with(options: SourceOptions) -> Source {
    let subject = Subject {
        guest: GuestUuid(1),
        name: "g".into(),
        kind: "model".into(),
        state_version: 1,
        layout: layout(),
        state_size: ByteCount::ZERO,
        term: Term { generation: 0, host: 5 },
        host: 5,
    };
    Source::new(Now::default(), subject, Token(7), options)
}

fn offer(features: Vec<Feature>) -> SourceEvent {
    SourceEvent::Message(Message::Offer(Offer {
        session: SessionId(9),
        version_min: 1,
        version_max: 1,
        features,
        lanes_max: 4,
        batch_bytes_max: 1 << 18,
    }))
}

/// Tells the events and returns everything that follows.
fn tell(source: &mut Source, events: impl IntoIterator<Item = SourceEvent>) -> Vec<SourceAction> {
    for event in events {
        source.handle(Now::default(), event).expect("an allowed event");
    }
    std::iter::from_fn(|| source.poll()).collect()
}

fn accepted() -> SourceEvent {
    let lanes = vec![(LaneId(0), Token(1))];
    SourceEvent::Message(Message::Accepted(Accepted { lanes, resume_token: Token(8) }))
}

fn rehearsed(takes_ms: u64) -> SourceEvent {
    let takes = Duration::from_millis(takes_ms);
    SourceEvent::Rehearsed { memory: ByteCount::mib(512), takes }
}

fn harvested() -> SourceEvent {
    SourceEvent::Harvested(harvest())
}

fn harvest() -> Harvest {
    let took = Duration::from_millis(1);
    let throughput =
        Throughput { landed: ByteCount::mib(512), busy: took * 512, ..Throughput::default() };
    Harvest { took, parked: took, throughput, ..Harvest::default() }
}

/// The ordinary way to a pause, with a rehearsal that fits the downtime limit.
fn paused(source: &mut Source) -> Vec<SourceAction> {
    tell(source, [SourceEvent::LinkUp, offer(full())]);
    pause(source)
}

fn pause(source: &mut Source) -> Vec<SourceAction> {
    tell(source, [accepted()]);
    tell(source, [SourceEvent::LaneUp(LaneId(0)), SourceEvent::Armed, rehearsed(100)]);
    tell(source, [SourceEvent::RoundTaken, harvested()]);
    let ready = SourceEvent::Message(Message::Ready(TERM));
    tell(source, [SourceEvent::Recorded(Standing::Switching), ready, harvested()]);
    let state = Bytes::new();
    let parked = SourceEvent::Paused { pending: PageCount(1), state };
    let events = [SourceEvent::Quiesced(1), SourceEvent::Looked(harvest()), parked];
    tell(source, events)
}

#[test]
fn a_source_picks_what_it_was_asked_for_and_nothing_else() {
    let planned = |verify| {
        let mut source = source(verify);
        let acts = tell(&mut source, [SourceEvent::LinkUp, offer(full())]);
        let plan = acts.into_iter().find_map(|act| match act {
            SourceAction::Send(Message::Plan(plan)) => Some(plan.features),
            _ => None,
        });
        plan.expect("a plan")
    };
    assert_eq!(planned(Verify::Full), [VERIFY_FULL]);
    assert_eq!(planned(Verify::Digest), [""; 0]);
}

#[test]
fn a_destination_that_cannot_verify_ends_it_before_anything_is_sent() {
    let mut source = source(Verify::Full);
    let acts = tell(&mut source, [SourceEvent::LinkUp, offer(Vec::new())]);
    let Some(SourceAction::Finish(Outcome::Aborted(failure))) = acts.last() else {
        panic!("{acts:?}");
    };
    assert_eq!(failure.fault, Fault::Incompatible);
    assert!(failure.why.contains("verify by digest"), "{failure}");
    assert!(!acts.iter().any(|act| matches!(act, SourceAction::Send(Message::Plan(_)))));
}

#[test]
fn nothing_is_flushed_before_the_paused_memory_was_digested() {
    let mut source = source(Verify::Full);
    let acts = paused(&mut source);
    assert_eq!(acts.last(), Some(&SourceAction::Verify), "{acts:?}");
    assert_eq!(source.phase(), "verifying");
    let acts = tell(&mut source, [SourceEvent::Verified]);
    assert_eq!(acts, [SourceAction::Flush(0)]);
    let sent = BTreeMap::from([(LaneId(0), BatchSeq(4))]);
    let acts = tell(&mut source, [SourceEvent::Flushed { flush: 0, root: ROOT, sent }]);
    assert!(matches!(&acts[..], [SourceAction::Send(Message::Prepare(_))]), "{acts:?}");
    // The word about how long it took there follows from V4 and changes nothing.
    let took = SourceEvent::Message(Message::Digested(ByteCount::mib(1), Duration::from_secs(9)));
    assert_eq!(tell(&mut source, [took]), []);
    assert_eq!(source.phase(), "switchover");
}

#[test]
fn a_link_that_is_lost_or_a_budget_that_is_used_up_runs_the_guest_on() {
    let mut lost = source(Verify::Full);
    paused(&mut lost);
    let acts = tell(&mut lost, [SourceEvent::LinkLost("cut".into())]);
    assert!(acts.contains(&SourceAction::Resume), "{acts:?}");
    // What the digesting threads still report is no news.
    assert_eq!(tell(&mut lost, [SourceEvent::Verified]), []);
    let mut late = source(Verify::Full);
    paused(&mut late);
    let budget = Now(Duration::from_millis(2_001));
    late.handle(budget, SourceEvent::Tick).expect("an allowed event");
    let acts = tell(&mut late, []);
    assert!(acts.contains(&SourceAction::Resume), "{acts:?}");
    assert_eq!(late.phase(), "pre-copy");
}

#[test]
fn a_verification_longer_than_the_limit_is_not_begun() {
    let mut source = source(Verify::Full);
    tell(&mut source, [SourceEvent::LinkUp, offer(full()), accepted(), SourceEvent::Armed]);
    assert_eq!(tell(&mut source, [rehearsed(149)]), []);
    let slow = Message::Digested(ByteCount::mib(1), Duration::from_millis(1));
    let acts = tell(&mut source, [SourceEvent::Message(slow)]);
    let Some(SourceAction::Finish(Outcome::Aborted(failure))) = acts.last() else {
        panic!("{acts:?}");
    };
    assert_eq!(failure.fault, Fault::NotConverging);
    assert!(failure.why.contains("661 ms, and 300 ms are allowed"), "{failure}");
}

/// Whoever takes what downtime it gets does not take the destination's word for how long that is.
#[test]
fn no_word_of_the_destination_makes_the_guest_stand_still_for_ever() {
    let convergence =
        Convergence { policy: Policy::SwitchOver, ..SourceOptions::default().convergence };
    let options = SourceOptions { verify: Verify::Full, convergence, ..SourceOptions::default() };
    let mut source = source_with(options);
    let slow = Message::Digested(ByteCount(1), Duration::from_micros(u64::MAX));
    tell(&mut source, [SourceEvent::LinkUp, offer(full()), SourceEvent::Message(slow)]);
    pause(&mut source);
    let until = source.paused_until().expect("the guest stands still");
    assert!(until < Now(Duration::from_secs(10)), "{until:?}");
}

#[test]
fn who_did_not_ask_for_it_takes_no_word_of_it() {
    let mut source = source(Verify::Digest);
    tell(&mut source, [SourceEvent::LinkUp, offer(full()), accepted(), SourceEvent::Armed]);
    let word = Message::Digested(ByteCount::mib(1), Duration::from_millis(1));
    source.handle(Now::default(), SourceEvent::Message(word)).expect_err("wire.md V4");
    assert!(source.ended());
}

// --- the destination ---------------------------------------------------------------------------

/// A destination to which everything that Prepare named has landed.
fn landed(features: Vec<String>) -> (Destination, Vec<DestinationAction>) {
    let mut destination = Destination::new(
        Now::default(),
        DestinationOptions {
            session: SessionId(9),
            token: Token(7),
            resume_token: Token(8),
            lane_tokens: (0..8).map(Token).collect(),
            features: full(),
            lanes_max: 4,
            batch_bytes_max: 1 << 18,
            greeting_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(5),
            resume_window: Duration::from_secs(30),
            doubt_timeout: Duration::from_secs(30),
            step_timeout: Duration::from_secs(30),
        },
    );
    let hello = Hello { version_min: 1, version_max: 1, token: Token(7), resume: None };
    destination.greet(Now::default(), &hello).expect("a good greeting");
    let plan = Plan {
        version: 1,
        features,
        guest: GuestUuid(1),
        name: "g".into(),
        kind: "model".into(),
        state_version: 1,
        little_endian: cfg!(target_endian = "little"),
        layout: layout(),
        page_size: 4096,
        lanes: 1,
    };
    let sent = vec![(LaneId(0), BatchSeq(4))];
    let prepare = Prepare { term: TERM, root: ROOT, sent, state: Bytes::new() };
    let events = [
        DestinationEvent::Message(Message::Plan(plan)),
        DestinationEvent::Reserved,
        DestinationEvent::Message(Message::Announce(TERM)),
        DestinationEvent::Created,
        DestinationEvent::Recorded(Standing::MayOwn),
        DestinationEvent::Message(Message::Prepare(prepare)),
    ];
    feed(&mut destination, events);
    let acts = feed(&mut destination, [DestinationEvent::Landed(TERM, ROOT)]);
    (destination, acts)
}

fn feed(
    destination: &mut Destination,
    events: impl IntoIterator<Item = DestinationEvent>,
) -> Vec<DestinationAction> {
    for event in events {
        destination.handle(Now::default(), event).expect("an allowed event");
    }
    std::iter::from_fn(|| destination.poll()).collect()
}

#[test]
fn a_destination_digests_its_memory_only_where_that_was_picked() {
    let (_, acts) = landed(Vec::new());
    assert_eq!(acts, [DestinationAction::Load(TERM, Bytes::new())]);
    let (mut destination, acts) = landed(vec![VERIFY_FULL.into()]);
    assert_eq!(acts, [DestinationAction::Verify(TERM)]);
    let acts = feed(&mut destination, [DestinationEvent::Verified(TERM, ROOT)]);
    assert_eq!(acts, [DestinationAction::Load(TERM, Bytes::new())]);
    let acts = feed(&mut destination, [DestinationEvent::Loaded(TERM)]);
    assert_eq!(acts, [DestinationAction::Send(Message::Prepared(TERM, ROOT))]);
}

#[test]
fn a_memory_that_is_not_what_landed_is_never_promised() {
    let (mut destination, _) = landed(vec![VERIFY_FULL.into()]);
    let took = Duration::from_millis(3);
    let events = [
        DestinationEvent::Digested(ByteCount::mib(512), took),
        DestinationEvent::Verified(TERM, OTHER),
    ];
    let acts = feed(&mut destination, events);
    let said = |message| acts.contains(&DestinationAction::Send(message));
    assert!(said(Message::Digested(ByteCount::mib(512), took)), "{acts:?}");
    assert!(said(Message::Differs(TERM, OTHER)), "{acts:?}");
    assert!(!acts.iter().any(|act| matches!(act, DestinationAction::Load(..))), "{acts:?}");
}
