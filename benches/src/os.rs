//! What only the operating system can tell or set.

use std::fs;
use std::io;
use std::time::Duration;

use socket2::Socket;
use whimbrel_page::ByteCount;

/// CPU time this process has used so far, in user and kernel code, over all its threads.
#[cfg(unix)]
#[must_use]
pub fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Sets cubic: the default may be one that paces, as bbr does, and pacing is not what a
/// loopback is measured for.
///
/// # Errors
/// If the kernel does not have it.
#[cfg(target_os = "linux")]
pub fn unpaced(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_congestion(b"cubic")
}

/// Memory this process holds now, its page tables counted.
///
/// # Errors
/// If the system does not tell.
#[cfg(target_os = "linux")]
pub fn resident() -> io::Result<ByteCount> {
    Ok(status("VmRSS:")? + status("VmPTE:")?)
}

/// The most memory this process has held since [`forget_peak`], its page tables counted.
///
/// # Errors
/// If the system does not tell.
#[cfg(target_os = "linux")]
pub fn peak() -> io::Result<ByteCount> {
    Ok(status("VmHWM:")? + status("VmPTE:")?)
}

/// Begins a new peak from what is held now.
///
/// # Errors
/// If the system does not let us.
#[cfg(target_os = "linux")]
pub fn forget_peak() -> io::Result<()> {
    fs::write("/proc/self/clear_refs", "5")
}

#[cfg(target_os = "linux")]
fn status(field: &str) -> io::Result<ByteCount> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.map(ByteCount::kib).ok_or_else(|| io::Error::other(format!("no {field} is told")))
}
