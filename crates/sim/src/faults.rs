//! What goes wrong, and when.

use std::time::Duration;

use whimbrel_page::Run;
use whimbrel_protocol::{DestinationEvent, LaneId, SourceEvent};

use crate::plan::{Fault, HEALED, Side, Trigger};
use crate::step::Step;
use crate::world::World;

impl World {
    /// Puts the faults that come at a time into the queue.
    pub(crate) fn plan_faults(&mut self) {
        for (trigger, fault) in self.plan.faults.clone() {
            if let Trigger::At(at) = trigger {
                self.queue.push(at, Step::Fault(fault));
            }
        }
    }

    /// So many steps were taken: faults that wait for that come now.
    pub(crate) fn stepped(&mut self, steps: u64) {
        for (trigger, fault) in self.plan.faults.clone() {
            if matches!(trigger, Trigger::Step(step) if step == steps) {
                self.fault(fault);
            }
        }
    }

    /// A machine has changed its phase: faults that wait for that come soon.
    pub(crate) fn phase_changed(&mut self) {
        self.changes += 1;
        for (trigger, fault) in self.plan.faults.clone() {
            match trigger {
                Trigger::Change(change, delay) if change == self.changes => {
                    self.after(delay, Step::Fault(fault));
                }
                _ => {}
            }
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        if self.now >= HEALED {
            return;
        }
        note!(self, "FAULT {fault:?}");
        match fault {
            Fault::BreakLink => self.any_links().into_iter().for_each(|link| self.break_link(link)),
            Fault::SilentLink => {
                self.any_links().into_iter().for_each(|link| self.silence_link(link));
            }
            Fault::Stall(time) => self.network.stalled = self.now + time,
            Fault::Outage(time) => self.outage(time),
            Fault::BreakLane(number, side) => self.break_lane(number, Some(side)),
            Fault::SilentLane(number) => self.break_lane(number, None),
            Fault::Crash(side) => self.crash(side),
            Fault::Restart(side) => {
                self.restart(side);
                self.after(Duration::from_millis(300), Step::Mend(fault));
            }
            Fault::Cancel(Side::Source) => {
                self.feed_source(SourceEvent::Cancel("somebody said so".into()));
            }
            Fault::Cancel(Side::Destination) => {
                self.feed_destination(DestinationEvent::Cancel("somebody said so".into()));
            }
            Fault::Rot(page) => self.rot(page),
            Fault::Garble => self.garble = true,
            Fault::FullDisk(side, time) => {
                self.journal(side).full = true;
                self.after(time, Step::Mend(fault));
            }
            Fault::NoRun => self.dst.no_run = true,
            Fault::Storm(time) => {
                self.storm = true;
                self.after(time, Step::Mend(fault));
            }
        }
    }

    pub(crate) fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::Restart(Side::Source) => self.src.host_up = true,
            Fault::Restart(Side::Destination) => self.dst.host_up = true,
            Fault::FullDisk(side, _) => self.journal(side).full = false,
            Fault::Storm(_) => self.storm = false,
            _ => {}
        }
    }

    /// The connections of both sides: the same one, or two when one side has not noticed yet.
    fn any_links(&self) -> Vec<u32> {
        let mut links: Vec<u32> = [self.src.link, self.dst.link].into_iter().flatten().collect();
        links.dedup();
        links
    }

    fn outage(&mut self, time: Duration) {
        self.network.out = self.now + time;
        self.any_links().into_iter().for_each(|link| self.break_link(link));
        for _ in 0..self.living_lanes().len() {
            let side = self.random.pick(&[Side::Source, Side::Destination]);
            self.break_lane(0, Some(side));
        }
    }

    /// Cuts one of the living lanes that is not cut yet.
    fn break_lane(&mut self, number: u64, noticed: Option<Side>) {
        let whole: Vec<LaneId> =
            self.living_lanes().into_iter().filter(|id| !self.lanes[id].cut).collect();
        let Some(id) = whole.get(number as usize % whole.len().max(1)).copied() else { return };
        self.lane(id).cut = true;
        if let Some(side) = noticed {
            let delay = self.random.micros(1, 20_000);
            self.after(delay, Step::LaneGone(id, side));
        }
    }

    /// A page of the destination that nobody is landing turns into something else.
    fn rot(&mut self, page: u64) {
        let places = self.truth.memory.places();
        let place = places[page as usize % places.len()];
        // What rots after it was compared is beyond any digest.
        let compared = self.dst.machine.phase() != "pre-copy" || self.dst.awaited.is_some();
        if compared || self.in_flight().contains_key(&place) {
            return;
        }
        self.dst.landing.end(place, u64::MAX - 1);
        self.rotten.insert(Run::new(place.0, place.1.0, 1));
    }
}
