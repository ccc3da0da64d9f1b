//! Memory that somebody else has mapped is read, written and tracked as our own, and left to them.

use std::fs::File;
use std::ptr::NonNull;

use memmap2::{MmapMut, MmapOptions, MmapRaw};
use whimbrel_page::{
    ByteCount, Layout, PAGE_SIZE, PageCount, PageSet, RegionId, RegionLayout, Run,
};

use super::memory_file;
use crate::{AdoptedRegion, Backing, GuestMemory, Landing, MemoryError, TrackerKind, open};

const PAGES: u64 = 256;
const REGIONS: [RegionId; 2] = [RegionId(3), RegionId(9)];

/// A virtual machine monitor's own mapping.
struct Theirs {
    raw: MmapRaw,
    file: Option<File>,
}

impl Theirs {
    fn map(backing: Backing) -> Self {
        let len = PageCount(PAGES).bytes().0;
        match backing {
            Backing::Private => {
                let raw = MmapMut::map_anon(len as usize).expect("a mebibyte").into();
                Self { raw, file: None }
            }
            Backing::Shared => {
                let file = memory_file(len, false).expect("a memory file");
                let raw = MmapOptions::new().map_raw(&file).expect("a mapping of it");
                Self { raw, file: Some(file) }
            }
        }
    }

    fn lend(&self) -> AdoptedRegion {
        let at = NonNull::new(self.raw.as_mut_ptr()).expect("mapped");
        match &self.file {
            // SAFETY: every test drops what it adopts before this mapping, which nobody else uses.
            None => unsafe { AdoptedRegion::private(at, self.raw.len()) },
            Some(file) => {
                let file = file.try_clone().expect("a descriptor");
                // SAFETY: as above.
                unsafe { AdoptedRegion::shared(at, self.raw.len(), file) }
            }
        }
    }

    /// A write by one of their vCPUs.
    fn write(&self, page: u64, value: u8) {
        let at = self.raw.as_mut_ptr().wrapping_add(page as usize * PAGE_SIZE);
        // SAFETY: it is mapped, and no reference to it exists.
        unsafe { at.write_volatile(value) };
    }

    fn read(&self, page: u64) -> u8 {
        let at = self.raw.as_mut_ptr().wrapping_add(page as usize * PAGE_SIZE);
        // SAFETY: as above.
        unsafe { at.read_volatile() }
    }
}

fn layout() -> Layout {
    let region = |id| RegionLayout { id, size: PageCount(PAGES).bytes() };
    Layout::new(REGIONS.map(region).to_vec()).expect("valid")
}

fn harvest(tracker: &mut dyn crate::DirtyTracker) -> Vec<Run> {
    let mut found = PageSet::new(&layout());
    tracker.harvest(&mut found).expect("harvested");
    found.runs().collect()
}

#[test]
fn writes_through_either_mapping_are_found_and_the_memory_stays_with_its_owner() {
    for backing in [Backing::Private, Backing::Shared] {
        for kind in [TrackerKind::Userfaultfd, TrackerKind::Mprotect] {
            let theirs = [Theirs::map(backing), Theirs::map(backing)];
            theirs[1].write(7, 1);
            let pieces = theirs.iter().map(Theirs::lend).collect();
            let memory = GuestMemory::adopt(&layout(), pieces).expect("it fits");
            assert_eq!(memory.backing(), backing);
            let touched: Vec<_> = memory.touched().expect("listed").runs().collect();
            assert_eq!(touched, [Run::new(REGIONS[1], 7, 1)]);
            let mut tracker = match open(kind, &memory) {
                Err(error @ MemoryError::Unsupported { .. }) => {
                    super::tests::skipped(&error);
                    continue;
                }
                other => other.expect("opened"),
            };
            tracker.arm().expect("armed");
            harvest(&mut *tracker);
            theirs[1].write(7, 2);
            theirs[0].write(200, 3);
            memory.write(REGIONS[0], ByteCount(0), &[4]).expect("in range");
            let expected = [(REGIONS[0], 0), (REGIONS[0], 200), (REGIONS[1], 7)]
                .map(|(r, p)| Run::new(r, p, 1));
            assert_eq!(harvest(&mut *tracker), expected, "{kind}, {backing:?}");
            assert_eq!(harvest(&mut *tracker), []);
            drop((tracker, memory));
            // Neither unmapped nor protected.
            theirs[1].write(7, 5);
            assert_eq!([theirs[0].read(0), theirs[0].read(200), theirs[1].read(7)], [4, 3, 5]);
        }
    }
}

#[test]
fn pages_land_in_a_mapping_of_somebody_else() {
    for backing in [Backing::Private, Backing::Shared] {
        let theirs = [Theirs::map(backing), Theirs::map(backing)];
        theirs[0].write(9, 1);
        let memory = GuestMemory::adopt(&layout(), theirs.iter().map(Theirs::lend).collect());
        let landing = Landing::new(memory.expect("it fits")).expect("listed");
        landing.write_pages(Run::new(REGIONS[1], 3, 1), &[8; PAGE_SIZE]).expect("landed");
        landing.zero(Run::new(REGIONS[0], 0, PAGES)).expect("zeroed");
        assert_eq!((theirs[1].read(3), theirs[0].read(9)), (8, 0));
    }
}

#[test]
fn what_does_not_fit_the_layout_is_refused() {
    let (a, b, shared) = (
        Theirs::map(Backing::Private),
        Theirs::map(Backing::Private),
        Theirs::map(Backing::Shared),
    );
    let adopt = |pieces| GuestMemory::adopt(&layout(), pieces).expect_err("refused");
    let refused = adopt(vec![a.lend()]);
    assert!(matches!(refused, MemoryError::AdoptedRegions { expected: 2, found: 1 }), "{refused}");
    let refused = adopt(vec![a.lend(), shared.lend()]);
    assert!(matches!(refused, MemoryError::AdoptedRegions { .. }), "{refused}");
    let within = |skip: usize, len| {
        let at = NonNull::new(b.raw.as_mut_ptr().wrapping_add(skip)).expect("mapped");
        // SAFETY: it lies within the mapping, and is refused.
        unsafe { AdoptedRegion::private(at, len) }
    };
    for piece in [within(0, PAGE_SIZE), within(64, b.raw.len() - 64)] {
        let refused = adopt(vec![a.lend(), piece]);
        assert!(matches!(refused, MemoryError::Adopted { .. }), "{refused}");
    }
}
