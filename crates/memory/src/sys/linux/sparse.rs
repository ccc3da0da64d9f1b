//! A guest that is huge and nearly empty costs what it touches: page tables, memory, and pages
//! found.

use std::fs;

use whimbrel_page::{
    ByteCount, Layout, Leaf, LeafTable, PAGE_SIZE, PageCount, PageIndex, PageSet, RegionId, Run,
};

use super::own_process;
use crate::{Backing, DirtyTracker, GuestMemory, MemoryError, TrackerKind, open};

const R: RegionId = RegionId(0);
const SIZE: ByteCount = ByteCount(256 << 30);
/// What is touched: clumps of memory, far apart.
const CLUMPS: u64 = 4;
const CLUMP: ByteCount = ByteCount::mib(16);
/// Pages that are touched later, each in a page table of its own.
const STRAYS: u64 = 1000;
/// Page tables: one for each 2 MiB that are touched, and some above them.
const TABLES_KIB_MAX: u64 = 4 * (CLUMPS * CLUMP.0 / (2 << 20) + STRAYS) * 5 / 4;
/// A bitmap of a bit a page has 8 MiB here, which the allocator may or may not touch; there are a
/// handful of them.
const BESIDE_KIB_MAX: u64 = 48 << 10;

/// In a process of its own, as the figures are those of a process.
#[test]
fn a_sparse_guest_costs_what_it_touches() {
    if own_process::passes("sparse::a_sparse_guest_costs_what_it_touches") {
        return;
    }
    for backing in [Backing::Private, Backing::Shared] {
        TrackerKind::here().for_each(|kind| check(kind, backing));
    }
    check_leaves();
}

fn check(kind: TrackerKind, backing: Backing) {
    let layout = Layout::single(SIZE).expect("valid");
    let before = Usage::now();
    let memory = GuestMemory::allocate(&layout, backing).expect("a sparse memory");
    let mut tracker = match open(kind, &memory) {
        Err(error @ MemoryError::Unsupported { .. }) => return super::tests::skipped(&error),
        other => other.expect("opened"),
    };
    let runs = clumps();
    runs.iter().for_each(|run| write(&memory, *run));
    tracker.arm().expect("armed");
    assert_eq!(memory.touched().expect("listed").runs().collect::<Vec<_>>(), runs);
    assert_eq!(harvest(&mut *tracker, &layout), []);
    write(&memory, runs[1]);
    assert_eq!(harvest(&mut *tracker, &layout), [runs[1]]);
    let strays: Vec<_> = (0..STRAYS).map(|at| Run::new(R, 20_000_000 + at * 512, 1)).collect();
    strays.iter().for_each(|run| write(&memory, *run));
    assert_eq!(harvest(&mut *tracker, &layout), strays);
    assert_eq!(harvest(&mut *tracker, &layout), []);
    Usage::now().expect_at_most(before, kind, backing);
    memory.discard(Run::new(R, 20_000_000, 1_000_000)).expect("discarded");
    harvest(&mut *tracker, &layout);
    tracker.disarm().expect("disarmed");
    assert_eq!(memory.touched().expect("listed").runs().collect::<Vec<_>>(), runs);
}

/// What is known of the pages of a huge guest costs what is known.
fn check_leaves() {
    const KIB_MAX: u64 = 2 << 10;
    let layout = Layout::single(ByteCount(1 << 40)).expect("valid");
    let before = Usage::now();
    let mut table = LeafTable::new(&layout);
    for page in (0..layout.pages().0).step_by(1 << 22) {
        table.set(R, PageIndex(page), Leaf::Unknown);
    }
    assert_eq!(table.root().unknown, PageCount(64));
    let grown = Usage::now().resident.saturating_sub(before.resident);
    println!("{grown} KiB for 64 leaves of 1 TiB");
    assert!(grown <= KIB_MAX, "{grown} KiB for 64 leaves");
}

fn clumps() -> Vec<Run> {
    let far = SIZE.0 / PAGE_SIZE as u64 / CLUMPS;
    let pages = PageCount::covering(CLUMP).0;
    (0..CLUMPS).map(|clump| Run::new(R, clump * far + 5000, pages)).collect()
}

fn write(memory: &GuestMemory, run: Run) {
    for page in run.pages() {
        memory.write(R, page.offset(), &[1; PAGE_SIZE]).expect("in range");
    }
}

fn harvest(tracker: &mut dyn DirtyTracker, layout: &Layout) -> Vec<Run> {
    let mut found = PageSet::new(layout);
    tracker.harvest(&mut found).expect("harvested");
    found.runs().collect()
}

/// What this process takes, in KiB.
#[derive(Clone, Copy, Debug)]
struct Usage {
    tables: u64,
    resident: u64,
}

impl Usage {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").expect("Linux");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("a field");
            line.split_whitespace().nth(1).expect("a value").parse().expect("a number")
        };
        Self { tables: field("VmPTE:"), resident: field("VmRSS:") }
    }

    fn expect_at_most(self, before: Self, kind: TrackerKind, backing: Backing) {
        let tables = self.tables.saturating_sub(before.tables);
        let touched = (CLUMPS * CLUMP.0 + STRAYS * PAGE_SIZE as u64) / 1024;
        let beside = self.resident.saturating_sub(before.resident + touched);
        println!("{kind}, {backing:?}: {tables} KiB of page tables, {beside} KiB beside the guest");
        assert!(tables <= TABLES_KIB_MAX, "{tables} KiB of page tables");
        assert!(beside <= BESIDE_KIB_MAX, "{beside} KiB beside the guest's own");
    }
}
