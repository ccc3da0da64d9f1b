//! A restarted agent finds its guests again. It resumes none of them: what ran goes on running,
//! and what stood still stands still until its record and the other side say more.

use std::io;
use std::sync::Arc;

use tokio::time::sleep;
use tonic::{Code, Status};
use tracing::Instrument;
use whimbrel_control::api::{Direction, GuestState};
use whimbrel_engine::protocol::Process;

use crate::agent::Core;
use crate::convert::parse_uuid;
use crate::folder::GuestFolder;
use crate::guests::{Guest, Life, Migration, life_of};
use crate::process_api as process;
use crate::watching::is_last;

impl Core {
    /// Fills the list of guests from the data folder.
    pub(crate) async fn recover(self: &Arc<Self>) -> io::Result<()> {
        let mut looking = Vec::new();
        for folder in self.folder.guests()? {
            let path = folder.path().display().to_string();
            let guest = match self.found(folder) {
                Ok(guest) => guest,
                Err(error) => {
                    tracing::warn!(path, "not the folder of a guest: {error}");
                    continue;
                }
            };
            let span = guest.span();
            span.in_scope(|| {
                let (name, alive) = (&guest.config.name, !guest.is_dead());
                tracing::info!(guest = name, alive, "found again");
            });
            self.listen_again(&guest).instrument(span.clone()).await;
            let core = Arc::clone(self);
            if guest.is_dead() {
                let ended = async move { core.process_ended(&guest).await };
                tokio::spawn(ended.instrument(span));
            } else {
                self.watch_process(&guest);
                looking.push(tokio::spawn(core.take_up(guest).instrument(span)));
            }
        }
        // Each one is as quick as its process answers, or a deadline.
        for look in looking {
            look.await.map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn found(&self, folder: GuestFolder) -> io::Result<Arc<Guest>> {
        let config = folder.read_config()?;
        let uuid = parse_uuid(&config.uuid)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the config has no uuid"))?;
        let life = match life_of(folder.read_process()?) {
            Life::Alive(identity, file) => match identity.fate() {
                Ok(Process::Dead | Process::HostRestarted) => Life::Dead,
                Ok(Process::Alive) => Life::Alive(identity, file),
                // Left out, it would be asked for as a guest that never was here.
                Err(error) => {
                    let (guest, pid) = (&config.name, identity.pid);
                    tracing::error!(guest, pid, "its process is taken to be alive: {error}");
                    Life::Alive(identity, file)
                }
            },
            Life::Starting | Life::Dead => Life::Dead,
        };
        // Whoever is there was admitted once; limits are for newcomers.
        let guest = Guest::new(uuid, config, folder, life);
        match guest.folder.read_migration() {
            Ok(id) => id.iter().for_each(|id| guest.set_before(id)),
            Err(error) => {
                tracing::warn!(guest = %guest.config.name, "its last migration is unread: {error}");
            }
        }
        self.guests.admit(guest, |_, _| Ok(())).map_err(io::Error::other)
    }

    /// Takes up what the agent before this one was doing with a guest. A process that does not
    /// answer in time is asked again, and nobody waits for that.
    async fn take_up(self: Arc<Self>, guest: Arc<Guest>) {
        // Whether the other side has heard of a person's word is not known any more.
        let seeks = Arc::clone(&self).seek_peer(Arc::clone(&guest));
        tokio::spawn(seeks.in_current_span());
        let mut pause = self.options.deadlines.ask_pause;
        if !self.is_taken_up(&guest).await {
            let again = async move {
                loop {
                    sleep(pause).await;
                    pause = (pause * 2).min(self.options.deadlines.ask_pause_max);
                    if self.is_taken_up(&guest).await {
                        return;
                    }
                }
            };
            tokio::spawn(again.in_current_span());
        }
    }

    /// Whether there is nothing more to try.
    async fn is_taken_up(self: &Arc<Self>, guest: &Arc<Guest>) -> bool {
        let Err(status) = self.try_to_take_up(guest).await else { return true };
        let why = status.message();
        tracing::warn!(guest = %guest.config.name, "its process is not understood: {why}");
        // Another version of it is nothing that time changes.
        status.code() == Code::FailedPrecondition || matches!(guest.look(), Life::Dead)
    }

    async fn try_to_take_up(self: &Arc<Self>, guest: &Arc<Guest>) -> Result<(), Status> {
        let mut link = guest.link(self.options.deadlines).await?;
        let status = link.get_status(process::GetStatusRequest {}).await?;
        let state = status.guest.unwrap_or_default().state();
        let Some(mut last) = status.migration else { return Ok(()) };
        // Its end was not dealt with if the guest is not where it belongs.
        let open = !is_last(&last) || matches!(state, GuestState::Gone | GuestState::InDoubt);
        if !open {
            guest.set_migration(Migration::new(last));
            return Ok(());
        }
        last.outcome = 0;
        let destination = last.peer.parse();
        let direction = last.direction();
        let migration = Migration::new(last);
        guest.set_migration(Arc::clone(&migration));
        let (core, guest) = (Arc::clone(self), Arc::clone(guest));
        match (direction, destination) {
            (Direction::Out, Ok(destination)) => {
                let span = migration.span();
                drop(tokio::spawn(core.see_off(guest, migration, destination).instrument(span)));
            }
            _ => {
                let span = migration.span();
                drop(tokio::spawn(core.see_in(guest, migration).instrument(span)));
            }
        }
        Ok(())
    }
}
