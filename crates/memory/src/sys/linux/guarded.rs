//! A region whose clean pages are write-protected.
//!
//! The order is what makes this lose nothing. The fault handler opens a page and *then* marks
//! it; a harvest takes the marks and *then* closes the region. So a page that is open is marked,
//! or is about to be, or is about to be closed by the harvest that took its mark, which reads
//! pages only after that.
//!
//! ```text
//!   handler   open ──────► mark             a write between the two shows in the next harvest
//!   harvest         take ──────► close      a mark between the two stays for the next one
//! ```
//!
//! A close covers the whole region, clean pages included: one that a handler has just opened and
//! not yet marked is closed as well, and its writer faults again.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use whimbrel_page::PAGE_SIZE;

use super::checked;
use crate::atomic_bits::AtomicBits;

/// Runs of open pages in all regions of this process, about. Each takes up to two mappings, of
/// which the host allows a process some ten thousands; without any left, even the allocator fails.
static OPEN_RUNS: AtomicI64 = AtomicI64::new(0);

/// Runs that a region may have whatever the others have: the greedy one is to pay.
const OWN_RUNS: i64 = 64;

/// One region. Its addresses must stay mapped, readable and writable, for as long as it lives.
pub(in crate::sys) struct Guarded {
    start: usize,
    len: usize,
    /// Pages that can only be opened together.
    granule: u64,
    /// Pages opened since the region was last closed.
    marks: AtomicBits,
    /// Set where pages could not be opened one by one: every page is open and none is marked.
    all_open: AtomicBool,
    /// What this region has added to [`OPEN_RUNS`].
    runs: AtomicI64,
    /// What [`OPEN_RUNS`] may grow to, but for [`OWN_RUNS`] a region.
    runs_max: i64,
    /// The steps that were taken, the last one in the lowest digit.
    #[cfg(test)]
    trail: std::sync::atomic::AtomicU64,
}

/// A step of a handler or a harvest. What may come between any two of them is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Open = 1,
    Mark = 2,
    OpenAll = 3,
    MarkAll = 4,
    TakeAll = 5,
    Take = 6,
    Close = 7,
}

impl Guarded {
    pub(super) fn new(start: usize, len: usize, granule: u64, runs_max: i64) -> Self {
        let marks = AtomicBits::new((len / PAGE_SIZE) as u64);
        let (all_open, runs) = (AtomicBool::new(false), AtomicI64::new(0));
        Self {
            start,
            len,
            granule,
            marks,
            all_open,
            runs,
            runs_max,
            #[cfg(test)]
            trail: Default::default(),
        }
    }

    /// Tests listen here. Async-signal-safe.
    #[cfg(test)]
    fn passes(&self, step: Step) {
        let add = |trail| Some(trail % 10_u64.pow(18) * 10 + step as u64);
        let _ = self.trail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add);
    }

    #[cfg(not(test))]
    const fn passes(&self, _: Step) {}

    /// Answers a write to a protected page. Returns whether the write may be tried again.
    /// Async-signal-safe.
    pub(super) fn fault(&self, address: usize) -> bool {
        let Some(offset) = address.checked_sub(self.start).filter(|at| *at < self.len) else {
            return false;
        };
        let page = (offset / PAGE_SIZE) as u64 / self.granule * self.granule;
        if self.open(page) {
            self.mark(page);
            return true;
        }
        let opened = self.open_all();
        if opened {
            self.mark_all();
        }
        opened
    }

    /// First step of the handler.
    fn open(&self, page: u64) -> bool {
        self.passes(Step::Open);
        let added = self.runs_added(page);
        let (own, all) = (self.runs.load(Ordering::SeqCst), OPEN_RUNS.load(Ordering::SeqCst));
        if own + added > OWN_RUNS && all + added > self.runs_max {
            return false;
        }
        let at = self.start + page as usize * PAGE_SIZE;
        let opened = protect(at, self.granule as usize * PAGE_SIZE, Access::Write).is_ok();
        if opened {
            self.runs.fetch_add(added, Ordering::SeqCst);
            OPEN_RUNS.fetch_add(added, Ordering::SeqCst);
        }
        opened
    }

    /// Second step of the handler.
    fn mark(&self, page: u64) {
        self.passes(Step::Mark);
        self.marks.set(page, self.granule);
    }

    /// The last resort of the handler, in place of the first step: opens everything, which leaves
    /// one mapping.
    fn open_all(&self) -> bool {
        self.passes(Step::OpenAll);
        protect(self.start, self.len, Access::Write).is_ok()
    }

    /// What then is the second step.
    fn mark_all(&self) {
        self.passes(Step::MarkAll);
        self.all_open.store(true, Ordering::SeqCst);
        self.forget_runs();
    }

    /// First step of a harvest: hands the runs of marked pages to `each` and unmarks them.
    /// Returns whether pages besides those may have been written.
    pub(super) fn take(&self, each: impl FnMut(u64, u64)) -> bool {
        let all = self.take_all();
        self.take_marked(each);
        all
    }

    fn take_all(&self) -> bool {
        self.passes(Step::TakeAll);
        self.all_open.swap(false, Ordering::SeqCst)
    }

    fn take_marked(&self, each: impl FnMut(u64, u64)) {
        self.passes(Step::Take);
        self.marks.drain(each);
    }

    /// As [`Guarded::take`], but leaves the marks.
    pub(super) fn peek(&self, each: impl FnMut(u64, u64)) -> bool {
        self.marks.peek(each);
        self.all_open.load(Ordering::SeqCst)
    }

    /// Second step of a harvest: protects every page.
    pub(super) fn close(&self) -> io::Result<()> {
        self.passes(Step::Close);
        let outcome = protect(self.start, self.len, Access::Read);
        match outcome {
            Ok(()) => self.forget_runs(),
            // Some pages are open and not marked any more: nothing may be left out from now on.
            Err(_) => self.all_open.store(true, Ordering::SeqCst),
        }
        outcome
    }

    /// Ends protection. A fault that is on its way finds the page open and tries again.
    pub(super) fn release(&self) -> io::Result<()> {
        self.forget_runs();
        protect(self.start, self.len, Access::Write)
    }

    fn forget_runs(&self) {
        OPEN_RUNS.fetch_sub(self.runs.swap(0, Ordering::SeqCst), Ordering::SeqCst);
    }

    /// How many runs of open pages there will be more when `page` is opened: neighbouring pages
    /// share a mapping.
    fn runs_added(&self, page: u64) -> i64 {
        let marked = |page: Option<u64>| {
            i64::from(page.is_some_and(|page| {
                page < (self.len / PAGE_SIZE) as u64 && self.marks.contains(page)
            }))
        };
        if marked(Some(page)) == 1 {
            return 0;
        }
        1 - marked(page.checked_sub(1)) - marked(page.checked_add(self.granule))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.forget_runs();
    }
}

enum Access {
    Read,
    Write,
}

/// `mprotect(2)` on guest memory. Async-signal-safe: nothing but the system call.
fn protect(at: usize, len: usize, access: Access) -> io::Result<()> {
    let bits = match access {
        Access::Read => libc::PROT_READ,
        Access::Write => libc::PROT_READ | libc::PROT_WRITE,
    };
    let at = std::ptr::with_exposed_provenance_mut(at);
    // SAFETY: the range is guest memory, to which no reference exists; it stays readable, and
    // whoever writes to it comes back through the handler.
    checked(unsafe { libc::mprotect(at, len, bits) }.into()).map(drop)
}

#[cfg(test)]
mod tests;
