//! The lanes of these worlds, from the taking to the acknowledgement.

use std::collections::VecDeque;
use std::rc::Rc;

use whimbrel_page::{ByteCount, Leaf, LeafSum};
use whimbrel_protocol::ledger::Take;
use whimbrel_protocol::{BatchSeq, LaneId, LaneMark};

use super::{GARBLED, Pages, Slip, Stage, Step, TORN, leaf_of, with};

/// One batch: its number, and its pages with what they hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    seq: BatchSeq,
    pages: VecDeque<(usize, u8)>,
}

/// One lane, both ends of it.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    /// What was taken and not sent.
    taking: Option<Take>,
    /// The pages of it, and what was copied of them so far.
    pages: Vec<usize>,
    copied: Vec<u8>,
    /// A page is being copied; whether it was written meanwhile.
    copying: Option<bool>,
    pub(crate) wire: VecDeque<Batch>,
    /// A page of the first batch is being landed.
    landing: bool,
    /// The sum of what has landed, with the pages of a batch that is not whole yet.
    sum: LeafSum,
    landed_sum: LeafSum,
    pub(crate) landed: BatchSeq,
    acks: VecDeque<(BatchSeq, LeafSum)>,
    /// Batches that the source has not heard of again.
    under_way: VecDeque<Batch>,
    pub(crate) broken: bool,
    /// The destination's thread is over.
    ended: bool,
    /// The source has given its pages back, sooner than it may.
    given_back: bool,
}

impl Lane {
    pub(crate) const fn new(id: LaneId) -> Self {
        Self {
            id,
            taking: None,
            pages: Vec::new(),
            copied: Vec::new(),
            copying: None,
            wire: VecDeque::new(),
            landing: false,
            sum: LeafSum::ZERO,
            landed_sum: LeafSum::ZERO,
            landed: BatchSeq(0),
            acks: VecDeque::new(),
            under_way: VecDeque::new(),
            broken: false,
            ended: false,
            given_back: false,
        }
    }

    /// Copies of a page on this lane that can still land.
    pub(crate) fn copies(&self, page: usize) -> usize {
        let taken = self.pages.iter().filter(|of| **of == page && !self.broken).count();
        let sent = self.wire.iter().flat_map(|batch| &batch.pages);
        taken + sent.filter(|(of, _)| *of == page).count()
    }

    /// Whether the source's account of this lane leaves open what became of a page.
    pub(crate) fn has_under_way(&self, page: usize) -> bool {
        self.under_way.iter().flat_map(|batch| &batch.pages).any(|(of, _)| *of == page)
    }

    /// The guest writes a page: who copies it just now has half of each.
    pub(crate) fn is_written(&mut self, page: usize) {
        if self.pages.get(self.copied.len()) == Some(&page)
            && let Some(torn) = &mut self.copying
        {
            *torn = true;
        }
    }

    pub(crate) fn garble(&mut self) {
        let last = self.wire.back_mut().and_then(|batch| batch.pages.back_mut());
        if let Some((_, content)) = last {
            *content = GARBLED;
        }
    }
}

impl Pages {
    pub(crate) fn steps_of_lane(&self, at: usize, steps: &mut Vec<Step>) {
        let lane = &self.lanes[at];
        if !lane.broken {
            steps.extend(self.step_of_sender(at));
            if !lane.acks.is_empty() {
                steps.push(Step::Ack(at));
            }
        }
        match (lane.ended, lane.landing) {
            (true, _) => return steps.push(Step::Closed(at)),
            (false, true) => steps.push(Step::Landed(at)),
            (false, false) if !lane.wire.is_empty() => steps.push(Step::Land(at)),
            (false, false) => {}
        }
        if lane.broken {
            steps.push(Step::End(at));
        }
    }

    fn step_of_sender(&self, at: usize) -> Option<Step> {
        let lane = &self.lanes[at];
        if lane.taking.is_none() {
            return self.can_take(at).then_some(Step::Take(at));
        }
        Some(match lane.copying {
            Some(_) => Step::Copied(at),
            None if lane.copied.len() < lane.pages.len() => Step::Copy(at),
            None => Step::Send(at),
        })
    }

    fn can_take(&self, at: usize) -> bool {
        let takes = matches!(self.stage, Stage::Round(_) | Stage::Flush);
        takes && self.ledger.pending().0 > 0 && {
            let mut ledger = (*self.ledger).clone();
            ledger.take(self.lanes[at].id, self.batch, &mut Take::default()).0 > 0
        }
    }

    pub(crate) fn step_of_lane(&mut self, step: Step) {
        match step {
            Step::Take(at) => self.take_pages(at),
            Step::Copy(at) => self.lanes[at].copying = Some(false),
            Step::Copied(at) => {
                let lane = &mut self.lanes[at];
                let page = lane.pages[lane.copied.len()];
                let torn = lane.copying.take() == Some(true);
                lane.copied.push(if torn { TORN } else { self.guest[page] });
            }
            Step::Send(at) => self.send(at),
            Step::Land(at) => self.land(at),
            Step::Landed(at) => self.landed(at),
            Step::Ack(at) => self.ack(at),
            Step::End(at) => self.end_lane(at),
            Step::Closed(at) => self.closed(at),
            _ => {}
        }
    }

    // --- the source's end -------------------------------------------------------------------

    fn take_pages(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        let mut take = Take::default();
        Rc::make_mut(&mut self.ledger).take(lane.id, self.batch, &mut take);
        let pages = take.runs().iter().flat_map(|run| run.pages());
        lane.pages = pages.map(|page| page.0 as usize).collect();
        lane.taking = Some(take);
        self.poll();
    }

    fn send(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        let Some(mut take) = lane.taking.take() else { return };
        for content in &lane.copied {
            take.found(leaf_of(*content));
        }
        let changed: Vec<bool> = take
            .dispositions()
            .map(|(.., how)| how != whimbrel_page::Disposition::Unchanged)
            .collect();
        let pages = std::mem::take(&mut lane.pages).into_iter().zip(lane.copied.drain(..));
        let pages: VecDeque<_> =
            pages.zip(changed).filter(|(_, changed)| *changed).map(|(page, _)| page).collect();
        if let Some(seq) = Rc::make_mut(&mut self.ledger).sent(lane.id, &take, ByteCount(64)) {
            lane.wire.push_back(Batch { seq, pages: pages.clone() });
            lane.under_way.push_back(Batch { seq, pages });
        }
        self.poll();
    }

    fn ack(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        let Some((seq, sum)) = lane.acks.pop_front() else { return };
        match Rc::make_mut(&mut self.ledger).acked(lane.id, seq, sum) {
            Ok(()) => lane.under_way.retain(|batch| batch.seq > seq),
            // What landed is not what was sent: the lane is closed.
            Err(_) if self.garbled => self.break_lane(at),
            Err(_) => self.breach = Some("an honest acknowledgement was not believed"),
        }
        self.poll();
    }

    /// The source's worker ends; what the destination has read may still land.
    pub(crate) fn break_lane(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        lane.broken = true;
        lane.acks.clear();
        (lane.copying, lane.taking) = (None, None);
        lane.copied.clear();
        lane.pages.clear();
        if self.slip == Some(Slip::GiveBackEarly) {
            lane.given_back = true;
            lane.under_way.clear();
            Rc::make_mut(&mut self.ledger).lane_lost(lane.id, None);
            self.poll();
        }
    }

    /// The destination's word on a lane: its account ends, and another lane is in its place.
    fn closed(&mut self, at: usize) {
        let fresh = Lane::new(LaneId(self.next_lane));
        self.next_lane += 1;
        let lane = std::mem::replace(&mut self.lanes[at], fresh);
        self.closed.insert(lane.id, lane.landed);
        let mut mark = LaneMark { lane: lane.id, batch: lane.landed, sum: lane.landed_sum };
        let ledger = Rc::make_mut(&mut self.ledger);
        if self.slip == Some(Slip::LostCountsAsLanded)
            && let Some(last) = lane.under_way.back()
        {
            let under_way = lane.under_way.iter().filter(|batch| batch.seq > lane.landed);
            let pages = under_way.flat_map(|batch| &batch.pages);
            let sum = pages
                .fold(lane.landed_sum, |sum, (page, content)| with(sum, leaf_of(*content), *page));
            (mark.batch, mark.sum) = (last.seq, sum);
        }
        if !lane.given_back {
            ledger.lane_lost(lane.id, Some(mark));
        }
        ledger.open_lane(self.lanes[at].id);
        let behind = match &self.stage {
            Stage::Flush => true,
            Stage::Prepare(_, sent) => sent.get(&lane.id).is_some_and(|last| *last > lane.landed),
            _ => false,
        };
        // The pages that came back go again.
        if behind { self.flush() } else { self.poll() }
    }

    // --- the destination's end --------------------------------------------------------------

    /// Law 4: unknown from the first byte that is written in place.
    fn land(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        let Some((page, _)) = lane.wire.front().and_then(|batch| batch.pages.front()) else {
            return;
        };
        lane.landing = true;
        self.known[*page] = Leaf::Unknown;
    }

    fn landed(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        lane.landing = false;
        let Some(batch) = lane.wire.front_mut() else { return };
        let Some((page, content)) = batch.pages.pop_front() else { return };
        (self.there[page], self.known[page]) = (content, leaf_of(content));
        lane.sum = with(lane.sum, leaf_of(content), page);
        if batch.pages.is_empty() {
            (lane.landed, lane.landed_sum) = (batch.seq, lane.sum);
            lane.wire.pop_front();
            if !lane.broken {
                lane.acks.push_back((lane.landed, lane.sum));
            }
        }
    }

    /// The thread ends, in the middle of a page if it is there.
    fn end_lane(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        let page = lane.wire.front().and_then(|batch| batch.pages.front());
        if let Some((page, _)) = page.filter(|_| lane.landing) {
            let before = self.there[*page];
            self.there[*page] = TORN;
            if self.slip == Some(Slip::TornIsKnown) {
                self.known[*page] = leaf_of(before);
            }
        }
        lane.wire.clear();
        (lane.landing, lane.ended) = (false, true);
    }
}
