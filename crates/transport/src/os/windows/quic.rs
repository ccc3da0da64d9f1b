//! Sockets for QUIC's packets.
//!
//! quinn asks a socket for options that Wine does not know. There packets go out and come in one by
//! one, tell nothing of congestion (ECN), and are as large from the first to the last.

use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime, UdpPoller};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// A socket for QUIC's packets, in the hands of the runtime within which this is called.
pub(crate) fn datagrams(socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    const WSAENOPROTOOPT: i32 = 10042;
    const WSAEOPNOTSUPP: i32 = 10045;
    let refused = UdpSocketState::new((&socket).into()).err().and_then(|it| it.raw_os_error());
    match refused {
        Some(WSAENOPROTOOPT | WSAEOPNOTSUPP) => Ok(Arc::new(Plain(UdpSocket::from_std(socket)?))),
        _ => TokioRuntime.wrap_udp_socket(socket),
    }
}

/// A socket without options.
#[derive(Debug)]
struct Plain(UdpSocket);

impl AsyncUdpSocket for Plain {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room { socket: self, made: None })
    }

    /// A packet that the system does not take is lost, as others are on their way.
    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.0.try_send_to(transmit.contents, transmit.destination) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        into: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut packet = ReadBuf::new(&mut into[0]);
        let addr = ready!(self.0.poll_recv_from(context, &mut packet))?;
        let len = packet.filled().len();
        meta[0] = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Waits for room in a socket. Each connection has one of its own: a socket by itself remembers
/// only the last one who waits.
struct Room {
    socket: Arc<Plain>,
    made: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { socket, made } = &mut *self;
        let waits = made.get_or_insert_with(|| {
            let socket = Arc::clone(socket);
            Box::pin(async move { socket.0.writable().await })
        });
        let done = waits.as_mut().poll(context);
        if done.is_ready() {
            *made = None;
        }
        done
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Room({:?})", self.socket)
    }
}
