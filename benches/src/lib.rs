//! What the benchmarks share: memory that was paid for, content, clocks, and the plain mover.
//!
//! Benchmarks measure the product from outside. They are **not** tests: nothing here decides
//! whether the product is right, and no product crate depends on it.
#![forbid(unsafe_code)]

pub mod memory;
pub mod moving;
pub mod os;
pub mod plain;
