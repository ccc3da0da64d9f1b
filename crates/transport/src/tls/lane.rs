//! A lane through TLS, over the lane of a socket.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write};
use std::time::{Duration, Instant};

use rustls::Connection;

use crate::{Lane, LaneError, LaneHandle, SocketLane, Woken};

/// Page bytes that are encrypted before they are written: records of 16 KiB, many in one call.
const SEND_SIZE: usize = 512 << 10;
/// Bytes that are read at a time.
const RECEIVE_SIZE: usize = 256 << 10;

/// A [`Lane`] through TLS. Dropping it closes the socket.
pub(crate) struct TlsLane {
    socket: SocketLane,
    connection: Connection,
    stall: Duration,
    /// What was read and not decrypted yet.
    read: Box<[u8]>,
    taken: usize,
    filled: usize,
    /// Somebody called while this side waited for the rest of a record.
    called: bool,
    /// The socket has no more.
    ended: bool,
}

impl TlsLane {
    pub(crate) fn new(socket: SocketLane, mut connection: Connection, stall: Duration) -> Self {
        connection.set_buffer_limit(Some(SEND_SIZE));
        let read = vec![0; RECEIVE_SIZE].into_boxed_slice();
        Self { socket, connection, stall, read, taken: 0, filled: 0, called: false, ended: false }
    }

    /// Writes all that TLS has to say.
    fn flush(&mut self) -> Result<(), LaneError> {
        while self.connection.wants_write() {
            let mut outlet = Outlet { socket: &mut self.socket, failed: None };
            let written = self.connection.write_tls(&mut outlet);
            match (outlet.failed, written) {
                (Some(error), _) => return Err(error),
                (None, Err(error)) => return Err(error.into()),
                (None, Ok(_)) => {}
            }
        }
        Ok(())
    }

    /// What was decrypted: `None` if nothing is there, 0 at the end. One that the peer has not
    /// announced counts too: what was not acknowledged is sent again whoever has ended the lane.
    fn decrypted(&mut self, into: &mut [u8]) -> Result<Option<usize>, LaneError> {
        match self.connection.reader().read(into) {
            Ok(received) => Ok(Some(received)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Some(0)),
            Err(error) => Err(error.into()),
        }
    }

    /// Decrypts a piece of what was read, or reads without waiting. `false`: nothing was there.
    fn advance(&mut self) -> Result<bool, LaneError> {
        if self.taken == self.filled {
            self.filled = match self.socket.try_receive(&mut self.read) {
                Err(LaneError::Closed) => {
                    self.ended = true;
                    0
                }
                received => match received? {
                    0 => return Ok(false),
                    received => received,
                },
            };
            self.taken = 0;
        }
        let mut rest = &self.read[self.taken..self.filled];
        self.taken += self.connection.read_tls(&mut rest)?;
        let processed = self.connection.process_new_packets();
        // An alert tells the peer why, and an update of the keys is answered.
        self.flush()?;
        processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(true)
    }

    /// What has arrived, decrypted; `None` if nothing has, 0 at the end.
    fn take(&mut self, into: &mut [u8]) -> Result<Option<usize>, LaneError> {
        loop {
            if let Some(received) = self.decrypted(into)? {
                return Ok(Some(received));
            }
            if !self.advance()? {
                return Ok(None);
            }
        }
    }

    fn is_ready(&mut self) -> Result<bool, LaneError> {
        loop {
            let ready = self.connection.process_new_packets();
            let ready = ready.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            if ready.plaintext_bytes_to_read() > 0 || ready.peer_has_closed() || self.ended {
                return Ok(true);
            }
            if !self.advance()? {
                return Ok(false);
            }
        }
    }
}

impl Lane for TlsLane {
    fn send(&mut self, mut parts: &mut [IoSlice<'_>]) -> Result<(), LaneError> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let taken = self.connection.writer().write_vectored(parts)?;
            self.flush()?;
            if taken == 0 {
                return Err(LaneError::Closed);
            }
            IoSlice::advance_slices(&mut parts, taken);
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<(), LaneError> {
        let (mut filled, mut moved) = (0, Instant::now());
        while filled < into.len() {
            match self.take(&mut into[filled..])? {
                Some(0) if filled == 0 => return Err(LaneError::Closed),
                Some(0) => return Err(LaneError::Truncated { missing: into.len() - filled }),
                Some(received) => {
                    filled += received;
                    moved = Instant::now();
                }
                None => match self.socket.wait(self.stall.saturating_sub(moved.elapsed()))? {
                    Woken::TimedOut => return Err(LaneError::Stalled(self.stall)),
                    Woken::Called => self.called = true,
                    Woken::Readable => {}
                },
            }
        }
        Ok(())
    }

    fn try_receive(&mut self, into: &mut [u8]) -> Result<usize, LaneError> {
        match self.take(into)? {
            Some(0) if !into.is_empty() => Err(LaneError::Closed),
            received => Ok(received.unwrap_or(0)),
        }
    }

    fn wait(&mut self, within: Duration) -> Result<Woken, LaneError> {
        let until = Instant::now() + within;
        loop {
            if self.is_ready()? {
                return Ok(Woken::Readable);
            }
            if std::mem::take(&mut self.called) {
                return Ok(Woken::Called);
            }
            match self.socket.wait(until.saturating_duration_since(Instant::now()))? {
                // It may be no more than a part of a record.
                Woken::Readable => {}
                woken => return Ok(woken),
            }
        }
    }

    fn finish(&mut self) -> Result<(), LaneError> {
        self.connection.send_close_notify();
        self.flush()?;
        self.socket.finish()
    }

    fn handle(&self) -> LaneHandle {
        self.socket.handle()
    }
}

/// Where TLS writes. An error of the lane is kept as it is.
struct Outlet<'a> {
    socket: &'a mut SocketLane,
    failed: Option<LaneError>,
}

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let size = parts.iter().map(|part| part.len()).sum();
        let sent = self.socket.send(&mut parts.to_vec());
        sent.map(|()| size).map_err(|error| {
            self.failed = Some(error);
            io::Error::other("the lane failed")
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
