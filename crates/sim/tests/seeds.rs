//! A thousand worlds, each from its own seed.

use std::collections::BTreeMap;

use whimbrel_sim::{Case, Ending, Seen, Sights};

/// Worlds a test run looks at; `WHIMBREL_SEEDS` asks for another number.
const SEEDS: u64 = 1000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, it must be a number")))
}

#[test]
fn no_world_breaks_a_law() {
    let count = number("WHIMBREL_SEEDS").unwrap_or(SEEDS);
    let (mut endings, mut sights) = (BTreeMap::new(), Sights::new());
    let (mut steps, mut strays) = (0, 0);
    for seed in 0..count {
        let case = Case::new(seed, None);
        let mut world = case.world();
        match world.run() {
            Ok(ending) => *endings.entry(ending).or_insert(0_u64) += 1,
            Err(breach) => fail(seed, &case, &breach.to_string()),
        }
        let (more, stray) = world.counts();
        (steps, strays) = (steps + more, strays + stray);
        for (sight, count) in world.sights() {
            *sights.entry(*sight).or_insert(0) += count;
        }
    }
    println!("{count} worlds, {steps} steps, {strays} late events: {endings:?}");
    println!("{sights:?}");
    // Tame worlds would prove nothing.
    let unseen = Seen::ALL.into_iter().filter(|sight| !sights.contains_key(sight));
    let unseen: Vec<Seen> = if count >= SEEDS { unseen.collect() } else { Vec::new() };
    assert!(unseen.is_empty(), "in no world there was {unseen:?}");
    assert!(endings[&Ending::Completed] > count / 4, "most worlds are hopeless: {endings:?}");
}

/// Says how to see it, and makes it small.
fn fail(seed: u64, case: &Case, breach: &str) -> ! {
    let small = case.shrink().expect("it breaks a law");
    panic!(
        "seed {seed}: {breach}\n\nreplay: cargo run -p whimbrel-sim -- --seed {seed} --trace\n\
         small: cargo run -p whimbrel-sim -- --seed {seed} --shrink\n\n{}{}",
        small.case, small.breach,
    )
}
