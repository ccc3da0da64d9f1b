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

use crate::rules::Stranger;
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

/// Why one side does not believe the other, in words for a person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Doubt {
    why: String,
    /// What can be done about this very cause.
    pub advice: &'static str,
}

impl Doubt {
    /// For that reason, with what to do about it.
    #[must_use]
    pub fn new(why: impl Into<String>, advice: &'static str) -> Self {
        Self { why: why.into(), advice }
    }
}

const STRANGERS: &str = "Have one authority certify both (`whimbrel pki`), or compare the keys \
                         (`whimbrel pair`); on an agent's own host --identity DATA/identity shows \
                         its own, which may do everything";
const SEE_LOG: &str = "The log of the agent there says more";

/// What an error of a connection means to a person.
#[must_use]
pub fn explain(error: &Error) -> Doubt {
    match error {
        Error::InvalidCertificate(error) => explain_certificate(error),
        Error::AlertReceived(alert) => explain_alert(&format!("{alert:?}")),
        Error::NoCertificatesPresented => Doubt::new("no certificate was shown", STRANGERS),
        Error::InvalidMessage(_) => {
            let advice = "Check the port; an agent that asks for no identity is called without one";
            Doubt::new("what it says is not TLS", advice)
        }
        other => Doubt::new(other.to_string(), SEE_LOG),
    }
}

/// The name in an entry as the verifier writes it: `DnsName("host-b")`, `IpAddress(10.0.0.2)`.
fn bare(entry: &str) -> &str {
    let within = entry.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    within.unwrap_or(entry).trim_matches('"')
}

/// What is wrong with the other side's certificate.
fn explain_certificate(error: &CertificateError) -> Doubt {
    match error {
        CertificateError::Revoked => Doubt::new(
            "its certificate is revoked",
            "Its key is not to be trusted any more: if the host is, bring it a new identity from \
             `whimbrel pki issue`",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Doubt::new(
            "its certificate has expired",
            "Bring it a new one from `whimbrel pki issue`; an agent that has made its own renews \
             it when it is started again",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Doubt::new(
            "its certificate is not valid yet: is a clock wrong?",
            "Compare the clocks of both hosts",
        ),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let hosts: Vec<&str> = presented.iter().map(|it| bare(it)).collect();
            let (wanted, hosts) = (expected.to_str(), hosts.join(", "));
            let hosts = if hosts.is_empty() { "no host" } else { &hosts };
            let why = format!("its certificate is for other hosts than {wanted}: it names {hosts}");
            Doubt::new(why, OTHER_HOST)
        }
        CertificateError::NotValidForName => {
            Doubt::new("its certificate is for another host", OTHER_HOST)
        }
        // The second is of an authority of the same name, but another one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            Doubt::new("no authority that is trusted here certifies it", STRANGERS)
        }
        CertificateError::Other(OtherError(why)) => {
            let advice = if why.is::<Stranger>() { STRANGERS } else { "Mend that file" };
            Doubt::new(why.to_string(), advice)
        }
        other => Doubt::new(other.to_string(), SEE_LOG),
    }
}

const OTHER_HOST: &str = "Call it by a host of its certificate, or issue it one with --host for \
                          this address; if it had one, another host answers here";

/// What the other side meant that ended a connection with the alert of this name (RFC 8446, 6.2).
fn explain_alert(name: &str) -> Doubt {
    match name {
        "CertificateRevoked" => Doubt::new(
            "it says that our certificate is revoked",
            "This identity counts no more there: show another one (--identity), or have a new one \
             issued (`whimbrel pki issue`)",
        ),
        "CertificateExpired" => Doubt::new(
            "it says that our certificate has expired, or is not valid yet",
            "Have a new one issued for this identity (`whimbrel pki issue`); compare the clocks",
        ),
        // The second is of an authority of the same name, but another one.
        "CertificateUnknown" | "UnknownCA" | "DecryptError" => Doubt::new(
            "it does not know our identity: nobody it trusts certifies it, and it is not paired",
            STRANGERS,
        ),
        other => Doubt::new(format!("it ended the connection: {other}"), SEE_LOG),
    }
}

/// The same where only the text of an error is left: HTTP/2 keeps no more of it.
#[must_use]
pub fn explain_text(text: &str) -> Option<Doubt> {
    text.strip_prefix("received fatal alert: ").map(explain_alert)
}

/// The same of a connection that ended where nothing had been said yet. Later the other side is
/// only gone.
#[must_use]
pub fn explain_end(text: &str) -> Option<Doubt> {
    let ended = text.starts_with("peer closed connection without sending TLS close_notify");
    ended.then(|| Doubt::new("it hung up without a word", SEE_LOG))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_of_doubt_has_an_advice_of_its_own() {
        let wrong = |error: CertificateError| explain(&error.into());
        let host = ServerName::try_from("host-a").unwrap();
        let (expected, presented) = (host, [r#"DnsName("host-b")"#, "IpAddress(10.0.0.2)"]);
        let presented = presented.map(str::to_owned).to_vec();
        let doubts = [
            wrong(CertificateError::Revoked),
            wrong(CertificateError::Expired),
            wrong(CertificateError::NotValidYet),
            wrong(CertificateError::NotValidForNameContext { expected, presented }),
            wrong(CertificateError::UnknownIssuer),
            explain_text("received fatal alert: CertificateRevoked").unwrap(),
            explain_text("received fatal alert: CertificateExpired").unwrap(),
        ];
        for (at, doubt) in doubts.iter().enumerate() {
            let same = doubts[..at].iter().find(|other| other.advice == doubt.advice);
            assert_eq!(same, None, "{doubt}");
        }
        let told = doubts[3].to_string();
        assert!(told.contains("host-a: it names host-b, 10.0.0.2"), "{told}");
        let unknown = explain_text("received fatal alert: UnknownCA").unwrap();
        assert_eq!(unknown.advice, doubts[4].advice);
        assert_eq!(explain_text("connection reset"), None);
    }
}
