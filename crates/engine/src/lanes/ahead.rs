//! When to harvest for the next round: while the lanes still send the last of this one.
//!
//! A harvest takes time that grows with the guest and with what it wrote. Lanes that waited for it
//! would stand still between any two rounds. So it begins when what is left of the round will take
//! them about as long; pages that it finds ahead of the cursor go in the same round.

use std::time::{Duration, Instant};

use whimbrel_page::{PageCount, PageSet};

use super::SourceLanes;

/// Watches the pages of a round go, and says once when it is time.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// When the round began and how many pages it had, until it was time.
    round: Option<(Instant, PageCount)>,
    /// What a harvest takes while the lanes are at work.
    harvest: Duration,
}

impl Ahead {
    /// A round of so many pages begins now.
    pub(super) fn begin(&mut self, pages: PageCount) {
        self.round = Some((Instant::now(), pages));
    }

    /// There is no round to harvest after.
    pub(super) const fn end(&mut self) {
        self.round = None;
    }

    /// Takes note of what a harvest took.
    pub(super) const fn takes(&mut self, harvest: Duration) {
        self.harvest = harvest;
    }

    /// Whether it is time, when so many pages of the round were taken.
    pub(super) fn due(&mut self, taken: PageCount) -> bool {
        let Some((began, pages)) = self.round else { return false };
        let due = is_due(began.elapsed(), taken.0, pages.0, self.harvest);
        if due {
            self.end();
        }
        due
    }
}

/// Whether the rest of `pages` goes in no more time than a harvest, where `taken` took `elapsed`.
/// What is taken in less than a harvest says nothing of the rate: it fills the lanes' windows.
fn is_due(elapsed: Duration, taken: u64, pages: u64, harvest: Duration) -> bool {
    let left = u128::from(pages.saturating_sub(taken));
    let foreseen = || elapsed.as_nanos() * left <= harvest.as_nanos() * u128::from(taken);
    taken > 0 && (left == 0 || elapsed >= harvest && foreseen())
}

impl SourceLanes {
    /// Adds the pages of a harvest that took so long.
    pub(crate) fn harvested(&self, pages: &PageSet, took: Duration) {
        let mut state = self.shared.lock();
        state.ahead.takes(took);
        state.ledger.harvested(pages);
    }

    /// Adds every page that was ever touched. The first harvest will take about as long as arming
    /// the tracker did.
    pub(crate) fn touched(&self, pages: &PageSet, arming: Duration) {
        let mut state = self.shared.lock();
        state.ahead.takes(arming);
        state.ledger.merge(pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_time_when_the_rest_takes_as_long_as_a_harvest() {
        let ms = Duration::from_millis;
        let at = |taken, harvest| is_due(ms(taken), taken, 1000, ms(harvest));
        assert!(!at(989, 10) && at(990, 10), "a page a millisecond, and ten are left");
        assert!(!at(900, 950) && at(950, 950), "windows are being filled");
        assert!(!at(0, 1000), "nothing is known of the rate yet");
        assert!(at(1000, 0) && at(1001, 0), "nothing is left");
        assert!(!at(999, 0));
    }

    #[test]
    fn it_is_said_once_a_round() {
        let mut ahead = Ahead::default();
        assert!(!ahead.due(PageCount(1)), "there is no round");
        ahead.begin(PageCount(10));
        assert!(!ahead.due(PageCount(9)));
        assert!(ahead.due(PageCount(10)) && !ahead.due(PageCount(10)));
        ahead.begin(PageCount(10));
        ahead.end();
        assert!(!ahead.due(PageCount(10)));
    }
}
