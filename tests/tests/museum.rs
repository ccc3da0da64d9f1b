//! The table of the museum is true: each defect is put back by what the table says, and what is
//! put back in the simulator is found out within the worlds that the table allows.

use std::collections::BTreeSet;
use std::path::Path;

use whimbrel_sim::{Broken, Case};
use whimbrel_tests::house::Workspace;
use whimbrel_tests::museum::{Exhibit, MUTATIONS, read};

/// Defects in the museum.
const EXHIBITS: u32 = 28;

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn table() -> Vec<Exhibit> {
    read(&text("docs/museum.md"))
}

#[test]
fn every_defect_has_its_row_and_every_row_its_proof() {
    let table = table();
    let numbers: Vec<u32> = table.iter().map(|exhibit| exhibit.number).collect();
    assert_eq!(numbers, (1..=EXHIBITS).collect::<Vec<_>>());
    for exhibit in &table {
        let put_back = !exhibit.broken.is_empty() || !exhibit.mutations.is_empty();
        assert!(put_back != exhibit.impossible, "one of the two: {exhibit:?}");
        for path in &exhibit.paths {
            assert!(Workspace::exists(path), "M{} names {path}", exhibit.number);
        }
        for name in &exhibit.mutations {
            assert!(MUTATIONS.iter().any(|m| m.name == name), "M{}: {name}", exhibit.number);
        }
    }
}

#[test]
fn what_is_put_back_is_found_out_as_soon_as_the_table_says() {
    for exhibit in table() {
        assert_eq!(exhibit.broken.len(), exhibit.seeds_max.len(), "bounds of {exhibit:?}");
        let mut laws = BTreeSet::new();
        for (name, most) in exhibit.broken.iter().zip(&exhibit.seeds_max) {
            let broken = Broken::named(name).unwrap_or_else(|| panic!("there is no {name}"));
            laws.extend(broken.laws().iter().map(|law| format!("{law:?}")));
            let worlds = (0..*most).map(|seed| (seed, Case::new(seed, Some(broken)).run()));
            let found = worlds.filter_map(|(seed, ended)| Some((seed, ended.err()?))).next();
            let (seed, breach) = found.unwrap_or_else(|| panic!("{name}: not within {most} seeds"));
            assert!(broken.laws().contains(&breach.law), "{name}, seed {seed}: {breach}");
            println!("M{}: {name}: {} seeds: {breach}", exhibit.number, seed + 1);
        }
        let named: BTreeSet<String> = exhibit.laws.iter().cloned().collect();
        assert_eq!(named, laws, "M{} is found out by", exhibit.number);
    }
}

#[test]
fn every_change_of_the_source_can_still_be_made() {
    for mutation in MUTATIONS {
        let found = text(mutation.file).matches(mutation.from).count();
        assert_eq!(found, 1, "{}: its place in {}", mutation.name, mutation.file);
        let named = table().iter().any(|exhibit| exhibit.mutations.contains(&mutation.name.into()));
        assert!(named, "{} is in no row", mutation.name);
    }
}
