//! A look at a guest from outside, and its service port, also while a migration owns it.

use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use whimbrel_engine::guest::Throttle;

use super::check::{self, KvCheck};
use super::dict::Dict;
use super::guest::Shared;
use super::head;
use super::machine::Event;
use super::port::{Attach, Outlet, RelayId, ToGuest};

/// A guest at one moment. Its memory must hold a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvReport {
    /// Whether it runs; otherwise it is parked.
    pub running: bool,
    /// How much it is slowed down.
    pub throttle: Throttle,
    /// Keys there are.
    pub keys: u64,
    /// Clients there are.
    pub clients: u64,
    /// Commands over its life, on whichever host.
    pub commands: u64,
    /// Bytes of memory in use by the store.
    pub used: u64,
    /// Looks at the clock over its life.
    pub beats: u64,
    /// Those since it came to this host. From the first one on `blackout` has the gap of the move.
    pub beats_here: u64,
    /// The longest time between two of them since a move began.
    pub blackout: Duration,
    /// What these times had beyond the usual since then.
    pub lost: Duration,
}

/// Why a guest cannot look at its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvCheckError {
    /// It has been dropped.
    #[error("the guest is gone")]
    Gone,
    /// It does not stand still.
    #[error("the guest is busy with one command and cannot be looked at; try again")]
    Busy,
}

/// A view of a guest. Keeps neither the guest nor its memory alive.
#[derive(Clone)]
pub struct KvMonitor {
    shared: Weak<Shared>,
}

impl fmt::Debug for KvMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvMonitor").finish_non_exhaustive()
    }
}

impl KvMonitor {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::downgrade(shared) }
    }

    /// The guest now; nothing once it is gone, or before its memory has arrived.
    #[must_use]
    pub fn report(&self) -> Option<KvReport> {
        let shared = self.shared.upgrade()?;
        let arena = &shared.arena;
        head::recognise(arena).ok()?;
        let time = |at| Duration::from_micros(arena.load(at));
        let keys = arena.follow(head::KEYS).place();
        Some(KvReport {
            running: !shared.doorway.is_paused(),
            throttle: shared.doorway.throttle(),
            // Memory that is arriving may name a place it does not have.
            keys: keys
                .filter(|at| at.0 < arena.size() - 64 && at.0 % 8 == 0)
                .map_or(0, |at| Dict(at).len(arena)),
            clients: arena.load(head::CONNECTION_COUNT),
            commands: arena.load(head::COMMANDS),
            used: arena.load(head::USED),
            beats: arena.load(head::BEATS),
            beats_here: shared.beats_here.load(Ordering::Relaxed),
            blackout: time(head::LONGEST_GAP_US),
            lost: time(head::LOST_US),
        })
    }

    /// Starts `blackout` and `lost` afresh, as a move begins. They go with the guest.
    pub fn begin_move(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.doorway.bring(Event::BeginMove);
        }
    }

    /// Attaches a relay once the guest runs: the outlet is given something then. It is dropped
    /// when the guest lets go of its clients or leaves this host. `false` if it already has left.
    pub fn attach(&self, attach: Attach, outlet: Box<dyn Outlet>) -> bool {
        let shared = self.shared.upgrade().filter(|shared| shared.doorway.is_alive());
        shared.is_some_and(|shared| {
            shared.doorway.attach(attach, outlet);
            true
        })
    }

    /// Passes on what an attached relay says, as soon as the guest has room for it; whether the
    /// guest is still here. A relay that does not keep to its credit is cut off.
    pub async fn hear(&self, relay: RelayId, mut said: Vec<ToGuest>) -> bool {
        // Whoever waits keeps neither the guest nor its memory.
        poll_fn(|context| match self.shared.upgrade() {
            Some(shared) => shared.doorway.poll_hear(context, relay, &mut said),
            None => Poll::Ready(false),
        })
        .await
    }

    /// Looks at everything the store has in memory, which stands still meanwhile.
    ///
    /// # Errors
    /// [`KvCheckError`] says why there is no answer; a damaged store is an answer.
    pub fn self_check(&self) -> Result<KvCheck, KvCheckError> {
        let shared = self.shared.upgrade().ok_or(KvCheckError::Gone)?;
        let hold = shared.doorway.hold(shared.quiet_within).ok_or(KvCheckError::Busy)?;
        // Damage may lead anywhere.
        let checked = catch_unwind(AssertUnwindSafe(|| check::check(&shared.arena)));
        drop(hold);
        let dead = !shared.doorway.is_alive();
        let report = checked.unwrap_or_else(|_| KvCheck::damaged("an offset leads nowhere"));
        Ok(if dead { KvCheck::damaged("the executor has ended") } else { report })
    }
}
