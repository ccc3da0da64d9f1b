//! Switchover: pause, last round, state, verify, grant, run.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};

use super::connect::{Relinking, Retry};
use super::copy::{Copying, Quiescing, background};
use super::core::Core;
use super::{Phase, SourceAction, SourceEvent};
use crate::convergence::NEGLIGIBLE;
use crate::{
    Answer, BatchSeq, Failure, Fault, LaneClosed, LaneId, Message, Now, Outcome, Prepare, Standing,
    Verify,
};
use ::core::time::Duration;
use bytes::Bytes;
use whimbrel_page::{ByteCount, PageCount, Root};

/// The guest stands still; every way out before the grant runs it on.
#[derive(Clone, Debug, Hash)]
pub(super) struct Paused {
    pub(super) deadline: Now,
    round: u32,
}

impl Paused {
    /// Back to pre-copy: tracking stays on, the term is spent.
    fn back(self, core: &mut Core, why: &str) -> Phase {
        match self.resume(core, why) {
            Ok(()) => Phase::Copying(Copying::afresh(core, self.round)),
            Err(failure) => core.abort(failure),
        }
    }

    /// wire.md S14: while paused there is no window for resumption, the guest runs on at once.
    fn unlinked(self, core: &mut Core, why: &str) -> Phase {
        match self.resume(core, why) {
            Ok(()) => {
                let copying = Copying::afresh(core, self.round);
                Relinking::start(core, why, copying)
            }
            Err(failure) => core.abort(failure),
        }
    }

    /// What was written since the switchover was decided may be less the next time. What has grown
    /// beside it, the state, is not.
    fn too_long(self, core: &mut Core, pending: PageCount, expected: Duration) -> Phase {
        let numbers = core.forecast.numbers(pending);
        let decided = core.forecast.downtime(core.decided).unwrap_or_default();
        if expected.saturating_sub(decided) > NEGLIGIBLE {
            return self.back(core, &format!("too much was written before the pause: {numbers}"));
        }
        core.abort_by(Fault::NotConverging, numbers)
    }

    fn resume(&self, core: &mut Core, why: &str) -> Result<(), Failure> {
        core.say(format!("{why}; the guest runs on at the source"));
        core.resume();
        if core.link {
            // The later term tells the destination to let go of what the guest takes back.
            core.announce();
        }
        core.pauses += 1;
        if core.pauses < core.options.pauses_max {
            return Ok(());
        }
        let why = format!("{} switchovers were begun and none came through: {why}", core.pauses);
        Err(Failure::new(Fault::NotConverging, why))
    }
}

/// The guest is being parked.
#[derive(Clone, Debug, Hash)]
pub(super) struct Pausing {
    pub(super) deadline: Now,
    round: u32,
    /// Why the link was lost meanwhile.
    unlinked: Option<String>,
}

impl Pausing {
    pub(super) fn start(core: &mut Core, round: u32) -> Phase {
        core.paused = true;
        core.act(SourceAction::Pause);
        let deadline = core.after(core.options.pause_timeout);
        Phase::Pausing(Self { deadline, round, unlinked: None })
    }

    pub(super) fn handle(mut self, core: &mut Core, event: SourceEvent) -> Phase {
        let Some(event) = background(core, event) else {
            return if core.now >= self.deadline { self.hangs(core) } else { Phase::Pausing(self) };
        };
        match event {
            SourceEvent::Paused { pending, state } => self.paused(core, pending, state),
            SourceEvent::LinkLost(why) => {
                self.unlinked = Some(why);
                Phase::Pausing(self)
            }
            other => core.unexpected(Phase::Pausing(self), &other),
        }
    }

    /// Nothing was promised to anybody: the guest is the source's, and is told to run on.
    fn hangs(self, core: &mut Core) -> Phase {
        let within = core.options.pause_timeout.as_millis();
        let why = format!("the guest hangs: it was told to pause and did not within {within} ms");
        core.abort_by(Fault::Guest, why)
    }

    fn paused(self, core: &mut Core, pending: PageCount, state: Bytes) -> Phase {
        core.forecast.state_size(ByteCount(state.len() as u64));
        let expected = core.forecast.downtime(pending).unwrap_or_default();
        let deadline = core.after(core.pause_budget(expected));
        let paused = Paused { deadline, round: self.round + 1 };
        if let Some(why) = self.unlinked {
            return paused.unlinked(core, &why);
        }
        if core.forecast.exceeds_by_far(pending) {
            return paused.too_long(core, pending, expected);
        }
        if core.options.verify == Verify::Full {
            core.act(SourceAction::Verify);
            return Phase::Verifying(Verifying { paused, state });
        }
        Flushing::start(core, paused, state)
    }
}

/// wire.md V2: the paused memory itself is digested; what the tracker has missed is sent as well.
#[derive(Clone, Debug, Hash)]
pub(super) struct Verifying {
    pub(super) paused: Paused,
    state: Bytes,
}

impl Verifying {
    pub(super) fn handle(self, core: &mut Core, event: SourceEvent) -> Phase {
        match event {
            SourceEvent::Verified => Flushing::start(core, self.paused, self.state),
            SourceEvent::LinkLost(why) => self.paused.unlinked(core, &why),
            SourceEvent::Tick if core.now >= self.paused.deadline => {
                self.paused.back(core, "the memory was not verified within the pause budget")
            }
            other => match background(core, other) {
                None => Phase::Verifying(self),
                Some(event) => core.unexpected(Phase::Verifying(self), &event),
            },
        }
    }
}

/// The last pages are being sent.
#[derive(Clone, Debug, Hash)]
pub(super) struct Flushing {
    pub(super) paused: Paused,
    state: Bytes,
    /// The flush whose report counts: pages that came back need another one.
    flush: u32,
}

impl Flushing {
    fn start(core: &mut Core, paused: Paused, state: Bytes) -> Phase {
        core.act(SourceAction::Flush(0));
        Phase::Flushing(Self { paused, state, flush: 0 })
    }

    pub(super) fn handle(mut self, core: &mut Core, event: SourceEvent) -> Phase {
        let closed = matches!(event, SourceEvent::Message(Message::LaneClosed(_)));
        let Some(event) = background(core, event) else {
            if closed {
                self.flush += 1;
                core.act(SourceAction::Flush(self.flush));
            }
            return if core.now >= self.paused.deadline {
                self.paused.back(core, "the last pages were not sent within the pause budget")
            } else {
                Phase::Flushing(self)
            };
        };
        match event {
            SourceEvent::Flushed { flush, root, sent } if flush == self.flush => {
                self.flushed(core, root, sent)
            }
            SourceEvent::Flushed { .. } => Phase::Flushing(self),
            SourceEvent::LinkLost(why) => self.paused.unlinked(core, &why),
            other => core.unexpected(Phase::Flushing(self), &other),
        }
    }

    fn flushed(self, core: &mut Core, root: Root, sent: BTreeMap<LaneId, BatchSeq>) -> Phase {
        // The account of a lost lane comes with LaneClosed, which asks for another flush.
        if core.lanes_unsettled() {
            return Phase::Flushing(self);
        }
        let term = core.term;
        let list = sent.iter().map(|(lane, batch)| (*lane, *batch)).collect();
        // wire.md S9: paused, harvested for the last time, and all of it sent.
        core.send(Message::Prepare(Prepare { term, root, sent: list, state: self.state }));
        Phase::Preparing(Preparing { paused: self.paused, root, sent })
    }
}

/// Everything was sent; the destination checks and loads.
#[derive(Clone, Debug, Hash)]
pub(super) struct Preparing {
    pub(super) paused: Paused,
    root: Root,
    sent: BTreeMap<LaneId, BatchSeq>,
}

impl Preparing {
    pub(super) fn handle(self, core: &mut Core, event: SourceEvent) -> Phase {
        let term = core.term;
        match event {
            SourceEvent::Message(Message::Prepared(of, root)) if of == term => {
                self.prepared(core, root)
            }
            SourceEvent::Message(Message::Differs(of, _)) if of == term => {
                match self.paused.resume(core, "the memories differ") {
                    Ok(()) => Quiescing::for_repair(core, self.paused.round),
                    Err(failure) => core.abort(failure),
                }
            }
            SourceEvent::Message(Message::LaneClosed(closed)) => self.lane_closed(core, &closed),
            SourceEvent::LinkLost(why) => self.paused.unlinked(core, &why),
            SourceEvent::Tick if core.now >= self.paused.deadline => {
                self.paused.back(core, "the destination was not prepared within the pause budget")
            }
            other => match background(core, other) {
                None => Phase::Preparing(self),
                Some(event) => core.unexpected(Phase::Preparing(self), &event),
            },
        }
    }

    /// A lane that closed with everything landed does not matter any more.
    fn lane_closed(self, core: &mut Core, closed: &LaneClosed) -> Phase {
        let landed = core.lane_closed(closed);
        let sent = self.sent.get(&closed.mark.lane).copied();
        if landed.zip(sent).is_some_and(|(landed, sent)| landed < sent) {
            return self.paused.back(core, "a lane died with the last pages on it");
        }
        Phase::Preparing(self)
    }

    /// wire.md S10: the destination may run only when the roots agree, and says the one it has.
    fn prepared(self, core: &mut Core, root: Root) -> Phase {
        if root.agrees(self.root) {
            return Granted::start(core);
        }
        core.abort_by(Fault::Peer, "the destination is prepared for another memory")
    }
}

/// The source runs the guest no more, unless the destination durably refuses (law 7). It begins
/// before the note is written: once it may be read, the destination may be told to run.
#[derive(Clone, Debug, Hash)]
pub(super) struct Granted {
    until: Now,
    note: Note,
    /// How the link is being got back, while it is down.
    link: Option<Retry>,
    /// Whether the destination is known to run the guest.
    ran: bool,
    last_word: super::connect::LastWord,
}

/// The note of the grant.
#[derive(Clone, Debug, Hash)]
enum Note {
    Asked,
    Written,
    /// Whether it can be read is unknown, so only the destination can end this: it is asked to.
    Failed(String),
}

impl Granted {
    /// From here on only the destination can give the guest back.
    fn start(core: &mut Core) -> Phase {
        core.forget_lanes();
        core.act(SourceAction::Record(Standing::Granted, core.term));
        Phase::Granted(Self {
            until: core.after(core.options.doubt_timeout),
            note: Note::Asked,
            link: None,
            ran: false,
            last_word: "it has not answered the grant".to_string(),
        })
    }

    pub(super) fn deadline(&self) -> Now {
        self.link.map_or(self.until, |retry| self.until.min(retry.due()))
    }

    pub(super) fn handle(mut self, core: &mut Core, event: SourceEvent) -> Phase {
        let term = core.term;
        match event {
            SourceEvent::Message(Message::Running(of)) if of == term => {
                core.send(Message::Done(term));
                self.runs_there(core);
            }
            // wire.md S15: the end lets the memory go.
            SourceEvent::Recorded(Standing::Ceded) => {
                return core.finish(Outcome::Completed { term });
            }
            SourceEvent::Message(Message::Refused(of, why)) if of == term && !self.ran => {
                let why = format!("the destination did not run the guest: {why}");
                return core.abort_by(Fault::Guest, why);
            }
            SourceEvent::Recorded(Standing::Granted) => self.noted(core, Note::Written),
            SourceEvent::Failed(failure) => self.noted(core, Note::Failed(failure.why)),
            SourceEvent::LinkLost(why) => self.unlinked(core, why),
            // The session is over there, and its process may have run the guest: its agent knows.
            SourceEvent::Message(Message::Rejected(rejected)) => self.unlinked(core, rejected.why),
            SourceEvent::Answered(answer) => return self.answered(core, answer),
            SourceEvent::LinkUp => Retry::greet(core),
            // Museum M25: a grant that was lost is said again.
            SourceEvent::Message(Message::Resumed(_)) => {
                self.link = None;
                self.say_note(core);
            }
            SourceEvent::Tick => return self.tick(core),
            // Nothing else can change what was granted.
            _ => {}
        }
        Phase::Granted(self)
    }

    fn noted(&mut self, core: &mut Core, note: Note) {
        if matches!(self.note, Note::Asked) {
            self.note = note;
            self.say_note(core);
        }
    }

    /// wire.md S11: the note is written before the grant is said.
    fn say_note(&self, core: &mut Core) {
        match &self.note {
            _ if !core.link => {}
            Note::Asked => {}
            Note::Written => core.send(Message::Grant(core.term)),
            Note::Failed(why) => core.send(Message::Abort(why.clone())),
        }
    }

    fn unlinked(&mut self, core: &mut Core, why: String) {
        self.last_word = why;
        self.link = Some(Retry::later(core));
        core.act(SourceAction::Ask(core.term));
    }

    fn runs_there(&mut self, core: &mut Core) {
        if !::core::mem::replace(&mut self.ran, true) {
            core.act(SourceAction::Record(Standing::Ceded, core.term));
        }
    }

    /// The destination's agent has spoken, while its guest process could not be reached (wire.md
    /// O3).
    fn answered(mut self, core: &mut Core, answer: Answer) -> Phase {
        match answer {
            Answer::Runs => self.runs_there(core),
            Answer::NeverRan if !self.ran => {
                return core.abort_by(Fault::Guest, "the destination never ran the guest");
            }
            // Asked again with the next attempt to connect.
            _ => {}
        }
        Phase::Granted(self)
    }

    fn tick(mut self, core: &mut Core) -> Phase {
        let term = core.term;
        if core.now >= self.until {
            // Its own record could not be made durable, but the guest is known to run there.
            return core.finish(match self.ran {
                true => Outcome::Completed { term },
                false => Outcome::InDoubt { term, why: self.last_word },
            });
        }
        let retried = self.link.map(|retry| retry.tick(core));
        if retried != self.link && matches!(retried, Some(Retry::Trying(_))) {
            core.act(SourceAction::Ask(term));
        }
        self.link = retried;
        Phase::Granted(self)
    }
}
