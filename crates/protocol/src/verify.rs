//! How a migration proves that the memory at the destination is the guest's.

use core::time::Duration;

use whimbrel_page::ByteCount;

/// The feature that both sides need for [`Verify::Full`] (wire.md V1).
pub const VERIFY_FULL: &str = "verify-full";

/// What is compared before the grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Verify {
    /// The digests of what was sent with the digests of what landed. Costs nothing while paused;
    /// a write that the tracker did not see stays unseen.
    #[default]
    Digest,
    /// Both memories themselves, digested anew while the guest stands still.
    Full,
}

impl Verify {
    /// The optional features that a source which wants this picks.
    #[must_use]
    pub const fn features(self) -> &'static [&'static str] {
        match self {
            Self::Digest => &[],
            Self::Full => &[VERIFY_FULL],
        }
    }
}

/// How many times as slow as this side the other one may be.
const SLOWER_MAX: u32 = 16;
/// What is compared with, where next to nothing is digested here.
const SMALLEST: Duration = Duration::from_millis(1);

/// What a full verification will take: each side digests the memory in use, one after the other.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Cost {
    memory: ByteCount,
    here: Duration,
    /// How much the other side has digested in which time; until it has told, it is taken to be
    /// as quick.
    there: Option<(ByteCount, Duration)>,
}

impl Cost {
    /// What it costs one side that digests so much, once it has told how fast it is.
    pub(crate) const fn of(memory: ByteCount) -> Self {
        Self { memory, here: Duration::ZERO, there: None }
    }

    pub(crate) const fn here(&mut self, memory: ByteCount, takes: Duration) {
        (self.memory, self.here) = (memory, takes);
    }

    pub(crate) fn there(&mut self, digested: ByteCount, took: Duration) {
        if digested > ByteCount::ZERO {
            self.there = Some((digested, took));
        }
    }

    pub(crate) const fn memory(&self) -> ByteCount {
        self.memory
    }

    pub(crate) fn time(&self) -> Duration {
        self.here.saturating_add(self.time_there())
    }

    /// The same, where the other side's word decides how long a guest may stand still: it is not
    /// believed to be slower than this side by more than [`SLOWER_MAX`].
    pub(crate) fn believed(&self) -> Duration {
        let most = self.here.max(SMALLEST).saturating_mul(SLOWER_MAX);
        self.here.saturating_add(self.time_there().min(most))
    }

    fn time_there(&self) -> Duration {
        self.there.map_or(self.here, |(digested, took)| {
            let seconds = took.as_secs_f64() / digested.0 as f64 * self.memory.0 as f64;
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_cost_time_and_an_unknown_one_as_much_as_the_known() {
        let mut cost = Cost::default();
        assert_eq!(cost.time(), Duration::ZERO);
        cost.here(ByteCount::mib(100), Duration::from_millis(40));
        assert_eq!(cost.time(), Duration::from_millis(80));
        cost.there(ByteCount::mib(10), Duration::from_millis(6));
        assert!(cost.time().abs_diff(Duration::from_millis(100)) < Duration::from_micros(10));
        cost.there(ByteCount::ZERO, Duration::from_millis(6));
        assert!(cost.time() > Duration::from_millis(99), "nothing was measured by that");
    }

    #[test]
    fn no_word_of_the_peer_is_too_large() {
        let mut cost = Cost::default();
        cost.here(ByteCount(u64::MAX), Duration::MAX);
        cost.there(ByteCount(1), Duration::MAX);
        assert_eq!(cost.time(), Duration::MAX);
        cost.here(ByteCount::mib(100), Duration::from_millis(40));
        assert_eq!(cost.believed(), Duration::from_millis(17 * 40));
        cost.here(ByteCount::ZERO, Duration::ZERO);
        assert!(cost.believed() <= Duration::from_millis(16));
    }
}
