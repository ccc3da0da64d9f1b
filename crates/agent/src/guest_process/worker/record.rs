//! What a living guest process says and does about its record.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use tonic::Status;
use tracing::Instrument as _;
use whimbrel_control::api;
use whimbrel_engine::Journal;
use whimbrel_engine::protocol::{Answer, Process, Question, Record, Standing};

use super::{Held, Phase, Worker};
use crate::convert;
use crate::journal::{self, Entry, FileJournal};
use crate::lock::lock;

/// What is said of a guest while its record is behind.
pub(super) const BEHIND: &str = "how its last migration ended could not be recorded yet, and is \
                                 tried again: free space in the agent's data folder";
/// Between the first two attempts to write what is missing, and between the last ones: about an
/// hour in all.
const CATCH_UP_FIRST: Duration = Duration::from_millis(250);
const CATCH_UP_LAST: Duration = Duration::from_secs(60);
const CATCH_UP_TRIES: usize = 68;

/// The journal of a guest, which may be written while its phase is looked at: a disk that hangs
/// keeps nobody from hearing how the guest is.
#[derive(Clone)]
pub(in crate::guest_process) struct Kept(Arc<Mutex<Box<dyn Journal>>>);

impl Kept {
    pub(in crate::guest_process) fn new(journal: Box<dyn Journal>) -> Self {
        Self(Arc::new(Mutex::new(journal)))
    }

    /// Writes `next` if `last` is the newest record still; says whether it was.
    fn follow(&self, last: &Record, next: &Record) -> io::Result<bool> {
        let mut journal = lock(&self.0);
        match journal.read()?.as_ref() == Some(last) {
            true => journal.record(next).map(|()| true),
            false => Ok(false),
        }
    }
}

impl Journal for Kept {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        lock(&self.0).record(record)
    }

    fn note(&mut self, record: &Record) -> io::Result<()> {
        lock(&self.0).note(record)
    }

    fn read(&self) -> io::Result<Option<Record>> {
        lock(&self.0).read()
    }
}

impl Worker {
    /// What this living process answers to a question of the other side's agent.
    pub(in crate::guest_process) fn ask(
        &self,
        request: &api::AskRequest,
    ) -> Result<api::AskResponse, Status> {
        let (_, term, question) = convert::question(request)?;
        let _within = self.span().entered();
        let unread =
            |error: io::Error| Status::internal(format!("the journal is unreadable: {error}"));
        let answer = || -> io::Result<Answer> {
            let entry = journal::read(&self.folder.journal())?;
            let ruled = |entry: Entry| entry.rule(question, term, Process::Alive).answer;
            Ok(entry.map_or(Answer::Unknown, ruled))
        };
        let mut given = answer().map_err(unread)?;
        if given == Answer::AskProcess && self.say_it_again().is_some() {
            given = answer().map_err(unread)?;
        }
        // The question is the grant once more. The answer to it is there when it is asked again.
        if let (Answer::AskProcess, Question::DoYouRun) = (given, question)
            && let Some(asked) = &*lock(&self.asked)
        {
            asked.asked(term);
        }
        tracing::info!(?question, %term, answer = ?given, "was asked who owns the guest");
        Ok(convert::ask_response(given))
    }

    /// What the record does not say yet, and the journal that it belongs in: the engine has ended
    /// but could not record how, and the phase says it.
    fn missing(&self, record: &Record) -> Option<(Option<Kept>, Record)> {
        let (journal, standing) = match (&*lock(&self.phase), record.standing) {
            (Phase::Here(Held { journal, .. }), Standing::Switching | Standing::Running) => {
                (Some(journal.clone()), Standing::Owner)
            }
            // A guest that was granted and did not run never ran either. Nobody has its journal.
            (Phase::Gone, Standing::MayOwn | Standing::Running) => (None, Standing::Refused),
            _ => return None,
        };
        Some((journal, Record { standing, ..record.clone() }))
    }

    /// Writes what is missing; nothing comes of it where somebody else is at it.
    fn say_it_again(&self) -> Option<Record> {
        let _alone = match self.recording.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(alone)) => alone.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let last = journal::read(&self.folder.journal()).ok()??.record;
        let (journal, next) = self.missing(&last)?;
        let written = match journal {
            Some(journal) => journal.follow(&last, &next),
            None => FileJournal::open(&self.folder.journal())
                .and_then(|mut journal| journal.record(&next))
                .map(|()| true),
        };
        let written = written.inspect_err(|error| tracing::error!("still not recorded: {error}"));
        written.ok()?.then_some(next)
    }

    /// Has the record follow the phase, where the engine could not. Whoever asks before that gets
    /// it done too; a host that restarts finds the guest in doubt until then.
    pub(in crate::guest_process) fn catch_up(self: &Arc<Self>) {
        let (worker, span) = (Arc::clone(self), self.span());
        let catching_up = async move {
            let mut pause = CATCH_UP_FIRST;
            for _ in 0..CATCH_UP_TRIES {
                let (own, within) = (Arc::clone(&worker), tracing::Span::current());
                let look = move || within.in_scope(|| own.is_behind());
                let behind = tokio::task::spawn_blocking(look).await;
                let behind = behind.unwrap_or(false);
                if worker.behind.swap(behind, Ordering::Relaxed) && !behind {
                    tracing::info!("how the migration ended is recorded now");
                }
                if !behind {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(CATCH_UP_LAST);
            }
            tracing::error!("the record stays as it is until somebody asks for it");
        };
        self.runtime.spawn(catching_up.instrument(span));
    }

    /// Tries to write what is missing, and says whether it still is.
    fn is_behind(&self) -> bool {
        let Ok(Some(entry)) = journal::read(&self.folder.journal()) else { return false };
        self.missing(&entry.record).is_some() && self.say_it_again().is_none()
    }
}
