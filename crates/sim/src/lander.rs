//! The destination's end of the lanes: a thread each, that lands one batch after the other.

use std::time::Duration;

use whimbrel_page::LeafSum;
use whimbrel_protocol::batch::LaneHello;
use whimbrel_protocol::{BatchSeq, DestinationEvent, Epoch, LaneId, LaneMark, LaneTicket};

use crate::broken::Broken;
use crate::lanes::{Batch, SESSION};
use crate::memory::leaf_of;
use crate::plan::Side;
use crate::step::Step;
use crate::world::World;

/// The thread at the destination's end.
#[derive(Debug, Default)]
pub(crate) struct Lander {
    pub(crate) stage: Stage,
    /// It was told to end.
    closing: bool,
    landed: BatchSeq,
    sum: LeafSum,
}

#[derive(Debug, Default)]
pub(crate) enum Stage {
    /// Not admitted, or over.
    #[default]
    None,
    Reading,
    Landing(Batch),
}

impl Lander {
    pub(crate) const fn lives(&self) -> bool {
        !matches!(self.stage, Stage::None)
    }

    pub(crate) const fn landed(&self) -> BatchSeq {
        self.landed
    }

    const fn mark(&self, lane: LaneId) -> LaneMark {
        LaneMark { lane, batch: self.landed, sum: self.sum }
    }
}

impl World {
    pub(crate) fn lane_hello(&mut self, (lane, token): LaneTicket, epoch: Epoch) {
        if !self.dst.alive || self.now < self.network.out {
            return;
        }
        let hello = LaneHello { session: SESSION, epoch, lane, token };
        let admitted = self.dst.machine.admit(&hello);
        note!(self, "lane {} admitted: {admitted:?}", lane.0);
        if admitted.is_ok() {
            self.lane(lane).lander.stage = Stage::Reading;
        }
        let (life, delay) = (self.src.life, self.lane_delay());
        self.after(delay, Step::LaneAnswer(life, lane, admitted.is_ok()));
    }

    pub(crate) fn arrive(&mut self, id: LaneId) {
        let now = self.now;
        let lane = self.lanes.get_mut(&id).expect("a lane that was opened");
        let ready = matches!(lane.lander.stage, Stage::Reading) && !lane.lander.closing;
        if !ready || lane.cut || lane.wire.front().is_none_or(|batch| batch.arrives > now) {
            return;
        }
        let batch = lane.wire.pop_front().expect("as looked at");
        batch.pages.iter().for_each(|(place, _)| self.dst.landing.begin(*place));
        let early = (self.broken == Some(Broken::AckBeforeLanding)).then(|| batch.clone());
        self.lane(id).lander.stage = Stage::Landing(batch);
        if let Some(batch) = early {
            self.count(id, &batch);
        }
        let delay = self.random.micros(1, 2_000);
        self.after(delay, Step::Land(id));
    }

    pub(crate) fn land(&mut self, id: LaneId) {
        let lander = &mut self.lane(id).lander;
        let Stage::Landing(batch) = std::mem::take(&mut lander.stage) else { return };
        let closing = lander.closing;
        // A thread that is told to end may do so between two pages: the batch does not count.
        if closing && self.random.chance(50) {
            let some = self.random.below(batch.pages.len() as u64) as usize;
            self.put(&batch.pages[..some]);
            return self.end_lander(id);
        }
        self.put(&batch.pages);
        self.lane(id).lander.stage = Stage::Reading;
        if self.broken != Some(Broken::AckBeforeLanding) {
            self.count(id, &batch);
        }
        if closing {
            self.end_lander(id)
        } else {
            self.arrive(id)
        }
        self.look_at_counts();
    }

    fn put(&mut self, pages: &[(crate::memory::Place, u64)]) {
        for (place, content) in pages {
            let skip = *content == 0 && self.broken == Some(Broken::SkipZeroPages);
            let content = if skip { self.dst.landing.memory.get(*place) } else { *content };
            let garbled = std::mem::take(&mut self.garble);
            self.dst.landing.end(*place, if garbled { u64::MAX } else { content });
            if skip {
                self.dst.landing.table.set(place.0, place.1, leaf_of(0));
            }
        }
    }

    /// The batch counts as landed: what was found in place is summed up and said.
    fn count(&mut self, id: LaneId, batch: &Batch) {
        let early = self.broken == Some(Broken::AckBeforeLanding);
        let mut sum = self.lane(id).lander.sum;
        for ((region, page), content) in &batch.pages {
            let found = self.dst.landing.table.get(*region, *page);
            let leaf = if early { leaf_of(*content) } else { found };
            sum = sum.plus(leaf.mix(*region, *page));
        }
        let (now, delay) = (self.now, self.lane_delay());
        let lane = self.lanes.get_mut(&id).expect("a lane that was opened");
        (lane.lander.landed, lane.lander.sum) = (batch.seq, sum);
        let at = self.network.arrival(now, delay, lane.last_ack);
        lane.last_ack = at;
        if !lane.cut {
            self.queue.push(at, Step::Ack(id, batch.seq, sum));
        }
    }

    /// The machine wants this lane to end.
    pub(crate) fn close_lander(&mut self, id: LaneId) {
        let lander = &mut self.lane(id).lander;
        lander.closing = true;
        if self.broken == Some(Broken::EndBeforeLanding) {
            let mark = self.lane(id).lander.mark(id);
            self.tell_destination(DestinationEvent::LaneEnded(mark));
        }
        if !matches!(self.lane(id).lander.stage, Stage::Landing(_)) {
            let delay = self.random.micros(1, 20_000);
            self.after(delay, Step::ThreadEnds(id));
        }
    }

    /// The thread is over and its socket closed unread: what is on the wire is gone.
    pub(crate) fn end_lander(&mut self, id: LaneId) {
        let delay = self.lane_delay();
        let lane = self.lanes.get_mut(&id).expect("a lane that was opened");
        lane.lander.stage = Stage::None;
        lane.wire.clear();
        let mark = lane.lander.mark(id);
        self.tell_destination(DestinationEvent::LaneEnded(mark));
        if !self.lane(id).cut {
            self.after(delay, Step::LaneGone(id, Side::Source));
        }
    }

    pub(crate) fn thread_ends(&mut self, id: LaneId) {
        match self.lane(id).lander.stage {
            Stage::Reading => self.end_lander(id),
            Stage::None | Stage::Landing(_) => {}
        }
    }

    pub(crate) fn lane_gone(&mut self, id: LaneId, side: Side) {
        if side == Side::Source {
            return self.fail_lane(id, "its connection broke");
        }
        // What has arrived may still be read before the end of the stream, or never.
        let in_order = self.random.chance(50);
        let lane = self.lane(id);
        match lane.lander.stage {
            Stage::None => {}
            Stage::Reading if lane.wire.is_empty() || lane.cut => self.end_lander(id),
            Stage::Reading | Stage::Landing(_) if in_order => {
                self.after(Duration::from_micros(500), Step::LaneGone(id, side));
            }
            Stage::Reading | Stage::Landing(_) => {
                lane.lander.closing = true;
                self.after(Duration::from_micros(50), Step::ThreadEnds(id));
            }
        }
    }

    /// Reports once every lane that Prepare named has landed its last batch.
    pub(crate) fn look_at_counts(&mut self) {
        let Some((term, counts)) = &self.dst.awaited else { return };
        let landed = |(lane, batch): &(LaneId, BatchSeq)| {
            self.lanes.get(lane).is_some_and(|known| known.lander.landed() >= *batch)
        };
        if !counts.iter().all(landed) {
            return;
        }
        let mut root = self.dst.landing.table.root();
        if self.broken == Some(Broken::SkipDigests) {
            root = self.src.said_root;
        }
        let term = *term;
        self.dst.awaited = None;
        self.tell_destination(DestinationEvent::Landed(term, root));
    }
}
