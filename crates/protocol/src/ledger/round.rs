//! Rounds: passes of a cursor over what is pending.

use core::fmt;
use core::ops::Range;

use whimbrel_page::{ByteCount, Disposition, Layout, PageCount, PageSet, RegionId, Run};

use super::Take;

/// The number of a round; 0 is everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoundNumber(pub u32);

impl RoundNumber {
    /// The round after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for RoundNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}", self.0)
    }
}

/// When a round is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// When every place was passed once; pages that were in flight then are left to the next one,
    /// and so are those that are written all the time, while there is more of others. Where that is
    /// all of them it goes on until one can be taken: a round of nothing would only be followed by
    /// the next one.
    Once,
    /// When nothing is pending; pages that come back later still belong to it.
    UntilEmpty,
}

/// What became of the pages of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RoundTally {
    /// Which round.
    pub number: RoundNumber,
    /// Pages that were taken: the sum of the three below, once all of them were sent.
    pub pages: PageCount,
    /// Those sent with their bytes.
    pub raw: PageCount,
    /// Those sent as zero.
    pub zero: PageCount,
    /// Those that the destination already held.
    pub unchanged: PageCount,
    /// Bytes of all batches, headers included.
    pub bytes: ByteCount,
}

impl RoundTally {
    pub(super) fn count(&mut self, take: &Take) {
        for (.., disposition) in take.dispositions() {
            *match disposition {
                Disposition::Raw => &mut self.raw,
                Disposition::Zero => &mut self.zero,
                Disposition::Unchanged => &mut self.unchanged,
            } += PageCount(1);
        }
    }
}

/// What matters to whoever decides when rounds begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerEvent {
    /// Everything the round had was taken and sent. Said once a round.
    RoundTaken(RoundTally),
    /// What [`super::Ledger::await_drained`] asked for has come about.
    Drained,
}

/// Stretches of a region, in the order in which the first round takes them: one that is far from
/// the last each time, by the golden section. Wherever the guest works, most of what it writes is
/// then known to be written before the round comes to it.
#[derive(Clone, Copy, Debug)]
struct Stretches {
    pages: u64,
    each: u64,
    step: u64,
}

impl Stretches {
    const MOST: u64 = 256;
    /// 32 MiB, so that few batches end where a stretch does.
    const SHORTEST: u64 = 8192;

    fn of(pages: u64, scattered: bool) -> Self {
        let each = if scattered { pages.div_ceil(Self::MOST).max(Self::SHORTEST) } else { pages };
        let count = pages.div_ceil(each);
        let mut step = count * 618 / 1000;
        while gcd(step, count) > 1 {
            step += 1;
        }
        Self { pages, each, step }
    }

    /// The rest of the stretch that is reached at `position` in that order.
    fn rest(self, position: u64) -> Option<Range<u64>> {
        let (turn, passed) = (position / self.each, position % self.each);
        let count = self.pages.div_ceil(self.each);
        let stretch = (turn < count).then(|| turn * self.step % count * self.each)?;
        Some(stretch + passed..self.pages.min(stretch + self.each))
    }

    /// Where the next stretch is reached.
    const fn after(self, position: u64) -> u64 {
        (position / self.each + 1) * self.each
    }
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The cursor, and what was asked of it.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Sweep {
    pub(super) tally: RoundTally,
    pub(super) drain: Option<PageCount>,
    /// `None` before the first round, when a [`Pass::Once`] is over, and after an early end.
    pass: Option<Pass>,
    told: bool,
    /// Region by its place in the layout, and how far it was passed.
    at: (usize, u64),
    /// A round has begun before.
    begun: bool,
    /// Regions are passed by [`Stretches`] instead of from the first page to the last.
    scattered: bool,
}

impl Sweep {
    /// The first round may `scatter` what it takes.
    pub(super) fn start(&mut self, number: RoundNumber, pass: Pass, scatter: bool) {
        self.tally = RoundTally { number, ..RoundTally::default() };
        self.scattered = scatter && !self.begun && pass == Pass::Once;
        self.begun = true;
        self.pass = Some(pass);
        self.told = false;
        self.drain = None;
        self.at = (0, 0);
    }

    pub(super) fn end(&mut self) {
        self.pass = None;
    }

    /// Whether the round may leave pages: the last one takes all, and one that takes nothing would
    /// only be followed by the next.
    pub(super) fn may_leave(&self) -> bool {
        self.pass == Some(Pass::Once) && self.tally.pages > PageCount::ZERO
    }

    /// The next pages of the round: pending, not in flight, at most `most`. `None` where they are
    /// not beyond `last`: a batch is in ascending order.
    pub(super) fn next_run(
        &mut self,
        pages: &Pages<'_>,
        most: u64,
        last: Option<Run>,
    ) -> Option<Run> {
        if most == 0 || self.pass.is_none() {
            return None;
        }
        let (region, free) = self.advance(pages)?;
        let first = free.start;
        let beyond = |last: Run| match last.region == region {
            true => last.end().0 <= first,
            // The cursor may have gone back to the first page since.
            false => pages.layout.position(last.region) < Some(self.at.0),
        };
        if !last.is_none_or(beyond) {
            return None;
        }
        let most = most.min(free.end - first);
        let length = pages.pending.bitmap_at(self.at.0).run_length(first, most);
        let run = first..first + length;
        let free = run.take_while(|page| !pages.passed_over(self.at.0, *page)).count() as u64;
        self.at.1 += free;
        Some(Run::new(region, first, free))
    }

    /// Back to the first page, where the round goes on. Between takings only, so that a batch is
    /// in ascending order. Returns whether it did.
    pub(super) fn wrap(&mut self) -> bool {
        let goes_on = match self.pass {
            Some(Pass::UntilEmpty) => true,
            Some(Pass::Once) => self.tally.pages == PageCount::ZERO,
            None => false,
        };
        let wraps = goes_on && self.at != (0, 0);
        if wraps {
            self.at = (0, 0);
        }
        wraps
    }

    /// What has come about. `idle` says that no lane has a taking that it did not send.
    pub(super) fn poll(&mut self, pages: &Pages<'_>, idle: bool) -> Option<LedgerEvent> {
        let over = match self.pass {
            None => true,
            Some(Pass::Once) => {
                let some = self.tally.pages > PageCount::ZERO || pages.pending.is_empty();
                some && self.advance(pages).is_none()
            }
            Some(Pass::UntilEmpty) => pages.pending.is_empty(),
        };
        if !over || !idle {
            return None;
        }
        if self.pass.is_some() && !self.told {
            self.told = true;
            self.pass = self.pass.filter(|pass| *pass == Pass::UntilEmpty);
            return Some(LedgerEvent::RoundTaken(self.tally));
        }
        self.drain.take_if(|most| pages.in_flight.count() <= *most).map(|_| LedgerEvent::Drained)
    }

    /// Moves the cursor to the next page that can be taken, and returns the rest of its stretch.
    fn advance(&mut self, pages: &Pages<'_>) -> Option<(RegionId, Range<u64>)> {
        while let Some(region) = pages.layout.regions().get(self.at.0) {
            let stretches = Stretches::of(region.pages().0, self.scattered);
            let Some(rest) = stretches.rest(self.at.1) else {
                self.at = (self.at.0 + 1, 0);
                continue;
            };
            let next = pages.pending.bitmap_at(self.at.0).next_one(rest.start);
            match next.filter(|page| *page < rest.end) {
                Some(page) if pages.passed_over(self.at.0, page) => {
                    self.at.1 += page + 1 - rest.start;
                }
                Some(page) => {
                    self.at.1 += page - rest.start;
                    return Some((region.id, page..rest.end));
                }
                None => self.at.1 = stretches.after(self.at.1),
            }
        }
        None
    }
}

/// What the cursor moves over.
pub(super) struct Pages<'a> {
    pub(super) layout: &'a Layout,
    pub(super) pending: &'a PageSet,
    pub(super) in_flight: &'a PageSet,
    /// What this round leaves for later ones.
    pub(super) left: &'a PageSet,
}

impl Pages<'_> {
    /// Whether a page of the region at `place` is not taken, although it is pending.
    fn passed_over(&self, place: usize, page: u64) -> bool {
        let within = |set: &PageSet| set.bitmap_at(place).contains(page);
        within(self.in_flight) || within(self.left)
    }
}
