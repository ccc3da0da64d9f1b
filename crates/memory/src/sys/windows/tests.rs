//! What only shows below the memory handle.

use std::io::Write;
use std::ptr::{NonNull, null};

use whimbrel_page::{ByteCount, Layout, PAGE_SIZE, PageSet, RegionId, Run};
use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, PAGE_READWRITE, VirtualAlloc, VirtualFree,
};

use super::is_fault;
use crate::{AdoptedRegion, Backing, GuestMemory, KernelWrites, MemoryError, TrackerKind, open};

const R: RegionId = RegionId(0);
const PAGES: usize = 64;

fn layout() -> Layout {
    Layout::single(ByteCount((PAGES * PAGE_SIZE) as u64)).expect("valid")
}

#[test]
fn the_kernel_never_writes_to_guest_memory() {
    let memory = GuestMemory::allocate(&layout(), Backing::Private).expect("a small memory");
    let mut tracker = open(TrackerKind::WriteWatch, &memory).expect("works here");
    assert_eq!(tracker.kernel_writes(), KernelWrites::Missed);
    tracker.arm().expect("armed");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::File::create(&path).expect("made").write_all(&[9; PAGE_SIZE]).expect("written");
    let file = std::fs::File::open(&path).expect("there");
    let (_, mapping) = memory.regions().next().expect("one region");
    let refused = mapping.read_file(0, PAGE_SIZE, &file).expect_err("refused");
    assert!(is_fault(&refused), "{refused}");
    let mut found = PageSet::new(memory.layout());
    tracker.harvest(&mut found).expect("harvested");
    assert!(found.is_empty(), "nothing was written");
    memory.read_file(&file, R, ByteCount(0), ByteCount(PAGE_SIZE as u64)).expect("by a buffer");
    tracker.harvest(&mut found).expect("harvested");
    assert_eq!(found.runs().collect::<Vec<_>>(), [Run::new(R, 0, 1)]);
}

#[test]
fn what_was_seen_is_remembered_and_shared_memory_is_refused() {
    let memory = GuestMemory::allocate(&layout(), Backing::Private).expect("a small memory");
    memory.store_u64(R, ByteCount(8), 1).expect("in range");
    let mut tracker = open(TrackerKind::WriteWatch, &memory).expect("works here");
    tracker.arm().expect("armed");
    memory.store_u64(R, ByteCount(5 * PAGE_SIZE as u64), 1).expect("in range");
    let touched: Vec<_> = memory.touched().expect("listed").runs().collect();
    assert_eq!(touched, [Run::new(R, 0, 1), Run::new(R, 5, 1)]);
    let refused = GuestMemory::allocate(&layout(), Backing::Shared).expect_err("refused");
    assert!(refused.to_string().contains("choose private memory"), "{refused}");
}

/// A virtual machine monitor has to allocate its memory so that it is watched.
#[test]
fn memory_that_is_not_watched_is_refused_with_the_reason() {
    let len = PAGES * PAGE_SIZE;
    // SAFETY: without an address to begin at, nothing that is there is touched.
    let at = unsafe { VirtualAlloc(null(), len, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) };
    let theirs = NonNull::new(at.cast::<u8>()).expect("allocated");
    // SAFETY: it is freed after the memory is dropped, and nobody else uses it.
    let piece = unsafe { AdoptedRegion::private(theirs, len) };
    let memory = GuestMemory::adopt(&layout(), vec![piece]).expect("it fits");
    match open(TrackerKind::WriteWatch, &memory) {
        Err(MemoryError::Unsupported { why, .. }) => {
            assert!(why.contains("not allocated with MEM_WRITE_WATCH"), "{why}");
        }
        other => panic!("opened: {:?}", other.err()),
    }
    drop(memory);
    // SAFETY: allocated above, and used by nobody any more.
    assert_ne!(unsafe { VirtualFree(at, 0, MEM_RELEASE) }, 0);
}
