//! The first bytes of a connection: which kind it is, and whose lane.

use super::bytes::{Fields, Frame, is_sealed};
use crate::{Epoch, LaneId, SessionId, Token};

/// Bytes that tell what a connection is for, the first in both directions (wire.md C1).
pub const MAGIC_SIZE: usize = 8;
/// Opens a control connection: length-prefixed frames follow.
pub const CONTROL_MAGIC: [u8; MAGIC_SIZE] = *b"WHIMCTL\n";
/// Opens a lane: the rest of a [`LaneHello`] or of a [`LaneAnswer`] follows.
pub const LANE_MAGIC: [u8; MAGIC_SIZE] = *b"WHIMLAN\n";

/// The version of the bulk frames.
pub const WIRE_VERSION: u16 = 1;
/// Bytes of a lane's first frame, its magic included.
pub const LANE_HELLO_SIZE: usize = 64;
/// Bytes of the destination's answer to it.
pub const LANE_ANSWER_SIZE: usize = 24;

/// What a source says when it opens a lane: 64 bytes, and no more is read before they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneHello {
    /// The migration this lane is for.
    pub session: SessionId,
    /// The life of the control connection; a lane of an older one is refused.
    pub epoch: Epoch,
    /// The number of this lane, not used before in this session.
    pub lane: LaneId,
    /// The secret that proves it.
    pub token: Token,
}

/// What a destination answers: batches may follow, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneAnswer(pub Result<(), LaneRefusal>);

/// Why a destination does not take a lane (wire.md B6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneRefusal {
    /// This side speaks another version of the bulk frames.
    #[error("the destination speaks another version of the bulk frames: bring both up to date")]
    Version,
    /// No such session.
    #[error("the destination knows no such session: it may have ended; start a new migration")]
    Session,
    /// The session has moved on to a later epoch.
    #[error("the lane belongs to an older connection of this session; open it anew")]
    Epoch,
    /// The token is not the session's.
    #[error("the destination refused the lane's token: ask its agent for a new session")]
    Token,
    /// The number was used before.
    #[error("the lane's number was used before in this session: take the next one")]
    Lane,
    /// As many lanes as were agreed are open.
    #[error("the destination has as many lanes open as were agreed")]
    Full,
}

/// Why a greeting is not one: whoever is at the other end is not (this version of) Whimbrel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// Other bytes than expected.
    #[error("the peer does not speak Whimbrel's bulk protocol: check the address and the port")]
    Magic,
    /// Damaged on the way.
    #[error("the peer's greeting has a wrong checksum: open the lane again")]
    Checksum,
    /// A version this side does not speak.
    #[error("the peer speaks bulk version {0}, this side {WIRE_VERSION}: bring both up to date")]
    Version(u16),
    /// A code or a reserved field this side does not know.
    #[error("the peer's greeting has an unknown {0}: bring both sides up to date")]
    Field(&'static str),
}

/// The answers, each at the place that is its number on the wire.
const ANSWERS: [LaneAnswer; 7] = [
    LaneAnswer(Ok(())),
    LaneAnswer(Err(LaneRefusal::Version)),
    LaneAnswer(Err(LaneRefusal::Session)),
    LaneAnswer(Err(LaneRefusal::Epoch)),
    LaneAnswer(Err(LaneRefusal::Token)),
    LaneAnswer(Err(LaneRefusal::Lane)),
    LaneAnswer(Err(LaneRefusal::Full)),
];

impl LaneHello {
    /// As it stands on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; LANE_HELLO_SIZE] {
        let frame = Frame::new().put(&LANE_MAGIC).put(&WIRE_VERSION.to_le_bytes());
        let frame = frame.put(&self.lane.0.to_le_bytes()).put(&self.epoch.0.to_le_bytes());
        let frame = frame.put(&self.session.to_bytes()).put(&self.token.to_bytes());
        frame.put(&[0; 8]).sealed()
    }

    /// Reads a hello. The version is judged first: what follows it may be laid out otherwise.
    ///
    /// # Errors
    /// [`GreetingError`] says what is wrong.
    pub fn decode(frame: &[u8; LANE_HELLO_SIZE]) -> Result<Self, GreetingError> {
        let mut fields = Fields(frame);
        opened(&mut fields, LANE_MAGIC, frame)?;
        let (lane, epoch) = (LaneId(fields.u16()), Epoch(fields.u32()));
        let session = SessionId::from_bytes(fields.bytes());
        let token = Token::from_bytes(fields.bytes());
        if fields.u64() != 0 {
            return Err(GreetingError::Field("reserved field"));
        }
        Ok(Self { session, epoch, lane, token })
    }
}

impl LaneAnswer {
    /// As it stands on the wire.
    #[must_use]
    pub fn encode(self) -> [u8; LANE_ANSWER_SIZE] {
        let code = ANSWERS.iter().position(|answer| *answer == self).expect("listed") as u16;
        let frame = Frame::new().put(&LANE_MAGIC).put(&WIRE_VERSION.to_le_bytes());
        frame.put(&code.to_le_bytes()).put(&[0; 4]).sealed()
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`GreetingError`] says what is wrong.
    pub fn decode(frame: &[u8; LANE_ANSWER_SIZE]) -> Result<Self, GreetingError> {
        let mut fields = Fields(frame);
        opened(&mut fields, LANE_MAGIC, frame)?;
        let (code, reserved) = (fields.u16(), fields.u32());
        let known = ANSWERS.get(usize::from(code)).filter(|_| reserved == 0);
        known.copied().ok_or(GreetingError::Field("answer"))
    }
}

/// wire.md B4: magic, then version, then seal; each says more precisely who is at the other end.
fn opened(
    fields: &mut Fields<'_>,
    magic: [u8; MAGIC_SIZE],
    frame: &[u8],
) -> Result<(), GreetingError> {
    if fields.bytes() != magic {
        return Err(GreetingError::Magic);
    }
    match fields.u16() {
        WIRE_VERSION if is_sealed(frame) => Ok(()),
        WIRE_VERSION => Err(GreetingError::Checksum),
        other => Err(GreetingError::Version(other)),
    }
}
