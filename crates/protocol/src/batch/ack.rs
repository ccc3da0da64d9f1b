//! The ack: what a destination has landed on a lane.

use whimbrel_page::LeafSum;

use super::bytes::{Fields, Frame, is_sealed};
use crate::BatchSeq;

/// Bytes of an ack.
pub const ACK_SIZE: usize = 40;

const ACK_MAGIC: u32 = u32::from_le_bytes(*b"WACK");

/// Everything up to `landed` is in place, and digested as `sum` says (wire.md B15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The last batch that landed, and with it all before it.
    pub landed: BatchSeq,
    /// Σ [`whimbrel_page::Leaf::mix`] of every page landed on this lane since it opened.
    pub sum: LeafSum,
}

/// Why 40 bytes are not an ack: the peer or the link garbled them. Close the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the destination sent {0}; this lane cannot go on, its pages go again on another")]
pub struct AckError(&'static str);

impl Ack {
    /// As it stands on the wire.
    #[must_use]
    pub fn encode(self) -> [u8; ACK_SIZE] {
        let frame = Frame::new().put(&ACK_MAGIC.to_le_bytes()).put(&[0; 4]);
        let frame = frame.put(&self.landed.0.to_le_bytes());
        frame.put(&self.sum.0.to_be_bytes()).sealed()
    }

    /// Reads an ack.
    ///
    /// # Errors
    /// [`AckError`] if a checksum, the magic or a reserved field is wrong.
    pub fn decode(frame: &[u8; ACK_SIZE]) -> Result<Self, AckError> {
        if !is_sealed(frame) {
            return Err(AckError("an acknowledgement with a wrong checksum"));
        }
        let mut fields = Fields(frame);
        if fields.u32() != ACK_MAGIC || fields.u32() != 0 {
            return Err(AckError("something that is not an acknowledgement"));
        }
        Ok(Self {
            landed: BatchSeq(fields.u64()),
            sum: LeafSum(u128::from_be_bytes(fields.bytes())),
        })
    }
}
