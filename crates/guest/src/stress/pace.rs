//! When a vCPU works and when it stands still: arithmetic on times it is given, no clock.

use std::time::Duration;

use whimbrel_engine::guest::Throttle;
use whimbrel_memory::page::{ByteCount, PAGE_SIZE};

use super::config::DirtyRate;
use crate::throttled::stand;

/// Writes between two looks at the clock at full speed.
const BURST: u64 = 32;
/// Writes of a paced vCPU between two looks at the clock, at most.
const STEP_MAX: u64 = 256;
/// A paced vCPU that is ahead waits at least this long, to write several pages on each wake-up.
const SLICE: Duration = Duration::from_millis(1);
/// A vCPU that was kept from running catches up with this much of its lost time and no more.
const CATCH_UP: Duration = Duration::from_millis(50);
/// A throttled vCPU works and stands still once in this time.
const THROTTLE_PERIOD: Duration = Duration::from_millis(5);

/// What a vCPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many page writes.
    Write(u64),
    /// Nothing until this time.
    StandUntil(Duration),
    /// Nothing, for good.
    Idle,
}

/// Keeps one vCPU to its share of the guest's dirty rate.
#[derive(Debug)]
pub(crate) struct Pacer {
    rate: DirtyRate,
    vcpus: u64,
    since: Duration,
    written: u64,
}

impl Pacer {
    /// A pacer of one of `vcpus` vCPUs that starts to work at `now`.
    pub(crate) const fn new(rate: DirtyRate, vcpus: u64, now: Duration) -> Self {
        Self { rate, vcpus, since: now, written: 0 }
    }

    /// What there is to do at `now`, everything asked for before having been done.
    pub(crate) fn step(&mut self, now: Duration) -> Step {
        let rate = match self.rate {
            DirtyRate::Idle => return Step::Idle,
            DirtyRate::Max => return Step::Write(BURST),
            DirtyRate::PerSecond(rate) => rate,
        };
        let elapsed = now.saturating_sub(self.since);
        let due = pages_in(elapsed, rate, self.vcpus).saturating_sub(self.written);
        if due == 0 {
            let next = self.since.saturating_add(time_of(self.written + 1, rate, self.vcpus));
            return Step::StandUntil(next.max(now + SLICE));
        }
        let most = pages_in(CATCH_UP, rate, self.vcpus).max(1);
        if due > most {
            // Older debts are forgiven, as if it had not worked then.
            self.stood(time_of(due - most, rate, self.vcpus));
        }
        let write = due.min(most).min(STEP_MAX);
        self.written += write;
        Step::Write(write)
    }

    /// The vCPU did not work for `stood`, and owes nothing for it.
    pub(crate) fn stood(&mut self, stood: Duration) {
        self.since = self.since.saturating_add(stood);
    }
}

/// The pages that one of `vcpus` writes in `time` at a common `rate`.
fn pages_in(time: Duration, rate: ByteCount, vcpus: u64) -> u64 {
    let pages = time.as_nanos().saturating_mul(u128::from(rate.0)) / page_cost(vcpus);
    u64::try_from(pages).unwrap_or(u64::MAX)
}

/// The time in which one of `vcpus` writes `pages`.
fn time_of(pages: u64, rate: ByteCount, vcpus: u64) -> Duration {
    let nanos = (u128::from(pages) * page_cost(vcpus)).div_ceil(u128::from(rate.0));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Nanoseconds times bytes a second that a page costs one of `vcpus`.
const fn page_cost(vcpus: u64) -> u128 {
    PAGE_SIZE as u128 * vcpus as u128 * 1_000_000_000
}

/// Makes a throttled vCPU stand still for its share of the time.
#[derive(Debug)]
pub(crate) struct Duty {
    works_since: Duration,
}

impl Duty {
    /// A vCPU that starts to work at `now`.
    pub(crate) const fn new(now: Duration) -> Self {
        Self { works_since: now }
    }

    /// When it will be time to stand still.
    pub(crate) fn works_until(&self, throttle: Throttle) -> Duration {
        let percent = u32::from(throttle.as_percent());
        if percent == 0 {
            return Duration::MAX;
        }
        self.works_since + THROTTLE_PERIOD * (100 - percent) / 100
    }

    /// Until when to stand still, if it is time to. The stand follows from how long the vCPU
    /// really worked, so that a late wake-up does not change the share.
    pub(crate) fn stand_until(&mut self, throttle: Throttle, now: Duration) -> Option<Duration> {
        if throttle == Throttle::OFF {
            self.works_since = now;
            return None;
        }
        if now < self.works_until(throttle) {
            return None;
        }
        Some(now + stand(throttle, now.saturating_sub(self.works_since)))
    }

    /// The vCPU works again from `now` on.
    pub(crate) const fn works(&mut self, now: Duration) {
        self.works_since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn micros(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    /// Pages written in ten seconds in which each page takes `cost` and each wake-up is `late`.
    fn written(rate: DirtyRate, throttle: Throttle, cost: Duration, late: Duration) -> u64 {
        let (mut pacer, mut duty) = (Pacer::new(rate, 1, SECOND), Duty::new(SECOND));
        let (mut now, mut pages) = (SECOND, 0);
        while now < SECOND * 11 {
            if let Some(until) = duty.stand_until(throttle, now) {
                pacer.stood(until + late - now);
                now = until + late;
                duty.works(now);
            }
            match pacer.step(now) {
                Step::Write(count) => {
                    now += cost * count as u32;
                    pages += count;
                }
                Step::StandUntil(until) => now = until.min(duty.works_until(throttle)) + late,
                Step::Idle => break,
            }
        }
        pages
    }

    fn rate(mib: u64) -> DirtyRate {
        DirtyRate::PerSecond(ByteCount::mib(mib))
    }

    #[track_caller]
    fn close_to(pages: u64, expected: u64) {
        let within = (expected / 20).max(1);
        assert!(pages.abs_diff(expected) <= within, "{pages} pages, expected {expected}");
    }

    #[test]
    fn the_rate_is_kept_through_late_wake_ups() {
        for (mib, late) in [(1, 0), (100, 60), (400, 5000), (2000, 100)] {
            let pages = written(rate(mib), Throttle::OFF, micros(1), micros(late));
            close_to(pages, mib * 256 * 10);
        }
        let slow = DirtyRate::PerSecond(ByteCount(4096));
        close_to(written(slow, Throttle::OFF, micros(1), micros(50)), 10);
    }

    #[test]
    fn vcpus_share_the_rate() {
        let mut pacers = [(); 4].map(|()| Pacer::new(rate(100), 4, SECOND));
        let pages = |pacer: &mut Pacer, ms: u64| match pacer.step(SECOND + micros(1000 * ms)) {
            Step::Write(count) => count,
            _ => 0,
        };
        let all = (1..=1000).map(|ms| pacers.iter_mut().map(|p| pages(p, ms)).sum::<u64>());
        close_to(all.sum(), 25_600);
    }

    #[test]
    fn an_idle_vcpu_does_nothing_and_a_full_speed_one_never_waits() {
        assert_eq!(Pacer::new(DirtyRate::Idle, 1, SECOND).step(SECOND * 9), Step::Idle);
        assert_eq!(Pacer::new(DirtyRate::Max, 1, SECOND).step(SECOND), Step::Write(BURST));
        let pages = written(DirtyRate::Max, Throttle::OFF, micros(2), micros(60));
        close_to(pages, 5_000_000);
    }

    #[test]
    fn a_long_stop_is_not_caught_up_with() {
        let mut pacer = Pacer::new(rate(400), 1, SECOND);
        let mut pages = 0;
        while let Step::Write(count) = pacer.step(SECOND * 100) {
            pages += count;
        }
        assert_eq!(pages, pages_in(CATCH_UP, ByteCount::mib(400), 1));
    }

    #[test]
    fn a_throttle_takes_its_share_and_gives_it_back() {
        for (percent, late) in [(20, 0), (50, 60), (90, 60), (99, 0), (99, 60)] {
            let throttle = Throttle::percent(percent);
            let full = written(DirtyRate::Max, throttle, micros(1), micros(late));
            let share = 100 - u64::from(percent);
            assert!(full.abs_diff(100_000 * share) <= 15_000 * share, "{percent}: {full}");
            let paced = written(rate(100), throttle, micros(1), micros(late));
            assert!(paced.abs_diff(2560 * share) <= 384 * share, "{percent}: {paced}");
        }
        let mut duty = Duty::new(SECOND);
        assert!(duty.stand_until(Throttle::MOST, SECOND * 2).is_some());
        assert_eq!(duty.stand_until(Throttle::OFF, SECOND * 2), None);
    }

    #[test]
    fn hostile_rates_do_not_overflow() {
        for bytes in [1, u64::MAX] {
            let mut pacer = Pacer::new(DirtyRate::PerSecond(ByteCount(bytes)), 16, SECOND);
            for seconds in [1, 2, 1 << 40] {
                pacer.step(Duration::from_secs(seconds));
                pacer.step(Duration::MAX / 2);
            }
        }
    }
}
