//! The guest itself: a store in memory, one executor, and what the engine asks of them.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, GuestFactory, Throttle};
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_memory::page::{ByteCount, Layout};
use whimbrel_memory::{GuestMemory, Writers};

use super::arena::Arena;
use super::doorway::{Call, Doorway};
use super::head;
use super::machine::{BEAT_US, Machine, now_ms};
use super::monitor::KvMonitor;
use super::store::Store;

/// What a key-value guest says its kind is.
pub const KIND: &str = "kv";
/// The version of its state, all but a few bytes of which is in its memory.
pub const STATE_VERSION: u32 = 2;
/// The least memory it is any use with.
pub const MEMORY_MIN: ByteCount = ByteCount::mib(1);

/// What the saved state begins with.
const STATE_MARK: &[u8; 4] = b"wbkv";
const STATE_SIZE: usize = 8;

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The memory is not one region, or too small.
    #[error("a key-value guest has one region of memory of at least {MEMORY_MIN}")]
    Layout,
    /// The host gives no thread.
    #[error("the host starts no thread for the guest: {0}; raise its limit or end other guests")]
    Spawn(io::Error),
}

/// What the guest, its executor and its monitors have in common.
pub(crate) struct Shared {
    pub(crate) arena: Arena,
    pub(crate) doorway: Doorway,
    /// Looks at the clock on this host.
    pub(crate) beats_here: AtomicU64,
    /// How long the executor may take to come to a stand.
    pub(crate) quiet_within: Duration,
}

/// A key-value guest. Its executor ends when it is dropped.
pub struct KvGuest {
    shared: Arc<Shared>,
    description: GuestDescription,
    executor: Option<JoinHandle<()>>,
    /// Memory holds a store.
    loaded: bool,
}

/// Why a guest does nothing more.
const DEAD: &str = "its executor has ended by a bug or damaged memory";
/// How long a command may take before a pause is given up. Whoever asks for the pause has a
/// deadline of their own, and runs the guest on after it.
const QUIET_WITHIN: Duration = Duration::from_secs(30);
/// How long a guest that is dropped waits for its executor.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

impl KvGuest {
    /// Makes a new guest, parked, with an empty store in `memory`, which is as it was allocated.
    ///
    /// # Errors
    /// [`KvError`]; no thread is left then.
    pub fn new(uuid: GuestUuid, name: &str, memory: GuestMemory) -> Result<Self, KvError> {
        if !fits(memory.layout()) {
            return Err(KvError::Layout);
        }
        let seed = (uuid.0 >> 64) as u64 ^ uuid.0 as u64;
        Store::lay_out(Arena::new(memory.clone()), seed, now_ms()).map_err(|_| KvError::Layout)?;
        let description = GuestDescription {
            uuid,
            name: name.to_owned(),
            kind: KIND.to_owned(),
            state_version: STATE_VERSION,
        };
        let mut guest = Self::awaiting_state(description, memory)?;
        guest.loaded = true;
        Ok(guest)
    }

    /// A parked guest whose memory is still to arrive.
    fn awaiting_state(description: GuestDescription, memory: GuestMemory) -> Result<Self, KvError> {
        if !fits(memory.layout()) {
            return Err(KvError::Layout);
        }
        let shared = Arc::new(Shared {
            arena: Arena::new(memory),
            doorway: Doorway::new(),
            beats_here: AtomicU64::new(0),
            quiet_within: QUIET_WITHIN,
        });
        shared.doorway.set_alive(true);
        let own = Arc::clone(&shared);
        let executor = thread::Builder::new().name("kv".to_owned()).spawn(move || live(&own));
        let executor = Some(executor.map_err(KvError::Spawn)?);
        Ok(Self { shared, description, executor, loaded: false })
    }

    /// A view of the guest, and the way to its service port, while a migration owns it.
    #[must_use]
    pub fn monitor(&self) -> KvMonitor {
        KvMonitor::new(&self.shared)
    }

    fn needs_parked(&self, what: &'static str) -> Result<(), GuestError> {
        let why = "it is running; pause it first";
        if self.shared.doorway.is_paused() { Ok(()) } else { Err(error(what, why)) }
    }
}

fn fits(layout: &Layout) -> bool {
    layout.regions().len() == 1 && layout.bytes() >= MEMORY_MIN
}

/// The executor's life. Memory that is no store, or a bug, ends it and nothing else.
fn live(shared: &Shared) {
    let lived = catch_unwind(AssertUnwindSafe(|| execute(shared)));
    shared.doorway.set_alive(false);
    drop(lived);
}

fn execute(shared: &Shared) {
    let doorway = &shared.doorway;
    let mut machine = None;
    let mut wait = Duration::ZERO;
    while let Some(call) = doorway.enter(wait) {
        let Call::Work(events, works_for) = call else {
            machine = None;
            continue;
        };
        let began = Instant::now();
        let open =
            || doorway.is_open() && works_for.is_none_or(|longest| began.elapsed() < longest);
        // Memory is not looked at before the guest may run.
        let made = match machine.take() {
            Some(machine) => Ok(machine),
            None => Machine::open(shared.arena.clone()),
        };
        let Ok(mut running) = made else { return };
        let mut events = events.into_iter();
        // First, or a throttled guest would never come to it while others say more.
        running.go_on(&open);
        while open() {
            let Some(event) = events.next() else { break };
            running.handle(event, &open);
        }
        running.turn(&open);
        shared.beats_here.fetch_add(1, Ordering::Relaxed);
        wait = if running.is_busy() { Duration::ZERO } else { Duration::from_micros(BEAT_US) };
        machine = Some(running);
        doorway.leave(events.collect(), began.elapsed());
    }
}

impl Guest for KvGuest {
    fn describe(&self) -> GuestDescription {
        self.description.clone()
    }

    fn memory(&self) -> GuestMemory {
        self.shared.arena.memory().clone()
    }

    fn writers(&self) -> Writers {
        Writers::OwnThreads
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        let within = self.shared.quiet_within;
        if !self.shared.doorway.is_alive() {
            return Err(error("pause", DEAD));
        }
        if self.shared.doorway.pause(within) {
            return Ok(());
        }
        Err(error("pause", format!("a command was not carried out within {within:?}")))
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        if !self.loaded {
            return Err(error("resume", "it has no state; load one first"));
        }
        if !self.shared.doorway.is_alive() {
            return Err(error("resume", DEAD));
        }
        self.shared.doorway.resume();
        Ok(())
    }

    fn state_size_hint(&self) -> Option<ByteCount> {
        Some(ByteCount(STATE_SIZE as u64))
    }

    fn save_state(&mut self) -> Result<Bytes, GuestError> {
        let what = "save its state";
        self.needs_parked(what)?;
        if !self.loaded {
            return Err(error(what, "it has none; load one first"));
        }
        let mut state = BytesMut::with_capacity(STATE_SIZE);
        state.put_slice(STATE_MARK);
        state.put_u32_le(STATE_VERSION);
        Ok(state.freeze())
    }

    fn load_state(&mut self, state: &Bytes) -> Result<(), GuestError> {
        let what = "load its state";
        self.needs_parked(what)?;
        self.loaded = false;
        let mut bytes = state.clone();
        let known = bytes.len() == STATE_SIZE
            && bytes.split_to(STATE_MARK.len()) == STATE_MARK.as_slice()
            && bytes.get_u32_le() == STATE_VERSION;
        if !known {
            return Err(error(what, "these bytes are no state of a key-value guest"));
        }
        head::recognise(&self.shared.arena).map_err(|why| error(what, why))?;
        self.loaded = true;
        Ok(())
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.shared.doorway.set_throttle(throttle);
        Ok(())
    }

    /// Its clients: relays look for it elsewhere from here on, and come back if it runs again.
    fn release(&mut self) -> Result<(), GuestError> {
        self.needs_parked("let go of its clients")?;
        self.shared.doorway.let_go();
        Ok(())
    }
}

impl Drop for KvGuest {
    fn drop(&mut self) {
        // An executor that does not come out keeps its share of memory until it does.
        if self.shared.doorway.end(ENDS_WITHIN)
            && let Some(executor) = self.executor.take()
        {
            let _ = executor.join();
        }
    }
}

impl fmt::Debug for KvGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { description, loaded, .. } = self;
        f.debug_struct("KvGuest")
            .field("description", description)
            .field("loaded", loaded)
            .finish_non_exhaustive()
    }
}

fn error(what: &'static str, why: impl ToString) -> GuestError {
    GuestError { what, why: why.to_string() }
}

/// Where a factory puts the view of the last guest it made; the guest itself goes to the engine.
#[derive(Clone, Debug, Default)]
pub struct KvMonitorSlot {
    monitor: Arc<Mutex<Option<KvMonitor>>>,
}

impl KvMonitorSlot {
    /// The view of the last guest made, if one was.
    #[must_use]
    pub fn get(&self) -> Option<KvMonitor> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes key-value guests that wait for their memory.
#[derive(Debug, Default)]
pub struct KvFactory {
    slot: KvMonitorSlot,
}

impl KvFactory {
    /// Where to find the guests it makes.
    #[must_use]
    pub fn monitors(&self) -> KvMonitorSlot {
        self.slot.clone()
    }
}

impl GuestFactory for KvFactory {
    fn check(&self, guest: &GuestDescription, layout: &Layout) -> Result<(), String> {
        let GuestDescription { kind, state_version, .. } = guest;
        if kind != KIND {
            return Err(format!("guests of kind {kind:?} cannot live here, only {KIND:?}"));
        }
        if *state_version != STATE_VERSION {
            return Err(format!(
                "the guest's state has version {state_version}, this host reads {STATE_VERSION}: \
                 use one release on both hosts"
            ));
        }
        if fits(layout) { Ok(()) } else { Err(KvError::Layout.to_string()) }
    }

    fn create(
        &mut self,
        guest: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        let made = KvGuest::awaiting_state(guest.clone(), memory);
        let made = made.map_err(|why| error("come alive", why))?;
        let mut slot = self.slot.monitor.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(made.monitor());
        drop(slot);
        Ok(Box::new(made))
    }
}
