//! The source's end of the lanes: take, copy, digest, send, wait for what landed.

use std::collections::VecDeque;
use std::time::Duration;

use whimbrel_page::{ByteCount, Disposition, LeafSum, PAGE_SIZE, PageCount};
use whimbrel_protocol::batch::LaneHello;
use whimbrel_protocol::ledger::{AckFault, Take};
use whimbrel_protocol::{BatchSeq, Claim, LaneId, LaneMark, LaneTicket, Now, SourceEvent};

use crate::breach::Law;
use crate::broken::Broken;
use crate::lander::Lander;
use crate::links::Deaf;
use crate::memory::{Content, Place, leaf_of};
use crate::plan::Side;
use crate::seen::Seen;
use crate::step::Step;
use crate::world::World;

/// What a source waits for any acknowledgement on a lane.
const ACK_TIMEOUT: Duration = Duration::from_millis(400);
/// What it waits for a lane to be opened.
const OPEN_TIMEOUT: Duration = Duration::from_millis(300);

/// The thread at the source's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worker {
    Opening,
    Idle,
    /// Pages were taken and are being copied.
    Copying,
    Ended,
}

/// What travels on a lane.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) seq: BatchSeq,
    pub(crate) pages: Vec<(Place, Content)>,
    pub(crate) arrives: Duration,
    /// Its number among all batches that were ever sent.
    pub(crate) number: u64,
}

/// One lane with both its ends and what is between them.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) worker: Worker,
    take: Take,
    /// Which limits held when it was made.
    claim: Claim,
    /// A [`Step::Work`] is in the queue.
    awake: bool,
    /// When something was last acknowledged, or sent with nothing under way.
    progressed: Duration,
    /// What was sent and neither acknowledged nor given back, with the lane's sum after it.
    pub(crate) flight: VecDeque<(BatchSeq, Vec<Place>, LeafSum)>,
    sum: LeafSum,
    /// Whether the ledger keeps an account of it.
    pub(crate) account: bool,
    pub(crate) wire: VecDeque<Batch>,
    pub(crate) deaf: Deaf,
    pub(crate) last_ack: Duration,
    pub(crate) lander: Lander,
}

impl Lane {
    fn new() -> Self {
        Self {
            worker: Worker::Opening,
            take: Take::default(),
            claim: Claim::default(),
            awake: false,
            progressed: Duration::ZERO,
            flight: VecDeque::new(),
            sum: LeafSum::ZERO,
            account: false,
            wire: VecDeque::new(),
            deaf: Deaf::default(),
            last_ack: Duration::ZERO,
            lander: Lander::default(),
        }
    }
}

impl World {
    pub(crate) fn lane_delay(&mut self) -> Duration {
        let (low, high) = self.plan.lane_delay;
        self.random.micros(low, high)
    }

    pub(crate) fn lane(&mut self, id: LaneId) -> &mut Lane {
        self.lanes.get_mut(&id).expect("a lane that was opened")
    }

    pub(crate) fn open_lane(&mut self, ticket: LaneTicket) {
        if self.lanes.insert(ticket.0, Lane::new()).is_some() {
            return self.breach(Law::Strangers, format!("lane {} is opened twice", ticket.0.0));
        }
        if self.broken == Some(Broken::OpenMoreLanes) {
            self.lanes.insert(LaneId(ticket.0.0 + 1000), Lane::new());
        }
        let (life, delay) = (self.src.life, self.lane_delay());
        let session = self.src.machine.session();
        let (session, epoch) = session.expect("a session gave the ticket out");
        let hello = LaneHello { session, epoch, lane: ticket.0, token: ticket.1 };
        if self.network.carries(self.now) {
            self.after(delay, Step::LaneHello(life, hello));
        }
        self.after(OPEN_TIMEOUT, Step::LaneLate(life, ticket.0));
    }

    pub(crate) fn lane_answered(&mut self, id: LaneId, admitted: bool) {
        if self.lane(id).worker != Worker::Opening {
            return;
        }
        if !admitted {
            return self.fail_lane(id, "it was refused");
        }
        let lane = self.lane(id);
        lane.worker = Worker::Idle;
        lane.account = true;
        self.src.ledger.open_lane(id);
        self.tell_source(SourceEvent::LaneUp(id));
        self.wake(id);
    }

    pub(crate) fn lane_late(&mut self, id: LaneId) {
        if self.lane(id).worker == Worker::Opening {
            self.fail_lane(id, "it was not opened in time");
        }
    }

    /// The worker has seen something wrong: it ends, and the machine is told.
    pub(crate) fn fail_lane(&mut self, id: LaneId, why: &str) {
        if self.lane(id).worker == Worker::Ended {
            return;
        }
        self.end_worker(id);
        if self.broken == Some(Broken::FailSilently) {
            return;
        }
        self.tell_source(SourceEvent::LaneFailed(id, why.into()));
        if self.broken == Some(Broken::GiveBackEarly) {
            self.close_account(id, None);
        }
    }

    /// The worker ends; its socket is closed, which the other end may notice.
    pub(crate) fn end_worker(&mut self, id: LaneId) {
        let delay = self.lane_delay();
        let lane = self.lane(id);
        if lane.worker == Worker::Ended {
            return;
        }
        lane.worker = Worker::Ended;
        if lane.account {
            let lost = self.src.ledger.flight(id).bytes;
            self.src.meter.gone(Now(self.now), lost);
        }
        let lane = self.lane(id);
        if !lane.deaf.at(Side::Destination) {
            self.after(delay, Step::LaneGone(id, Side::Destination));
        }
    }

    pub(crate) fn wake_lanes(&mut self) {
        let ids: Vec<LaneId> = self.lanes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.wake(id));
    }

    fn wake(&mut self, id: LaneId) {
        let lane = self.lane(id);
        if lane.worker == Worker::Idle && !lane.awake {
            lane.awake = true;
            let delay = self.random.micros(1, 200);
            self.after(delay, Step::Work(id));
        }
    }

    pub(crate) fn work(&mut self, id: LaneId) {
        self.lane(id).awake = false;
        match self.lane(id).worker {
            Worker::Idle => self.take(id),
            Worker::Copying => self.send_batch(id),
            Worker::Opening | Worker::Ended => {}
        }
        self.poll_ledger();
    }

    fn take(&mut self, id: LaneId) {
        let full = self.src.ledger.flight(id).batches >= self.plan.window;
        if full && self.broken != Some(Broken::IgnoreWindow) {
            return;
        }
        let claim = Claim { from: None, last: self.takes_last_pages() };
        let budget = match self.src.pace.ask(claim, Now(self.now)) {
            _ if self.broken == Some(Broken::IgnoreRate) => self.plan.batch,
            Ok(most) => self.plan.batch.min(PageCount((most.0 / PAGE_SIZE as u64).max(1))),
            Err(wait) => {
                self.saw(Seen::Paced);
                self.lane(id).awake = true;
                return self.after(wait, Step::Work(id));
            }
        };
        let longer = u64::from(self.broken == Some(Broken::LongBatches));
        let budget = PageCount(budget.0 + longer);
        let lane = self.lanes.get_mut(&id).expect("as asked for");
        let taken = self.src.ledger.take(id, budget, &mut lane.take);
        if taken.0 > 0 {
            lane.worker = Worker::Copying;
            (lane.awake, lane.claim) = (true, claim);
            let delay = self.random.micros(1, 500);
            self.after(delay, Step::Work(id));
            self.carry(claim, taken.bytes());
        }
    }

    /// The pages are copied now, digested, and put on the wire.
    fn send_batch(&mut self, id: LaneId) {
        let mut take = std::mem::take(&mut self.lane(id).take);
        let runs = take.runs().to_vec();
        let places = runs.iter().flat_map(|run| run.pages().map(|page| (run.region, page)));
        let copies: Vec<(Place, Content)> = places.map(|at| (at, self.copy(at))).collect();
        for (place, content) in &copies {
            let live = self.broken == Some(Broken::DigestLivePage);
            let digested = if live { self.src.memory.get(*place) } else { *content };
            take.found(leaf_of(digested));
        }
        let kept = take.dispositions().zip(&copies);
        let pages: Vec<(Place, Content)> =
            kept.filter(|((.., how), _)| *how != Disposition::Unchanged).map(|(_, c)| *c).collect();
        let raw = pages.iter().filter(|(_, content)| *content != 0).count() as u64;
        let wire = ByteCount(64 + raw * 4096);
        let sent = self.src.ledger.sent(id, &take, wire);
        let claimed: u64 = runs.iter().map(|run| run.count.bytes().0).sum();
        let sends = if sent.is_some() { wire.0 } else { 0 };
        let lane = self.lane(id);
        (lane.take, lane.worker) = (take, Worker::Idle);
        let claim = lane.claim;
        self.carried_less(claim, ByteCount(claimed.saturating_sub(sends)));
        if let Some(seq) = sent {
            self.src.meter.sent(Now(self.now), wire);
            self.put_on_wire(id, seq, pages);
        }
        self.wake(id);
    }

    fn put_on_wire(&mut self, id: LaneId, seq: BatchSeq, pages: Vec<(Place, Content)>) {
        let (now, mut delay) = (self.now, self.lane_delay());
        if self.plan.slow_lane == Some(id.0) {
            delay *= 8;
        }
        self.src.sent += 1;
        let number = self.src.sent;
        let twice = self.broken == Some(Broken::NumberTwice) && self.random.chance(20);
        let lane = self.lanes.get_mut(&id).expect("as asked for");
        let watched = !lane.flight.is_empty();
        if !watched {
            lane.progressed = now;
        }
        let mixes = pages.iter().map(|((r, p), content)| leaf_of(*content).mix(*r, *p));
        lane.sum = mixes.fold(lane.sum, LeafSum::plus);
        let places = pages.iter().map(|(place, _)| *place).collect();
        lane.flight.push_back((seq, places, lane.sum));
        let last = lane.wire.back().map_or(Duration::ZERO, |batch| batch.arrives);
        let arrives = self.network.arrival(now, delay, last);
        let zeros = self.broken == Some(Broken::DropZeroBatches);
        let dropped = zeros && pages.iter().all(|(_, content)| *content == 0);
        if dropped || self.broken == Some(Broken::LandedWhenSent) {
            lane.flight.clear();
            let sum = lane.sum;
            let _ = self.count_landed(id, seq, sum);
        }
        let lane = self.lanes.get_mut(&id).expect("as asked for");
        if !lane.deaf.at(Side::Destination) && !dropped {
            let seq = if twice { BatchSeq(seq.0 - 1) } else { seq };
            lane.wire.push_back(Batch { seq, pages, arrives, number });
            self.at(arrives, Step::Arrive(id));
        }
        if !watched {
            self.after(ACK_TIMEOUT, Step::Watch(id));
        }
    }

    pub(crate) fn acked(&mut self, id: LaneId, landed: BatchSeq, sum: LeafSum) {
        let lane = self.lanes.get_mut(&id).expect("as asked for");
        if lane.worker == Worker::Ended || !lane.account {
            return;
        }
        if let Err(fault) = self.count_landed(id, landed, sum) {
            if !self.spoilt && self.broken != Some(Broken::LandedWhenSent) {
                self.breach(Law::Honesty, format!("nothing was garbled, but {fault}"));
            }
            self.saw(Seen::Garbled);
            return self.fail_lane(id, &fault.to_string());
        }
        let now = self.now;
        let lane = self.lane(id);
        lane.progressed = now;
        lane.flight.retain(|(seq, ..)| *seq > landed);
        self.wake_lanes();
        self.poll_ledger();
    }

    fn count_landed(&mut self, id: LaneId, to: BatchSeq, sum: LeafSum) -> Result<(), AckFault> {
        let before = self.src.ledger.flight(id).bytes;
        self.src.ledger.acked(id, to, sum)?;
        let landed = before - self.src.ledger.flight(id).bytes;
        self.src.meter.landed(Now(self.now), landed);
        Ok(())
    }

    pub(crate) fn watch(&mut self, id: LaneId) {
        let now = self.now;
        let lane = self.lane(id);
        let due = lane.progressed + ACK_TIMEOUT;
        if lane.flight.is_empty() || lane.worker == Worker::Ended {
            return;
        }
        if now >= due {
            self.fail_lane(id, "nothing was acknowledged in time");
        } else {
            self.at(due, Step::Watch(id));
        }
    }

    /// The lane is closed at both ends: its account is settled.
    pub(crate) fn close_account(&mut self, id: LaneId, mark: Option<LaneMark>) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if std::mem::take(&mut lane.account) {
            let flight = std::mem::take(&mut lane.flight);
            if !flight.is_empty() {
                self.saw(Seen::GaveBack);
            }
            let last = flight.back().map(|(batch, _, sum)| (*batch, *sum));
            let mark = match (self.broken, last) {
                (Some(Broken::SkipGiveBack), Some((batch, sum))) => {
                    Some(LaneMark { lane: id, batch, sum })
                }
                _ => mark,
            };
            self.src.ledger.lane_lost(id, mark);
        }
        self.wake_lanes();
        self.poll_ledger();
    }

    /// The lanes of which neither end is over, in the order of their numbers.
    pub(crate) fn living_lanes(&self) -> Vec<LaneId> {
        let living = self.lanes.iter().filter(|(_, lane)| lane.worker != Worker::Ended);
        living.map(|(id, _)| *id).collect()
    }

    pub(crate) fn end_workers(&mut self) {
        self.living_lanes().into_iter().for_each(|id| self.end_worker(id));
    }
}
