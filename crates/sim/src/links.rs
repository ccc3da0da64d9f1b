//! The control connection: frames in order, late, or never.

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_protocol::{DestinationEvent, Hello, Message, Now, SourceEvent};

use crate::plan::Side;
use crate::step::{LinkId, Step};
use crate::world::World;

/// One control connection.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Nothing arrives any more.
    dead: bool,
    /// When the last frame to each side arrives; later ones do not overtake it.
    last: BTreeMap<bool, Duration>,
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
}

impl Network {
    fn open(&mut self) -> LinkId {
        self.count += 1;
        self.links.insert(self.count, Link::default());
        self.count
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
        let last = self.network.links[&link].last.get(&(to == Side::Source)).copied();
        let at = self.network.arrival(self.now, delay, last.unwrap_or_default());
        let known = self.network.links.get_mut(&link).expect("a link that was opened");
        known.last.insert(to == Side::Source, at);
        self.queue.push(at, Step::Frame(link, to, message.encode().to_vec()));
    }

    pub(crate) fn frame(&mut self, link: LinkId, to: Side, body: &[u8]) {
        if self.network.links[&link].dead {
            return;
        }
        let message = match Message::decode(body) {
            Ok(message) => message,
            Err(error) => return self.breach(format!("a frame does not decode: {error}")),
        };
        match (to, message) {
            (Side::Source, message) if self.src.link == Some(link) => {
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
        self.silence_link(link);
        for side in [Side::Source, Side::Destination] {
            let delay = self.random.micros(1, 50_000);
            self.after(delay, Step::LinkGone(link, side));
        }
    }

    /// The connection carries nothing more, and nobody is told.
    pub(crate) fn silence_link(&mut self, link: LinkId) {
        self.network.links.get_mut(&link).expect("a link that was opened").dead = true;
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
