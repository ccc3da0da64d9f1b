//! Reaching a destination.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use whimbrel_page::ByteRate;

use crate::os as system;
use crate::{Carrier, Endpoint, Purpose, Stream, Tuning};

/// A way to the peer: lanes are spread over several, one for each network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Where the peer listens.
    pub remote: SocketAddr,
    /// The address of this host to come from; `None` leaves it to the routing table.
    pub local: Option<IpAddr>,
    /// The interface to go through, by the system's name, as far as this user may choose it.
    pub interface: Option<String>,
    /// The paths with the lowest number are used together, others only when none of them works.
    pub preference: u16,
    /// How fast it is, as far as somebody said.
    pub speed: Option<ByteRate>,
    /// Whether both ends are in the same subnet.
    pub near: bool,
}

impl Path {
    /// The way that the routing table finds.
    #[must_use]
    pub const fn to(remote: SocketAddr) -> Self {
        Self { remote, local: None, interface: None, preference: 0, speed: None, near: false }
    }

    /// The same, as its end at the peer is preferred and as fast.
    #[must_use]
    pub fn preferred(self, there: &Endpoint) -> Self {
        Self { preference: there.preference, speed: there.speed, ..self }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.interface, self.local) {
            (Some(interface), Some(local)) => write!(f, "{interface} {local}")?,
            (None, Some(local)) => write!(f, "{local}")?,
            (_, None) => f.write_str("any")?,
        }
        write!(f, " to {}", self.remote.ip())
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The options do not fit this host.
    #[error("{0}; choose another option or local address")]
    Option(io::Error),
    /// The peer's host, or something between, refused.
    #[error("{0} cannot be reached: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// Nobody answered in time.
    #[error("{0} did not answer within {1:?}: is the address right, does a firewall drop it?")]
    TimedOut(SocketAddr, Duration),
    /// There is no such socket on this host.
    #[error("{path} cannot be reached: {why}; local sockets connect processes of one host")]
    NotLocal {
        /// Where it should be.
        path: String,
        /// What the system says.
        why: io::Error,
    },
    /// The connection stands, and the peer is not the one that was expected.
    #[error("{0} is not who it should be, or does not take this side for who it is: {1}")]
    Stranger(SocketAddr, io::Error),
    /// The connection ended while both sides were saying who they are.
    #[error("the peer ended the connection instead of saying who it is: {0}")]
    Greeting(io::Error),
    /// The connection stands, but the peer says nothing.
    #[error("the peer did not say who it is within {0:?}: is it Whimbrel?")]
    Silent(Duration),
}

/// Connects.
///
/// # Errors
/// [`DialError::Option`], [`DialError::Unreachable`] or [`DialError::TimedOut`].
pub async fn dial(path: &Path, tuning: &Tuning, within: Duration) -> Result<TcpStream, DialError> {
    let socket = prepare(path, tuning).map_err(DialError::Option)?;
    match timeout(within, socket.connect(path.remote)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(DialError::Unreachable(path.remote, error)),
        Err(_) => Err(DialError::TimedOut(path.remote, within)),
    }
}

/// The address of this host from which `path` is gone: where it leaves that open, the one that the
/// routing table has at this moment. Nothing is sent.
///
/// # Errors
/// What the system says, where there is no way.
pub fn comes_from(path: &Path) -> io::Result<IpAddr> {
    if let Some(local) = path.local {
        return Ok(local);
    }
    let looked = packets_along(path)?;
    looked.connect(path.remote)?;
    Ok(looked.local_addr()?.ip())
}

/// A socket for packets that go the way of `path`.
pub(crate) fn packets_along(path: &Path) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(path.remote), Type::DGRAM, None)?;
    bind_packets(path, &socket)?;
    Ok(socket.into())
}

/// Has a socket for packets go the way of `path`.
pub(crate) fn bind_packets(path: &Path, socket: &Socket) -> io::Result<()> {
    bind(path, &SockRef::from(socket), |local| socket.bind(&local.into()))?;
    match path.local {
        Some(_) => Ok(()),
        None => socket.bind(&SocketAddr::new(unspecified(path.remote), 0).into()),
    }
}

/// Every address of the kind that `remote` is.
fn unspecified(remote: SocketAddr) -> IpAddr {
    match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Sees whether `path` works for sessions that are carried so.
///
/// # Errors
/// As [`dial`].
pub async fn look(
    path: &Path,
    tuning: &Tuning,
    carrier: &Carrier,
    within: Duration,
) -> Result<(), DialError> {
    match carrier {
        // Another protocol may be let through where this one is not, or the other way around.
        Carrier::Quic(quic) => quic.reaches(path, tuning, within).await,
        _ => dial(path, tuning, within).await.map(drop),
    }
}

/// Connects, and has the connection protected as `carrier` says.
///
/// # Errors
/// As [`dial`], [`DialError::NotLocal`], [`DialError::Stranger`] or [`DialError::Silent`].
pub async fn connect(
    path: &Path,
    tuning: &Tuning,
    (carrier, purpose): (&Carrier, Purpose),
    within: Duration,
) -> Result<Stream, DialError> {
    if let Carrier::Local(at) = carrier {
        let connected = system::connect_local(at).await;
        return connected
            .map(Stream::from)
            .map_err(|why| DialError::NotLocal { path: at.display().to_string(), why });
    }
    if let Carrier::Quic(quic) = carrier {
        return quic.call(path, tuning, purpose, within).await;
    }
    let stream = dial(path, tuning, within).await?;
    match timeout(within, carrier.call(stream, purpose)).await {
        Ok(called) => called.map_err(|error| DialError::Stranger(path.remote, error)),
        Err(_) => Err(DialError::Silent(within)),
    }
}

fn prepare(path: &Path, tuning: &Tuning) -> io::Result<TcpSocket> {
    let new = if path.remote.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 };
    let socket = new()?;
    bind(path, &SockRef::from(&socket), |local| socket.bind(local))?;
    tuning.apply_buffers(&SockRef::from(&socket))?;
    tuning.apply(&SockRef::from(&socket), path.remote.ip())?;
    Ok(socket)
}

/// Has a socket go the way of `path`.
fn bind(
    path: &Path,
    socket: &SockRef<'_>,
    bind: impl FnOnce(SocketAddr) -> io::Result<()>,
) -> io::Result<()> {
    if let Some(name) = &path.interface {
        system::bind_interface(socket, name).map_err(|error| {
            let why = format!("this host cannot connect through {name}: {error}");
            io::Error::new(error.kind(), why)
        })?;
    }
    if let Some(local) = path.local {
        bind(SocketAddr::new(local, 0)).map_err(|error| {
            let why = format!("this host cannot connect from {local}: {error}");
            io::Error::new(error.kind(), why)
        })?;
    }
    Ok(())
}

/// Says `hello` and reads an answer of a fixed size. No more than that is read.
///
/// # Errors
/// [`DialError::Greeting`] or [`DialError::Silent`].
pub async fn greet<S>(
    stream: &mut S,
    hello: &[u8],
    answer: &mut [u8],
    within: Duration,
) -> Result<(), DialError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchange = async {
        stream.write_all(hello).await?;
        stream.flush().await?;
        stream.read_exact(answer).await.map(drop)
    };
    match timeout(within, exchange).await {
        Ok(done) => done.map_err(DialError::Greeting),
        Err(_) => Err(DialError::Silent(within)),
    }
}
