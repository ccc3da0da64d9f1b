//! A handler and a harvest that meet between any two of their steps: all interleavings, on real
//! protected memory, one step at a time. A writer tries to write as the kernel does on its behalf,
//! which fails where a handler would be called.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use memmap2::{MmapOptions, MmapRaw};
use whimbrel_page::{Layout, PageCount, PageSet, RegionId};

use super::*;
use crate::{Backing, GuestMemory, TrackerKind, open};

/// What a writer writes, one after the other; the page holds 0 at first.
const WRITES: u8 = 3;
/// Harvests that the writer may meet; another one comes when it is done.
const HARVESTS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harvest {
    Take,
    Close,
    /// What was taken is read.
    Copy,
}

/// In which order a handler and a harvest take their steps.
#[derive(Clone, Copy, Debug)]
struct Orders {
    handler: [Step; 2],
    harvest: [Harvest; 3],
}

const RIGHT: Orders = Orders {
    handler: [Step::Open, Step::Mark],
    harvest: [Harvest::Take, Harvest::Close, Harvest::Copy],
};

/// One page, who writes it and who harvests it.
struct Meeting {
    orders: Orders,
    guard: Guarded,
    mapping: MmapRaw,
    values: File,
    /// The next value to write, and how far the handler of its fault has come.
    next: u8,
    faulted: Option<usize>,
    harvested: usize,
    step: usize,
    found: bool,
    mirror: u8,
}

impl Meeting {
    fn new(orders: Orders) -> Self {
        let mapping: MmapRaw = MmapOptions::new().len(PAGE_SIZE).map_anon().expect("a page").into();
        let start = mapping.as_mut_ptr().expose_provenance();
        let guard = Guarded::new(start, PAGE_SIZE, 1, i64::MAX);
        let mut values = tempfile::tempfile().expect("a temporary file");
        values.write_all(&(0..=WRITES).collect::<Vec<_>>()).expect("a small file");
        guard.close().expect("protected");
        let (next, harvested, step) = (1, 0, 0);
        let (faulted, found, mirror) = (None, false, 0);
        Self { orders, guard, mapping, values, next, faulted, harvested, step, found, mirror }
    }

    /// Back to the beginning: a page of zeros, protected and not marked.
    fn begin(&mut self) {
        self.guard.release().expect("open");
        self.guard.take(|_, _| ());
        assert!(self.kernel_writes(0), "the page is open");
        self.guard.close().expect("protected");
        (self.next, self.faulted) = (1, None);
        (self.harvested, self.step, self.found, self.mirror) = (0, 0, false, 0);
    }

    fn kernel_writes(&self, value: u8) -> bool {
        let into = self.mapping.as_mut_ptr().cast();
        // SAFETY: one byte of a mapping of this test, to which no reference exists.
        let read = unsafe { libc::pread(self.values.as_raw_fd(), into, 1, i64::from(value)) };
        read == 1
    }

    fn held(&self) -> u8 {
        // SAFETY: a readable byte of a mapping of this test.
        unsafe { self.mapping.as_ptr().read_volatile() }
    }

    fn writes_on(&self) -> bool {
        self.next <= WRITES
    }

    fn writer_steps(&mut self) {
        match self.faulted {
            None if self.kernel_writes(self.next) => self.next += 1,
            None => self.faulted = Some(0),
            Some(at) => {
                match self.orders.handler[at] {
                    Step::Open => assert!(self.guard.open(0), "there is room for a mapping"),
                    _ => self.guard.mark(0),
                }
                self.faulted = (at == 0).then_some(1);
            }
        }
    }

    fn harvest_steps(&mut self) {
        match self.orders.harvest[self.step] {
            Harvest::Take => {
                let mut found = false;
                self.guard.take(|_, _| found = true);
                self.found = found;
            }
            Harvest::Close => self.guard.close().expect("protected"),
            Harvest::Copy if self.found => self.mirror = self.held(),
            Harvest::Copy => {}
        }
        self.step = (self.step + 1) % 3;
        self.harvested += usize::from(self.step == 0);
    }

    /// One interleaving; `path` says who goes where both could, and is made longer as needed.
    /// Returns whether the last write was harvested.
    fn run(&mut self, path: &mut Vec<bool>) -> bool {
        self.begin();
        let mut choices = 0;
        while self.writes_on() || self.harvested < HARVESTS {
            let both = self.writes_on() && self.harvested < HARVESTS;
            let harvest = if both {
                if choices == path.len() {
                    path.push(false);
                }
                choices += 1;
                path[choices - 1]
            } else {
                !self.writes_on()
            };
            if harvest { self.harvest_steps() } else { self.writer_steps() }
        }
        path.truncate(choices);
        (0..3).for_each(|_| self.harvest_steps());
        self.mirror == self.held()
    }
}

/// How many interleavings there are, and in how many of them a write is lost.
fn meet(orders: Orders) -> (u64, u64) {
    let mut meeting = Meeting::new(orders);
    let (mut path, mut all, mut lost) = (Vec::new(), 0, 0);
    loop {
        all += 1;
        lost += u64::from(!meeting.run(&mut path));
        while path.pop_if(|harvest| *harvest).is_some() {}
        match path.last_mut() {
            Some(last) => *last = true,
            None => return (all, lost),
        }
    }
}

#[test]
fn no_write_is_lost_wherever_a_handler_and_a_harvest_meet() {
    let (all, lost) = meet(RIGHT);
    println!("{all} interleavings");
    assert!(all > 500, "only {all} interleavings");
    assert_eq!(lost, 0, "of {all} interleavings");
}

#[test]
fn every_other_order_loses_writes() {
    let wrong = [
        Orders { handler: [Step::Mark, Step::Open], ..RIGHT },
        Orders { harvest: [Harvest::Close, Harvest::Take, Harvest::Copy], ..RIGHT },
        Orders { harvest: [Harvest::Take, Harvest::Copy, Harvest::Close], ..RIGHT },
    ];
    for orders in wrong {
        let (all, lost) = meet(orders);
        println!("{orders:?}: {lost} of {all} interleavings lose a write");
        assert!(lost > 0, "{orders:?} loses nothing");
    }
}

/// The order that was proven right is the one of the tracker and of the real handler.
#[test]
fn the_tracker_and_its_handler_take_their_steps_in_this_order() {
    let layout = Layout::single(PageCount(4).bytes()).expect("valid");
    let memory = GuestMemory::allocate(&layout, Backing::Private).expect("a small memory");
    let mut tracker = open(TrackerKind::Mprotect, &memory).expect("works on every Linux");
    let (_, mapping) = memory.regions().next().expect("one region");
    let trail = || mapping.guard().expect("guarded").trail.swap(0, Ordering::SeqCst);
    tracker.arm().expect("armed");
    assert_eq!(trail() % 100, 34, "takes, then closes");
    memory.store_u64(RegionId(0), PageCount(2).bytes(), 5).expect("in range");
    assert_eq!(trail(), 12, "opens, then marks");
    let mut found = PageSet::new(&layout);
    assert_eq!(tracker.harvest(&mut found).expect("harvested"), PageCount(1));
    assert_eq!(trail(), 34, "takes, then closes");
}
