//! A migration is followed from its guest process to whoever watches, and its end is dealt with.

use std::sync::Arc;

use tokio::time::timeout;
use tonic::{Code, Status};
use whimbrel_control::api::{self, MigrationStatus};
use whimbrel_engine::protocol::{Record, Standing};
use whimbrel_engine::{Failure, Fault};

use crate::agent::Core;
use crate::convert::{set_aborted, standing_word};
use crate::guests::{Guest, Life, Migration};
use crate::process_api as process;
use crate::watching::is_last;

impl Core {
    /// Publishes what the guest process says up to the status with the outcome, which is returned
    /// and not published: there may be more to say with it.
    pub(crate) async fn follow(&self, guest: &Guest, migration: &Migration) -> MigrationStatus {
        loop {
            let failed = match self.follow_once(guest, migration).await {
                Ok(last) => return last,
                Err(status) => status,
            };
            if matches!(guest.look(), Life::Dead) {
                return self.end_by_record(guest, migration);
            }
            let name = &guest.config.name;
            tracing::warn!(guest = name, "its process is not heard: {}", failed.message());
            tokio::time::sleep(self.options.deadlines.ask_pause).await;
        }
    }

    async fn follow_once(
        &self,
        guest: &Guest,
        migration: &Migration,
    ) -> Result<MigrationStatus, Status> {
        let mut link = guest.link(self.options.deadlines).await?;
        let mut statuses = link.watch().await?;
        while let Some(status) = statuses.message().await? {
            if is_last(&status) {
                return Ok(status);
            }
            migration.publish(|newest| *newest = status);
        }
        Err(Status::unavailable("it ended before the migration did"))
    }

    /// Whether the guest process has begun a migration that it did not say it had; if not, it never
    /// will. Only it can tell, or its record once it is dead.
    pub(crate) async fn has_begun(&self, guest: &Guest, id: &str) -> bool {
        loop {
            let asked = async {
                let mut link = guest.link(self.options.deadlines).await?;
                link.give_up(process::GiveUpRequest { migration_id: id.to_owned() }).await
            };
            let failed = match asked.await {
                Ok(given_up) => return given_up.begun,
                Err(status) => status,
            };
            if matches!(guest.look(), Life::Dead) {
                return true;
            }
            let name = &guest.config.name;
            tracing::warn!(guest = name, "whether it moves is not told: {}", failed.message());
            tokio::time::sleep(self.options.deadlines.ask_pause).await;
        }
    }

    /// How a migration ended whose process died over it.
    fn end_by_record(&self, guest: &Guest, migration: &Migration) -> MigrationStatus {
        let mut status = migration.status();
        let entry = match self.entry(guest) {
            Ok(entry) => entry,
            Err(unreadable) => {
                status.set_outcome(api::Outcome::InDoubt);
                unreadable.message().clone_into(&mut status.reason);
                return status;
            }
        };
        match entry.map(|entry| entry.record.standing) {
            Some(Standing::Switching | Standing::Granted) => {
                status.set_outcome(api::Outcome::InDoubt);
                "the guest process died in the switchover".clone_into(&mut status.reason);
            }
            Some(Standing::Ceded) => status.set_outcome(api::Outcome::Completed),
            Some(Standing::Owner | Standing::Running)
                if migration.direction == api::Direction::In =>
            {
                status.set_outcome(api::Outcome::Completed);
            }
            _ => {
                let why = match migration.direction {
                    api::Direction::In => "the guest process died here; the guest never ran here",
                    _ => "the guest process died here, and the guest with it",
                };
                set_aborted(&mut status, &Failure::new(Fault::Guest, why));
            }
        }
        status
    }

    /// Deals with the end of the process of a guest, however it came: once, and whoever comes
    /// later waits until it is done.
    pub(crate) async fn process_ended(self: &Arc<Self>, guest: &Arc<Guest>) {
        let mut buried = guest.buried.lock().await;
        if !guest.is_dead() || std::mem::replace(&mut *buried, true) {
            return;
        }
        if let Err(error) = guest.folder.forget_process() {
            tracing::error!(guest = %guest.config.name, "its process file stays: {error}");
        }
        let name = &guest.config.name;
        if guest.never_ran() {
            self.refuse_for_dead(guest);
        }
        // What cannot be read is left as it is, for a person.
        let Ok(entry) = self.entry(guest) else { return };
        let term = entry.as_ref().map(|entry| entry.record.term);
        let standing = entry.map(|entry| entry.record.standing);
        let word = standing.map(standing_word);
        tracing::info!(guest = name, standing = word, "the guest process has ended");
        match standing {
            // Whoever stops it deals with the rest.
            _ if guest.was_stopped() => {}
            // Nothing has come of it since.
            _ if term.is_some_and(|term| guest.is_as_stopped(term)) => self.remember(guest),
            None => self.erase(guest),
            Some(Standing::Ceded | Standing::Refused) => self.remember(guest),
            Some(Standing::Owner | Standing::Running) => {
                tracing::error!(guest = name, "the guest has died with its process");
                self.end_relay(guest.uuid);
            }
            Some(Standing::MayOwn | Standing::Switching | Standing::Granted) => {
                drop(buried);
                self.settle_dead(guest).await;
            }
        }
    }

    /// Whether the guest has moved away from a process that is still there.
    pub(crate) fn has_left(&self, guest: &Guest) -> bool {
        let standing = || Some(self.entry(guest).ok()??.record.standing);
        guest.identity().is_some() && standing() == Some(Standing::Ceded)
    }

    /// Refuses what takes a guest that runs here, where it has gone on: who is told that can ask
    /// there.
    pub(crate) fn check_here(&self, guest: &Guest) -> Result<(), Status> {
        let record = self.entry(guest).ok().flatten().map(|entry| entry.record);
        match record.filter(|record| record.standing == Standing::Ceded) {
            Some(Record { peer, .. }) => Err(Status::failed_precondition(format!(
                "guest `{}` does not run here any more: it has moved to {peer}; ask there",
                guest.config.name
            ))),
            None => Ok(()),
        }
    }

    /// Admits a guest. Where it is refused for what those have who have moved away, it is so once
    /// more when they have given that back.
    pub(crate) async fn admit<T>(
        &self,
        admit: impl Fn() -> Result<T, Status>,
    ) -> Result<T, Status> {
        let taken = |code| matches!(code, Code::ResourceExhausted | Code::AlreadyExists);
        match admit() {
            Err(refused) if taken(refused.code()) && self.makes_room().await => admit(),
            admitted => admitted,
        }
    }

    /// Whether there is more room once those who have moved away have given back what they had.
    async fn makes_room(&self) -> bool {
        let mut left = self.guests.all();
        left.retain(|guest| self.has_left(guest));
        !left.is_empty() && self.see_ended(&left).await
    }

    /// Waits until the processes of guests that have moved away have ended, no longer than whoever
    /// calls waits. Says whether they have.
    pub(crate) async fn see_ended(&self, left: &[Arc<Guest>]) -> bool {
        let ended = async {
            for guest in left {
                if let Some(identity) = guest.identity() {
                    identity.ended().await?;
                    guest.set_dead();
                }
            }
            Ok::<_, std::io::Error>(())
        };
        matches!(timeout(self.options.deadlines.peer_call / 2, ended).await, Ok(Ok(())))
    }

    /// Keeps the number of guests that are only remembered in bounds.
    pub(crate) fn prune(&self) {
        let mut remembered = self.guests.all();
        // Clients that are carried yet come and go with it until `release`.
        let carries = |guest: &Guest| self.relays.look(guest.uuid).is_some();
        remembered.retain(|it| it.is_dead() && it.was_stopped() && !carries(it));
        let most = self.options.limits.remembered as usize;
        let surplus = remembered.len().saturating_sub(most);
        if surplus == 0 {
            return;
        }
        let written = |guest: &Arc<Guest>| {
            guest.folder.journal().metadata().and_then(|journal| journal.modified()).ok()
        };
        remembered.sort_by_key(written);
        remembered.iter().take(surplus).for_each(|guest| self.erase(guest));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use whimbrel_engine::protocol::GuestUuid;

    use crate::agent::Agent;
    use crate::folder::DataFolder;
    use crate::options::AgentOptions;
    use crate::process_api::GuestFile;
    use crate::stub_process::StubProcess;

    const GUEST: GuestUuid = GuestUuid(5);

    /// Its answer to the call was late: it may be on its way, or there already.
    #[tokio::test]
    async fn only_the_guest_process_can_say_that_it_has_not_begun_a_migration() {
        let temp = tempfile::tempdir().unwrap();
        let process = StubProcess::of(GUEST).await;
        let folder = DataFolder::open(temp.path()).unwrap().guest(GUEST);
        let name = "web".to_owned();
        let config = GuestFile { uuid: GUEST.to_string(), name, ..Default::default() };
        folder.write_config(&config).unwrap();
        folder.write_process(&process.file).unwrap();
        let mut options = AgentOptions::new(temp.path(), ([127, 0, 0, 1], 0).into());
        options.deadlines.ask_pause = Duration::from_millis(1);
        let core = Agent::bound(options).await.core();
        let guest = core.guests.get(GUEST).unwrap();
        let mut asked = process.asked.clone();
        let has_begun = core.has_begun(&guest, "this");
        let silent = async {
            asked.wait_for(|times| *times > 3).await.unwrap();
            process.begun.send_replace(Some("this"));
        };
        let watched = timeout(Duration::from_secs(50), async { tokio::join!(has_begun, silent) });
        assert!(watched.await.expect("it is answered").0);
        assert!(!core.has_begun(&guest, "another").await);
    }
}
