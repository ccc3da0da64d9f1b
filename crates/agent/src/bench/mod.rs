//! What this host can do, measured: the plain mover, and whole migrations within one process.
//!
//! `whimbrel bench` and the workspace's `benches/` stand on it. Nothing in here decides whether the
//! product is right, and no agent uses it.

pub mod memory;
pub mod moving;
pub mod plain;
mod relay;
pub mod wire;

use std::io;
use std::time::Duration;

use whimbrel_engine::memory::MemoryError;

use crate::os;

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Sockets, threads or clocks failed.
    #[error("this host: {0}")]
    System(#[from] io::Error),
    /// There is no such guest memory.
    #[error("guest memory: {0}")]
    Memory(#[from] MemoryError),
    /// What was measured did not do its work.
    #[error("what was measured is not right: {0}")]
    Wrong(String),
}

/// Processor time that this process has used so far.
///
/// # Errors
/// If the system does not tell.
pub fn cpu_used() -> io::Result<Duration> {
    Ok(os::usage()?.cpu)
}

/// What it took to move so much memory.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How much was moved.
    pub bytes: u64,
    /// From the first connection, or the first write, until everything was in place.
    pub elapsed: Duration,
    /// CPU time of both sides.
    pub cpu: Duration,
}

impl Sample {
    /// Mebibytes a second.
    #[must_use]
    pub fn mib_per_s(self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.elapsed.as_secs_f64()
    }

    /// CPU seconds of both sides for a gibibyte.
    #[must_use]
    pub fn cpu_s_per_gib(self) -> f64 {
        self.cpu.as_secs_f64() * f64::from(1 << 30) / self.bytes as f64
    }
}
