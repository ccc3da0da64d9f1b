use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::Error;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use x509_cert::der::Decode as _;

use crate::{Fingerprint, IdentityError};

/// What stands in a certificate. That it stands there proves nothing by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject; empty if it has none.
    pub name: String,
    /// Of its key.
    pub fingerprint: Fingerprint,
    /// Whether it names itself as its issuer.
    pub self_made: bool,
    /// The number that its issuer gave it.
    pub serial: Vec<u8>,
    /// The first moment at which it is valid.
    pub not_before: SystemTime,
    /// The last one.
    pub not_after: SystemTime,
}

impl Certificate {
    /// Reads one in its DER form.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`].
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let unread = |error: &dyn std::fmt::Display| {
            IdentityError::Certificate(format!("that is no X.509 certificate: {error}"))
        };
        let parsed = x509_cert::Certificate::from_der(der).map_err(|error| unread(&error))?;
        let body = parsed.tbs_certificate();
        let name = body.subject().common_name().ok().flatten();
        let time = |time: x509_cert::time::Time| UNIX_EPOCH + time.to_unix_duration();
        Ok(Self {
            name: name.map(|name| name.value().into_owned()).unwrap_or_default(),
            fingerprint: fingerprint(der).map_err(|error| unread(&error))?,
            self_made: body.subject() == body.issuer(),
            serial: body.serial_number().as_bytes().to_vec(),
            not_before: time(body.validity().not_before),
            not_after: time(body.validity().not_after),
        })
    }

    /// How long it is still valid; `None` once it is not.
    #[must_use]
    pub fn lasts(&self, now: SystemTime) -> Option<Duration> {
        self.not_after.duration_since(now).ok()
    }

    pub(crate) fn check_time(&self, now: UnixTime) -> Result<(), Error> {
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        if now < self.not_before {
            return Err(rustls::CertificateError::NotValidYet.into());
        }
        if now > self.not_after {
            return Err(rustls::CertificateError::Expired.into());
        }
        Ok(())
    }
}

/// The fingerprint of the key in a certificate.
pub(crate) fn fingerprint(der: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    let parsed = ParsedCertificate::try_from(der)?;
    Ok(Fingerprint::of(&parsed.subject_public_key_info()))
}
