//! One small world, and everything that can go wrong in it at every one of its steps.

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_sim::{Ending, Fault, Side, World};

const A_WHILE: Duration = Duration::from_millis(30);

fn faults() -> Vec<Fault> {
    let mut faults = vec![
        Fault::BreakLink,
        Fault::SilentLink,
        Fault::Stall(A_WHILE),
        Fault::Outage(A_WHILE),
        Fault::SilentLane(0),
        Fault::SilentLane(1),
        Fault::Rot(1),
        Fault::Garble,
        Fault::NoRun,
        Fault::Storm(A_WHILE),
    ];
    for side in [Side::Source, Side::Destination] {
        faults.extend([Fault::BreakLane(0, side), Fault::BreakLane(1, side)]);
        faults.extend([Fault::Crash(side), Fault::Restart(side), Fault::Cancel(side)]);
        faults.push(Fault::FullDisk(side, A_WHILE));
    }
    faults
}

/// Steps of the world in which nothing goes wrong.
fn steps() -> u64 {
    let mut world = World::tiny(&[]);
    assert_eq!(world.run(), Ok(Ending::Completed));
    world.counts().0
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
