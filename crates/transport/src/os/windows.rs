//! Windows.
//!
//! What it lacks is refused where somebody asks for it, with what to do instead; where nobody
//! asked, the system's own choice stands.

mod quic;

pub(crate) use quic::datagrams;

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::net::RecvFlags;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Woken;

/// What every Ethernet carries. A path that carries more is found out as packets travel.
const MTU_EVERYWHERE: u32 = 1500;

/// Wakes a thread that waits for a socket: a socket of its own that is connected to itself, as
/// nothing else can be waited for together with sockets.
pub(crate) struct Bell(UdpSocket);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(socket.local_addr()?)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Rings until somebody hears it in [`wait`].
    pub(crate) fn ring(&self) {
        // It can only fail because it has been rung so often that its buffer is full.
        let _ = self.0.send(&[1]);
    }

    fn hush(&self) -> bool {
        let mut rung = false;
        while self.0.recv(&mut [0]).is_ok() {
            rung = true;
        }
        rung
    }
}

/// Waits for bytes, the end or an error of `stream`, or for `bell`.
pub(crate) fn wait(stream: &impl AsFd, bell: &Bell, within: Duration) -> io::Result<Woken> {
    let timeout = Timespec::try_from(within).ok();
    let mut events = [PollFd::new(stream, PollFlags::IN), PollFd::new(&bell.0, PollFlags::IN)];
    poll(&mut events, timeout.as_ref())?;
    let readable = !events[0].revents().is_empty();
    let called = bell.hush();
    Ok(match (readable, called) {
        (true, _) => Woken::Readable,
        (false, true) => Woken::Called,
        (false, false) => Woken::TimedOut,
    })
}

/// What has arrived, without waiting: `None` if nothing has, 0 at the end. Only one thread
/// receives, so that what is there when it looks is there when it receives.
pub(crate) fn receive_now(stream: &impl AsFd, into: &mut [u8]) -> io::Result<Option<usize>> {
    let mut events = [PollFd::new(stream, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut events, Some(&now))? == 0 {
        return Ok(None);
    }
    let (received, _) = rustix::net::recv(stream.as_fd(), into, RecvFlags::empty())?;
    Ok(Some(received))
}

fn unsupported<T>(why: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

/// Windows lets a port be listened at again anyway; what other systems call so would let any
/// process take the port over.
#[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
pub(crate) fn bind_again_at_once(_: &tokio::net::TcpSocket) -> io::Result<()> {
    Ok(())
}

/// Has a silent peer be probed. Before Windows 10 1703, and under Wine, the system decides how many
/// probes make it dead: that is asked for last, when everything else is set.
pub(crate) fn set_keepalive(socket: &SockRef<'_>, probes: &TcpKeepalive) -> io::Result<()> {
    const WSAENOPROTOOPT: i32 = 10042;
    match socket.set_tcp_keepalive(probes) {
        Err(error) if error.raw_os_error() == Some(WSAENOPROTOOPT) => Ok(()),
        other => other,
    }
}

/// Windows chooses for all connections.
pub(crate) fn set_congestion(_: &SockRef<'_>, _: &str) -> io::Result<()> {
    unsupported("Windows has one for all connections: see Set-NetTCPSetting")
}

/// Windows does not tell.
pub(crate) fn congestion(_: &SockRef<'_>) -> Option<String> {
    None
}

/// How long sent bytes may stay unacknowledged before the connection is given up.
pub(crate) fn set_unacknowledged_max(socket: &SockRef<'_>, most: Duration) -> io::Result<()> {
    whimbrel_win32::set_retransmitting_max(&**socket, most)
}

/// The address to come from has to do: it decides which interface is gone through, as Windows
/// sends from an address through the interface that has it.
#[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
pub(crate) fn bind_interface(_: &SockRef<'_>, _: &str) -> io::Result<()> {
    Ok(())
}

/// Windows marks what its policies name, and nothing that a program asks for.
pub(crate) fn mark(
    _: &SockRef<'_>,
    _: bool,
    dscp: Option<u8>,
    priority: Option<u32>,
) -> io::Result<()> {
    match (dscp, priority) {
        (None, None) => Ok(()),
        (Some(_), _) => unsupported(
            "Windows takes a DSCP from its policies only: leave it out, and see New-NetQosPolicy",
        ),
        (None, Some(_)) => unsupported(
            "Windows takes a priority from its policies: leave it out, and see New-NetQosPolicy",
        ),
    }
}

/// Which processors are near is not told in a way that holds for every interface.
pub(crate) fn pin_beside(_: &str) -> io::Result<()> {
    unsupported("Windows does not tell which processors are beside an interface")
}

/// The largest packet that an interface takes, in bytes.
pub(crate) fn mtu(interface: &str) -> Option<u32> {
    whimbrel_win32::mtu(interface).ok().flatten()
}

/// The largest packet, in bytes, that the system lets out towards where a socket is connected to:
/// at least that many.
#[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
pub(crate) fn mtu_towards(_: &impl AsFd, _: bool) -> io::Result<u32> {
    Ok(MTU_EVERYWHERE)
}

/// Has every packet travel whole or not at all, whatever the system believes of the way.
pub(crate) fn forbid_fragments(socket: &tokio::net::UdpSocket, v4: bool) -> io::Result<()> {
    whimbrel_win32::forbid_fragments(socket, v4)
}

/// Segments that this host has sent again so far, over all its connections.
pub(crate) fn retransmitted() -> Option<u64> {
    whimbrel_win32::retransmitted()
}

/// There is none: what tokio has for local sockets is of other systems.
#[derive(Debug)]
pub(crate) struct LocalStream(Infallible);

/// The socket of such a stream, out of the hands of a runtime.
pub(crate) fn socket_of(stream: LocalStream) -> io::Result<Socket> {
    match stream.0 {}
}

impl AsyncRead for LocalStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

/// There is none either.
pub(crate) struct LocalListener(Infallible);

impl LocalListener {
    /// Refuses.
    pub(crate) fn bind(_: &Path) -> io::Result<Self> {
        no_local_sockets()
    }

    pub(crate) async fn accept(&self) -> io::Result<LocalStream> {
        match self.0 {}
    }
}

/// Refuses.
pub(crate) async fn connect_local(_: &Path) -> io::Result<LocalStream> {
    no_local_sockets()
}

fn no_local_sockets<T>() -> io::Result<T> {
    unsupported("Windows has no local sockets that Whimbrel could use; choose tcp, tls or quic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_windows_lacks_is_refused_with_what_to_do_instead() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = SockRef::from(&listener);
        let said = |outcome: io::Result<()>| outcome.unwrap_err().to_string();
        assert!(said(set_congestion(&socket, "cubic")).contains("Set-NetTCPSetting"));
        assert!(said(mark(&socket, true, Some(8), None)).contains("New-NetQosPolicy"));
        assert!(said(mark(&socket, true, None, Some(6))).contains("New-NetQosPolicy"));
        mark(&socket, true, None, None).unwrap();
        let local = LocalListener::bind(Path::new("door")).map(drop);
        assert!(said(local).contains("choose tcp"));
    }

    #[test]
    fn a_bell_is_heard_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let bell = Bell::new().unwrap();
        bell.ring();
        bell.ring();
        let patient = Duration::from_secs(60);
        assert_eq!(wait(&stream, &bell, patient).unwrap(), Woken::Called);
        assert_eq!(wait(&stream, &bell, Duration::ZERO).unwrap(), Woken::TimedOut);
    }
}
