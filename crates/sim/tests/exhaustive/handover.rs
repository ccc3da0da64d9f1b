//! The handing over of a guest: every order of what happens, with up to two faults at any step.

use std::collections::BTreeSet;

use whimbrel_sim::exhaustive::handover::{Handover, Mutant, Row};
use whimbrel_sim::exhaustive::{Census, explore, find_breach};

use crate::rows::account_for;

const ENDS: [&str; 4] = ["aborted", "completed", "in doubt", "lost with its process"];

/// Two faults, or for nights as many as `WHIMBREL_WORLD_FAULTS` says: two take eighty times as long
/// as one.
fn faults() -> u32 {
    let asked = std::env::var("WHIMBREL_WORLD_FAULTS").ok();
    asked.map_or(2, |faults| faults.parse().expect("a number of faults"))
}

#[track_caller]
fn look(faults: u32, world: Handover) -> (Census, BTreeSet<Row>) {
    let census = explore(world.clone());
    let Census { states, steps, depth, ends, broke } = &census;
    println!("{faults} faults: {states} states, {steps} steps, {depth} deep, {ends:?}");
    let breaches: Vec<String> = broke.iter().map(ToString::to_string).collect();
    assert!(broke.is_empty(), "{} laws are broken\n{}", broke.len(), breaches.join("\n"));
    (census, world.rows())
}

#[test]
fn a_guest_is_handed_over_in_every_order() {
    let (census, _) = look(0, Handover::new(0));
    assert!(census.states >= 150, "the world has shrunk");
    assert_eq!(census.ends.keys().collect::<Vec<_>>(), [&"completed"]);
}

/// With one thing it is also known which guests outlive their source.
#[test]
fn one_thing_goes_wrong_at_any_step() {
    for world in [Handover::new(1).with_third_host(), Handover::verified_in_full(1)] {
        let (census, _) = look(1, world);
        assert_eq!(census.ends.keys().copied().collect::<Vec<_>>(), ENDS);
    }
}

/// A guest and two things that go wrong, and one that is in trouble already; together they come to
/// every row of the table that such worlds have.
#[test]
fn two_things_go_wrong_at_any_step() {
    let promised = std::thread::spawn(the_third_host_gets_a_guest_that_the_second_one_waits_for);
    let (census, mut rows) = look(faults(), Handover::new(faults()).with_third_host());
    assert!(census.states >= 7_000_000, "the world has shrunk");
    assert_eq!(census.ends.keys().copied().collect::<Vec<_>>(), ENDS);
    rows.extend(promised.join().expect("the other world holds as well"));
    account_for(&rows, faults());
}

fn the_third_host_gets_a_guest_that_the_second_one_waits_for() -> BTreeSet<Row> {
    let (census, rows) = look(faults() - 1, Handover::after_a_broken_promise(faults() - 1));
    assert!(census.states >= 1_000_000, "the world has shrunk");
    assert_eq!(census.ends.keys().copied().collect::<Vec<_>>(), ENDS);
    rows
}

/// Where both memories are verified in full, a page may also be written behind the tracker's back,
/// or turn into something else after it has landed.
#[test]
fn two_things_go_wrong_around_a_full_verification() {
    let (census, _) = look(faults(), Handover::verified_in_full(faults()));
    assert!(census.states >= 1_000_000, "the world has shrunk");
    assert_eq!(census.ends.keys().copied().collect::<Vec<_>>(), ENDS);
}

/// Found by the verification, named by its sums, sent once more: the guest moves all the same.
#[test]
fn what_has_rotted_is_repaired() {
    let rotten = || Handover::verified_in_full(0).with_rot();
    let (census, _) = look(0, rotten());
    assert_eq!(census.ends.keys().collect::<Vec<_>>(), [&"completed"]);
    let (census, _) = look(0, rotten().with_mutant(Mutant::RepairNothing));
    assert_eq!(census.ends.keys().collect::<Vec<_>>(), [&"aborted"], "it has to be sent again");
}

/// The mutant breaks this law, with so many faults and no less.
#[track_caller]
fn breaks(mutant: Mutant, law: &str, faults: u32) {
    breaks_in(|faults| Handover::new(faults).with_third_host(), mutant, law, faults);
}

#[track_caller]
fn breaks_in(world: fn(u32) -> Handover, mutant: Mutant, law: &str, faults: u32) {
    let broken =
        |faults| find_breach(world(faults).with_mutant(mutant), law).map(|broke| (faults, broke));
    let (needed, broke) = (0..=faults).find_map(broken).expect("the mutant breaks the law");
    println!("{mutant:?}, with {needed} faults: {broke}");
    assert_eq!(needed, faults);
}

/// Museum M1, as Cloud Hypervisor has it.
#[test]
fn who_runs_and_then_says_so_makes_two_guests_of_one() {
    breaks(Mutant::RunThenAcknowledge, "the guest runs on [A, B]", 1);
}

/// Museum M1 as QEMU has it, with a return path that is lost, M2 and M3.
#[test]
fn who_takes_back_what_was_granted_makes_two_guests_of_one() {
    breaks(Mutant::UnwindAfterGrant, "the guest runs on [A, B]", 1);
    breaks(Mutant::ResumeAfterMove, "the guest runs on [A, B]", 1);
}

#[test]
fn no_record_may_be_left_out() {
    breaks(Mutant::RunWithoutNote, "B runs the guest, and its record is", 0);
    breaks(Mutant::RefuseWithoutRecord, "NotYours is not true", 1);
    breaks(Mutant::AnswerWithoutRecord, "NeverRan is not true", 1);
}

#[test]
fn a_source_that_died_waits_for_the_answer_that_can_come_and_no_other() {
    breaks(Mutant::WaitAfterUnknown, "A waits for a person for ever", 1);
    breaks(Mutant::OwnAtOnce, "the guest is lost", 1);
}

#[test]
fn no_memory_may_be_left_unread() {
    let law = "the guest runs on what is not its last";
    breaks(Mutant::SkipDigests, law, 1);
    breaks_in(Handover::verified_in_full, Mutant::SkipVerifyHere, law, 1);
    breaks_in(Handover::verified_in_full, Mutant::SkipVerifyThere, law, 1);
}
