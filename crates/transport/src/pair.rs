//! Two lanes that are each other's peer, without a network: for tests and for one process.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use whimbrel_page::ByteCount;

use crate::lane::Reach;
use crate::{Lane, LaneError, LaneHandle, Woken};

/// One end of a [`lane_pair`]. Dropping it closes both directions.
pub struct PairLane {
    ends: Ends,
    stall: Duration,
}

/// Two connected lanes; each direction holds at most `capacity` bytes.
#[must_use]
pub fn lane_pair(capacity: ByteCount, stall: Duration) -> (PairLane, PairLane) {
    let pipe = || Arc::new(Pipe::new(capacity.0 as usize));
    let (there, back) = (pipe(), pipe());
    let near = Ends { incoming: back.clone(), outgoing: there.clone() };
    let far = Ends { incoming: there, outgoing: back };
    (PairLane { ends: near, stall }, PairLane { ends: far, stall })
}

#[derive(Clone)]
struct Ends {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

/// Bytes in one direction.
struct Pipe {
    state: Mutex<State>,
    changed: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// The writer has said its last.
    finished: bool,
    /// The reader is gone.
    deaf: bool,
    /// Somebody wants the reader's attention.
    called: bool,
    /// The reader's side, or the writer's, was cancelled by its own people.
    reader_cancelled: bool,
    writer_cancelled: bool,
}

impl Pipe {
    fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), capacity }
    }

    /// Nothing panics while it holds this lock, so it cannot be poisoned by half a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `ready`, at most `within`; says whether it is.
    fn wait_until(
        &self,
        within: Duration,
        ready: impl Fn(&State) -> bool,
    ) -> (MutexGuard<'_, State>, bool) {
        let waiting = |state: &mut State| !ready(state);
        let waited = self.changed.wait_timeout_while(self.lock(), within, waiting);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        (state, !timeout.timed_out())
    }
}

impl Ends {
    fn close(&self, cancelled: bool) {
        self.outgoing.change(|state| {
            state.finished = true;
            state.writer_cancelled |= cancelled;
        });
        self.incoming.change(|state| {
            state.deaf = true;
            state.reader_cancelled |= cancelled;
        });
    }
}

impl Drop for PairLane {
    fn drop(&mut self) {
        self.ends.close(false);
    }
}

impl Reach for Ends {
    fn wake(&self) {
        self.incoming.change(|state| state.called = true);
    }

    fn cancel(&self) {
        self.close(true);
    }
}

impl PairLane {
    fn send_part(&self, mut part: &[u8]) -> Result<(), LaneError> {
        let pipe = &self.ends.outgoing;
        while !part.is_empty() {
            let over = |state: &State| state.writer_cancelled || state.deaf || state.finished;
            let ready = |state: &State| over(state) || state.bytes.len() < pipe.capacity;
            let (mut state, moved) = pipe.wait_until(self.stall, ready);
            if state.writer_cancelled {
                return Err(LaneError::Cancelled);
            }
            if over(&state) {
                return Err(LaneError::Closed);
            }
            if !moved {
                return Err(LaneError::Stalled(self.stall));
            }
            let fits = part.len().min(pipe.capacity - state.bytes.len());
            state.bytes.extend(&part[..fits]);
            part = &part[fits..];
            drop(state);
            pipe.changed.notify_all();
        }
        Ok(())
    }

    /// Takes what is there; 0 at the end, `None` if nothing is there yet.
    fn take(&self, state: &mut State, into: &mut [u8]) -> Result<Option<usize>, LaneError> {
        if state.reader_cancelled {
            return Err(LaneError::Cancelled);
        }
        let count = into.len().min(state.bytes.len());
        for (slot, byte) in into.iter_mut().zip(state.bytes.drain(..count)) {
            *slot = byte;
        }
        self.ends.incoming.changed.notify_all();
        Ok((count > 0 || state.finished).then_some(count))
    }
}

impl Lane for PairLane {
    fn send(&mut self, parts: &mut [IoSlice<'_>]) -> Result<(), LaneError> {
        parts.iter().try_for_each(|part| self.send_part(part))
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<(), LaneError> {
        let mut filled = 0;
        while filled < into.len() {
            let ready = |s: &State| s.reader_cancelled || s.finished || !s.bytes.is_empty();
            let (mut state, _) = self.ends.incoming.wait_until(self.stall, ready);
            match self.take(&mut state, &mut into[filled..])? {
                Some(0) if filled == 0 => return Err(LaneError::Closed),
                Some(0) => return Err(LaneError::Truncated { missing: into.len() - filled }),
                Some(received) => filled += received,
                None => return Err(LaneError::Stalled(self.stall)),
            }
        }
        Ok(())
    }

    fn try_receive(&mut self, into: &mut [u8]) -> Result<usize, LaneError> {
        let mut state = self.ends.incoming.lock();
        match self.take(&mut state, into)? {
            Some(0) if !into.is_empty() => Err(LaneError::Closed),
            received => Ok(received.unwrap_or(0)),
        }
    }

    fn wait(&mut self, within: Duration) -> Result<Woken, LaneError> {
        let readable = |s: &State| s.finished || !s.bytes.is_empty();
        let ready = |s: &State| s.reader_cancelled || s.called || readable(s);
        let (mut state, _) = self.ends.incoming.wait_until(within, ready);
        let called = std::mem::take(&mut state.called);
        match (readable(&state), called) {
            _ if state.reader_cancelled => Err(LaneError::Cancelled),
            (true, _) => Ok(Woken::Readable),
            (false, true) => Ok(Woken::Called),
            (false, false) => Ok(Woken::TimedOut),
        }
    }

    fn finish(&mut self) -> Result<(), LaneError> {
        self.ends.outgoing.change(|state| state.finished = true);
        Ok(())
    }

    fn handle(&self) -> LaneHandle {
        LaneHandle::new(self.ends.clone())
    }
}
