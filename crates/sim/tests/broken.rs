//! The checks bite: a world that breaks a law is found out within so many seeds.

use whimbrel_sim::{Broken, Case};

/// Seeds until a world with this law broken must have been found out.
const SEEDS: u64 = 1000;

#[test]
fn every_broken_law_is_noticed() {
    let mut missed = Vec::new();
    for broken in Broken::ALL {
        let found = (0..SEEDS).find_map(|seed| {
            let breach = Case::new(seed, Some(*broken)).run().err()?;
            Some((seed, breach))
        });
        match found {
            Some((seed, breach)) => println!("{broken}: seed {seed}: {breach}"),
            None => missed.push(broken.to_string()),
        }
    }
    assert!(missed.is_empty(), "not noticed within {SEEDS} seeds: {}", missed.join(", "));
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
