//! The handing over of a guest: every order of what happens, with up to two faults at any step.

use std::collections::BTreeSet;

use whimbrel_protocol::Question;
use whimbrel_sim::exhaustive::handover::{Handover, Mutant, Row};
use whimbrel_sim::exhaustive::{Census, explore};

/// Two faults, or for a night as many as `WHIMBREL_WORLD_FAULTS` says: each one more takes sixty
/// times as long.
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

#[test]
fn two_things_go_wrong_at_any_step() {
    let (census, rows) = look(faults(), Handover::new(faults()).with_third_host());
    assert!(census.states >= 2_000_000, "the world has shrunk");
    let ends: Vec<_> = census.ends.keys().copied().collect();
    assert_eq!(ends, ["aborted", "completed", "in doubt", "lost with its process"]);
    for question in [Question::MayIRun, Question::DoYouRun, Question::DidYouRun] {
        let of_question = rows.iter().filter(|(asked, ..)| *asked == question);
        println!("{question:?}: {} rows of the table", of_question.clone().count());
        of_question.for_each(|(_, record, process)| println!("  {record:?} {process:?}"));
    }
    assert!(rows.len() >= 40, "{} rows of the table were met", rows.len());
}

#[test]
fn the_third_host_gets_a_guest_that_the_second_one_waits_for() {
    let (census, _) = look(faults() - 1, Handover::after_a_broken_promise(faults() - 1));
    assert!(census.states >= 50_000, "the world has shrunk");
    let ends: Vec<_> = census.ends.keys().copied().collect();
    assert_eq!(ends, ["aborted", "completed", "in doubt", "lost with its process"]);
}

/// The mutant breaks this law, with so many faults and no less.
#[track_caller]
fn breaks(mutant: Mutant, law: &str, faults: u32) {
    let broken = |faults| {
        let world = Handover::new(faults).with_third_host().with_mutant(mutant);
        let broke = explore(world).broke;
        broke.into_iter().find(|broke| broke.what.starts_with(law)).map(|broke| (faults, broke))
    };
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
    breaks(Mutant::UnwindAfterGrant, "the guest runs on [A, B]", 0);
    breaks(Mutant::ResumeAfterMove, "the guest runs on [A, B]", 0);
}

#[test]
fn no_record_may_be_left_out() {
    breaks(Mutant::RunWithoutNote, "B runs the guest, and its record is", 0);
    breaks(Mutant::RefuseWithoutRecord, "", 1);
    breaks(Mutant::AnswerWithoutRecord, "", 1);
}
