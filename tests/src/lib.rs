//! Tests of Whimbrel from outside: the rules of the house, and whole processes.
//!
//! This library holds what those tests share. It tests no function that a crate tests itself,
//! and it is **not** part of the product: nothing depends on it.
#![forbid(unsafe_code)]

pub mod browser;
pub mod demo;
pub mod faults;
pub mod house;
pub mod http;
pub mod museum;
pub mod net;
pub mod os;
pub mod peers;
pub mod program;
pub mod prometheus;
pub mod realm;
pub mod redis;
pub mod tmux;

/// A test that needs what is not here says so and passes; where everything must be there, as in
/// CI, it fails.
///
/// # Panics
/// If `WHIMBREL_REQUIRE` is `all`.
pub fn skipped(why: &str) {
    let all = std::env::var("WHIMBREL_REQUIRE").is_ok_and(|require| require == "all");
    assert!(!all, "WHIMBREL_REQUIRE=all, and this cannot be tested: {why}");
    println!("SKIPPED: {why}");
}
