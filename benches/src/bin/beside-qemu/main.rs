//! A guest that writes all the time, moved by Whimbrel and by QEMU in turns: how much it writes a
//! second before, while and after it moves, and what the move takes.
//!
//! `cargo run --release -p whimbrel-benches --bin beside-qemu [REPEATS]`. Needs
//! `qemu-system-x86_64` and /dev/kvm.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod qemu;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> anyhow::Result<()> {
    anyhow::bail!("this is measured on Linux only")
}
