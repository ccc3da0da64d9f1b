//! What a living guest process says and does about its record.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tonic::Status;
use whimbrel_control::api;
use whimbrel_engine::Journal as _;
use whimbrel_engine::protocol::{Answer, Process, Question, Record, Standing, rule};

use super::{Phase, Worker, lock};
use crate::convert;
use crate::journal::{self, FileJournal};

/// What is said of a guest while its record is behind.
pub(super) const BEHIND: &str = "how its last migration ended could not be recorded yet, and is \
                                 tried again: free space in the agent's data folder";
/// Between the first two attempts to write what is missing, and between the last ones: about an
/// hour in all.
const CATCH_UP_FIRST: Duration = Duration::from_millis(250);
const CATCH_UP_LAST: Duration = Duration::from_secs(60);
const CATCH_UP_TRIES: usize = 68;

impl Worker {
    /// What this living process answers to a question of the other side's agent.
    pub(in crate::guest_process) fn ask(
        &self,
        request: &api::AskRequest,
    ) -> Result<api::AskResponse, Status> {
        let (_, term, question) = convert::question(request)?;
        let mut phase = lock(&self.phase);
        let unread =
            |error: io::Error| Status::internal(format!("the journal is unreadable: {error}"));
        let entry = journal::read(&self.folder.journal()).map_err(unread)?;
        let record = entry.map(|entry| entry.record);
        let mut answer = rule(question, term, record.as_ref(), Process::Alive).answer;
        if let (Answer::AskProcess, Some(record)) = (answer, record)
            && let Some(settled) = self.say_it_again(&mut phase, record)
        {
            answer = rule(question, term, Some(&settled), Process::Alive).answer;
        }
        // The question is the grant once more. The answer to it is there when it is asked again.
        if let (Answer::AskProcess, Question::DoYouRun) = (answer, question)
            && let Some(asked) = &*lock(&self.asked)
        {
            asked.asked(term);
        }
        let _within = self.span().entered();
        tracing::info!(?question, %term, ?answer, "was asked who owns the guest");
        Ok(convert::ask_response(answer))
    }

    /// The engine has ended but could not record how: the phase says it, and now the record does.
    fn say_it_again(&self, phase: &mut Phase, record: Record) -> Option<Record> {
        let recorded = match (phase, record.standing) {
            (Phase::Here(held), Standing::Switching | Standing::Running) => {
                let record = Record { standing: Standing::Owner, ..record };
                held.journal.record(&record).map(|()| record)
            }
            // A guest that was granted and did not run never ran either.
            (Phase::Gone, Standing::MayOwn | Standing::Running) => {
                let record = Record { standing: Standing::Refused, ..record };
                let journal = FileJournal::open(&self.folder.journal());
                journal.and_then(|mut journal| journal.record(&record)).map(|()| record)
            }
            _ => return None,
        };
        recorded.inspect_err(|error| tracing::error!("still not recorded: {error}")).ok()
    }

    /// Has the record follow the phase, where the engine could not. Whoever asks before that gets
    /// it done too; a host that restarts finds the guest in doubt until then.
    pub(in crate::guest_process) fn catch_up(self: &Arc<Self>) {
        let worker = Arc::clone(self);
        self.runtime.spawn(async move {
            let mut pause = CATCH_UP_FIRST;
            for _ in 0..CATCH_UP_TRIES {
                let own = Arc::clone(&worker);
                let behind = tokio::task::spawn_blocking(move || own.is_behind()).await;
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
        });
    }

    /// Tries to write what is missing, and says whether it still is.
    fn is_behind(&self) -> bool {
        let mut phase = lock(&self.phase);
        let Ok(Some(entry)) = journal::read(&self.folder.journal()) else { return false };
        let standing = entry.record.standing;
        let missing = match *phase {
            Phase::Here(_) => matches!(standing, Standing::Switching | Standing::Running),
            Phase::Gone => matches!(standing, Standing::MayOwn | Standing::Running),
            _ => false,
        };
        missing && self.say_it_again(&mut phase, entry.record).is_none()
    }
}
