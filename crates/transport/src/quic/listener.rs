//! Where connections come in, and the streams of each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{Connection, Endpoint, Incoming};

use super::{QuicStream, agreed, config};
use crate::{Credentials, DoorOptions};

use super::drivers::Drivers;

/// A port. Dropping it lets nobody else in; connections stay.
pub(crate) struct Listener(Endpoint);

/// A connection, whose handshake may not have begun.
pub(crate) struct Link {
    incoming: Incoming,
}

impl Listener {
    pub(crate) fn open(
        address: SocketAddr,
        credentials: &Credentials,
        options: &DoorOptions,
    ) -> io::Result<Self> {
        let (endpoint, server) = config::server(credentials, options)?;
        let socket = config::socket(address.ip(), &options.tuning)?;
        socket.bind(&address.into())?;
        let drivers = Arc::new(Drivers::get()?);
        Endpoint::new(endpoint, Some(server), socket.into(), drivers).map(Self)
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The next caller. Where it is `crowded`, one that has not shown that it gets answers at its
    /// address is told to come again and show it, which keeps nothing of it here. `None` when the
    /// socket has failed.
    pub(crate) async fn accept(&self, crowded: impl Fn() -> bool) -> Option<Link> {
        loop {
            let incoming = self.0.accept().await?;
            if !(crowded() && incoming.may_retry()) {
                return Some(Link { incoming });
            }
            // It may retry, and so this cannot fail.
            let _ = incoming.retry();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.set_server_config(None);
    }
}

impl Link {
    pub(crate) fn from(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Shakes hands. wire.md P5: of a stranger nothing but that is read.
    pub(crate) async fn established(self) -> io::Result<Streams> {
        let link = self.incoming.accept()?.await?;
        agreed(&link)?;
        Ok(Streams(link))
    }
}

/// What comes over a connection whose other end is who it should be.
pub(crate) struct Streams(Connection);

impl Streams {
    /// The next stream.
    pub(crate) async fn next(&self) -> io::Result<QuicStream> {
        let (send, receive) = self.0.accept_bi().await?;
        QuicStream::new(send, receive)
    }
}
