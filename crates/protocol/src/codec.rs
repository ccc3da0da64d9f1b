//! Control messages as bytes: `proto/whimbrel/session/v1/session.proto` and `proto/wire.md`, C.
//!
//! ```text
//!   Message ──write──► proto ──prost──► bytes ──scan──► proto ──read──► Message
//!                                        bounded before prost allocates │ every field checked
//! ```
//!
//! The body of a frame only; its length prefix belongs to the transport.

mod negotiate;
mod proto;
mod read;
mod scan;
mod write;

use alloc::string::{String, ToString as _};

use bytes::Bytes;
use prost::Message as _;

pub use negotiate::{PROTOCOL_VERSIONS, Picked, check_plan, negotiate};

use crate::Message;

/// Why bytes are not a control message. The connection they came from cannot be trusted further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end within a field.
    #[error("the control frame ends within a field: it was cut short on its way")]
    Truncated,
    /// The frame, or the number of fields in it, is past the limit.
    #[error("the control frame has {found} {what}, at most {most} are allowed")]
    Oversized {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much there may be.
        most: usize,
    },
    /// A message this version does not know; 0 stands for a frame without a message.
    #[error("message {0} is not known here: the peer speaks another version than was agreed")]
    Unknown(u32),
    /// Not Protocol Buffers, or not shaped as `session.proto` says.
    #[error("the control frame is malformed: {0}")]
    Malformed(String),
    /// A field has a value that is not allowed.
    #[error("field {field} of a control message {why}")]
    Field {
        /// The message and the field, as in `plan.regions`.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Message {
    /// The body of the control frame that says this.
    ///
    /// Sentences longer than [`REASON_BYTES_MAX`](crate::limits::REASON_BYTES_MAX) are cut
    /// (wire.md C10). All other limits are the caller's: a message past one of them is refused by
    /// the peer.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let control = proto::Control { message: Some(write::message(self)) };
        control.encode_to_vec().into()
    }

    /// Reads the body of a control frame. Allocates no more than a small multiple of its length.
    ///
    /// # Errors
    /// [`DecodeError`] names the field and what is wrong with it.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let kind = scan::scan(body)?;
        let control = proto::Control::decode(body);
        let control = control.map_err(|e| DecodeError::Malformed(e.to_string()))?;
        read::message(control.message.ok_or(DecodeError::Unknown(kind))?)
    }
}
