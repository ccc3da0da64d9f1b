//! What the source does with a forecast: whether it pauses, for how long, and what it tells.

use std::time::Duration;

use bytes::Bytes;
use whimbrel_page::{ByteCount, Layout, PageCount};
use whimbrel_protocol::{
    Accepted, Convergence, Fault, GuestUuid, Harvest, LaneId, Message, Now, Offer, Outcome, Policy,
    Resumed, SessionId, Source, SourceAction, SourceEvent, SourceOptions, Standing, Subject, Term,
    Throughput, Token,
};

const TERM: Term = Term { generation: 1, host: 5 };
const LIMIT: Duration = Duration::from_millis(300);
const POLICIES: [Policy; 3] = [Policy::Wait, Policy::GiveUp, Policy::Throttle { most: 99 }];

/// A source on a link of 16 MiB/s, and what it has done.
struct World {
    source: Source,
    now: Now,
    acts: Vec<SourceAction>,
}

impl World {
    /// All of the guest's 64 MiB was sent, and it writes no more.
    fn idle(policy: Policy, state_size: ByteCount) -> Self {
        let mut world = Self::unready(policy, state_size);
        world.tell([SourceEvent::Message(Message::Ready(TERM))]);
        world.now = Now(Duration::from_secs(4));
        world
    }

    /// The same, before the destination has said that it may own the guest.
    fn unready(policy: Policy, state_size: ByteCount) -> Self {
        let subject = Subject {
            guest: GuestUuid(1),
            name: "g".into(),
            kind: "model".into(),
            state_version: 1,
            layout: Layout::single(ByteCount::mib(64)).expect("valid"),
            state_size,
            term: Term { generation: 0, host: 5 },
            host: 5,
        };
        let convergence = Convergence { downtime_max: LIMIT, policy };
        // Nobody answers pings here.
        let silence_timeout = Duration::from_secs(600);
        let options = SourceOptions { convergence, silence_timeout, ..SourceOptions::default() };
        let source = Source::new(Now::default(), subject, Token(7), options);
        let mut world = Self { source, now: Now::default(), acts: Vec::new() };
        let offer = Message::Offer(Offer {
            session: SessionId(9),
            version_min: 1,
            version_max: 1,
            features: Vec::new(),
            lanes_max: 4,
            batch_bytes_max: 1 << 18,
        });
        let lanes = vec![(LaneId(0), Token(1))];
        let accepted = Message::Accepted(Accepted { lanes, resume_token: Token(8) });
        let said = [offer, accepted].map(SourceEvent::Message);
        world.tell([SourceEvent::LinkUp]);
        world.tell(said);
        world.tell([SourceEvent::LaneUp(LaneId(0)), SourceEvent::Armed]);
        world.tell([SourceEvent::Recorded(Standing::Switching)]);
        world
    }

    fn tell(&mut self, events: impl IntoIterator<Item = SourceEvent>) {
        for event in events {
            self.source.handle(self.now, event).expect("an allowed event");
            self.acts.extend(std::iter::from_fn(|| self.source.poll()));
        }
    }

    /// Time passes, and is noticed.
    fn later(&mut self, passed: Duration) {
        self.now = self.now.after(passed);
        self.tell([SourceEvent::Tick]);
    }

    /// Does what this host is asked for, up to the pause or the end.
    fn go_on(&mut self, harvest: Harvest) {
        for _ in 0..50 {
            let answer = match self.source.phase() {
                "pausing" | "ended" => return,
                _ if self.has(&SourceAction::Quiesce(1)) => SourceEvent::Quiesced(1),
                _ if self.has(&SourceAction::Quiesce(2)) => SourceEvent::Quiesced(2),
                _ if self.has(&SourceAction::Harvest) => SourceEvent::Harvested(harvest),
                _ if self.has(&SourceAction::Rehearse) => SourceEvent::Looked(harvest),
                _ => SourceEvent::RoundTaken,
            };
            self.forget_asked();
            self.tell([answer]);
        }
        panic!("it never ends: {:?}", self.acts);
    }

    /// What this host was asked for and has done.
    fn forget_asked(&mut self) {
        use SourceAction::{Harvest, Quiesce, Rehearse};
        self.acts.retain(|act| !matches!(act, Quiesce(_) | Harvest | Rehearse));
    }

    fn pause(&mut self, pending: u64, state: usize) {
        let (pending, state) = (PageCount(pending), Bytes::from(vec![0; state]));
        self.tell([SourceEvent::Paused { pending, state }]);
    }

    fn has(&self, act: &SourceAction) -> bool {
        self.acts.contains(act)
    }

    fn count(&self, act: &SourceAction) -> usize {
        self.acts.iter().filter(|done| *done == act).count()
    }

    /// Why it was given up, if it was.
    fn gave_up(&self) -> Option<&str> {
        match self.acts.last() {
            Some(SourceAction::Finish(Outcome::Aborted(failure)))
                if failure.fault == Fault::NotConverging =>
            {
                Some(&failure.why)
            }
            _ => None,
        }
    }
}

/// 64 MiB in four seconds.
fn quiet() -> Harvest {
    let (landed, busy) = (ByteCount::mib(64), Duration::from_secs(4));
    let throughput = Throughput { landed, busy, ..Throughput::default() };
    let took = Duration::from_millis(1);
    Harvest { took, parked: took, throughput, ..Harvest::default() }
}

#[test]
fn a_state_that_is_known_to_take_too_long_ends_it_once_and_without_a_pause() {
    for policy in POLICIES {
        let mut world = World::idle(policy, ByteCount::mib(16));
        world.go_on(quiet());
        let why = world.gave_up().unwrap_or_else(|| panic!("{policy:?}: {:?}", world.acts));
        assert!(why.contains("1000 ms for the state"), "{why}");
        assert!(why.contains("300 ms are allowed"), "{why}");
        assert!(!world.has(&SourceAction::Pause), "{policy:?}");
        let throttled = |act: &SourceAction| matches!(act, SourceAction::Throttle(_));
        assert!(!world.acts.iter().any(throttled), "it would help nobody");
    }
    let mut world = World::idle(Policy::SwitchOver, ByteCount::mib(16));
    world.go_on(quiet());
    assert!(world.has(&SourceAction::Pause), "it takes what it gets");
}

/// Nobody had said how large the state is. The next attempt would find the same.
#[test]
fn a_state_that_turns_out_too_large_ends_it_with_the_first_pause() {
    for policy in POLICIES {
        let mut world = World::idle(policy, ByteCount::ZERO);
        world.go_on(quiet());
        world.pause(0, 16 << 20);
        let why = world.gave_up().unwrap_or_else(|| panic!("{policy:?}: {:?}", world.acts));
        assert!(why.contains("16 MiB of state"), "{why}");
        assert_eq!(world.count(&SourceAction::Resume), 1, "{policy:?}");
    }
}

#[test]
fn what_was_written_before_the_pause_is_sent_before_the_next_one() {
    let mut world = World::idle(Policy::GiveUp, ByteCount::ZERO);
    world.go_on(quiet());
    // 16 MiB, a second's worth.
    world.pause(4096, 0);
    assert_eq!((world.source.phase(), world.gave_up()), ("pre-copy", None));
    assert_eq!(world.count(&SourceAction::Resume), 1);
}

/// A second's worth of state: the budget of two seconds covers that, but not for who has said that
/// 300 ms are enough.
#[test]
fn only_the_policy_that_switches_anyway_widens_the_budget_of_a_pause() {
    let mut world = World::idle(Policy::SwitchOver, ByteCount::mib(16));
    world.go_on(quiet());
    world.pause(3 * 4096, 16 << 20);
    world.later(Duration::from_millis(7_900));
    assert_eq!(world.source.phase(), "sending the last pages", "four seconds' worth");
    world.later(Duration::from_millis(200));
    assert!(world.has(&SourceAction::Resume));
    for policy in POLICIES {
        let mut world = World::idle(policy, ByteCount::ZERO);
        world.go_on(quiet());
        world.pause(0, 4 << 20);
        world.later(Duration::from_millis(1_900));
        assert_eq!(world.source.phase(), "sending the last pages", "{policy:?}");
        world.later(Duration::from_millis(200));
        assert!(world.has(&SourceAction::Resume), "{policy:?}");
    }
}

/// The last look before the pause, in quiet, shows a harvest that takes too long.
#[test]
fn a_rehearsal_that_takes_too_long_is_no_reason_to_pause() {
    let mut world = World::idle(Policy::GiveUp, ByteCount::ZERO);
    world.tell([SourceEvent::RoundTaken, SourceEvent::Harvested(quiet())]);
    assert_eq!(world.source.phase(), "quiescing");
    let slow = Duration::from_millis(500);
    let slow = Harvest { took: slow, parked: slow, ..quiet() };
    world.tell([SourceEvent::Quiesced(1)]);
    world.acts.clear();
    world.tell([SourceEvent::Looked(slow)]);
    assert_eq!(world.source.phase(), "pre-copy");
    assert!(world.has(&SourceAction::Harvest), "a look clears nothing: {:?}", world.acts);
    world.go_on(slow);
    let why = world.gave_up().unwrap_or_else(|| panic!("{:?}", world.acts));
    assert!(why.contains("500 ms for the last harvest"), "{why}");
    assert!(!world.has(&SourceAction::Pause));
}

/// What was harvested while there was no link says nothing of the guest by now (museum M23), and
/// that it was looked at late nothing of the ways between threads.
#[test]
fn after_an_outage_the_guest_is_harvested_once_more() {
    let mut world = World::idle(Policy::Wait, ByteCount::ZERO);
    world.tell([SourceEvent::RoundTaken, SourceEvent::LinkLost("cut".into())]);
    world.now = world.now.after(Duration::from_millis(2));
    world.tell([SourceEvent::Harvested(Harvest { written: PageCount(2560), ..quiet() })]);
    world.now = world.now.after(Duration::from_secs(9));
    let (landed, lanes) = (Vec::new(), Vec::new());
    let resumed = SourceEvent::Message(Message::Resumed(Resumed { landed, lanes }));
    world.forget_asked();
    world.tell([SourceEvent::LinkUp, resumed]);
    assert_eq!(world.count(&SourceAction::Harvest), 1, "{:?}", world.acts);
    assert!(!world.acts.iter().any(|act| matches!(act, SourceAction::StartRound(1..))));
    world.now = world.now.after(Duration::from_millis(2));
    world.tell([SourceEvent::Harvested(quiet())]);
    let forecast = world.source.forecast();
    // The harvest, and four errands of a millisecond.
    assert_eq!(forecast.downtime(PageCount::ZERO), Some(Duration::from_millis(5)));
}

/// Museum M23: it was time to switch over, and then the destination had to be waited for. What was
/// known when the waiting began decides nothing.
#[test]
fn after_a_wait_it_is_decided_on_a_fresh_harvest() {
    let mut world = World::unready(Policy::Wait, ByteCount::ZERO);
    world.now = Now(Duration::from_secs(4));
    let quiesced =
        |world: &World| world.acts.iter().any(|it| matches!(it, SourceAction::Quiesce(_)));
    world.tell([SourceEvent::RoundTaken, SourceEvent::Harvested(quiet())]);
    assert!(!quiesced(&world), "nobody has said there that the guest may be owned");
    world.forget_asked();
    world.later(Duration::from_secs(1));
    world.tell([SourceEvent::Message(Message::Ready(TERM))]);
    assert!(!quiesced(&world), "the last harvest is a second old");
    assert_eq!(world.count(&SourceAction::Harvest), 1);
    // Meanwhile the guest has written a quarter of its memory.
    let pending = PageCount(4096);
    world.tell([SourceEvent::Harvested(Harvest { pending, written: pending, ..quiet() })]);
    assert!(!quiesced(&world), "16 MiB take longer than may be");
    assert!(world.has(&SourceAction::StartRound(1)));
}

/// The lanes were slow to come to rest, so that they were asked a second time; then both answers
/// come. There is one look before the pause, and where it comes too late for that it is no harvest.
#[test]
fn lanes_that_come_to_rest_late_do_not_count_for_the_next_time() {
    let mut world = World::idle(Policy::Wait, ByteCount::ZERO);
    world.tell([SourceEvent::RoundTaken, SourceEvent::Harvested(quiet())]);
    assert!(world.has(&SourceAction::Quiesce(1)));
    world.later(Duration::from_secs(300));
    world.tell([SourceEvent::Message(Message::Pong(0))]);
    world.later(Duration::from_secs(300));
    assert_eq!(world.source.phase(), "pre-copy");
    world.tell([SourceEvent::Harvested(quiet())]);
    assert!(world.has(&SourceAction::Quiesce(2)));
    world.forget_asked();
    world.tell([SourceEvent::Quiesced(1)]);
    assert!(!world.has(&SourceAction::Rehearse), "something may be in flight");
    world.tell([SourceEvent::Quiesced(2), SourceEvent::Quiesced(2)]);
    assert_eq!(world.count(&SourceAction::Rehearse), 1);
    world.forget_asked();
    world.tell([SourceEvent::Message(Message::Pong(0))]);
    world.later(Duration::from_secs(300));
    world.tell([SourceEvent::Message(Message::Pong(0))]);
    world.later(Duration::from_secs(300));
    assert_eq!(world.source.phase(), "pre-copy");
    assert_eq!(world.count(&SourceAction::Harvest), 1);
    world.tell([SourceEvent::Looked(quiet())]);
    assert_eq!(world.count(&SourceAction::Quiesce(3)), 0, "a look clears nothing");
    world.tell([SourceEvent::LinkLost("cut".into()), SourceEvent::Looked(quiet())]);
    assert_eq!(world.source.phase(), "reconnecting");
}
