//! What carries a measured migration, as both of its ends are told.

use std::io;
use std::sync::Arc;

use whimbrel_engine::{Carrier, Credentials, Identity, Quic};

/// A way from one side to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// TCP in clear.
    #[default]
    Tcp,
    /// TCP, lanes signed.
    Signed,
    /// TLS.
    Tls,
    /// QUIC.
    Quic,
    /// A local socket.
    Local,
}

impl Wire {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Signed, Self::Tls, Self::Quic, Self::Local];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Signed => "tcp-signed",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::Local => "unix",
        }
    }

    /// For the source and for the destination of one session, with new keys.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn carriers(self) -> io::Result<(Carrier, Carrier)> {
        let (one, other) = (Arc::new(Identity::generate()?), Arc::new(Identity::generate()?));
        let near = Credentials { identity: one.clone(), peer: other.fingerprint() };
        let far = Credentials { identity: other, peer: one.fingerprint() };
        Ok(match self {
            Self::Tcp => (Carrier::Tcp, Carrier::Tcp),
            Self::Signed => (Carrier::Signed(near), Carrier::Signed(far)),
            Self::Tls => (Carrier::Tls(near), Carrier::Tls(far)),
            Self::Quic => (Carrier::Quic(Quic::new(near)), Carrier::Quic(Quic::new(far))),
            Self::Local => {
                let name = format!("whimbrel-bench-{}", far.identity.fingerprint());
                let path = std::env::temp_dir().join(&name[..40]);
                (Carrier::Local(path.clone()), Carrier::Local(path))
            }
        })
    }
}
