//! Settings of a migration. Each wait of the engine is one of these.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use whimbrel_memory::{Backing, TrackerKind};
use whimbrel_page::ByteCount;
use whimbrel_protocol::{Answer, GuestUuid, Question, SourceOptions, Term, Token};

use crate::lanes::LaneOptions;

/// Where a guest goes: a guest process that listens, and the token that opens its door.
#[derive(Clone, Copy, Debug)]
pub struct DestinationAddress {
    /// Where the destination's guest process listens.
    pub address: SocketAddr,
    /// The one-time token its agent handed out.
    pub token: Token,
}

/// Asks the agent on the other side about a term, when its guest process cannot be reached.
pub trait AskPeer: Send + Sync + 'static {
    /// Asks once and blocks until there is an answer or a deadline of the implementation has
    /// passed; [`Answer::Unknown`] if nobody could be asked.
    fn ask(&self, question: Question, guest: GuestUuid, term: Term) -> Answer;
}

/// A share of one core, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoreShare(u8);

impl CoreShare {
    /// Nothing of it.
    pub const NONE: Self = Self(0);
    /// All of it.
    pub const WHOLE: Self = Self(100);

    /// A share of `percent`, cut to what there is.
    #[must_use]
    pub const fn percent(percent: u8) -> Self {
        if percent > Self::WHOLE.0 { Self::WHOLE } else { Self(percent) }
    }

    /// The share in percent.
    #[must_use]
    pub const fn as_percent(self) -> u8 {
        self.0
    }

    /// How long to leave the core alone after so much work, so that work is this share of both.
    /// Measured by the clock and not by the CPU, it errs on the side of the others.
    pub(crate) fn rest_after(self, worked: Duration) -> Duration {
        let rest = u32::from(Self::WHOLE.0 - self.0);
        worked.saturating_mul(rest) / u32::from(self.0.max(1))
    }
}

impl Default for CoreShare {
    fn default() -> Self {
        Self(2)
    }
}

/// How a guest is sent.
#[derive(Clone)]
pub struct OutgoingOptions {
    /// What the protocol's source side is told: lanes, downtime limit, policy, deadlines.
    pub source: SourceOptions,
    /// How lanes are opened and filled.
    pub lanes: LaneOptions,
    /// How much may be spent, while the guest runs, on looking for writes that the tracker missed.
    pub scrub: CoreShare,
    /// How long to try to get the guest's outside resources back after a pause that came to
    /// nothing.
    pub reacquire_timeout: Duration,
    /// How long guest and lanes may take to end what they are doing once the outcome is decided.
    /// A guest that takes longer comes back later, as a [`crate::HungGuest`].
    pub return_timeout: Duration,
    /// The heartbeat of the guest's own cluster: a longer pause than this is warned of, because
    /// the guest may be taken for dead.
    pub guest_heartbeat: Option<Duration>,
    /// The dirty tracker to use; `None` takes the best one that the probe finds.
    pub tracker: Option<TrackerKind>,
    /// Where questions about the guest are answered on the other side, for the records.
    pub peer: String,
    /// How they are asked, if at all.
    pub ask: Option<Arc<dyn AskPeer>>,
    /// The random identity of this host, which makes its terms its own.
    pub host: u64,
    /// The last term that was burned for the guest.
    pub term: Term,
}

impl Default for OutgoingOptions {
    fn default() -> Self {
        Self {
            source: SourceOptions::default(),
            lanes: LaneOptions::default(),
            scrub: CoreShare::default(),
            // A prepared destination that is cut off holds them until it gives up waiting.
            reacquire_timeout: IncomingOptions::default().doubt_timeout + Duration::from_secs(10),
            return_timeout: Duration::from_secs(10),
            guest_heartbeat: None,
            tracker: None,
            peer: String::new(),
            ask: None,
            host: 0,
            term: Term::default(),
        }
    }
}

/// How a guest is received.
#[derive(Clone)]
pub struct IncomingOptions {
    /// Lanes to offer, 1..=128.
    pub lanes_max: u16,
    /// How lanes are read.
    pub lanes: LaneOptions,
    /// What the guest's memory is made of.
    pub backing: Backing,
    /// The most memory a guest may have: what was promised for it before the source came.
    pub memory_max: ByteCount,
    /// For the source's first word, and for its plan.
    pub greeting_timeout: Duration,
    /// A control connection that is silent for so long is lost.
    pub silence_timeout: Duration,
    /// How long a lost link may take to come back.
    pub resume_window: Duration,
    /// For each step of this host: reserving memory, making the guest and recording that it may be
    /// owned here, loading its state, running it.
    pub step_timeout: Duration,
    /// As in [`OutgoingOptions`].
    pub return_timeout: Duration,
    /// How long to wait, prepared, for a grant that does not come.
    pub doubt_timeout: Duration,
    /// Where questions about the guest are answered on the other side, for the records.
    pub peer: String,
    /// How they are asked, if at all.
    pub ask: Option<Arc<dyn AskPeer>>,
}

impl Default for IncomingOptions {
    fn default() -> Self {
        Self {
            lanes_max: 128,
            lanes: LaneOptions::default(),
            backing: Backing::Private,
            memory_max: ByteCount(u64::MAX),
            greeting_timeout: Duration::from_secs(10),
            silence_timeout: Duration::from_secs(5),
            resume_window: Duration::from_secs(30),
            step_timeout: Duration::from_secs(30),
            return_timeout: Duration::from_secs(10),
            doubt_timeout: Duration::from_secs(30),
            peer: String::new(),
            ask: None,
        }
    }
}

impl fmt::Debug for OutgoingOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingOptions")
            .field("source", &self.source)
            .field("lanes", &self.lanes)
            .field("tracker", &self.tracker)
            .field("peer", &self.peer)
            .field("term", &self.term)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for IncomingOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingOptions")
            .field("lanes_max", &self.lanes_max)
            .field("lanes", &self.lanes)
            .field("backing", &self.backing)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_kept_by_resting() {
        let worked = Duration::from_millis(10);
        for (percent, rest_ms) in [(100, 0), (50, 10), (5, 190), (2, 490)] {
            let rest = CoreShare::percent(percent).rest_after(worked);
            assert_eq!(rest, Duration::from_millis(rest_ms), "{percent} %");
        }
        assert_eq!(CoreShare::percent(200), CoreShare::WHOLE);
    }
}
