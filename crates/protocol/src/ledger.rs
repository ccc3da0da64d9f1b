//! The source's account of every page: what is pending, what is in flight, what has landed.
//!
//! ```text
//!              merge, spoil                take                 sent
//!   (clean) ───────────────► pending ───────────────► taken ───────────► in flight
//!      ▲                        ▲  ▲                    │                  │    │
//!      │                        │  └─ lane_lost ────────┼──────────────────┘    │
//!      └── sent: unchanged ─────┼───────────────────────┘     acked: committed  │
//!      └────────────────────────┴───────────────────────────────────────────────┘
//! ```
//!
//! A page may be pending *and* in flight: it was written again after it was taken. It is not taken
//! a second time before the first copy is acknowledged, so no lane can overtake another (law 2).
//!
//! Goals: a taking costs what is taken; nothing is lost in any order of calls; what the
//! destination holds is *known* or *unknown*, never guessed. Non-goals: I/O, time, locking; whoever
//! shares a ledger between threads puts it behind a lock that is held for a call and no longer.

mod flight;
mod heat;
mod map;
mod round;
mod take;

pub use flight::{AckFault, Flight};
pub use map::Cell;
pub use round::{LedgerEvent, Pass, RoundNumber, RoundTally};
pub use take::Take;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use whimbrel_page::{
    ByteCount, Layout, Leaf, LeafSum, LeafTable, PageCount, PageIndex, PageSet, RegionId, Root, Run,
};

use crate::{BatchSeq, LaneId, LaneMark};
use flight::{LaneAccount, Sent};
use heat::Heat;
use round::{Pages, Sweep};

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Ledger {
    layout: Layout,
    /// What the destination is known to hold.
    committed: LeafTable,
    pending: PageSet,
    /// Taken, or sent and not acknowledged.
    in_flight: PageSet,
    heat: Heat,
    lanes: BTreeMap<LaneId, LaneAccount>,
    sweep: Sweep,
    /// Accounts of acknowledged batches, kept for their buffers.
    spare: Vec<Sent>,
}

/// What is kept for its buffers says nothing.
impl Hash for Ledger {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { layout, committed, pending, in_flight, heat, lanes, sweep, spare: _ } = self;
        (layout, committed, pending, in_flight, heat, lanes, sweep).hash(state);
    }
}

impl Ledger {
    /// An account of a guest whose destination is fresh: every page there is zero, none is pending.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        Self {
            layout: layout.clone(),
            committed: LeafTable::new(layout),
            pending: PageSet::new(layout),
            in_flight: PageSet::new(layout),
            heat: Heat::new(layout),
            lanes: BTreeMap::new(),
            sweep: Sweep::default(),
            spare: Vec::new(),
        }
    }

    /// Has every round take pages in the order of their places, however often they are written.
    #[must_use]
    pub fn in_order_of_place(mut self) -> Self {
        self.heat.ignore();
        self
    }

    // --- what there is to send -------------------------------------------------------------

    /// Adds the pages that were written since the last harvest, and takes note of those that always
    /// are. Returns how many were not pending before.
    ///
    /// # Panics
    /// If the set is over another layout.
    pub fn harvested(&mut self, pages: &PageSet) -> PageCount {
        self.heat.harvested(pages);
        self.merge(pages)
    }

    /// These pages were written since the last harvest, and will be in the next one: those of them
    /// that the round has not come to are left to the round after it. Returns how many pages the
    /// round will have taken, by what is known now.
    ///
    /// # Panics
    /// If the set is over another layout.
    pub fn written(&mut self, pages: &PageSet) -> PageCount {
        if self.sweep.may_leave() {
            self.heat.written(pages, &self.pending);
        }
        self.sweep.tally.pages + self.pending.count() - self.heat.left().count()
    }

    /// Adds pages that may differ from what the destination holds, such as everything the guest
    /// ever touched. Returns how many were not pending before.
    ///
    /// # Panics
    /// If the set is over another layout.
    pub fn merge(&mut self, pages: &PageSet) -> PageCount {
        self.pending.union_with(pages)
    }

    /// As [`Ledger::merge`], for one run.
    ///
    /// # Panics
    /// If the guest has no such pages.
    pub fn merge_run(&mut self, run: Run) {
        self.pending.insert(run);
    }

    /// What the destination holds of these pages is not what was sent: they go again.
    ///
    /// # Panics
    /// If the guest has no such pages: check what comes from outside with [`Layout::contains`].
    pub fn spoil(&mut self, run: Run) {
        for page in run.pages() {
            self.committed.set(run.region, page, Leaf::Unknown);
        }
        self.pending.insert(run);
    }

    /// Pages that still have to be taken, those that are also in flight included.
    #[must_use]
    pub fn pending(&self) -> PageCount {
        self.pending.count()
    }

    /// Pages that were taken and are neither acknowledged nor released.
    #[must_use]
    pub fn in_flight(&self) -> PageCount {
        self.in_flight.count()
    }

    // --- rounds ----------------------------------------------------------------------------

    /// Begins a pass over what is pending. A round that is not over is over now, and nobody waits
    /// for [`LedgerEvent::Drained`] any more. Returns how many pages there are to take in it, by
    /// what is known now: pages that are merged ahead of the cursor belong to it too.
    pub fn start_round(&mut self, number: RoundNumber, pass: Pass) -> PageCount {
        self.heat.choose(pass, &self.pending);
        self.sweep.start(number, pass, self.heat.is_watched());
        self.pending.count() - self.heat.left().count()
    }

    /// Ends the round where it stands, without a [`LedgerEvent::RoundTaken`]: nothing is taken
    /// before the next one begins.
    pub fn end_round(&mut self) {
        self.sweep.end();
    }

    /// Asks for one [`LedgerEvent::Drained`] when the round is over and at most `most` pages are
    /// in flight.
    pub fn await_drained(&mut self, most: PageCount) {
        self.sweep.drain = Some(most);
    }

    /// What has come about since the last call. Ask after every other call that changes something.
    pub fn poll(&mut self) -> Option<LedgerEvent> {
        let idle = self.lanes.values().all(|lane| lane.taken.is_empty());
        let Self { layout, pending, in_flight, heat, .. } = self;
        self.sweep.poll(&Pages { layout, pending, in_flight, left: heat.left() }, idle)
    }

    /// The account of the round that is under way or was last.
    #[must_use]
    pub const fn tally(&self) -> RoundTally {
        self.sweep.tally
    }

    // --- lanes -----------------------------------------------------------------------------

    /// Opens the account of a lane.
    ///
    /// # Panics
    /// If there is one: lane numbers are not used twice.
    pub fn open_lane(&mut self, lane: LaneId) {
        let before = self.lanes.insert(lane, LaneAccount::default());
        assert!(before.is_none(), "{lane:?} has an account");
    }

    /// The lanes that have an account, each with the last batch it sent.
    pub fn lanes(&self) -> impl Iterator<Item = (LaneId, BatchSeq)> {
        self.lanes.iter().map(|(lane, account)| (*lane, account.last))
    }

    /// What is under way on `lane`.
    ///
    /// # Panics
    /// If it has no account.
    #[must_use]
    pub fn flight(&self, lane: LaneId) -> Flight {
        self.lanes[&lane].flight()
    }

    /// Takes at most `budget` pages of the round for `lane` into `take`, whose buffers are reused.
    /// Returns how many there are; 0 says that there is nothing to take now. Pages in flight are
    /// not taken (wire.md B13).
    ///
    /// # Panics
    /// If the lane has no account or has not sent its last taking.
    pub fn take(&mut self, lane: LaneId, budget: PageCount, take: &mut Take) -> PageCount {
        assert!(self.lanes[&lane].taken.is_empty(), "{lane:?} has not sent its last taking");
        take.clear();
        let taken = self.take_more(lane, budget, take);
        if taken == PageCount::ZERO && !self.pending.is_empty() && self.sweep.wrap() {
            return self.take_more(lane, budget, take);
        }
        taken
    }

    /// Adds at most `budget` pages to the lane's last taking, which is not sent yet: many of its
    /// pages turned out to take no room on the wire. Returns how many there are.
    ///
    /// # Panics
    /// If the lane has no account.
    pub fn take_more(&mut self, lane: LaneId, budget: PageCount, take: &mut Take) -> PageCount {
        let (runs, pages) = (take.runs().len(), take.pages());
        self.fill(pages + budget, take);
        let account = self.lanes.get_mut(&lane).expect("a lane with an account");
        account.taken.extend_from_slice(&take.runs()[runs..]);
        let more = take.pages() - pages;
        self.sweep.tally.pages += more;
        more
    }

    /// The taking was copied and digested, and its batch of `wire` bytes is about to be written:
    /// it gets its number now. Pages that the destination already holds are released, all others
    /// are in the batch (wire.md B14). `None` says that there is nothing to write.
    ///
    /// # Panics
    /// If `take` is not the lane's last taking, or a page of it was not digested.
    pub fn sent(&mut self, lane: LaneId, take: &Take, wire: ByteCount) -> Option<BatchSeq> {
        let account = self.lanes.get_mut(&lane).expect("a lane with an account");
        assert_eq!(account.taken, take.runs(), "the last taking of {lane:?}");
        account.taken.clear();
        let mut batch = self.spare.pop().unwrap_or_default();
        batch.fill(take, account.sum);
        for run in take.unchanged() {
            self.in_flight.remove(run);
        }
        self.sweep.tally.count(take);
        if batch.is_empty() {
            self.spare.push(batch);
            return None;
        }
        self.sweep.tally.bytes += wire;
        Some(account.push(batch, wire))
    }

    /// The destination says what has landed on a lane (wire.md B17).
    ///
    /// # Errors
    /// [`AckFault`]: close the lane. Nothing is committed, and its pages stay in flight until
    /// [`Ledger::lane_lost`]: the destination may still be landing them.
    ///
    /// # Panics
    /// If the lane has no account.
    pub fn acked(&mut self, lane: LaneId, landed: BatchSeq, sum: LeafSum) -> Result<(), AckFault> {
        let account = self.lanes.get_mut(&lane).expect("a lane with an account");
        account.check(landed, sum)?;
        while let Some(batch) = account.pop_landed(landed) {
            for (region, page, leaf) in batch.pages() {
                self.committed.set(region, page, leaf);
            }
            for run in &batch.runs {
                self.in_flight.remove(*run);
            }
            self.spare.push(batch);
        }
        Ok(())
    }

    /// The lane is closed on both sides: its account ends. Batches up to the destination's `mark`
    /// have landed; the pages of all others are given back, and what the destination holds of them
    /// is unknown. So it is with all of them where the mark is missing or does not fit what was
    /// sent (wire.md B21). Pages that were taken and not sent are given back as they were.
    ///
    /// # Panics
    /// If the lane has no account, or the mark is of another lane.
    pub fn lane_lost(&mut self, lane: LaneId, mark: Option<LaneMark>) {
        if let Some(LaneMark { lane: marked, batch, sum }) = mark {
            assert_eq!(lane, marked, "the mark of another lane");
            // A fault means that nothing more is committed, which is what giving back does.
            let _ = self.acked(lane, batch, sum);
        }
        let account = self.lanes.remove(&lane).expect("a lane with an account");
        for run in account.unacked_runs() {
            self.in_flight.remove(run);
            self.spoil(run);
        }
        for run in account.taken {
            self.in_flight.remove(run);
            self.pending.insert(run);
        }
    }

    fn fill(&mut self, budget: PageCount, take: &mut Take) {
        while take.pages() < budget {
            let Self { layout, pending, in_flight, heat, .. } = self;
            let pages = Pages { layout, pending, in_flight, left: heat.left() };
            let (most, last) = ((budget - take.pages()).0, take.runs().last());
            let Some(run) = self.sweep.next_run(&pages, most, last.copied()) else {
                return;
            };
            self.pending.remove(run);
            self.in_flight.insert(run);
            take.push(run, &self.committed);
        }
    }

    // --- what the destination holds --------------------------------------------------------

    /// What the destination is known to hold of a page.
    ///
    /// # Panics
    /// If the guest has no such page.
    #[must_use]
    pub fn committed(&self, region: RegionId, page: PageIndex) -> Leaf {
        self.committed.get(region, page)
    }

    /// What the destination is known to hold of a page that is not about to be sent: `None` if it
    /// is pending or in flight.
    ///
    /// # Panics
    /// If the guest has no such page.
    #[must_use]
    pub fn settled(&self, region: RegionId, page: PageIndex) -> Option<Leaf> {
        let moving = self.pending.contains(region, page) || self.in_flight.contains(region, page);
        (!moving).then(|| self.committed(region, page))
    }

    /// Everything the destination is known to hold.
    #[must_use]
    pub const fn table(&self) -> &LeafTable {
        &self.committed
    }

    /// The root the destination will have when everything that was sent has landed. Meaningful
    /// when no lane has a taking that it did not send.
    #[must_use]
    pub fn root_when_landed(&self) -> Root {
        let mut root = self.committed.root();
        let batches = self.lanes.values().flat_map(LaneAccount::batches);
        for (region, page, leaf) in batches.flat_map(Sent::pages) {
            let before = self.committed.get(region, page);
            let gone = before.mix(region, page);
            root.sum = root.sum.minus(gone).plus(leaf.mix(region, page));
            root.unknown -= PageCount(u64::from(matches!(before, Leaf::Unknown)));
        }
        root
    }
}

#[cfg(test)]
mod tests;
