//! What carries a session, and what keeps strangers out of it.

use std::io;
use std::path::PathBuf;

use tokio::net::TcpStream;

use crate::tls::{self, Mode};
use crate::{Credentials, Quic, Stream};

/// How control connections and lanes of one session travel. Both ends are told by their own
/// people, on a way they trust; nothing about it is agreed on the wire (wire.md P3).
#[derive(Clone, Debug, Default)]
pub enum Carrier {
    /// TCP in clear. Whoever is on the way reads and writes along: for a way within one host.
    #[default]
    Tcp,
    /// Control connections through TLS; lanes in clear, each record with a MAC.
    Signed(Credentials),
    /// Everything through TLS.
    Tls(Credentials),
    /// QUIC over UDP, which encrypts everything: a connection a path, a stream a lane.
    Quic(Quic),
    /// A local socket at this path, in clear. The system lets nobody in but this user's processes.
    Local(PathBuf),
}

/// For which purposes a connection may be used that says nothing about it by itself.
pub(crate) const ANY: &[Purpose] = &[Purpose::Control, Purpose::Bulk];

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Control messages.
    Control,
    /// Page bytes.
    Bulk,
}

/// The first byte of whatever TLS says first: a record of its handshake.
const TLS_HANDSHAKE: u8 = 22;

impl Carrier {
    /// Whether the records of lanes carry MACs.
    #[must_use]
    pub const fn signs_lanes(&self) -> bool {
        matches!(self, Self::Signed(_))
    }

    /// Protects a TCP connection that this side has opened.
    pub(crate) async fn call(&self, stream: TcpStream, purpose: Purpose) -> io::Result<Stream> {
        let (credentials, mode) = match (self, purpose) {
            (Self::Tcp, _) | (Self::Signed(_), Purpose::Bulk) => return Ok(stream.into()),
            (Self::Signed(credentials), Purpose::Control) => (credentials, Mode::Signed),
            (Self::Tls(credentials), _) => (credentials, Mode::Encrypted),
            (Self::Quic(_) | Self::Local(_), _) => return Err(not_over_tcp()),
        };
        Ok(tls::call(stream, credentials, mode).await?.into())
    }

    /// Protects a TCP connection that came, and says for which purposes it may be used. Of a
    /// stranger nothing but a handshake is read (wire.md P5).
    pub(crate) async fn answer(&self, stream: TcpStream) -> io::Result<(Stream, &[Purpose])> {
        Ok(match self {
            Self::Tcp => (stream.into(), ANY),
            Self::Quic(_) | Self::Local(_) => return Err(not_over_tcp()),
            Self::Tls(credentials) => {
                (tls::answer(stream, credentials, Mode::Encrypted).await?.into(), ANY)
            }
            Self::Signed(credentials) => match begins_with_tls(&stream).await? {
                false => (stream.into(), &[Purpose::Bulk]),
                true => {
                    let stream = tls::answer(stream, credentials, Mode::Signed).await?;
                    (stream.into(), &[Purpose::Control])
                }
            },
        })
    }
}

/// Neither side calls or listens by TCP then.
fn not_over_tcp() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this session does not travel over TCP")
}

async fn begins_with_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first == [TLS_HANDSHAKE])
}
