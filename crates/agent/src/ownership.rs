//! Who owns a guest, when it is not plain: questions, answers, and a person's word.
//!
//! ```text
//!  asked:  the living process answers; only for a dead one its record does, by the table
//!  asking: in doubt ─► ask the other agent ─► settled, recorded ─► the guest runs, or is given up
//! ```
//!
//! Nothing in here decides by itself: a guest in doubt stands still until an answer comes that
//! the rules of ownership accept, or a person vouches for one.

use std::io;
use std::sync::Arc;

use tokio::time::{Instant, timeout};
use tonic::Status;
use whimbrel_control::api::{self, MigrationStatus};
use whimbrel_engine::protocol::{Answer, Process, Question, Record, Standing, Term};
use whimbrel_engine::{Failure, Fault, Journal};

use crate::access::Authenticated;
use crate::agent::Core;
use crate::convert::{self, set_aborted};
use crate::guests::{Guest, Life, Migration};
use crate::journal::{Entry, FileJournal};
use crate::os::BootId;
use crate::process_api::{self as process, settle_request::Decision};

impl Core {
    /// Answers another agent's question.
    pub(crate) async fn ask(
        self: Arc<Self>,
        request: api::AskRequest,
        who: Authenticated,
    ) -> Result<api::AskResponse, Status> {
        let (uuid, term, question) = convert::question(&request)?;
        let Some(guest) = self.guests.get(uuid) else {
            // What cannot be read is not what never was.
            if self.folder.guest(uuid).is_there() {
                let why = format!("what there is of guest {uuid} here cannot be read: see the log");
                return Err(Status::internal(why));
            }
            return Ok(convert::ask_response(Answer::Unknown));
        };
        self.check_asker(&guest, &who, question, term)?;
        let asked = match guest.look() {
            Life::Alive(..) => match guest.link(self.options.deadlines).await {
                Ok(mut link) => Some(link.ask(request).await),
                Err(status) => Some(Err(status)),
            },
            Life::Starting => Some(Err(Status::unavailable("it is just starting"))),
            Life::Dead => None,
        };
        match asked {
            Some(Ok(answer)) => return Ok(answer),
            // Unless it has died over the question.
            Some(Err(status)) if !guest.is_dead() => {
                let _within = guest.span().entered();
                let why = format!("the guest process cannot answer: {}", status.message());
                tracing::warn!(guest = %guest.config.name, "{why}");
                return Err(Status::unavailable(why));
            }
            Some(Err(_)) | None => {}
        }
        let answer = self.answer_for_dead(&guest, question, term)?;
        let _within = guest.span().entered();
        tracing::info!(guest = %guest.config.name, ?question, %term, ?answer, "was asked");
        Ok(convert::ask_response(answer))
    }

    /// Refuses whoever has not been the other side of a migration of the guest, and a question that
    /// decides who owns it from all but the other side of the last one.
    fn check_asker(
        &self,
        guest: &Guest,
        who: &Authenticated,
        question: Question,
        term: Term,
    ) -> Result<(), Status> {
        guest.check_party(who.0.as_ref())?;
        // The one grants, the other has the guest taken for dead.
        let decided_about = match question {
            Question::DoYouRun => Standing::MayOwn,
            Question::WasItMine => Standing::Switching,
            Question::MayIRun | Question::DidYouRun => return Ok(()),
        };
        let record = self.entry(guest)?.map(|it| (it.record.standing, it.record.term));
        if record == Some((decided_about, term)) {
            guest.check_newest_party(who.0.as_ref())
        } else {
            Ok(())
        }
    }

    /// What the record of a guest says whose process is proven dead.
    fn answer_for_dead(
        &self,
        guest: &Guest,
        question: Question,
        term: Term,
    ) -> Result<Answer, Status> {
        guest.with_journal(|| {
            let entry = self.entry(guest)?;
            let Some(entry) = entry else { return Ok(Answer::Unknown) };
            let ruling = entry.rule(question, term, dead_since(&entry));
            if let Some(standing) = ruling.record {
                let record = Record { term, standing, ..entry.record };
                write(guest, &record).map_err(|error| unrecorded(&error))?;
                guest.change_doubt();
            }
            Ok(ruling.answer)
        })
    }

    /// The process said before it ended that the guest never ran here: where it could not record
    /// that, it is recorded now. A reader takes the note Running of a dead process for a guest
    /// that has run. A process that does not die keeps its record.
    pub(crate) fn refuse_for_dead(&self, guest: &Guest) {
        if !matches!(guest.look(), Life::Dead) {
            return;
        }
        let refused = guest.with_journal(|| {
            let Some(Entry { record, .. }) = self.entry(guest)? else { return Ok(()) };
            if record.standing != Standing::Running {
                return Ok(());
            }
            let record = Record { standing: Standing::Refused, ..record };
            write(guest, &record).map_err(|error| unrecorded(&error))
        });
        if let Err(status) = refused {
            let why = status.message();
            tracing::error!(guest = %guest.config.name, "that it never ran is not recorded: {why}");
        }
    }

    /// Whether the record leaves open who owns the guest.
    pub(crate) fn is_in_doubt(&self, guest: &Guest) -> bool {
        let Ok(entry) = self.entry(guest) else { return true };
        let standing = entry.map(|entry| entry.record.standing);
        matches!(standing, Some(Standing::Switching | Standing::Granted | Standing::MayOwn))
    }

    /// Deals with a guest whose process died in a switchover.
    pub(crate) async fn settle_dead(self: &Arc<Self>, guest: &Arc<Guest>) {
        let Ok(Some(entry)) = self.entry(guest) else { return };
        if entry.record.standing == Standing::MayOwn && dead_since(&entry) == Process::Dead {
            // Without the note it never ran here, and with a dead process it never will.
            let answer = self.answer_for_dead(guest, Question::DoYouRun, entry.record.term);
            if answer.is_ok_and(|answer| answer == Answer::NeverRan) {
                self.remember(guest);
                return;
            }
        }
        // With a migration that is followed, its follower asks, and tells those who watch.
        if guest.running_migration().is_none() {
            self.settle(guest, None).await;
        }
    }

    /// Asks the other agent until it is known who owns the guest. The migration whose end this
    /// is becomes public when that is known, or as in doubt when it takes too long.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        guest: &Arc<Guest>,
        mut untold: Option<(&Arc<Migration>, MigrationStatus)>,
    ) {
        if !guest.take_doubt() {
            return;
        }
        let deadlines = self.options.deadlines;
        let began = Instant::now();
        let mut pause = deadlines.ask_pause;
        let doubted = || self.is_in_doubt(guest) && !guest.was_stopped() && self.guests.has(guest);
        while doubted() {
            self.try_to_settle(guest).await;
            if !doubted() {
                break;
            }
            if let Some((migration, last)) = &untold {
                if began.elapsed() >= deadlines.abandon {
                    self.abandon(guest, migration).await;
                }
                if began.elapsed() >= deadlines.settle {
                    self.conclude(migration, last.clone()).await;
                }
            }
            // An earlier word from a person ends the pause, which is what it is for.
            let _ = timeout(pause, guest.doubt_changed()).await;
            pause = (pause * 2).min(deadlines.ask_pause_max);
        }
        guest.end_doubt();
        if let Some((migration, last)) = untold.take() {
            self.tell_settled(guest, migration, last).await;
        }
    }

    /// Ends the waiting of a destination for a guest whose process has died here before it granted
    /// anything.
    async fn abandon(&self, guest: &Guest, migration: &Migration) {
        let Ok(Some(entry)) = self.entry(guest) else { return };
        if matches!(entry.record.standing, Standing::Switching | Standing::Granted)
            && guest.is_dead()
            && let Ok(peer) = entry.record.peer.parse()
        {
            self.take_back(migration, &peer).await;
        }
    }

    async fn try_to_settle(self: &Arc<Self>, guest: &Arc<Guest>) {
        let Ok(Some(entry)) = self.entry(guest) else { return };
        let process = if guest.is_dead() { dead_since(&entry) } else { Process::Alive };
        let record = entry.record;
        let ungranted = (record.standing, process) == (Standing::Switching, Process::Dead);
        let question = question_of(record.standing);
        let answer = match self.ask_peer(&record, question).await {
            Ok(answer) => answer,
            Err(status) => {
                let why = status.message();
                tracing::warn!(guest = %guest.config.name, peer = %record.peer, "in doubt: {why}");
                return;
            }
        };
        tracing::info!(guest = %guest.config.name, peer = %record.peer, ?answer, "asked in doubt");
        let decision = match answer {
            Answer::Runs | Answer::NotYours => Decision::GiveUp(true),
            Answer::NeverRan => Decision::Run(true),
            // wire.md O9: nobody was granted it, nor waits to be.
            Answer::Unknown if ungranted => Decision::Run(true),
            // Somebody may have all of it, and be unable to ask here.
            Answer::AskProcess if ungranted => return self.grant_for_dead(guest, &record),
            // A dead process cannot take what is offered.
            Answer::Yours | Answer::AskProcess | Answer::Unknown => return,
        };
        if let Err(status) = self.decide(guest, &record, decision).await {
            let why = status.message();
            tracing::warn!(guest = %guest.config.name, "the answer has no effect yet: {why}");
        }
    }

    /// The guest of a dead process is granted by its agent, which then asks DoYouRun.
    fn grant_for_dead(&self, guest: &Guest, record: &Record) {
        match self.succeed(guest, record, Standing::Granted) {
            Ok(()) => guest.change_doubt(),
            Err(status) => {
                let why = status.message();
                tracing::warn!(guest = %guest.config.name, "it is not granted yet: {why}");
            }
        }
    }

    /// Records a standing for a process that is proven dead, if its record still is `last`.
    fn succeed(&self, guest: &Guest, last: &Record, standing: Standing) -> Result<(), Status> {
        guest.with_journal(|| {
            if self.entry(guest)?.is_none_or(|now| now.record != *last) {
                return Err(Status::aborted("its record has changed meanwhile"));
            }
            let next = Record { standing, ..last.clone() };
            write(guest, &next).map_err(|error| unrecorded(&error))
        })
    }

    async fn ask_peer(&self, record: &Record, question: Question) -> Result<Answer, Status> {
        let address = record.peer.parse();
        let address = address.map_err(|_| Status::internal("the record names no other agent"))?;
        let mut peer = self.connect(&address).await?;
        let request = convert::ask_request(record.guest, record.term, question);
        let response = peer.ask(request).await;
        let response = response.map_err(|error| Status::unavailable(error.to_string()))?;
        let newer = || Status::unimplemented("the answer is not one that this version knows");
        convert::answer(&response).ok_or_else(newer)
    }

    /// Has a decision recorded and carried out, by the process, or for a dead one here.
    async fn decide(
        self: &Arc<Self>,
        guest: &Arc<Guest>,
        record: &Record,
        decision: Decision,
    ) -> Result<(), Status> {
        if let Life::Alive(..) = guest.look() {
            let mut link = guest.link(self.options.deadlines).await?;
            let request = process::SettleRequest {
                term_generation: record.term.generation,
                term_host: record.term.host,
                decision: Some(decision),
            };
            link.settle(request).await?;
            if matches!(decision, Decision::GiveUp(_)) {
                self.end_process(guest).await;
            }
            return Ok(());
        }
        let standing = match (decision, record.standing) {
            (Decision::GiveUp(_), Standing::MayOwn) => Standing::Refused,
            (Decision::GiveUp(_), _) => Standing::Ceded,
            (Decision::Run(_) | Decision::Burn(_), _) => Standing::Owner,
        };
        self.succeed(guest, record, standing)?;
        match standing {
            Standing::Owner => {
                tracing::error!(guest = %guest.config.name, "the guest has died with its process");
            }
            _ => self.remember(guest),
        }
        Ok(())
    }

    /// The doubt has ended: so has the migration, one way or the other.
    async fn tell_settled(
        self: &Arc<Self>,
        guest: &Arc<Guest>,
        migration: &Arc<Migration>,
        mut last: MigrationStatus,
    ) {
        let standing = match self.guests.get(guest.uuid) {
            // The journal is that of another one, which has come after this one had gone.
            Some(there) if !Arc::ptr_eq(&there, guest) => Some(Standing::Ceded),
            _ => self.entry(guest).ok().flatten().map(|entry| entry.record.standing),
        };
        match standing {
            Some(Standing::Ceded) => {
                last.set_outcome(api::Outcome::Completed);
                last.reason.clear();
                if let Ok(destination) = last.peer.parse() {
                    self.collect(&migration.id, &destination, &mut last).await;
                }
            }
            Some(Standing::Owner) => {
                let (fault, why) = match guest.look() {
                    Life::Dead => (Fault::Guest, "the guest process died, and the guest with it"),
                    _ => (Fault::Link, "the destination never ran the guest; it goes on here"),
                };
                set_aborted(&mut last, &Failure::new(fault, why));
            }
            _ => {}
        }
        let destination = last.peer.parse();
        self.conclude(migration, last).await;
        // Nothing was granted, which the destination need not have heard yet.
        if let (Some(Standing::Owner), true, Ok(destination)) =
            (standing, guest.is_dead(), destination)
        {
            self.take_back(migration, &destination).await;
        }
    }

    /// A person decides about a guest in doubt.
    pub(crate) async fn resolve_guest(
        self: Arc<Self>,
        request: api::ResolveGuestRequest,
    ) -> Result<api::Guest, Status> {
        use api::resolve_guest_request::Decision as Word;
        let guest = self.guests.find(&request.guest)?;
        let name = &guest.config.name;
        let refuse = |why: &str| Status::failed_precondition(format!("guest `{name}` {why}"));
        let state = self.view(&guest).await.state();
        let in_doubt = matches!(state, api::GuestState::InDoubt | api::GuestState::Paused);
        let entry = self.entry(&guest)?.filter(|_| in_doubt);
        let entry = entry.ok_or_else(|| refuse("is not in doubt; there is nothing to resolve"))?;
        let record = entry.record;
        let decision = match request.decision {
            Some(Word::GiveUp(true)) => Decision::GiveUp(true),
            Some(Word::RunHere(true)) if !request.peer_is_off => {
                let why = format!(
                    "may run on {}: make sure that it is off and stays off, and say so with \
                     --peer-is-off",
                    record.peer
                );
                return Err(refuse(&why));
            }
            Some(Word::RunHere(true)) if guest.is_dead() => {
                return Err(refuse("has died with its process here: it can only be given up"));
            }
            Some(Word::RunHere(true)) => Decision::Burn(self.folder.host()),
            _ => return Err(Status::invalid_argument("say whether to run it here or give it up")),
        };
        self.decide(&guest, &record, decision).await?;
        guest.span().in_scope(|| {
            tracing::warn!(guest = name, ?decision, "resolved by a person");
        });
        guest.change_doubt();
        if matches!(decision, Decision::Burn(_)) {
            tokio::spawn(Arc::clone(&self).seek_peer(Arc::clone(&guest)));
        }
        Ok(self.view(&guest).await)
    }
}

/// What is asked about a guest with this record.
const fn question_of(standing: Standing) -> Question {
    match standing {
        // wire.md O7: what was not granted is not granted by asking, nor taken by a dead process.
        Standing::MayOwn => Question::WasItMine,
        Standing::Switching => Question::DidYouRun,
        _ => Question::DoYouRun,
    }
}

/// What is known of a dead process from the boot in which its record was written.
pub(crate) fn dead_since(entry: &Entry) -> Process {
    match BootId::now() {
        Ok(boot) if boot == entry.boot => Process::Dead,
        // Where the boot is not known, notes may be lost.
        _ => Process::HostRestarted,
    }
}

/// Writes for a process that is proven dead.
fn write(guest: &Guest, record: &Record) -> io::Result<()> {
    if !matches!(guest.look(), Life::Dead) {
        return Err(io::Error::other("the guest process lives, and only it may write its journal"));
    }
    FileJournal::open(&guest.folder.journal())?.record(record)
}

fn unrecorded(error: &io::Error) -> Status {
    Status::internal(format!(
        "the ownership journal cannot be written: {error}; free space in the agent's data folder"
    ))
}

#[cfg(test)]
mod tests;
