//! How the program ends. Scripts rely on these numbers.

use std::fmt;
use std::process::ExitCode;

use crate::view::state::{Account, Outcome};

/// The exit status. The values are a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done; for a migration: completed, and what was to be verified was.
    Done = 0,
    /// Something on this host failed.
    Failed = 1,
    /// The command line does not make sense.
    Usage = 2,
    /// The migration was given up; the guest runs at the source.
    Aborted = 3,
    /// The migration's outcome is not known; the guest stands still.
    InDoubt = 4,
    /// No agent answers there.
    Unreachable = 5,
    /// The agent said no.
    Refused = 6,
    /// The guest has moved, but its memory is not proven to be whole.
    Unverified = 7,
    /// Ended by Ctrl-C or SIGTERM.
    Interrupted = 130,
}

/// The table of the help text.
pub(crate) const TABLE: &str = "\
Exit status:
    0  done; a migration: completed and verified
    1  something on this host failed
    2  the command line does not make sense
    3  the migration was aborted; the guest runs on at the source
    4  the migration is in doubt; the guest stands still until it is settled
    5  no agent answers at that address
    6  the agent refused
    7  the guest has moved, but its memory did not prove to be whole
  130  interrupted (Ctrl-C or SIGTERM)";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Account {
    /// What is wrong with a move that completed, if anything is.
    pub(crate) fn fault(&self) -> Option<String> {
        let pages = self.guest_ram.map(|bytes| bytes / crate::view::state::PAGE_BYTES);
        match (&self.check, self.pages_verified, pages) {
            (Some(check), ..) if !check.sound => Some(check.sentence.clone()),
            (_, Some(verified), Some(pages)) if verified < pages => {
                Some(format!("only {verified} of {pages} pages were verified"))
            }
            (_, None, _) => Some("nobody says how many pages were verified".into()),
            _ if self.runs_there == Some(false) => {
                Some(format!("it does not run at {}", self.destination))
            }
            _ if self.source_let_go == Some(false) => {
                Some(format!("{} still has the guest: it may run twice", self.source))
            }
            _ => None,
        }
    }

    /// The exit status that this account deserves.
    pub(crate) fn exit(&self) -> Exit {
        match self.outcome {
            Outcome::Completed if self.fault().is_some() => Exit::Unverified,
            Outcome::Completed => Exit::Done,
            Outcome::Aborted => Exit::Aborted,
            Outcome::InDoubt => Exit::InDoubt,
            Outcome::Failed => Exit::Failed,
        }
    }
}

/// Why a command ends without having done what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) exit: Exit,
    pub(crate) why: String,
}

impl Stop {
    pub(crate) fn new(exit: Exit, why: impl Into<String>) -> Self {
        Self { exit, why: why.into() }
    }

    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::new(Exit::Failed, why)
    }

    pub(crate) fn usage(why: impl Into<String>) -> Self {
        Self::new(Exit::Usage, why)
    }

    /// Interrupted; `then` says what goes on nevertheless.
    pub(crate) fn interrupted(then: &str) -> Self {
        Self::new(Exit::Interrupted, format!("interrupted{then}"))
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// What a command comes to.
pub(crate) type Ending = Result<Exit, Stop>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::state::Check;

    fn moved() -> Account {
        Account {
            outcome: Outcome::Completed,
            guest_ram: Some(8192),
            pages_verified: Some(2),
            ..Account::default()
        }
    }

    #[test]
    fn each_outcome_has_its_status() {
        assert_eq!(moved().exit(), Exit::Done);
        let of = |outcome| Account { outcome, ..moved() }.exit();
        assert_eq!(of(Outcome::Aborted), Exit::Aborted);
        assert_eq!(of(Outcome::InDoubt), Exit::InDoubt);
        assert_eq!(of(Outcome::Failed), Exit::Failed);
    }

    #[test]
    fn a_move_that_is_not_proven_is_no_success() {
        let some = Some(false);
        let torn = Check { sound: false, sentence: "1 page is torn".into(), ..Check::default() };
        let cases = [
            (Account { pages_verified: Some(1), ..moved() }, "only 1 of 2 pages"),
            (Account { pages_verified: None, ..moved() }, "nobody says"),
            (Account { check: Some(torn), ..moved() }, "1 page is torn"),
            (Account { runs_there: some, destination: "b".into(), ..moved() }, "not run at b"),
            (Account { source_let_go: some, source: "a".into(), ..moved() }, "a still has"),
        ];
        for (account, why) in cases {
            assert_eq!(account.exit(), Exit::Unverified);
            let fault = account.fault().unwrap_or_default();
            assert!(fault.contains(why), "{fault}");
        }
    }

    #[test]
    fn the_table_names_every_status() {
        let all = [0, 1, 2, 3, 4, 5, 6, 7, 130];
        for status in all {
            let row = |line: &str| line.split_whitespace().next() == Some(&status.to_string());
            assert!(TABLE.lines().any(row), "{status}");
        }
        assert_eq!(TABLE.lines().count(), 1 + all.len());
    }

    #[test]
    fn the_guide_has_the_same_table() {
        let guide = include_str!("../../../docs/GUIDE.md");
        for row in TABLE.lines().skip(1) {
            let (status, meaning) = row.trim().split_once("  ").expect("two columns");
            let told = format!("| {status} | {} |", meaning.trim());
            assert!(guide.contains(&told), "{told}");
        }
    }
}
