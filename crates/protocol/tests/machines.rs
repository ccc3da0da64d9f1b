//! Source and Destination, hand in hand: every action is carried out at once by a world without
//! memory, and what must happen in which order is read from the log.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use whimbrel_page::{ByteCount, Layout, LeafSum, PageCount, Root};
use whimbrel_protocol::{
    BatchSeq, Convergence, Destination, DestinationAction, DestinationEvent, DestinationOptions,
    Epoch, Failure, Fault, GuestUuid, Harvest, LaneId, LaneMark, Message, Now, Outcome, Policy,
    SessionId, Source, SourceAction, SourceEvent, SourceOptions, Standing, Subject, Term,
    Throughput, Token,
};

const TOKEN: Token = Token(7);
const FIRST: Term = Term { generation: 1, host: 5 };

struct World {
    now: Now,
    source: Source,
    destination: Destination,
    to_source: VecDeque<SourceEvent>,
    to_destination: VecDeque<DestinationEvent>,
    linked: bool,
    log: Vec<String>,
    outcomes: (Option<Outcome>, Option<Outcome>),
    /// Pages that each harvest finds, newest last; then none.
    dirty: VecDeque<u64>,
    /// What the destination says its root is, instead of the source's.
    roots: VecDeque<Root>,
    /// A message of the source with this name is lost, and the link with it.
    cut_at: Option<&'static str>,
    reconnects: bool,
    throughput: Throughput,
}

fn options() -> DestinationOptions {
    DestinationOptions {
        session: SessionId(99),
        token: TOKEN,
        resume_token: Token(8),
        lane_tokens: (0..64).map(Token).collect(),
        features: Vec::new(),
        lanes_max: 4,
        batch_bytes_max: 1 << 18,
        greeting_timeout: Duration::from_secs(10),
        silence_timeout: Duration::from_secs(5),
        resume_window: Duration::from_secs(30),
        step_timeout: Duration::from_secs(30),
        doubt_timeout: Duration::from_secs(30),
    }
}

fn subject() -> Subject {
    Subject {
        guest: GuestUuid(1),
        name: "g".into(),
        kind: "model".into(),
        state_version: 1,
        layout: Layout::single(ByteCount::mib(1)).expect("valid"),
        state_size: ByteCount::ZERO,
        term: Term { generation: 0, host: 5 },
        host: 5,
    }
}

fn root() -> Root {
    Root { sum: LeafSum(42), unknown: PageCount::ZERO }
}

impl World {
    fn new() -> Self {
        let now = Now::default();
        Self {
            now,
            source: Source::new(now, subject(), TOKEN, SourceOptions::default()),
            destination: Destination::new(now, options()),
            to_source: VecDeque::new(),
            to_destination: VecDeque::new(),
            linked: false,
            log: Vec::new(),
            outcomes: (None, None),
            dirty: VecDeque::new(),
            roots: VecDeque::new(),
            cut_at: None,
            reconnects: true,
            throughput: Throughput::default(),
        }
    }

    /// Runs until nothing moves; then lets time pass to the next deadline; until both have ended.
    fn run(mut self) -> Self {
        for _ in 0..2000 {
            while self.step() {}
            if self.source.ended() && self.destination.ended() {
                return self;
            }
            let deadlines = self.source.deadline().into_iter().chain(self.destination.deadline());
            self.now = deadlines.min().expect("a machine that waits has a deadline").max(self.now);
            self.to_source.push_back(SourceEvent::Tick);
            self.to_destination.push_back(DestinationEvent::Tick);
        }
        panic!("no end after 2000 deadlines: {:#?}", self.log);
    }

    fn step(&mut self) -> bool {
        if let Some(action) = self.source.poll() {
            self.source_acts(action);
        } else if let Some(action) = self.destination.poll() {
            self.destination_acts(action);
        } else if let Some(event) = self.to_source.pop_front() {
            self.source.handle(self.now, event).expect("an allowed event");
        } else if let Some(event) = self.to_destination.pop_front() {
            self.destination.handle(self.now, event).expect("an allowed event");
        } else {
            return false;
        }
        true
    }

    fn cut(&mut self) {
        self.linked = false;
        self.to_source.push_back(SourceEvent::LinkLost("cut".into()));
        self.to_destination.push_back(DestinationEvent::LinkLost("cut".into()));
    }

    fn source_acts(&mut self, action: SourceAction) {
        self.log.push(format!("S {action:?}").chars().take(60).collect());
        let answer = match action {
            SourceAction::Connect if self.linked || self.reconnects => {
                self.linked = true;
                SourceEvent::LinkUp
            }
            SourceAction::Connect => SourceEvent::LinkLost("still cut".into()),
            SourceAction::Send(message) => return self.carry(message),
            SourceAction::OpenLane((lane, _)) => SourceEvent::LaneUp(lane),
            SourceAction::Arm => SourceEvent::Armed,
            SourceAction::StartRound(_) => {
                self.now = self.now.after(Duration::from_millis(100));
                self.throughput.landed += ByteCount::mib(1);
                self.throughput.busy += Duration::from_millis(100);
                SourceEvent::RoundTaken
            }
            SourceAction::Harvest | SourceAction::Rehearse => {
                let looks = action == SourceAction::Rehearse;
                let pending = PageCount(self.dirty.pop_front().unwrap_or(0));
                let (took, throughput) = (Duration::from_millis(1), self.throughput);
                let (written, parked) = (pending, took);
                let harvest = Harvest { pending, written, took, parked, throughput };
                if looks { SourceEvent::Looked(harvest) } else { SourceEvent::Harvested(harvest) }
            }
            SourceAction::Quiesce(number) => SourceEvent::Quiesced(number),
            SourceAction::Pause => {
                SourceEvent::Paused { pending: PageCount(3), state: Bytes::from_static(b"state") }
            }
            SourceAction::Flush(flush) => {
                let sent = BTreeMap::from([(LaneId(0), BatchSeq(4))]);
                SourceEvent::Flushed { flush, root: root(), sent }
            }
            SourceAction::Record(standing, _) => SourceEvent::Recorded(standing),
            SourceAction::Compare(_) => {
                SourceEvent::Spoiled { pages: PageCount(512), again: false }
            }
            SourceAction::Finish(outcome) => return self.outcomes.0 = Some(outcome),
            _ => return,
        };
        self.to_source.push_back(answer);
    }

    fn carry(&mut self, message: Message) {
        if self.cut_at == Some(message.name()) {
            self.cut_at = None;
            return self.cut();
        }
        if !self.linked {
            return;
        }
        match message {
            Message::Hello(hello) => {
                self.destination.greet(self.now, &hello).expect("a good greeting");
            }
            other => self.to_destination.push_back(DestinationEvent::Message(other)),
        }
    }

    fn destination_acts(&mut self, action: DestinationAction) {
        self.log.push(format!("D {action:?}").chars().take(60).collect());
        let answer = match action {
            DestinationAction::Send(message) if self.linked => {
                return self.to_source.push_back(SourceEvent::Message(message));
            }
            DestinationAction::Reserve(_) => DestinationEvent::Reserved,
            DestinationAction::CloseLane(lane) => {
                DestinationEvent::LaneEnded(LaneMark { lane, batch: BatchSeq(4), sum: LeafSum(1) })
            }
            DestinationAction::Create => DestinationEvent::Created,
            DestinationAction::AwaitCounts(term, _) => {
                DestinationEvent::Landed(term, self.roots.pop_front().unwrap_or(root()))
            }
            DestinationAction::Load(term, _) => DestinationEvent::Loaded(term),
            DestinationAction::Run(term) => DestinationEvent::Ran(term),
            DestinationAction::Record(standing, _) => DestinationEvent::Recorded(standing),
            DestinationAction::SendSums => {
                let region = whimbrel_page::RegionId(0);
                let sums = whimbrel_protocol::Sums { region, chunks: Vec::new(), last: true };
                return self.to_source.push_back(SourceEvent::Message(Message::Sums(sums)));
            }
            DestinationAction::Finish(outcome) => return self.outcomes.1 = Some(outcome),
            _ => return,
        };
        self.to_destination.push_back(answer);
    }

    fn position(&self, what: &str) -> usize {
        let found = self.log.iter().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("no {what:?} in {:#?}", self.log))
    }

    fn in_order(&self, lines: &[&str]) {
        let at: Vec<usize> = lines.iter().map(|line| self.position(line)).collect();
        assert!(at.is_sorted(), "{lines:?} at {at:?} in {:#?}", self.log);
    }
}

fn completed(term: Term) -> (Option<Outcome>, Option<Outcome>) {
    (Some(Outcome::Completed { term }), Some(Outcome::Completed { term }))
}

#[test]
fn an_idle_guest_moves_and_every_step_has_its_place() {
    let world = World::new().run();
    assert_eq!(world.outcomes, completed(FIRST));
    world.in_order(&["S Arm", "S OpenLane", "S StartRound(0)"]);
    world.in_order(&[
        "S Record(Switching",
        "S Pause",
        "S Flush",
        "S Send(Prepare(",
        "D Load",
        "D Send(Prepared(",
        "S Record(Granted",
        "S Send(Grant(",
        "D Record(Running",
        "D Run(",
        "D Send(Running(",
        "S Record(Ceded",
        "S Finish",
    ]);
    world.in_order(&["D Record(MayOwn", "D Send(Ready", "S Pause"]);
}

#[test]
fn rounds_follow_one_another_while_they_shrink() {
    let mut world = World::new();
    world.dirty = VecDeque::from([150, 80, 40]);
    let world = world.run();
    assert_eq!(world.outcomes, completed(FIRST));
    world.in_order(&["S StartRound(0)", "S StartRound(1)", "S StartRound(2)", "S Pause"]);
}

#[test]
fn a_link_that_is_cut_before_the_grant_costs_an_attempt_at_most() {
    for (cut, term) in [("Announce", 1), ("Prepare", 2)] {
        let mut world = World::new();
        world.cut_at = Some(cut);
        let world = world.run();
        assert_eq!(world.outcomes, completed(Term { generation: term, host: 5 }), "cut at {cut}");
    }
}

#[test]
fn a_guest_that_was_paused_runs_before_anything_is_tried_again() {
    let mut world = World::new();
    world.cut_at = Some("Prepare");
    world.run().in_order(&[
        "S Pause",
        "S Resume",
        "S Hangup",
        "S Send(Announce(Term { generation: 2",
    ]);
}

#[test]
fn a_lost_grant_is_said_again_and_runs_once() {
    let mut world = World::new();
    world.cut_at = Some("Grant");
    let world = world.run();
    assert_eq!(world.outcomes, completed(FIRST));
    let runs = world.log.iter().filter(|line| line.starts_with("D Run(")).count();
    assert_eq!(runs, 1);
    assert!(!world.log.iter().any(|line| line == "S Resume"), "museum M3");
}

#[test]
fn without_a_link_after_the_grant_the_source_is_in_doubt_and_the_destination_refuses() {
    let mut world = World::new();
    world.cut_at = Some("Grant");
    world.reconnects = false;
    // The first connection is there; `reconnects` is about the later ones.
    world.linked = true;
    let world = world.run();
    assert!(matches!(world.outcomes.0, Some(Outcome::InDoubt { term: FIRST, .. })));
    assert!(matches!(world.outcomes.1, Some(Outcome::Aborted(_))));
    world.in_order(&["D Send(Prepared", "D Record(Refused", "D Finish"]);
    assert!(!world.log.iter().any(|line| line == "S Resume" || line.starts_with("D Run(")));
}

#[test]
fn memories_that_differ_are_repaired_with_the_guest_running() {
    let mut world = World::new();
    world.roots = VecDeque::from([Root { sum: LeafSum(1), unknown: PageCount::ZERO }]);
    let world = world.run();
    assert_eq!(world.outcomes, completed(Term { generation: 2, host: 5 }));
    world.in_order(&["S Pause", "D Send(Differs", "S Resume", "S Send(AskSums", "S Compare"]);
}

#[test]
fn a_root_with_an_unknown_leaf_is_never_prepared() {
    let mut world = World::new();
    world.roots = VecDeque::from([Root { sum: LeafSum(42), unknown: PageCount(1) }]);
    let world = world.run();
    world.in_order(&["D Send(Differs", "D Load"]);
}

#[test]
fn a_cancel_before_the_grant_leaves_the_guest_running_at_the_source() {
    for steps in 0..60 {
        let mut world = World::new();
        world.dirty = VecDeque::from([200, 190, 180]);
        for _ in 0..steps {
            world.step();
        }
        let late = world.source.granted();
        world.to_source.push_front(SourceEvent::Cancel("enough".into()));
        let world = world.run();
        if late {
            assert_eq!(world.outcomes, completed(FIRST), "too late at step {steps}");
            continue;
        }
        let cancelled = Failure::new(Fault::Cancelled, "enough");
        assert_eq!(world.outcomes.0, Some(Outcome::Aborted(cancelled)), "step {steps}");
        assert!(matches!(world.outcomes.1, Some(Outcome::Aborted(_))), "step {steps}");
        let count = |what: &str| world.log.iter().filter(|line| line.as_str() == what).count();
        assert_eq!(count("S Pause"), count("S Resume"), "step {steps}: {:#?}", world.log);
    }
}

#[test]
fn a_wrong_token_and_a_second_source_are_turned_away_without_harm() {
    let mut destination = Destination::new(Now::default(), options());
    let hello =
        |token, resume| whimbrel_protocol::Hello { version_min: 1, version_max: 1, token, resume };
    let refused = destination.greet(Now::default(), &hello(Token(1), None));
    assert_eq!(refused.expect_err("a wrong token").fault, Fault::Incompatible);
    assert!(destination.greet(Now::default(), &hello(TOKEN, None)).is_ok());
    let second = destination.greet(Now::default(), &hello(TOKEN, None));
    assert_eq!(second.expect_err("one source a session").fault, Fault::Capacity);
    assert_eq!(destination.phase(), "planning");
}

#[test]
fn a_record_that_cannot_be_written_ends_the_attempt_before_the_pause() {
    let mut world = World::new();
    while !world.log.iter().any(|line| line.starts_with("S Record(Switching")) {
        assert!(world.step());
    }
    world.to_source.retain(|event| *event != SourceEvent::Recorded(Standing::Switching));
    let failure = Failure::new(Fault::Journal, "no space left on device");
    world.to_source.push_back(SourceEvent::Failed(failure.clone()));
    let world = world.run();
    assert_eq!(world.outcomes.0, Some(Outcome::Aborted(failure)));
    assert!(!world.log.iter().any(|line| line == "S Pause"));
}

#[test]
fn pages_of_another_size_are_refused() {
    let mut destination = Destination::new(Now::default(), options());
    let hello =
        whimbrel_protocol::Hello { version_min: 1, version_max: 1, token: TOKEN, resume: None };
    destination.greet(Now::default(), &hello).expect("a good greeting");
    let subject = subject();
    let plan = whimbrel_protocol::Plan {
        version: 1,
        features: Vec::new(),
        guest: subject.guest,
        name: subject.name,
        kind: subject.kind,
        state_version: 1,
        little_endian: cfg!(target_endian = "little"),
        layout: subject.layout,
        page_size: 16384,
        lanes: 1,
    };
    let plan = DestinationEvent::Message(Message::Plan(plan));
    destination.handle(Now::default(), plan).expect("an allowed event");
    let said = std::iter::from_fn(|| destination.poll()).find_map(|action| match action {
        DestinationAction::Send(Message::Rejected(rejected)) => Some(rejected),
        _ => None,
    });
    let rejected = said.expect("a word for the source");
    assert_eq!(rejected.fault, Fault::Incompatible);
    assert!(rejected.why.contains("16384"), "{}", rejected.why);
}

#[test]
fn a_lane_lost_before_the_grant_does_not_end_a_connection_made_after_it() {
    let mut world = World::new();
    while !world.log.iter().any(|line| line.starts_with("S Send(Prepare(")) {
        assert!(world.step());
    }
    world.to_source.push_front(SourceEvent::LaneFailed(LaneId(1), "nic".into()));
    world.cut_at = Some("Grant");
    world.reconnects = false;
    while world.source.phase() != "granted" || world.linked {
        assert!(world.step());
    }
    // The network is away for longer than a lane is waited for.
    world.now = world.now.after(Duration::from_secs(6));
    world.reconnects = true;
    world.to_source.push_back(SourceEvent::Tick);
    let world = world.run();
    assert_eq!(world.outcomes, completed(FIRST), "{:#?}", world.log);
}

#[test]
fn the_first_estimate_counts_a_state_that_was_never_saved() {
    let estimate = |state_size| {
        let mut world = World::new();
        let subject = Subject { state_size, ..subject() };
        world.source = Source::new(world.now, subject, TOKEN, SourceOptions::default());
        while world.source.phase() != "pausing" {
            assert!(world.step(), "it comes to its pause");
        }
        world.source.forecast().downtime(PageCount::ZERO).expect("a round was sent")
    };
    // The model's lanes carry a mebibyte in 100 ms.
    let grown = estimate(ByteCount::mib(1)) - estimate(ByteCount::ZERO);
    assert_eq!(grown.as_millis(), 100);
}

/// A guest of which every harvest finds most pages dirty again, a hundred times over: the model's
/// lanes would take four times the limit for them.
fn restless(policy: Policy) -> World {
    let mut world = World::new();
    let convergence = Convergence { downtime_max: Duration::from_millis(20), policy };
    let options = SourceOptions { convergence, ..SourceOptions::default() };
    world.source = Source::new(world.now, subject(), TOKEN, options);
    world.dirty = VecDeque::from([200; 100]);
    world.run()
}

#[test]
fn each_policy_has_its_way_with_a_guest_that_does_not_converge() {
    let gave_up = |world: &World| match &world.outcomes.0 {
        Some(Outcome::Aborted(failure)) if failure.fault == Fault::NotConverging => {
            assert!(!world.log.iter().any(|entry| entry == "S Pause"), "{:?}", world.log);
            failure.why.clone()
        }
        other => panic!("{other:?}"),
    };
    let world = restless(Policy::GiveUp);
    assert!(gave_up(&world).contains("are allowed"), "with the numbers");
    assert!(!world.log.iter().any(|entry| entry.contains("Throttle")));
    let world = restless(Policy::Throttle { most: 50 });
    assert!(gave_up(&world).contains("although it was throttled by 50 %"));
    world.in_order(&["S Throttle(20)", "S Throttle(40)", "S Throttle(50)", "S Finish"]);
    let world = restless(Policy::SwitchOver);
    assert_eq!(world.outcomes, completed(FIRST));
    assert!(!world.log.iter().any(|entry| entry.contains("StartRound(10)")), "not for ever");
    // It comes to rest by itself in the end.
    let world = restless(Policy::Wait);
    assert_eq!(world.outcomes, completed(FIRST));
    world.in_order(&["S StartRound(99)", "S Pause"]);
}

/// Museum M4: what only one host may hold goes back to the source however it is that the
/// destination hears that the attempt was given up.
#[test]
fn a_destination_that_hears_of_a_lost_link_by_the_next_one_lets_go() {
    for (loaded, phase) in [("D Load(", "preparing"), ("D Send(Prepared(", "prepared")] {
        let mut world = World::new();
        while !world.log.iter().any(|line| line.starts_with(loaded)) {
            assert!(world.step());
        }
        let late = std::mem::take(&mut world.to_destination);
        assert_eq!(world.destination.phase(), phase);
        // Only the source has noticed.
        world.to_source.clear();
        world.to_source.push_back(SourceEvent::LinkLost("cut".into()));
        while world.destination.session().1 == Epoch(0) {
            assert!(world.step());
        }
        world.to_destination.extend(late);
        let world = world.run();
        world.in_order(&["S Resume", "D Release"]);
        assert_eq!(world.outcomes, completed(FIRST.next(FIRST.host)), "{:#?}", world.log);
    }
}
