//! What a harvest finds while nobody else writes.

use std::io::{Seek, Write};

use whimbrel_memory::page::{ByteCount, PAGE_SIZE, PageCount, PageIndex, PageSet, RegionId, Run};
use whimbrel_memory::{HugePages, TrackerKind};

use super::cases::{Case, R, fill, harvested, one, touch};

pub(crate) fn what_was_written_is_found_once(case: Case) {
    let memory = case.memory(2000);
    fill(&memory, 2000);
    let mut tracker = case.armed(&memory);
    case.expect(&mut *tracker, &memory, &[]);
    [3, 4, 5, 511, 512, 1999].iter().for_each(|page| touch(&memory, *page));
    let runs = [Run::new(R, 3, 3), Run::new(R, 511, 2), one(1999)];
    case.expect(&mut *tracker, &memory, &runs);
    case.expect(&mut *tracker, &memory, &[]);
    touch(&memory, 4);
    let mut into = PageSet::full(memory.layout());
    let count = tracker.harvest(&mut into).expect("harvested");
    assert_eq!(count, PageCount(case.granule()), "found, though it was in the set already");
    assert_eq!(into.count(), memory.layout().pages(), "a harvest takes nothing out of the set");
}

pub(crate) fn memory_is_armed_however_it_was_populated(case: Case) {
    let memory = case.memory(1000);
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&[7; 10 * PAGE_SIZE]).expect("a small file");
    file.rewind().expect("a file");
    let len = PageCount(10).bytes();
    memory.read_file(&file, R, ByteCount(0), len).expect("read");
    memory.store_u64(R, PageIndex(20).offset(), 1).expect("in range");
    memory.copy_run(one(30), &mut [0; PAGE_SIZE]).expect("in range");
    let mut tracker = case.armed(&memory);
    case.expect(&mut *tracker, &memory, &[]);
    [0, 9, 20, 30].iter().for_each(|page| touch(&memory, *page));
    case.expect(&mut *tracker, &memory, &[one(0), one(9), one(20), one(30)]);
}

pub(crate) fn what_is_populated_later_is_found(case: Case) {
    let memory = case.memory(5000);
    touch(&memory, 100);
    let mut tracker = case.armed(&memory);
    // Beside what is armed, in a page table of its own, and in two neighbouring ones.
    [101, 3000, 4095, 4096].iter().for_each(|page| touch(&memory, *page));
    if case.huge == HugePages::Transparent {
        // The host may populate more than was written.
        let found = harvested(&mut *tracker, &memory);
        assert!([101, 3000, 4095, 4096].iter().all(|page| found.contains(R, PageIndex(*page))));
        case.expect(&mut *tracker, &memory, &[]);
    } else {
        case.expect(&mut *tracker, &memory, &[one(101), one(3000), Run::new(R, 4095, 2)]);
    }
    touch(&memory, 3000);
    touch(&memory, 3001);
    let found = harvested(&mut *tracker, &memory);
    assert!(found.contains(R, PageIndex(3000)) && found.contains(R, PageIndex(3001)));
    case.expect(&mut *tracker, &memory, &[]);
}

pub(crate) fn a_full_region_is_found(case: Case) {
    let memory = case.memory(4096);
    fill(&memory, 4096);
    let mut tracker = case.armed(&memory);
    fill(&memory, 4096);
    case.expect(&mut *tracker, &memory, &[Run::new(R, 0, 4096)]);
    case.expect(&mut *tracker, &memory, &[]);
    let mut copy = vec![0; PAGE_SIZE];
    memory.copy_run(one(77), &mut copy).expect("in range");
    assert_eq!(copy, [77; PAGE_SIZE]);
}

/// More runs than one system call reports, and than the protection of pages may be split into.
pub(crate) fn alternating_pages_are_found(case: Case) {
    const PAGES: u64 = 40_000;
    if case.granule() > 1 {
        return; // Half a huge page is a whole one: there is nothing to alternate.
    }
    let memory = case.memory(PAGES);
    let odd = (0..PAGES).filter(|page| page % 2 == 1);
    odd.clone().for_each(|page| touch(&memory, page));
    let mut tracker = case.armed(&memory);
    odd.clone().for_each(|page| touch(&memory, page));
    let found = harvested(&mut *tracker, &memory);
    assert!(odd.clone().all(|page| found.contains(R, PageIndex(page))));
    if case.huge == HugePages::HostDefault {
        assert!((0..PAGES).step_by(2).all(|page| !found.contains(R, PageIndex(page))));
    }
    case.expect(&mut *tracker, &memory, &[]);
    odd.clone().filter(|page| page % 4 == 1).for_each(|page| touch(&memory, page));
    let found = harvested(&mut *tracker, &memory);
    assert!(odd.filter(|page| page % 4 == 1).all(|page| found.contains(R, PageIndex(page))));
    // What the allocator of a whole process needs is still there.
    assert_eq!(vec![0_u8; 64 << 20].len(), 64 << 20);
}

pub(crate) fn a_read_is_no_write_of_what_is_armed(case: Case) {
    let memory = case.memory(600);
    fill(&memory, 600);
    let mut tracker = case.armed(&memory);
    let mut copy = vec![0; 600 * PAGE_SIZE];
    memory.copy_run(Run::new(R, 0, 600), &mut copy).expect("in range");
    memory.load_u64(R, ByteCount(0)).expect("in range");
    case.expect(&mut *tracker, &memory, &[]);
}

pub(crate) fn kernel_writes_are_found(case: Case) {
    let memory = case.memory(1100);
    fill(&memory, 600);
    let mut file = tempfile::tempfile().expect("a temporary file");
    let content: Vec<u8> = (0..5 * PAGE_SIZE).map(|byte| (byte % 253) as u8).collect();
    file.write_all(&content).expect("a small file");
    let mut tracker = case.armed(&memory);
    // Into armed pages, and into pages that nobody has touched.
    for first in [10, 1000] {
        for round in 0..2 {
            file.rewind().expect("a file");
            let offset = PageIndex(first).offset() + ByteCount(100);
            let len = ByteCount(content.len() as u64);
            let count = memory.read_file(&file, R, offset, len).expect("read");
            assert_eq!(count, len);
            let mut copy = vec![0; content.len()];
            memory.read(R, offset, &mut copy).expect("in range");
            assert!(copy == content);
            let found = harvested(&mut *tracker, &memory);
            let all = (first..first + 6).all(|page| found.contains(R, PageIndex(page)));
            assert!(all, "{case:?}, round {round}: {:?}", found.runs().collect::<Vec<_>>());
        }
    }
    file.rewind().expect("a file");
    memory.read_from(&mut file, R, PageIndex(500).offset(), ByteCount(10)).expect("read");
    case.expect(&mut *tracker, &memory, &[one(500)]);
}

pub(crate) fn discards_are_found(case: Case) {
    let memory = case.memory(2048);
    fill(&memory, 2048);
    let mut tracker = case.armed(&memory);
    memory.discard(Run::new(R, 512, 600)).expect("discarded");
    memory.discard(one(3)).expect("discarded");
    case.expect(&mut *tracker, &memory, &[one(3), Run::new(R, 512, 600)]);
    let mut copy = vec![1; 600 * PAGE_SIZE];
    memory.copy_run(Run::new(R, 512, 600), &mut copy).expect("in range");
    assert!(copy.iter().all(|byte| *byte == 0));
    // A discarded page may read as written once more, and must when it is.
    harvested(&mut *tracker, &memory);
    touch(&memory, 600);
    touch(&memory, 3);
    let found = harvested(&mut *tracker, &memory);
    assert!(found.contains(R, PageIndex(600)) && found.contains(R, PageIndex(3)));
    touch(&memory, 600);
    assert!(harvested(&mut *tracker, &memory).contains(R, PageIndex(600)));
}

pub(crate) fn regions_do_not_mix(case: Case) {
    let (a, b, c) = (RegionId(7), RegionId(0), RegionId(3));
    let memory = case.memory_of(&[(a, 1500), (b, 1), (c, 700)]);
    for region in [a, b, c] {
        memory.store_u64(region, ByteCount(0), 1).expect("in range");
    }
    let mut tracker = case.armed(&memory);
    memory.store_u64(a, PageIndex(1499).offset(), 1).expect("in range");
    memory.store_u64(c, PageIndex(0).offset(), 1).expect("in range");
    let runs = [Run::new(a, 1499, 1), Run::new(c, 0, 1)];
    if case.huge == HugePages::Transparent {
        let found = harvested(&mut *tracker, &memory);
        assert!(runs.iter().all(|run| found.contains(run.region, run.first)));
        assert!(!found.contains(b, PageIndex(0)));
    } else {
        case.expect(&mut *tracker, &memory, &runs);
    }
    memory.discard(Run::new(b, 0, case.granule())).expect("discarded");
    case.expect(&mut *tracker, &memory, &[Run::new(b, 0, 1)]);
}

pub(crate) fn a_paused_harvest_finds_all_and_loses_nothing(case: Case) {
    let memory = case.memory(1024);
    fill(&memory, 1024);
    let mut tracker = case.armed(&memory);
    touch(&memory, 9);
    memory.discard(one(700)).expect("discarded");
    let mut found = PageSet::new(memory.layout());
    let count = tracker.harvest_paused(&mut found).expect("harvested");
    assert_eq!(count, found.count());
    assert!(found.contains(R, PageIndex(9)) && found.contains(R, PageIndex(700)));
    assert!(found.count() <= PageCount(2 * case.granule()), "{case:?}");
    // The switchover failed and the guest runs on.
    touch(&memory, 9);
    touch(&memory, 10);
    let found = harvested(&mut *tracker, &memory);
    assert!(found.contains(R, PageIndex(9)) && found.contains(R, PageIndex(10)));
    assert_eq!(tracker.kind() == TrackerKind::Model, tracker.name() == "model");
}
