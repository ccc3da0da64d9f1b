//! What the view knows of a migration. Nothing in here is drawn, asked or waited for.

use std::time::Duration;

/// Bytes in a page, the unit in which rounds and lanes count.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// A look at a migration that is under way.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Look {
    pub(crate) guest: String,
    pub(crate) source: String,
    pub(crate) destination: String,
    /// What is being done, as the field calls it.
    pub(crate) phase: String,
    pub(crate) elapsed: Duration,
    pub(crate) pages_total: u64,
    pub(crate) pages_pending: u64,
    /// Bytes a second over all lanes, once measured.
    pub(crate) bandwidth: Option<u64>,
    /// Bytes a second that the guest dirties, once measured.
    pub(crate) dirty_rate: Option<u64>,
    pub(crate) throttle_percent: u32,
    pub(crate) downtime_forecast: Option<Duration>,
    pub(crate) downtime_limit: Option<Duration>,
    /// The last one may still be going on.
    pub(crate) rounds: Vec<Round>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) paths: Vec<Path>,
    /// Sentences and when they came to be true, oldest first.
    pub(crate) events: Vec<(Duration, String)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) round: u32,
    pub(crate) pages: u64,
    pub(crate) bytes: u64,
    pub(crate) duration: Duration,
    pub(crate) dirty_after: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) lane: u32,
    pub(crate) bytes: u64,
    pub(crate) pages: u64,
    pub(crate) open: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// Bytes a second, at last.
    pub(crate) rate: u64,
    pub(crate) lanes: u32,
    pub(crate) connections: u32,
    pub(crate) up: bool,
}

impl Look {
    /// Bytes that still have to be sent.
    pub(crate) fn pending(&self) -> u64 {
        self.pages_pending.saturating_mul(PAGE_BYTES)
    }

    /// The part of the guest's memory that the destination has as it is now, 0.0..=1.0.
    pub(crate) fn fresh(&self) -> f64 {
        let pending = self.pages_pending.min(self.pages_total);
        if self.pages_total == 0 { 0.0 } else { 1.0 - pending as f64 / self.pages_total as f64 }
    }
}

/// How a migration ended, for the person who asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The guest runs at the destination.
    Completed,
    /// The guest runs at the source, as before.
    Aborted,
    /// Nobody here can know which of them owns it.
    InDoubt,
    /// It did not come to a migration, or its end was not seen.
    #[default]
    Failed,
}

/// The whole account of a migration. What nobody could say is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Account {
    pub(crate) outcome: Outcome,
    /// Why it did not complete.
    pub(crate) reason: Option<String>,
    /// Its id.
    pub(crate) migration: String,
    pub(crate) guest: String,
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) total: Option<Duration>,
    pub(crate) downtime: Option<Duration>,
    pub(crate) downtime_parts: Option<Downtime>,
    pub(crate) downtime_limit: Option<Duration>,
    pub(crate) downtime_forecast: Option<Duration>,
    /// The longest gap that the guest itself saw.
    pub(crate) blackout: Option<Duration>,
    /// Work time that the guest missed beside what it would have had undisturbed.
    pub(crate) lost: Option<Duration>,
    pub(crate) bytes_on_wire: Option<u64>,
    pub(crate) guest_ram: Option<u64>,
    pub(crate) throughput_mib_s: Option<f64>,
    /// How it was verified: `digest` or `full`.
    pub(crate) verify: Option<&'static str>,
    pub(crate) pages_verified: Option<u64>,
    /// Pages that changed without the tracker seeing it, and were found.
    pub(crate) pages_missed: Option<u64>,
    /// Pages that were looked at for that while the guest ran.
    pub(crate) pages_scrubbed: Option<u64>,
    pub(crate) at_source: Cost,
    pub(crate) at_destination: Cost,
    pub(crate) throttle_percent: Option<u32>,
    /// The same as `transport`, in words.
    pub(crate) travelled: Option<&'static str>,
    /// What carried it: `tcp`, `tcp-signed`, `tls`, `quic` or `unix`.
    pub(crate) transport: Option<&'static str>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) paths: Vec<Path>,
    pub(crate) check: Option<Check>,
    /// Whether the destination said that the guest runs there.
    pub(crate) runs_there: Option<bool>,
    /// Whether the source said that the guest is gone from there.
    pub(crate) source_let_go: Option<bool>,
}

/// What the guest's process used on one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) cpu: Option<Duration>,
    pub(crate) peak_rss: Option<u64>,
}

/// Where the downtime went; the parts follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Downtime {
    pub(crate) pause: Duration,
    pub(crate) harvest: Duration,
    pub(crate) state: Duration,
    pub(crate) last_pages: Duration,
    pub(crate) prepared: Duration,
    pub(crate) grant: Duration,
    pub(crate) run: Duration,
    pub(crate) verify: Duration,
}

impl Account {
    /// An account of which no more is known than why there is none.
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self { reason: Some(why.into()), ..Self::default() }
    }
}

/// What the guest found when it looked at its own memory after the move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) sound: bool,
    pub(crate) pages: u64,
    pub(crate) lost: u64,
    pub(crate) stale: u64,
    pub(crate) ahead: u64,
    pub(crate) torn: u64,
    pub(crate) foreign: u64,
    pub(crate) sentence: String,
    /// The first damaged pages, by name.
    pub(crate) findings: Vec<String>,
}
