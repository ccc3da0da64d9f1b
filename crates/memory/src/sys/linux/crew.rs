//! Scans of private memory by several threads, which were started before anybody waits for them.
//!
//! A scan walks page tables, and waits for memory more than it works: two threads take little more
//! than half the time of one. Protecting all of it at first is a scan too. Regions are cut into
//! pieces; each thread takes the next piece until none is left, so that one that is late holds
//! nobody up.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use whimbrel_page::{Layout, PAGE_SIZE, PageSet, RegionId, Run};

use super::pagemap::{CHECK_ARMED, PRESENT, PROTECT, Pagemap, Query, SWAPPED, WRITTEN, once};
use crate::sys::Mapping;

/// Pages in a piece, at least; a huge region has larger ones, and not more than so many.
const PIECE_PAGES: u64 = 1 << 14;
const PIECES_MAX: u64 = 256;
/// A thread more for so many pages, up to the number of cores, and to this many.
const THREAD_PAGES: u64 = 1 << 16;
const THREADS_MAX: u64 = 8;

/// Part of a region in private memory.
struct Piece {
    region: RegionId,
    /// The pages of the region before it.
    before: u64,
    addresses: Range<usize>,
    /// Every page was populated when it was protected. There are no holes then that would have to
    /// be told from written pages, for which the kernel has a shorter way.
    full: AtomicBool,
}

/// What is done with each piece.
#[derive(Clone, Copy, Debug)]
enum Task {
    /// Protects what is populated.
    Protect,
    /// Finds what was written.
    Find { flags: u64 },
}

/// One scan.
struct Scan {
    task: Task,
    pieces: Arc<[Piece]>,
    /// The next piece to take.
    next: AtomicUsize,
}

/// The pieces, and the threads that scan them.
pub(super) struct Crew {
    pieces: Arc<[Piece]>,
    pagemap: Pagemap,
    helpers: Vec<Helper>,
}

/// A thread beside the caller's, and the set that travels to it and back.
struct Helper {
    orders: mpsc::SyncSender<(Arc<Scan>, PageSet)>,
    done: mpsc::Receiver<(io::Result<()>, PageSet)>,
    set: Option<PageSet>,
    thread: JoinHandle<()>,
}

impl Crew {
    /// Starts threads.
    pub(super) fn start<'a>(
        layout: &Layout,
        mappings: impl Iterator<Item = (RegionId, &'a Mapping)>,
    ) -> io::Result<Self> {
        let pagemap = Pagemap::open()?;
        let pieces: Arc<[_]> =
            mappings.flat_map(|(region, mapping)| cut(region, mapping)).collect();
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        let threads = (pages(&pieces) / THREAD_PAGES).min(cores).min(THREADS_MAX);
        // Where no thread can be started the others do its work.
        let helpers = (1..threads).map_while(|_| Helper::start(layout).ok()).collect();
        Ok(Self { pieces, pagemap, helpers })
    }

    /// Protects what is populated. A scan that reports leaves alone what it does not find.
    pub(super) fn protect(&mut self, layout: &Layout) -> io::Result<()> {
        self.perform(Task::Protect, self.pieces.clone(), &mut PageSet::new(layout))
    }

    /// Adds what was written to `found`.
    pub(super) fn scan(&mut self, flags: u64, found: &mut PageSet) -> io::Result<()> {
        self.perform(Task::Find { flags }, self.pieces.clone(), found)
    }

    /// As [`Crew::scan`], for who knows that nothing was written but at these addresses.
    pub(super) fn scan_parts(
        &mut self,
        parts: &[Range<usize>],
        flags: u64,
        found: &mut PageSet,
    ) -> io::Result<()> {
        let mut pieces = Vec::new();
        for of_region in self.pieces.chunk_by(|one, next| one.region == next.region) {
            for range in parts {
                let from = of_region.partition_point(|piece| piece.addresses.end <= range.start);
                pieces.extend(of_region[from..].iter().map_while(|piece| piece.part(range)));
            }
        }
        self.perform(Task::Find { flags }, pieces.into(), found)
    }

    /// What is no work for two is done by the caller's thread.
    fn perform(&mut self, task: Task, pieces: Arc<[Piece]>, found: &mut PageSet) -> io::Result<()> {
        let helpers = match pages(&pieces) {
            0..THREAD_PAGES => &mut [],
            _ => &mut self.helpers[..],
        };
        let scan = Arc::new(Scan { task, pieces, next: AtomicUsize::new(0) });
        helpers.iter_mut().for_each(|helper| helper.begin(&scan));
        let own = scan.work(&mut self.pagemap, found);
        // All of them are waited for, also after an error: their sets are to be back.
        helpers.iter_mut().map(|helper| helper.finish(found)).fold(own, Result::and)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for Helper { orders, thread, .. } in self.helpers.drain(..) {
            drop(orders);
            // It has nothing to tell: its panics would have failed a scan.
            let _ = thread.join();
        }
    }
}

impl Helper {
    fn start(layout: &Layout) -> io::Result<Self> {
        let mut pagemap = Pagemap::open()?;
        let (orders, todo) = mpsc::sync_channel::<(Arc<Scan>, PageSet)>(1);
        let (tell, done) = mpsc::sync_channel(1);
        let work = move || {
            while let Ok((scan, mut found)) = todo.recv() {
                let outcome = scan.work(&mut pagemap, &mut found);
                if tell.send((outcome, found)).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("whimbrel-scan".into()).spawn(work)?;
        Ok(Self { orders, done, set: Some(PageSet::new(layout)), thread })
    }

    fn begin(&mut self, scan: &Arc<Scan>) {
        if let Some(set) = self.set.take() {
            // A thread that is gone took no piece; it is found out when it does not answer.
            let _ = self.orders.send((scan.clone(), set));
        }
    }

    fn finish(&mut self, found: &mut PageSet) -> io::Result<()> {
        let gone = |_| io::Error::other("a thread that scanned guest memory has died");
        let (outcome, mut set) = self.done.recv().map_err(gone)?;
        found.union_with(&set);
        set.clear();
        self.set = Some(set);
        outcome
    }
}

impl Scan {
    /// Takes one piece after the other until none is left.
    fn work(&self, pagemap: &mut Pagemap, found: &mut PageSet) -> io::Result<()> {
        while let Some(piece) = self.pieces.get(self.next.fetch_add(1, Ordering::SeqCst)) {
            match self.task {
                Task::Protect => piece.protect(pagemap)?,
                Task::Find { flags } => piece.find(pagemap, flags, found)?,
            }
        }
        Ok(())
    }
}

impl Piece {
    fn protect(&self, pagemap: &mut Pagemap) -> io::Result<()> {
        let flags = PROTECT | CHECK_ARMED;
        let query = Query { flags, any: PRESENT | SWAPPED, ..Query::default() };
        let mut populated = 0;
        pagemap.scan(self.addresses.clone(), query, once(|_, count| populated += count))?;
        self.full.store(populated == self.pages(), Ordering::SeqCst);
        Ok(())
    }

    fn find(&self, pagemap: &mut Pagemap, flags: u64, found: &mut PageSet) -> io::Result<()> {
        let Self { region, before, .. } = *self;
        let query = match self.full.load(Ordering::SeqCst) {
            true => Query { flags, all: WRITTEN, report: WRITTEN, ..Query::default() },
            false => Query { flags, all: WRITTEN, any: PRESENT | SWAPPED, ..Query::default() },
        };
        pagemap.scan(self.addresses.clone(), query, |first, count| {
            found.insert(Run::new(region, before + first, count));
        })
    }

    /// What this piece has of a range, if anything.
    fn part(&self, range: &Range<usize>) -> Option<Self> {
        let start = self.addresses.start.max(range.start);
        let addresses = start..self.addresses.end.min(range.end);
        let before = self.before + ((start - self.addresses.start) / PAGE_SIZE) as u64;
        let full = AtomicBool::new(self.full.load(Ordering::SeqCst));
        (!addresses.is_empty()).then_some(Self { region: self.region, before, addresses, full })
    }

    const fn pages(&self) -> u64 {
        ((self.addresses.end - self.addresses.start) / PAGE_SIZE) as u64
    }
}

fn pages(pieces: &[Piece]) -> u64 {
    pieces.iter().map(Piece::pages).sum()
}

fn cut(region: RegionId, mapping: &Mapping) -> Vec<Piece> {
    let (pages, start) = (mapping.pages(), mapping.addresses().start);
    let size = PIECE_PAGES.max(pages.div_ceil(PIECES_MAX));
    let address = |page: u64| start + page as usize * PAGE_SIZE;
    let piece = |before: u64| {
        let addresses = address(before)..address(pages.min(before + size));
        Piece { region, before, addresses, full: AtomicBool::new(false) }
    };
    (0..pages).step_by(size as usize).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use whimbrel_page::{ByteCount, PageCount, PageIndex};

    use crate::{Backing, GuestMemory, TrackerKind, open};

    const R: RegionId = RegionId(0);

    /// The first piece is full, the others have a page each; all of them are two threads' work.
    #[test]
    fn pieces_full_and_sparse_are_scanned_by_all_threads() {
        let pages = 2 * THREAD_PAGES;
        let layout = Layout::single(PageCount(pages).bytes()).expect("valid");
        let memory = GuestMemory::allocate(&layout, Backing::Private).expect("address space");
        let write = |page: u64| memory.store_u64(R, PageIndex(page).offset(), page).expect("there");
        (0..PIECE_PAGES).for_each(write);
        (PIECE_PAGES..pages).step_by(PIECE_PAGES as usize).for_each(write);
        let mut tracker = match open(TrackerKind::Userfaultfd, &memory) {
            Ok(tracker) => tracker,
            Err(why) => return super::super::tests::skipped(&why),
        };
        tracker.arm().expect("armed");
        let mut found = PageSet::new(&layout);
        assert_eq!(tracker.harvest(&mut found).expect("harvested"), PageCount::ZERO);
        // A page of a full piece, one that was there, one that is new, and a hole in a full piece.
        let written = [5, PIECE_PAGES, pages - 1];
        written.into_iter().for_each(write);
        memory.discard(Run::new(R, 9, 1)).expect("there");
        for _ in 0..2 {
            found.clear();
            tracker.harvest_paused(&mut found).expect("scanned");
            let runs: Vec<_> = found.runs().map(|run| (run.first.0, run.count.0)).collect();
            assert_eq!(runs, [(5, 1), (9, 1), (PIECE_PAGES, 1), (pages - 1, 1)]);
        }
        tracker.harvest(&mut found).expect("harvested");
        assert_eq!(found.count(), PageCount(4));
        found.clear();
        tracker.harvest(&mut found).expect("harvested");
        // What was populated after arming has been protected by now.
        assert!(found.is_empty(), "{found:?}");
        tracker.disarm().expect("disarmed");
        assert_eq!(memory.load_u64(R, ByteCount(0)).expect("there"), 0);
    }
}
