//! Law 4 at the destination: a lander that dies between the first byte and the last of what it
//! writes in place.

use whimbrel_memory::Landing;
use whimbrel_page::{Leaf, PAGE_SIZE, PageCount, PageIndex, PageSet, RegionId, Run};
use whimbrel_protocol::LaneId;
use whimbrel_protocol::ledger::Pass;
use whimbrel_transport::LaneError;

use super::super::destination::Shared;
use super::super::lander::LandError;
use super::super::{LaneEvent, lock};
use super::world::{KINDS, Make, World, layout};

impl Shared {
    /// Whether this lander is to die now, and after how many pages.
    pub(in super::super) fn tears_after(&self, lane: LaneId) -> Option<usize> {
        let mut tears = lock(&self.tears);
        tears.take_if(|(dying, _)| *dying == lane).map(|(_, pages)| pages)
    }
}

/// Writes as a lander does, but only so many pages and the first half of the next one.
pub(in super::super) fn tear<'a>(
    landing: &Landing,
    raw: impl Iterator<Item = (Run, &'a [u8])>,
    pages: usize,
) -> Result<(), LandError> {
    let single = raw.flat_map(|(run, bytes)| {
        let page = move |page: PageIndex| Run::new(run.region, page.0, 1);
        run.pages().map(page).zip(bytes.chunks_exact(PAGE_SIZE))
    });
    let single: Vec<_> = single.collect();
    landing.write_runs(single[..pages].iter().copied())?;
    let (run, new) = single[pages];
    let mut half = vec![0; PAGE_SIZE];
    landing.copy_run(run, &mut half)?;
    half[..PAGE_SIZE / 2].copy_from_slice(&new[..PAGE_SIZE / 2]);
    landing.write_runs(std::iter::once((run, &half[..])))?;
    Err(LandError::Lane(LaneError::Closed))
}

const RUN: Run = Run { region: RegionId(4), first: PageIndex(70), count: EIGHT };
const EIGHT: PageCount = PageCount(8);
const WHOLE: usize = 3;

/// A world in which all pages hold version 1 on both sides, and a lander died while it wrote
/// version 2 of eight of them: three whole ones and half of the fourth.
fn torn(make: Make) -> (World, LaneId) {
    let mut world = World::new(make);
    let dying = world.open();
    world.write_all(1);
    world.finish_round();
    assert_eq!(unknown(&world), PageCount::ZERO);
    *lock(&world.destination.shared.tears) = Some((dying, WHOLE));
    write(&world, 2);
    world.start_round(Pass::UntilEmpty);
    while !matches!(world.hear(), LaneEvent::Failed(lane, _) if lane == dying) {}
    (world, dying)
}

/// The guest writes this version of the pages.
fn write(world: &World, version: u64) {
    let mut some = PageSet::new(&layout());
    some.insert(RUN);
    RUN.pages().for_each(|page| world.write((RUN.region, page), version));
    world.source.merge(&some);
}

fn unknown(world: &World) -> PageCount {
    world.destination.shared.lock().leaves.root().unknown
}

/// The pages as they are at the destination, in halves: the version that each half is of.
fn versions(world: &World) -> Vec<[u8; 2]> {
    let there = world.there(RUN);
    there.chunks_exact(PAGE_SIZE).map(|page| [page[0], page[PAGE_SIZE - 8]]).collect()
}

/// Whether the guest has written back what they held before (the trap), or not: what a dead lander
/// was at is known to nobody, and goes again.
#[test]
fn pages_of_a_lander_that_died_while_it_wrote_them_are_unknown_and_go_again() {
    for (make, last) in KINDS.into_iter().flat_map(|make| [(make, 1), (make, 2)]) {
        let (mut world, dying) = torn(make);
        let mark = world.mark(dying);
        let mut expected = vec![[2, 2]; WHOLE];
        expected.push([2, 1]);
        expected.resize(EIGHT.0 as usize, [1, 1]);
        assert_eq!(versions(&world), expected, "a page is torn");

        let state = world.destination.shared.lock();
        let leaf = |page| state.leaves.get(RUN.region, page);
        assert!(RUN.pages().map(leaf).all(|leaf| matches!(leaf, Leaf::Unknown)));
        let root = state.leaves.root();
        drop(state);
        assert_eq!(root.unknown, EIGHT);
        assert!(!root.agrees(root), "a root with an unknown leaf agrees with nothing");

        if last == 1 {
            write(&world, 1);
        }
        world.close(mark);
        world.open();
        let tally = world.finish_round();
        assert_eq!((tally.raw, tally.unchanged), (EIGHT, PageCount::ZERO), "version {last}");
        assert_eq!(versions(&world), [[last, last]; EIGHT.0 as usize], "each is whole");
        assert_eq!(unknown(&world), PageCount::ZERO);
        world.assert_equal();
    }
}
