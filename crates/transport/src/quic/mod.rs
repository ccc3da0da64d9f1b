//! QUIC: one connection a path, a stream a lane.
//!
//! ```text
//!   Quic::call ─► a connection of its own for control, one for all lanes of a path ─┐
//!   Listener   ◄─ handshake, then streams  ◄──────────────── UDP ───────────────────┘
//!       └─► QuicStream ─► QuicLane: its thread polls the stream; packets are made, protected and
//!                         sent by a few threads of this process that do nothing else (`drivers`)
//! ```
//!
//! Goals: the certificates and the one cipher choice of [`crate::tls`]; packets as large as the way
//! allows; a lane that is not read holds up no other and no control connection. Non-goals: data
//! before the handshake is done, resumption, datagrams, marks (DSCP, priorities), which QUIC's
//! packets do not take from their socket.

mod config;
mod drivers;
mod lane;
mod listener;
mod stream;

pub use config::CONGESTION_CONTROLS;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, TransportErrorCode};
use tokio::time::timeout;

pub(crate) use listener::{Link, Listener};
pub(crate) use stream::QuicStream;

use crate::dial::bind_packets;
use crate::identity::NAME;
use crate::tls::Mode;
use crate::{Credentials, DialError, Path, Purpose, Stream, Tuning};
use drivers::Drivers;

/// QUIC between two that know each other's certificate. A clone uses the same connections.
#[derive(Clone)]
pub struct Quic {
    credentials: Credentials,
    links: Arc<Mutex<HashMap<Way, Slot>>>,
}

/// What tells connections for lanes apart: where to, from where, and through what.
type Way = (SocketAddr, Option<IpAddr>, Option<String>);

/// The connection of a path, once there is one.
type Slot = Arc<tokio::sync::Mutex<Option<Connection>>>;

impl Quic {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, links: Arc::default() }
    }

    /// Who this side is, and whom it talks to.
    #[must_use]
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// Opens a stream for this purpose. That the peer can be reached was just seen.
    pub(crate) async fn call(
        &self,
        path: &Path,
        tuning: &Tuning,
        purpose: Purpose,
        within: Duration,
    ) -> Result<Stream, DialError> {
        let opening = async {
            // wire.md P11: lanes that nobody reads must not hold up control messages.
            let link = match purpose {
                Purpose::Control => self.dial(path, tuning, within).await?,
                Purpose::Bulk => self.shared(path, tuning, within).await?,
            };
            let opened = link.open_bi().await;
            let (send, receive) = opened.map_err(|error| failed(path.remote, error, within))?;
            Ok(QuicStream::new(send, receive).map_err(DialError::Option)?.into())
        };
        bounded(path, within, opening).await
    }

    /// Sees that the connection of `path` works.
    pub(crate) async fn reaches(
        &self,
        path: &Path,
        tuning: &Tuning,
        within: Duration,
    ) -> Result<(), DialError> {
        bounded(path, within, self.shared(path, tuning, within)).await.map(drop)
    }

    /// The connection of `path`, a new one if there is none that works. Whoever calls bounds it.
    async fn shared(
        &self,
        path: &Path,
        tuning: &Tuning,
        within: Duration,
    ) -> Result<Connection, DialError> {
        let way = (path.remote, path.local, path.interface.clone());
        let slot = self.lock().entry(way).or_default().clone();
        let mut kept = slot.lock().await;
        let link = match kept.take().filter(|link| link.close_reason().is_none()) {
            Some(link) => {
                *kept = Some(link.clone());
                drop(kept);
                let answered = answers(&link).await;
                answered.map_err(|error| failed(path.remote, error, within))?;
                return Ok(link);
            }
            None => self.dial(path, tuning, within).await?,
        };
        *kept = Some(link.clone());
        Ok(link)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Way, Slot>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dial(
        &self,
        path: &Path,
        tuning: &Tuning,
        within: Duration,
    ) -> Result<Connection, DialError> {
        let (endpoint, config) = self.prepare(path, tuning).map_err(DialError::Option)?;
        let connecting = endpoint.connect_with(config, path.remote, NAME);
        let connecting = connecting.map_err(|error| DialError::Option(io::Error::other(error)))?;
        let link = connecting.await.map_err(|error| failed(path.remote, error, within))?;
        agreed(&link).map_err(|error| DialError::Stranger(path.remote, error))?;
        Ok(link)
    }

    /// A socket of this side for one connection, and what that is set to.
    fn prepare(&self, path: &Path, tuning: &Tuning) -> io::Result<(Endpoint, ClientConfig)> {
        let socket = config::socket(path.remote.ip(), tuning)?;
        bind_packets(path, &socket)?;
        let buffer = socket.recv_buffer_size()?;
        let (client, largest) = config::client(&self.credentials, path, tuning, buffer)?;
        let drivers = Arc::new(Drivers::get()?.sending(largest));
        Ok((Endpoint::new(config::endpoint(), None, socket.into(), drivers)?, client))
    }
}

impl fmt::Debug for Quic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quic({:?})", self.credentials)
    }
}

/// One deadline for all of `work`: also for those who wait for a connection that another one opens.
async fn bounded<T>(
    path: &Path,
    within: Duration,
    work: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let done = timeout(within, work).await;
    done.unwrap_or(Err(DialError::TimedOut(path.remote, within)))
}

/// Why a connection does not stand. A side of whose certificate the other thinks nothing may learn
/// so after its own handshake is done.
fn failed(remote: SocketAddr, error: ConnectionError, within: Duration) -> DialError {
    use ConnectionError::{ConnectionClosed, TimedOut, TransportError, VersionMismatch};
    match error {
        TimedOut => DialError::TimedOut(remote, within),
        ConnectionClosed(ref why) if why.error_code == TransportErrorCode::CONNECTION_REFUSED => {
            DialError::Unreachable(remote, error.into())
        }
        ConnectionClosed(_) | TransportError(_) | VersionMismatch => {
            DialError::Stranger(remote, error.into())
        }
        _ => DialError::Unreachable(remote, error.into()),
    }
}

/// wire.md P3: whoever offers no protocol has agreed to none.
fn agreed(link: &Connection) -> io::Result<()> {
    let data = link.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    if data.and_then(|data| data.protocol).as_deref() == Some(Mode::Quic.name()) {
        return Ok(());
    }
    let why = "the other side did not agree to how the session is protected";
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// Sees that the peer is there: a stream costs nothing to open, so that an open one proves nothing.
/// One that ends at once is ended by the peer too (wire.md P12).
async fn answers(link: &Connection) -> Result<(), ConnectionError> {
    let (mut send, mut receive) = link.open_bi().await?;
    // It can only have been stopped by the peer, which is an answer.
    let _ = send.finish();
    match receive.read(&mut [0]).await {
        Err(quinn::ReadError::ConnectionLost(error)) => Err(error),
        _ => Ok(()),
    }
}
