//! A connection on which the greetings are said, whatever carries it; then it becomes a lane, or
//! stays what it is for control messages.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::os::{LocalStream, socket_of};
use crate::quic::QuicStream;
use crate::tls::{TlsLane, lane_secret};
use crate::{Lane, LaneSecret, SocketLane};

/// Bytes in both directions.
#[derive(Debug)]
pub struct Stream(Wire);

#[derive(Debug)]
enum Wire {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Local(LocalStream),
    Quic(Box<QuicStream>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self(Wire::Tcp(stream))
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self(Wire::Tls(Box::new(stream)))
    }
}

impl From<LocalStream> for Stream {
    fn from(stream: LocalStream) -> Self {
        Self(Wire::Local(stream))
    }
}

impl From<QuicStream> for Stream {
    fn from(stream: QuicStream) -> Self {
        Self(Wire::Quic(Box::new(stream)))
    }
}

impl Stream {
    /// The secret that both ends share, for lanes that travel in clear; there is none where the
    /// connection itself is in clear.
    ///
    /// # Errors
    /// What TLS says.
    pub fn lane_secret(&self) -> io::Result<Option<LaneSecret>> {
        match &self.0 {
            Wire::Tls(stream) => lane_secret(stream).map(Some),
            // Lanes of QUIC never travel in clear.
            Wire::Tcp(_) | Wire::Local(_) | Wire::Quic(_) => Ok(None),
        }
    }

    /// The lane behind the greetings, out of the hands of a runtime.
    ///
    /// # Errors
    /// What the system says.
    pub fn into_lane(self, stall: Duration) -> io::Result<Box<dyn Lane>> {
        match self.0 {
            Wire::Tcp(stream) => Ok(Box::new(SocketLane::new(stream.into_std()?, stall)?)),
            Wire::Local(stream) => Ok(Box::new(SocketLane::new(socket_of(stream)?, stall)?)),
            Wire::Tls(stream) => {
                let (stream, connection) = apart(*stream);
                let socket = SocketLane::new(stream.into_std()?, stall)?;
                Ok(Box::new(TlsLane::new(socket, connection, stall)))
            }
            Wire::Quic(stream) => Ok(Box::new(stream.into_lane(stall))),
        }
    }
}

fn apart(stream: TlsStream<TcpStream>) -> (TcpStream, rustls::Connection) {
    match stream {
        TlsStream::Client(client) => {
            let (stream, connection) = client.into_inner();
            (stream, connection.into())
        }
        TlsStream::Server(server) => {
            let (stream, connection) = server.into_inner();
            (stream, connection.into())
        }
    }
}

/// Does the same with whatever is inside.
macro_rules! inside {
    ($stream:expr, $inner:ident => $does:expr) => {
        match &mut $stream.get_mut().0 {
            Wire::Tcp($inner) => $does,
            Wire::Tls($inner) => $does,
            Wire::Local($inner) => $does,
            Wire::Quic($inner) => $does,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        inside!(self, stream => Pin::new(stream).poll_read(context, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        inside!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        inside!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
