//! One small world, and everything that can go wrong in it at every one of its steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use whimbrel_sim::{Breach, Broken, Ending, Fault, Seen, Side, World};

const A_WHILE: Duration = Duration::from_millis(30);
/// Longer than a side is silent before its peer gives the connection up.
const A_LONG_WHILE: Duration = Duration::from_millis(700);

fn faults() -> Vec<Fault> {
    let mut faults = vec![
        Fault::BreakLink,
        Fault::SilentLink,
        Fault::Stall(A_WHILE),
        Fault::Outage(A_WHILE),
        Fault::BlackHole(A_WHILE),
        Fault::Replay(0),
        Fault::Replay(1),
        Fault::TearLane(0),
        Fault::SilentLane(0),
        Fault::SilentLane(1),
        Fault::Rot(1),
        Fault::Garble,
        Fault::NoRun,
        Fault::Storm(A_WHILE),
        Fault::Limit(300, 0),
        Fault::Limit(0, 50),
    ];
    for side in [Side::Source, Side::Destination] {
        faults.extend([Fault::BreakLane(0, side), Fault::BreakLane(1, side)]);
        faults.extend([Fault::Crash(side), Fault::Restart(side), Fault::Cancel(side)]);
        faults.extend([Fault::HalfOpenLink(side), Fault::HalfOpenLane(0, side)]);
        faults.extend([Fault::FullDisk(side, A_WHILE), Fault::NoAgent(side, A_LONG_WHILE)]);
        faults.extend([Fault::Freeze(side, A_LONG_WHILE), Fault::Hang(side, A_LONG_WHILE)]);
    }
    faults
}

/// Steps of the world in which nothing goes wrong.
fn steps() -> u64 {
    let mut world = World::tiny(&[]);
    assert_eq!(world.run(), Ok(Ending::Completed));
    world.counts().0
}

/// The same with all memory verified, which has faults of its own, and a guest that is paused in
/// one more way.
#[test]
fn one_fault_at_every_step_of_a_full_verification() {
    let mut calm = World::verified(&[]);
    assert_eq!(calm.run(), Ok(Ending::Completed));
    let steps = calm.counts().0;
    let (mut ended, mut seen) = (BTreeMap::new(), BTreeSet::new());
    let own = [Fault::SilentWrite(0), Fault::SilentWrite(3), Fault::Turn(0), Fault::Turn(3)];
    for fault in faults().into_iter().chain(own) {
        for step in 0..steps {
            let mut world = World::verified(&[(step, fault)]);
            match world.run() {
                Ok(ending) => *ended.entry(ending).or_insert(0_u64) += 1,
                Err(breach) => panic!("{fault:?} at step {step}: {breach}"),
            }
            seen.extend(world.sights().keys().copied());
        }
    }
    println!("{steps} steps: {ended:?}");
    for sight in [Seen::Missed, Seen::Turned, Seen::VerifiedInVain] {
        assert!(seen.contains(&sight), "in no world there was {sight:?}");
    }
}

/// Runs the world with these faults; a breach names them.
fn run(faults: &[(u64, Fault)], endings: &mut BTreeMap<Ending, u64>, failed: &mut Vec<String>) {
    match World::tiny(faults).run() {
        Ok(ending) => *endings.entry(ending).or_insert(0) += 1,
        Err(breach) => failed.push(format!("{faults:?}: {breach}")),
    }
}

#[test]
fn one_fault_at_every_step() {
    let (mut endings, mut failed) = (BTreeMap::new(), Vec::new());
    let steps = steps();
    for fault in faults() {
        (0..steps).for_each(|step| run(&[(step, fault)], &mut endings, &mut failed));
    }
    println!("{steps} steps, {} faults: {endings:?}", faults().len());
    assert!(failed.is_empty(), "{} worlds, first {}", failed.len(), failed[0]);
}

#[test]
fn a_cancel_at_every_step_may_be_said_again() {
    let (mut endings, mut failed) = (BTreeMap::new(), Vec::new());
    for side in [Side::Source, Side::Destination] {
        let cancel = Fault::Cancel(side);
        for step in 0..steps() {
            run(&[(step, cancel), (step + 1, cancel)], &mut endings, &mut failed);
        }
    }
    println!("{endings:?}");
    assert!(failed.is_empty(), "{} worlds, first {}", failed.len(), failed[0]);
}

/// Law 4's trap: a lane dies in the middle of a page, and the guest writes back what the page held
/// before. What the destination holds of it is unknown, so it is sent again and never skipped.
#[test]
fn a_guest_that_writes_back_what_a_dead_lane_tore() {
    let (mut torn, mut ended) = (0, BTreeMap::new());
    for (lane, step) in (0..2).flat_map(|lane| (0..steps()).map(move |step| (lane, step))) {
        let mut world = World::seesaw(&[(step, Fault::TearLane(lane))], None);
        match world.run() {
            Ok(ending) => *ended.entry(ending).or_insert(0) += 1,
            Err(breach) => panic!("lane {lane} at step {step}: {breach}"),
        }
        torn += world.sights().get(&Seen::TornLanding).copied().unwrap_or(0);
    }
    println!("{torn} pages were torn: {ended:?}");
    assert!(torn > 50, "only {torn} pages were torn");
}

/// The same with a law of it broken, which has to show.
#[test]
fn torn_pages_that_count_as_known_are_found_out() {
    for broken in [Broken::KnowTornPages, Broken::SkipGiveBack] {
        let worlds = (0..steps()).map(|step| [(step, Fault::TearLane(0))]);
        let found = worlds.filter_map(|faults| World::seesaw(&faults, Some(broken)).run().err());
        let found: Vec<Breach> = found.collect();
        println!("{broken}: {} of {} worlds", found.len(), steps());
        assert!(!found.is_empty(), "{broken} is never found out");
        let other = found.iter().find(|breach| !broken.laws().contains(&breach.law));
        assert_eq!(other, None, "{broken} breaks another law");
    }
}

/// Two faults, the second one soon after the first. `WHIMBREL_PAIRS=1` looks at all half a million
/// pairs, which takes minutes in release mode; otherwise at every so many of them.
#[test]
fn two_faults_one_soon_after_the_other() {
    let every = if std::env::var_os("WHIMBREL_PAIRS").is_some() { 1 } else { 199 };
    let (mut endings, mut failed) = (BTreeMap::new(), Vec::new());
    pairs().step_by(every).for_each(|pair| run(&pair, &mut endings, &mut failed));
    println!("{endings:?}");
    assert!(failed.is_empty(), "{} worlds, first {}", failed.len(), failed[0]);
}

fn pairs() -> impl Iterator<Item = [(u64, Fault); 2]> {
    let kinds = faults().into_iter().flat_map(|a| faults().into_iter().map(move |b| (a, b)));
    let kinds: Vec<(Fault, Fault)> = kinds.collect();
    (0..steps()).flat_map(move |step| {
        let gaps = [1, 2, 5, 12, 30, 60];
        let pair = move |(a, b), gap| [(step, a), (step + gap, b)];
        let kinds = kinds.clone().into_iter();
        kinds.flat_map(move |kind| gaps.map(|gap| pair(kind, gap)))
    })
}
