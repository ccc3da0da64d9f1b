//! What goes wrong, and when.

use std::time::Duration;

use whimbrel_page::{ByteRate, PageCount, Run};
use whimbrel_protocol::{DestinationEvent, LaneId, Verify};

use crate::lander::Greeting;
use crate::links::Deaf;
use crate::memory::TURNED;
use crate::plan::{Fault, HEALED, Side, Trigger};
use crate::seen::Seen;
use crate::step::Step;
use crate::world::World;

/// Until when a host, or something on it, is not itself.
struct HostTimes<'a> {
    frozen: &'a mut Duration,
    slow_until: &'a mut Duration,
    agent_out: &'a mut Duration,
}

impl World {
    /// Puts the faults that come at a time into the queue.
    pub(crate) fn plan_faults(&mut self) {
        for (trigger, fault) in self.plan.faults.clone() {
            if let Trigger::At(at) = trigger {
                self.at(at, Step::Fault(fault));
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
        let phases = [
            (Side::Source, self.src.machine.phase()),
            (Side::Destination, self.dst.machine.phase()),
        ];
        let entered: Vec<_> = phases.into_iter().filter(|at| self.entered.insert(*at)).collect();
        for (trigger, fault) in self.plan.faults.clone() {
            let delay = match trigger {
                Trigger::Change(change, delay) if change == self.changes => delay,
                Trigger::Enter(side, phase, delay) if entered.contains(&(side, phase)) => delay,
                _ => continue,
            };
            self.after(delay, Step::Fault(fault));
        }
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        if self.now >= HEALED {
            return;
        }
        note!(self, "FAULT {fault:?}");
        match fault {
            Fault::BreakLink => self.any_links().into_iter().for_each(|link| self.break_link(link)),
            Fault::SilentLink => self.silence_links(Deaf::BOTH),
            Fault::HalfOpenLink(side) => {
                let mut deaf = Deaf::default();
                deaf.make(side);
                self.silence_links(deaf);
            }
            Fault::Stall(time) => self.network.stalled = self.now + time,
            Fault::Outage(time) => self.outage(time),
            Fault::BlackHole(time) => self.black_hole(time),
            Fault::BreakLane(number, side) => self.cut_lane(number, &Side::BOTH, Some(side)),
            Fault::SilentLane(number) => self.cut_lane(number, &Side::BOTH, None),
            Fault::HalfOpenLane(number, side) => self.cut_lane(number, &[side], None),
            Fault::TearLane(number) => self.tear_lane(number),
            Fault::Replay(number) => self.replay(number),
            Fault::Rot(page) => self.rot(page),
            Fault::Turn(page) => self.turn(page),
            Fault::Garble => self.garble = true,
            Fault::Storm(time) => {
                self.storm = true;
                self.after(time, Step::Mend(fault));
            }
            Fault::Limit(rounds, last) => {
                let rate = |pages| (pages > 0).then(|| ByteRate(PageCount(pages).bytes().0));
                self.limit(rate(rounds), rate(last));
            }
            Fault::SilentWrite(page) => self.silent_write(page),
            of_a_host => self.fault_of_host(of_a_host),
        }
    }

    fn fault_of_host(&mut self, fault: Fault) {
        match fault {
            Fault::Crash(side) => self.crash(side),
            Fault::Restart(side) => {
                self.restart(side);
                self.after(Duration::from_millis(300), Step::Mend(fault));
            }
            Fault::NoAgent(side, time) => *self.host_times(side).agent_out = self.now + time,
            Fault::Freeze(side, time) => self.freeze(side, time),
            Fault::Hang(side, time) => *self.host_times(side).slow_until = self.now + time,
            Fault::Cancel(Side::Source) => self.cancel_at_source(),
            Fault::Cancel(Side::Destination) if self.now >= self.dst.frozen => {
                self.feed_destination(DestinationEvent::Cancel("somebody said so".into()));
            }
            Fault::FullDisk(side, time) => {
                self.journal(side).full = true;
                self.after(time, Step::Mend(fault));
            }
            Fault::NoRun => self.dst.no_run = true,
            _ => {}
        }
    }

    pub(crate) fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::Restart(Side::Source) => self.src.host_up = true,
            Fault::Restart(Side::Destination) => self.dst.host_up = true,
            Fault::FullDisk(side, _) => self.journal(side).full = false,
            Fault::Storm(_) => self.storm = false,
            Fault::Freeze(side, time)
                if time > self.plan.source.silence_timeout && self.lives(side) =>
            {
                self.saw(Seen::Thawed);
            }
            _ => {}
        }
    }

    /// The connections of both sides: the same one, or two when one side has not noticed yet.
    fn any_links(&self) -> Vec<u32> {
        let mut links: Vec<u32> = [self.src.link, self.dst.link].into_iter().flatten().collect();
        links.dedup();
        links
    }

    fn silence_links(&mut self, deaf: Deaf) {
        self.any_links().into_iter().for_each(|link| self.silence_link(link, deaf));
    }

    fn outage(&mut self, time: Duration) {
        self.network.out = self.now + time;
        self.any_links().into_iter().for_each(|link| self.break_link(link));
        for _ in 0..self.living_lanes().len() {
            let side = self.random.pick(&Side::BOTH);
            self.cut_lane(0, &Side::BOTH, Some(side));
        }
    }

    fn black_hole(&mut self, time: Duration) {
        self.network.hole = self.now + time;
        self.silence_links(Deaf::BOTH);
        for _ in 0..self.living_lanes().len() {
            self.cut_lane(0, &Side::BOTH, None);
        }
    }

    /// Cuts one of the living lanes that is not cut yet: at these ends nothing arrives any more.
    fn cut_lane(&mut self, number: u64, deaf: &[Side], noticed: Option<Side>) {
        let whole = self.living_lanes().into_iter();
        let whole: Vec<LaneId> = whole.filter(|id| !self.lanes[id].deaf.anywhere()).collect();
        let Some(id) = whole.get(number as usize % whole.len().max(1)).copied() else { return };
        deaf.iter().for_each(|side| self.lane(id).deaf.make(*side));
        if let Some(side) = noticed {
            let delay = self.random.micros(1, 20_000);
            self.after(delay, Step::LaneGone(id, side));
        }
    }

    fn tear_lane(&mut self, number: u64) {
        let landing = self.living_lanes().into_iter();
        let landing: Vec<LaneId> = landing.filter(|id| self.lanes[id].lander.lives()).collect();
        if let Some(id) = landing.get(number as usize % landing.len().max(1)) {
            self.lane(*id).lander.tears = true;
        }
    }

    fn replay(&mut self, number: u64) {
        let count = self.greetings.len().max(1) as u64;
        match self.greetings.get((number % count) as usize).cloned() {
            Some(Greeting::Control(hello)) => self.replay_control(&hello),
            Some(Greeting::Lane(hello)) => self.replay_lane(&hello),
            None => {}
        }
    }

    /// A process that stands still does nothing at all, and its guest neither.
    fn freeze(&mut self, side: Side, time: Duration) {
        // At a moment of its own: what waits comes in its order, before anything that is new then.
        let until = self.now + time + Duration::from_nanos(500);
        let times = self.host_times(side);
        *times.frozen = until.max(*times.frozen);
        self.at(until, Step::Mend(Fault::Freeze(side, time)));
    }

    fn host_times(&mut self, side: Side) -> HostTimes<'_> {
        let Self { src, dst, .. } = self;
        match side {
            Side::Source => HostTimes {
                frozen: &mut src.frozen,
                slow_until: &mut src.slow_until,
                agent_out: &mut src.agent_out,
            },
            Side::Destination => HostTimes {
                frozen: &mut dst.frozen,
                slow_until: &mut dst.slow_until,
                agent_out: &mut dst.agent_out,
            },
        }
    }

    /// Something writes guest memory behind the tracker's back: the full verification sees it.
    fn silent_write(&mut self, page: u64) {
        let runs = self.src.running && self.now >= self.src.frozen;
        if runs && self.plan.source.verify == Verify::Full {
            let places = self.truth.memory.places();
            let place = places[page as usize % places.len()];
            let tracked = self.src.tracker.clone();
            self.write(place);
            self.src.tracker = tracked;
        }
    }

    /// A page of the destination turns into something else, before its memory is read.
    fn turn(&mut self, page: u64) {
        let places = self.truth.memory.places();
        let place = places[page as usize % places.len()];
        let read_again = match self.dst.machine.phase() {
            "pre-copy" => true,
            "preparing" => self.dst.unswept.is_some(),
            _ => false,
        };
        let full = self.plan.source.verify == Verify::Full;
        if full && read_again && !self.in_flight().contains_key(&place) {
            self.dst.landing.memory.set(place, TURNED);
            self.spoilt = true;
            self.dst.rotten.insert(Run::new(place.0, place.1.0, 1));
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
        self.spoilt = true;
        self.dst.rotten.insert(Run::new(place.0, place.1.0, 1));
    }
}
