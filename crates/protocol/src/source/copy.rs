//! Pre-copy: rounds while the guest runs, until the delta is small.

use alloc::format;

use super::connect::Relinking;
use super::core::Core;
use super::switch::Pausing;
use super::{Phase, SourceAction, SourceEvent};
use crate::{Decision, Fault, Message, Now, Round, Sums};
use ::core::time::Duration;
use whimbrel_page::{ByteCount, PageCount};

/// Rounds go on. There is no barrier between them: lanes take whatever is pending.
#[derive(Clone, Debug, Hash)]
pub(super) struct Copying {
    round: u32,
    /// When the last harvest was asked for, since when the guest can have dirtied pages.
    harvested: Now,
    stage: Stage,
}

#[derive(Clone, Debug, Hash)]
enum Stage {
    /// The tracker is being armed, and has to be by then.
    Arming(Now),
    /// The cursor is passing over what was pending at that time. Each lane has deadlines of its
    /// own for that.
    Round(Now),
    /// The dirty log is being fetched, and has to be by then, after a round of so many bytes and
    /// so long.
    Harvesting(Now, ByteCount, Duration),
    /// It is time to switch over, and the announcement must come through by then.
    Waiting(Now),
}

impl Stage {
    fn harvest(core: &mut Core, bytes: ByteCount, took: Duration) -> Self {
        core.act(SourceAction::Harvest);
        Self::Harvesting(core.after(core.options.harvest_timeout), bytes, took)
    }
}

impl Copying {
    pub(super) fn arming(core: &mut Core) -> Self {
        let by = core.after(core.options.harvest_timeout);
        Self { round: 0, harvested: core.now, stage: Stage::Arming(by) }
    }

    /// Goes on after a pause, or after a repair, with a fresh look at what is dirty.
    pub(super) fn afresh(core: &mut Core, round: u32) -> Self {
        let stage = Stage::harvest(core, ByteCount::ZERO, Duration::ZERO);
        Self { round, harvested: core.now, stage }
    }

    pub(super) const fn deadline(&self) -> Option<Now> {
        match self.stage {
            Stage::Arming(by) | Stage::Harvesting(by, ..) | Stage::Waiting(by) => Some(by),
            Stage::Round(_) => None,
        }
    }

    pub(super) fn handle(mut self, core: &mut Core, event: SourceEvent) -> Phase {
        let Some(event) = background(core, event) else { return self.goes_on(core) };
        match (event, &self.stage) {
            (SourceEvent::LinkLost(why), _) => return Relinking::start(core, &why, self),
            (SourceEvent::Armed, Stage::Arming(_)) => {
                self.start_round(core, 0);
                // By the time the first round is over, nobody has to wait for a disk any more.
                core.announce();
            }
            (SourceEvent::RoundTaken(bytes), Stage::Round(began)) => {
                self.stage = Stage::harvest(core, bytes, core.now.since(*began));
            }
            (SourceEvent::Harvested { pending, took }, Stage::Harvesting(_, bytes, sent_in)) => {
                let open = core.now.since(self.harvested);
                let (bytes, sent_in) = (*bytes, *sent_in);
                self.harvested = core.now;
                let round = Round { bytes, took: sent_in, open, dirty: pending, harvest: took };
                return self.decide(core, round);
            }
            (other, _) => return core.unexpected(Phase::Copying(self), &other),
        }
        Phase::Copying(self)
    }

    fn start_round(&mut self, core: &mut Core, round: u32) {
        self.round = round;
        self.stage = Stage::Round(core.now);
        core.act(SourceAction::StartRound(round));
    }

    fn decide(mut self, core: &mut Core, round: Round) -> Phase {
        if core.announced.is_none() {
            core.announce();
        }
        match core.forecast.decide(round) {
            Decision::Switch if core.both_announced() => {
                core.decided = core.forecast.downtime(round.dirty).unwrap_or_default();
                return self.quiesce(core);
            }
            Decision::Switch => {
                self.stage = Stage::Waiting(core.after(core.options.greeting_timeout));
                return Phase::Copying(self);
            }
            Decision::Another => {}
            Decision::Throttle(percent) => {
                let numbers = core.forecast.numbers(round.dirty);
                core.say(format!("{numbers}; throttling it by {percent} %"));
                core.act(SourceAction::Throttle(percent));
            }
            Decision::GiveUp(numbers) => return core.abort_by(Fault::NotConverging, numbers),
        }
        let next = self.round + 1;
        self.start_round(core, next);
        Phase::Copying(self)
    }

    /// Time has passed, or the announcement has come through: where it was waited for, look once
    /// more.
    fn goes_on(mut self, core: &mut Core) -> Phase {
        if core.both_announced() && matches!(self.stage, Stage::Waiting(_)) {
            self.stage = Stage::harvest(core, ByteCount::ZERO, Duration::ZERO);
        }
        if self.deadline().is_some_and(|by| core.now >= by) {
            return self.overdue(core);
        }
        Phase::Copying(self)
    }

    /// The link is back: what was waited for had no way to come.
    pub(super) fn relinked(mut self, core: &Core) -> Self {
        if let Stage::Waiting(_) = self.stage {
            self.stage = Stage::Waiting(core.after(core.options.greeting_timeout));
        }
        self
    }

    fn overdue(&self, core: &mut Core) -> Phase {
        if let Stage::Waiting(_) = self.stage {
            let why = "the destination did not say in time that it may own the guest";
            return core.abort_by(Fault::Peer, why);
        }
        let within = core.options.harvest_timeout.as_millis();
        let why = format!("the dirty tracker hangs: it did not answer within {within} ms");
        core.abort_by(Fault::Memory, why)
    }

    fn quiesce(self, core: &mut Core) -> Phase {
        core.act(SourceAction::Quiesce);
        let deadline = core.after(core.options.silence_timeout);
        Phase::Quiescing(Quiescing { deadline, round: self.round, repair: false })
    }
}

/// Handles what may come at any time while there is a link. What is left is for the phase.
pub(super) fn background(core: &mut Core, event: SourceEvent) -> Option<SourceEvent> {
    match event {
        // An answer to a question of an attempt that is over; a verification that is not needed.
        SourceEvent::Tick | SourceEvent::Answered(_) | SourceEvent::Verified => {}
        SourceEvent::LaneUp(lane) => core.lane_up(lane),
        SourceEvent::LaneFailed(lane, why) => core.lane_failed(lane, &why),
        SourceEvent::Recorded(standing) => core.recorded(standing),
        SourceEvent::Message(Message::LaneClosed(closed)) => {
            core.lane_closed(&closed);
        }
        SourceEvent::Message(Message::Ready(term)) => core.ready(term),
        // Answers to an attempt that this side has given up already.
        SourceEvent::Message(Message::Prepared(..) | Message::Differs(..)) => {}
        other => return Some(other),
    }
    None
}

/// The lanes take no more; what is in flight lands while the guest still runs (law 2).
#[derive(Clone, Debug, Hash)]
pub(super) struct Quiescing {
    pub(super) deadline: Now,
    round: u32,
    /// Whether this is for comparing sums, not for a pause.
    repair: bool,
}

impl Quiescing {
    /// Quiesces for a comparison of sums.
    pub(super) fn for_repair(core: &mut Core, round: u32) -> Phase {
        core.act(SourceAction::Quiesce);
        let deadline = core.after(core.options.silence_timeout);
        Phase::Quiescing(Self { deadline, round, repair: true })
    }

    pub(super) fn handle(self, core: &mut Core, event: SourceEvent) -> Phase {
        let tick = matches!(event, SourceEvent::Tick);
        let Some(event) = background(core, event) else {
            return if tick && core.now >= self.deadline {
                core.say("what was in flight did not land in time; going on with pre-copy");
                Phase::Copying(Copying::afresh(core, self.round))
            } else {
                Phase::Quiescing(self)
            };
        };
        match event {
            SourceEvent::Quiesced if self.repair => Repairing::start(core, self.round),
            SourceEvent::Quiesced => Pausing::start(core, self.round),
            SourceEvent::LinkLost(why) => {
                let copying = Copying::afresh(core, self.round);
                Relinking::start(core, &why, copying)
            }
            other => core.unexpected(Phase::Quiescing(self), &other),
        }
    }
}

/// The roots differed: the guest runs, and chunks that differ are found and go again.
#[derive(Clone, Debug, Hash)]
pub(super) struct Repairing {
    pub(super) deadline: Now,
    round: u32,
}

impl Repairing {
    fn start(core: &mut Core, round: u32) -> Phase {
        core.send(Message::AskSums);
        Phase::Repairing(Self { deadline: core.after(core.options.greeting_timeout), round })
    }

    pub(super) fn handle(self, core: &mut Core, event: SourceEvent) -> Phase {
        let tick = matches!(event, SourceEvent::Tick);
        let Some(event) = background(core, event) else {
            return if tick && core.now >= self.deadline {
                core.abort_by(Fault::Peer, "the destination did not name its sums in time")
            } else {
                Phase::Repairing(self)
            };
        };
        match event {
            SourceEvent::Message(Message::Sums(sums)) => self.compare(core, sums),
            SourceEvent::Spoiled { pages, again } => self.spoiled(core, pages, again),
            SourceEvent::LinkLost(why) => {
                let copying = Copying::afresh(core, self.round);
                Relinking::start(core, &why, copying)
            }
            other => core.unexpected(Phase::Repairing(self), &other),
        }
    }

    fn compare(self, core: &mut Core, sums: Sums) -> Phase {
        core.act(SourceAction::Compare(sums));
        Phase::Repairing(self)
    }

    /// A second mismatch of the same pages is no accident of the wire. None at all may be: what
    /// differed has gone again meanwhile, with the lane that garbled it. The number of pauses
    /// bounds how often.
    fn spoiled(self, core: &mut Core, pages: PageCount, again: bool) -> Phase {
        if again {
            let why = "the same pages differ at the destination a second time";
            return core.abort_by(Fault::Memory, why);
        }
        core.say(format!("{pages} differ at the destination and are sent again"));
        Phase::Copying(Copying::afresh(core, self.round))
    }
}
