//! A private authority: it certifies names, and takes certificates back.
//!
//! ```text
//!  DIR/authority.key   this user only     DIR/authority.pem   for those who believe it
//!  DIR/issued          SERIAL NAME a line DIR/revoked.pem     what it has taken back
//!  DIR/revoked         SERIAL SECONDS a line
//! ```

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod};
use rcgen::{KeyPair, KeyUsagePurpose, PKCS_ED25519, RevocationReason, RevokedCertParams};
use rcgen::{PublicKeyData as _, SerialNumber};

use crate::folder::{certificates, params, read_key};
use crate::{Certificate, Fingerprint, IdentityError, IdentityFolder, is_name, os};

/// How long a list of what was taken back says that it is good for. Readers do not insist on it.
const LIST_FOR: Duration = Duration::from_secs(365 * 86_400);

/// The folder of an authority.
#[derive(Clone, Debug)]
pub struct Authority {
    path: PathBuf,
}

/// A certificate that is asked for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Whom it names.
    pub name: &'a str,
    /// Host names and addresses at which its holder answers.
    pub hosts: &'a [String],
    /// How long it is valid.
    pub lifetime: Duration,
}

impl Authority {
    /// The authority in the folder at `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Nobody else works on the authority as long as this is held.
    fn lock(&self) -> Result<File, IdentityError> {
        let path = self.file("lock");
        let held = os::open_private(&path).map_err(IdentityError::io(&path))?;
        held.lock().map_err(IdentityError::io(&path))?;
        Ok(held)
    }

    /// Makes it, with a key of its own and a list that takes nothing back.
    ///
    /// # Errors
    /// One is there already, or the folder cannot be written to.
    pub fn init(&self, name: &str, lifetime: Duration) -> Result<(), IdentityError> {
        check_name(name)?;
        let (key_path, path) = (self.file("authority.key"), self.file("authority.pem"));
        for path in [&key_path, &path] {
            if path.exists() {
                let why = "is there already: an authority is made once; choose another folder";
                return Err(IdentityError::file(path, why));
            }
        }
        os::create_private_folders(&self.path).map_err(IdentityError::io(&self.path))?;
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let text = key.serialize_pem();
        os::replace(&key_path, text.as_bytes(), true).map_err(IdentityError::io(&key_path))?;
        let mut params = params(name, &[], lifetime)?;
        params.extended_key_usages.clear();
        params.key_usages = USAGES.to_vec();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let made = params.self_signed(&key)?.pem();
        os::replace(&path, made.as_bytes(), false).map_err(IdentityError::io(&path))?;
        self.write_list()
    }

    /// Makes an identity with a certificate of this authority, in a folder of its own that holds
    /// all its owner needs. The key is made here, and is to be kept nowhere but there.
    ///
    /// # Errors
    /// The name or a host is none, or the folder holds an identity already.
    pub fn issue(
        &self,
        wanted: &Wanted<'_>,
        into: &IdentityFolder,
    ) -> Result<Certificate, IdentityError> {
        check_name(wanted.name)?;
        for path in [into.key(), into.certificate()] {
            if path.exists() {
                let why = "is there already: choose an empty folder for the new identity";
                return Err(IdentityError::file(&path, why));
            }
        }
        let issuer = self.issuer()?;
        let _held = self.lock()?;
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = params(wanted.name, wanted.hosts, wanted.lifetime)?;
        params.use_authority_key_identifier_extension = true;
        let serial = Fingerprint::of(&key.subject_public_key_info()).serial();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let made = params.signed_by(&key, &issuer)?;
        // Known before it can be used: what was issued can always be taken back.
        self.append("issued", &format!("{} {}\n", hex(&serial), wanted.name))?;
        os::create_private_folders(into.path()).map_err(IdentityError::io(into.path()))?;
        let write = |path: PathBuf, text: &str, secret| {
            os::replace(&path, text.as_bytes(), secret).map_err(IdentityError::io(&path))
        };
        write(into.key(), &key.serialize_pem(), true)?;
        write(into.certificate(), &made.pem(), false)?;
        write(into.authority(), &self.read("authority.pem")?, false)?;
        write(into.revoked(), &self.read("revoked.pem")?, false)?;
        Certificate::read(made.der())
    }

    /// Takes back all certificates of a name, or the one with this serial number, and writes the
    /// list anew; says how many.
    ///
    /// # Errors
    /// Nothing of that name was issued.
    pub fn revoke(&self, which: &str) -> Result<usize, IdentityError> {
        let _held = self.lock()?;
        let issued = self.read("issued")?;
        let revoked = self.read("revoked")?;
        let known = issued.lines().filter_map(|line| line.split_once(' '));
        let serials = known.filter(|(serial, name)| *serial == which || *name == which);
        let serials: Vec<&str> = serials.map(|(serial, _)| serial).collect();
        if serials.is_empty() {
            let why = format!("has no certificate of `{which}`: give the name or serial of one");
            return Err(IdentityError::file(&self.file("issued"), why));
        }
        let taken = |serial: &&&str| revoked.lines().any(|line| line.starts_with(**serial));
        let new: Vec<&&str> = serials.iter().filter(|serial| !taken(serial)).collect();
        let now = seconds(SystemTime::now());
        let lines: String = new.iter().map(|serial| format!("{serial} {now}\n")).collect();
        self.append("revoked", &lines)?;
        self.write_list()?;
        Ok(new.len())
    }

    fn write_list(&self) -> Result<(), IdentityError> {
        let path = self.file("revoked");
        let text = self.read("revoked")?;
        let bad = || IdentityError::file(&path, "holds a line that is not SERIAL SECONDS");
        let entries = text.lines().map(|line| {
            let (serial, at) = line.split_once(' ').ok_or_else(bad)?;
            let at = at.parse().map_err(|_| bad())?;
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&unhex(serial).ok_or_else(bad)?),
                revocation_time: (UNIX_EPOCH + Duration::from_secs(at)).into(),
                reason_code: Some(RevocationReason::Unspecified),
                invalidity_date: None,
            })
        });
        let now = SystemTime::now();
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + LIST_FOR).into(),
            crl_number: SerialNumber::from_slice(&seconds(now).to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: entries.collect::<Result<_, IdentityError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let text = list.signed_by(&self.issuer()?)?.pem()?;
        let path = self.file("revoked.pem");
        os::replace(&path, text.as_bytes(), false).map_err(IdentityError::io(&path))
    }

    /// Signs as the certificate says: by the same name and for the same uses.
    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, IdentityError> {
        let path = self.file("authority.pem");
        let chain = certificates(&path)?;
        let none =
            || IdentityError::file(&path, "is no authority: make one with `whimbrel pki init`");
        let name = Certificate::read(chain.first().ok_or_else(none)?)?.name;
        let mut params = params(&name, &[], LIST_FOR)?;
        params.key_usages = USAGES.to_vec();
        Ok(Issuer::new(params, read_key(&self.file("authority.key"))?))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A file of the authority; empty if it is not there.
    fn read(&self, name: &str) -> Result<String, IdentityError> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(IdentityError::io(&path)),
        }
    }

    fn append(&self, name: &str, lines: &str) -> Result<(), IdentityError> {
        let path = self.file(name);
        let text = self.read(name)? + lines;
        os::replace(&path, text.as_bytes(), false).map_err(IdentityError::io(&path))
    }
}

const USAGES: [KeyUsagePurpose; 2] = [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];

fn check_name(name: &str) -> Result<(), IdentityError> {
    let why = || format!("`{name}` is no name: it has 1 to 64 letters, digits, and - _ .");
    is_name(name).then_some(()).ok_or_else(|| IdentityError::Certificate(why()))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.len().is_multiple_of(2) && text.is_ascii();
    let pair = |at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    digits.then(|| (0..text.len()).step_by(2).map(pair).collect()).flatten()
}
