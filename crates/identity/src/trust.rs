use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::{IdentityError, IdentityFolder, Rules};

/// The files are looked at again after so long, when somebody asks.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(500);

/// An identity and those it trusts, as the files in its folder say now. What cannot be read is not
/// guessed: until it is mended, nobody is trusted.
#[derive(Debug)]
pub struct Trust {
    folder: IdentityFolder,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    stamps: Vec<Stamp>,
    rules: Result<Arc<Rules>, Arc<IdentityError>>,
}

/// What tells one version of a file from the next.
type Stamp = Option<(SystemTime, u64)>;

impl Trust {
    /// Reads the folder, in which an identity has to be.
    ///
    /// # Errors
    /// What is there cannot be used.
    pub fn open(folder: IdentityFolder) -> Result<Arc<Self>, IdentityError> {
        let stamps = stamps(&folder);
        let rules = Ok(Arc::new(Rules::read(&folder)?));
        let state = Mutex::new(State { looked: Instant::now(), stamps, rules });
        Ok(Arc::new(Self { folder, state }))
    }

    /// Where it all is.
    #[must_use]
    pub fn folder(&self) -> &IdentityFolder {
        &self.folder
    }

    /// What the files say; a change counts half a second later.
    ///
    /// # Errors
    /// They were changed to something that cannot be used.
    pub fn rules(&self) -> Result<Arc<Rules>, Arc<IdentityError>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOKED_AT_EVERY {
            state.looked = Instant::now();
            let stamps = stamps(&self.folder);
            if state.stamps != stamps {
                state.stamps = stamps;
                state.rules = Rules::read(&self.folder).map(Arc::new).map_err(Arc::new);
                match &state.rules {
                    Ok(_) => tracing::info!("who is trusted was read again"),
                    Err(error) => {
                        tracing::error!("nobody is trusted until this is mended: {error}")
                    }
                }
            }
        }
        state.rules.clone()
    }
}

fn stamps(folder: &IdentityFolder) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let data = fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.len()))
    };
    let files = [folder.key(), folder.certificate(), folder.authority(), folder.revoked()];
    files.iter().chain([&folder.peers()]).map(|path| stamp(path)).collect()
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{CertificateError, Error};
    use tempfile::TempDir;

    use super::*;
    use crate::folder::certificates;
    use crate::{Authority, Fingerprint, Paired, PairedFile, Wanted};

    const DAY: Duration = Duration::from_secs(86_400);

    fn folder(temp: &TempDir, name: &str) -> IdentityFolder {
        IdentityFolder::at(temp.path().join(name))
    }

    fn issued(authority: &Authority, temp: &TempDir, name: &str, hosts: &[&str]) -> IdentityFolder {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let folder = folder(temp, name);
        let wanted = Wanted { name, hosts: &hosts, lifetime: DAY };
        authority.issue(&wanted, &folder).unwrap();
        folder
    }

    fn chain(folder: &IdentityFolder) -> Vec<CertificateDer<'static>> {
        certificates(&folder.certificate()).unwrap()
    }

    fn at(host: &str) -> ServerName<'_> {
        host.try_into().unwrap()
    }

    fn later(time: Duration) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + time)
    }

    #[test]
    fn an_authority_vouches_for_names_and_hosts_as_long_as_it_said() {
        let temp = tempfile::tempdir().unwrap();
        let authority = Authority::at(temp.path().join("pki"));
        authority.init("example", DAY * 10).unwrap();
        assert!(authority.init("example", DAY).is_err());
        let a = issued(&authority, &temp, "host-a", &["10.0.0.1", "a.example"]);
        let b = issued(&authority, &temp, "host-b", &["10.0.0.2"]);
        let rules = Rules::read(&a).unwrap();
        let now = UnixTime::now();
        let who = rules.caller(&chain(&b), now).unwrap();
        assert_eq!(who.certified.as_deref(), Some("host-b"));
        assert!(who.is("host-b") && who.is(&who.fingerprint.to_string()) && !who.own);
        assert!(!who.is("host-a") && !who.goes_by("10.0.0.2"));
        rules.server(&chain(&b), &at("10.0.0.2"), now).unwrap();
        let elsewhere = rules.server(&chain(&b), &at("10.0.0.3"), now).unwrap_err();
        assert!(elsewhere.to_string().contains("10.0.0.3"), "{elsewhere}");
        // One's own agent is known wherever it answers.
        assert!(rules.server(&chain(&a), &at("127.0.0.1"), now).unwrap().own);
        assert!(rules.own_who().unwrap().is("host-a"));
        let expired = rules.caller(&chain(&b), later(DAY * 2)).unwrap_err();
        assert!(crate::explain(&expired).to_string().contains("expired"), "{expired}");
    }

    #[test]
    fn what_was_taken_back_is_not_believed_paired_or_not() {
        let temp = tempfile::tempdir().unwrap();
        let authority = Authority::at(temp.path().join("pki"));
        authority.init("example", DAY * 10).unwrap();
        let a = issued(&authority, &temp, "host-a", &[]);
        let b = issued(&authority, &temp, "host-b", &[]);
        let c = issued(&authority, &temp, "host-c", &[]);
        assert_eq!(authority.revoke("host-b").unwrap(), 1);
        assert_eq!(authority.revoke("host-b").unwrap(), 0);
        assert!(authority.revoke("nobody").is_err());
        let now = UnixTime::now();
        Rules::read(&a).unwrap().caller(&chain(&b), now).unwrap();
        fs::copy(temp.path().join("pki/revoked.pem"), a.revoked()).unwrap();
        pair(&a, &b, "host-b");
        let rules = Rules::read(&a).unwrap();
        let revoked = rules.caller(&chain(&b), now).unwrap_err();
        assert_eq!(revoked, Error::InvalidCertificate(CertificateError::Revoked));
        rules.caller(&chain(&c), now).unwrap();
    }

    /// A thief makes a certificate of their own around the stolen key.
    #[test]
    fn a_key_that_was_taken_back_counts_no_more_in_another_certificate() {
        let temp = tempfile::tempdir().unwrap();
        let authority = Authority::at(temp.path().join("pki"));
        authority.init("example", DAY * 10).unwrap();
        let b = issued(&authority, &temp, "host-b", &[]);
        let [a, thief] = ["host-a", "thief"].map(|name| folder(&temp, name));
        a.ensure().unwrap();
        fs::create_dir(thief.path()).unwrap();
        fs::copy(b.key(), thief.key()).unwrap();
        thief.ensure().unwrap();
        assert_ne!(chain(&thief), chain(&b));
        pair(&a, &b, "host-b");
        let now = UnixTime::now();
        let who = Rules::read(&a).unwrap().caller(&chain(&thief), now).unwrap();
        assert_eq!(who.paired.as_deref(), Some("host-b"));
        authority.revoke("host-b").unwrap();
        // Also where nobody believes the authority otherwise.
        fs::copy(temp.path().join("pki/revoked.pem"), a.revoked()).unwrap();
        let rules = Rules::read(&a).unwrap();
        for shown in [&thief, &b] {
            let revoked = rules.caller(&chain(shown), now).unwrap_err();
            assert_eq!(revoked, Error::InvalidCertificate(CertificateError::Revoked));
        }
    }

    fn pair(folder: &IdentityFolder, with: &IdentityFolder, name: &str) {
        let fingerprint = with.own().unwrap().fingerprint;
        let hosts = vec!["10.0.0.2".to_owned()];
        let new = Paired { fingerprint, name: name.to_owned(), hosts };
        PairedFile::read(folder).unwrap().add(new).unwrap();
    }

    #[test]
    fn a_paired_key_is_known_by_the_name_it_was_given_and_where_it_answers() {
        let temp = tempfile::tempdir().unwrap();
        let [a, b, stranger] = ["a", "b", "stranger"].map(|name| {
            let folder = folder(&temp, name);
            folder.ensure().unwrap();
            folder
        });
        pair(&a, &b, "other");
        let rules = Rules::read(&a).unwrap();
        let now = UnixTime::now();
        let who = rules.caller(&chain(&b), now).unwrap();
        assert_eq!((who.certified.as_deref(), who.paired.as_deref()), (None, Some("other")));
        // Its name counts here, and nowhere else.
        assert!(who.goes_by("other") && !who.is("other"));
        rules.server(&chain(&b), &at("10.0.0.2"), now).unwrap();
        assert!(rules.server(&chain(&b), &at("10.0.0.3"), now).is_err());
        assert!(rules.caller(&chain(&b), later(DAY * 4000)).is_err());
        let refused = rules.caller(&chain(&stranger), now).unwrap_err();
        let print = stranger.own().unwrap().fingerprint.to_string();
        assert!(crate::explain(&refused).to_string().contains(&print), "{refused}");
        assert!(rules.caller(&[], now).is_err());
    }

    #[test]
    fn a_message_is_known_by_its_writer_and_to_the_last_bit() {
        let temp = tempfile::tempdir().unwrap();
        let authority = Authority::at(temp.path().join("pki"));
        authority.init("example", DAY * 10).unwrap();
        let [a, b] = ["host-a", "host-b"].map(|name| issued(&authority, &temp, name, &[]));
        let (here, there) = (Rules::read(&a).unwrap(), Rules::read(&b).unwrap());
        let signed = there.sign(b"a message").unwrap();
        let now = UnixTime::now();
        assert!(here.signer(b"a message", &signed, now).unwrap().is("host-b"));
        assert!(here.signer(b"a massage", &signed, now).is_err());
        let mut other = signed.clone();
        other.chain = here.sign(b"a message").unwrap().chain;
        assert!(here.signer(b"a message", &other, now).is_err());
        let mut other = signed.clone();
        other.scheme ^= 1;
        assert!(here.signer(b"a message", &other, now).is_err());
        other.chain.clear();
        assert!(here.signer(b"a message", &other, now).is_err());
    }

    #[test]
    fn a_change_of_the_files_counts_and_a_broken_one_trusts_nobody() {
        let temp = tempfile::tempdir().unwrap();
        let folder = folder(&temp, "a");
        folder.ensure().unwrap();
        let trust = Trust::open(folder.clone()).unwrap();
        let look_again = || {
            trust.state.lock().unwrap().looked -= LOOKED_AT_EVERY;
            trust.rules()
        };
        let before = trust.rules().unwrap();
        assert!(Arc::ptr_eq(&before, &look_again().unwrap()));
        fs::write(folder.peers(), format!("{} b\n", Fingerprint::of(b"b"))).unwrap();
        assert!(!Arc::ptr_eq(&before, &look_again().unwrap()));
        fs::write(folder.peers(), "nonsense\n").unwrap();
        assert!(look_again().unwrap_err().to_string().contains("line 1"));
        fs::remove_file(folder.peers()).unwrap();
        look_again().unwrap();
    }
}
