//! The files of one identity.
//!
//! ```text
//!  DIR/identity.key    its private key; this user only
//!  DIR/identity.pem    its certificate, and those between it and its authority
//!  DIR/authority.pem   authorities whose certificates are believed       (may be absent)
//!  DIR/revoked.pem     the certificates that they have taken back        (may be absent)
//!  DIR/peers           keys that were compared by people, with names     (may be absent)
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rcgen::{KeyUsagePurpose, PKCS_ED25519};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::{Certificate, Exposure, IdentityError, os, tls};

/// How long a certificate that an identity makes for itself is valid. Its key is what counts.
const SELF_MADE_FOR: Duration = Duration::from_secs(3650 * 86_400);
/// A self-made certificate that ends sooner is made anew around the same key.
const RENEWED_BEFORE: Duration = Duration::from_secs(60 * 86_400);
/// A certificate is valid from a little earlier on, for hosts whose clocks are behind.
pub(crate) const BACKDATED: Duration = Duration::from_secs(3600);

/// Where one identity and those it trusts are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFolder {
    path: PathBuf,
}

/// An identity that can prove itself.
pub(crate) struct Identity {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) certificate: Certificate,
}

impl IdentityFolder {
    /// The folder at `path`, whether it is there or not.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The private key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.path.join("identity.key")
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path.join("identity.pem")
    }

    /// The authorities that are believed.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.path.join("authority.pem")
    }

    /// What they have taken back.
    #[must_use]
    pub fn revoked(&self) -> PathBuf {
        self.path.join("revoked.pem")
    }

    /// The keys that people have compared.
    #[must_use]
    pub fn peers(&self) -> PathBuf {
        self.path.join("peers")
    }

    /// Makes an identity unless there is one, and renews a certificate that it made for itself.
    ///
    /// # Errors
    /// The files cannot be written, or only one half of an identity is there.
    pub fn ensure(&self) -> Result<(), IdentityError> {
        os::create_private_folders(&self.path).map_err(IdentityError::io(&self.path))?;
        let lock = self.path.join("lock");
        let held = os::open_private(&lock).map_err(IdentityError::io(&lock))?;
        held.lock().map_err(IdentityError::io(&lock))?;
        let (key, certificate) = (self.key(), self.certificate());
        match (key.exists(), certificate.exists()) {
            (false, false) => {
                let made = KeyPair::generate_for(&PKCS_ED25519)?;
                let text = made.serialize_pem();
                os::replace(&key, text.as_bytes(), true).map_err(IdentityError::io(&key))?;
                self.certify_itself(&made)
            }
            (true, false) => self.certify_itself(&read_key(&key)?),
            (false, true) => {
                let why = "has no key beside it: restore identity.key, or remove it for a new \
                           identity";
                Err(IdentityError::file(&certificate, why))
            }
            (true, true) => {
                let own = self.load()?.certificate;
                let lasts = own.lasts(SystemTime::now()).unwrap_or_default();
                match own.self_made && lasts < RENEWED_BEFORE {
                    true => self.certify_itself(&read_key(&key)?),
                    false => Ok(()),
                }
            }
        }
    }

    fn certify_itself(&self, key: &KeyPair) -> Result<(), IdentityError> {
        let params = params("whimbrel", &[], SELF_MADE_FOR)?;
        let made = params.self_signed(key)?.pem();
        let path = self.certificate();
        os::replace(&path, made.as_bytes(), false).map_err(IdentityError::io(&path))
    }

    /// What stands in the certificate of this identity.
    ///
    /// # Errors
    /// The files are not there, are not an identity, or others may read the key.
    pub fn own(&self) -> Result<Certificate, IdentityError> {
        self.load().map(|identity| identity.certificate)
    }

    pub(crate) fn load(&self) -> Result<Identity, IdentityError> {
        let path = self.key();
        if let Some(exposure) = os::open_to_others(&path).map_err(IdentityError::io(&path))? {
            let why = format!("has {exposure}: others may read the key; {}", os::closing(&path));
            return Err(IdentityError::file(&path, why));
        }
        let key = PrivateKeyDer::from_pem_file(&path);
        let key =
            key.map_err(|error| IdentityError::file(&path, format!("holds no key: {error}")))?;
        let signing = tls::provider().key_provider.load_private_key(key);
        let signing = signing.map_err(|error| IdentityError::file(&path, error.to_string()))?;
        let path = self.certificate();
        let chain = certificates(&path)?;
        let first = chain.first();
        let first =
            first.ok_or_else(|| IdentityError::file(&path, "holds no certificate in PEM form"))?;
        let certificate = Certificate::read(first)?;
        let key = CertifiedKey::new(chain, signing);
        key.keys_match().map_err(|error| {
            IdentityError::file(&path, format!("does not belong to the key beside it: {error}"))
        })?;
        Ok(Identity { key: Arc::new(key), certificate })
    }

    /// Files of this identity that others may read or change though they must not.
    #[must_use]
    pub fn exposed(&self) -> Vec<(PathBuf, Exposure)> {
        let secret = os::open_to_others(&self.key()).ok().flatten();
        let secret = secret.map(|exposure| (self.key(), exposure));
        let others = [self.certificate(), self.authority(), self.revoked(), self.peers()];
        let others = others.into_iter().chain([self.path.clone()]).filter_map(|path| {
            let exposure = os::writable_by_others(&path).ok().flatten()?;
            Some((path, exposure))
        });
        secret.into_iter().chain(others).collect()
    }
}

pub(crate) fn read_key(path: &Path) -> Result<KeyPair, IdentityError> {
    let text = fs::read_to_string(path).map_err(IdentityError::io(path))?;
    KeyPair::from_pem(&text)
        .map_err(|error| IdentityError::file(path, format!("holds no key: {error}")))
}

/// The certificates of a PEM file; none if there is no such file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(IdentityError::io(path)(error)),
    };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    read.map_err(|error| IdentityError::file(path, format!("is not in PEM form: {error}")))
}

/// A certificate for both ends of a connection, to be signed.
pub(crate) fn params(
    name: &str,
    hosts: &[String],
    lifetime: Duration,
) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lifetime).into();
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let temp = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::at(temp.path().join("deep/identity"));
        folder.ensure().unwrap();
        let own = folder.own().unwrap();
        folder.ensure().unwrap();
        assert_eq!(folder.own().unwrap(), own);
        assert_eq!(folder.exposed(), []);
        // A certificate that is lost is made anew around the same key.
        fs::remove_file(folder.certificate()).unwrap();
        folder.ensure().unwrap();
        assert_eq!(folder.own().unwrap().fingerprint, own.fingerprint);
    }

    #[test]
    fn a_key_that_others_may_read_or_that_is_another_is_not_used() {
        let temp = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| {
            let folder = IdentityFolder::at(temp.path().join(name));
            folder.ensure().unwrap();
            folder
        });
        fs::copy(one.certificate(), other.certificate()).unwrap();
        let why = other.own().unwrap_err().to_string();
        assert!(why.contains("does not belong"), "{why}");
        os::open_up(&one.key());
        let why = one.own().unwrap_err().to_string();
        assert!(why.contains(&os::closing(&one.key())), "{why}");
        assert_eq!(one.exposed().len(), 1);
        fs::remove_file(other.key()).unwrap();
        let why = other.ensure().unwrap_err().to_string();
        assert!(why.contains("no key beside it"), "{why}");
    }
}
