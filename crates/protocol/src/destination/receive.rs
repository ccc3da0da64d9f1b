//! From the first word to a memory that fills.

use super::core::Core;
use super::own::Preparing;
use super::{DestinationAction, DestinationEvent, Phase};
use ::core::mem::take;
use alloc::format;

use whimbrel_page::PAGE_SIZE;

use crate::verify::Cost;
use crate::{Accepted, Fault, Message, Now, Plan, Standing, Term, VERIFY_FULL, check_plan};

/// Until a source has said hello.
#[derive(Clone, Debug, Hash)]
pub(super) struct Greeting {
    pub(super) deadline: Now,
}

impl Greeting {
    pub(super) fn handle(self, core: &mut Core, event: DestinationEvent) -> Phase {
        match event {
            DestinationEvent::Tick if core.now >= self.deadline => {
                core.abort_by(Fault::Link, "no source came in time")
            }
            DestinationEvent::Tick => Phase::Greeting(self),
            other => core.unexpected(Phase::Greeting(self), &other),
        }
    }
}

/// Until the source has said what it wants to move.
#[derive(Clone, Debug, Hash)]
pub(super) struct Planning {
    pub(super) deadline: Now,
}

impl Planning {
    pub(super) fn handle(self, core: &mut Core, event: DestinationEvent) -> Phase {
        match event {
            DestinationEvent::Message(Message::Plan(plan)) => Self::planned(core, plan),
            DestinationEvent::Message(Message::Abort(why)) => core.abort_by(Fault::Cancelled, why),
            DestinationEvent::LinkLost(why) => core.abort_by(Fault::Link, why),
            DestinationEvent::Tick if core.now >= self.deadline => {
                core.abort_by(Fault::Link, "the source did not send its plan in time")
            }
            DestinationEvent::Tick => Phase::Planning(self),
            other => core.unexpected(Phase::Planning(self), &other),
        }
    }

    fn planned(core: &mut Core, plan: Plan) -> Phase {
        if let Err(failure) = check_plan(&plan, &core.offer()) {
            return core.abort(failure);
        }
        if plan.page_size as usize != PAGE_SIZE {
            let theirs = plan.page_size;
            let why =
                format!("the source counts in pages of {theirs} bytes, here it is {PAGE_SIZE}");
            return core.abort_by(Fault::Incompatible, why);
        }
        if plan.little_endian != cfg!(target_endian = "little") {
            let why =
                "the two hosts order bytes differently, and the guest's state is in its memory";
            return core.abort_by(Fault::Incompatible, why);
        }
        core.lanes_wanted = plan.lanes;
        // wire.md V1: the source picks.
        let full = plan.features.iter().any(|feature| feature == VERIFY_FULL);
        core.verification = full.then(|| Cost::of(plan.layout.bytes()));
        core.act(DestinationAction::Reserve(plan));
        Phase::Reserving(Reserving { deadline: core.after_step() })
    }
}

/// Until the memory is there.
#[derive(Clone, Debug, Hash)]
pub(super) struct Reserving {
    pub(super) deadline: Now,
}

impl Reserving {
    pub(super) fn handle(self, core: &mut Core, event: DestinationEvent) -> Phase {
        match event {
            // wire.md S2: checked and reserved before it is accepted.
            DestinationEvent::Reserved => {
                let lanes = core.issue(core.lanes_wanted);
                let resume_token = core.options.resume_token;
                core.send(Message::Accepted(Accepted { lanes, resume_token }));
                Phase::Receiving(Receiving::default())
            }
            DestinationEvent::Message(Message::Abort(why)) => core.abort_by(Fault::Cancelled, why),
            DestinationEvent::LinkLost(why) => core.abort_by(Fault::Link, why),
            DestinationEvent::Tick if core.now >= self.deadline => {
                core.step_hangs("the memory for the guest")
            }
            DestinationEvent::Tick => Phase::Reserving(self),
            other => core.unexpected(Phase::Reserving(self), &other),
        }
    }
}

/// The memory fills while the guest runs at the source.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Receiving {
    /// The term announced last, and what became of it.
    announced: Option<(Term, Announced)>,
    /// Whether the parked guest was made; it is with the first announcement.
    created: bool,
    /// Whether the source was told that the memories differ, and has not asked where.
    differs: bool,
    /// When all that an announcement asks for has to be done, while it is not.
    ready_by: Option<Now>,
}

/// What became of a term that was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Announced {
    /// So many records are under way, the last of which is for this term.
    Recording(u32),
    /// It is durable that this host may own the guest.
    Recorded,
    /// It was prepared already and came to nothing: none is prepared twice (wire.md S19), so that
    /// what an attempt reports late is never taken for another's.
    Spent,
}

impl Receiving {
    /// Back from an attempt that did not come through; the parked guest stays.
    pub(super) fn back(spent: Term) -> Self {
        Self { announced: Some((spent, Announced::Spent)), created: true, ..Self::default() }
    }

    /// Back from an attempt that found the memories to differ.
    pub(super) fn differing(spent: Term) -> Self {
        Self { differs: true, ..Self::back(spent) }
    }

    pub(super) const fn deadline(&self) -> Option<Now> {
        self.ready_by
    }

    pub(super) fn handle(mut self, core: &mut Core, event: DestinationEvent) -> Phase {
        match event {
            DestinationEvent::Message(Message::Announce(term)) => self.announce(core, term),
            DestinationEvent::Recorded(Standing::MayOwn) => {
                self.recorded();
                self.try_ready(core);
            }
            DestinationEvent::Created => {
                self.created = true;
                self.try_ready(core);
            }
            DestinationEvent::Message(Message::Prepare(prepare)) => {
                return match self.announced {
                    Some((term, Announced::Recorded)) if self.created && term == prepare.term => {
                        Preparing::start(core, prepare)
                    }
                    _ => core.abort_by(Fault::Peer, "a term was prepared that is not announced"),
                };
            }
            // wire.md S18: a long answer to a short question, which is therefore answered once.
            DestinationEvent::Message(Message::AskSums) if take(&mut self.differs) => {
                core.act(DestinationAction::SendSums);
            }
            DestinationEvent::Message(Message::Abort(why)) => {
                return core.abort_by(Fault::Cancelled, why);
            }
            // What an attempt that was given up still reports.
            DestinationEvent::Landed(..)
            | DestinationEvent::Verified(..)
            | DestinationEvent::Loaded(_) => {}
            DestinationEvent::Tick if self.ready_by.is_some_and(|by| core.now >= by) => {
                return core.step_hangs("a guest and a record for the announced term");
            }
            DestinationEvent::LinkLost(_) | DestinationEvent::Tick => {}
            DestinationEvent::Answered(..) => {}
            other => return core.unexpected(Phase::Receiving(self), &other),
        }
        Phase::Receiving(self)
    }

    /// wire.md S8: "may own" is durable before the source may pause.
    fn announce(&mut self, core: &mut Core, term: Term) {
        let under_way = match self.announced {
            Some((known, _)) if known == term => return self.try_ready(core),
            Some((known, _)) if known > term => return,
            Some((_, Announced::Recording(records))) => records,
            _ => 0,
        };
        if self.announced.is_none() && !self.created {
            core.act(DestinationAction::Create);
        }
        self.announced = Some((term, Announced::Recording(under_way + 1)));
        self.ready_by = Some(core.after_step());
        core.may_own = Some(term);
        core.record(Standing::MayOwn, term);
    }

    /// wire.md S8: records are made in their order, and the last one is that of the term.
    fn recorded(&mut self) {
        if let Some((_, announced @ Announced::Recording(_))) = &mut self.announced {
            *announced = match *announced {
                Announced::Recording(records) if records > 1 => Announced::Recording(records - 1),
                _ => Announced::Recorded,
            };
        }
    }

    fn try_ready(&mut self, core: &mut Core) {
        if let (Some((term, Announced::Recorded)), true) = (self.announced, self.created) {
            self.ready_by = None;
            core.send(Message::Ready(term));
        }
    }
}
