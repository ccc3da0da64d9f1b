//! The service port: a socket device between clients somewhere and the guest's memory.
//!
//! ```text
//!   client ══ relay ──ToGuest──► doorway ─► executor: bytes counted, commands, replies
//!               ▲                                        │ all of it in guest memory
//!               └───────────────FromGuest────────────────┘
//! ```
//!
//! A *relay* holds the sockets of clients and may be anywhere; the guest holds the rest of each
//! connection: how many of the client's bytes it has *taken*, those it has not carried out yet,
//! and the replies whose *delivery* the relay has not confirmed. Both directions are counted from
//! the connection's first byte. A relay keeps bytes until they are taken, the guest keeps replies
//! until they are delivered; so whichever host the guest runs on, a relay that attaches to it
//! goes on where the guest's memory stands, and nothing is lost or comes twice.

use bytes::Bytes;

/// One run of a relay. A host has one relay at a time: a new run ends the connections of the old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelayId {
    /// The host it is on.
    pub host: u64,
    /// Which run of it.
    pub run: u64,
}

/// A connection of one run of a relay. Given in rising order, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A place in the bytes that go one way over a connection, counted from its first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

/// What a relay says. Of one connection in the order of its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToGuest {
    /// A client has connected.
    Open(ConnectionId),
    /// What a client has said from a position on. What was taken already is skipped.
    Bytes(ConnectionId, Position, Bytes),
    /// The replies up to here are with the client.
    Delivered(ConnectionId, Position),
    /// The client says no more than this; it may still listen.
    Ended(ConnectionId, Position),
    /// The client has gone, or its last reply is with it.
    Closed(ConnectionId),
}

/// What the guest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromGuest {
    /// A connection as the guest has it.
    Said(Said),
    /// There is no such connection, or no longer.
    Gone(ConnectionId),
}

/// One connection, and the replies that follow those said before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Which one.
    pub connection: ConnectionId,
    /// The client's bytes up to here are in guest memory.
    pub taken: Position,
    /// The client's bytes up to here may be sent.
    pub credit: Position,
    /// Where the replies begin.
    pub from: Position,
    /// The replies.
    pub bytes: Bytes,
    /// After these replies the connection is to be closed.
    pub last: bool,
}

/// How a relay attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Which run of which relay.
    pub relay: RelayId,
    /// The last number it has given by now. It says nothing about connections beyond.
    pub last: ConnectionId,
    /// The connections it holds, and up to where the replies to each are delivered.
    pub held: Vec<(ConnectionId, Position)>,
}

/// Where the guest puts what it says to one relay.
pub trait Outlet: Send {
    /// Whether a call of [`Outlet::give`] would be taken now.
    fn has_room(&self) -> bool;

    /// Whether the relay is still there.
    fn is_there(&self) -> bool;

    /// Takes it. `false` if the relay has gone. What is given first is empty: the relay is
    /// attached.
    fn give(&mut self, said: Vec<FromGuest>) -> bool;

    /// The relay is cut off: nothing follows but that this is dropped.
    fn cut(&mut self, why: Overrun);
}

/// A relay has sent more than it was allowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the relay sends more of a client than the guest has allowed it to")]
pub struct Overrun;

/// Bytes of a client that may be on their way to the guest and not taken.
pub const WINDOW: u64 = 256 << 10;
/// Bytes of a client that its relay keeps in any case until they are taken: a guest that has no
/// room for them waits for no more.
pub const KEPT_MIN: u64 = 16 << 10;
const _: () = assert!(KEPT_MIN <= WINDOW);
/// Bytes in one [`ToGuest::Bytes`], at most.
pub const PIECE_MAX: usize = 64 << 10;
