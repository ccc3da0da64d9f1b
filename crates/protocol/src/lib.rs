//! What two sides of a migration say to each other, and what each may do next.
//!
//! Messages, the batch codec, the ledger of pages, the state machines [`Source`] and
//! [`Destination`], and the [rules of ownership](rule). This crate does **no** I/O, keeps no
//! clock, starts no thread and sees no byte of guest memory outside a batch it was handed: it is
//! `no_std`, so the compiler holds it to that. The engine and the simulator are two hands on the
//! same machines.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod batch;
mod codec;
mod convergence;
mod destination;
mod ids;
pub mod ledger;
pub mod limits;
mod message;
mod outcome;
mod ownership;
mod pace;
mod source;
mod throughput;
mod verify;

pub use codec::{DecodeError, PROTOCOL_VERSIONS, Picked, check_plan, negotiate};
pub use convergence::{Convergence, Decision, Forecast, Policy, Round};
pub use destination::{Destination, DestinationAction, DestinationEvent, DestinationOptions};
pub use ids::{BatchSeq, Epoch, GuestUuid, LaneId, Now, SessionId, Term, Token};
pub use ledger::{Ledger, RoundNumber};
pub use limits::{CONTROL_FRAME_MAX, PEER_BYTES_MAX, STATE_BYTES_MAX};
pub use message::{
    Accepted, Feature, Hello, LaneClosed, LaneMark, LaneTicket, Message, Offer, Plan, Prepare,
    Rejected, Resumed, Sums,
};
pub use outcome::{Failure, Fault, Outcome, Violation};
pub use ownership::{Answer, Process, Question, Record, Ruling, Standing, rule};
pub use pace::{Claim, Limits, Pace};
pub use source::{Harvest, Source, SourceAction, SourceEvent, SourceOptions, Subject};
pub use throughput::{Meter, Throughput};
pub use verify::{VERIFY_FULL, Verify};
