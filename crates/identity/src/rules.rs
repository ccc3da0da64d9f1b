use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, OtherError, RootCertStore, SignatureScheme};
use webpki::{CertRevocationList, OwnedCertRevocationList};

use crate::certificate::fingerprint;
use crate::folder::{Identity, certificates};
use crate::{Certificate, Fingerprint, IdentityError, IdentityFolder, Paired, PairedFile, tls};

/// Somebody whose identity is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Of the key that they hold.
    pub fingerprint: Fingerprint,
    /// The name that an authority certifies.
    pub certified: Option<String>,
    /// The name that people here gave to their key.
    pub paired: Option<String>,
    /// Whether it is this identity itself.
    pub own: bool,
    /// When the certificate ends.
    pub until: SystemTime,
}

impl Who {
    /// What they are called on every host: by a certified name, or else by their key.
    #[must_use]
    pub fn subject(&self) -> String {
        self.certified.clone().unwrap_or_else(|| self.fingerprint.to_string())
    }

    /// Their key, which everybody knows them by who has seen it.
    #[must_use]
    pub fn subject_by_key(&self) -> String {
        self.fingerprint.to_string()
    }

    /// Whether a text that comes from another host means them.
    #[must_use]
    pub fn is(&self, subject: &str) -> bool {
        match Fingerprint::is_meant(subject) {
            true => self.fingerprint.to_string() == subject,
            false => self.certified.as_deref() == Some(subject),
        }
    }

    /// Whether a text that was written on this host means them.
    #[must_use]
    pub fn goes_by(&self, text: &str) -> bool {
        self.is(text) || (!Fingerprint::is_meant(text) && self.paired.as_deref() == Some(text))
    }

    /// The shortest text by which a file on this host can mean them.
    #[must_use]
    pub fn shortest(&self) -> String {
        self.paired.clone().unwrap_or_else(|| self.subject())
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.certified.as_ref().or(self.paired.as_ref()) {
            Some(name) => write!(f, "{name} ({})", self.fingerprint),
            None => write!(f, "{}", self.fingerprint),
        }
    }
}

/// Why somebody is not believed; the fingerprint is what a person compares.
#[derive(Debug, thiserror::Error)]
#[error(
    "nobody vouches for the key {0}: no authority of this host certifies it, and it is not paired"
)]
pub(crate) struct Stranger(Fingerprint);

/// A message with the proof of who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The writer's certificate, and those between it and its authority; DER.
    pub chain: Vec<Vec<u8>>,
    /// The scheme of the signature, by its number in TLS.
    pub scheme: u16,
    /// The signature.
    pub signature: Vec<u8>,
}

/// Whom one identity trusts: its folder as it was at one moment.
pub struct Rules {
    identity: Identity,
    believed: Option<Believed>,
    paired: Vec<Paired>,
    /// The lists of certificates that were taken back.
    revoked: Vec<CertRevocationList<'static>>,
}

struct Believed {
    callers: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
}

impl Believed {
    fn vouch(
        &self,
        chain: &[CertificateDer<'_>],
        host: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let (first, rest) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        match host {
            None => self.callers.verify_client_cert(first, rest, now).map(drop),
            Some(host) => self.servers.verify_server_cert(first, rest, host, &[], now).map(drop),
        }
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("own", &self.identity.certificate).finish_non_exhaustive()
    }
}

impl Rules {
    pub(crate) fn read(folder: &IdentityFolder) -> Result<Self, IdentityError> {
        let lists = lists(folder)?;
        let path = folder.revoked();
        let unfit = |error| IdentityError::file(&path, format!("is no revocation list: {error}"));
        let parsed =
            lists.iter().map(|list| OwnedCertRevocationList::from_der(list).map(Into::into));
        Ok(Self {
            identity: folder.load()?,
            revoked: parsed.collect::<Result<_, _>>().map_err(unfit)?,
            believed: believed(folder, lists)?,
            paired: PairedFile::read(folder)?.all,
        })
    }

    /// Whether an authority has taken back the certificate that it had made for this key: another
    /// one around it counts no more than that, paired or not.
    fn is_taken_back(&self, key: &Fingerprint) -> bool {
        let serial = key.serial();
        self.revoked.iter().any(|list| !matches!(list.find_serial(&serial), Ok(None)))
    }

    /// The certificate of this identity itself.
    #[must_use]
    pub fn own(&self) -> &Certificate {
        &self.identity.certificate
    }

    /// This identity as others see it who believe the same authority.
    ///
    /// # Errors
    /// Its own certificate is not valid.
    pub fn own_who(&self) -> Result<Who, Error> {
        self.caller(&self.identity.key.cert, UnixTime::now())
    }

    pub(crate) fn key(&self) -> &Arc<CertifiedKey> {
        &self.identity.key
    }

    /// Who shows this chain of certificates, and proved by a signature that they hold the key.
    ///
    /// # Errors
    /// Nobody vouches for them, or not any more, or not yet.
    pub fn caller(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Who, Error> {
        self.who(chain, None, now)
    }

    /// Who answers at `host` with this chain.
    ///
    /// # Errors
    /// As [`Rules::caller`], or they do not belong to that host.
    pub fn server(
        &self,
        chain: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Who, Error> {
        self.who(chain, Some(host), now)
    }

    fn who(
        &self,
        chain: &[CertificateDer<'_>],
        host: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<Who, Error> {
        let first = chain.first().ok_or(Error::NoCertificatesPresented)?;
        let fingerprint = fingerprint(first)?;
        if self.is_taken_back(&fingerprint) {
            return Err(CertificateError::Revoked.into());
        }
        let own = fingerprint == self.own().fingerprint;
        let known = self.paired.iter().find(|one| one.fingerprint == fingerprint);
        let here = host.is_none_or(|host| known.is_some_and(|one| answers_at(one, host)));
        let paired = known.filter(|_| here).map(|one| one.name.clone());
        let believed = self.believed.as_ref().map(|believed| believed.vouch(chain, host, now));
        let name = match believed {
            Some(Ok(())) => Some(Certificate::read(first).map_err(unreadable)?.name),
            Some(Err(error)) if is_revoked(&error) => return Err(error),
            _ if own || paired.is_some() => None,
            Some(Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))) | None => {
                return Err(stranger(fingerprint));
            }
            Some(Err(error)) => return Err(error),
        };
        let read = Certificate::read(first).map_err(unreadable)?;
        read.check_time(now)?;
        // A name that could be taken for a key, or that no file can hold, is none.
        let certified = name.filter(|name| crate::is_name(name));
        Ok(Who { fingerprint, certified, paired, own, until: read.not_after })
    }

    /// Signs a message as this identity.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, message: &[u8]) -> Result<Signed, Error> {
        let CertifiedKey { cert, key, .. } = &**self.key();
        let schemes = tls::provider().signature_verification_algorithms.supported_schemes();
        let signer = key.choose_scheme(&schemes);
        let signer = signer.ok_or_else(|| Error::General("the key cannot sign".to_owned()))?;
        Ok(Signed {
            chain: cert.iter().map(|der| der.to_vec()).collect(),
            scheme: signer.scheme().into(),
            signature: signer.sign(message)?,
        })
    }

    /// Who has signed this message.
    ///
    /// # Errors
    /// Nobody who is believed has: it was altered, or its writer is a stranger.
    pub fn signer(&self, message: &[u8], signed: &Signed, now: UnixTime) -> Result<Who, Error> {
        let chain: Vec<_> =
            signed.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let first = chain.first().ok_or(Error::NoCertificatesPresented)?;
        let bad = || Error::from(CertificateError::BadSignature);
        let scheme = SignatureScheme::from(signed.scheme);
        let algorithms = tls::provider().signature_verification_algorithms;
        let (_, usable) =
            algorithms.mapping.iter().find(|(known, _)| *known == scheme).ok_or_else(bad)?;
        let end = webpki::EndEntityCert::try_from(first).map_err(|_| bad())?;
        let fits = |algorithm: &&&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
            end.verify_signature(**algorithm, message, &signed.signature).is_ok()
        };
        usable.iter().find(fits).ok_or_else(bad)?;
        self.caller(&chain, now)
    }
}

fn answers_at(one: &Paired, host: &ServerName<'_>) -> bool {
    let host = host.to_str();
    let ip = host.parse::<IpAddr>().ok();
    one.hosts.iter().any(|known| match ip {
        Some(ip) => known.parse() == Ok(ip),
        None => known.eq_ignore_ascii_case(&host),
    })
}

fn stranger(fingerprint: Fingerprint) -> Error {
    CertificateError::Other(OtherError(Arc::new(Stranger(fingerprint)))).into()
}

fn unreadable(error: IdentityError) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

fn is_revoked(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::Revoked))
}

fn believed(
    folder: &IdentityFolder,
    lists: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Option<Believed>, IdentityError> {
    let path = folder.authority();
    let found = certificates(&path)?;
    if found.is_empty() {
        return match path.exists() {
            true => Err(IdentityError::file(&path, "holds no certificate in PEM form")),
            false => Ok(None),
        };
    }
    let unfit = |error: &dyn fmt::Display| IdentityError::file(&path, error.to_string());
    let mut roots = RootCertStore::empty();
    for root in found {
        roots.add(root).map_err(|error| unfit(&error))?;
    }
    let roots = Arc::new(roots);
    let provider = tls::provider;
    let callers = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider());
    let servers = WebPkiServerVerifier::builder_with_provider(roots, provider());
    let callers = callers.with_crls(lists.clone()).only_check_end_entity_revocation();
    let servers = servers.with_crls(lists).only_check_end_entity_revocation();
    Ok(Some(Believed {
        callers: callers.build().map_err(|error| unfit(&error))?,
        servers: servers.build().map_err(|error| unfit(&error))?,
    }))
}

fn lists(
    folder: &IdentityFolder,
) -> Result<Vec<CertificateRevocationListDer<'static>>, IdentityError> {
    let path = folder.revoked();
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(IdentityError::io(&path)(error)),
    };
    let read: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    match read {
        Ok(lists) if !lists.is_empty() => Ok(lists),
        Ok(_) => Err(IdentityError::file(&path, "holds no revocation list in PEM form")),
        Err(error) => Err(IdentityError::file(&path, format!("is not in PEM form: {error}"))),
    }
}
