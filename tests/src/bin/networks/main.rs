//! What migrations make of shaped links between two network namespaces, beside what iperf3 does:
//! several paths at once, rate limits, and shares of a host's limit. Needs root, `tc` and iperf3.
//!
//! `cargo run --release -p whimbrel-tests --bin networks`
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
