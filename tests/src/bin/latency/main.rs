//! What clients of a key-value store feel of its move: how long each reply takes before, while and
//! after it moves, next to the gap that the guest itself has seen.
//!
//! `cargo run --release -p whimbrel-tests --bin latency [FILE.svg]` prints the figures, and draws
//! them.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    whimbrel_tests::ended(linux::main())
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    whimbrel_tests::ended(Err("this is measured on Linux only"))
}
