//! Migrations that have ended, kept in the data folder for reports, also after a restart.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prost::Message;
use whimbrel_control::api::MigrationStatus;
use whimbrel_identity::write_secret;

use crate::convert::parse_uuid;
use crate::{folder, os};

/// Migrations that are kept; the oldest go first.
pub(crate) const KEPT_MAX: usize = 256;

/// One file a migration, by its id.
#[derive(Debug)]
pub(crate) struct History {
    folder: PathBuf,
    kept_max: usize,
    /// Held while files come and go.
    changing: Mutex<Order>,
}

/// In which order they ended, as far as this agent has kept them: a clock may go back.
#[derive(Debug)]
struct Order {
    /// Marks that another one has given are not known here.
    run: u64,
    /// How many there were before those in `ids`.
    before: usize,
    ids: VecDeque<String>,
}

impl Order {
    fn mark(&self) -> String {
        format!("{:016x}-{}", self.run, self.before + self.ids.len())
    }

    /// Those after a mark; `None` if it says nothing here.
    fn since(&self, mark: &str) -> Option<BTreeSet<String>> {
        let (run, number) = mark.split_once('-')?;
        if u64::from_str_radix(run, 16) != Ok(self.run) {
            return None;
        }
        let told = number.parse::<usize>().ok()?.checked_sub(self.before)?;
        Some(self.ids.iter().skip(told).cloned().collect())
    }
}

impl History {
    /// Makes or opens the folder.
    pub(crate) fn open(folder: PathBuf, kept_max: usize) -> io::Result<Self> {
        os::create_private_folders(&folder)?;
        let run = getrandom::u64().map_err(io::Error::other)?;
        let order = Order { run, before: 0, ids: VecDeque::new() };
        Ok(Self { folder, kept_max, changing: Mutex::new(order) })
    }

    fn lock(&self) -> MutexGuard<'_, Order> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a migration came to, in place of what was known of it before. Blocks.
    pub(crate) fn keep(&self, ended: &MigrationStatus) -> io::Result<()> {
        let path = self.path(&ended.migration_id).ok_or_else(|| {
            // It may come from another host, and is to be the name of a file.
            io::Error::new(ErrorKind::InvalidInput, "the migration's id is no uuid")
        })?;
        let mut order = self.lock();
        write_secret(&path, &ended.encode_to_vec())?;
        order.ids.push_back(ended.migration_id.clone());
        if order.ids.len() > self.kept_max {
            order.ids.pop_front();
            order.before += 1;
        }
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
        let files = self.files().unwrap_or_default();
        self.read(files.iter().map(|(_, id)| id))
    }

    /// Those that ended since `mark` was given, the newest first, and the mark of now. All of them
    /// if the mark is none of this agent's.
    pub(crate) fn since(&self, mark: &str) -> (Vec<MigrationStatus>, String) {
        let order = self.lock();
        let (ids, now) = (order.since(mark), order.mark());
        drop(order);
        (ids.map_or_else(|| self.all(), |ids| self.read(&ids)), now)
    }

    /// The newest ones, at most so many.
    pub(crate) fn newest(&self, most: usize) -> Vec<MigrationStatus> {
        let mut files = self.files().unwrap_or_default();
        files.sort_by_key(|(written, _)| std::cmp::Reverse(*written));
        files.truncate(most);
        self.read(files.iter().map(|(_, id)| id))
    }

    fn read<'a>(&self, ids: impl IntoIterator<Item = &'a String>) -> Vec<MigrationStatus> {
        let mut found: Vec<_> = ids.into_iter().filter_map(|id| self.find(id)).collect();
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
    use std::time::Duration;

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
        let settled = MigrationStatus { reason: "settled".to_owned(), ..ended(4) };
        history.keep(&settled).unwrap();
        assert_eq!(history.find(&settled.migration_id), Some(settled));
        assert_eq!(history.all().len(), 3);
    }

    #[test]
    fn what_ended_since_a_mark_is_told_whatever_the_clock_says() {
        let temp = tempfile::tempdir().unwrap();
        let history = History::open(temp.path().to_owned(), 3).unwrap();
        let (none, first) = history.since("");
        assert_eq!(none, []);
        history.keep(&ended(9)).unwrap();
        let (listed, second) = history.since(&first);
        assert_eq!(listed, [ended(9)]);
        // The clock has been put back.
        history.keep(&ended(4)).unwrap();
        let (listed, third) = history.since(&second);
        assert_eq!(listed, [ended(4)]);
        assert_eq!(history.since(&third), (Vec::new(), third.clone()));
        // A doubt that is settled ends again.
        history.keep(&ended(9)).unwrap();
        assert_eq!(history.since(&third).0, [ended(9)]);
        (0..4).for_each(|_| history.keep(&ended(4)).unwrap());
        for unknown in ["", "x", "1-x", third.as_str()] {
            assert_eq!(history.since(unknown).0, [ended(9), ended(4)], "{unknown}");
        }
        let next = History::open(temp.path().to_owned(), 3).unwrap();
        let after = history.since("").1;
        assert_eq!(next.since(&after).0.len(), 2, "a mark of another run");
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
