//! What a lane is, whatever carries it.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

/// One bulk connection, used by one thread. Both directions carry bytes in order, or end.
///
/// Every call that can wait has a deadline, and [`LaneHandle::cancel`] ends it from outside.
pub trait Lane: Send {
    /// Sends all bytes of `parts`, one after the other.
    ///
    /// # Errors
    /// [`LaneError::Stalled`] if nothing could be sent for the lane's stall deadline. After any
    /// error an unknown part has been sent, and the lane is of no more use.
    fn send(&mut self, parts: &mut [IoSlice<'_>]) -> Result<(), LaneError>;

    /// Fills `into`.
    ///
    /// # Errors
    /// [`LaneError::Closed`] if the peer had finished before the first byte,
    /// [`LaneError::Truncated`] if it did within, [`LaneError::Stalled`] if nothing arrived for
    /// the lane's stall deadline.
    fn receive(&mut self, into: &mut [u8]) -> Result<(), LaneError>;

    /// Takes what has arrived, without waiting, and says how many bytes that is; 0 is nothing.
    ///
    /// # Errors
    /// [`LaneError::Closed`] if the peer has finished.
    fn try_receive(&mut self, into: &mut [u8]) -> Result<usize, LaneError>;

    /// Waits until something has arrived (an end counts), somebody calls
    /// [`LaneHandle::wake`], or `within` has passed. A wake before the wait ends it at once.
    ///
    /// # Errors
    /// [`LaneError::Cancelled`], or what the system says.
    fn wait(&mut self, within: Duration) -> Result<Woken, LaneError>;

    /// Nothing more will be sent; the peer reads what is under way and then the end. Receiving
    /// goes on.
    ///
    /// # Errors
    /// What the system says.
    fn finish(&mut self) -> Result<(), LaneError>;

    /// What other threads need to reach this lane.
    fn handle(&self) -> LaneHandle;
}

/// Why [`Lane::wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There is something to receive, be it the end.
    Readable,
    /// Somebody called.
    Called,
    /// Neither happened in time.
    TimedOut,
}

/// Why a lane carries no more. It is to be closed; pages go again on another.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The peer finished or closed its end between frames.
    #[error("the peer closed the lane")]
    Closed,
    /// The peer closed its end within a frame.
    #[error("the peer closed the lane {missing} bytes before a frame was whole")]
    Truncated {
        /// What did not come.
        missing: usize,
    },
    /// Not one byte moved before the deadline.
    #[error("nothing moved on the lane for {0:?}: look at the peer and the network between")]
    Stalled(Duration),
    /// This side wanted it so.
    #[error("the lane was cancelled")]
    Cancelled,
    /// The network, or the system.
    #[error("the lane failed: {0}")]
    Link(#[from] io::Error),
}

/// Reaches a lane from other threads. Outlives it without keeping it open.
#[derive(Clone)]
pub struct LaneHandle(Arc<dyn Reach>);

/// What a kind of lane does to be reached.
pub(crate) trait Reach: Send + Sync {
    fn wake(&self);
    fn cancel(&self);
}

impl LaneHandle {
    pub(crate) fn new(reach: impl Reach + 'static) -> Self {
        Self(Arc::new(reach))
    }

    /// Ends the lane's present or next wait.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// Ends every present and future call on the lane with [`LaneError::Cancelled`], and closes
    /// it towards the peer. May be called again.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

impl fmt::Debug for LaneHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneHandle")
    }
}
