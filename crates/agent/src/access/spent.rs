//! Tickets that were spent here, as long as they could be spent again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tonic::Status;
use whimbrel_identity::{sync_name, write_secret};

use crate::os;

/// Spent tickets that are remembered at a time.
const SPENT_MAX: usize = 65_536;
/// They are remembered for so much longer, for the case that the clock is set back.
const KEPT_LONGER: Duration = Duration::from_secs(3600);

/// What is random in a ticket, so that no two are the same.
pub(super) type Nonce = [u8; 16];

/// The spent tickets, `NONCE SECONDS` a line in a file of the data folder: a number, and the time
/// from which on nobody could spend it any more.
#[derive(Debug)]
pub(super) struct Spent(Mutex<State>);

#[derive(Debug)]
struct State {
    path: PathBuf,
    until: BTreeMap<Nonce, u64>,
}

impl Spent {
    /// Reads the file, and writes it anew where something of it is over.
    pub(super) fn open(path: PathBuf, now: u64) -> io::Result<Self> {
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let mut until = BTreeMap::new();
        for line in text.split_inclusive('\n') {
            // The last line may be half written: then its ticket was not accepted.
            let Some(line) = line.strip_suffix('\n') else { break };
            let (nonce, end) = parse(line).ok_or_else(|| {
                let why = format!("{} has a line that is no spent ticket", path.display());
                io::Error::new(ErrorKind::InvalidData, why)
            })?;
            if !is_over(end, now) {
                until.insert(nonce, end);
            }
        }
        let left: String = until.iter().map(|(nonce, end)| line(nonce, *end)).collect();
        if left.len() != text.len() {
            write_secret(&path, left.as_bytes())?;
        }
        Ok(Self(Mutex::new(State { path, until })))
    }

    /// Refuses a ticket that was spent.
    pub(super) fn check(&self, nonce: &Nonce) -> Result<(), Status> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.until.contains_key(nonce) {
            true => Err(spent_already()),
            false => Ok(()),
        }
    }

    /// Spends a ticket that nobody can spend after `end`; it is on disk when this is done.
    pub(super) fn spend(&self, nonce: Nonce, end: u64, now: u64) -> Result<(), Status> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.until.retain(|_, end| !is_over(*end, now));
        if state.until.contains_key(&nonce) {
            return Err(spent_already());
        }
        if state.until.len() >= SPENT_MAX {
            let why = "more tickets were spent here than this host remembers; wait for some to end";
            return Err(Status::resource_exhausted(why));
        }
        append(&state.path, &line(&nonce, end)).map_err(|error| {
            Status::internal(format!("that the ticket is spent cannot be written down: {error}"))
        })?;
        state.until.insert(nonce, end);
        Ok(())
    }
}

/// Adds a line that is on disk afterwards, or leaves the file as it was.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = os::append_private(path)?;
    let before = file.metadata()?.len();
    if let Err(error) = file.write_all(line.as_bytes()).and_then(|()| file.sync_all()) {
        // Half a line would make one with the next.
        fs::OpenOptions::new().write(true).open(path)?.set_len(before)?;
        return Err(error);
    }
    // Only a file that is new has a name that may not be on disk.
    if before == 0 { sync_name(path) } else { Ok(()) }
}

fn spent_already() -> Status {
    let why = "the ticket was spent already: each is good for one move; sign a new one";
    Status::permission_denied(why)
}

fn is_over(end: u64, now: u64) -> bool {
    end.saturating_add(KEPT_LONGER.as_secs()) < now
}

fn line(nonce: &Nonce, end: u64) -> String {
    format!("{:032x} {end}\n", u128::from_be_bytes(*nonce))
}

fn parse(line: &str) -> Option<(Nonce, u64)> {
    let (nonce, end) = line.split_once(' ')?;
    Some((u128::from_str_radix(nonce, 16).ok()?.to_be_bytes(), end.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_spent_once_also_after_a_restart_and_forgotten_when_it_is_over() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("tickets");
        let open = |now| Spent::open(path.clone(), now).unwrap();
        let spent = open(100);
        spent.spend([1; 16], 150, 100).unwrap();
        spent.spend([2; 16], 150, 100).unwrap();
        assert!(spent.spend([1; 16], 150, 100).is_err());
        // A crash in the midst of a line: what was not acknowledged is not known.
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"0303").unwrap();
        let spent = open(120);
        assert!(spent.check(&[1; 16]).is_err() && spent.check(&[3; 16]).is_ok());
        let refused = spent.spend([1; 16], 150, 120).unwrap_err();
        assert!(refused.message().contains("spent already"), "{refused}");
        spent.spend([3; 16], 150, 120).unwrap();
        let over = 150 + KEPT_LONGER.as_secs() + 1;
        let spent = open(over);
        assert!(spent.0.lock().unwrap().until.is_empty());
        assert_eq!(fs::read(&path).unwrap(), b"");
        fs::write(&path, "nonsense\n").unwrap();
        assert!(Spent::open(path, 1).is_err());
    }
}
