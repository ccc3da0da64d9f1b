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
use whimbrel_engine::page::ByteCount;

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

/// The page tables of this process.
///
/// # Errors
/// If the system does not tell.
pub fn page_tables() -> io::Result<ByteCount> {
    Ok(os::resident()?.1)
}

/// What this process uses from a moment on.
#[derive(Debug)]
pub struct Meter {
    cpu: Duration,
    held: ByteCount,
}

impl Meter {
    /// From now on.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn begin() -> io::Result<Self> {
        let (memory, tables) = os::resident()?;
        os::reset_peak()?;
        Ok(Self { cpu: os::usage()?.cpu, held: memory + tables })
    }

    /// Processor time until now, and how many more bytes of memory than at the beginning were held
    /// at the worst moment, page tables included. The kernel counts memory to some hundred KiB: of
    /// nothing more that may be less than nothing.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn read(&self) -> io::Result<(Duration, i64)> {
        let now = os::usage()?;
        let held = now.peak + os::resident()?.1;
        Ok((now.cpu - self.cpu, held.0 as i64 - self.held.0 as i64))
    }
}

/// The median; of an even number the mean of the two in the middle, of none NaN.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => f64::NAN,
    }
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

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }
}
