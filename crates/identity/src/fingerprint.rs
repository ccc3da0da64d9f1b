use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

const PREFIX: &str = "SHA256:";

/// What a public key is known by: the SHA-256 of its `SubjectPublicKeyInfo`, shown as SSH does. It
/// stays when the certificate around the key is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

/// A text that is not a fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a fingerprint: it has SHA256: and 43 letters, as `whimbrel identity` prints")]
pub struct BadFingerprint(String);

impl Fingerprint {
    /// Of a public key in its DER form.
    #[must_use]
    pub fn of(public_key: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, public_key);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// The serial number of the certificate that an authority makes for the key. It makes one for
    /// each key, and by this number a list of what was taken back names keys as well.
    #[must_use]
    pub(crate) fn serial(&self) -> [u8; 16] {
        let mut serial = [0; 16];
        serial.copy_from_slice(&self.0[..16]);
        // Positive, and of full length, so that it reads back as it was written.
        serial[0] = serial[0] & 0x3f | 0x40;
        serial
    }

    /// Whether a text is meant to be one, rather than a name.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = BadFingerprint;

    fn from_str(text: &str) -> Result<Self, BadFingerprint> {
        let bad = || BadFingerprint(text.chars().take(64).collect());
        let encoded = text.strip_prefix(PREFIX).ok_or_else(bad)?;
        let bytes = STANDARD_NO_PAD.decode(encoded).map_err(|_| bad())?;
        bytes.try_into().map(Self).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_it_is_shown() {
        let print = Fingerprint::of(b"a key");
        let shown = print.to_string();
        assert_eq!(shown.len(), PREFIX.len() + 43);
        assert_eq!(shown.parse(), Ok(print));
        assert_ne!(Fingerprint::of(b"another"), print);
        for bad in ["", "SHA256:", &shown[7..], &shown[..40], &format!("{shown}A")] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
