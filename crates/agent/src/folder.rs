//! The data folder of an agent and the folders of its guests.
//!
//! ```text
//!  DATA/agent.lock           held as long as the agent lives: one agent a folder
//!  DATA/host                 the random identity of this host, 16 hex digits
//!  DATA/identity             key and certificate of this agent, and whom it trusts
//!  DATA/policy.toml          who may do what here; written by people
//!  DATA/tickets              which tickets were spent here
//!  DATA/guests/UUID/config   who the guest is             (agent)
//!                  /process  how to find its process      (guest process; this user only)
//!                  /journal  who owns the guest           (guest process)
//!                  /log      what its process has to say  (guest process)
//!                  /parties  other agents it had to do with (agent)
//!                  /migration  which one is under way, or was last (agent)
//!  DATA/migrations/ID        what a migration came to, for reports
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use prost::Message;
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_identity::write_secret;

use crate::convert::parse_uuid;
use crate::history::{History, KEPT_MAX};
use crate::os;
use crate::process_api::{GuestFile, PartiesFile, ProcessFile};

/// Why a data folder cannot be worked in.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Two agents would both think that they own the guests.
    #[error(
        "another agent works in {}: stop it, or give this one a folder of its own with --data",
        path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The identity of the host is not what an agent wrote.
    #[error(
        "{} does not hold 16 hex digits: restore it from a backup, or if no guest of this folder \
         is needed, use a new folder",
        path.display()
    )]
    Host {
        /// The file.
        path: PathBuf,
    },
    /// The operating system says no.
    #[error(
        "cannot work in {}: {source}; it must be a folder this user may write to",
        path.display()
    )]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The folder of one agent, locked.
#[derive(Debug)]
pub(crate) struct DataFolder {
    guests: PathBuf,
    migrations: PathBuf,
    host: u64,
    _lock: File,
}

impl DataFolder {
    /// Makes or opens the folder at `path` for this agent alone.
    pub(crate) fn open(path: &Path) -> Result<Self, FolderError> {
        let guests = path.join("guests");
        let failed = |path: &Path, source| FolderError::Io { path: path.to_owned(), source };
        os::create_private_folders(&guests).map_err(|error| failed(&guests, error))?;
        let lock_path = path.join("agent.lock");
        let lock = create_private(&lock_path).map_err(|error| failed(&lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(FolderError::InUse { path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(&lock_path, source)),
        }
        let host = host_identity(&path.join("host"))?;
        let migrations = path.join("migrations");
        Ok(Self { guests, migrations, host, _lock: lock })
    }

    /// What is kept of migrations that have ended.
    pub(crate) fn history(&self) -> Result<History, FolderError> {
        History::open(self.migrations.clone(), KEPT_MAX)
            .map_err(|source| FolderError::Io { path: self.migrations.clone(), source })
    }

    /// The identity of this host, which makes its terms its own.
    pub(crate) fn host(&self) -> u64 {
        self.host
    }

    /// The folder of one guest, made or not.
    pub(crate) fn guest(&self, uuid: GuestUuid) -> GuestFolder {
        GuestFolder { path: self.guests.join(uuid.to_string()) }
    }

    /// The folders of all guests there are.
    pub(crate) fn guests(&self) -> io::Result<Vec<GuestFolder>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.guests)? {
            let entry = entry?;
            if entry.file_name().to_str().and_then(parse_uuid).is_some() {
                found.push(GuestFolder { path: entry.path() });
            }
        }
        Ok(found)
    }
}

/// The folder of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GuestFolder {
    path: PathBuf,
}

impl GuestFolder {
    /// A guest process is told which folder is its own.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_there(&self) -> bool {
        self.path.exists()
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Where the guest process takes connections, where it takes them at a path.
    pub(crate) fn door(&self) -> PathBuf {
        self.path.join("door")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub(crate) fn read_config(&self) -> io::Result<GuestFile> {
        read_message(&self.path.join("config"))
    }

    /// Makes the folder if need be.
    pub(crate) fn write_config(&self, config: &GuestFile) -> io::Result<()> {
        os::create_private_folders(&self.path)?;
        write_secret(&self.path.join("config"), &config.encode_to_vec())
    }

    /// As [`GuestFolder::write_config`], where nobody else writes it meanwhile. Who runs on the
    /// thread that asks does not wait for the disk, as clients of a guest that has just come would.
    pub(crate) async fn keep_config(&self, config: GuestFile) -> io::Result<()> {
        let folder = self.clone();
        let kept = tokio::task::spawn_blocking(move || folder.write_config(&config)).await;
        kept.map_err(io::Error::other)?
    }

    /// Agents that it had to do with.
    pub(crate) fn read_parties(&self) -> io::Result<PartiesFile> {
        match read_message(&self.path.join("parties")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(PartiesFile::default()),
            read => read,
        }
    }

    pub(crate) fn write_parties(&self, parties: &PartiesFile) -> io::Result<()> {
        write_secret(&self.path.join("parties"), &parties.encode_to_vec())
    }

    /// The id of its running migration or the last one, if it ever had one.
    pub(crate) fn read_migration(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.path.join("migration")) {
            Ok(id) => Ok(Some(id)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps that id for the next agent, which may find nobody left to ask for it.
    pub(crate) async fn keep_migration(&self, id: &str) -> io::Result<()> {
        let (path, id) = (self.path.join("migration"), id.to_owned());
        let kept = tokio::task::spawn_blocking(move || write_secret(&path, id.as_bytes())).await;
        kept.map_err(io::Error::other)?
    }

    /// How to find the guest's process, unless it has none.
    pub(crate) fn read_process(&self) -> io::Result<Option<ProcessFile>> {
        match read_message(&self.path.join("process")) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn write_process(&self, file: &ProcessFile) -> io::Result<()> {
        write_secret(&self.path.join("process"), &file.encode_to_vec())
    }

    /// The guest has no process any more.
    pub(crate) fn forget_process(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.path.join("process")))
    }

    /// Nothing of the guest is to be remembered.
    pub(crate) fn remove(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(&self.path))
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(crate) fn read_message<M: Message + Default>(path: &Path) -> io::Result<M> {
    M::decode(fs::read(path)?.as_slice()).map_err(|error| {
        io::Error::new(ErrorKind::InvalidData, format!("{} is damaged: {error}", path.display()))
    })
}

fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    os::open_private(options.read(true).write(true).create(true).truncate(false), path)
}

fn host_identity(path: &Path) -> Result<u64, FolderError> {
    let failed = |source| FolderError::Io { path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let host = getrandom::u64().map_err(|error| failed(io::Error::other(error)))?;
            write_secret(path, format!("{host:016x}\n").as_bytes()).map_err(failed)?;
            return Ok(host);
        }
        Err(error) => return Err(failed(error)),
    };
    let digits = Some(text.trim()).filter(|digits| digits.len() == 16);
    let host = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    host.ok_or_else(|| FolderError::Host { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_a_folder_and_the_host_stays_the_same() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("deep/data");
        let folder = DataFolder::open(&path).unwrap();
        let error = DataFolder::open(&path).unwrap_err();
        assert!(matches!(error, FolderError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("another agent"), "{error}");
        let host = folder.host();
        drop(folder);
        // A process that another test is just starting holds the lock too, until it has begun.
        let began = std::time::Instant::now();
        let again = loop {
            match DataFolder::open(&path) {
                Err(FolderError::InUse { .. }) if began.elapsed().as_secs() < 50 => {
                    std::thread::yield_now();
                }
                opened => break opened.unwrap(),
            }
        };
        assert_eq!(again.host(), host);
    }

    #[test]
    fn a_damaged_host_identity_is_not_replaced_by_another() {
        let temp = tempfile::tempdir().unwrap();
        drop(DataFolder::open(temp.path()).unwrap());
        for damage in ["", "12", "zzzzzzzzzzzzzzzz", "00112233445566778"] {
            fs::write(temp.path().join("host"), damage).unwrap();
            let error = DataFolder::open(temp.path()).unwrap_err();
            assert!(matches!(error, FolderError::Host { .. }), "{error}");
        }
    }

    #[test]
    fn a_guests_files_are_found_read_and_removed() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataFolder::open(temp.path()).unwrap();
        let folder = data.guest(GuestUuid(5));
        let config = GuestFile { name: "a".to_owned(), ..Default::default() };
        folder.write_config(&config).unwrap();
        fs::create_dir(temp.path().join("guests/lost+found")).unwrap();
        assert_eq!(data.guests().unwrap(), std::slice::from_ref(&folder));
        assert_eq!(folder.read_config().unwrap(), config);
        assert_eq!(folder.read_process().unwrap(), None);
        let process = ProcessFile { pid: 7, token: "secret".to_owned(), ..Default::default() };
        folder.write_process(&process).unwrap();
        assert_eq!(folder.read_process().unwrap(), Some(process));
        folder.forget_process().unwrap();
        folder.forget_process().unwrap();
        assert_eq!(folder.read_process().unwrap(), None);
        fs::write(folder.path().join("process"), [0xff; 9]).unwrap();
        assert_eq!(folder.read_process().unwrap_err().kind(), ErrorKind::InvalidData);
        folder.remove().unwrap();
        folder.remove().unwrap();
        assert!(data.guests().unwrap().is_empty());
    }

    #[test]
    fn other_users_read_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("deep/data");
        let data = DataFolder::open(&path).unwrap();
        let folder = data.guest(GuestUuid(5));
        folder.write_config(&GuestFile::default()).unwrap();
        folder.write_process(&ProcessFile::default()).unwrap();
        drop(crate::journal::FileJournal::open(&folder.journal()).unwrap());
        drop(os::append_private(&folder.log()).unwrap());
        let mut all = vec![temp.path().join("deep")];
        while let Some(path) = all.pop() {
            assert!(os::is_private(&path).unwrap(), "{} is open to others", path.display());
            if path.is_dir() {
                all.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
    }

    #[test]
    fn files_are_private_in_a_folder_that_was_there_before() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataFolder::open(temp.path()).unwrap();
        drop(os::append_private(&temp.path().join("tickets")).unwrap());
        for name in ["agent.lock", "host", "guests", "tickets"] {
            assert!(os::is_private(&temp.path().join(name)).unwrap(), "{name} is open to others");
        }
        drop(data);
    }

    #[test]
    fn a_path_that_is_a_file_is_refused_with_its_name() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, "").unwrap();
        let error = DataFolder::open(&path).unwrap_err().to_string();
        assert!(error.contains("file/guests"), "{error}");
    }
}
