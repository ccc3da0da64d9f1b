//! What a virtual machine monitor implements to have its guests moved.

#[cfg(test)]
pub(crate) mod still;

use bytes::Bytes;
use whimbrel_memory::{GuestMemory, Writers};
use whimbrel_page::{ByteCount, Layout};
use whimbrel_protocol::GuestUuid;

/// Who a guest is. Both sides agree on this before page one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestDescription {
    /// The identity that moves with the guest.
    pub uuid: GuestUuid,
    /// A label for people, at most 64 bytes.
    pub name: String,
    /// What kind of guest it is (`stress`, `kv`, …), at most 32 bytes.
    pub kind: String,
    /// The version of the bytes that [`Guest::save_state`] gives.
    pub state_version: u32,
}

/// Why a guest could not do what was asked of it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the guest could not {what}: {why}")]
pub struct GuestError {
    /// What was asked, as a verb phrase: "pause", "load its state".
    pub what: &'static str,
    /// What went wrong.
    pub why: String,
}

/// The share of its run time a guest is made to stand still, in percent: 0..=[`Throttle::MOST`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Throttle(u8);

impl Throttle {
    /// Full speed.
    pub const OFF: Self = Self(0);
    /// The strongest throttle: the guest still moves, so that its clocks and locks do.
    pub const MOST: Self = Self(99);

    /// A throttle of `percent`, cut to what is allowed.
    #[must_use]
    pub const fn percent(percent: u8) -> Self {
        if percent > Self::MOST.0 { Self::MOST } else { Self(percent) }
    }

    /// The share in percent.
    #[must_use]
    pub const fn as_percent(self) -> u8 {
        self.0
    }
}

/// A guest that can be moved. The migration owns it while it runs; a guest is either *running*
/// or *parked*, and every call but [`Guest::throttle`] and [`Guest::describe`] says which it
/// needs.
///
/// Calls block the calling thread; each one should come back within the time the options give
/// the paused part. One that does not come back at all ends the attempt: see
/// [`crate::HungGuest`].
pub trait Guest: Send + 'static {
    /// Who it is. Does not change over its life.
    fn describe(&self) -> GuestDescription;

    /// A handle on its memory. All of the guest's own writes go through this mapping.
    fn memory(&self) -> GuestMemory;

    /// Who writes its memory; the same for as long as it is moved. Who is not sure lets it be.
    /// Where threads of this process are the only ones, the downtime does not grow with the
    /// memory: see [`whimbrel_memory::open_for`].
    fn writers(&self) -> Writers {
        Writers::Anyone
    }

    /// How large its saved state will be, if that can be said while it runs: the first estimate of
    /// the downtime counts it in. Later ones know the size of the state that was saved.
    fn state_size_hint(&self) -> Option<ByteCount> {
        None
    }

    /// Running → parked: vCPUs stand still, and device backends have finished or cancelled what
    /// they were doing. After `Ok` nothing writes guest memory until [`Guest::resume`].
    ///
    /// # Errors
    /// The guest then still runs.
    fn pause(&mut self) -> Result<(), GuestError>;

    /// Parked → running, from where it stood. Starts no thread.
    ///
    /// # Errors
    /// The guest is then still parked.
    fn resume(&mut self) -> Result<(), GuestError>;

    /// Parked: everything that is not in memory, as bytes another host can load. At most
    /// [`STATE_SIZE_MAX`] bytes.
    ///
    /// # Errors
    /// The guest stays parked and whole.
    fn save_state(&mut self) -> Result<Bytes, GuestError>;

    /// Parked: takes over what [`Guest::save_state`] gave elsewhere. The bytes come from a peer:
    /// check them. May be called again with newer bytes.
    ///
    /// # Errors
    /// The guest stays parked and must not be run.
    fn load_state(&mut self, state: &Bytes) -> Result<(), GuestError>;

    /// Slows the guest down, running or parked; [`Throttle::OFF`] is full speed at once.
    ///
    /// # Errors
    /// The throttle is then as before.
    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError>;

    /// Parked: lets go of what only one host may hold (disk locks, addresses). Reversible with
    /// [`Guest::reacquire`] until the grant.
    ///
    /// # Errors
    /// Nothing was let go.
    fn release(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    /// Parked: takes the outside resources, on the destination before it says it is prepared,
    /// and on the source when an attempt has failed.
    ///
    /// # Errors
    /// They are not held; the guest must not be run.
    fn reacquire(&mut self) -> Result<(), GuestError> {
        Ok(())
    }
}

/// Makes guests on the destination.
pub trait GuestFactory: Send + 'static {
    /// Whether a guest like this, with memory like this, could live here.
    ///
    /// # Errors
    /// One sentence that says what does not fit and what would.
    fn check(&self, guest: &GuestDescription, layout: &Layout) -> Result<(), String>;

    /// Makes the parked guest over `memory`, whose content is still arriving: threads are
    /// started and wait, nothing is read. Everything slow belongs here, because this happens
    /// while the source still runs.
    ///
    /// # Errors
    /// The migration is then refused and the source goes on.
    fn create(
        &mut self,
        guest: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError>;
}

/// Bytes a guest's state may have beside its memory.
pub const STATE_SIZE_MAX: usize = 16 << 20;
