//! What is counted over the life of an agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use whimbrel_control::api::{Direction, MigrationStatus, Outcome};

use crate::guests::Migration;

/// What is counted of the migrations one way.
#[derive(Clone, Debug, Default)]
pub(super) struct Way {
    pub(super) ended: BTreeMap<&'static str, u64>,
    /// Attempts that never came to a migration.
    pub(super) called_off: u64,
    /// Bytes that lanes have carried for migrations that have ended.
    pub(super) bytes: u64,
    /// Pages that a tracker did not see change.
    pub(super) missed: u64,
    pub(super) duration: Histogram,
    pub(super) downtime: Histogram,
    pub(super) blackout: Histogram,
}

/// Both ways.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) out: Way,
    pub(super) into: Way,
}

impl Counts {
    const fn way(&mut self, migration: &Migration) -> &mut Way {
        match migration.direction {
            Direction::In => &mut self.into,
            Direction::Out | Direction::Unspecified => &mut self.out,
        }
    }
}

/// Counts what migrations come to.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Counts>);

impl Counters {
    /// Publishes how a migration ended, and counts it, while nobody looks: its bytes are counted
    /// as those of a running one or of one that has ended, and never as neither.
    pub(crate) fn conclude(&self, migration: &Migration, last: MigrationStatus) {
        let mut counts = self.lock();
        let way = counts.way(migration);
        let was_running = migration.is_running();
        way.count(&last, was_running);
        migration.publish(|newest| *newest = last);
    }

    /// Counts an attempt that never came to a migration.
    pub(crate) fn call_off(&self, migration: &Migration) {
        self.lock().way(migration).called_off += 1;
    }

    /// The counts, with the bytes of migrations that are under way.
    pub(super) fn with_running(&self, running: impl FnOnce() -> Vec<Arc<Migration>>) -> Counts {
        let held = self.lock();
        let mut counts = held.clone();
        for migration in running().iter().filter(|migration| migration.is_running()) {
            let way = counts.way(migration);
            way.bytes += migration.status().bytes_on_wire;
        }
        counts
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Way {
    fn count(&mut self, last: &MigrationStatus, was_running: bool) {
        // One in doubt has carried its bytes, and what it comes to is counted when that is settled.
        if last.outcome() != Outcome::InDoubt {
            *self.ended.entry(word(last.outcome())).or_default() += 1;
        }
        if was_running {
            self.bytes += last.bytes_on_wire;
        }
        let Some(report) = &last.report else { return };
        if was_running {
            self.missed += report.pages_missed;
        }
        if last.outcome() != Outcome::Completed {
            return;
        }
        self.duration.observe(Duration::from_millis(report.total_ms));
        // Only the source's clock has it.
        if report.downtime_us > 0 {
            self.downtime.observe(Duration::from_micros(report.downtime_us));
        }
        if let Some(blackout) = report.blackout_us {
            self.blackout.observe(Duration::from_micros(blackout));
        }
    }
}

/// The word of the metrics for an outcome.
pub(super) const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Aborted => "aborted",
        Outcome::InDoubt => "in_doubt",
        Outcome::Unspecified => "unknown",
    }
}

/// The upper ends of the buckets, in milliseconds: a blackout that nobody feels, and one of which
/// connections die.
pub(super) const BUCKETS_MS: [u64; 12] =
    [1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 60_000, 600_000, 3_600_000];

/// How often something took how long.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    /// One more than there are ends.
    buckets: [u64; BUCKETS_MS.len() + 1],
    sum: Duration,
}

impl Histogram {
    fn observe(&mut self, took: Duration) {
        let fits = |end: &u64| took <= Duration::from_millis(*end);
        self.buckets[BUCKETS_MS.iter().position(fits).unwrap_or(BUCKETS_MS.len())] += 1;
        self.sum += took;
    }

    /// The number of what took no longer than each end, and of all.
    pub(super) fn cumulative(&self) -> (Vec<(u64, u64)>, u64) {
        let mut below = 0;
        let ends = BUCKETS_MS.iter().zip(self.buckets).map(|(end, count)| {
            below += count;
            (*end, below)
        });
        let ends: Vec<_> = ends.collect();
        (ends, self.buckets.iter().sum())
    }

    pub(super) const fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whimbrel_control::api::MigrationReport;

    fn status(outcome: Outcome, bytes: u64) -> MigrationStatus {
        let report = MigrationReport { downtime_us: 20_000, pages_missed: 3, ..Default::default() };
        MigrationStatus {
            direction: Direction::Out.into(),
            outcome: outcome.into(),
            bytes_on_wire: bytes,
            report: (outcome == Outcome::Completed).then_some(report),
            ..Default::default()
        }
    }

    #[test]
    fn a_migration_that_was_in_doubt_counts_once_and_its_bytes_as_they_were_carried() {
        let counters = Counters::default();
        let migration = Migration::new(status(Outcome::Unspecified, 100));
        let bytes = || counters.with_running(|| vec![Arc::clone(&migration)]).out.bytes;
        assert_eq!(bytes(), 100);
        counters.conclude(&migration, status(Outcome::InDoubt, 120));
        assert_eq!(bytes(), 120);
        assert_eq!(counters.with_running(Vec::new).out.ended, BTreeMap::new());
        counters.conclude(&migration, status(Outcome::Completed, 120));
        let counts = counters.with_running(Vec::new);
        assert_eq!(counts.out.bytes, 120);
        assert_eq!(counts.out.ended, BTreeMap::from([("completed", 1)]));
        assert_eq!((counts.out.downtime.cumulative().1, counts.into.bytes), (1, 0));
    }

    #[test]
    fn buckets_are_cumulative_and_everything_falls_into_one() {
        let mut histogram = Histogram::default();
        for millis in [0, 1, 2, 100, 7_200_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let (ends, all) = histogram.cumulative();
        assert_eq!(&ends[..5], [(1, 2), (3, 3), (10, 3), (30, 3), (100, 4)]);
        assert_eq!((ends.last(), all), (Some(&(3_600_000, 4)), 5));
        assert_eq!(histogram.sum(), Duration::from_millis(7_200_103));
    }
}
