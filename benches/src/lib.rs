//! What the benchmarks share: guests at work, and plots. What `whimbrel bench` needs as well is in
//! `whimbrel_agent::bench`.
//!
//! Benchmarks measure the product from outside. They are **not** tests: nothing here decides
//! whether the product is right, and no product crate depends on it.
#![forbid(unsafe_code)]

pub mod plot;
pub mod working;
