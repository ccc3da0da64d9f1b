//! What the threads of one guest, the guest itself and its monitors have in common.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{panic, thread};

use whimbrel_memory::GuestMemory;

use super::config::VCPUS_MAX;
use super::content::{PageName, Sequence};
use super::gate::Gate;
use super::heart::{Heart, Moment};
use super::plan::Plan;

/// Threads that fill or check memory beside the caller's, at most.
const HELPERS_MAX: usize = 7;
/// Pages that one of them takes at a time.
const CHUNK: u64 = 1024;

/// How many pages a vCPU has written; alone in its cache lines, as one thread writes it all the
/// time.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Writes(AtomicU64);

impl Writes {
    /// For whoever looks at pages next: they are at least this new.
    pub(crate) fn done(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// For whoever looked at pages before: they are at most one write newer than this.
    pub(crate) fn done_by_now(&self) -> u64 {
        fence(Ordering::Acquire);
        self.0.load(Ordering::Relaxed)
    }

    /// By the vCPU alone, between two writes of pages.
    pub(crate) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Release);
        // The next page must not be seen before this count is.
        fence(Ordering::Release);
    }
}

/// One guest's memory, gate, plan and counters.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) memory: GuestMemory,
    pub(crate) gate: Gate,
    pub(crate) writes: [Writes; VCPUS_MAX.0 as usize],
    /// Known from the start, or from the first state that is loaded.
    pub(crate) plan: OnceLock<Plan>,
    heart: Mutex<Heart>,
    epoch: Instant,
}

impl Shared {
    pub(crate) fn new(memory: GuestMemory) -> Self {
        Self {
            memory,
            gate: Gate::new(usize::from(VCPUS_MAX.0)),
            writes: Default::default(),
            plan: OnceLock::new(),
            heart: Mutex::default(),
            epoch: Instant::now(),
        }
    }

    /// Whoever holds this keeps the heart from beating.
    pub(crate) fn heart(&self) -> MutexGuard<'_, Heart> {
        self.heart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Page writes by all vCPUs.
    pub(crate) fn operations(&self) -> u64 {
        self.writes.iter().map(Writes::done).sum()
    }

    /// Monotonic time since the guest came to this host.
    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(crate) fn moment(&self) -> Moment {
        let everywhere = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { here: self.now(), everywhere }
    }

    /// Writes a page of the plan, as the write that makes it `sequence`.
    pub(crate) fn write_page(&self, plan: &Plan, name: PageName, sequence: Sequence) {
        for line in plan.content.write(name, sequence) {
            self.put(name, line.offset as u64, &line.bytes);
        }
    }

    /// Puts the first content into every page that has some.
    pub(crate) fn fill(&self, plan: &Plan) {
        each_chunk(plan.pages().0, |numbers| {
            let mut bytes = [0; whimbrel_memory::page::PAGE_SIZE];
            for (_, name) in numbers.map(|number| plan.page(number)) {
                if !plan.content.starts_as_zero(name) {
                    plan.content.page(name, Sequence(0), &mut bytes);
                    self.put(name, 0, &bytes);
                }
            }
        });
    }

    fn put(&self, name: PageName, offset: u64, bytes: &[u8]) {
        let at = whimbrel_memory::page::ByteCount(name.page.offset().0 + offset);
        self.memory.write(name.region, at, bytes).expect("a page of this guest's layout");
    }
}

/// Has `work` done on all numbers below `end`, in ranges, on as many threads as there are
/// processors, and fewer if the host gives no more; the caller's is one of them.
pub(crate) fn each_chunk(end: u64, work: impl Fn(std::ops::Range<u64>) + Sync) {
    let next = AtomicU64::new(0);
    let labour = || {
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            if first >= end {
                return;
            }
            work(first..end.min(first + CHUNK));
        }
    };
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let helpers = (processors - 1).min(HELPERS_MAX).min((end / CHUNK) as usize);
    thread::scope(|scope| {
        // Without one that cannot be started the others do its share.
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, labour).ok();
        let helpers: Vec<_> = (0..helpers).filter_map(spawn).collect();
        labour();
        for helper in helpers {
            helper.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        }
    });
}
