//! A guest that does nothing but write memory, and can prove afterwards that all of it is right.
//!
//! ```text
//!   StressSpec ─► StressConfig ─► Plan ─┬─ Schedule   which page comes n-th, and how often it came
//!                                       └─ Content    what a page holds after so many writes
//!   vCPU threads ─► Gate ─► Pacer ─► write a page, count it       (count: vCPU state, moves)
//!   heartbeat ────► Gate ─► Heart: gaps as the guest sees them    (pulse: vCPU state, moves)
//! ```
//!
//! What every page must hold follows from the seed and the vCPUs' counts alone. Nothing about
//! it is stored in guest memory, so nothing that goes wrong with memory in a move can hide itself:
//! a page that was lost, is older or newer than its writer remembers, or is made of parts of two
//! versions, is found by [`StressMonitor::self_check`].

mod check;
mod config;
mod content;
mod factory;
mod gate;
mod guest;
mod heart;
mod mix;
mod monitor;
mod pace;
mod permutation;
mod plan;
mod schedule;
mod shared;
mod state;
mod vcpu;

pub use check::{BadPage, CheckError, CheckReport};
pub use config::{
    ConfigError, DirtyRate, Fill, Pattern, Seed, StressConfig, StressSpec, VCPUS_MAX, VcpuCount,
};
pub use content::{Damage, Sequence};
pub use factory::{MonitorSlot, StressFactory};
pub use guest::{HostLimits, KIND, StressError, StressGuest};
pub use monitor::{Beats, Operations, StressMonitor, StressReport};
pub use state::STATE_VERSION;
