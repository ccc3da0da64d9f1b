//! TLS 1.3 between two guest processes that know each other's certificate.
//!
//! ```text
//!   agents: fingerprints ─► Credentials ─► both ends accept that certificate and no other
//!   TCP ─► handshake ─► what was agreed (ALPN) ─► Stream, and a secret for lanes in clear
//! ```
//!
//! Goals: nothing of a caller is read beyond the handshake before it has proven that it holds the
//! key; no choice is left to the network: one version, one certificate each, one mode. Non-goals:
//! authorities, names and times of validity: a certificate lives for one session, and who it
//! belongs to is what the agents told each other.

mod config;
mod lane;
mod verifier;

use std::io;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub(crate) use config::{Mode, client, server};
pub(crate) use lane::TlsLane;

use crate::identity::NAME;
use crate::{Credentials, LaneSecret};

/// What the exporter of the handshake is asked for (wire.md P6).
const LANES_LABEL: &[u8] = b"EXPORTER-whimbrel-lanes";

/// Calls: shakes hands over a connection that stands.
pub(crate) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    credentials: &Credentials,
    mode: Mode,
) -> io::Result<TlsStream<S>> {
    let name = ServerName::try_from(NAME).expect("a name");
    let connector = TlsConnector::from(client(credentials, mode)?);
    agreed(connector.connect(name, stream).await?.into(), mode)
}

/// Is called.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    credentials: &Credentials,
    mode: Mode,
) -> io::Result<TlsStream<S>> {
    let acceptor = TlsAcceptor::from(server(credentials, mode)?);
    agreed(acceptor.accept(stream).await?.into(), mode)
}

/// wire.md P3: a side that offers no mode has agreed to none.
fn agreed<S>(stream: TlsStream<S>, mode: Mode) -> io::Result<TlsStream<S>> {
    if stream.get_ref().1.alpn_protocol() == Some(mode.name()) {
        return Ok(stream);
    }
    let why = "the other side did not agree to how the session is protected";
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

/// The secret of a handshake from which the keys of lanes in clear are made.
pub(crate) fn lane_secret<S>(stream: &TlsStream<S>) -> io::Result<LaneSecret> {
    let bytes = [0; 32];
    let exported = match stream {
        TlsStream::Client(client) => {
            client.get_ref().1.export_keying_material(bytes, LANES_LABEL, None)
        }
        TlsStream::Server(server) => {
            server.get_ref().1.export_keying_material(bytes, LANES_LABEL, None)
        }
    };
    exported.map(LaneSecret::new).map_err(io::Error::other)
}
