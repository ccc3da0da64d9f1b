//! The end of a migration, as it is told to everybody: those who watch, the history, the counters.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::timeout;
use whimbrel_control::api::{self, MigrationStatus};
use whimbrel_engine::Failure;

use crate::agent::Core;
use crate::convert::{self, set_aborted};
use crate::guests::Migration;
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

    /// A migration by its id, or the running or last one of a guest: one that is remembered, or
    /// one of the history.
    pub(crate) fn look_up(&self, text: &str) -> Result<MigrationStatus, tonic::Status> {
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
