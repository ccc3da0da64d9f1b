//! Lanes at work: threads that take pages from the ledger, and threads that land them.
//!
//! ```text
//!   driver ─► SourceLanes ─┬─ Mutex<Ledger> ─┐                 DestinationLanes ◄─ driver
//!                          └─ one Sender a lane ═══ wire ═══► one Lander a lane ─┬─► Landing
//!                 ◄─ LaneEvent                                  LandEvent ─►     └─► LeafTable
//! ```
//!
//! Goals: a page is copied once and digested while it is warm; no allocation a batch; a lock is
//! held for a taking or an acknowledgement, never across a copy or I/O; a lane that fails takes
//! nothing with it. Non-goals: deciding when rounds begin, whether a lane is replaced, and what a
//! failure means; the machines of `whimbrel-protocol` do.

mod ahead;
mod counters;
mod destination;
mod lander;
mod map;
mod options;
mod paths;
mod quiet;
mod sender;
mod source;
mod spread;
mod traffic;
mod verify;

pub(crate) use ahead::Due;
pub(crate) use destination::{DestinationLanes, LandEvent};
pub(crate) use map::WeakLanes;
pub use options::LaneOptions;
pub(crate) use source::{LaneEvent, SourceLanes};
pub use traffic::Traffic;
pub use whimbrel_protocol::Limits;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use whimbrel_memory::take_long_turns;
use whimbrel_page::{ByteCount, PageCount};
use whimbrel_protocol::LaneId;
use whimbrel_transport::{Carrier, End, Lane, LaneSecret};

use crate::progress::LaneReport;

/// Events that may wait for a driver. A lane says at most three things in its life, and of the
/// rest there are two for each command, so that a driver which listens never meets the limit.
pub(crate) const EVENTS_MAX: usize = 1024;

/// What one lane has carried, readable at any time.
#[derive(Debug, Default)]
struct Carried {
    bytes: AtomicU64,
    pages: AtomicU64,
}

impl Carried {
    fn add(&self, bytes: ByteCount, pages: PageCount) {
        self.bytes.fetch_add(bytes.0, Ordering::Relaxed);
        self.pages.fetch_add(pages.0, Ordering::Relaxed);
    }

    fn bytes(&self) -> ByteCount {
        ByteCount(self.bytes.load(Ordering::Relaxed))
    }

    fn report(&self, lane: LaneId, open: bool) -> LaneReport {
        let pages = PageCount(self.pages.load(Ordering::Relaxed));
        LaneReport { lane, bytes: self.bytes(), pages, open }
    }
}

/// Has a thread work within the span of whoever starts it, so that its log lines are told to which
/// migration they belong.
pub(crate) fn in_this_span<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = tracing::Span::current();
    move || span.in_scope(work)
}

/// Locks, also after a panic: a lane that dies of a bug must not take the guest's process along.
/// What it left behind is found when the roots are compared.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lane that was opened by `hello`, signed where the session's lanes are. wire.md P6: without
/// a secret there is no lane then.
pub(crate) fn sign(
    lane: Box<dyn Lane>,
    carrier: &Carrier,
    secret: Option<LaneSecret>,
    hello: &[u8],
    end: End,
) -> Result<Box<dyn Lane>, String> {
    match (carrier.signs_lanes(), secret) {
        (false, _) => Ok(lane),
        (true, Some(secret)) => Ok(secret.sign(lane, hello, end)),
        (true, None) => Err("the control connection of the lane is gone".into()),
    }
}

/// Runs the work of a lane's thread; a panic is one more way for a lane to fail.
fn guarded<E: ToString>(work: impl FnOnce() -> Result<(), E>) -> String {
    // Lanes keep processors busy that a guest needs now and then, and at once.
    if let Err(error) = take_long_turns() {
        tracing::debug!("the turns of a lane are as long as any other's: {error}");
    }
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => "it was stopped".into(),
        Ok(Err(why)) => why.to_string(),
        Err(panic) => format!("a bug in Whimbrel, please report it: {}", panic_message(&*panic)),
    }
}

pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests;
