//! From Prepare to running, and the only ways out of it.

use alloc::format;
use alloc::string::String;

use super::core::Core;
use super::receive::Receiving;
use super::{DestinationAction, DestinationEvent, Phase};
use crate::{Answer, Epoch, Failure, Fault, Message, Now, Outcome, Prepare, Standing, Term};
use whimbrel_page::Root;

/// The last pages land, the roots are compared, the state is loaded.
#[derive(Clone, Debug, Hash)]
pub(super) struct Preparing {
    pub(super) deadline: Now,
    prepare: Prepare,
    /// The root of what has landed, once everything has.
    landed: Option<Root>,
}

impl Preparing {
    pub(super) fn start(core: &mut Core, prepare: Prepare) -> Phase {
        core.act(DestinationAction::AwaitCounts(prepare.term, prepare.sent.clone()));
        Phase::Preparing(Self { deadline: core.after_step(), prepare, landed: None })
    }

    pub(super) const fn term(&self) -> Term {
        self.prepare.term
    }

    pub(super) fn handle(self, core: &mut Core, event: DestinationEvent) -> Phase {
        let term = self.prepare.term;
        match event {
            DestinationEvent::Landed(of, root) if of == term => self.landed(core, root),
            DestinationEvent::Verified(of, root) if of == term => self.verified(core, root),
            DestinationEvent::Loaded(of) if of == term => self.loaded(core),
            // The source has given this attempt up and begins another.
            event @ DestinationEvent::Message(Message::Announce(of)) if of > term => {
                core.act(DestinationAction::Release);
                Receiving::back(term).handle(core, event)
            }
            event @ DestinationEvent::Message(Message::Abort(_)) => {
                Receiving::back(term).handle(core, event)
            }
            // Nothing was promised yet, and the source does not wait for it paused.
            DestinationEvent::LinkLost(_) => {
                core.act(DestinationAction::Release);
                Phase::Receiving(Receiving::back(term))
            }
            DestinationEvent::Tick if core.now >= self.deadline => {
                core.step_hangs("a guest with its last pages and its state")
            }
            DestinationEvent::Landed(..)
            | DestinationEvent::Verified(..)
            | DestinationEvent::Loaded(_) => Phase::Preparing(self),
            DestinationEvent::Tick | DestinationEvent::Answered(..) => Phase::Preparing(self),
            other => core.unexpected(Phase::Preparing(self), &other),
        }
    }

    /// wire.md S10: what is promised is the destination's own root.
    fn loaded(self, core: &mut Core) -> Phase {
        let term = self.prepare.term;
        let Some(root) = self.landed else {
            return core.unexpected(Phase::Preparing(self), &DestinationEvent::Loaded(term));
        };
        core.send(Message::Prepared(term, root));
        Prepared::start(core, term)
    }

    /// wire.md S10: nothing is promised for a memory that differs.
    fn landed(mut self, core: &mut Core, root: Root) -> Phase {
        let term = self.prepare.term;
        if !root.agrees(self.prepare.root) {
            return self.differs(core, root);
        }
        self.landed = Some(root);
        if let Some(cost) = core.verification {
            self.deadline = core.after_verification(cost);
            core.act(DestinationAction::Verify(term));
        } else {
            core.act(DestinationAction::Load(term, self.prepare.state.clone()));
        }
        Phase::Preparing(self)
    }

    /// wire.md V3: what was sent has landed; now the memory itself has said what it holds.
    fn verified(mut self, core: &mut Core, root: Root) -> Phase {
        if !root.agrees(self.prepare.root) {
            core.say("what landed is not in memory any more as it landed");
            return self.differs(core, root);
        }
        self.landed = Some(root);
        self.deadline = core.after_step();
        core.act(DestinationAction::Load(self.prepare.term, self.prepare.state.clone()));
        Phase::Preparing(self)
    }

    fn differs(self, core: &mut Core, root: Root) -> Phase {
        let term = self.prepare.term;
        core.say("the memories differ; the source keeps the guest and sends again");
        core.send(Message::Differs(term, root));
        Phase::Receiving(Receiving::differing(term))
    }
}

/// wire.md S13: all that can fail is done. Left only by Grant, by the word that the attempt was
/// given up, or by a durable refusal.
#[derive(Clone, Debug, Hash)]
pub(super) struct Prepared {
    term: Term,
    /// The connection on which it was said.
    epoch: Epoch,
    /// When a grant that has not come is refused.
    refuse_at: Now,
    /// When to ask the source's agent again.
    ask_at: Now,
}

impl Prepared {
    fn start(core: &mut Core, term: Term) -> Phase {
        core.promised = true;
        let refuse_at = core.now.after(core.options.doubt_timeout);
        // The source may have given the attempt up before it heard that all is prepared.
        let ask_at = core.now.after(core.options.silence_timeout);
        Phase::Prepared(Self { term, epoch: core.epoch, refuse_at, ask_at })
    }

    pub(super) const fn term(&self) -> Term {
        self.term
    }

    pub(super) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn deadline(&self) -> Now {
        self.refuse_at.min(self.ask_at)
    }

    pub(super) fn handle(mut self, core: &mut Core, event: DestinationEvent) -> Phase {
        let term = self.term;
        match event {
            DestinationEvent::Message(Message::Grant(of)) if of == term => {
                Starting::start(core, term)
            }
            // wire.md O5: asked about a term that was granted.
            DestinationEvent::Asked(of) if of == term => Starting::start(core, term),
            // wire.md O4: the other way to be granted a term.
            DestinationEvent::Answered(of, Answer::Yours) if of == term => {
                Starting::start(core, term)
            }
            DestinationEvent::Message(Message::Abort(why)) => core.abort_by(Fault::Cancelled, why),
            // The guest runs on at the source, which may come back with another attempt.
            DestinationEvent::Answered(of, Answer::NotYours) if of == term => {
                core.say("the source gave the attempt up; waiting for another one");
                core.promised = false;
                core.act(DestinationAction::Release);
                Phase::Receiving(Receiving::back(term))
            }
            // A later term means that this one was never granted.
            event @ DestinationEvent::Message(Message::Announce(of)) if of > term => {
                core.promised = false;
                core.act(DestinationAction::Release);
                Receiving::back(term).handle(core, event)
            }
            DestinationEvent::LinkLost(_) => {
                self.ask(core);
                Phase::Prepared(self)
            }
            DestinationEvent::Tick if core.now >= self.refuse_at => {
                core.abort_by(Fault::Link, "the grant did not come in time")
            }
            DestinationEvent::Tick => {
                if core.now >= self.ask_at {
                    self.ask(core);
                }
                Phase::Prepared(self)
            }
            DestinationEvent::Failed(failure) => core.abort(failure),
            // On a new connection of the session the source repeats where it stands.
            DestinationEvent::Message(Message::Announce(_))
            | DestinationEvent::Answered(..)
            | DestinationEvent::Asked(_) => Phase::Prepared(self),
            other => core.unexpected(Phase::Prepared(self), &other),
        }
    }

    /// The source's agent may know what its guest process can no longer say.
    fn ask(&mut self, core: &mut Core) {
        core.act(DestinationAction::Ask(self.term));
        self.ask_at = core.now.after(core.options.silence_timeout);
    }
}

/// The term is granted; the guest is being run.
#[derive(Clone, Debug, Hash)]
pub(super) struct Starting {
    pub(super) deadline: Now,
    term: Term,
}

impl Starting {
    fn start(core: &mut Core, term: Term) -> Phase {
        // wire.md S12: noted before the guest runs.
        core.record(Standing::Running, term);
        Phase::Starting(Self { deadline: core.after_step(), term })
    }

    pub(super) fn handle(self, core: &mut Core, event: DestinationEvent) -> Phase {
        match event {
            DestinationEvent::Recorded(Standing::Running) => {
                core.act(DestinationAction::Run(self.term));
                Phase::Starting(self)
            }
            DestinationEvent::Ran(of) if of == self.term => {
                core.send(Message::Running(self.term));
                core.record(Standing::Owner, self.term);
                let deadline = core.now.after(core.options.doubt_timeout);
                Phase::Running(Running { term: self.term, deadline })
            }
            // It did not run and now never will: the guest is granted back.
            DestinationEvent::Failed(failure) => core.abort(failure),
            DestinationEvent::Tick if core.now >= self.deadline => self.hangs(core),
            // The grant may be said twice; the rest waits for the guest to run.
            _ => Phase::Starting(self),
        }
    }

    /// It may run at any moment, so that it can neither be refused nor be said to run.
    fn hangs(self, core: &mut Core) -> Phase {
        let within = core.options.step_timeout.as_millis();
        let why =
            format!("the guest hangs: it was granted and told to run, and did not in {within} ms");
        core.finish(Outcome::InDoubt { term: self.term, why })
    }
}

/// The guest runs here. What remains is to make sure that the source knows.
#[derive(Clone, Debug, Hash)]
pub(super) struct Running {
    term: Term,
    pub(super) deadline: Now,
}

impl Running {
    pub(super) fn handle(self, core: &mut Core, event: DestinationEvent) -> Phase {
        match event {
            DestinationEvent::Message(Message::Grant(of)) if of == self.term => {
                core.send(Message::Running(of));
                Phase::Running(self)
            }
            DestinationEvent::Message(Message::Done(of)) if of == self.term => self.completed(core),
            // The source's agent can still ask ours.
            DestinationEvent::Tick if core.now >= self.deadline => self.completed(core),
            DestinationEvent::Failed(failure) => {
                core.say(format!("{failure}"));
                Phase::Running(self)
            }
            _ => Phase::Running(self),
        }
    }

    fn completed(self, core: &mut Core) -> Phase {
        core.finish(Outcome::Completed { term: self.term })
    }
}

/// "Never ran, never will" is being made durable.
#[derive(Clone, Debug, Hash)]
pub(super) struct Refusing {
    term: Term,
    failure: Failure,
    pub(super) deadline: Now,
}

impl Refusing {
    pub(super) fn start(core: &mut Core, term: Term, failure: Failure) -> Phase {
        core.record(Standing::Refused, term);
        let deadline = core.now.after(core.options.greeting_timeout);
        Phase::Refusing(Self { term, failure, deadline })
    }

    pub(super) fn handle(self, core: &mut Core, event: DestinationEvent) -> Phase {
        match event {
            DestinationEvent::Recorded(Standing::Refused) => self.refused(core),
            // Without a durable record nothing may be promised: the source stays in doubt until
            // its agent asks ours.
            DestinationEvent::Failed(failure) => self.silent(core, &format!("{failure}")),
            DestinationEvent::Tick if core.now >= self.deadline => {
                self.silent(core, "the refusal could not be recorded in time")
            }
            _ => Phase::Refusing(self),
        }
    }

    fn refused(self, core: &mut Core) -> Phase {
        let why: String = self.failure.why.clone();
        if core.linked() {
            core.send(Message::Refused(self.term, why));
        }
        core.finish(Outcome::Aborted(self.failure))
    }

    fn silent(self, core: &mut Core, why: &str) -> Phase {
        core.say(format!("the refusal of term {} is not durable: {why}", self.term));
        core.finish(Outcome::Aborted(self.failure))
    }
}
