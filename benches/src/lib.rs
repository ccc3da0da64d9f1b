//! What the benchmarks share.
//!
//! Benchmarks measure the product from outside. They are **not** tests: nothing here decides
//! whether the product is right, and no product crate depends on it.
#![forbid(unsafe_code)]
