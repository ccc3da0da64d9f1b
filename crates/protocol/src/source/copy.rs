//! Pre-copy: rounds while the guest runs, until the delta is small.

use alloc::format;

use super::connect::Relinking;
use super::core::Core;
use super::switch::Pausing;
use super::{Harvest, Phase, SourceAction, SourceEvent};
use crate::{Decision, Fault, Message, Now, Round, Sums};
use ::core::time::Duration;
use whimbrel_page::PageCount;

/// Rounds go on. There is no barrier between them: lanes take whatever is pending.
#[derive(Clone, Debug, Hash)]
pub(super) struct Copying {
    round: u32,
    /// When the dirty log was last cleared, since when the guest can have dirtied pages; `None` if
    /// it has stood still since.
    harvested: Option<Now>,
    stage: Stage,
}

#[derive(Clone, Debug, Hash)]
enum Stage {
    /// The tracker is being armed, and has to be by then.
    Arming(Now),
    /// The cursor is passing over what was pending. Each lane has deadlines of its own for that.
    Round,
    /// The dirty log is being fetched.
    Harvesting(Harvesting),
    /// It is time to switch over, and the announcement must come through by then.
    Waiting(Now),
}

/// A harvest that was asked for, and by when it has to be there.
#[derive(Clone, Copy, Debug, Hash)]
struct Harvesting {
    asked: Now,
    by: Now,
}

impl Harvesting {
    /// Asks for a harvest. The lanes are done, so that it is a good time to measure the round trip.
    fn ask(core: &mut Core) -> Self {
        core.act(SourceAction::Harvest);
        Self::asked(core)
    }

    /// Asks for a look at what there will be to harvest in the pause.
    fn rehearse(core: &mut Core) -> Self {
        core.act(SourceAction::Rehearse);
        Self::asked(core)
    }

    fn asked(core: &mut Core) -> Self {
        if core.link {
            core.ping_now();
        }
        let by = core.after(core.options.harvest_timeout);
        Self { asked: core.now, by }
    }

    /// What it took beside the harvest itself.
    fn errand(self, core: &Core, took: Duration) -> Duration {
        core.now.since(self.asked).saturating_sub(took)
    }
}

impl Copying {
    pub(super) fn arming(core: &mut Core) -> Self {
        let by = core.after(core.options.harvest_timeout);
        Self { round: 0, harvested: Some(core.now), stage: Stage::Arming(by) }
    }

    /// Goes on after a pause, a repair, or a while without a link, with a fresh harvest.
    pub(super) fn afresh(core: &mut Core, round: u32) -> Self {
        let harvest = Harvesting::ask(core);
        Self { round, harvested: None, stage: Stage::Harvesting(harvest) }
    }

    pub(super) const fn deadline(&self) -> Option<Now> {
        match self.stage {
            Stage::Arming(by) | Stage::Waiting(by) => Some(by),
            Stage::Harvesting(asked) => Some(asked.by),
            Stage::Round => None,
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
            (SourceEvent::RoundTaken, Stage::Round) => {
                self.stage = Stage::Harvesting(Harvesting::ask(core));
            }
            (SourceEvent::Harvested(harvest), Stage::Harvesting(asked)) => {
                let round = Round {
                    throughput: harvest.throughput,
                    open: self.harvested.map(|before| core.now.since(before)),
                    written: harvest.written,
                    dirty: harvest.pending,
                    harvest: harvest.parked,
                    errand: asked.errand(core, harvest.took),
                };
                self.harvested = Some(core.now);
                return self.decide(core, round);
            }
            (other, _) => return core.unexpected(Phase::Copying(self), &other),
        }
        Phase::Copying(self)
    }

    fn start_round(&mut self, core: &mut Core, round: u32) {
        self.round = round;
        self.stage = Stage::Round;
        core.act(SourceAction::StartRound(round));
    }

    fn decide(mut self, core: &mut Core, round: Round) -> Phase {
        if core.announced.is_none() {
            core.announce();
        }
        match core.forecast.decide(round) {
            Decision::Switch if core.both_announced() => {
                core.decided = round.dirty;
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
            self.stage = Stage::Harvesting(Harvesting::ask(core));
        }
        if self.deadline().is_some_and(|by| core.now >= by) {
            return self.overdue(core);
        }
        Phase::Copying(self)
    }

    /// The link is back: what was waited for had no way to come, and what was harvested meanwhile
    /// says little about the guest now (museum M23).
    pub(super) fn relinked(mut self, core: &mut Core, held: Option<SourceEvent>) -> Phase {
        match (held, &self.stage) {
            (Some(SourceEvent::Harvested(_)), _) => Phase::Copying(Self::afresh(core, self.round)),
            (Some(held), _) => self.handle(core, held),
            (None, Stage::Waiting(_)) => {
                self.stage = Stage::Waiting(core.after(core.options.greeting_timeout));
                Phase::Copying(self)
            }
            (None, _) => Phase::Copying(self),
        }
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
        Quiescing::start(core, self.round, self.harvested.unwrap_or(core.now), false)
    }
}

/// Handles what may come at any time while there is a link. What is left is for the phase.
pub(super) fn background(core: &mut Core, event: SourceEvent) -> Option<SourceEvent> {
    match event {
        // An answer to a question of an attempt that is over; a verification that is not needed.
        SourceEvent::Tick | SourceEvent::Answered(_) | SourceEvent::Verified => {}
        // Lanes that came to rest, and a last look, too late for what they were for.
        SourceEvent::Quiesced(_) | SourceEvent::Looked(_) => {}
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
    /// Which answer of the lanes is waited for.
    number: u32,
    round: u32,
    /// When what is pending was harvested.
    harvested: Now,
    /// Whether this is for comparing sums, not for a pause.
    repair: bool,
    /// The last look before the pause, once it was asked for.
    rehearsal: Option<Harvesting>,
}

impl Quiescing {
    /// Quiesces for a comparison of sums.
    pub(super) fn for_repair(core: &mut Core, round: u32) -> Phase {
        Self::start(core, round, core.now, true)
    }

    fn start(core: &mut Core, round: u32, harvested: Now, repair: bool) -> Phase {
        let number = core.quiesce();
        let deadline = core.after(core.options.silence_timeout);
        Phase::Quiescing(Self { deadline, number, round, harvested, repair, rehearsal: None })
    }

    pub(super) fn handle(self, core: &mut Core, event: SourceEvent) -> Phase {
        let tick = matches!(event, SourceEvent::Tick);
        match event {
            SourceEvent::Quiesced(number) if number == self.number => return self.quiesced(core),
            SourceEvent::Looked(look) if self.rehearsal.is_some() => {
                return self.rehearsed(core, look);
            }
            _ => {}
        }
        let Some(event) = background(core, event) else {
            return if tick && core.now >= self.deadline {
                core.say("the pause could not be prepared in time; going on with pre-copy");
                Phase::Copying(Copying::afresh(core, self.round))
            } else {
                Phase::Quiescing(self)
            };
        };
        match event {
            SourceEvent::LinkLost(why) => {
                let copying = Copying::afresh(core, self.round);
                Relinking::start(core, &why, copying)
            }
            other => core.unexpected(Phase::Quiescing(self), &other),
        }
    }

    fn quiesced(mut self, core: &mut Core) -> Phase {
        if self.repair {
            return Repairing::start(core, self.round);
        }
        // Said twice, it asks for one look.
        if self.rehearsal.is_none() && core.forecast.has_time_to_rehearse() {
            self.rehearsal = Some(Harvesting::rehearse(core));
        }
        match self.rehearsal {
            Some(_) => Phase::Quiescing(self),
            None => self.pause(core),
        }
    }

    /// A guest that would stand still for too long by that is not paused: pre-copy goes on.
    fn rehearsed(mut self, core: &mut Core, look: Harvest) -> Phase {
        let errand = self.rehearsal.map(|asked| asked.errand(core, look.took)).unwrap_or_default();
        core.forecast.rehearsed(look.parked, errand, look.pending);
        if core.forecast.exceeds_by_far(look.pending) {
            return Phase::Copying(Copying::afresh(core, self.round));
        }
        core.forecast.errand_in_quiet(errand);
        self.harvested = core.now;
        self.pause(core)
    }

    fn pause(self, core: &mut Core) -> Phase {
        core.estimate = core.forecast.downtime_after(core.now.since(self.harvested));
        Pausing::start(core, self.round)
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
