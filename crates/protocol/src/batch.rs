//! The bulk frames: what travels on a lane, byte by byte. `proto/wire.md` is their law.
//!
//! ```text
//!   source ── LaneHello ──► destination          once, before anything is trusted
//!          ◄─ LaneAnswer ──
//!          ── header │ descriptors │ payload ──► batch after batch
//!          ◄─ Ack ──                             cumulative, with the sum of what landed
//! ```
//!
//! Goals: a damaged header or descriptor never puts a page in a wrong place; no length is believed
//! before it is checked; no allocation a batch. Non-goals: reading sockets, keeping secrets, and
//! checking payload, whose digests travel back in the ack.

mod ack;
mod bytes;
mod decode;
mod encode;
mod greeting;

pub use ack::{ACK_SIZE, Ack, AckError};
pub use decode::{BatchError, BatchHeader, BatchReader};
pub use encode::BatchWriter;
pub use greeting::{
    CONTROL_MAGIC, GreetingError, LANE_ANSWER_SIZE, LANE_HELLO_SIZE, LANE_MAGIC, LaneAnswer,
    LaneHello, LaneRefusal, MAGIC_SIZE, WIRE_VERSION,
};

use whimbrel_page::{Disposition, Run};

/// Bytes of the fixed part of a batch.
pub const BATCH_HEADER_SIZE: usize = 32;
/// Bytes of one run descriptor.
pub const RUN_SIZE: usize = 24;
/// Bytes of the checksum behind the descriptors.
pub const RUNS_CHECKSUM_SIZE: usize = 8;

/// "WBCH" as it stands on the wire.
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"WBCH");

/// Neighbouring pages that travel the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRun {
    /// The pages.
    pub run: Run,
    /// How they travel; never [`Disposition::Unchanged`].
    pub disposition: Disposition,
}

/// How a disposition is written. `Unchanged` has no number: such a page is not on the wire.
const fn code_of(disposition: Disposition) -> u32 {
    match disposition {
        Disposition::Zero => 1,
        Disposition::Raw => 2,
        Disposition::Unchanged => 0,
    }
}

#[cfg(test)]
mod tests;
