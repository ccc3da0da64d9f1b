//! What the checks run on.

use whimbrel_memory::page::{
    Layout, PAGE_SIZE, PageCount, PageIndex, PageSet, RegionId, RegionLayout, Run,
};
use whimbrel_memory::{
    Backing, DirtyTracker, GuestMemory, HugePages, MemoryError, TrackerKind, Writers, open_for,
};

/// The region of a memory that has only one.
pub(crate) const R: RegionId = RegionId(0);

/// Pages in a huge page.
const HUGE: u64 = 512;

/// One tracker on one kind of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) kind: TrackerKind,
    pub(crate) backing: Backing,
    pub(crate) huge: HugePages,
    pub(crate) writers: Writers,
}

impl Case {
    /// Runs a check, or says why it cannot.
    pub(crate) fn run(self, name: &str, check: fn(Self)) {
        let elsewhere = cfg!(windows) && self.backing == Backing::Shared;
        if elsewhere || !TrackerKind::here().any(|kind| kind == self.kind) {
            return println!("{} on such memory belongs to another system: {self:?}", self.kind);
        }
        match self.obstacle() {
            None => check(self),
            Some(why) => {
                // What Windows has, every host of it has, for every user.
                let strict = cfg!(windows)
                    || std::env::var("WHIMBREL_REQUIRE").is_ok_and(|all| all == "all");
                assert!(!strict, "{name} cannot run: {why}");
                println!("SKIPPED: {why}");
            }
        }
    }

    /// What this host lacks. A tracker that is there and does not work is no obstacle.
    fn obstacle(self) -> Option<String> {
        let layout = Layout::single(PageCount(HUGE).bytes()).expect("valid");
        let memory = match GuestMemory::allocate_with(&layout, self.backing, self.huge) {
            Err(error) if self.huge == HugePages::Reserved => return Some(error.to_string()),
            Err(MemoryError::Allocation { source, .. })
                if source.kind() == std::io::ErrorKind::Unsupported =>
            {
                return Some(source.to_string());
            }
            other => other.expect("a small memory"),
        };
        match open_for(self.kind, &memory, self.writers) {
            Err(error @ MemoryError::Unsupported { .. }) => Some(error.to_string()),
            other => other.map(|_| None).expect("opened"),
        }
    }

    /// Memory with one region of at least so many pages.
    pub(crate) fn memory(self, pages: u64) -> GuestMemory {
        self.memory_of(&[(R, pages)])
    }

    /// Memory with these regions, each of at least so many pages.
    pub(crate) fn memory_of(self, regions: &[(RegionId, u64)]) -> GuestMemory {
        let region = |(id, pages): &(RegionId, u64)| RegionLayout {
            id: *id,
            size: PageCount(pages.next_multiple_of(self.granule())).bytes(),
        };
        let layout = Layout::new(regions.iter().map(region).collect()).expect("valid");
        GuestMemory::allocate_with(&layout, self.backing, self.huge).expect("a small memory")
    }

    pub(crate) fn tracker(self, memory: &GuestMemory) -> Box<dyn DirtyTracker> {
        open_for(self.kind, memory, self.writers).expect("the tracker works here")
    }

    /// An armed tracker.
    pub(crate) fn armed(self, memory: &GuestMemory) -> Box<dyn DirtyTracker> {
        let mut tracker = self.tracker(memory);
        tracker.arm().expect("armed");
        tracker
    }

    /// Pages that are found together.
    pub(crate) fn granule(self) -> u64 {
        if self.huge == HugePages::Reserved { HUGE } else { 1 }
    }

    /// Checks that a harvest names exactly these pages, in a group where pages come in groups.
    pub(crate) fn expect(self, tracker: &mut dyn DirtyTracker, memory: &GuestMemory, runs: &[Run]) {
        let mut expected = PageSet::new(memory.layout());
        for run in runs {
            let first = run.first.0 / self.granule() * self.granule();
            let end = run.end().0.next_multiple_of(self.granule());
            expected.insert(Run::new(run.region, first, end - first));
        }
        let found = harvested(tracker, memory);
        let (found, expected): (Vec<_>, Vec<_>) =
            (found.runs().collect(), expected.runs().collect());
        assert_eq!(found, expected, "{self:?}");
    }
}

/// The pages of a harvest, whose count is checked.
pub(crate) fn harvested(tracker: &mut dyn DirtyTracker, memory: &GuestMemory) -> PageSet {
    let mut found = PageSet::new(memory.layout());
    let count = tracker.harvest(&mut found).expect("harvested");
    assert_eq!(count, found.count());
    found
}

/// Writes to one page.
pub(crate) fn touch(memory: &GuestMemory, page: u64) {
    memory.fetch_add_u64(R, PageIndex(page).offset(), 1).expect("in range");
}

/// Fills the first `pages` pages.
pub(crate) fn fill(memory: &GuestMemory, pages: u64) {
    for page in 0..pages {
        memory.write(R, PageIndex(page).offset(), &[page as u8 | 1; PAGE_SIZE]).expect("in range");
    }
}

/// One page of the first region.
pub(crate) fn one(page: u64) -> Run {
    Run::new(R, page, 1)
}

/// Whether this is the error of a call out of order.
pub(crate) fn is_out_of_order<T>(outcome: Result<T, MemoryError>) -> bool {
    matches!(outcome, Err(MemoryError::Armed { .. }))
}
