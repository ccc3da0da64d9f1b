use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::SignatureScheme;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct};
use rustls::{DistinguishedName, Error, OtherError, ServerConfig};

use crate::{Fingerprint, Rules, Trust};

/// What is spoken inside: HTTP/2, as gRPC does.
const PROTOCOL: &[u8] = b"h2";

pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// TLS 1.3 for one who is called: the caller has to prove an identity that is trusted.
#[must_use]
pub fn server_config(trust: &Arc<Trust>) -> ServerConfig {
    let known = Arc::new(Known(Arc::clone(trust)));
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[&TLS13]).expect("the provider has TLS 1.3");
    let mut config =
        builder.with_client_cert_verifier(Arc::clone(&known) as _).with_cert_resolver(known);
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Every connection proves anew who it is: what was revoked since does not come back.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// TLS 1.3 for one who calls: both sides prove who they are.
#[must_use]
pub fn client_config(trust: &Arc<Trust>) -> ClientConfig {
    let known = Arc::new(Known(Arc::clone(trust)));
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[&TLS13]).expect("the provider has TLS 1.3");
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::clone(&known) as _);
    let mut config = builder.with_client_cert_resolver(known);
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// TLS 1.3 for one who only looks whose key answers, believes nobody and shows nothing. The
/// fingerprint is there once the connection stands.
#[must_use]
pub fn observing_config() -> (ClientConfig, Arc<OnceLock<Fingerprint>>) {
    let seen = Arc::new(OnceLock::new());
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[&TLS13]).expect("the provider has TLS 1.3");
    let observer = Arc::new(Observer(Arc::clone(&seen)));
    let builder = builder.dangerous().with_custom_certificate_verifier(observer);
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    (config, seen)
}

/// What an error of a connection means to a person.
#[must_use]
pub fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => why.to_string(),
        Error::InvalidCertificate(CertificateError::Revoked) => "its certificate is revoked".into(),
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "its certificate has expired".into(),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is not valid yet: is a clock wrong?".into(),
        // An authority of the same name, but another one.
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            "no authority that is trusted here certifies it".into()
        }
        Error::AlertReceived(alert) => explain_alert(&format!("{alert:?}")),
        Error::NoCertificatesPresented => "no certificate was shown".into(),
        Error::InvalidMessage(_) => "what it says is not TLS".into(),
        other => other.to_string(),
    }
}

/// What the other side meant that ended a connection with the alert of this name (RFC 8446, 6.2).
fn explain_alert(name: &str) -> String {
    match name {
        "CertificateRevoked" => "it says that our certificate is revoked".into(),
        "CertificateExpired" => {
            "it says that our certificate has expired, or is not valid yet".into()
        }
        // The second is of an authority of the same name, but another one.
        "CertificateUnknown" | "UnknownCA" | "DecryptError" => {
            "it does not know our identity: nobody it trusts certifies it, and it is not paired"
                .into()
        }
        other => format!("it ended the connection: {other}"),
    }
}

/// The same where only the text of an error is left: HTTP/2 keeps no more of it.
#[must_use]
pub fn explain_text(text: &str) -> Option<String> {
    if text.starts_with("peer closed connection without sending TLS close_notify") {
        return Some("it hung up without a word; its log says why".into());
    }
    text.strip_prefix("received fatal alert: ").map(explain_alert)
}

/// Signatures of handshakes are those of TLS 1.3, by the provider.
macro_rules! tls13_only {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Decides by what the folder says at that moment.
#[derive(Debug)]
struct Known(Arc<Trust>);

impl Known {
    fn rules(&self) -> Result<Arc<Rules>, Error> {
        let unusable = |error| Error::from(CertificateError::Other(OtherError(error)));
        self.0.rules().map_err(|error| unusable(error as _))
    }

    fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.rules().ok().map(|rules| Arc::clone(rules.key()))
    }
}

impl ResolvesServerCert for Known {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }
}

impl ResolvesClientCert for Known {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.rules()?.caller(&whole(end_entity, intermediates), now)?;
        Ok(ClientCertVerified::assertion())
    }

    tls13_only!();
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.rules()?.server(&whole(end_entity, intermediates), server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    tls13_only!();
}

struct Observer(Arc<OnceLock<Fingerprint>>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

impl ServerCertVerifier for Observer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // Set once: a connection has one handshake.
        let _ = self.0.set(crate::certificate::fingerprint(end_entity)?);
        Ok(ServerCertVerified::assertion())
    }

    tls13_only!();
}

fn whole<'a>(first: &CertificateDer<'a>, rest: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    [std::slice::from_ref(first), rest].concat()
}

fn signature(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
}
