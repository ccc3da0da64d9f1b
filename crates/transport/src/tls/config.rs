//! What both ends of TLS are set to.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite, kx_group};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use super::verifier::Pinned;
use crate::Credentials;
use crate::os as system;

/// What the session is protected by; both ends say it in the handshake (wire.md P2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything is encrypted.
    Encrypted,
    /// The control connection is encrypted, and every record of a lane carries a MAC.
    Signed,
    /// QUIC, which encrypts everything by itself.
    Quic,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static [u8] {
        match self {
            Self::Encrypted => b"whimbrel/1+tls",
            Self::Signed => b"whimbrel/1+mac",
            Self::Quic => b"whimbrel/1+quic",
        }
    }
}

/// wire.md P1: one version, and the fastest cipher first: AES where the processor has it.
fn provider() -> Arc<CryptoProvider> {
    let mut cipher_suites = vec![
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    if !system::has_aes() {
        cipher_suites.rotate_right(1);
    }
    let kx_groups = vec![kx_group::X25519];
    Arc::new(CryptoProvider { cipher_suites, kx_groups, ..ring::default_provider() })
}

pub(crate) fn client(credentials: &Credentials, mode: Mode) -> io::Result<Arc<ClientConfig>> {
    let provider = provider();
    let (chain, key) = credentials.identity.chain();
    let pinned = Arc::new(Pinned::new(credentials.peer, &provider));
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let builder = builder.map_err(io::Error::other)?.dangerous();
    let builder = builder.with_custom_certificate_verifier(pinned);
    let mut config = builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![mode.name().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

pub(crate) fn server(credentials: &Credentials, mode: Mode) -> io::Result<Arc<ServerConfig>> {
    let provider = provider();
    let (chain, key) = credentials.identity.chain();
    let pinned = Arc::new(Pinned::new(credentials.peer, &provider));
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
    let builder = builder.map_err(io::Error::other)?.with_client_cert_verifier(pinned);
    let mut config = builder.with_single_cert(chain, key).map_err(io::Error::other)?;
    config.alpn_protocols = vec![mode.name().to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_chooses_the_cipher() {
        let first = provider().cipher_suites[0].suite();
        let expected = match system::has_aes() {
            true => rustls::CipherSuite::TLS13_AES_256_GCM_SHA384,
            false => rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        };
        assert_eq!((first, provider().cipher_suites.len()), (expected, 3));
    }
}
