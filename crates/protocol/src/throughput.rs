//! How much the lanes have carried, and how long they were at it.

use core::time::Duration;

use whimbrel_page::ByteCount;

use crate::Now;

/// What the lanes have carried since the migration began. What was sent and never acknowledged is
/// in none of it but the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Throughput {
    /// Bytes that were acknowledged.
    pub landed: ByteCount,
    /// How long anything was under way.
    pub busy: Duration,
    /// Bytes that are under way: sent by a lane that lives, and not acknowledged.
    pub under_way: ByteCount,
}

impl Throughput {
    /// What was acknowledged after `before`, and how long anything was under way meanwhile.
    #[must_use]
    pub fn since(&self, before: &Self) -> (ByteCount, Duration) {
        let landed = self.landed.0.saturating_sub(before.landed.0);
        (ByteCount(landed), self.busy.saturating_sub(before.busy))
    }
}

/// Reads a [`Throughput`] off the lanes of a source. What takes the ledger through a sending or an
/// acknowledgement tells it, with the time at which that was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    landed: ByteCount,
    /// Up to the last time that nothing was under way.
    busy: Duration,
    under_way: ByteCount,
    /// Since when something is under way, if anything is.
    since: Now,
}

impl Meter {
    /// So much was sent.
    pub fn sent(&mut self, now: Now, bytes: ByteCount) {
        if self.under_way == ByteCount::ZERO {
            self.since = now;
        }
        self.under_way += bytes;
    }

    /// So much of it was acknowledged.
    pub fn landed(&mut self, now: Now, bytes: ByteCount) {
        self.landed += bytes;
        self.gone(now, bytes);
    }

    /// So much of it will not be acknowledged: its lane is over.
    pub fn gone(&mut self, now: Now, bytes: ByteCount) {
        let before = self.read(now);
        self.under_way = ByteCount(self.under_way.0.saturating_sub(bytes.0));
        if self.under_way == ByteCount::ZERO {
            self.busy = before.busy;
            self.since = now;
        }
    }

    /// All of it up to now.
    #[must_use]
    pub fn read(&self, now: Now) -> Throughput {
        let Self { landed, under_way, .. } = *self;
        let open =
            if under_way == ByteCount::ZERO { Duration::ZERO } else { now.since(self.since) };
        Throughput { landed, busy: self.busy + open, under_way }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now(Duration::from_millis(ms))
    }

    fn read(meter: &Meter, ms: u64) -> (u64, u128, u64) {
        let Throughput { landed, busy, under_way } = meter.read(at(ms));
        (landed.0, busy.as_millis(), under_way.0)
    }

    #[test]
    fn only_time_with_something_under_way_counts() {
        let mut meter = Meter::default();
        meter.sent(at(10), ByteCount(5));
        meter.sent(at(12), ByteCount(5));
        assert_eq!(read(&meter, 15), (0, 5, 10));
        meter.landed(at(20), ByteCount(5));
        meter.landed(at(30), ByteCount(5));
        assert_eq!(read(&meter, 99), (10, 20, 0), "69 ms were idle");
        meter.sent(at(100), ByteCount(7));
        assert_eq!(read(&meter, 101), (10, 21, 7));
    }

    #[test]
    fn what_a_dead_lane_had_under_way_is_not_waited_for() {
        let mut meter = Meter::default();
        meter.sent(at(0), ByteCount(5));
        meter.gone(at(3), ByteCount(5));
        assert_eq!(read(&meter, 1000), (0, 3, 0));
        let before = meter.read(at(1000));
        meter.sent(at(1000), ByteCount(8));
        meter.landed(at(1001), ByteCount(8));
        let (bytes, busy) = meter.read(at(2000)).since(&before);
        assert_eq!((bytes, busy), (ByteCount(8), Duration::from_millis(1)));
    }
}
