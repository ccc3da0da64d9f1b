//! Getting connected, for the first time and again.

use alloc::format;
use alloc::string::String;

use super::copy::Copying;
use super::core::Core;
use super::{Phase, SourceAction, SourceEvent};
use crate::{
    Accepted, Epoch, Fault, Hello, Message, Now, Offer, PROTOCOL_VERSIONS, Plan, Resumed,
    SessionId, Token, VERIFY_FULL, Verify,
};
use whimbrel_page::PAGE_SIZE;

fn hello(token: Token, resume: Option<(SessionId, Epoch)>) -> Message {
    Message::Hello(Hello {
        version_min: *PROTOCOL_VERSIONS.start(),
        version_max: *PROTOCOL_VERSIONS.end(),
        token,
        resume,
    })
}

/// Until the destination has offered.
#[derive(Clone, Debug, Hash)]
pub(super) struct Greeting {
    pub(super) deadline: Now,
}

impl Greeting {
    pub(super) fn start(core: &mut Core) -> Self {
        core.act(SourceAction::Connect);
        Self { deadline: core.after(core.options.greeting_timeout) }
    }

    pub(super) fn handle(self, core: &mut Core, event: SourceEvent) -> Phase {
        match event {
            SourceEvent::LinkUp => {
                core.send(hello(core.token, None));
                Phase::Greeting(self)
            }
            SourceEvent::LinkLost(why) => core.abort_by(Fault::Link, why),
            SourceEvent::Message(Message::Offer(offer)) => Self::offered(core, offer),
            SourceEvent::Tick if core.now >= self.deadline => {
                core.abort_by(Fault::Link, "the destination did not greet in time")
            }
            SourceEvent::Tick => Phase::Greeting(self),
            other => core.unexpected(Phase::Greeting(self), &other),
        }
    }

    /// wire.md C7: the destination offers, the source picks.
    fn offered(core: &mut Core, offer: Offer) -> Phase {
        let wanted = core.options.verify.features();
        let picked = match crate::negotiate(&offer, PROTOCOL_VERSIONS, wanted) {
            Ok(picked) => picked,
            Err(rejected) => return core.abort(rejected),
        };
        let full = picked.features.iter().any(|feature| feature == VERIFY_FULL);
        if core.options.verify == Verify::Full && !full {
            let why = "the destination cannot verify all of its memory: upgrade it, or verify by \
                       digest";
            return core.abort_by(Fault::Incompatible, why);
        }
        core.session = Some((offer.session, Epoch(0)));
        core.batch_bytes_max = offer.batch_bytes_max;
        core.options.lanes = core.options.lanes.clamp(1, offer.lanes_max.max(1));
        let subject = &core.subject;
        let plan = Plan {
            version: picked.version,
            features: picked.features,
            guest: subject.guest,
            name: subject.name.clone(),
            kind: subject.kind.clone(),
            state_version: subject.state_version,
            little_endian: cfg!(target_endian = "little"),
            layout: subject.layout.clone(),
            page_size: PAGE_SIZE as u32,
            lanes: core.options.lanes,
        };
        core.send(Message::Plan(plan));
        Phase::Planning(Planning { deadline: core.after(core.options.greeting_timeout) })
    }
}

/// Until the destination has reserved the memory.
#[derive(Clone, Debug, Hash)]
pub(super) struct Planning {
    pub(super) deadline: Now,
}

impl Planning {
    pub(super) fn handle(self, core: &mut Core, event: SourceEvent) -> Phase {
        match event {
            SourceEvent::Message(Message::Accepted(accepted)) => Self::accepted(core, accepted),
            SourceEvent::LinkLost(why) => core.abort_by(Fault::Link, why),
            SourceEvent::Tick if core.now >= self.deadline => {
                core.abort_by(Fault::Link, "the destination did not answer the plan in time")
            }
            SourceEvent::Tick => Phase::Planning(self),
            other => core.unexpected(Phase::Planning(self), &other),
        }
    }

    fn accepted(core: &mut Core, accepted: Accepted) -> Phase {
        core.token = accepted.resume_token;
        if accepted.lanes.is_empty() {
            return core.abort_by(Fault::Peer, "the destination accepted, but offered no lane");
        }
        if let Some(end) = too_many_lanes(core, accepted.lanes.len()) {
            return end;
        }
        core.ping_now();
        // Arming comes first (museum M17): what a lane reads before is read again.
        core.act(SourceAction::Arm);
        accepted.lanes.into_iter().for_each(|ticket| core.open_lane(ticket));
        Phase::Copying(Copying::arming(core))
    }
}

/// wire.md S17: each ticket is a lane with its thread and its buffers, and no more of them were
/// agreed on.
fn too_many_lanes(core: &mut Core, tickets: usize) -> Option<Phase> {
    let agreed = usize::from(core.options.lanes);
    let why = || format!("the destination gave out {tickets} lanes, where {agreed} were agreed on");
    (tickets > agreed).then(|| core.abort_by(Fault::Peer, why()))
}

/// The link was lost during pre-copy; what landed stays landed if it comes back in time.
#[derive(Clone, Debug, Hash)]
pub(super) struct Relinking {
    until: Now,
    retry: Retry,
    copying: Copying,
    /// What a step of this host reported meanwhile: at most one such step is under way.
    held: Option<SourceEvent>,
}

/// Where an attempt to connect again stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Retry {
    /// The next one begins then.
    At(Now),
    /// One is under way, and the peer's answer is due by then.
    Trying(Now),
}

impl Retry {
    pub(super) const fn due(self) -> Now {
        let (Self::At(at) | Self::Trying(at)) = self;
        at
    }

    pub(super) fn begin(core: &mut Core) -> Self {
        core.act(SourceAction::Connect);
        Self::Trying(core.after(core.options.greeting_timeout))
    }

    /// Waits before the next attempt.
    pub(super) fn later(core: &mut Core) -> Self {
        core.act(SourceAction::Hangup);
        core.link = false;
        Self::At(core.after(core.options.retry_delay))
    }

    /// Time has passed: an attempt that hangs is ended, a due one begun.
    pub(super) fn tick(self, core: &mut Core) -> Self {
        match self {
            Self::At(at) if core.now >= at => Self::begin(core),
            Self::Trying(by) if core.now >= by => Self::later(core),
            other => other,
        }
    }

    /// The connection is open: ask for the next epoch of the session.
    pub(super) fn greet(core: &mut Core) {
        let (session, epoch) = core.session.expect("a session was accepted before it was resumed");
        core.session = Some((session, epoch.next()));
        core.send(hello(core.token, Some((session, epoch.next()))));
    }
}

impl Relinking {
    pub(super) fn start(core: &mut Core, why: &str, copying: Copying) -> Phase {
        let window = core.options.resume_window;
        core.say(format!("the link was lost ({why}); trying for {window:?}"));
        core.act(SourceAction::Hangup);
        core.link = false;
        core.pause_lane_watch();
        let retry = Retry::begin(core);
        Phase::Relinking(Self { until: core.after(window), retry, copying, held: None })
    }

    pub(super) fn deadline(&self) -> Now {
        self.until.min(self.retry.due())
    }

    pub(super) fn handle(mut self, core: &mut Core, event: SourceEvent) -> Phase {
        match event {
            SourceEvent::LinkUp => Retry::greet(core),
            SourceEvent::LinkLost(_) => self.retry = Retry::later(core),
            SourceEvent::Message(Message::Resumed(resumed)) => return self.resumed(core, resumed),
            SourceEvent::Tick if core.now >= self.until => {
                let why = "the link did not come back within the resume window";
                return core.abort_by(Fault::Link, why);
            }
            SourceEvent::Tick => self.retry = self.retry.tick(core),
            SourceEvent::Recorded(standing) => core.recorded(standing),
            // Ready is said again once it is announced again; the others answer an attempt that
            // this side has given up.
            SourceEvent::Message(
                Message::Ready(_) | Message::Prepared(..) | Message::Differs(..),
            ) => {}
            // Their lanes are fenced already.
            SourceEvent::LaneUp(_) | SourceEvent::LaneFailed(..) => {}
            SourceEvent::Verified | SourceEvent::Quiesced(_) | SourceEvent::Looked(_) => {}
            event @ (SourceEvent::Armed | SourceEvent::RoundTaken | SourceEvent::Harvested(_)) => {
                self.held = Some(event);
            }
            other => return core.unexpected(Phase::Relinking(self), &other),
        }
        Phase::Relinking(self)
    }

    fn resumed(self, core: &mut Core, resumed: Resumed) -> Phase {
        if let Some(end) = too_many_lanes(core, resumed.lanes.len()) {
            return end;
        }
        core.say("the link is back; what had landed is not sent again");
        core.lanes_fenced(&resumed.landed);
        resumed.lanes.into_iter().for_each(|ticket| core.open_lane(ticket));
        core.announce_again();
        core.ping_now();
        self.copying.relinked(core, self.held)
    }
}

/// Why the last connection was lost, as the phases that go on asking remember it.
pub(super) type LastWord = String;
