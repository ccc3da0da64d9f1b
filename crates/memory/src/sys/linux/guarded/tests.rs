//! Handlers and a harvest that meet between any two of their steps: all interleavings, on real
//! protected memory, one step at a time. A writer tries to write as the kernel does on its behalf,
//! which fails where a handler would be called.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use memmap2::{MmapOptions, MmapRaw};
use whimbrel_page::{Layout, PageCount, PageSet, RegionId};

use super::*;
use crate::{Backing, GuestMemory, TrackerKind, open};

/// Each writer has one.
const PAGES: usize = 2;
/// The most that a writer writes, one value after the other; its page holds 0 at first.
const WRITES: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harvest {
    /// The word that every page is open.
    TakeAll,
    /// The marks.
    Take,
    Close,
    /// What was taken is read.
    Copy,
}

const HARVEST: [Harvest; 4] = [Harvest::TakeAll, Harvest::Take, Harvest::Close, Harvest::Copy];
/// A handler that opens one page, and one that has to open all of them.
const ONE: [Step; 2] = [Step::Open, Step::Mark];
const ALL: [Step; 2] = [Step::OpenAll, Step::MarkAll];

/// Who meets whom.
#[derive(Clone, Copy, Debug)]
struct Cast {
    /// The handler of each writer, in the order in which it takes its steps.
    handlers: &'static [[Step; 2]],
    harvest: [Harvest; 4],
    /// How often each writes, and how many harvests that may meet; another one comes at the end.
    writes: u8,
    harvests: usize,
    /// Pages that can only be opened together.
    granule: u64,
}

const ALONE: Cast =
    Cast { handlers: &[ONE], harvest: HARVEST, writes: WRITES, harvests: 2, granule: 1 };
const TWO: Cast = Cast { handlers: &[ONE, ONE], writes: 1, harvests: 1, ..ALONE };

/// Somebody who writes into a page of their own.
#[derive(Clone, Copy)]
struct Writer {
    handler: [Step; 2],
    /// The next value to write, and how far the handler of its fault has come.
    next: u8,
    faulted: Option<usize>,
}

struct Meeting {
    cast: Cast,
    guard: Guarded,
    mapping: MmapRaw,
    values: File,
    writers: Vec<Writer>,
    harvested: usize,
    step: usize,
    /// The steps of this harvest that have looked for what was written, and what they found.
    looked: usize,
    found: [bool; PAGES],
    mirror: [u8; PAGES],
}

impl Meeting {
    fn new(cast: Cast) -> Self {
        let length = PAGES * PAGE_SIZE;
        let mapping: MmapRaw = MmapOptions::new().len(length).map_anon().expect("pages").into();
        let start = mapping.as_mut_ptr().expose_provenance();
        let guard = Guarded::new(start, length, cast.granule, i64::MAX);
        let mut values = tempfile::tempfile().expect("a temporary file");
        values.write_all(&(0..=WRITES).collect::<Vec<_>>()).expect("a small file");
        guard.close().expect("protected");
        let writers = Vec::new();
        let (harvested, step, looked) = (0, 0, 0);
        let (found, mirror) = ([false; PAGES], [0; PAGES]);
        Self { cast, guard, mapping, values, writers, harvested, step, looked, found, mirror }
    }

    /// Back to the beginning: pages of zeros, protected and not marked.
    fn begin(&mut self) {
        self.guard.release().expect("open");
        self.guard.take(|_, _| ());
        assert!((0..PAGES).all(|page| self.kernel_writes(page, 0)), "the pages are open");
        self.guard.close().expect("protected");
        let writer = |handler: &[Step; 2]| Writer { handler: *handler, next: 1, faulted: None };
        self.writers.clear();
        self.writers.extend(self.cast.handlers.iter().map(writer));
        (self.harvested, self.step, self.looked) = (0, 0, 0);
        (self.found, self.mirror) = ([false; PAGES], [0; PAGES]);
    }

    fn kernel_writes(&self, page: usize, value: u8) -> bool {
        let into = self.mapping.as_mut_ptr().wrapping_add(page * PAGE_SIZE).cast();
        // SAFETY: one byte of a mapping of this test, to which no reference exists.
        let read = unsafe { libc::pread(self.values.as_raw_fd(), into, 1, i64::from(value)) };
        read == 1
    }

    fn held(&self) -> [u8; PAGES] {
        let start = self.mapping.as_ptr();
        std::array::from_fn(|page| {
            // SAFETY: a readable byte of a mapping of this test.
            unsafe { start.add(page * PAGE_SIZE).read_volatile() }
        })
    }

    fn writes_on(&self, page: usize) -> bool {
        self.writers[page].next <= self.cast.writes
    }

    fn writer_steps(&mut self, page: usize) {
        let mut writer = self.writers[page];
        let first = page as u64 / self.cast.granule * self.cast.granule;
        match writer.faulted {
            None if self.kernel_writes(page, writer.next) => writer.next += 1,
            None => writer.faulted = Some(0),
            Some(at) => {
                match writer.handler[at] {
                    Step::Open => assert!(self.guard.open(first), "there is room for a mapping"),
                    Step::Mark => self.guard.mark(first),
                    Step::OpenAll => assert!(self.guard.open_all(), "it opens"),
                    Step::MarkAll => self.guard.mark_all(),
                    other => panic!("no handler does this: {other:?}"),
                }
                writer.faulted = (at == 0).then_some(1);
            }
        }
        self.writers[page] = writer;
    }

    fn harvest_steps(&mut self) {
        if self.step == 0 {
            (self.looked, self.found) = (0, [false; PAGES]);
        }
        match self.cast.harvest[self.step] {
            Harvest::TakeAll => {
                let all = self.guard.take_all();
                self.found.iter_mut().for_each(|found| *found |= all);
                self.looked += 1;
            }
            Harvest::Take => {
                let found = &mut self.found;
                self.guard.take_marked(|first, count| {
                    found[first as usize..(first + count) as usize].fill(true);
                });
                self.looked += 1;
            }
            // As the tracker: nothing was open and marked, so nothing has to be closed.
            Harvest::Close if self.looked == 2 && self.found == [false; PAGES] => {}
            Harvest::Close => self.guard.close().expect("protected"),
            Harvest::Copy => {
                let held = self.held();
                let found = (0..PAGES).filter(|page| self.found[*page]);
                found.for_each(|page| self.mirror[page] = held[page]);
            }
        }
        self.step = (self.step + 1) % HARVEST.len();
        self.harvested += usize::from(self.step == 0);
    }

    /// One interleaving; `path` says which of those who can go on goes, with how many there were,
    /// and is made longer as needed. Returns whether the last writes were harvested.
    fn run(&mut self, path: &mut Vec<(usize, usize)>) -> bool {
        self.begin();
        let harvest = self.writers.len();
        for at in 0.. {
            let mut able: Vec<_> = (0..harvest).filter(|page| self.writes_on(*page)).collect();
            if self.harvested < self.cast.harvests {
                able.push(harvest);
            }
            if able.is_empty() {
                path.truncate(at);
                break;
            }
            if at == path.len() {
                path.push((0, able.len()));
            }
            match able[path[at].0] {
                who if who == harvest => self.harvest_steps(),
                page => self.writer_steps(page),
            }
        }
        (0..HARVEST.len()).for_each(|_| self.harvest_steps());
        self.mirror == self.held()
    }
}

/// How many interleavings there are, and in how many of them a write is lost.
fn meet(cast: Cast) -> (u64, u64) {
    let mut meeting = Meeting::new(cast);
    let (mut path, mut all, mut lost) = (Vec::new(), 0, 0);
    loop {
        all += 1;
        lost += u64::from(!meeting.run(&mut path));
        while path.pop_if(|(chosen, of)| *chosen + 1 == *of).is_some() {}
        match path.last_mut() {
            Some((chosen, _)) => *chosen += 1,
            None => return (all, lost),
        }
    }
}

#[test]
fn no_write_is_lost_wherever_handlers_and_a_harvest_meet() {
    let meetings = [
        ALONE,
        Cast { handlers: &[ALL], ..ALONE },
        TWO,
        Cast { handlers: &[ONE, ALL], ..TWO },
        Cast { handlers: &[ALL, ALL], ..TWO },
        Cast { granule: 2, ..TWO },
    ];
    for cast in meetings {
        let (all, lost) = meet(cast);
        println!("{cast:?}: {all} interleavings");
        assert!(all > 1000, "only {all} interleavings: {cast:?}");
        assert_eq!(lost, 0, "of {all} interleavings: {cast:?}");
    }
}

#[test]
fn every_other_order_loses_writes() {
    use Harvest::{Close, Copy, Take, TakeAll};
    let wrong = [
        Cast { handlers: &[[Step::Mark, Step::Open]], ..ALONE },
        Cast { handlers: &[[Step::MarkAll, Step::OpenAll]], ..ALONE },
        Cast { harvest: [Close, TakeAll, Take, Copy], ..ALONE },
        Cast { harvest: [TakeAll, Take, Copy, Close], ..ALONE },
        Cast { harvest: [Take, Close, TakeAll, Copy], handlers: &[ALL], ..ALONE },
        Cast { harvest: [TakeAll, Close, Take, Copy], ..ALONE },
    ];
    for cast in wrong {
        let (all, lost) = meet(cast);
        println!("{cast:?}: {lost} of {all} interleavings lose a write");
        assert!(lost > 0, "{cast:?} loses nothing");
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
    assert_eq!(trail() % 1000, 567, "takes, then closes");
    memory.store_u64(RegionId(0), PageCount(2).bytes(), 5).expect("in range");
    assert_eq!(trail(), 12, "opens, then marks");
    let mut found = PageSet::new(&layout);
    assert_eq!(tracker.harvest(&mut found).expect("harvested"), PageCount(1));
    assert_eq!(trail(), 567, "takes, then closes");
    assert_eq!(tracker.harvest(&mut found).expect("harvested"), PageCount::ZERO);
    assert_eq!(trail(), 56, "closes nothing where nothing was open");
}

/// Where a page cannot be opened alone, all of them are, and then marked.
#[test]
fn a_handler_without_room_for_another_mapping_takes_its_steps_in_this_order() {
    let pages = OWN_RUNS as usize * 2 + 1;
    let length = pages * PAGE_SIZE;
    let mapping: MmapRaw = MmapOptions::new().len(length).map_anon().expect("pages").into();
    let start = mapping.as_mut_ptr().expose_provenance();
    let guard = Guarded::new(start, length, 1, 0);
    guard.close().expect("protected");
    let trail = || guard.trail.swap(0, Ordering::SeqCst);
    for page in (0..pages - 1).step_by(2) {
        trail();
        assert!(guard.fault(start + page * PAGE_SIZE));
        assert_eq!(trail(), 12, "page {page} is opened alone");
    }
    assert!(guard.fault(start + (pages - 1) * PAGE_SIZE));
    assert_eq!(trail(), 134, "cannot open one, opens all, marks all");
}
