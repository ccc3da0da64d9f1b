//! What only the operating system can tell or set.

use std::io;
use std::time::Duration;

use socket2::Socket;

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
