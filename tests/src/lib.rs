//! Tests of Whimbrel from outside: the rules of the house, and whole processes.
//!
//! Whole processes are run on Linux; those of Windows are run from there too.
//!
//! This library holds what those tests share. It tests no function that a crate tests itself,
//! and it is **not** part of the product: nothing depends on it.
#![forbid(unsafe_code)]

pub mod browser;
pub mod demo;
#[cfg(target_os = "linux")]
pub mod faults;
pub mod house;
pub mod http;
pub mod initials;
pub mod museum;
#[cfg(target_os = "linux")]
pub mod net;
#[cfg(target_os = "linux")]
pub mod os;
pub mod peers;
#[cfg(target_os = "linux")]
pub mod program;
pub mod prometheus;
#[cfg(target_os = "linux")]
pub mod realm;
#[cfg(target_os = "linux")]
pub mod redis;
pub mod tmux;
#[cfg(target_os = "linux")]
pub mod windows;

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

/// How a program that measures ends: one that could not says why, and fails.
pub fn ended(outcome: Result<(), impl std::fmt::Display>) -> std::process::ExitCode {
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            std::process::ExitCode::FAILURE
        }
    }
}
