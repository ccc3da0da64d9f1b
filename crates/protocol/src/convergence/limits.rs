//! What the lanes may carry, as far as a forecast counts on it.

use whimbrel_page::ByteRate;

/// What somebody allows the lanes to carry, which no measurement can exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Limits {
    pub(super) rounds: Option<ByteRate>,
    pub(super) last: Option<ByteRate>,
}

/// A link that carries so much of what it may is held back by the limit alone.
const HELD_BACK: f64 = 0.85;

impl Limits {
    /// What rounds that went at this rate can go at for long: a lane that waits for its turn has
    /// nothing under way, and that time is in no rate.
    pub(super) fn rounds(self, measured: f64) -> f64 {
        self.rounds.map_or(measured, |limit| measured.min(limit.0 as f64))
    }

    /// How fast the last pages go, where rounds went at this rate. One that the limit of the rounds
    /// held back goes as fast as the last pages may.
    pub(super) fn last(self, measured: Option<f64>) -> Option<f64> {
        let as_rate = |limit: Option<ByteRate>| limit.map(|limit| limit.0 as f64);
        let (rounds, last) = (as_rate(self.rounds), as_rate(self.last));
        let held_back = |rate: f64| rounds.is_some_and(|limit| rate >= limit * HELD_BACK);
        match (measured, last) {
            (Some(rate), Some(last)) if held_back(rate) => Some(last),
            (Some(rate), Some(last)) => Some(rate.min(last)),
            (rate, last) => rate.or(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use whimbrel_page::{ByteCount, PageCount};

    use super::super::{Convergence, Forecast, Policy, Round};
    use super::*;
    use crate::Throughput;

    fn forecast() -> Forecast {
        let downtime_max = Duration::from_millis(300);
        Forecast::new(Convergence { downtime_max, policy: Policy::Wait }, PageCount(262_144))
    }

    #[test]
    fn a_limit_is_a_bandwidth_that_is_known() {
        let rate = |mib: u64| Some(ByteRate(mib << 20));
        let dirty = PageCount(25_600); // 100 MiB
        let offers = |forecast: &Forecast| forecast.downtime(dirty).map(|time| time.as_millis());
        let mut fresh = forecast();
        assert_eq!(offers(&fresh), None);
        fresh.limited(rate(50), rate(50));
        assert_eq!(offers(&fresh), Some(2000), "before anything was measured");
        let mut measured = forecast();
        measured.decide(Round {
            throughput: Throughput {
                landed: ByteCount::mib(100),
                busy: Duration::from_secs(1),
                ..Throughput::default()
            },
            open: Some(Duration::from_secs(1)),
            written: PageCount(9),
            dirty: PageCount(9),
            harvest: Duration::ZERO,
            errand: Duration::ZERO,
        });
        assert_eq!(offers(&measured), Some(1000));
        measured.limited(None, rate(50));
        assert_eq!(offers(&measured), Some(2000), "it would have gone faster");
        measured.limited(rate(100), rate(400));
        assert_eq!(offers(&measured), Some(250), "only the limit held it back");
        measured.limited(rate(200), rate(400));
        assert_eq!(offers(&measured), Some(1000), "the link did");
    }
}
