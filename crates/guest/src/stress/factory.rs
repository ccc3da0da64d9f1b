//! Makes stress guests on a destination.

use std::sync::{Arc, Mutex, PoisonError};

use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, GuestFactory};
use whimbrel_memory::GuestMemory;
use whimbrel_memory::page::Layout;

use super::guest::{HostLimits, KIND, StressGuest};
use super::monitor::StressMonitor;
use super::state::STATE_VERSION;

/// Where a factory puts the view of the last guest it made; the guest itself goes to the engine.
#[derive(Clone, Debug, Default)]
pub struct MonitorSlot {
    monitor: Arc<Mutex<Option<StressMonitor>>>,
}

impl MonitorSlot {
    /// The view of the last guest made, if one was.
    #[must_use]
    pub fn get(&self) -> Option<StressMonitor> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, monitor: StressMonitor) {
        *self.monitor.lock().unwrap_or_else(PoisonError::into_inner) = Some(monitor);
    }
}

/// Makes stress guests that wait for their memory and state.
#[derive(Debug, Default)]
pub struct StressFactory {
    limits: HostLimits,
    slot: MonitorSlot,
}

impl StressFactory {
    /// A factory of guests with these limits.
    #[must_use]
    pub fn new(limits: HostLimits) -> Self {
        Self { limits, slot: MonitorSlot::default() }
    }

    /// Where to find the guests it makes.
    #[must_use]
    pub fn monitors(&self) -> MonitorSlot {
        self.slot.clone()
    }
}

impl GuestFactory for StressFactory {
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
        if !StressGuest::fits(layout) {
            return Err("a stress guest has at least two pages of memory".to_owned());
        }
        Ok(())
    }

    fn create(
        &mut self,
        guest: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        let made = StressGuest::awaiting_state(guest.clone(), memory, self.limits);
        let made = made.map_err(|why| GuestError { what: "come alive", why: why.to_string() })?;
        self.slot.put(made.monitor());
        Ok(Box::new(made))
    }
}
