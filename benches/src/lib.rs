//! What the benchmarks share: guests at work, and plots. What `whimbrel bench` needs as well is in
//! `whimbrel_agent::bench`.
//!
//! Benchmarks measure the product from outside. They are **not** tests: nothing here decides
//! whether the product is right, and no product crate depends on it.
#![forbid(unsafe_code)]

pub mod carried;
pub mod plain_quic;
pub mod plot;
pub mod reading;
pub mod working;

use std::time::Duration;

/// Criterion, in a hurry: `cargo bench` is to run whole in minutes.
#[must_use]
pub fn brief() -> criterion::Criterion {
    let settings = criterion::Criterion::default().warm_up_time(Duration::from_millis(500));
    settings.measurement_time(Duration::from_secs(2))
}
