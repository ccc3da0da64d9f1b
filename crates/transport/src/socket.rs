//! A lane over a stream socket: it blocks, with deadlines, and is used by its own thread.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use socket2::{SockAddr, SockRef, Socket};

use crate::lane::Reach;
use crate::os as system;
use crate::{Lane, LaneError, LaneHandle, Woken};

/// A [`Lane`] over a stream socket, TCP's or a local one. Dropping it closes the socket.
pub struct SocketLane {
    inner: Arc<Inner>,
    stall: Duration,
}

struct Inner {
    stream: Socket,
    bell: system::Bell,
    cancelled: AtomicBool,
}

/// Holds the lane weakly: a handle must not keep a socket open that its thread has closed.
struct Remote(Weak<Inner>);

impl Reach for Remote {
    fn wake(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.bell.ring();
        }
    }

    fn cancel(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.cancelled.store(true, Ordering::Release);
            // Ends a call that is blocked in the kernel. It fails if the peer was faster.
            let _ = inner.stream.shutdown(Shutdown::Both);
            inner.bell.ring();
        }
    }
}

impl SocketLane {
    /// A lane over a connection on which both sides have said who they are.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(stream: impl Into<Socket>, stall: Duration) -> io::Result<Self> {
        let stream = stream.into();
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(stall))?;
        stream.set_write_timeout(Some(stall))?;
        let inner = Inner { stream, bell: system::Bell::new()?, cancelled: AtomicBool::new(false) };
        Ok(Self { inner: Arc::new(inner), stall })
    }

    /// The two ends of the connection, this one first.
    ///
    /// # Errors
    /// What the system says; a connection that was reset has no ends.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        let no_ip = || io::Error::new(io::ErrorKind::Unsupported, "a local socket has no address");
        let ip = |address: SockAddr| address.as_socket().ok_or_else(no_ip);
        Ok((ip(self.inner.stream.local_addr()?)?, ip(self.inner.stream.peer_addr()?)?))
    }

    /// The congestion control in force, where the system tells it.
    #[must_use]
    pub fn congestion(&self) -> Option<String> {
        system::congestion(&SockRef::from(&self.inner.stream))
    }

    /// What an error means: a cancel shuts the socket down, which looks like the peer's doing.
    fn judge(&self, error: io::Error) -> LaneError {
        match error.kind() {
            _ if self.is_cancelled() => LaneError::Cancelled,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => LaneError::Stalled(self.stall),
            _ => LaneError::Link(error),
        }
    }

    fn ended(&self, missing: Option<usize>) -> LaneError {
        match missing {
            _ if self.is_cancelled() => LaneError::Cancelled,
            None => LaneError::Closed,
            Some(missing) => LaneError::Truncated { missing },
        }
    }

    fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::Acquire)
    }
}

impl Lane for SocketLane {
    fn send(&mut self, mut parts: &mut [IoSlice<'_>]) -> Result<(), LaneError> {
        // Skips empty parts, so that no bytes sent means an error.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match (&self.inner.stream).write_vectored(parts) {
                Ok(0) => return Err(self.ended(None)),
                Ok(sent) => IoSlice::advance_slices(&mut parts, sent),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.judge(error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<(), LaneError> {
        let mut filled = 0;
        while filled < into.len() {
            match (&self.inner.stream).read(&mut into[filled..]) {
                Ok(0) => return Err(self.ended((filled > 0).then_some(into.len() - filled))),
                Ok(received) => filled += received,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.judge(error)),
            }
        }
        Ok(())
    }

    fn try_receive(&mut self, into: &mut [u8]) -> Result<usize, LaneError> {
        match system::receive_now(&self.inner.stream, into) {
            Ok(Some(0)) if !into.is_empty() => Err(self.ended(None)),
            Ok(received) => Ok(received.unwrap_or(0)),
            Err(error) => Err(self.judge(error)),
        }
    }

    fn wait(&mut self, within: Duration) -> Result<Woken, LaneError> {
        let woken = system::wait(&self.inner.stream, &self.inner.bell, within);
        match woken {
            _ if self.is_cancelled() => Err(LaneError::Cancelled),
            Ok(woken) => Ok(woken),
            Err(error) => Err(self.judge(error)),
        }
    }

    fn finish(&mut self) -> Result<(), LaneError> {
        self.inner.stream.shutdown(Shutdown::Write).map_err(|error| self.judge(error))
    }

    fn handle(&self) -> LaneHandle {
        LaneHandle::new(Remote(Arc::downgrade(&self.inner)))
    }
}
