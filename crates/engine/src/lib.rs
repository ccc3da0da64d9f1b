//! Moves a running guest from one host to another: the public library of Whimbrel.
//!
//! Implement [`guest::Guest`], give it to [`Outgoing`] on one host and a
//! [`guest::GuestFactory`] to [`Incoming`] on the other, and look at the [`Outcome`]. The engine
//! is where the protocol's machines, guest memory and lanes meet. It does **not** start guests,
//! decide who may migrate, keep records on disk or talk to people: agents do.
//!
//! ```text
//!   Outgoing: guest ─► tracker ─► ledger ─► lanes ══ wire ══► lanes ─► landing ─► guest :Incoming
//!                 └──── Source ◄───── control connection ─────► Destination ────┘
//! ```
#![forbid(unsafe_code)]

mod digest;
mod ended;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod guest;
mod incoming;
mod journal;
mod lanes;
mod link;
mod options;
mod outgoing;
mod progress;
mod spawn;

pub use ended::{Asked, Cancel, Ended, Ending, HungGuest, Returned};
pub use incoming::Incoming;
pub use journal::{Journal, VolatileJournal};
pub use lanes::{LaneOptions, Limits, Traffic};
pub use options::{AskPeer, CoreShare, DestinationAddress, IncomingOptions, OutgoingOptions};
pub use outgoing::{CELLS_MAX, MemoryMap, Outgoing};
pub use progress::{
    DecisionReport, DowntimeParts, LaneReport, PathReport, Progress, Report, RoundReport, Step,
};
pub use whimbrel_memory as memory;
pub use whimbrel_page as page;
pub use whimbrel_protocol as protocol;
pub use whimbrel_protocol::{Failure, Fault, Outcome, Verify};
pub use whimbrel_transport as transport;
pub use whimbrel_transport::{
    Carrier, Congestion, Credentials, Fingerprint, Identity, NoFingerprint, Quic, Tuning,
};
