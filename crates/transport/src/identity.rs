//! Who a guest process is for the length of a session: a key of its own that it gives to nobody,
//! and a certificate whose fingerprint the agents of both sides tell each other.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; SHA256_OUTPUT_LEN]);

/// What is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a certificate's fingerprint has 32 bytes, in hexadecimal 64 digits")]
pub struct NoFingerprint;

impl Fingerprint {
    /// Of a certificate in its DER form.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        let hash = digest(&SHA256, certificate);
        Self(hash.as_ref().try_into().expect("SHA-256 has this length"))
    }

    /// Its 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SHA256_OUTPUT_LEN] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Fingerprint {
    type Error = NoFingerprint;

    fn try_from(bytes: &[u8]) -> Result<Self, NoFingerprint> {
        bytes.try_into().map(Self).map_err(|_| NoFingerprint)
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Self, NoFingerprint> {
        let digits = text.as_bytes();
        if digits.len() != 2 * SHA256_OUTPUT_LEN || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NoFingerprint);
        }
        let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16);
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        for (at, slot) in bytes.iter_mut().enumerate() {
            *slot = byte(at).map_err(|_| NoFingerprint)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key that was made here and never leaves the process, and its self-signed certificate.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    /// Makes a new key.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn generate() -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]);
        let made = made.map_err(io::Error::other)?;
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        Ok(Self { certificate: made.cert.der().clone(), key })
    }

    /// What the other side is told of it, on a way that it trusts.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    pub(crate) fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(self.key.clone_key()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint())
    }
}

/// What a certificate says and nobody asks for: the fingerprint is what counts.
pub(crate) const NAME: &str = "whimbrel";

/// Who this side is, and the only one it talks to.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// This side's key and certificate.
    pub identity: Arc<Identity>,
    /// The certificate of the other side.
    pub peer: Fingerprint,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_it_is_written() {
        let one = Identity::generate().expect("random numbers").fingerprint();
        assert_ne!(one, Identity::generate().expect("random numbers").fingerprint());
        let text = one.to_string();
        assert_eq!((text.len(), text.parse()), (64, Ok(one)));
        assert_eq!(Fingerprint::try_from(one.as_bytes().as_slice()), Ok(one));
        assert_eq!(Fingerprint::try_from(&one.as_bytes()[1..]), Err(NoFingerprint));
        let accented = "é".repeat(32);
        for wrong in
            ["", &text[1..], &format!("{text}0"), &text.replace(&text[..1], "x"), &accented]
        {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(NoFingerprint), "{wrong}");
        }
        assert_eq!(
            Fingerprint::of(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
