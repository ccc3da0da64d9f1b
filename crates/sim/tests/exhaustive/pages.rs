//! Two pages, two rounds and the last one, two lanes and one fault, in every order.

use whimbrel_sim::exhaustive::pages::{Pages, Slip};
use whimbrel_sim::exhaustive::{Census, explore, find_breach};

#[track_caller]
fn look(name: &str, world: Pages) -> Census {
    let census = explore(world);
    let Census { states, steps, depth, ends, broke } = &census;
    println!("{name}: {states} states, {steps} steps, {depth} deep, {ends:?}");
    let breaches: Vec<String> = broke.iter().map(ToString::to_string).collect();
    assert!(broke.is_empty(), "{} laws are broken\n{}", broke.len(), breaches.join("\n"));
    census
}

#[test]
fn a_page_at_a_time() {
    let census = look("a page at a time", Pages::new(1, 1, 1));
    assert!(census.states >= 100_000, "the world has shrunk");
    let ends: Vec<_> = census.ends.keys().copied().collect();
    assert_eq!(ends, ["garbled, and found", "the guest has moved"]);
}

#[test]
fn both_pages_in_a_batch() {
    let census = look("both pages in a batch", Pages::new(2, 2, 1));
    assert!(census.states >= 100_000, "the world has shrunk");
}

#[track_caller]
fn breaks(world: Pages, slip: Slip, law: &str) {
    let broke = find_breach(world.with_slip(slip), law);
    println!("{slip:?}: {}", broke.expect("the slip breaks the law"));
}

#[test]
fn no_law_may_be_left_out() {
    // A write is lost between the harvest of an older one and the clearing.
    let writes = Pages::new(2, 1, 0);
    breaks(writes, Slip::ClearAfterReading, "the guest runs on pages that are not its own");
    let fails = || Pages::new(1, 1, 1);
    breaks(fails(), Slip::GiveBackEarly, "two copies of page");
    breaks(fails(), Slip::LostCountsAsLanded, "page ");
    breaks(fails(), Slip::TornIsKnown, "the digest of page");
}
