//! Tests of Whimbrel from outside: the rules of the house, and whole processes.
//!
//! This library holds what those tests share. It tests no function that a crate tests itself,
//! and it is **not** part of the product: nothing depends on it.
#![forbid(unsafe_code)]

pub mod demo;
pub mod house;
