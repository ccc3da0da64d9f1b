//! How two guest processes reach each other: the control connection and the bulk lanes.
//!
//! Frames and bytes go in and come out; this crate does **not** know what they mean, which pages
//! they carry, or who owns a guest. All the state it keeps is how many bytes are missing.
//!
//! ```text
//!   connect ─────────► Stream ─┬─► ControlSender, ControlReceiver    async, small frames
//!   Door ───► Caller ► Stream ─┴─► Lane: a socket's, TLS's, signed,  one thread a lane, bulk bytes
//!                                  QUIC's
//!                                  lane_pair() : Lane                the same without a network
//!
//!   Carrier: how all of them travel, and who is on the other side
//! ```
//!
//! What depends on the operating system is in the module `os`; everything else is portable.
#![forbid(unsafe_code)]

mod carrier;
mod control;
mod dial;
mod door;
mod greeters;
mod identity;
mod lane;
mod networks;
mod os;
mod pair;
mod probe;
mod quic;
mod signed;
mod socket;
mod stream;
mod tls;
mod tuning;

pub use carrier::{Carrier, Purpose};
pub use control::{ControlError, ControlReceiver, ControlSender, control_over};
pub use dial::{DialError, Path, comes_from, connect, dial, greet, look};
pub use door::{Caller, Door, DoorKey, DoorOptions, Kind};
pub use greeters::Place;
pub use identity::{Credentials, Fingerprint, Identity, NoFingerprint};
pub use lane::{Lane, LaneError, LaneHandle, Woken};
pub use networks::{Endpoint, Network, NoSubnet, Subnet, Which, endpoints, is_near, near, paths};
pub use pair::{PairLane, lane_pair};
pub use probe::{
    Answerer, Answering, Measured, ProbeToken, Sinks, Throughput, measure, measure_over,
};
pub use quic::{CONGESTION_CONTROLS, Quic};
pub use signed::{End, LaneSecret};
pub use socket::SocketLane;
pub use stream::Stream;
pub use tuning::{Congestion, Tuning};

/// Keeps the calling thread on the processors beside the network interface of this name.
///
/// # Errors
/// The system's.
pub fn pin_beside(interface: &str) -> std::io::Result<()> {
    os::pin_beside(interface)
}
