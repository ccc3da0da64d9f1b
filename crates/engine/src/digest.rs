//! Digests memory itself, on all cores: what a full verification is made of.
//!
//! ```text
//!   caller ─► Sweep: the chunks ─┬─► the caller's thread ─┐
//!                                └─► one helper a core ───┴─► copy ─► leaf ─► visit(chunk, leaves)
//! ```
//!
//! Goals: threads and buffers are there before the guest is paused; what was never touched is not
//! read; a sweep that did not see every chunk says so. Non-goals: what the leaves are compared
//! with; the lanes know that.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use whimbrel_memory::{Backing, GuestMemory, MemoryError};
use whimbrel_page::{
    ByteCount, CHUNK_PAGES, Layout, Leaf, PAGE_SIZE, PageCount, PageIndex, PageSet, RegionId, Run,
};

/// Pages that a thread copies at once: they stay in its core's cache between copy and digest.
const BUFFER_PAGES: u64 = 64;
/// Memory that a rehearsal digests: enough to be more than what the caches hold.
const REHEARSAL: PageCount = PageCount(8192);

/// Times that it does so. The quickest counts: in the pause neither the guest nor the other side's
/// rehearsal takes the cores away.
const REHEARSALS: usize = 4;

/// What a digesting of memory took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digested {
    pub(crate) memory: ByteCount,
    pub(crate) took: Duration,
}

/// Why a sweep did not see all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    #[error("it was stopped")]
    Stopped,
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("a bug in Whimbrel, please report it: a thread that digests memory has died")]
    Died,
}

/// What looks at the leaves of a chunk, and says whether to go on.
type Visit = Box<dyn Fn(Run, &[Leaf]) -> bool + Send + Sync>;

/// Threads that wait for memory to digest.
pub(crate) struct Digesters {
    helpers: Vec<Helper>,
}

struct Helper {
    orders: Option<mpsc::SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// A sweep to take part in. It is done when the order is gone.
struct Order {
    sweep: Arc<Sweep>,
    _done: mpsc::SyncSender<()>,
}

struct Sweep {
    memory: GuestMemory,
    touched: PageSet,
    chunks: Vec<Run>,
    visit: Visit,
    next: AtomicUsize,
    seen: AtomicUsize,
    bytes: AtomicU64,
    stopped: AtomicBool,
    failed: Mutex<Option<MemoryError>>,
}

impl Digesters {
    /// A helper for each further core. One that cannot be started is done without.
    pub(crate) fn start() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self { helpers: (1..cores).filter_map(Helper::start).collect() }
    }

    /// Digests the pages of `touched`, and hands each chunk that has one, and each of `known`, to
    /// `visit` with the leaves of all its pages: what is not touched is zero.
    ///
    /// # Errors
    /// [`SweepError`] unless every chunk was seen.
    pub(crate) fn sweep(
        &self,
        memory: &GuestMemory,
        touched: PageSet,
        known: &[Run],
        visit: Visit,
    ) -> Result<Digested, SweepError> {
        let began = Instant::now();
        let sweep = Arc::new(Sweep {
            memory: memory.clone(),
            chunks: chunks(memory.layout(), &touched, known),
            touched,
            visit,
            next: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            failed: Mutex::new(None),
        });
        let (done, all_done) = mpsc::sync_channel(1);
        for helper in &self.helpers {
            helper.order(Order { sweep: sweep.clone(), _done: done.clone() });
        }
        drop(done);
        sweep.take_part(&mut buffer());
        // Nothing is ever sent: this waits for the last order to be gone.
        let _ = all_done.recv();
        sweep.verdict().map(|memory| Digested { memory, took: began.elapsed() })
    }

    /// How long digesting all of `memory` would take now: a part of it is digested.
    ///
    /// # Errors
    /// As [`Digesters::sweep`].
    pub(crate) fn rehearse(&self, memory: &GuestMemory) -> Result<Digested, SweepError> {
        let began = Instant::now();
        let touched = memory.touched()?;
        let listed = began.elapsed();
        let all = touched.count();
        let sample = sample(memory.layout(), &touched);
        let once = || self.sweep(memory, sample.clone(), &[], Box::new(|_, _| true));
        let Digested { memory: part, mut took } = once()?;
        for _ in 1..REHEARSALS {
            took = took.min(once()?.took);
        }
        let share = all.bytes().0 as f64 / part.0.max(1) as f64;
        Ok(Digested { memory: all.bytes(), took: listed + took.mul_f64(share) })
    }

    /// As [`Digesters::rehearse`], where there is no memory of a guest yet.
    ///
    /// # Errors
    /// As [`Digesters::sweep`].
    pub(crate) fn rehearse_without(&self) -> Result<Digested, SweepError> {
        let layout = Layout::single(REHEARSAL.bytes()).expect("a size within the limits");
        let memory = GuestMemory::allocate(&layout, Backing::Private)?;
        for page in layout.regions()[0].run().pages() {
            memory.store_u64(layout.regions()[0].id, page.offset(), page.0 + 1)?;
        }
        self.rehearse(&memory)
    }
}

impl Helper {
    fn start(number: usize) -> Option<Self> {
        let (orders, todo) = mpsc::sync_channel::<Order>(1);
        let name = format!("whimbrel-digest-{number}");
        let started = thread::Builder::new().name(name).spawn(move || {
            let mut buffer = buffer();
            while let Ok(order) = todo.recv() {
                order.sweep.take_part(&mut buffer);
            }
        });
        match started {
            Ok(thread) => Some(Self { orders: Some(orders), thread: Some(thread) }),
            Err(error) => {
                tracing::warn!("one thread less digests memory: {error}");
                None
            }
        }
    }

    fn order(&self, order: Order) {
        // A helper that has died takes nothing; the others do its part.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.orders = None;
        // It has no panics of its own to tell, and a sweep tells of what it left undone.
        self.thread.take().map(JoinHandle::join);
    }
}

impl Sweep {
    fn take_part(&self, buffer: &mut [u8]) {
        let mut leaves = Vec::with_capacity(CHUNK_PAGES as usize);
        while !self.stopped.load(Ordering::Relaxed) {
            let Some(chunk) = self.chunks.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            leaves.clear();
            leaves.resize(chunk.count.0 as usize, Leaf::Zero);
            let goes_on = match self.digest(*chunk, buffer, &mut leaves) {
                Ok(()) => (self.visit)(*chunk, &leaves),
                Err(error) => {
                    *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    false
                }
            };
            if !goes_on {
                self.stopped.store(true, Ordering::Relaxed);
                return;
            }
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn digest(
        &self,
        chunk: Run,
        buffer: &mut [u8],
        leaves: &mut [Leaf],
    ) -> Result<(), MemoryError> {
        for run in within(self.memory.layout(), &self.touched, chunk) {
            let bytes = &mut buffer[..run.count.bytes().0 as usize];
            self.memory.copy_run(run, bytes)?;
            let first = (run.first.0 - chunk.first.0) as usize;
            let found = bytes.chunks_exact(PAGE_SIZE).map(Leaf::of);
            leaves[first..].iter_mut().zip(found).for_each(|(leaf, found)| *leaf = found);
            self.bytes.fetch_add(run.count.bytes().0, Ordering::Relaxed);
        }
        Ok(())
    }

    fn verdict(&self) -> Result<ByteCount, SweepError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(error) = failed {
            return Err(error.into());
        }
        if self.stopped.load(Ordering::Relaxed) {
            return Err(SweepError::Stopped);
        }
        let whole = self.seen.load(Ordering::Relaxed) == self.chunks.len();
        let bytes = ByteCount(self.bytes.load(Ordering::Relaxed));
        if whole { Ok(bytes) } else { Err(SweepError::Died) }
    }
}

fn buffer() -> Vec<u8> {
    vec![0; PageCount(BUFFER_PAGES).bytes().0 as usize]
}

/// The chunk around a page of a region.
fn chunk_of(layout: &Layout, region: RegionId, page: PageIndex) -> Run {
    let pages = layout.region(region).expect("a region of this guest").pages();
    let first = page.0 / CHUNK_PAGES * CHUNK_PAGES;
    Run::new(region, first, CHUNK_PAGES.min(pages.0 - first))
}

/// The chunks that have a page of `touched`, and those of `known`, each once.
fn chunks(layout: &Layout, touched: &PageSet, known: &[Run]) -> Vec<Run> {
    let place = |region| layout.position(region).expect("a region of this guest");
    let mut found: BTreeSet<(usize, u64)> =
        known.iter().map(|run| (place(run.region), run.first.0 / CHUNK_PAGES)).collect();
    for run in touched.runs() {
        let last = (run.end().0 - 1) / CHUNK_PAGES;
        let region = place(run.region);
        found.extend((run.first.0 / CHUNK_PAGES..=last).map(|chunk| (region, chunk)));
    }
    let chunk = |(place, chunk): (usize, u64)| {
        chunk_of(layout, layout.regions()[place].id, PageIndex(chunk * CHUNK_PAGES))
    };
    found.into_iter().map(chunk).collect()
}

/// The runs of `touched` in `chunk`, none longer than a buffer.
fn within(layout: &Layout, touched: &PageSet, chunk: Run) -> impl Iterator<Item = Run> {
    let map = touched.bitmap_at(layout.position(chunk.region).expect("a region of this guest"));
    let mut from = chunk.first.0;
    std::iter::from_fn(move || {
        let first = map.next_one(from).filter(|first| *first < chunk.end().0)?;
        let count = map.run_length(first, BUFFER_PAGES.min(chunk.end().0 - first));
        from = first + count;
        Some(Run::new(chunk.region, first, count))
    })
}

/// Some of the touched memory, from all over it.
fn sample(layout: &Layout, touched: &PageSet) -> PageSet {
    let chunks = chunks(layout, touched, &[]);
    let wanted = (REHEARSAL.0 / CHUNK_PAGES) as usize;
    let mut sample = PageSet::new(layout);
    for chunk in chunks.iter().step_by(chunks.len().div_ceil(wanted).max(1)) {
        for run in within(layout, touched, *chunk) {
            sample.insert(run);
        }
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use whimbrel_page::RegionLayout;

    fn memory() -> GuestMemory {
        let region =
            |id, pages: u64| RegionLayout { id: RegionId(id), size: PageCount(pages).bytes() };
        let layout = Layout::new(vec![region(7, 3000), region(2, 700)]).expect("valid");
        let memory = GuestMemory::allocate(&layout, Backing::Private).expect("memory");
        for (region, page) in [(7, 0), (7, 511), (7, 512), (7, 2999), (2, 699)] {
            let at = PageIndex(page).offset();
            memory.store_u64(RegionId(region), at, page + 1).expect("inside");
        }
        memory
    }

    fn leaf(memory: &GuestMemory, region: RegionId, page: PageIndex) -> Leaf {
        let mut bytes = vec![0; PAGE_SIZE];
        memory.read(region, page.offset(), &mut bytes).expect("inside");
        Leaf::of(&bytes)
    }

    #[test]
    fn every_page_that_may_hold_something_is_digested_once() {
        let memory = memory();
        let touched = memory.touched().expect("listed");
        let count = touched.count();
        let known = [Run::new(RegionId(7), 1024, 512), Run::new(RegionId(7), 0, 512)];
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (into, of) = (seen.clone(), memory.clone());
        let visit: Visit = Box::new(move |chunk, leaves| {
            assert_eq!(leaves.len() as u64, chunk.count.0);
            for (page, found) in chunk.pages().zip(leaves) {
                assert!(found.agrees(leaf(&of, chunk.region, page)), "{page} of {chunk}");
            }
            into.lock().expect("no panics").push((chunk.region.0, chunk.first.0, chunk.count.0));
            true
        });
        let digested = Digesters::start().sweep(&memory, touched, &known, visit).expect("all");
        assert_eq!(digested.memory, count.bytes(), "and nothing else is read");
        let mut seen = Arc::into_inner(seen).expect("done").into_inner().expect("no panics");
        seen.sort_unstable();
        let all = [(2, 512, 188), (7, 0, 512), (7, 512, 512), (7, 1024, 512), (7, 2560, 440)];
        assert_eq!(seen, all);
    }

    #[test]
    fn what_is_left_undone_is_told() {
        let (memory, digesters) = (memory(), Digesters::start());
        let touched = memory.touched().expect("listed");
        let stopped = digesters.sweep(&memory, touched.clone(), &[], Box::new(|_, _| false));
        assert!(matches!(stopped, Err(SweepError::Stopped)), "{stopped:?}");
        // A thread that dies in the middle of it: here the caller sees every chunk but one.
        let sweep = Sweep {
            chunks: chunks(memory.layout(), &touched, &[]),
            memory,
            touched,
            visit: Box::new(|_, _| true),
            next: AtomicUsize::new(1),
            seen: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            failed: Mutex::new(None),
        };
        sweep.take_part(&mut buffer());
        assert!(matches!(sweep.verdict(), Err(SweepError::Died)));
    }

    #[test]
    fn a_rehearsal_speaks_of_all_memory() {
        let memory = memory();
        let touched = memory.touched().expect("listed").count();
        let digesters = Digesters::start();
        let digested = digesters.rehearse(&memory).expect("rehearsed");
        assert_eq!(digested.memory, touched.bytes());
        let without = digesters.rehearse_without().expect("rehearsed");
        assert_eq!(without.memory, REHEARSAL.bytes());
        assert!(without.took > Duration::ZERO);
    }
}
