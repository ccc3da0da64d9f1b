//! When to harvest for the next round: while the lanes still send the last of this one. And when to
//! look what was written since the last harvest: every now and then, as the round can leave it to
//! the next one.
//!
//! A harvest takes time that grows with the guest and with what it wrote. Lanes that waited for it
//! would stand still between any two rounds. So it begins when what is left of the round will take
//! them about as long; pages that it finds ahead of the cursor go in the same round.

use std::time::{Duration, Instant};

use whimbrel_page::{PageCount, PageSet};

use super::SourceLanes;

/// So many times what a look takes lie between two of them; twice as much again after each one that
/// cost more than it saved.
const LOOK_EVERY: u32 = 24;

/// Then there will be none in this round.
const DOUBLED_MAX: u32 = 16;

/// Before the first look it is taken to cost such a part of a harvest: it protects nothing.
const LOOK_PART: u32 = 8;

/// What it is time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// A look at what was written since the last harvest: the rest of the round can leave it.
    Look,
    /// The harvest: about as much is left of the round as the lanes send while one is made.
    Harvest,
}

/// Watches the pages of a round go, and says when it is time, for the harvest once.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// When the round began and how many pages it had, until it was time.
    round: Option<(Instant, PageCount)>,
    /// When the last look was over, until it is time for one.
    looked: Option<Instant>,
    /// What a look takes.
    look: Option<Duration>,
    /// What lies between two looks is so often doubled.
    doubled: u32,
    /// How many pages of the round were taken, as was heard last.
    taken: PageCount,
    /// What a harvest takes while the lanes are at work.
    harvest: Duration,
}

impl Ahead {
    /// A round of so many pages begins now.
    pub(super) fn begin(&mut self, pages: PageCount) {
        let now = Instant::now();
        (self.round, self.looked) = (Some((now, pages)), Some(now));
        self.doubled = 0;
    }

    /// There is no round to harvest after.
    pub(super) const fn end(&mut self) {
        self.round = None;
    }

    /// Takes note of what a harvest took.
    pub(super) const fn takes(&mut self, harvest: Duration) {
        self.harvest = harvest;
    }

    /// What it is time for, when so many pages of the round were taken.
    pub(super) fn due(&mut self, taken: PageCount) -> Option<Due> {
        let (began, pages) = self.round?;
        if is_due(began.elapsed(), taken.0, pages.0, self.harvest) {
            self.end();
            return Some(Due::Harvest);
        }
        self.taken = taken;
        let every = LOOK_EVERY * self.look.unwrap_or(self.harvest / LOOK_PART);
        let (known, every) = (!every.is_zero(), every.saturating_mul(1 << self.doubled));
        self.looked.take_if(|last| known && last.elapsed() >= every).map(|_| Due::Look)
    }

    /// A look is over that took so long: the round has so many pages now.
    fn looked(&mut self, pages: PageCount, took: Duration) {
        (self.looked, self.look) = (Some(Instant::now()), Some(took));
        if let Some((began, all)) = &mut self.round {
            let left = all.0.saturating_sub(pages.0);
            *all = pages;
            let pays = pays(began.elapsed(), self.taken.0, left, took);
            self.doubled = if pays { 0 } else { (self.doubled + 1).min(DOUBLED_MAX) };
        }
    }
}

/// Whether the rest of `pages` goes in no more time than a harvest, where `taken` took `elapsed`.
/// What is taken in less than a harvest says nothing of the rate: it fills the lanes' windows.
fn is_due(elapsed: Duration, taken: u64, pages: u64, harvest: Duration) -> bool {
    let left = u128::from(pages.saturating_sub(taken));
    let foreseen = || elapsed.as_nanos() * left <= harvest.as_nanos() * u128::from(taken);
    taken > 0 && (left == 0 || elapsed >= harvest && foreseen())
}

/// Whether the lanes, which took `taken` pages in `elapsed`, would have been at work on those that
/// they leave for longer than the look took.
const fn pays(elapsed: Duration, taken: u64, left: u64, took: Duration) -> bool {
    elapsed.as_nanos() * left as u128 >= took.as_nanos() * taken as u128
}

impl SourceLanes {
    /// Adds the pages of a harvest that took so long.
    pub(crate) fn harvested(&self, pages: &PageSet, took: Duration) {
        let mut state = self.shared.lock();
        state.ahead.takes(took);
        state.ledger.harvested(pages);
    }

    /// Tells of pages that were written since the last harvest, as a look found that took so long:
    /// the round leaves them.
    pub(crate) fn written(&self, pages: &PageSet, took: Duration) {
        let mut state = self.shared.lock();
        let all = state.ledger.written(pages);
        state.ahead.looked(all, took);
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
    fn a_harvest_is_due_once_a_round() {
        let mut ahead = Ahead::default();
        ahead.takes(Duration::from_secs(3600));
        assert_eq!(ahead.due(PageCount(1)), None, "there is no round");
        ahead.begin(PageCount(10));
        assert_eq!(ahead.due(PageCount(9)), None);
        ahead.takes(Duration::ZERO);
        assert_eq!(ahead.due(PageCount(10)), Some(Due::Harvest));
        assert_eq!(ahead.due(PageCount(10)), None);
        ahead.begin(PageCount(10));
        ahead.end();
        assert_eq!(ahead.due(PageCount(10)), None);
    }

    #[test]
    fn a_look_pays_if_what_it_saves_takes_longer() {
        let ms = Duration::from_millis;
        assert!(pays(ms(100), 1000, 10, ms(1)), "a page takes 100 µs, ten are left");
        assert!(!pays(ms(100), 1000, 9, ms(1)));
        assert!(!pays(ms(100), 1000, 0, ms(1)));
    }

    #[test]
    fn looks_that_save_nothing_become_rare() {
        let mut ahead = Ahead::default();
        let look = Duration::from_micros(1);
        ahead.takes(Duration::from_secs(3600));
        ahead.begin(PageCount(1000));
        ahead.taken = PageCount(1);
        let mut waits = Vec::new();
        for _ in 0..4 {
            let began = Instant::now();
            ahead.looked(PageCount(1000), look);
            while ahead.due(PageCount(1)).is_none() {
                std::hint::spin_loop();
            }
            waits.push(began.elapsed());
        }
        let least = |doubled: u32| look * LOOK_EVERY * (1 << doubled);
        assert!((1..).zip(&waits).all(|(doubled, wait)| *wait >= least(doubled)), "{waits:?}");
        ahead.looked(PageCount(1), look);
        assert_eq!(ahead.doubled, 0, "nearly all of the round was left");
    }

    #[test]
    fn looks_are_due_again_and_again_until_the_harvest_is() {
        let mut ahead = Ahead::default();
        ahead.begin(PageCount(10));
        assert_eq!(ahead.due(PageCount(1)), None, "nobody knows what one takes");
        ahead.takes(Duration::from_nanos(u64::from(LOOK_PART)));
        // It takes next to no time: it is always time for one.
        std::thread::yield_now();
        assert_eq!(ahead.due(PageCount(1)), Some(Due::Look));
        assert_eq!(ahead.due(PageCount(2)), None, "the last one is not over");
        ahead.looked(PageCount(8), Duration::from_nanos(1));
        std::thread::yield_now();
        assert_eq!(ahead.due(PageCount(2)), Some(Due::Look));
        assert_eq!(ahead.due(PageCount(8)), Some(Due::Harvest), "two pages are left");
        ahead.begin(PageCount(10));
        ahead.looked(PageCount(10), Duration::from_secs(3600));
        assert_eq!(ahead.due(PageCount(1)), None, "it would take longer than the round");
    }
}
