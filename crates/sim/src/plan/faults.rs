//! What may go wrong, and what a seed chooses of it.

use std::time::Duration;

use crate::broken::Broken;
use crate::random::Random;

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Where the guest is at first.
    Source,
    /// Where it is to go.
    Destination,
}

impl Side {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Source, Self::Destination];

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// When something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// At this time.
    At(Duration),
    /// After so many steps of the world.
    Step(u64),
    /// So long after one of the machines has changed its phase for the n-th time: narrow windows
    /// are found that way.
    Change(u32, Duration),
    /// So long after this side's machine has come into this phase for the first time.
    Enter(Side, &'static str, Duration),
}

/// Phases around the switchover, where a fault does most harm.
const CRITICAL: [(Side, &str); 13] = [
    (Side::Source, "pre-copy"),
    (Side::Source, "quiescing"),
    (Side::Source, "pausing"),
    (Side::Source, "verifying"),
    (Side::Source, "sending the last pages"),
    (Side::Source, "switchover"),
    (Side::Source, "granted"),
    (Side::Destination, "preparing"),
    (Side::Destination, "prepared"),
    (Side::Destination, "starting"),
    (Side::Destination, "running"),
    (Side::Destination, "refusing"),
    (Side::Destination, "ended"),
];

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The control connection breaks; both sides notice.
    BreakLink,
    /// The control connection carries nothing more; nobody is told.
    SilentLink,
    /// On the control connection nothing arrives at this side any more; nobody is told.
    HalfOpenLink(Side),
    /// Everything on the network is late by this much.
    Stall(Duration),
    /// Control connection and lanes break, and none can be opened for so long.
    Outage(Duration),
    /// Everything that is open carries nothing more, and for so long what is opened or asked is
    /// not answered either; nobody is told.
    BlackHole(Duration),
    /// The n-th lane breaks; the side notices, the other one has to be told.
    BreakLane(u64, Side),
    /// The n-th lane carries nothing more; nobody is told.
    SilentLane(u64),
    /// On the n-th lane nothing arrives at this side any more; nobody is told.
    HalfOpenLane(u64, Side),
    /// The thread of the n-th lane dies in the middle of the next page that it lands.
    TearLane(u64),
    /// A greeting of a connection, the n-th of all that ever arrived, arrives once more: of this
    /// session or an older one, of a lane or the control connection.
    Replay(u64),
    /// The guest process dies; its journal is kept.
    Crash(Side),
    /// The host restarts: the guest process dies, notes may be lost and a record torn.
    Restart(Side),
    /// The agent is down for so long: it neither asks nor answers.
    NoAgent(Side, Duration),
    /// The guest process stands still for so long, and then goes on as if nothing had been.
    Freeze(Side, Duration),
    /// What the guest and the disk have to do takes at least so long.
    Hang(Side, Duration),
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
    /// Somebody limits what the lanes carry together from now on: so many pages a second while the
    /// guest runs, and so many of the last ones. 0 is no limit.
    Limit(u64, u64),
    /// This page of the source is written, and the tracker does not see it. Nothing happens where
    /// the memory is not verified in full.
    SilentWrite(u64),
    /// This page of the destination turns into something else after it has landed, and its digest
    /// does not say so. Nothing happens where the memory is not verified in full, or was already.
    Turn(u64),
}

impl Fault {
    /// The same fault, half as long.
    pub(crate) fn shorter(self) -> Option<Self> {
        let half = |time: Duration| Duration::from_micros(time.as_micros() as u64 / 2);
        Some(match self {
            Self::Stall(time) => Self::Stall(half(time)),
            Self::Outage(time) => Self::Outage(half(time)),
            Self::BlackHole(time) => Self::BlackHole(half(time)),
            Self::NoAgent(side, time) => Self::NoAgent(side, half(time)),
            Self::Freeze(side, time) => Self::Freeze(side, half(time)),
            Self::Hang(side, time) => Self::Hang(side, half(time)),
            Self::FullDisk(side, time) => Self::FullDisk(side, half(time)),
            Self::Storm(time) => Self::Storm(half(time)),
            _ => return None,
        })
    }
}

/// Faults come alone and spread out, or together: it takes a broken link *and* a death, one
/// shortly after the other, to get between a record and its reader.
pub(super) fn faults(random: &mut Random) -> Vec<(Trigger, Fault)> {
    let count = random.pick(&[0, 1, 1, 2, 3, 6]);
    let together = random.chance(40).then(|| trigger(random));
    let mut faults = Vec::new();
    for _ in 0..count {
        let at = match together {
            Some(at) => near(random, at),
            None => trigger(random),
        };
        let fault = fault(random);
        faults.push((at, fault));
        // People who cancel do so again (museum M19).
        if matches!(fault, Fault::Cancel(_)) && random.chance(50) {
            faults.push((near(random, at), fault));
        }
    }
    faults
}

/// Writes behind the tracker's back, where the full verification is to find them: late enough that
/// nothing else sends the page again.
pub(super) fn silent_writes(random: &mut Random) -> Vec<(Trigger, Fault)> {
    let mut write = || {
        let phase = random.pick(&["pre-copy", "quiescing", "pausing"]);
        let soon = random.micros(0, 2_000);
        (Trigger::Enter(Side::Source, phase, soon), Fault::SilentWrite(random.below(64)))
    };
    (0..2).map(|_| write()).collect()
}

/// Pages that are not what has landed any more, where the full verification is to find them.
pub(super) fn turning(random: &mut Random) -> Option<(Trigger, Fault)> {
    let (side, phase) = random.pick(&[
        (Side::Source, "quiescing"),
        (Side::Source, "verifying"),
        (Side::Destination, "preparing"),
    ]);
    let soon = random.micros(0, 2_000);
    let turn = (Trigger::Enter(side, phase, soon), Fault::Turn(random.below(64)));
    // Found too often it would be all that is found.
    random.chance(40).then_some(turn)
}

/// What makes a source let its guest run on while its memory is being read.
pub(super) fn interrupting(random: &mut Random) -> Option<(Trigger, Fault)> {
    let hang = Fault::Hang(Side::Source, random.micros(200_000, 500_000));
    let fault = random.pick(&[Fault::BreakLink, hang]);
    let at = Trigger::Enter(Side::Source, "verifying", random.micros(0, 500));
    random.chance(40).then_some((at, fault))
}

fn near(random: &mut Random, trigger: Trigger) -> Trigger {
    let later = random.micros(0, 200_000);
    match trigger {
        Trigger::At(at) => Trigger::At(at + later),
        Trigger::Step(step) => Trigger::Step(step),
        Trigger::Change(change, delay) => Trigger::Change(change, delay + later),
        Trigger::Enter(side, phase, delay) => Trigger::Enter(side, phase, delay + later),
    }
}

fn trigger(random: &mut Random) -> Trigger {
    let soon = random.micros(0, 20_000);
    match random.below(10) {
        0..2 => Trigger::At(random.micros(10, 3_000_000)),
        2..6 => Trigger::Change(random.between(1, 22) as u32, soon),
        _ => {
            let (side, phase) = random.pick(&CRITICAL);
            Trigger::Enter(side, phase, soon)
        }
    }
}

fn fault(random: &mut Random) -> Fault {
    let side = random.pick(&Side::BOTH);
    let a_while = random.micros(100, 5_000_000);
    match random.below(31) {
        0..3 => Fault::BreakLink,
        3..5 => Fault::SilentLink,
        5 => Fault::HalfOpenLink(side),
        6 => Fault::Stall(a_while),
        7..9 => Fault::Outage(a_while),
        9 => Fault::BlackHole(a_while),
        10..12 => Fault::BreakLane(random.below(4), side),
        12 => Fault::SilentLane(random.below(4)),
        13 => Fault::HalfOpenLane(random.below(4), side),
        14 => Fault::Replay(random.below(8)),
        15..17 => Fault::Crash(side),
        17..19 => Fault::Restart(side),
        19 => Fault::NoAgent(side, a_while),
        20 => Fault::Freeze(side, a_while),
        21 => Fault::Hang(side, a_while),
        22..24 => Fault::Cancel(side),
        24 => Fault::Rot(random.below(64)),
        25 => Fault::Garble,
        26 => Fault::FullDisk(side, a_while),
        27 => Fault::NoRun,
        28 => Fault::TearLane(random.below(4)),
        29 => Fault::Limit(limit(random), limit(random)),
        _ => Fault::Storm(a_while),
    }
}

/// Pages a second, of a few dozen there are.
fn limit(random: &mut Random) -> u64 {
    random.pick(&[0, 50, 300, 3_000, 30_000])
}

/// What brings a broken law to light.
pub(super) fn provoking(broken: Broken, random: &mut Random) -> Vec<(Trigger, Fault)> {
    let break_lanes: &[Fault] =
        &[Fault::BreakLane(0, Side::Source), Fault::BreakLane(1, Side::Source)];
    let faults: &[Fault] = match broken {
        Broken::GiveBackEarly
        | Broken::EndBeforeLanding
        | Broken::SkipGiveBack
        | Broken::FailSilently => break_lanes,
        Broken::RefuseWithoutRecord => &[Fault::NoRun],
        Broken::ResumeAfterGrant | Broken::StayPaused | Broken::RunWithoutLocks => {
            &[Fault::BreakLink, Fault::SilentLink]
        }
        // The last word is lost: the guest runs already.
        Broken::UnwindWhenLate => {
            let starts = Trigger::Enter(Side::Destination, "starting", Duration::ZERO);
            return vec![(starts, Fault::HalfOpenLink(Side::Source))];
        }
        Broken::NeverAskAgain => &[Fault::SilentLink, Fault::BreakLink],
        Broken::NoClock => &[Fault::BlackHole(Duration::from_secs(5))],
        Broken::SkipDigests => &[Fault::Rot(1)],
        Broken::LeaveThrottled
        | Broken::ResendDirtyOnly
        | Broken::CancelLater
        | Broken::ReportSuccess => &[Fault::Cancel(Side::Source)],
        Broken::ArmAfterReading => &[Fault::Storm(Duration::from_millis(50))],
        Broken::TakeStrangers => &[Fault::Replay(1), Fault::Replay(2)],
        Broken::OneSlot => &[Fault::FullDisk(Side::Source, Duration::from_millis(500))],
        Broken::KnowTornPages => &[Fault::TearLane(0), Fault::TearLane(1)],
        Broken::ClearAfterReading => &[Fault::Storm(Duration::from_secs(1))],
        Broken::IgnoreRate => &[Fault::Limit(50, 50)],
        Broken::ForgetLanes => &[Fault::Replay(1), Fault::Replay(2)],
        // Whatever is begun is late: no switchover comes through in time.
        Broken::PauseForEver => {
            let late = Fault::Stall(Duration::from_millis(250));
            return (8..60).map(|change| (Trigger::Change(change, Duration::ZERO), late)).collect();
        }
        Broken::IgnorePauseBudget => &[Fault::Hang(Side::Destination, Duration::from_secs(1))],
        Broken::SkipVerify => return silent_writes(random),
        Broken::SkipVerifyThere => return turning(random).into_iter().collect(),
        _ => &[],
    };
    let at = |fault: &Fault, random: &mut Random| match fault {
        Fault::NoRun | Fault::Storm(_) | Fault::FullDisk(..) | Fault::Limit(..) => Trigger::Step(1),
        _ => trigger(random),
    };
    faults.iter().map(|fault| (at(fault, random), *fault)).collect()
}
