//! The calls that only one operating system has, behind faces that every system can have.
//!
//! Linux so far. Another system brings a module with the same functions.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::RecvFlags;
use socket2::SockRef;

use crate::Woken;

/// Wakes a thread that waits for a socket.
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Rings until somebody hears it in [`wait`].
    pub(crate) fn ring(&self) {
        // It can only fail because it has been rung 2⁶⁴ times and not been heard.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    fn hush(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }
}

/// Waits for bytes, the end or an error of `stream`, or for `bell`.
pub(crate) fn wait(stream: &TcpStream, bell: &Bell, within: Duration) -> io::Result<Woken> {
    let timeout = Timespec::try_from(within).ok();
    let mut events = [
        PollFd::new(stream, PollFlags::IN),
        PollFd::from_borrowed_fd(bell.0.as_fd(), PollFlags::IN),
    ];
    match poll(&mut events, timeout.as_ref()) {
        // The caller looks at what it waits for and comes back.
        Err(rustix::io::Errno::INTR) => return Ok(Woken::Called),
        other => other?,
    };
    let readable = !events[0].revents().is_empty();
    let called = bell.hush();
    Ok(match (readable, called) {
        (true, _) => Woken::Readable,
        (false, true) => Woken::Called,
        (false, false) => Woken::TimedOut,
    })
}

/// What has arrived, without waiting: `None` if nothing has, 0 at the end.
pub(crate) fn receive_now(stream: &TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::net::recv(stream, into, RecvFlags::DONTWAIT) {
        Ok((received, _)) => Ok(Some(received)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Picks the congestion control of one socket.
pub(crate) fn set_congestion(socket: &SockRef<'_>, name: &str) -> io::Result<()> {
    socket.set_tcp_congestion(name.as_bytes())
}

/// The congestion control of one socket, where the system tells it.
pub(crate) fn congestion(socket: &SockRef<'_>) -> Option<String> {
    let name = socket.tcp_congestion().ok()?;
    let name = name.split(|byte| *byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

/// How long sent bytes may stay unacknowledged before the connection is given up.
pub(crate) fn set_unacknowledged_max(socket: &SockRef<'_>, most: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(most))
}
