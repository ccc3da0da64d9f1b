//! What one seed makes of a world: the guest, the network, the settings, and what will go wrong.

mod faults;

use std::time::Duration;

use whimbrel_page::{ByteCount, Layout, PageCount, RegionId, RegionLayout};
use whimbrel_protocol::{
    Convergence, DestinationOptions, Feature, GuestUuid, Policy, SessionId, SourceOptions, Subject,
    Term, Token, VERIFY_FULL, Verify,
};

pub(crate) use faults::Trigger;
pub use faults::{Fault, Side};

use crate::broken::Broken;
use crate::random::Random;

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
    /// Writes that put back what the page held before its last one, in percent.
    pub(crate) write_back: u64,
    /// Whether the guest has outside resources that only one host may hold.
    pub(crate) locks: bool,
    /// How often the guest is to be moved until it has moved.
    pub(crate) attempts: u32,
    /// A lane whose batches take eight times as long.
    pub(crate) slow_lane: Option<u16>,
    /// The one-way delay of a control frame, in microseconds.
    pub(crate) link_delay: (u64, u64),
    /// The delay of a batch on a lane, in microseconds.
    pub(crate) lane_delay: (u64, u64),
    /// Pages a lane takes at a time.
    pub(crate) batch: PageCount,
    /// Batches a lane has under way.
    pub(crate) window: usize,
    /// The harvest for the next round begins when so many pages of a round are left.
    pub(crate) ahead: Option<u64>,
    /// How long a durable write takes at most, in microseconds.
    pub(crate) fsync: u64,
    /// How long it takes at most to read all memory, in microseconds.
    pub(crate) sweep: u64,
    pub(crate) subject: Subject,
    pub(crate) source: SourceOptions,
    pub(crate) destination: DestinationOptions,
    pub(crate) faults: Vec<(Trigger, Fault)>,
}

/// When the guest comes to rest and nothing goes wrong any more: a world has to end after this.
pub(crate) const HEALED: Duration = Duration::from_secs(5);
/// How long a healed world may take to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Switchovers that one attempt may begin.
pub(crate) const PAUSES_MAX: u32 = 4;

pub(crate) const GUEST: GuestUuid = GuestUuid(0x6e57);
pub(crate) const SESSION: SessionId = SessionId(0x5e55);

impl Plan {
    pub(crate) fn new(random: &mut Random) -> Self {
        let layout = layout(random);
        let pages = layout.pages().0;
        let link = random.between(20, 5_000);
        let lane = random.between(20, 5_000);
        let batch = PageCount(random.between(1, 6));
        let window = random.between(1, 6) as usize;
        let mut plan = Self {
            touched: random.pick(&[10, 50, 90, 100]),
            beat: random.micros(100, 50_000),
            burst: random.pick(&[0, 1, 1, 2, 4, 8]),
            working_set: random.between(1, pages),
            write_back: random.pick(&[0, 10, 60]),
            locks: random.chance(50),
            attempts: random.pick(&[1, 2, 2, 3]),
            slow_lane: random.pick(&[None, Some(0), Some(1)]),
            link_delay: (link / 4, link),
            lane_delay: (lane / 10, lane),
            batch,
            window,
            fsync: random.pick(&[200, 2_000, 20_000]),
            sweep: 2_000,
            subject: subject(layout.clone()),
            source: source_options(random),
            destination: destination_options(0),
            faults: faults::faults(random),
            ahead: random.pick(&[None, Some(0), Some(1), Some(3), Some(10)]),
            layout,
        };
        if plan.source.verify == Verify::Full {
            plan.sweep = random.pick(&[200, 2_000, 20_000]);
            plan.faults.extend(faults::silent_writes(random));
            plan.faults.extend(faults::turning(random));
            plan.faults.extend(faults::interrupting(random));
        }
        plan
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
        (plan.write_back, plan.locks, plan.attempts, plan.slow_lane) = (30, true, 1, None);
        plan.ahead = Some(2);
        plan.source.lanes = 2;
        plan.source.verify = Verify::Digest;
        plan.source.convergence.policy = Policy::SwitchOver;
        plan.source.convergence.downtime_max = Duration::from_millis(50);
        plan.faults = faults;
        plan
    }
}

impl Plan {
    /// Adds what brings a broken law to light.
    pub(crate) fn provoke(&mut self, broken: Broken, random: &mut Random) {
        self.faults.extend(faults::provoking(broken, random));
        match broken {
            Broken::ResendDirtyOnly => self.attempts = 2,
            Broken::RunWithoutLocks => self.locks = true,
            Broken::PauseForEver => self.source.pauses_max = u32::MAX,
            Broken::SkipVerify | Broken::SkipVerifyThere => self.source.verify = Verify::Full,
            Broken::WaitForHours => {
                self.source.greeting_timeout = Duration::from_secs(3600);
                self.destination.greeting_timeout = Duration::from_secs(3600);
            }
            Broken::ClearAfterReading | Broken::UntrackedWriter => self.burst += 1,
            // Locks would keep the guest from running twice.
            Broken::ResumeAfterGrant | Broken::UnwindWhenLate => self.locks = false,
            _ => {}
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
        ping_interval: Duration::from_millis(100),
        resume_window: Duration::from_secs(3),
        retry_delay: Duration::from_millis(50),
        pause_budget: Duration::from_millis(200),
        pauses_max: PAUSES_MAX,
        pause_timeout: Duration::from_secs(1),
        harvest_timeout: Duration::from_secs(1),
        doubt_timeout: Duration::from_secs(3),
    }
}

pub(crate) fn destination_options(attempt: u32) -> DestinationOptions {
    let number = u128::from(attempt) * 10_000;
    DestinationOptions {
        session: SessionId(SESSION.0 + u128::from(attempt)),
        token: Token(number + 1),
        resume_token: Token(number + 2),
        lane_tokens: (0..200).map(|lane| Token(number + 1000 + lane)).collect(),
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
