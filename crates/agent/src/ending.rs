//! The end of a migration, as it is told to everybody: those who watch, the history, the counters.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;
use tonic::Status;
use whimbrel_control::api::{self, Direction, GuestState, MigrationStatus};
use whimbrel_control::{AgentAddress, ClientError};
use whimbrel_engine::Failure;

use crate::agent::Core;
use crate::convert::{self, set_aborted};
use crate::guests::{Guest, Migration};
use crate::outgoing::of_peer;
use crate::process_api as process;
use crate::watching::is_last;

impl Core {
    /// Tells how a migration ended. Who has heard of it finds it in the history, also after this
    /// agent has died. What was told already is not told again; a doubt that was settled is.
    pub(crate) async fn conclude(&self, migration: &Migration, mut last: MigrationStatus) {
        if migration.status().outcome == last.outcome {
            return;
        }
        last.ended_at_ms = now_ms();
        let (history, kept) = (Arc::clone(&self.history), last.clone());
        let kept = tokio::task::spawn_blocking(move || history.keep(&kept)).await;
        if let Err(error) = kept.map_err(std::io::Error::other).flatten() {
            tracing::warn!("there will be no report of it after a restart: {error}");
        }
        self.counters.conclude(migration, last);
    }

    /// The same of one that failed before its process could say anything.
    pub(crate) async fn conclude_failed(&self, migration: &Migration, failure: &Failure) {
        let mut last = migration.status();
        set_aborted(&mut last, failure);
        self.conclude(migration, last).await;
    }

    /// Ends an attempt that the other side refused or never heard of: whoever watches it hears why.
    /// It is no migration that comes into a report.
    pub(crate) fn call_off(&self, migration: &Migration, failure: &Failure) {
        tracing::warn!("the migration does not begin: {}", failure.why);
        self.counters.call_off(migration);
        migration.publish(|status| set_aborted(status, failure));
    }

    /// Waits until a migration has ended here and, as far as that is heard in time, there: whoever
    /// cancels one finds neither side busy with it.
    pub(crate) async fn await_clearance(&self, migration: &Migration) {
        let (mut here, status) = (migration.watch(), migration.status());
        let ended = async {
            // The sender lives as long as the migration.
            let _ = here.wait_for(is_last).await;
            if let Ok(there) = status.peer.parse() {
                // Where nothing is known of it any more, nothing is left of it.
                let _ = self.ended_there(&migration.id, &there).await;
            }
        };
        let within = self.options.deadlines.collect;
        if timeout(within, ended).await.is_err() {
            tracing::warn!(peer = %status.peer, "it is cancelled, and may be busy for a while yet");
        }
    }

    /// A guest that runs here, as its process says, has come, though that may be just being written
    /// down: whoever moves it on waits for that, and is not told that it is moving.
    pub(crate) async fn await_arrival(&self, guest: &Guest) {
        let comes = |migration: &Arc<Migration>| migration.direction == Direction::In;
        let Some(migration) = guest.running_migration().filter(comes) else { return };
        let told = async {
            let mut link = guest.link(self.options.deadlines).await?;
            link.get_status(process::GetStatusRequest {}).await
        };
        let runs = |guest: api::Guest| guest.state() == GuestState::Running;
        if told.await.is_ok_and(|status| status.guest.is_some_and(runs)) {
            let mut here = migration.watch();
            let _ = timeout(self.options.deadlines.collect, here.wait_for(is_last)).await;
        }
    }

    /// Tells the destination's agent that the guest will not come, and waits until it has nothing
    /// left of it that the next attempt would find. Without that word its process waits as long as
    /// a lost link may take to come back.
    pub(crate) async fn take_back(&self, migration: &Migration, destination: &AgentAddress) {
        let Some(token) = migration.token() else { return };
        let cancel = api::CancelIncomingRequest { migration_id: migration.id.clone(), token };
        let told = async {
            let mut peer = self.connect(destination).await?;
            peer.cancel_incoming(cancel).await.map_err(|error| of_peer(destination, &error))?;
            self.ended_there(&migration.id, destination).await
        };
        let why = match timeout(self.options.deadlines.collect, told).await {
            Ok(Ok(_)) => return,
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "it has not said in time that it does not".to_owned(),
        };
        tracing::warn!(peer = %destination, "it may still expect the guest: {why}");
    }

    /// Adds the destination's half to a report, as far as it can be had in time. Without the
    /// source's half, which has died with its process, there is none: its zeros would be told.
    pub(crate) async fn collect(
        &self,
        id: &str,
        destination: &AgentAddress,
        last: &mut MigrationStatus,
    ) {
        let Some(report) = &mut last.report else { return };
        let deadline: Duration = self.options.deadlines.collect;
        let theirs = match timeout(deadline, self.ended_there(id, destination)).await {
            Ok(Ok(theirs)) => theirs.report.unwrap_or_default(),
            Ok(Err(status)) => {
                let why = status.message();
                tracing::warn!(peer = %destination, "the report stays without its half: {why}");
                return;
            }
            Err(_) => {
                tracing::warn!(peer = %destination, "no half of the report in {deadline:?}");
                return;
            }
        };
        report.blackout_us = theirs.blackout_us;
        report.lost_us = theirs.lost_us;
        report.cpu_destination_ms = theirs.cpu_destination_ms;
        report.peak_rss_destination_bytes = theirs.peak_rss_destination_bytes;
    }

    pub(crate) async fn ended_there(
        &self,
        id: &str,
        destination: &AgentAddress,
    ) -> Result<MigrationStatus, Status> {
        let mut peer = self.connect(destination).await?;
        let failed = |error: ClientError| of_peer(destination, &error);
        let mut watch = peer.watch(id).await.map_err(failed)?;
        let mut newest = MigrationStatus::default();
        while let Some(status) = watch.next().await.map_err(failed)? {
            newest = status;
        }
        Ok(newest)
    }

    /// A migration by its id, or the running or last one of a guest: one that is remembered, or
    /// one of the history.
    pub(crate) fn look_up(&self, text: &str) -> Result<MigrationStatus, Status> {
        self.guests.find_migration(text).map(|migration| migration.status()).or_else(|unknown| {
            let kept = self.history.find(text);
            let of_guest =
                |ended: &MigrationStatus| ended.guest_name == text || ended.guest_uuid == text;
            kept.or_else(|| self.history.all().into_iter().find(of_guest)).ok_or(unknown)
        })
    }

    /// Those that have ended since that mark, the newest first, each in a few words. Blocks.
    pub(crate) fn ended_migrations(&self, since: &str) -> api::ListMigrationsResponse {
        let few_words = |ended: MigrationStatus| MigrationStatus {
            rounds: Vec::new(),
            lanes: Vec::new(),
            events: Vec::new(),
            decisions: Vec::new(),
            ..ended
        };
        let (migrations, mark) = self.history.since(since);
        let migrations = migrations.into_iter().map(few_words).collect();
        api::ListMigrationsResponse { migrations, mark }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, convert::millis)
}
