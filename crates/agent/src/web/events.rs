//! What the page shows, as JSON, newest first over a stream of server-sent events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use whimbrel_control::api::{self, Direction, GuestState, MigrationStatus, Outcome};

use super::gate::WebRight;
use crate::agent::Core;
use crate::units::counted;

/// How often something is told.
const TELL_INTERVAL: Duration = Duration::from_millis(250);
/// Migrations that have ended, of which the page shows the last.
const ENDED_MAX: usize = 20;

/// Looks at the host no more often than it is told of it, however many listen.
#[derive(Debug, Default)]
pub(super) struct Newsroom(Mutex<Option<(Instant, Bytes)>>);

impl Newsroom {
    /// One event, which is as old as an interval at most.
    async fn event(&self, core: &Arc<Core>, may: WebRight) -> Bytes {
        let mut last = self.0.lock().await;
        if let Some((at, event)) = &*last
            && at.elapsed() < TELL_INTERVAL
        {
            return event.clone();
        }
        let event = Bytes::from(format!("data: {}\n\n", core.news(may).await));
        *last = Some((Instant::now(), event.clone()));
        event
    }

    /// Tells `listener` how the host is until it goes away.
    pub(super) async fn tell(
        self: Arc<Self>,
        core: Arc<Core>,
        may: WebRight,
        listener: mpsc::Sender<Bytes>,
    ) {
        let mut ticks = interval(TELL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let event = self.event(&core, may).await;
            if listener.send(event).await.is_err() {
                return;
            }
        }
    }
}

impl Core {
    async fn news(self: &Arc<Self>, may: WebRight) -> Value {
        let guests = self.views(false).await;
        let all = self.guests.all();
        let moving = all.iter().filter_map(|guest| guest.running_migration());
        let moving: Vec<_> = moving.map(|migration| of_moving(&migration.status())).collect();
        // It reads files, but few and small ones.
        let history = Arc::clone(&self.history);
        let ended = tokio::task::spawn_blocking(move || history.newest(ENDED_MAX)).await;
        let ended = ended.unwrap_or_default();
        json!({
            "host": self.host().map(|host| of_host(&host, self)).unwrap_or_default(),
            "may": may.name(),
            "guests": guests.iter().map(of_guest).collect::<Vec<_>>(),
            "moving": moving,
            "ended": ended.iter().map(of_ended).collect::<Vec<_>>(),
        })
    }
}

fn of_host(host: &api::Host, core: &Core) -> Value {
    json!({
        "address": core.address.to_string(),
        "memory_free_bytes": host.memory_free_bytes,
        "memory_limit_bytes": host.memory_limit_bytes,
        "migrations_out": host.migrations_out,
        "migrations_in": host.migrations_in,
    })
}

fn of_guest(guest: &api::Guest) -> Value {
    let state = match guest.state() {
        GuestState::Starting => "starting",
        GuestState::Running => "running",
        GuestState::Paused => "paused",
        GuestState::Migrating => "migrating",
        GuestState::InDoubt => "in doubt",
        GuestState::Gone => "gone",
        GuestState::Failed => "failed",
        GuestState::Unspecified => "unknown",
    };
    let remark = match (&guest.kv, guest.state_reason.as_str()) {
        (Some(kv), "") => {
            let (keys, clients) = (counted(kv.keys, "key"), counted(kv.clients, "client"));
            format!("{keys}, {clients}")
        }
        (_, reason) => reason.to_owned(),
    };
    json!({
        "uuid": guest.uuid,
        "name": guest.name,
        "kind": guest.kind,
        "state": state,
        "memory_bytes": guest.memory_bytes,
        "remark": remark,
    })
}

fn direction(status: &MigrationStatus) -> &'static str {
    match status.direction() {
        Direction::In => "in",
        Direction::Out | Direction::Unspecified => "out",
    }
}

fn of_moving(status: &MigrationStatus) -> Value {
    let round = |round: &api::Round| {
        let (pages, bytes) = (round.pages, round.bytes);
        json!({
            "round": round.round, "pages": pages, "bytes": bytes, "dirty_after": round.dirty_after,
        })
    };
    let lane =
        |lane: &api::Lane| json!({ "lane": lane.lane, "bytes": lane.bytes, "open": lane.open });
    let event = |event: &api::Event| json!({ "us": event.elapsed_us, "said": event.sentence });
    json!({
        "id": status.migration_id,
        "guest": status.guest_name,
        "guest_uuid": status.guest_uuid,
        "direction": direction(status),
        "peer": status.peer,
        "phase": status.phase,
        "elapsed_us": status.elapsed_us,
        "pages_total": status.pages_total,
        "pages_pending": status.pages_pending,
        "bytes_on_wire": status.bytes_on_wire,
        "bandwidth": status.bandwidth_bytes_per_s,
        "dirty_rate": status.dirty_rate_bytes_per_s,
        "throttle_percent": status.throttle_percent,
        "downtime_forecast_us": status.downtime_forecast_us,
        "downtime_limit_us": status.downtime_limit_us,
        "rounds": status.rounds.iter().map(round).collect::<Vec<_>>(),
        "lanes": status.lanes.iter().map(lane).collect::<Vec<_>>(),
        "events": status.events.iter().map(event).collect::<Vec<_>>(),
    })
}

fn of_ended(status: &MigrationStatus) -> Value {
    let outcome = match status.outcome() {
        Outcome::Completed => "completed",
        Outcome::Aborted => "aborted",
        Outcome::InDoubt => "in doubt",
        Outcome::Unspecified => "unknown",
    };
    json!({
        "id": status.migration_id,
        "guest": status.guest_name,
        "direction": direction(status),
        "peer": status.peer,
        "outcome": outcome,
        "reason": status.reason,
        "ended_at_ms": status.ended_at_ms,
        "downtime_us": status.report.as_ref().map_or(0, |report| report.downtime_us),
    })
}
