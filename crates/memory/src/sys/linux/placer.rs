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
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    /// What was copied, or the negative number of an error.
    copied: i64,
}

const UFFDIO_COPY: u64 = 0xc028_aa03;
const _: () = assert!(UFFDIO_COPY == super::iowr(0xaa, 0x03, size_of::<Copy>()));

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
        let descriptor = connect()?;
        let mut mappings = mappings.filter(|mapping| mapping.is_own() && mapping.file().is_none());
        mappings.try_for_each(|mapping| register(&descriptor, mapping))?;
        *self.descriptor.write().unwrap_or_else(PoisonError::into_inner) = Some(descriptor);
        Ok(())
    }

    /// Gives whole pages of `mapping`, none of which has memory, what is in `from`. Where this says
    /// that it did not, some may have it and others are as they were.
    pub(crate) fn place(&self, mapping: &Mapping, offset: u64, from: &[u8]) -> bool {
        let descriptor = self.descriptor.read().unwrap_or_else(PoisonError::into_inner);
        let Some(descriptor) = &*descriptor else { return false };
        let mut done = 0;
        while done < from.len() {
            let rest = &from[done..];
            let to = mapping.at(offset + done as u64, rest.len()).expose_provenance() as u64;
            let (len, from) = (rest.len() as u64, rest.as_ptr().expose_provenance() as u64);
            let mut copy = Copy { to, from, len, mode: 0, copied: 0 };
            // SAFETY: the argument is a uffdio_copy; both ranges are mapped and as long as it says.
            let outcome = unsafe { control(descriptor.as_raw_fd(), UFFDIO_COPY, &mut copy) };
            match (outcome, usize::try_from(copy.copied)) {
                (Ok(()), _) => return true,
                // It was interrupted.
                (Err(error), Ok(copied @ 1..)) if error.kind() == io::ErrorKind::WouldBlock => {
                    done += copied;
                }
                _ => return false,
            }
        }
        true
    }

    /// Hands the registration over; nothing is placed any more.
    pub(super) fn take(&self) -> Option<OwnedFd> {
        self.descriptor.write().unwrap_or_else(PoisonError::into_inner).take()
    }
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

    use super::super::open;
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

        assert!(!placer.place(&mapping, 11 * PAGE, &vec![9; 2 * PAGE_SIZE]));
        mapping.read(4 * PAGE, &mut found);
        assert!(found == content, "a page that was there was written");
        mapping.write(20 * PAGE, &[1; 8]);
        mapping.read(20 * PAGE, &mut found[..PAGE_SIZE]);
        assert_eq!(found[..9], [1, 1, 1, 1, 1, 1, 1, 1, 0]);

        assert!(placer.take().is_some());
        assert!(!placer.place(&mapping, 40 * PAGE, &content));
        assert!(!touched(&mapping).contains(&40));
    }

    /// Memory that others have mapped, and files, are not registered.
    #[test]
    fn memory_in_a_file_is_not_placed() {
        if !usable(TrackerKind::Userfaultfd, Backing::Private) {
            return;
        }
        let mapping = mapping(8, Backing::Shared);
        let placer = begun(&mapping);
        assert!(!placer.place(&mapping, 0, &[1; PAGE_SIZE]));
        assert_eq!(touched(&mapping), []);
    }

    /// A guest that came moves on: the tracker takes the registration over, and pages that are
    /// written while it is armed are found, whether they were placed or not.
    #[test]
    fn what_was_placed_is_tracked_afterwards() {
        if !usable(TrackerKind::Userfaultfd, Backing::Private) {
            return;
        }
        let layout = Layout::single(ByteCount(64 * PAGE)).expect("a layout");
        let memory = GuestMemory::allocate(&layout, Backing::Private).expect("address space");
        let landing = Landing::new(memory.clone()).expect("listed");
        let run = Run::new(RegionId(0), 0, 32);
        landing.write_pages(run, &vec![3; 32 * PAGE_SIZE]).expect("written");
        let mut tracker = open(TrackerKind::Userfaultfd, &memory).expect("it is usable");
        tracker.arm().expect("armed");
        for page in [2, 40] {
            memory.store_u64(RegionId(0), PageIndex(page).offset(), 7).expect("written");
        }
        // Too late to be placed, and landed all the same.
        landing.write_pages(Run::new(RegionId(0), 50, 1), &[4; PAGE_SIZE]).expect("written");
        let mut found = PageSet::new(&layout);
        tracker.harvest(&mut found).expect("harvested");
        let found: Vec<_> = found.runs().flat_map(|run| run.pages()).map(|page| page.0).collect();
        assert_eq!(found, [2, 40, 50]);
        tracker.disarm().expect("disarmed");
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
