//! The heartbeat: time as the guest itself sees it.
//!
//! A vCPU of its own beats every half millisecond. A gap of more than [`BEAT_DUE`] between two
//! beats is time the guest lost: it was paused, starved, or throttled. Gaps within one host are
//! measured with the monotonic clock; the gap over a move, for which the two hosts share no such
//! clock, with the time of day.

use std::time::Duration;

/// From beat to beat.
pub(crate) const BEAT_PERIOD: Duration = Duration::from_micros(500);
/// A gap up to here is an ordinary wake-up; what is beyond it is lost.
pub(crate) const BEAT_DUE: Duration = Duration::from_millis(1);
/// The time over which the recent rate of operations is taken, at least.
const RATE_WINDOW: Duration = Duration::from_millis(250);

/// One moment on the two clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Monotonic; means nothing to another process.
    pub(crate) here: Duration,
    /// Since 1970; may be set back.
    pub(crate) everywhere: Duration,
}

/// The part of a [`Heart`] that moves with the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pulse {
    /// Beats over the guest's life.
    pub(crate) beats: u64,
    /// The time of day of the last one; 0 if there was none.
    pub(crate) last_beat: Duration,
    /// The longest gap since it was last asked to start afresh.
    pub(crate) longest: Duration,
    /// The sum of what gaps had beyond [`BEAT_DUE`], since then.
    pub(crate) lost: Duration,
}

/// Beats, and what was seen between them.
#[derive(Debug, Default)]
pub(crate) struct Heart {
    pulse: Pulse,
    beats_here: u64,
    /// When the last beat was, if it was on this host.
    last_here: Option<Duration>,
    /// The start of the running rate window: when, and how many operations before it.
    window: Option<(Duration, u64)>,
    operations_per_second: u64,
}

impl Heart {
    /// Takes over the pulse of a guest that beat elsewhere.
    pub(crate) fn arrive(&mut self, pulse: Pulse) {
        *self = Self { pulse, ..Self::default() };
    }

    /// Forgets gaps: what is reported from now on began now.
    pub(crate) const fn start_afresh(&mut self) {
        self.pulse.longest = Duration::ZERO;
        self.pulse.lost = Duration::ZERO;
    }

    /// One beat, when the vCPUs had done `operations`.
    pub(crate) fn beat(&mut self, now: Moment, operations: u64) {
        let gap = match self.last_here {
            Some(last) => now.here.saturating_sub(last),
            None if self.pulse.beats > 0 => now.everywhere.saturating_sub(self.pulse.last_beat),
            None => Duration::ZERO,
        };
        self.pulse.longest = self.pulse.longest.max(gap);
        self.pulse.lost = self.pulse.lost.saturating_add(gap.saturating_sub(BEAT_DUE));
        self.pulse.beats += 1;
        self.pulse.last_beat = now.everywhere;
        self.beats_here += 1;
        self.last_here = Some(now.here);
        self.measure(now.here, operations);
    }

    fn measure(&mut self, now: Duration, operations: u64) {
        let (start, before) = *self.window.get_or_insert((now, operations));
        let span = now.saturating_sub(start);
        if span >= RATE_WINDOW {
            let done = u128::from(operations.saturating_sub(before));
            let rate = done * 1_000_000_000 / span.as_nanos();
            self.operations_per_second = u64::try_from(rate).unwrap_or(u64::MAX);
            self.window = Some((now, operations));
        }
    }

    pub(crate) const fn pulse(&self) -> Pulse {
        self.pulse
    }

    pub(crate) const fn beats_here(&self) -> u64 {
        self.beats_here
    }

    pub(crate) const fn operations_per_second(&self) -> u64 {
        self.operations_per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(here_us: u64, everywhere_us: u64) -> Moment {
        let micros = Duration::from_micros;
        Moment { here: micros(here_us), everywhere: micros(everywhere_us) }
    }

    #[test]
    fn ordinary_beats_lose_nothing_and_gaps_do() {
        let mut heart = Heart::default();
        for us in [1000, 1560, 2500] {
            heart.beat(at(us, us), 0);
        }
        assert_eq!(heart.pulse().lost, Duration::ZERO);
        heart.beat(at(6500, 6500), 0);
        heart.beat(at(9000, 9000), 0);
        assert_eq!(heart.pulse().longest, Duration::from_micros(4000));
        assert_eq!(heart.pulse().lost, Duration::from_micros(3000 + 1500));
        heart.start_afresh();
        assert_eq!((heart.pulse().longest, heart.pulse().lost), Default::default());
        assert_eq!(heart.pulse().beats, 5);
    }

    #[test]
    fn the_gap_over_a_move_is_measured_with_the_time_of_day() {
        let mut source = Heart::default();
        source.beat(at(900_000, 5_000_000), 0);
        let mut destination = Heart::default();
        destination.arrive(source.pulse());
        destination.beat(at(10, 5_007_000), 0);
        assert_eq!(destination.pulse().longest, Duration::from_micros(7000));
        assert_eq!(destination.pulse().lost, Duration::from_micros(6000));
        assert_eq!((destination.pulse().beats, destination.beats_here()), (2, 1));
    }

    #[test]
    fn a_clock_set_back_gives_no_gap_and_the_first_beat_has_none() {
        let mut heart = Heart::default();
        heart.beat(at(5_000_000, 9_000_000), 0);
        assert_eq!(heart.pulse().longest, Duration::ZERO);
        let mut moved = Heart::default();
        moved.arrive(heart.pulse());
        moved.beat(at(1, 8_000_000), 0);
        assert_eq!(moved.pulse().longest, Duration::ZERO);
    }

    #[test]
    fn the_recent_rate_follows_the_work() {
        let mut heart = Heart::default();
        for beat in 0..=1000 {
            heart.beat(at(beat * 500, 0), beat * 5);
        }
        assert_eq!(heart.operations_per_second(), 10_000);
        for beat in 1001..=2000 {
            heart.beat(at(beat * 500, 0), 5000);
        }
        assert_eq!(heart.operations_per_second(), 0);
    }
}
