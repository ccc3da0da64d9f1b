//! A few hundred worlds, each from its own seed.
//!
//! A failure names its seed. `WHIMBREL_SEED=… cargo test -p whimbrel-sim replay -- --nocapture`
//! prints everything that happens in that world; `WHIMBREL_BREAK=GiveBackEarly` breaks a law in it.

use std::collections::BTreeMap;

use whimbrel_sim::{Broken, World};

/// Worlds a test run looks at; `WHIMBREL_SEEDS` asks for another number.
const SEEDS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, it must be a number")))
}

#[test]
fn no_world_breaks_a_law() {
    let count = number("WHIMBREL_SEEDS").unwrap_or(SEEDS);
    let mut endings = BTreeMap::new();
    let mut failed = Vec::new();
    let (mut steps, mut strays) = (0, 0);
    for seed in 0..count {
        let mut world = World::new(seed, None);
        match world.run() {
            Ok(ending) => *endings.entry(ending).or_insert(0_u64) += 1,
            Err(breach) => failed.push(format!("seed {seed}: {breach}")),
        }
        let (more, stray) = world.counts();
        (steps, strays) = (steps + more, strays + stray);
    }
    println!("{count} worlds, {steps} steps, {strays} late events: {endings:?}");
    let replay = "WHIMBREL_SEED=… cargo test -p whimbrel-sim replay -- --nocapture";
    assert!(failed.is_empty(), "{}\nsee it with {replay}", failed.join("\n"));
}

#[test]
fn replay() {
    let Some(seed) = number("WHIMBREL_SEED") else { return };
    let broken = std::env::var("WHIMBREL_BREAK").ok();
    let broken = broken.map(|name| {
        let named = Broken::ALL.into_iter().find(|broken| format!("{broken:?}") == name);
        named.unwrap_or_else(|| panic!("WHIMBREL_BREAK is none of {:?}", Broken::ALL))
    });
    let mut world = World::new(seed, broken);
    world.keep_trace();
    let ended = world.run();
    world.trace().iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: {ended:?}");
}
