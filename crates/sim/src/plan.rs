//! What one seed makes of a world: the guest, the network, the settings, and what will go wrong.

use std::time::Duration;

use whimbrel_page::{ByteCount, Layout, PageCount, RegionId, RegionLayout};
use whimbrel_protocol::{
    Convergence, DestinationOptions, Feature, GuestUuid, Policy, SessionId, SourceOptions, Subject,
    Term, Token, VERIFY_FULL, Verify,
};

use crate::broken::Broken;
use crate::random::Random;

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the guest is at first.
    Source,
    /// Where it is to go.
    Destination,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// When something goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trigger {
    /// At this time.
    At(Duration),
    /// After so many steps of the world.
    Step(u64),
    /// So long after one of the machines has changed its phase for the n-th time: narrow windows
    /// are found that way.
    Change(u32, Duration),
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The control connection breaks; both sides notice.
    BreakLink,
    /// The control connection carries nothing more; nobody is told.
    SilentLink,
    /// Everything on the network is late by this much.
    Stall(Duration),
    /// Control connection and lanes break, and none can be opened for so long.
    Outage(Duration),
    /// The n-th lane breaks; the side notices, the other one has to be told.
    BreakLane(u64, Side),
    /// The n-th lane carries nothing more; nobody is told.
    SilentLane(u64),
    /// The guest process dies; its journal is kept.
    Crash(Side),
    /// The host restarts: the guest process dies and notes may be lost.
    Restart(Side),
    /// Somebody wants the migration to end.
    Cancel(Side),
    /// A page of the destination holds something else than what was sent, and its digest says so.
    Rot(u64),
    /// What lands next was garbled on its way.
    Garble,
    /// Records fail for so long.
    FullDisk(Side, Duration),
    /// The guest does not run at the destination when it is told to.
    NoRun,
    /// The guest writes like mad for a while.
    Storm(Duration),
}

/// Everything that a seed decides before the world begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) layout: Layout,
    /// Pages that hold something at first, in percent.
    pub(crate) touched: u64,
    /// Between two bursts of writes of the guest.
    pub(crate) beat: Duration,
    /// Pages it writes in a burst.
    pub(crate) burst: u64,
    /// Pages it writes at all, the first ones.
    pub(crate) working_set: u64,
    /// The one-way delay of a control frame, in microseconds.
    pub(crate) link_delay: (u64, u64),
    /// The delay of a batch on a lane, in microseconds.
    pub(crate) lane_delay: (u64, u64),
    /// Pages a lane takes at a time.
    pub(crate) batch: PageCount,
    /// Batches a lane has under way.
    pub(crate) window: usize,
    /// How long a durable write takes at most, in microseconds.
    pub(crate) fsync: u64,
    pub(crate) subject: Subject,
    pub(crate) source: SourceOptions,
    pub(crate) destination: DestinationOptions,
    pub(crate) faults: Vec<(Trigger, Fault)>,
}

/// When the guest comes to rest and nothing goes wrong any more: a world has to end after this.
pub(crate) const HEALED: Duration = Duration::from_secs(5);
/// How long a healed world may take to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const GUEST: GuestUuid = GuestUuid(0x6e57);
pub(crate) const SESSION: SessionId = SessionId(0x5e55);
pub(crate) const TOKEN: Token = Token(1);
const RESUME_TOKEN: Token = Token(2);

impl Plan {
    pub(crate) fn new(random: &mut Random) -> Self {
        let layout = layout(random);
        let pages = layout.pages().0;
        let link = random.between(20, 5_000);
        let lane = random.between(20, 5_000);
        let batch = PageCount(random.between(1, 6));
        let window = random.between(1, 6) as usize;
        Self {
            touched: random.pick(&[10, 50, 90, 100]),
            beat: random.micros(100, 50_000),
            burst: random.pick(&[0, 1, 1, 2, 4, 8]),
            working_set: random.between(1, pages),
            link_delay: (link / 4, link),
            lane_delay: (lane / 10, lane),
            batch,
            window,
            fsync: random.pick(&[200, 2_000, 20_000]),
            subject: subject(layout.clone()),
            source: source_options(random),
            destination: destination_options(),
            faults: faults(random),
            layout,
        }
    }
}

impl Plan {
    /// A world so small that everything can go wrong at every one of its steps: a few pages that
    /// the guest writes all the time, two lanes, nothing else left to chance.
    pub(crate) fn tiny(faults: Vec<(Trigger, Fault)>) -> Self {
        let mut plan = Self::new(&mut Random::new(0));
        plan.layout = Layout::single(PageCount(4).bytes()).expect("a small layout");
        plan.subject = subject(plan.layout.clone());
        (plan.touched, plan.working_set) = (100, 3);
        (plan.beat, plan.burst) = (Duration::from_micros(700), 1);
        (plan.link_delay, plan.lane_delay) = ((100, 300), (100, 400));
        (plan.batch, plan.window, plan.fsync) = (PageCount(2), 2, 2_000);
        plan.source.lanes = 2;
        plan.source.convergence.policy = Policy::SwitchOver;
        plan.source.convergence.downtime_max = Duration::from_millis(50);
        plan.faults = faults;
        plan
    }
}

impl Plan {
    /// Adds what brings a broken law to light.
    pub(crate) fn provoke(&mut self, broken: Broken, random: &mut Random) {
        let faults: &[Fault] = match broken {
            Broken::GiveBackEarly | Broken::EndBeforeLanding | Broken::SkipGiveBack => {
                &[Fault::BreakLane(0, Side::Source), Fault::BreakLane(1, Side::Source)]
            }
            Broken::RefuseWithoutRecord => &[Fault::NoRun],
            Broken::ResumeAfterGrant => &[Fault::BreakLink, Fault::SilentLink],
            Broken::SkipDigests => &[Fault::Rot(1)],
            Broken::LeaveThrottled => &[Fault::Cancel(Side::Source)],
            Broken::ArmAfterReading => &[Fault::Storm(Duration::from_millis(50))],
            _ => &[],
        };
        let now = Trigger::Step(1);
        for fault in faults {
            let at = match fault {
                Fault::NoRun | Fault::Storm(_) => now,
                _ => trigger(random),
            };
            self.faults.push((at, *fault));
        }
    }
}

fn layout(random: &mut Random) -> Layout {
    let first = random.between(1, 24);
    let mut regions = vec![RegionLayout { id: RegionId(3), size: PageCount(first).bytes() }];
    if random.chance(50) {
        let second = random.between(1, 16);
        regions.push(RegionLayout { id: RegionId(1), size: PageCount(second).bytes() });
    }
    Layout::new(regions).expect("a small layout")
}

fn subject(layout: Layout) -> Subject {
    Subject {
        guest: GUEST,
        name: "model".into(),
        kind: "model".into(),
        state_version: 1,
        layout,
        state_size: ByteCount::ZERO,
        term: Term { generation: 1, host: 0xa },
        host: 0xa,
    }
}

fn source_options(random: &mut Random) -> SourceOptions {
    let policies =
        [Policy::Throttle { most: 99 }, Policy::SwitchOver, Policy::Wait, Policy::GiveUp];
    let lanes = random.between(1, 4) as u16;
    SourceOptions {
        lanes,
        verify: if lanes == 3 { Verify::Full } else { Verify::Digest },
        convergence: Convergence {
            downtime_max: random.micros(500, 100_000),
            policy: random.pick(&policies),
        },
        greeting_timeout: Duration::from_secs(1),
        silence_timeout: Duration::from_millis(500),
        resume_window: Duration::from_secs(3),
        retry_delay: Duration::from_millis(50),
        pause_budget: Duration::from_millis(200),
        pauses_max: 4,
        pause_timeout: Duration::from_secs(1),
        harvest_timeout: Duration::from_secs(1),
        doubt_timeout: Duration::from_secs(3),
    }
}

fn destination_options() -> DestinationOptions {
    DestinationOptions {
        session: SESSION,
        token: TOKEN,
        resume_token: RESUME_TOKEN,
        lane_tokens: (0..200).map(|lane| Token(1000 + lane)).collect(),
        features: vec![Feature { name: VERIFY_FULL.into(), mandatory: false }],
        lanes_max: 4,
        batch_bytes_max: 64 << 10,
        greeting_timeout: Duration::from_secs(1),
        silence_timeout: Duration::from_millis(500),
        resume_window: Duration::from_secs(3),
        step_timeout: Duration::from_secs(2),
        doubt_timeout: Duration::from_secs(3),
    }
}

/// Faults come alone and spread out, or together: it takes a broken link *and* a death, one
/// shortly after the other, to get between a record and its reader.
fn faults(random: &mut Random) -> Vec<(Trigger, Fault)> {
    let count = random.pick(&[0, 1, 1, 2, 3, 6]);
    let together = random.chance(40).then(|| trigger(random));
    let mut faults = Vec::new();
    for _ in 0..count {
        let at = match together {
            Some(at) => near(random, at),
            None => trigger(random),
        };
        faults.push((at, fault(random)));
    }
    faults
}

fn near(random: &mut Random, trigger: Trigger) -> Trigger {
    let later = random.micros(0, 200_000);
    match trigger {
        Trigger::At(at) => Trigger::At(at + later),
        Trigger::Step(step) => Trigger::Step(step),
        Trigger::Change(change, delay) => Trigger::Change(change, delay + later),
    }
}

fn trigger(random: &mut Random) -> Trigger {
    if random.chance(30) {
        return Trigger::At(random.micros(10, 3_000_000));
    }
    let change = random.between(1, 22) as u32;
    Trigger::Change(change, random.micros(0, 20_000))
}

fn fault(random: &mut Random) -> Fault {
    let side = random.pick(&[Side::Source, Side::Destination]);
    let a_while = random.micros(100, 5_000_000);
    match random.below(20) {
        0..3 => Fault::BreakLink,
        3..5 => Fault::SilentLink,
        5 => Fault::Stall(a_while),
        6..8 => Fault::Outage(a_while),
        8..10 => Fault::BreakLane(random.below(4), side),
        10 => Fault::SilentLane(random.below(4)),
        11..13 => Fault::Crash(side),
        13 => Fault::Restart(side),
        14 => Fault::Cancel(side),
        15 => Fault::Rot(random.below(64)),
        16 => Fault::Garble,
        17 => Fault::FullDisk(side, a_while),
        18 => Fault::NoRun,
        _ => Fault::Storm(a_while),
    }
}
