//! The checks bite: a world that breaks a law is found out within so many seeds.

use std::collections::BTreeSet;

use whimbrel_sim::{Breach, Broken, Case, Law};

/// Seeds until a world with this law broken must have been found out.
const SEEDS: u64 = 1000;

/// What the first world says that finds it out.
fn found_out(broken: Broken) -> Option<(u64, Breach)> {
    (0..SEEDS).find_map(|seed| Some((seed, Case::new(seed, Some(broken)).run().err()?)))
}

/// Each is found out by a law that is about it, and no law waits for something that never comes.
#[test]
fn every_broken_law_is_noticed() {
    let (mut missed, mut laws) = (Vec::new(), BTreeSet::new());
    for broken in Broken::ALL {
        let Some((seed, breach)) = found_out(*broken) else {
            missed.push(format!("{broken} is not noticed within {SEEDS} seeds"));
            continue;
        };
        println!("{broken}: seed {seed}: {breach}");
        laws.insert(breach.law);
        if !broken.laws().contains(&breach.law) {
            missed.push(format!("{broken} breaks none of {:?}: {breach}", broken.laws()));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
    assert_eq!(laws, BTreeSet::from(Law::ALL), "a law that nothing breaks");
}

#[test]
fn every_kind_of_limit_is_looked_at() {
    let kinds = [
        (Broken::IgnoreWindow, "batches under way"),
        (Broken::LongBatches, "is too long"),
        (Broken::OpenMoreLanes, "lanes are open of 4"),
        (Broken::PauseForEver, "is paused for the 5th time of 4"),
        (Broken::IgnoreRate, "a second were carried"),
    ];
    for (broken, what) in kinds {
        let (_, breach) = found_out(broken).expect("it is noticed");
        assert!(breach.what.contains(what), "{broken}: {breach}");
    }
}

/// A failure becomes smaller, and stays the same failure.
#[test]
fn what_breaks_a_law_is_made_small() {
    for broken in [Broken::ResendDirtyOnly, Broken::SkipGiveBack, Broken::ArmAfterReading] {
        let failing = (0..SEEDS).map(|seed| Case::new(seed, Some(broken)));
        let mut failing = failing.filter_map(|case| Some((case.run().err()?.law, case)));
        let (law, case) = failing.find(|(_, case)| case.size().faults > 2).expect("a big one");
        let shrunk = case.shrink().expect("it breaks a law");
        println!("{broken}: {:?} to {:?}", case.size(), shrunk.case.size());
        assert_eq!(shrunk.case.run().expect_err("it still does"), shrunk.breach);
        assert_eq!(shrunk.breach.law, law);
        let (before, after) = (case.size(), shrunk.case.size());
        assert!(after.faults <= 1 && after.faults < before.faults, "{}", shrunk.case);
        assert!(after.pages <= 2 && after.lanes <= 2, "{}", shrunk.case);
        // The same every time.
        let again = case.shrink().expect("it breaks a law");
        assert_eq!((again.case.size(), again.runs), (after, shrunk.runs));
    }
}

#[test]
fn what_breaks_no_law_does_not_shrink() {
    assert!(Case::new(0, None).shrink().is_none());
}
