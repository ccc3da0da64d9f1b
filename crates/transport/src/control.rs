//! The control connection: small frames over anything that reads and writes.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf, split,
};
use tokio::time::timeout;
use twox_hash::XxHash3_64;

/// Bytes of the length before the body of a frame (wire.md C3).
const LENGTH_SIZE: usize = 4;
/// Bytes of the seal behind it.
const SEAL_SIZE: usize = 8;
/// How much is read at a time: a claimed length alone makes nobody allocate more.
const READ_SIZE: usize = 64 << 10;

/// Why a control connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The peer closed it between frames.
    #[error("the peer closed the control connection")]
    Closed,
    /// The peer closed it within a frame.
    #[error("the control connection ended within a frame")]
    Truncated,
    /// The peer announces more than is allowed, or this side wants to send more.
    #[error("a control frame of {got} bytes, where {most} are allowed")]
    Oversized {
        /// The length of the frame.
        got: usize,
        /// The longest there may be.
        most: usize,
    },
    /// The seal of a frame is not that of its bytes: they were damaged on their way.
    #[error("a control frame was damaged on its way")]
    Damaged,
    /// The peer does not read.
    #[error("the peer took no control frame for {0:?}")]
    Stalled(Duration),
    /// The network, or the system.
    #[error("the control connection failed: {0}")]
    Link(#[from] io::Error),
}

/// The sending half.
#[derive(Debug)]
pub struct ControlSender<W> {
    writer: W,
    frame_max: usize,
    within: Duration,
}

/// The receiving half.
#[derive(Debug)]
pub struct ControlReceiver<R> {
    reader: R,
    frame_max: usize,
    buffer: BytesMut,
}

/// `body` as it stands on a control connection: its length, itself, and the seal of both.
fn framed(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_le_bytes();
    let mut frame = [length.as_slice(), body].concat();
    frame.extend(XxHash3_64::oneshot(&frame).to_le_bytes());
    frame
}

/// Both halves over `stream`, on which both sides have said who they are. A frame has at most
/// `frame_max` bytes, and `within` is how long the peer may take to accept one.
pub fn control_over<S: AsyncRead + AsyncWrite>(
    stream: S,
    frame_max: usize,
    within: Duration,
) -> (ControlSender<WriteHalf<S>>, ControlReceiver<ReadHalf<S>>) {
    let (reader, writer) = split(stream);
    (ControlSender::new(writer, frame_max, within), ControlReceiver::new(reader, frame_max))
}

impl<W: AsyncWrite + Unpin> ControlSender<W> {
    /// Sends frames of at most `frame_max` bytes, each of which must be taken `within` this time.
    pub const fn new(writer: W, frame_max: usize, within: Duration) -> Self {
        Self { writer, frame_max, within }
    }

    /// Sends one frame. If this is dropped before it is done, half a frame may have been sent:
    /// close the connection then.
    ///
    /// # Errors
    /// [`ControlError::Oversized`] before anything was sent; [`ControlError::Stalled`] or
    /// [`ControlError::Link`] and the connection must be closed.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), ControlError> {
        if frame.len() > self.frame_max {
            return Err(ControlError::Oversized { got: frame.len(), most: self.frame_max });
        }
        let frame = framed(frame);
        let sending = async {
            self.writer.write_all(&frame).await?;
            self.writer.flush().await
        };
        match timeout(self.within, sending).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(ControlError::Stalled(self.within)),
        }
    }

    /// Nothing more will be sent.
    ///
    /// # Errors
    /// [`ControlError::Stalled`] or [`ControlError::Link`].
    pub async fn finish(&mut self) -> Result<(), ControlError> {
        match timeout(self.within, self.writer.shutdown()).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(ControlError::Stalled(self.within)),
        }
    }
}

impl<R: AsyncRead + Unpin> ControlReceiver<R> {
    /// Receives frames of at most `frame_max` bytes.
    pub fn new(reader: R, frame_max: usize) -> Self {
        Self { reader, frame_max, buffer: BytesMut::new() }
    }

    /// From the next frame on, frames may have at most `frame_max` bytes: little for a peer that
    /// has not said who it is, more afterwards.
    pub const fn limit(&mut self, frame_max: usize) {
        self.frame_max = frame_max;
    }

    /// The next frame. Safe to drop before it is there: what has arrived is kept.
    ///
    /// # Errors
    /// [`ControlError::Closed`] at an end between frames; with any other error the connection
    /// must be closed, because where the next frame begins is not known.
    pub async fn receive(&mut self) -> Result<Bytes, ControlError> {
        loop {
            let missing = self.missing()?;
            if missing == 0 {
                return self.take();
            }
            self.buffer.reserve(missing.min(READ_SIZE));
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                let between = self.buffer.is_empty();
                return Err(if between { ControlError::Closed } else { ControlError::Truncated });
            }
        }
    }

    /// The body of the whole frame that is there. wire.md C13: nothing of a damaged one is used.
    fn take(&mut self) -> Result<Bytes, ControlError> {
        let length = self.buffer[..LENGTH_SIZE].try_into().expect("as long as that");
        let sealed = LENGTH_SIZE + u32::from_le_bytes(length) as usize;
        let mut body = self.buffer.split_to(sealed);
        if self.buffer.get_u64_le() != XxHash3_64::oneshot(&body) {
            return Err(ControlError::Damaged);
        }
        body.advance(LENGTH_SIZE);
        Ok(body.freeze())
    }

    /// Bytes that a whole frame still needs, as far as is known.
    fn missing(&self) -> Result<usize, ControlError> {
        let Some(length) = self.buffer.first_chunk::<LENGTH_SIZE>() else {
            return Ok(LENGTH_SIZE - self.buffer.len());
        };
        let got = u32::from_le_bytes(*length) as usize;
        if got > self.frame_max {
            return Err(ControlError::Oversized { got, most: self.frame_max });
        }
        Ok((LENGTH_SIZE + got + SEAL_SIZE).saturating_sub(self.buffer.len()))
    }
}
