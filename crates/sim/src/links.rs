//! The control connection: frames in order, late, or never.

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_protocol::limits::CONTROL_FRAME_MAX;
use whimbrel_protocol::{DestinationEvent, Hello, Message, Now, SourceEvent};

use crate::breach::Law;
use crate::lander::Greeting;
use crate::plan::Side;
use crate::seen::Seen;
use crate::step::{LinkId, Step};
use crate::world::World;

/// Frames that may be under way on one connection in one direction: a connection that is silent
/// for longer than its timeout is given up, so no more than that can gather.
const FRAMES_MAX: usize = 64;

/// At which ends of a connection nothing arrives any more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deaf {
    source: bool,
    destination: bool,
}

impl Deaf {
    pub(crate) const BOTH: Self = Self { source: true, destination: true };

    pub(crate) const fn at(self, side: Side) -> bool {
        match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        }
    }

    pub(crate) const fn make(&mut self, side: Side) {
        match side {
            Side::Source => self.source = true,
            Side::Destination => self.destination = true,
        }
    }

    pub(crate) const fn anywhere(self) -> bool {
        self.source || self.destination
    }
}

/// One control connection.
#[derive(Debug, Default)]
pub(crate) struct Link {
    deaf: Deaf,
    /// Frames to each side that have not arrived yet.
    under_way: BTreeMap<Side, usize>,
    /// When the last frame to each side arrives; later ones do not overtake it.
    last: BTreeMap<Side, Duration>,
}

/// Everything between the hosts that is not a lane.
#[derive(Debug, Default)]
pub(crate) struct Network {
    links: BTreeMap<LinkId, Link>,
    count: LinkId,
    /// Until when everything is late.
    pub(crate) stalled: Duration,
    /// Until when nothing can be opened and no question arrives.
    pub(crate) out: Duration,
    /// Until when nothing that is new is answered, not even by a refusal.
    pub(crate) hole: Duration,
}

impl Network {
    fn open(&mut self) -> LinkId {
        self.count += 1;
        self.links.insert(self.count, Link::default());
        self.count
    }

    /// Whether something that needs no open connection gets through.
    pub(crate) fn carries(&self, now: Duration) -> bool {
        now >= self.out.max(self.hole)
    }

    /// When what is sent now arrives, given its delay: late in a stall, and never out of order.
    pub(crate) fn arrival(&self, now: Duration, delay: Duration, last: Duration) -> Duration {
        (now + delay).max(self.stalled).max(last + Duration::from_nanos(1))
    }
}

impl World {
    pub(crate) fn link_delay(&mut self) -> Duration {
        let (low, high) = self.plan.link_delay;
        self.random.micros(low, high)
    }

    /// The source opens a control connection.
    pub(crate) fn connect(&mut self) {
        let delay = self.link_delay() * 2;
        let life = self.src.life;
        self.after(delay, Step::Connected(life));
    }

    pub(crate) fn connected(&mut self) {
        if self.now < self.network.hole {
            return;
        }
        if self.now < self.network.out || !self.dst.host_up || !self.dst.alive {
            return self.feed_source(SourceEvent::LinkLost("nobody answers".into()));
        }
        self.src.link = Some(self.network.open());
        self.feed_source(SourceEvent::LinkUp);
    }

    pub(crate) fn send(&mut self, from: Side, message: &Message) {
        let link = match from {
            Side::Source => self.src.link,
            Side::Destination => self.dst.link,
        };
        if let Some(link) = link {
            self.send_on(link, from, message);
        }
    }

    fn send_on(&mut self, link: LinkId, from: Side, message: &Message) {
        let delay = self.link_delay();
        let to = from.other();
        let last = self.network.links[&link].last.get(&to).copied();
        let at = self.network.arrival(self.now, delay, last.unwrap_or_default());
        let known = self.network.links.get_mut(&link).expect("a link that was opened");
        known.last.insert(to, at);
        let under_way = known.under_way.entry(to).or_insert(0);
        *under_way += 1;
        let (many, body) = (*under_way > FRAMES_MAX, message.encode().to_vec());
        if many || body.len() > CONTROL_FRAME_MAX {
            let name = message.name();
            self.breach(Law::Limits, format!("a {name} of {} bytes is one too many", body.len()));
        }
        self.at(at, Step::Frame(link, to, body));
    }

    pub(crate) fn frame(&mut self, link: LinkId, to: Side, body: &[u8]) {
        let known = self.network.links.get_mut(&link).expect("a link that was opened");
        *known.under_way.get_mut(&to).expect("it was sent") -= 1;
        if known.deaf.at(to) {
            return;
        }
        let message = match Message::decode(body) {
            Ok(message) => message,
            Err(error) => {
                return self.breach(Law::Honesty, format!("a frame does not decode: {error}"));
            }
        };
        match (to, message) {
            (Side::Source, message) if self.src.link == Some(link) => {
                if let Message::Resumed(_) = message {
                    self.saw(Seen::Resumed);
                }
                if let Message::Differs(..) = message {
                    self.saw(Seen::Differed);
                }
                self.feed_source(SourceEvent::Message(message));
            }
            (Side::Destination, Message::Hello(hello)) => self.greeted(link, &hello),
            (Side::Destination, message) if self.dst.link == Some(link) => {
                self.feed_destination(DestinationEvent::Message(message));
            }
            _ => {}
        }
    }

    fn greeted(&mut self, link: LinkId, hello: &Hello) {
        if !self.dst.alive {
            return self.break_link(link);
        }
        self.greetings.push(Greeting::Control(hello.clone()));
        let before = self.dst.link;
        // The answers that are polled belong on the new connection.
        self.dst.link = Some(link);
        let greeted = self.dst.machine.greet(Now(self.now), hello);
        note!(self, "destination greeted: {greeted:?}");
        match greeted {
            Ok(()) => self.poll_destination(),
            Err(failure) => {
                self.dst.link = before;
                let rejected = Message::Rejected(whimbrel_protocol::Rejected {
                    fault: failure.fault,
                    why: failure.why,
                });
                self.send_on(link, Side::Destination, &rejected);
            }
        }
    }

    /// A side closes its end without being told that it is gone; the other side is told.
    pub(crate) fn hang_up(&mut self, side: Side) {
        let link = match side {
            Side::Source => self.src.link.take(),
            Side::Destination => self.dst.link.take(),
        };
        if let Some(link) = link {
            let delay = self.link_delay();
            self.after(delay, Step::LinkGone(link, side.other()));
        }
    }

    /// The connection breaks, and both sides notice, each in its time.
    pub(crate) fn break_link(&mut self, link: LinkId) {
        self.silence_link(link, Deaf::BOTH);
        for side in Side::BOTH {
            let delay = self.random.micros(1, 50_000);
            self.after(delay, Step::LinkGone(link, side));
        }
    }

    /// Nothing arrives any more at some ends of the connection, and nobody is told.
    pub(crate) fn silence_link(&mut self, link: LinkId, deaf: Deaf) {
        let known = self.network.links.get_mut(&link).expect("a link that was opened");
        Side::BOTH.into_iter().filter(|side| deaf.at(*side)).for_each(|side| known.deaf.make(side));
    }

    /// Somebody greets as a source did before: nothing may come of it.
    pub(crate) fn replay_control(&mut self, hello: &Hello) {
        if !self.dst.alive {
            return;
        }
        match self.dst.machine.greet(Now(self.now), hello) {
            Ok(()) => self.breach(Law::Strangers, format!("greeted again: {hello:?}")),
            Err(_) => self.saw(Seen::TurnedAway),
        }
    }

    pub(crate) fn link_gone(&mut self, link: LinkId, side: Side) {
        let why = || "the connection broke".to_string();
        match side {
            Side::Source if self.src.link == Some(link) => {
                self.src.link = None;
                self.feed_source(SourceEvent::LinkLost(why()));
            }
            Side::Destination if self.dst.link == Some(link) => {
                self.dst.link = None;
                self.feed_destination(DestinationEvent::LinkLost(why()));
            }
            _ => {}
        }
    }
}
