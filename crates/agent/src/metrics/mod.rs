//! What Prometheus is told of this host, its guests and its migrations, in base units.

mod counters;
mod exposition;

use std::sync::Arc;
use std::time::Duration;

use whimbrel_control::api::{self, Direction, GuestState, MigrationStatus, Outcome};
use whimbrel_engine::page::PageCount;

use crate::agent::Core;
use crate::os::{self, ProcessIdentity};
pub(crate) use counters::Counters;
use counters::{Counts, Histogram, Way};
pub(crate) use exposition::CONTENT_TYPE;
use exposition::{Exposition, Kind};

const STATES: [(GuestState, &str); 7] = [
    (GuestState::Starting, "starting"),
    (GuestState::Running, "running"),
    (GuestState::Paused, "paused"),
    (GuestState::Migrating, "migrating"),
    (GuestState::InDoubt, "in_doubt"),
    (GuestState::Gone, "gone"),
    (GuestState::Failed, "failed"),
];

impl Core {
    /// A page of metrics.
    ///
    /// # Errors
    /// The host does not say how much memory it has.
    pub(crate) async fn metrics(self: &Arc<Self>) -> Result<String, tonic::Status> {
        let host = self.host()?;
        let guests = self.views(true).await;
        let running = || {
            let all = self.guests.all();
            all.iter().filter_map(|guest| guest.running_migration()).collect::<Vec<_>>()
        };
        let counts = self.counters.with_running(running);
        let moving: Vec<_> = running().iter().map(|migration| migration.status()).collect();
        let mut page = Exposition::default();
        of_host(&mut page, &host);
        of_guests(&mut page, &guests);
        of_ended(&mut page, &counts);
        of_moving(&mut page, &host, &moving);
        of_agent(&mut page);
        Ok(page.into_text())
    }
}

fn of_host(page: &mut Exposition, host: &api::Host) {
    page.family("whimbrel_build_info", Kind::Gauge, "1, with the version of the agent.")
        .sample(&[("version", &host.version)], 1);
    let memory = [
        ("whimbrel_host_memory_free_bytes", "Memory a guest may still ask for.", {
            host.memory_free_bytes
        }),
        ("whimbrel_host_memory_promised_bytes", "Memory promised to guests.", {
            host.memory_promised_bytes
        }),
        ("whimbrel_host_memory_limit_bytes", "The most memory that may be promised.", {
            host.memory_limit_bytes
        }),
    ];
    for (name, help, bytes) in memory {
        page.family(name, Kind::Gauge, help).sample(&[], bytes);
    }
}

fn of_guests(page: &mut Exposition, guests: &[api::Guest]) {
    page.family("whimbrel_guests", Kind::Gauge, "Guests of this host by their state.");
    for (state, word) in STATES {
        let count = guests.iter().filter(|guest| guest.state() == state).count();
        page.sample(&[("state", word)], count);
    }
    let here: Vec<_> = guests.iter().filter(|guest| guest.state() != GuestState::Gone).collect();
    let gauge = |page: &mut Exposition, name, help, value: fn(&api::Guest) -> Option<u64>| {
        page.family(name, Kind::Gauge, help);
        for guest in &here {
            if let Some(value) = value(guest) {
                page.sample(&[("guest", &guest.name), ("uuid", &guest.uuid)], value);
            }
        }
    };
    gauge(page, "whimbrel_guest_memory_bytes", "The guest's memory.", |guest| {
        Some(guest.memory_bytes)
    });
    gauge(
        page,
        "whimbrel_guest_resident_memory_bytes",
        "Memory that the guest's process holds, shared memory counted.",
        |guest| Some(guest.rss_bytes),
    );
    gauge(page, "whimbrel_guest_clients", "Clients of a key-value guest.", |guest| {
        guest.kv.as_ref().map(|kv| kv.clients)
    });
    page.family(
        "whimbrel_relay_connections",
        Kind::Gauge,
        "Connections of clients that this host carries to a guest, wherever that runs.",
    );
    for guest in guests.iter().filter(|guest| !guest.service_address.is_empty()) {
        page.sample(&[("guest", &guest.name), ("uuid", &guest.uuid)], guest.carried);
    }
}

fn of_ended(page: &mut Exposition, counts: &Counts) {
    let ways = [("out", &counts.out), ("in", &counts.into)];
    page.family(
        "whimbrel_migrations_total",
        Kind::Counter,
        "Migrations that ended, by outcome; one in doubt is counted when it is settled.",
    );
    for (direction, way) in ways {
        for outcome in [Outcome::Completed, Outcome::Aborted] {
            let word = counters::word(outcome);
            let count = way.ended.get(word).copied().unwrap_or(0);
            page.sample(&[("direction", direction), ("outcome", word)], count);
        }
    }
    let counter = |page: &mut Exposition, name, help, value: fn(&Way) -> u64| {
        page.family(name, Kind::Counter, help);
        for (direction, way) in ways {
            page.sample(&[("direction", direction)], value(way));
        }
    };
    counter(
        page,
        "whimbrel_migration_refusals_total",
        "Attempts that ended before the destination expected the guest; they are no migrations.",
        |way| way.called_off,
    );
    counter(
        page,
        "whimbrel_migration_bytes_total",
        "Bytes that lanes of migrations have carried.",
        |way| way.bytes,
    );
    counter(
        page,
        "whimbrel_migration_missed_pages_total",
        "Pages that changed without the dirty tracker seeing it; they were found and sent again.",
        |way| way.missed,
    );
    let duration = "How long completed migrations took, by direction.";
    histogram(page, "whimbrel_migration_duration_seconds", duration, &ways, |way| &way.duration);
    let downtime = "From the source's pause to the word that the guest runs at the destination.";
    histogram(page, "whimbrel_migration_downtime_seconds", downtime, &ways, |way| &way.downtime);
    let blackout = "The longest gap that a guest saw when it moved.";
    histogram(page, "whimbrel_migration_blackout_seconds", blackout, &ways, |way| &way.blackout);
}

fn histogram(
    page: &mut Exposition,
    name: &'static str,
    help: &str,
    ways: &[(&str, &Way)],
    of: fn(&Way) -> &Histogram,
) {
    page.family(name, Kind::Histogram, help);
    for (direction, way) in ways {
        let histogram = of(way);
        let (ends, all) = histogram.cumulative();
        for (end, count) in ends {
            let end = seconds(Duration::from_millis(end));
            page.suffixed("_bucket", &[("direction", direction), ("le", &end)], count);
        }
        page.suffixed("_bucket", &[("direction", direction), ("le", "+Inf")], all);
        page.suffixed("_sum", &[("direction", direction)], seconds(histogram.sum()));
        page.suffixed("_count", &[("direction", direction)], all);
    }
}

type Value = fn(&MigrationStatus) -> Option<String>;

/// What there is to say of a migration that is under way: name, help, and the value.
const MOVING: [(&str, &str, Value); 8] = [
    ("whimbrel_migration_elapsed_seconds", "Since a running migration began.", |status| {
        Some(micros(status.elapsed_us))
    }),
    ("whimbrel_migration_remaining_bytes", "Memory that still has to be sent.", |status| {
        Some(PageCount(status.pages_pending).bytes().0.to_string())
    }),
    (
        "whimbrel_migration_bandwidth_bytes_per_second",
        "What all lanes carry, measured over the last rounds.",
        |status| status.bandwidth_bytes_per_s.map(|rate| rate.to_string()),
    ),
    (
        "whimbrel_migration_dirty_bytes_per_second",
        "What the guest dirties, a page counted once a round.",
        |status| status.dirty_rate_bytes_per_s.map(|rate| rate.to_string()),
    ),
    (
        "whimbrel_migration_downtime_forecast_seconds",
        "The downtime that a switchover would have now.",
        |status| status.downtime_forecast_us.map(micros),
    ),
    ("whimbrel_migration_throttle_ratio", "How far the guest is slowed down.", |status| {
        Some((f64::from(status.throttle_percent) / 100.0).to_string())
    }),
    ("whimbrel_migration_round", "The round that is going on.", |status| {
        status.rounds.last().map(|round| round.round.to_string())
    }),
    ("whimbrel_migration_lanes", "Lanes that are open.", |status| {
        Some(status.lanes.iter().filter(|lane| lane.open).count().to_string())
    }),
];

fn of_moving(page: &mut Exposition, host: &api::Host, moving: &[MigrationStatus]) {
    page.family("whimbrel_migrations", Kind::Gauge, "Migrations that are under way.")
        .sample(&[("direction", "out")], host.migrations_out)
        .sample(&[("direction", "in")], host.migrations_in);
    page.family("whimbrel_migrations_limit", Kind::Gauge, "The most of them, each way.")
        .sample(&[], host.migrations_limit);
    for (name, help, value) in MOVING {
        page.family(name, Kind::Gauge, help);
        for status in moving {
            let direction = match status.direction() {
                Direction::In => "in",
                Direction::Out | Direction::Unspecified => "out",
            };
            let (guest, uuid) = (status.guest_name.as_str(), status.guest_uuid.as_str());
            let labels = [("direction", direction), ("guest", guest), ("uuid", uuid)];
            if let Some(value) = value(status) {
                page.sample(&labels, value);
            }
        }
    }
}

/// What every program says of itself, by the names that all use.
fn of_agent(page: &mut Exposition) {
    if let Ok(usage) = os::usage() {
        let help = "User and system time of the agent's process.";
        page.family("process_cpu_seconds_total", Kind::Counter, help)
            .sample(&[], seconds(usage.cpu));
    }
    if let Ok(own) = ProcessIdentity::own() {
        let help = "Memory that the agent's process holds.";
        page.family("process_resident_memory_bytes", Kind::Gauge, help)
            .sample(&[], own.resident().0);
    }
}

fn micros(micros: u64) -> String {
    seconds(Duration::from_micros(micros))
}

fn seconds(time: Duration) -> String {
    time.as_secs_f64().to_string()
}
