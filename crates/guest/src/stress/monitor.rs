//! A look at a guest from outside, also while a migration owns it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use whimbrel_engine::guest::Throttle;

use super::check::{self, CheckError, CheckReport};
use super::config::StressSpec;
use super::guest::HostLimits;
use super::shared::Shared;

/// Page writes by vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operations(pub u64);

/// Beats of the heart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Beats(pub u64);

/// A guest at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StressReport {
    /// What it was told to do; unknown until it has a state.
    pub spec: Option<StressSpec>,
    /// Whether it runs; otherwise it is parked.
    pub running: bool,
    /// How much it is slowed down.
    pub throttle: Throttle,
    /// Page writes over its life, on whichever host.
    pub operations: Operations,
    /// Page writes in the last quarter of a second that it ran, as a rate for one second.
    pub operations_per_second: Operations,
    /// Beats over its life, on whichever host.
    pub beats: Beats,
    /// Beats since it came to this host. From the first one on `blackout` has the gap of the move.
    pub beats_here: Beats,
    /// The longest time between two beats since [`StressMonitor::begin_move`], on whichever host.
    pub blackout: Duration,
    /// The sum of what the times between beats had beyond a millisecond, since then: what a user
    /// of the guest has felt of it.
    pub lost: Duration,
}

/// A view of a guest. Keeps neither the guest nor its memory alive.
#[derive(Clone, Debug)]
pub struct StressMonitor {
    shared: Weak<Shared>,
    limits: HostLimits,
}

impl StressMonitor {
    pub(crate) fn new(shared: &Arc<Shared>, limits: HostLimits) -> Self {
        Self { shared: Arc::downgrade(shared), limits }
    }

    /// The guest now; nothing once it is gone.
    #[must_use]
    pub fn report(&self) -> Option<StressReport> {
        let shared = self.shared.upgrade()?;
        let heart = shared.heart();
        let pulse = heart.pulse();
        Some(StressReport {
            spec: shared.plan.get().map(|plan| plan.config.spec()),
            running: !shared.gate.is_paused(),
            throttle: shared.gate.throttle(),
            operations: Operations(shared.operations()),
            operations_per_second: Operations(heart.operations_per_second()),
            beats: Beats(pulse.beats),
            beats_here: Beats(heart.beats_here()),
            blackout: pulse.longest,
            lost: pulse.lost,
        })
    }

    /// Starts `blackout` and `lost` afresh, as a move begins. They go with the guest.
    pub fn begin_move(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.heart().start_afresh();
        }
    }

    /// Looks at every page of the guest, parked or running. A running guest goes on, but for the
    /// moment it takes to copy a page that is written again and again.
    ///
    /// # Errors
    /// [`CheckError`] says why there is no answer; bad pages are an answer.
    pub fn self_check(&self) -> Result<CheckReport, CheckError> {
        let shared = self.shared.upgrade().ok_or(CheckError::Gone)?;
        check::check(&shared, self.limits.quiet_within)
    }
}
