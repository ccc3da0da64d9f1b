//! The checks bite: a world that breaks a law is found out within so many seeds.

use whimbrel_sim::{Broken, World};

/// Seeds until a world with this law broken must have been found out.
const SEEDS: u64 = 300;

#[test]
fn every_broken_law_is_noticed() {
    let mut missed = Vec::new();
    for broken in Broken::ALL {
        let found = (0..SEEDS).find_map(|seed| {
            let breach = World::new(seed, Some(broken)).run().err()?;
            Some((seed, breach))
        });
        match found {
            Some((seed, breach)) => println!("{broken:?}: seed {seed}: {breach}"),
            None => missed.push(format!("{broken:?}")),
        }
    }
    assert!(missed.is_empty(), "not noticed within {SEEDS} seeds: {}", missed.join(", "));
}
