//! The destination's end of the lanes: a thread each, that lands one batch after the other.

use std::time::Duration;

use whimbrel_page::LeafSum;
use whimbrel_protocol::batch::LaneHello;
use whimbrel_protocol::{BatchSeq, DestinationEvent, Hello, LaneId, LaneMark};

use crate::breach::Law;
use crate::broken::Broken;
use crate::lanes::Batch;
use crate::memory::leaf_of;
use crate::plan::Side;
use crate::seen::Seen;
use crate::step::Step;
use crate::world::World;

/// The thread at the destination's end.
#[derive(Debug, Default)]
pub(crate) struct Lander {
    pub(crate) stage: Stage,
    /// It was told to end.
    closing: bool,
    /// It dies in the middle of what it lands next.
    pub(crate) tears: bool,
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

/// The first words of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Greeting {
    Control(Hello),
    Lane(LaneHello),
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
    pub(crate) fn lane_hello(&mut self, hello: &LaneHello) {
        if !self.dst.alive || !self.network.carries(self.now) {
            return;
        }
        let lane = hello.lane;
        self.greetings.push(Greeting::Lane(*hello));
        if self.broken == Some(Broken::ForgetLanes) {
            self.dst.forgetful = Some(self.dst.machine.clone());
        }
        let admitted = self.dst.machine.admit(hello);
        note!(self, "lane {} admitted: {admitted:?}", lane.0);
        if admitted.is_ok() {
            self.lane(lane).lander.stage = Stage::Reading;
        }
        let (life, delay) = (self.src.life, self.lane_delay());
        self.after(delay, Step::LaneAnswer(life, lane, admitted.is_ok()));
    }

    /// A lane is opened as one was before: it must be turned away, for what it carries is old.
    pub(crate) fn replay_lane(&mut self, hello: &LaneHello) {
        if !self.dst.alive || self.dst.running {
            return;
        }
        let door = self.dst.forgetful.as_mut().unwrap_or(&mut self.dst.machine);
        if door.admit(hello).is_ok() {
            self.breach(Law::Strangers, format!("a lane is let in again: {hello:?}"));
        } else if self.broken == Some(Broken::TakeStrangers) {
            let place = self.any_place(u64::MAX);
            self.truth.writes += 1;
            self.dst.landing.end(place, self.truth.writes);
        } else {
            self.saw(Seen::TurnedAway);
        }
    }

    pub(crate) fn arrive(&mut self, id: LaneId) {
        let now = self.now;
        let lane = self.lanes.get_mut(&id).expect("a lane that was opened");
        let ready = matches!(lane.lander.stage, Stage::Reading) && !lane.lander.closing;
        let deaf = lane.deaf.at(Side::Destination);
        if !ready || deaf || lane.wire.front().is_none_or(|batch| batch.arrives > now) {
            return;
        }
        let batch = lane.wire.pop_front().expect("as looked at");
        // wire.md B8
        if batch.seq.0 != lane.lander.landed.0 + 1 {
            self.breach(Law::Honesty, format!("lane {} sends {:?} out of turn", id.0, batch.seq));
            return self.end_lander(id);
        }
        self.dst.verifying = false;
        if self.broken != Some(Broken::KnowTornPages) {
            batch.pages.iter().for_each(|(place, _)| self.dst.landing.begin(*place));
        }
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
        let (closing, tears) = (lander.closing, lander.tears);
        // A thread that is told to end may do so between two pages: the batch does not count.
        if tears || (closing && self.random.chance(50)) {
            let some = self.random.below(batch.pages.len() as u64) as usize;
            self.put(&batch.pages[..some]);
            // Or in the middle of one.
            if tears || self.random.chance(50) {
                self.saw(Seen::TornLanding);
                self.dst.landing.tear(batch.pages[some].0);
            }
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
            self.spoilt |= garbled;
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
        if batch.number < self.dst.landed_last {
            self.saw(Seen::Overtaken);
        }
        self.dst.landed_last = self.dst.landed_last.max(batch.number);
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
        if !lane.deaf.at(Side::Source) {
            self.at(at, Step::Ack(id, batch.seq, sum));
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
        if !self.lane(id).deaf.at(Side::Source) {
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
            Stage::Reading if lane.wire.is_empty() || lane.deaf.at(side) => self.end_lander(id),
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
        if !counts.iter().all(landed) && self.broken != Some(Broken::LandedUncounted) {
            return;
        }
        let (term, mut root) = (*term, self.dst.landing.table.root());
        if self.broken == Some(Broken::SkipDigests) {
            root = self.src.said.1;
        }
        // The source waits for this answer, and what it sent has landed as it was.
        let awaited = self.src.machine.phase() == "switchover" && self.src.said.0 == term;
        if awaited && self.src.alive && !self.spoilt && !root.agrees(self.src.said.1) {
            self.breach(Law::Honesty, "nothing was garbled, but the roots differ");
        }
        self.dst.awaited = None;
        self.tell_destination(DestinationEvent::Landed(term, root));
    }
}
