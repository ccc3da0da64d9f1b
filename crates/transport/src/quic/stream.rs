//! A stream on which greetings and control messages are said; or it becomes a lane.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::drivers::Drivers;
use super::lane::QuicLane;

/// How long what was sent may take to arrive after its sender has gone.
const LINGER: Duration = Duration::from_secs(5);

/// Bytes in both directions.
#[derive(Debug)]
pub(crate) struct QuicStream {
    outlet: Outlet,
    receive: RecvStream,
}

/// The sending half. What was sent arrives though this is dropped: a connection ends with its last
/// stream, and would take along what is still under way.
#[derive(Debug)]
pub(super) struct Outlet {
    send: Option<SendStream>,
    drivers: Drivers,
}

impl Outlet {
    pub(super) fn stream(&mut self) -> &mut SendStream {
        self.send.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let Some(mut send) = self.send.take() else { return };
        // It fails where it was done before.
        let _ = send.finish();
        self.drivers.finish(async move {
            // Whoever has not taken it by then does not want it.
            let _ = timeout(LINGER, send.stopped()).await;
        });
    }
}

impl QuicStream {
    pub(super) fn new(send: SendStream, receive: RecvStream) -> io::Result<Self> {
        let outlet = Outlet { send: Some(send), drivers: Drivers::get()? };
        Ok(Self { outlet, receive })
    }

    /// The lane behind the greetings.
    pub(crate) fn into_lane(self, stall: Duration) -> QuicLane {
        QuicLane::new(self.outlet, self.receive, stall)
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), context, into)
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(self.outlet.stream()), context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(self.outlet.stream()), context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self.outlet.stream()), context)
    }
}
