//! What only shows below the memory handle.

use std::io::{Seek, Write};

use whimbrel_page::{ByteCount, Layout, PAGE_SIZE, PageIndex, PageSet, RegionId};

use super::*;
use crate::{Backing, GuestMemory, HugePages, TrackerKind, open};

const R: RegionId = RegionId(0);
const PAGES: u64 = 1024;

fn full(backing: Backing) -> GuestMemory {
    let layout = Layout::single(ByteCount(PAGES * PAGE_SIZE as u64)).expect("valid");
    let memory = GuestMemory::allocate(&layout, backing).expect("a small memory");
    memory.write(R, ByteCount(0), &vec![1; layout.bytes().0 as usize]).expect("in range");
    memory
}

/// Whether this host has what the tracker needs.
pub(super) fn usable(kind: TrackerKind, backing: Backing) -> bool {
    let Err(error @ MemoryError::Unsupported { .. }) = open(kind, &full(backing)) else {
        return true;
    };
    skipped(&error);
    false
}

/// Says what cannot be tested here, or fails where everything must be.
pub(super) fn skipped(why: &impl std::fmt::Display) {
    let strict = std::env::var("WHIMBREL_REQUIRE").is_ok_and(|all| all == "all");
    assert!(!strict, "it cannot be tested: {why}");
    println!("SKIPPED: {why}");
}

const BACKINGS: [Backing; 2] = [Backing::Private, Backing::Shared];

/// The kernel's own writes, past the handle and its bounces.
#[test]
fn a_kernel_write_is_tracked_or_refused_as_declared() {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&[9; 3 * PAGE_SIZE]).expect("a small file");
    for (kind, backing) in pairs() {
        let memory = full(backing);
        let mut tracker = open(kind, &memory).expect("works here");
        tracker.arm().expect("armed");
        file.rewind().expect("a file");
        let (_, mapping) = memory.regions().next().expect("one region");
        let outcome = mapping.read_file(5 * PAGE_SIZE as u64, 3 * PAGE_SIZE, &file);
        let mut found = PageSet::new(memory.layout());
        tracker.harvest(&mut found).expect("harvested");
        match tracker.kernel_writes() {
            crate::KernelWrites::Tracked => {
                assert_eq!(outcome.expect("written"), 3 * PAGE_SIZE);
                assert!((5..8).all(|page| found.contains(R, PageIndex(page))), "{kind}");
            }
            crate::KernelWrites::Missed => panic!("no tracker of Linux misses one"),
            crate::KernelWrites::Refused => {
                assert!(is_fault(&outcome.expect_err("refused")), "{kind}");
                assert_eq!(mapping.load_u64(5 * PAGE_SIZE as u64), u64::MAX / 255);
                assert!(found.is_empty());
            }
        }
    }
}

/// After tracking, nothing of it stays on the memory: no protection, no registration.
#[test]
fn disarming_leaves_no_trace() {
    for (kind, backing) in pairs() {
        let memory = full(backing);
        let mut tracker = open(kind, &memory).expect("works here");
        for again in 0..2 {
            tracker.arm().expect("armed");
            let armed = traces(&memory);
            assert!(armed.iter().any(|trace| trace.is_tracked), "{kind}, {armed:?}");
            memory.store_u64(R, ByteCount(8 << 12), again).expect("in range");
            tracker.disarm().expect("disarmed");
            let left = traces(&memory);
            assert!(left.iter().all(|trace| !trace.is_tracked), "{kind}, {left:?}");
        }
    }
}

fn pairs() -> impl Iterator<Item = (TrackerKind, Backing)> {
    let kinds = [TrackerKind::Userfaultfd, TrackerKind::Mprotect].into_iter();
    kinds
        .flat_map(|kind| BACKINGS.map(|backing| (kind, backing)))
        .filter(|(kind, backing)| usable(*kind, *backing))
}

#[derive(Debug)]
struct Trace {
    is_tracked: bool,
}

/// What the kernel says of each mapping in the memory's first region.
fn traces(memory: &GuestMemory) -> Vec<Trace> {
    let (_, mapping) = memory.regions().next().expect("one region");
    let own = mapping.addresses();
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
    let mut inside = None;
    let mut found = Vec::new();
    for line in maps.lines() {
        let word = line.split_whitespace().next().expect("no empty lines");
        if let Some((start, end)) = word.split_once('-') {
            let number = |text| usize::from_str_radix(text, 16).expect("an address");
            let overlaps = number(start) < own.end && number(end) > own.start;
            inside = overlaps.then(|| !line.contains(" rw"));
        }
        if let (Some(protected), Some(flags)) = (inside, line.strip_prefix("VmFlags:")) {
            let registered = flags.split_whitespace().any(|flag| flag == "uw");
            found.push(Trace { is_tracked: protected || registered });
        }
    }
    assert!(!found.is_empty());
    found
}

/// What swapping out does to a page of shared memory: its page table entry is gone.
#[test]
fn a_shared_page_whose_entry_is_gone_is_not_lost() {
    if !usable(TrackerKind::Userfaultfd, Backing::Shared) {
        return;
    }
    let memory = full(Backing::Shared);
    let (_, mapping) = memory.regions().next().expect("one region");
    let mut tracker = open(TrackerKind::Userfaultfd, &memory).expect("works here");
    tracker.arm().expect("armed");
    for written in [700, 3] {
        memory.store_u64(R, PageIndex(written).offset(), 2).expect("in range");
        for page in [written, written + 1] {
            let at = mapping.addresses().start + page as usize * PAGE_SIZE;
            // SAFETY: a page of a memory file, which keeps its content.
            unsafe { forget(std::ptr::with_exposed_provenance_mut(at), PAGE_SIZE) }
                .expect("unmapped");
        }
        let mut found = PageSet::new(memory.layout());
        tracker.harvest(&mut found).expect("harvested");
        let runs: Vec<_> = found.runs().collect();
        assert_eq!(runs, [whimbrel_page::Run::new(R, written, 1)]);
        assert_eq!(memory.load_u64(R, PageIndex(written).offset()).expect("in range"), 2);
    }
}

/// The host does not take locked pages back; they are zero all the same.
#[test]
fn locked_memory_is_zero_when_discarded() {
    let memory = full(Backing::Private);
    let (_, mapping) = memory.regions().next().expect("one region");
    let at = std::ptr::with_exposed_provenance(mapping.addresses().start);
    // SAFETY: the range is mapped.
    if let Err(error) = checked(unsafe { libc::mlock(at, 4 * PAGE_SIZE) }.into()) {
        return println!("SKIPPED: memory cannot be locked here: {error}");
    }
    memory.discard(whimbrel_page::Run::new(R, 2, 4)).expect("in range");
    let mut copy = vec![7; 8 * PAGE_SIZE];
    memory.read(R, ByteCount(0), &mut copy).expect("in range");
    assert!(copy[..2 * PAGE_SIZE].iter().all(|byte| *byte == 1));
    assert!(copy[2 * PAGE_SIZE..6 * PAGE_SIZE].iter().all(|byte| *byte == 0));
    assert!(copy[6 * PAGE_SIZE..].iter().all(|byte| *byte == 1));
}

#[test]
fn direct_files_are_bounced() {
    let plain = tempfile::tempfile().expect("a temporary file");
    assert!(!writes_behind_the_mmu(&plain));
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = File::options();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_DIRECT);
    let path = folder.path().join("direct");
    match options.write(true).create(true).truncate(true).open(path) {
        Ok(direct) => assert!(writes_behind_the_mmu(&direct)),
        Err(error) => println!("SKIPPED: no direct files in the temporary folder: {error}"),
    }
}

#[test]
fn a_memory_file_keeps_its_size() {
    let file = memory_file(8192, false).expect("a memory file");
    assert!(file.set_len(4096).is_err() && file.set_len(16384).is_err());
    let wish = GuestMemory::allocate_with(
        &Layout::single(ByteCount(8192)).expect("valid"),
        Backing::Private,
        HugePages::Reserved,
    );
    assert!(matches!(wish, Err(MemoryError::HugePageSize { .. })));
}
