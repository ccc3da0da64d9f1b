//! Keys that people have compared, one line each: `FINGERPRINT NAME [HOST…]`.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::{Fingerprint, IdentityError, IdentityFolder, os};

/// The longest name of an identity, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// One identity that is known by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paired {
    /// Its key.
    pub fingerprint: Fingerprint,
    /// What it is called here.
    pub name: String,
    /// The host names and addresses at which it may answer; none if it only calls.
    pub hosts: Vec<String>,
}

/// All that are known in one folder.
#[derive(Clone, Debug)]
pub struct PairedFile {
    path: PathBuf,
    /// As they stand in the file.
    pub all: Vec<Paired>,
}

/// Whether a text can be the name of an identity: 1 to 64 letters, digits, and `- _ .`
#[must_use]
pub fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(allowed)
}

impl PairedFile {
    /// Those of a folder.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it cannot.
    pub fn read(folder: &IdentityFolder) -> Result<Self, IdentityError> {
        let path = folder.peers();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(IdentityError::io(&path)(error)),
        };
        let lines = text.lines().zip(1..).filter(|(line, _)| !is_blank(line));
        let all = lines.map(|(line, number)| {
            parse(line).map_err(|why| IdentityError::file(&path, format!("line {number}: {why}")))
        });
        Ok(Self { all: all.collect::<Result<_, _>>()?, path: path.clone() })
    }

    /// Adds one, or more hosts of one that is known; all is in the file when this is done.
    ///
    /// # Errors
    /// [`IdentityError::Changed`] if the name or the host belongs to another key.
    pub fn add(&mut self, new: Paired) -> Result<(), IdentityError> {
        let clash = self.all.iter().find(|old| {
            let shared = old.hosts.iter().any(|host| new.hosts.contains(host));
            old.fingerprint != new.fingerprint && (old.name == new.name || shared)
        });
        if let Some(old) = clash {
            let (name, known) = (old.name.clone(), old.fingerprint);
            return Err(IdentityError::Changed { name, known });
        }
        match self.all.iter_mut().find(|old| old.fingerprint == new.fingerprint) {
            Some(old) => {
                old.name = new.name;
                let more = new.hosts.into_iter().filter(|host| !old.hosts.contains(host));
                old.hosts.extend(more.collect::<Vec<_>>());
            }
            None => self.all.push(new),
        }
        self.write()
    }

    /// Forgets one by its name or fingerprint; says whether it was there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn remove(&mut self, which: &str) -> Result<bool, IdentityError> {
        let before = self.all.len();
        self.all.retain(|one| one.name != which && one.fingerprint.to_string() != which);
        match self.all.len() < before {
            true => self.write().map(|()| true),
            false => Ok(false),
        }
    }

    fn write(&self) -> Result<(), IdentityError> {
        let line = |one: &Paired| {
            let mut words = vec![one.fingerprint.to_string(), one.name.clone()];
            words.extend(one.hosts.iter().cloned());
            words.join(" ") + "\n"
        };
        let text: String = self.all.iter().map(line).collect();
        os::replace(&self.path, text.as_bytes(), false).map_err(IdentityError::io(&self.path))
    }
}

fn is_blank(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#')
}

fn parse(line: &str) -> Result<Paired, String> {
    let mut words = line.split_whitespace();
    let fingerprint = words.next().unwrap_or_default().parse();
    let fingerprint = fingerprint.map_err(|error: crate::BadFingerprint| error.to_string())?;
    let name = words.next().unwrap_or_default();
    if !is_name(name) {
        return Err(format!("`{name}` is no name: it has 1 to 64 letters, digits, and - _ ."));
    }
    Ok(Paired { fingerprint, name: name.to_owned(), hosts: words.map(str::to_owned).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paired(key: &[u8], name: &str, hosts: &[&str]) -> Paired {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        Paired { fingerprint: Fingerprint::of(key), name: name.to_owned(), hosts }
    }

    #[test]
    fn pairs_are_kept_and_a_changed_key_is_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::at(temp.path());
        let mut file = PairedFile::read(&folder).unwrap();
        file.add(paired(b"b", "host-b", &["10.0.0.2"])).unwrap();
        file.add(paired(b"b", "host-b", &["10.0.0.2", "b.example"])).unwrap();
        file.add(paired(b"o", "ops", &[])).unwrap();
        for (name, hosts) in [("host-b", [].as_slice()), ("other", &["b.example"])] {
            let refused = file.add(paired(b"x", name, hosts)).unwrap_err();
            assert!(matches!(refused, IdentityError::Changed { .. }), "{refused}");
        }
        let mut read = PairedFile::read(&folder).unwrap();
        assert_eq!(
            read.all,
            [paired(b"b", "host-b", &["10.0.0.2", "b.example"]), paired(b"o", "ops", &[])]
        );
        assert!(read.remove("host-b").unwrap());
        assert!(!read.remove("host-b").unwrap());
        assert_eq!(PairedFile::read(&folder).unwrap().all.len(), 1);
    }

    #[test]
    fn a_bad_line_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::at(temp.path());
        let print = Fingerprint::of(b"b");
        for line in ["SHA256:short b".to_owned(), format!("{print}"), format!("{print} a/b")] {
            fs::write(folder.peers(), format!("# ours\n\n{line}\n")).unwrap();
            let why = PairedFile::read(&folder).unwrap_err().to_string();
            assert!(why.contains("line 3: `"), "{why}");
        }
    }
}
