//! Migrations that have ended, kept in the data folder for reports, also after a restart.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prost::Message;
use whimbrel_control::api::MigrationStatus;
use whimbrel_identity::write_secret;

use crate::convert::parse_uuid;
use crate::{folder, os};

/// Migrations that are kept; the oldest go first.
pub(crate) const KEPT_MAX: usize = 256;
/// A file's time may be so much earlier than the clock was when it was written.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);

/// One file a migration, by its id.
#[derive(Debug)]
pub(crate) struct History {
    folder: PathBuf,
    kept_max: usize,
    /// Held while files come and go.
    changing: Mutex<()>,
}

impl History {
    /// Makes or opens the folder.
    pub(crate) fn open(folder: PathBuf, kept_max: usize) -> io::Result<Self> {
        os::create_private_folders(&folder)?;
        Ok(Self { folder, kept_max, changing: Mutex::default() })
    }

    /// Keeps what a migration came to, in place of what was known of it before. Blocks.
    pub(crate) fn keep(&self, ended: &MigrationStatus) -> io::Result<()> {
        let path = self.path(&ended.migration_id).ok_or_else(|| {
            // It may come from another host, and is to be the name of a file.
            io::Error::new(ErrorKind::InvalidInput, "the migration's id is no uuid")
        })?;
        let _held = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        write_secret(&path, &ended.encode_to_vec())?;
        self.prune()
    }

    /// What the migration of this id came to.
    pub(crate) fn find(&self, id: &str) -> Option<MigrationStatus> {
        let path = self.path(id)?;
        match folder::read_message(&path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), "what was kept is unreadable: {error}");
                None
            }
        }
    }

    /// All that are kept, the newest first.
    pub(crate) fn all(&self) -> Vec<MigrationStatus> {
        self.since(0)
    }

    /// Those that ended at `ended_since_ms` or later, the newest first. Reads no others.
    pub(crate) fn since(&self, ended_since_ms: u64) -> Vec<MigrationStatus> {
        let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ended_since_ms));
        let Some(since) = since else { return Vec::new() };
        let mut files = self.files().unwrap_or_default();
        files.retain(|(written, _)| *written + CLOCK_GRAIN >= since);
        let mut found = self.read(&files);
        found.retain(|ended| ended.ended_at_ms >= ended_since_ms);
        found
    }

    /// The newest ones, at most so many.
    pub(crate) fn newest(&self, most: usize) -> Vec<MigrationStatus> {
        let mut files = self.files().unwrap_or_default();
        files.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
        files.truncate(most);
        self.read(&files)
    }

    fn read(&self, files: &[(SystemTime, String)]) -> Vec<MigrationStatus> {
        let mut found: Vec<_> = files.iter().filter_map(|(_, id)| self.find(id)).collect();
        found.sort_by_key(|ended| std::cmp::Reverse(ended.ended_at_ms));
        found
    }

    fn path(&self, id: &str) -> Option<PathBuf> {
        parse_uuid(id).map(|id| self.folder.join(id.to_string()))
    }

    fn files(&self) -> io::Result<Vec<(SystemTime, String)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if let Some(id) = entry.file_name().to_str().filter(|name| parse_uuid(name).is_some()) {
                files.push((entry.metadata()?.modified()?, id.to_owned()));
            }
        }
        Ok(files)
    }

    fn prune(&self) -> io::Result<()> {
        let mut files = self.files()?;
        files.sort();
        let surplus = files.len().saturating_sub(self.kept_max);
        files[..surplus].iter().try_for_each(|(_, id)| fs::remove_file(self.folder.join(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(number: u128) -> MigrationStatus {
        MigrationStatus {
            migration_id: uuid::Uuid::from_u128(number).to_string(),
            guest_name: format!("guest-{number}"),
            ended_at_ms: number as u64,
            ..Default::default()
        }
    }

    #[test]
    fn what_was_kept_is_found_by_the_next_agent_and_the_oldest_go() {
        let temp = tempfile::tempdir().unwrap();
        let history = History::open(temp.path().join("migrations"), 3).unwrap();
        for number in 1..=5 {
            history.keep(&ended(number)).unwrap();
            // The file system's clock may be coarse: the order of the files is said here.
            let path = history.path(&ended(number).migration_id).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(number as u64);
            file.set_modified(written).unwrap();
        }
        drop(history);
        let history = History::open(temp.path().join("migrations"), 3).unwrap();
        assert_eq!(history.all(), [ended(5), ended(4), ended(3)]);
        assert_eq!(history.find(&ended(4).migration_id), Some(ended(4)));
        assert_eq!(history.find(&ended(1).migration_id), None);
        assert_eq!(history.since(4), [ended(5), ended(4)]);
        assert_eq!((history.since(6), history.since(u64::MAX)), (Vec::new(), Vec::new()));
        let settled = MigrationStatus { reason: "settled".to_owned(), ..ended(4) };
        history.keep(&settled).unwrap();
        assert_eq!(history.find(&settled.migration_id), Some(settled));
        assert_eq!(history.all().len(), 3);
    }

    #[test]
    fn an_id_names_a_file_of_the_folder_and_none_elsewhere() {
        let temp = tempfile::tempdir().unwrap();
        let history = History::open(temp.path().join("migrations"), 3).unwrap();
        let stray = MigrationStatus { migration_id: "../host".to_owned(), ..Default::default() };
        assert_eq!(history.keep(&stray).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(history.find("../host"), None);
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_not_found_and_no_hindrance() {
        let temp = tempfile::tempdir().unwrap();
        let history = History::open(temp.path().to_owned(), 3).unwrap();
        history.keep(&ended(1)).unwrap();
        fs::write(history.path(&ended(2).migration_id).unwrap(), [0xff; 9]).unwrap();
        assert_eq!(history.find(&ended(2).migration_id), None);
        assert_eq!(history.all(), [ended(1)]);
    }
}
