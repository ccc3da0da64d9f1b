//! The guest itself: threads at a gate, and what the engine asks of them.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, Throttle};
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_memory::page::{ByteCount, Layout};
use whimbrel_memory::{GuestMemory, Writers};

use super::config::{StressConfig, VCPUS_MAX};
use super::monitor::StressMonitor;
use super::plan::Plan;
use super::shared::Shared;
use super::state::{self, STATE_VERSION, SavedState};
use super::vcpu;

/// What a stress guest says its kind is.
pub const KIND: &str = "stress";

/// What the host grants a guest; it does not move with it.
#[derive(Clone, Copy, Debug)]
pub struct HostLimits {
    /// How long vCPUs may take to come to a stand. One that is stuck in a page fault does not.
    pub quiet_within: Duration,
}

impl Default for HostLimits {
    fn default() -> Self {
        Self { quiet_within: Duration::from_secs(1) }
    }
}

/// Why there is no guest. The memory it was to have is as the caller gave it.
#[derive(Debug, thiserror::Error)]
pub enum StressError {
    /// The config was checked against other memory.
    #[error("the guest was configured for other memory than this: check its config against it")]
    Layout,
    /// The host gives no thread.
    #[error("the host starts no thread {thread:?}: {source}; raise its limit or end other guests")]
    Spawn {
        /// What it would have been called.
        thread: String,
        /// What the operating system said.
        source: io::Error,
    },
}

/// How a thread is started: the operating system's way, or a test's.
pub(crate) type Spawn =
    fn(name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>>;

fn spawn(name: String, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(body)
}

/// A stress guest. Its threads end when it is dropped.
pub struct StressGuest {
    shared: Arc<Shared>,
    description: GuestDescription,
    limits: HostLimits,
    threads: Vec<JoinHandle<()>>,
    /// It has a state of which all was taken over.
    loaded: bool,
}

impl StressGuest {
    /// Makes a new guest, parked, and fills its memory, which is as it was allocated.
    ///
    /// # Errors
    /// [`StressError`]; no thread is left then.
    pub fn new(
        uuid: GuestUuid,
        name: &str,
        config: StressConfig,
        memory: GuestMemory,
        limits: HostLimits,
    ) -> Result<Self, StressError> {
        if config.layout() != memory.layout() {
            return Err(StressError::Layout);
        }
        let vcpus = config.spec().vcpus.0;
        let description = GuestDescription {
            uuid,
            name: name.to_owned(),
            kind: KIND.to_owned(),
            state_version: STATE_VERSION,
        };
        let mut guest = Self::with_threads(description, memory, limits, vcpus, spawn)?;
        let plan = guest.shared.plan.get_or_init(|| Plan::new(config));
        guest.shared.fill(plan);
        guest.loaded = true;
        Ok(guest)
    }

    /// A parked guest that waits for its state. How many vCPUs it has is only known then, so
    /// threads for all it may have wait; those it turns out not to have end then.
    pub(crate) fn awaiting_state(
        description: GuestDescription,
        memory: GuestMemory,
        limits: HostLimits,
    ) -> Result<Self, StressError> {
        Self::with_threads(description, memory, limits, VCPUS_MAX.0, spawn)
    }

    /// A parked guest that knows nothing yet, its threads at the gate.
    pub(crate) fn with_threads(
        description: GuestDescription,
        memory: GuestMemory,
        limits: HostLimits,
        vcpus: u16,
        spawn: Spawn,
    ) -> Result<Self, StressError> {
        let shared = Arc::new(Shared::new(memory));
        // From here on it is whole: an early return ends the threads there are.
        let mut guest = Self { shared, description, limits, threads: Vec::new(), loaded: false };
        for index in 0..usize::from(vcpus) {
            guest.start_thread(format!("vcpu{index}"), spawn, move |shared| {
                vcpu::write_pages(shared, index);
            })?;
        }
        guest.start_thread("heartbeat".to_owned(), spawn, vcpu::beat)?;
        Ok(guest)
    }

    fn start_thread(
        &mut self,
        name: String,
        spawn: Spawn,
        body: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(), StressError> {
        let member = Member::join(Arc::clone(&self.shared));
        let body = Box::new(move || body(&member.shared));
        let thread = spawn(name.clone(), body)
            .map_err(|source| StressError::Spawn { thread: name, source })?;
        self.threads.push(thread);
        Ok(())
    }

    /// A view of the guest that stays valid while a migration owns it.
    #[must_use]
    pub fn monitor(&self) -> StressMonitor {
        StressMonitor::new(&self.shared, self.limits)
    }

    /// Whether memory of this shape can be a stress guest's.
    pub(crate) fn fits(layout: &Layout) -> bool {
        layout.pages().0 >= 2
    }

    fn needs_parked(&self, what: &'static str) -> Result<(), GuestError> {
        let why = "it is running; pause it first";
        if self.shared.gate.is_paused() { Ok(()) } else { Err(error(what, why)) }
    }

    fn take_over(&self, state: &SavedState) -> Result<(), GuestError> {
        let plan = self.shared.plan.get_or_init(|| Plan::new(state.config.clone()));
        if plan.config != state.config {
            return Err(error("load its state", "it is the state of another guest"));
        }
        let counts = self.shared.writes.iter().zip(&state.writes);
        counts.for_each(|(writes, count)| writes.set(*count));
        self.shared.heart().arrive(state.pulse);
        self.shared.gate.need_only(plan.schedules.len());
        Ok(())
    }
}

impl Guest for StressGuest {
    fn describe(&self) -> GuestDescription {
        self.description.clone()
    }

    fn memory(&self) -> GuestMemory {
        self.shared.memory.clone()
    }

    fn writers(&self) -> Writers {
        Writers::OwnThreads
    }

    fn state_size_hint(&self) -> Option<ByteCount> {
        self.shared.plan.get().map(|plan| state::size(plan.schedules.len()))
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        let within = self.limits.quiet_within;
        if self.shared.gate.pause(within) {
            return Ok(());
        }
        Err(error("pause", format!("a vCPU did not stand still within {within:?}")))
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        if !self.loaded {
            return Err(error("resume", "it has no state; load one first"));
        }
        self.shared.gate.resume();
        Ok(())
    }

    fn save_state(&mut self) -> Result<Bytes, GuestError> {
        let what = "save its state";
        self.needs_parked(what)?;
        let plan = self.shared.plan.get().filter(|_| self.loaded);
        let plan = plan.ok_or_else(|| error(what, "it has none; load one first"))?;
        let vcpus = plan.schedules.len();
        let writes = self.shared.writes[..vcpus].iter().map(|writes| writes.done()).collect();
        let pulse = self.shared.heart().pulse();
        Ok(SavedState { config: plan.config.clone(), pulse, writes }.encode())
    }

    fn load_state(&mut self, state: &Bytes) -> Result<(), GuestError> {
        let what = "load its state";
        self.needs_parked(what)?;
        self.loaded = false;
        let state = SavedState::decode(state, self.shared.memory.layout())
            .map_err(|why| error(what, why))?;
        self.take_over(&state)?;
        self.loaded = true;
        Ok(())
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.shared.gate.set_throttle(throttle);
        Ok(())
    }
}

impl Drop for StressGuest {
    fn drop(&mut self) {
        if self.shared.gate.end(self.limits.quiet_within) {
            // They are past their last instruction but one: nothing is waited for here.
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
    }
}

impl fmt::Debug for StressGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { description, loaded, .. } = self;
        let parked = self.shared.gate.is_paused();
        f.debug_struct("StressGuest")
            .field("description", description)
            .field("parked", &parked)
            .field("loaded", loaded)
            .finish_non_exhaustive()
    }
}

fn error(what: &'static str, why: impl ToString) -> GuestError {
    GuestError { what, why: why.to_string() }
}

/// A thread's membership at the gate: given up when the thread ends, however it does, and also
/// when it was never started.
struct Member {
    shared: Arc<Shared>,
}

impl Member {
    fn join(shared: Arc<Shared>) -> Self {
        shared.gate.join();
        Self { shared }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.gate.part();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stress::config::StressSpec;
    use std::sync::atomic::{AtomicU32, Ordering};
    use whimbrel_memory::Backing;
    use whimbrel_memory::page::ByteCount;

    fn memory() -> GuestMemory {
        let layout = Layout::single(ByteCount::mib(1)).expect("valid");
        GuestMemory::allocate(&layout, Backing::Private).expect("a mebibyte")
    }

    fn description() -> GuestDescription {
        GuestDescription {
            uuid: GuestUuid(1),
            name: "g".to_owned(),
            kind: KIND.to_owned(),
            state_version: STATE_VERSION,
        }
    }

    /// The third thread cannot be started (bug museum, M6).
    #[test]
    fn a_thread_that_cannot_start_leaves_no_guest_and_no_thread() {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        static ENDED: AtomicU32 = AtomicU32::new(0);
        let failing: Spawn = |name, body| {
            if STARTED.fetch_add(1, Ordering::SeqCst) == 2 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            spawn(
                name,
                Box::new(move || {
                    body();
                    ENDED.fetch_add(1, Ordering::SeqCst);
                }),
            )
        };
        let memory = memory();
        let limits = HostLimits::default();
        let made = StressGuest::with_threads(description(), memory.clone(), limits, 4, failing);
        let Err(StressError::Spawn { thread, .. }) = made else { panic!("a guest was made") };
        assert_eq!(thread, "vcpu2");
        assert_eq!(ENDED.load(Ordering::SeqCst), 2, "both threads that ran have ended");
        let spec = StressSpec { working_set: ByteCount::kib(64), ..StressSpec::default() };
        let config = StressConfig::new(spec, memory.layout().clone()).expect("fits");
        StressGuest::new(GuestUuid(1), "g", config, memory, limits).expect("the memory is whole");
    }

    #[test]
    fn a_vcpu_that_does_not_stand_still_fails_the_pause_and_the_guest_runs_on() {
        let limits = HostLimits { quiet_within: Duration::from_millis(20) };
        let mut guest = StressGuest::with_threads(description(), memory(), limits, 0, |_, _| {
            thread::Builder::new().spawn(|| ())
        });
        let guest = guest.as_mut().expect("made, with threads that do nothing");
        let shared = Arc::clone(&guest.shared);
        shared.gate.resume();
        assert_eq!(shared.gate.enter(), crate::stress::gate::Pass::Inside);
        assert!(guest.pause().is_err());
        assert!(shared.gate.is_open());
        shared.gate.leave();
        guest.pause().expect("nobody is inside");
    }

    #[test]
    fn threads_that_a_state_does_not_need_end() {
        let spec = StressSpec { working_set: ByteCount::kib(64), ..StressSpec::default() };
        let (memory, limits) = (memory(), HostLimits::default());
        let config = StressConfig::new(spec, memory.layout().clone()).expect("fits");
        let made = StressGuest::new(GuestUuid(1), "g", config, memory.clone(), limits);
        let state = made.expect("a guest").save_state().expect("parked");
        let mut guest = StressGuest::awaiting_state(description(), memory, limits).expect("made");
        assert_eq!(guest.threads.len(), usize::from(VCPUS_MAX.0) + 1);
        guest.load_state(&state).expect("valid");
        guest.resume().expect("loaded");
        let start = std::time::Instant::now();
        while guest.threads.iter().filter(|thread| !thread.is_finished()).count() > 2 {
            assert!(start.elapsed() < Duration::from_secs(60), "they do not end");
            thread::yield_now();
        }
    }
}
