//! Gives pages that arrive their memory and their content in one step.
//!
//! A page that is populated and then written is cleared first, for nothing. `UFFDIO_COPY` fills
//! the page before anybody sees it. Memory is registered for that as the tracker registers it, so
//! no fault is ever waited for, and whoever touches a page that has not come gets one as always.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use super::userfaultfd::{connect, control, register};
use crate::sys::Mapping;

/// `struct uffdio_copy`.
#[repr(C)]
struct CopyArgument {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    /// What was copied, or the negative number of an error.
    copied: i64,
}

const UFFDIO_COPY: u64 = 0xc028_aa03;
const _: () = assert!(UFFDIO_COPY == super::iowr(0xaa, 0x03, size_of::<CopyArgument>()));

const HUGE_PAGE_SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// Places pages, from [`Placer::begin`] on until a tracker takes the registration over. To end it
/// without need would cost a look at every page while the guest waits for memory.
#[derive(Default)]
pub(crate) struct Placer {
    descriptor: RwLock<Option<OwnedFd>>,
}

impl Placer {
    /// Gets ready to place pages in `mappings`, of private memory that this process has mapped in
    /// ordinary pages. A host that cannot do it is none the worse for it, and one that gives huge
    /// pages unasked shall go on to: pages are placed one by one.
    pub(crate) fn begin<'a>(&self, mappings: impl Iterator<Item = &'a Mapping>) {
        if !huge_pages_come_unasked(Path::new(HUGE_PAGE_SETTINGS)) {
            // Without it pages are populated and written.
            let _ = self.register(mappings);
        }
    }

    fn register<'a>(&self, mappings: impl Iterator<Item = &'a Mapping>) -> io::Result<()> {
        let mut placeable = mappings.filter(|mapping| is_placeable(mapping)).peekable();
        if placeable.peek().is_some() {
            let descriptor = connect()?;
            placeable.try_for_each(|mapping| register(&descriptor, mapping))?;
            *self.descriptor.write().unwrap_or_else(PoisonError::into_inner) = Some(descriptor);
        }
        Ok(())
    }

    /// Gives whole pages of `mapping`, none of which has memory, what is in `from`. Where this says
    /// that it did not, some may have it and others are as they were.
    pub(crate) fn place(&self, mapping: &Mapping, offset: u64, from: &[u8]) -> bool {
        let descriptor = self.descriptor.read().unwrap_or_else(PoisonError::into_inner);
        let Some(descriptor) = descriptor.as_ref().filter(|_| is_placeable(mapping)) else {
            return false;
        };
        let to = mapping.at(offset, from.len()).expose_provenance() as u64;
        let (len, from) = (from.len() as u64, from.as_ptr().expose_provenance() as u64);
        let mut argument = CopyArgument { to, from, len, mode: 0, copied: 0 };
        // SAFETY: the argument is a uffdio_copy; as many bytes as it says are ours to read, and
        // guest memory, which nobody has a reference to.
        unsafe { control(descriptor.as_raw_fd(), UFFDIO_COPY, &mut argument) }.is_ok()
    }

    /// Hands the registration over; nothing is placed any more.
    pub(super) fn take(&self) -> Option<OwnedFd> {
        self.descriptor.write().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Only what nobody else could register: private memory that this process has mapped itself.
fn is_placeable(mapping: &Mapping) -> bool {
    mapping.is_own() && mapping.file().is_none()
}

/// Whether memory that nobody has asked huge pages for may get some, of whatever size.
fn huge_pages_come_unasked(settings: &Path) -> bool {
    let sizes = fs::read_dir(settings).into_iter().flatten().flatten().map(|size| size.path());
    let mut all = sizes.map(|size| size.join("enabled")).chain([settings.join("enabled")]);
    all.any(|file| fs::read_to_string(file).is_ok_and(|chosen| chosen.contains("[always]")))
}

#[cfg(test)]
mod tests {
    use whimbrel_page::{
        ByteCount, Layout, PAGE_SIZE, PageIndex, PageSet, RegionId, RegionLayout, Run,
    };

    use super::super::tests::usable;
    use super::*;
    use crate::{Backing, GuestMemory, HugePages, Landing, TrackerKind};

    const PAGE: u64 = PAGE_SIZE as u64;

    fn mapping(pages: u64, backing: Backing) -> Mapping {
        let region = RegionLayout { id: RegionId(0), size: ByteCount(pages * PAGE) };
        Mapping::allocate(region, backing, HugePages::HostDefault).expect("address space")
    }

    fn begun(mapping: &Mapping) -> Placer {
        let placer = Placer::default();
        placer.register([mapping].into_iter()).expect("registered");
        placer
    }

    fn touched(mapping: &Mapping) -> Vec<u64> {
        let mut found = Vec::new();
        mapping.touched(|first, count| found.extend(first..first + count)).expect("told");
        found
    }

    /// Pages get memory and content, their neighbours neither; a page that is there is left alone;
    /// and what was not placed faults in as always.
    #[test]
    fn pages_are_placed_where_there_are_none() {
        if !usable(TrackerKind::Userfaultfd, Backing::Private) {
            return;
        }
        let mapping = mapping(64, Backing::Private);
        let placer = begun(&mapping);
        let content: Vec<u8> = (0..8 * PAGE_SIZE).map(|at| (at / 7) as u8).collect();
        assert!(placer.place(&mapping, 4 * PAGE, &content));
        assert_eq!(touched(&mapping), (4..12).collect::<Vec<_>>());
        let mut found = vec![0; content.len()];
        mapping.read(4 * PAGE, &mut found);
        assert!(found == content);

        // The second of them is there, and then the first.
        for first in [3, 11] {
            assert!(!placer.place(&mapping, first * PAGE, &vec![9; 2 * PAGE_SIZE]));
        }
        mapping.read(4 * PAGE, &mut found);
        assert!(found == content, "a page that was there was written");
        mapping.write(20 * PAGE, &[1; 8]);
        mapping.read(20 * PAGE, &mut found[..PAGE_SIZE]);
        assert_eq!(found[..9], [1, 1, 1, 1, 1, 1, 1, 1, 0]);

        assert!(placer.take().is_some(), "it was registered");
        assert!(!placer.place(&mapping, 40 * PAGE, &content));
        assert!(!touched(&mapping).contains(&40));
    }

    /// It has other ways to be tracked, and others may have mapped it.
    #[test]
    fn memory_in_a_file_is_not_placed() {
        if !usable(TrackerKind::Userfaultfd, Backing::Private) {
            return;
        }
        let mapping = mapping(8, Backing::Shared);
        let placer = begun(&mapping);
        assert!(placer.take().is_none(), "there is nothing to register");
    }

    /// Landing in private memory, with what places pages or without.
    fn landing(placing: bool) -> (GuestMemory, Landing) {
        let layout = Layout::single(ByteCount(64 * PAGE)).expect("a layout");
        let memory = GuestMemory::allocate(&layout, Backing::Private).expect("address space");
        let landing = Landing::new(memory.clone()).expect("listed");
        if placing && memory.placer().descriptor.read().expect("not poisoned").is_none() {
            memory.placer().register(memory.regions().map(|(_, mapping)| mapping)).expect("done");
        } else if !placing {
            drop(memory.placer().take());
        }
        (memory, landing)
    }

    fn run(first: u64, count: u64) -> Run {
        Run::new(RegionId(0), first, count)
    }

    fn holds(memory: &GuestMemory, run: Run, expected: u8) -> bool {
        let mut found = vec![0; run.count.0 as usize * PAGE_SIZE];
        memory.copy_run(run, &mut found).expect("there");
        found.iter().all(|byte| *byte == expected)
    }

    /// A guest that came moves on: whichever tracker is armed finds what is written then, whether
    /// it was placed or not, and what lands even then; nothing is placed behind its back.
    #[test]
    fn what_was_placed_is_tracked_afterwards() {
        if !usable(TrackerKind::Userfaultfd, Backing::Private) {
            return;
        }
        for (kind, placing) in TrackerKind::here().flat_map(|kind| [(kind, true), (kind, false)]) {
            let (memory, landing) = landing(placing);
            landing.write_pages(run(0, 32), &vec![3; 32 * PAGE_SIZE]).expect("written");
            let mut tracker = crate::open(kind, &memory).expect("it is usable");
            tracker.arm().expect("armed");
            for page in [2, 40] {
                memory.store_u64(RegionId(0), PageIndex(page).offset(), 7).expect("written");
            }
            landing.write_pages(run(50, 1), &[4; PAGE_SIZE]).expect("written");
            let mut found = PageSet::new(memory.layout());
            tracker.harvest(&mut found).expect("harvested");
            let pages = found.runs().flat_map(|run| run.pages()).map(|page| page.0);
            assert_eq!(pages.collect::<Vec<_>>(), [2, 40, 50], "{kind:?}, {placing}");
            tracker.disarm().expect("disarmed");
            assert!(holds(&memory, run(3, 29), 3) && holds(&memory, run(50, 1), 4));
        }
    }

    /// Pages that are there although nothing has landed there: read, or written past the landing.
    #[test]
    fn what_cannot_be_placed_is_written() {
        if !usable(TrackerKind::Userfaultfd, Backing::Private) {
            return;
        }
        for placing in [true, false] {
            let (memory, landing) = landing(placing);
            assert!(holds(&memory, run(5, 1), 0));
            memory.store_u64(RegionId(0), PageIndex(12).offset(), 7).expect("written");
            for (first, count) in [(4, 4), (10, 4), (20, 8)] {
                let content = vec![9; count as usize * PAGE_SIZE];
                landing.write_pages(run(first, count), &content).expect("written");
                assert!(holds(&memory, run(first, count), 9), "{placing}, {first}");
            }
            // Given back, and landed again.
            landing.zero(run(20, 8)).expect("zero");
            landing.write_pages(run(22, 2), &[8; 2 * PAGE_SIZE]).expect("written");
            assert!(holds(&memory, run(20, 2), 0) && holds(&memory, run(22, 2), 8));
        }
    }

    #[test]
    fn huge_pages_of_any_size_are_noticed() {
        let host = tempfile::tempdir().expect("a folder");
        let unasked = || huge_pages_come_unasked(host.path());
        assert!(!unasked(), "there are no settings");
        fs::write(host.path().join("enabled"), "always [madvise] never\n").expect("written");
        fs::create_dir(host.path().join("hugepages-64kB")).expect("made");
        let size = host.path().join("hugepages-64kB/enabled");
        fs::write(&size, "always inherit madvise [never]\n").expect("written");
        assert!(!unasked());
        fs::write(size, "[always] inherit madvise never\n").expect("written");
        assert!(unasked());
        fs::remove_dir_all(host.path().join("hugepages-64kB")).expect("removed");
        fs::write(host.path().join("enabled"), "[always] madvise never\n").expect("written");
        assert!(unasked());
    }
}
