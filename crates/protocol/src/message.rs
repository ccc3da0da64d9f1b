//! The control messages of a session, checked and typed. `proto/wire.md` is the law; the bytes
//! are made and read by [`Message::encode`] and [`Message::decode`].

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use whimbrel_page::{ByteCount, ChunkIndex, Layout, LeafSum, RegionId, Root};

use crate::{BatchSeq, Epoch, GuestUuid, LaneId, SessionId, Term, Token};

/// Everything the two guest processes say on the control connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    // --- from the source -------------------------------------------------------------------
    /// Opens a session, or with `resume` the next epoch of one.
    Hello(Hello),
    /// What is to be moved, in the version and with the features the source picked.
    Plan(Plan),
    /// A lane has failed here; close your end and say what landed.
    LaneLost(LaneId),
    /// A pause under this term is near: record that you may own the guest.
    Announce(Term),
    /// The guest is paused and everything was sent.
    Prepare(Prepare),
    /// The source runs the guest no more.
    Grant(Term),
    /// The attempt is over; the source keeps the guest.
    Abort(String),
    /// Running was received: nothing of this session is open any more.
    Done(Term),
    /// The roots differed: name the sums of your chunks.
    AskSums,
    /// Answer with [`Message::Pong`] at once.
    Ping(u64),
    // --- from the destination --------------------------------------------------------------
    /// What this destination speaks.
    Offer(Offer),
    /// The memory is reserved and lanes may be opened.
    Accepted(Accepted),
    /// This guest is not taken.
    Rejected(Rejected),
    /// The next epoch has begun; all lanes of older epochs are fenced.
    Resumed(Resumed),
    /// The lane's thread has ended and its socket was closed unread.
    LaneClosed(LaneClosed),
    /// "May own" is durable.
    Ready(Term),
    /// Everything landed, the roots agree, and all that can fail is done.
    Prepared(Term, Root),
    /// Everything landed and the roots differ.
    Differs(Term, Root),
    /// Some of the sums that [`Message::AskSums`] asked for.
    Sums(Sums),
    /// The guest runs here.
    Running(Term),
    /// It never ran here under this term and never will; durable.
    Refused(Term, String),
    /// The answer to [`Message::Ping`] with its number.
    Pong(u64),
    /// So many bytes of memory were digested here in so long, at a rehearsal or for real.
    Digested(ByteCount, Duration),
}

/// The first message on a control connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// The lowest protocol version the source speaks.
    pub version_min: u32,
    /// The highest.
    pub version_max: u32,
    /// The token the destination's agent handed out, or on resumption the one of `Accepted`.
    pub token: Token,
    /// The session to go on with.
    pub resume: Option<(SessionId, Epoch)>,
}

/// What a destination speaks. It offers; the source picks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Offer {
    /// The session that this connection has opened.
    pub session: SessionId,
    /// The lowest protocol version.
    pub version_min: u32,
    /// The highest.
    pub version_max: u32,
    /// Optional and mandatory features.
    pub features: Vec<Feature>,
    /// Lanes it takes at a time, 1..=128.
    pub lanes_max: u16,
    /// Payload bytes it takes in one batch.
    pub batch_bytes_max: u32,
}

/// Something a peer can do beyond the version's base.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Feature {
    /// Its registered name.
    pub name: String,
    /// Whether the offerer cannot do without: an unknown mandatory feature ends the session.
    pub mandatory: bool,
}

/// What is to be moved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The picked version.
    pub version: u32,
    /// The picked features.
    pub features: Vec<String>,
    /// The guest.
    pub guest: GuestUuid,
    /// Its label.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// The version of its saved state.
    pub state_version: u32,
    /// Whether its memory is little-endian.
    pub little_endian: bool,
    /// Its regions.
    pub layout: Layout,
    /// The size of the pages that everything counts in.
    pub page_size: u32,
    /// How many lanes the source wants.
    pub lanes: u16,
}

/// A lane number and the one-time token that opens it.
pub type LaneTicket = (LaneId, Token);

/// The plan was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Accepted {
    /// One ticket a lane.
    pub lanes: Vec<LaneTicket>,
    /// The token a resumption of this session must show.
    pub resume_token: Token,
}

/// Why a plan or a greeting was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rejected {
    /// Whose fault it is, seen from the source.
    pub fault: crate::Fault,
    /// One sentence.
    pub why: String,
}

/// How far a lane had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneMark {
    /// The lane.
    pub lane: LaneId,
    /// The last batch of it that landed whole (or, from the source, that was sent).
    pub batch: BatchSeq,
    /// The sum over everything that landed on it.
    pub sum: LeafSum,
}

/// The session goes on after its control connection was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resumed {
    /// What landed on every lane of the older epochs that had not been reported as closed.
    pub landed: Vec<LaneMark>,
    /// Tickets for new lanes.
    pub lanes: Vec<LaneTicket>,
}

/// A lane is closed for good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LaneClosed {
    /// How far it had come.
    pub mark: LaneMark,
    /// A ticket for a lane in its place.
    pub replacement: Option<LaneTicket>,
}

/// Everything was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prepare {
    /// The term that may be granted next.
    pub term: Term,
    /// What the destination's root must be once all of it has landed.
    pub root: Root,
    /// The last batch of each living lane.
    pub sent: Vec<(LaneId, BatchSeq)>,
    /// The guest's state beside its memory.
    pub state: Bytes,
}

/// Sums of chunks that are not all zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sums {
    /// The region.
    pub region: RegionId,
    /// Chunks in ascending order with their sums.
    pub chunks: Vec<(ChunkIndex, LeafSum)>,
    /// Whether nothing follows, of this and all other regions.
    pub last: bool,
}

impl Message {
    /// Its name, for sentences about it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Plan(_) => "Plan",
            Self::LaneLost(_) => "LaneLost",
            Self::Announce(_) => "Announce",
            Self::Prepare(_) => "Prepare",
            Self::Grant(_) => "Grant",
            Self::Abort(_) => "Abort",
            Self::Done(_) => "Done",
            Self::AskSums => "AskSums",
            Self::Ping(_) => "Ping",
            Self::Offer(_) => "Offer",
            Self::Accepted(_) => "Accepted",
            Self::Rejected(_) => "Rejected",
            Self::Resumed(_) => "Resumed",
            Self::LaneClosed(_) => "LaneClosed",
            Self::Ready(_) => "Ready",
            Self::Prepared(..) => "Prepared",
            Self::Differs(..) => "Differs",
            Self::Sums(_) => "Sums",
            Self::Running(_) => "Running",
            Self::Refused(..) => "Refused",
            Self::Pong(_) => "Pong",
            Self::Digested(..) => "Digested",
        }
    }
}
