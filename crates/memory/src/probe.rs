//! Which trackers work here, found out by trying them.

use whimbrel_page::{ByteCount, Layout, PAGE_SIZE, PageCount, PageIndex, PageSet, RegionId};

use crate::{Backing, DirtyTracker, GuestMemory, HugePages, MemoryError, TrackerKind, open, sys};

/// What a probe found out about one tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The tracker.
    pub kind: TrackerKind,
    /// Whether it works here.
    pub works: bool,
    /// Why it is, or is not, to be used here: one sentence.
    pub reason: String,
}

/// What a probe found out, best tracker first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// All trackers, in the order in which they are preferred.
    pub candidates: Vec<Candidate>,
}

impl Probe {
    /// The tracker to use: the best one that works. The model is never chosen, as it does not
    /// see what goes past the memory handle.
    #[must_use]
    pub fn choice(&self) -> Option<TrackerKind> {
        let usable = |found: &&Candidate| found.works && found.kind != TrackerKind::Model;
        self.candidates.iter().find(usable).map(|found| found.kind)
    }
}

/// Which trackers would work on memory like `memory`. Tries each one on a few pages of its own:
/// `memory` itself, and a tracker that is armed on it, are not disturbed.
#[must_use]
pub fn probe(memory: &GuestMemory) -> Probe {
    probe_with(memory.backing(), memory.huge_pages())
}

/// Which trackers work on this host, for memory of this backing.
#[must_use]
pub fn probe_host(backing: Backing) -> Probe {
    let mut probe = probe_with(backing, HugePages::HostDefault);
    for found in probe.candidates.iter_mut().filter(|found| found.works) {
        if let Some(harvest) = sys::harvests(found.kind) {
            found.reason.push_str("; ");
            found.reason.push_str(&harvest);
        }
    }
    probe
}

fn probe_with(backing: Backing, huge: HugePages) -> Probe {
    let candidate = |kind| match trial(kind, backing, huge) {
        Ok(()) => Candidate { kind, works: true, reason: merit(kind).to_owned() },
        Err(error) => Candidate { kind, works: false, reason: error.to_string() },
    };
    Probe { candidates: TrackerKind::here().map(candidate).collect() }
}

const fn merit(kind: TrackerKind) -> &'static str {
    match kind {
        TrackerKind::Userfaultfd => {
            "the kernel records writes by itself, its own included, for about 2 us a first write"
        }
        TrackerKind::Mprotect => {
            "works on any kernel, for about 10 us a first write; kernel writes are refused and \
             have to go through the memory handle"
        }
        TrackerKind::WriteWatch => {
            "the kernel records the process's own writes; what it writes itself is read through a \
             buffer"
        }
        TrackerKind::Model => {
            "sees only what is written through the memory handle, so it is for tests"
        }
    }
}

const R: RegionId = RegionId(0);
const OLD: PageIndex = PageIndex(0);
const FRESH: PageIndex = PageIndex(5);

/// Tracks a write to a populated page and one to a fresh page, on memory of its own.
fn trial(kind: TrackerKind, backing: Backing, huge: HugePages) -> Result<(), MemoryError> {
    let layout = Layout::single(TRIAL_SIZE).expect("a few whole pages");
    let memory = GuestMemory::allocate_with(&layout, backing, huge)?;
    memory.write(R, OLD.offset(), &[1; 2 * PAGE_SIZE])?;
    let mut tracker = open(kind, &memory)?;
    tracker.arm()?;
    memory.store_u64(R, OLD.offset(), 2)?;
    memory.store_u64(R, FRESH.offset(), 2)?;
    let first = harvested(&mut *tracker, &layout)?;
    let second = harvested(&mut *tracker, &layout)?;
    memory.store_u64(R, OLD.offset(), 3)?;
    let third = harvested(&mut *tracker, &layout)?;
    tracker.disarm()?;
    let seen = first.contains(R, OLD) && first.contains(R, FRESH) && third.contains(R, OLD);
    if seen && second.is_empty() {
        return Ok(());
    }
    let why = format!(
        "it found {}, {} and {} where 2, 0 and 1 pages had been written",
        first.count(),
        second.count(),
        third.count()
    );
    Err(MemoryError::Unsupported { kind, why })
}

fn harvested(tracker: &mut dyn DirtyTracker, layout: &Layout) -> Result<PageSet, MemoryError> {
    let mut found = PageSet::new(layout);
    tracker.harvest(&mut found)?;
    Ok(found)
}

/// One reserved huge page, so that a trial of any memory is possible.
const TRIAL_SIZE: ByteCount = PageCount(512).bytes();
