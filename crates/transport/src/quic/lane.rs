//! A lane that is a stream of a QUIC connection.
//!
//! Its thread polls the stream itself, and sleeps until the connection's driver or another thread
//! rings: no task and no queue stands between the two, and the stream's windows are the
//! back-pressure.

use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, VarInt, WriteError};

use super::stream::Outlet;
use crate::lane::Reach;
use crate::{Lane, LaneError, LaneHandle, Woken};

/// Page bytes that are handed over in one piece.
const PIECE: usize = 64 << 10;
/// Packets' worth of bytes that are taken at a time.
const CHUNKS: usize = 16;
/// What the peer is told of a lane that is given up (wire.md P12).
const GIVEN_UP: VarInt = VarInt::from_u32(1);

/// A [`Lane`] over a stream of QUIC. Dropping it ends both directions; where a call has failed
/// midway it gives the stream up.
pub(crate) struct QuicLane {
    inner: Arc<Inner>,
    /// Rung when there may be something to read, and when there may be room to write.
    wakers: (Waker, Waker),
    stall: Duration,
    ahead: Ahead,
    failed: bool,
}

struct Inner {
    outlet: Mutex<Outlet>,
    receive: Mutex<RecvStream>,
    bell: Arc<Bell>,
    cancelled: AtomicBool,
}

impl Inner {
    /// wire.md P12. Each fails if that direction has ended before.
    fn give_up(&self) {
        let _ = lock(&self.outlet).stream().reset(GIVEN_UP);
        let _ = lock(&self.receive).stop(GIVEN_UP);
    }
}

/// Holds the lane weakly: a handle must not keep a stream open that its thread has closed.
struct Remote(Weak<Inner>);

impl Reach for Remote {
    fn wake(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.bell.ring(|rung| rung.called = true);
        }
    }

    fn cancel(&self) {
        if let Some(inner) = self.0.upgrade() {
            inner.cancelled.store(true, Ordering::Release);
            // The thread holds neither half while it waits.
            inner.give_up();
            inner.bell.ring(|rung| (rung.readable, rung.writable) = (true, true));
        }
    }
}

/// Wakes the lane's thread, and remembers what for: a look at the stream waits for whatever its
/// connection is just doing, so that nobody looks who was not called.
struct Bell {
    rung: Mutex<Rung>,
    heard: Condvar,
}

struct Rung {
    /// Something may have arrived since the stream was last found empty.
    readable: bool,
    /// There may be room since the windows were last found full.
    writable: bool,
    /// Somebody calls.
    called: bool,
}

impl Bell {
    fn ring(&self, how: impl FnOnce(&mut Rung)) {
        how(&mut lock(&self.rung));
        self.heard.notify_all();
    }

    /// Sleeps until `heeded` finds something, which it may take away; `None` when `until` came
    /// first.
    fn sleep<T>(
        &self,
        until: Instant,
        mut heeded: impl FnMut(&mut Rung) -> Option<T>,
    ) -> Option<T> {
        let mut rung = lock(&self.rung);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match heeded(&mut rung) {
                None if !left.is_zero() => {
                    let waited = self.heard.wait_timeout(rung, left);
                    rung = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                found => return found,
            }
        }
    }
}

/// What the connection rings when a stream can be read again.
struct Readable(Arc<Bell>);

impl Wake for Readable {
    fn wake(self: Arc<Self>) {
        self.0.ring(|rung| rung.readable = true);
    }
}

/// What the connection rings when a stream can be written again.
struct Writable(Arc<Bell>);

impl Wake for Writable {
    fn wake(self: Arc<Self>) {
        self.0.ring(|rung| rung.writable = true);
    }
}

/// What was taken off the stream and not read.
#[derive(Default)]
struct Ahead {
    chunks: [Bytes; CHUNKS],
    /// The first one that is not empty, and how many there are.
    next: usize,
    filled: usize,
    /// Nothing comes behind them.
    ended: bool,
}

impl Ahead {
    fn is_empty(&self) -> bool {
        self.next == self.filled
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        let mut taken = 0;
        while taken < into.len() && !self.is_empty() {
            let chunk = &mut self.chunks[self.next];
            let some = chunk.len().min(into.len() - taken);
            into[taken..taken + some].copy_from_slice(&chunk.split_to(some));
            taken += some;
            if chunk.is_empty() {
                // Keeps no packet alive.
                *chunk = Bytes::new();
                self.next += 1;
            }
        }
        taken
    }
}

impl QuicLane {
    pub(super) fn new(outlet: Outlet, receive: RecvStream, stall: Duration) -> Self {
        let rung = Rung { readable: true, writable: true, called: false };
        let bell = Arc::new(Bell { rung: Mutex::new(rung), heard: Condvar::new() });
        let readable = Waker::from(Arc::new(Readable(Arc::clone(&bell))));
        let writable = Waker::from(Arc::new(Writable(Arc::clone(&bell))));
        let (outlet, receive) = (Mutex::new(outlet), Mutex::new(receive));
        let inner = Inner { outlet, receive, bell, cancelled: AtomicBool::new(false) };
        let (wakers, ahead) = ((readable, writable), Ahead::default());
        Self { inner: Arc::new(inner), wakers, stall, ahead, failed: false }
    }

    /// What was said or heard in part cannot be gone on with.
    fn noted(&mut self, done: Result<(), LaneError>) -> Result<(), LaneError> {
        self.failed |= !matches!(done, Ok(()) | Err(LaneError::Closed));
        done
    }

    /// What an error means: a cancel gives the stream up, which looks like an end.
    fn judge(&self, error: io::Error) -> LaneError {
        if self.is_cancelled() { LaneError::Cancelled } else { LaneError::Link(error) }
    }

    fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::Acquire)
    }

    fn check(&self) -> Result<(), LaneError> {
        if self.is_cancelled() { Err(LaneError::Cancelled) } else { Ok(()) }
    }

    /// Hands over what the windows have room for.
    fn write(&self, bytes: &mut Bytes) -> Result<(), LaneError> {
        lock(&self.inner.bell.rung).writable = false;
        let mut outlet = lock(&self.inner.outlet);
        let writing = outlet.stream().write_chunks(std::slice::from_mut(bytes));
        let polled = pin!(writing).poll(&mut Context::from_waker(&self.wakers.1));
        drop(outlet);
        match polled {
            Poll::Ready(Ok(_)) => lock(&self.inner.bell.rung).writable = true,
            Poll::Ready(Err(WriteError::ConnectionLost(error))) => {
                return Err(self.judge(error.into()));
            }
            Poll::Ready(Err(error)) => return Err(self.judge(error.into())),
            Poll::Pending => {}
        }
        Ok(())
    }

    fn write_all(&self, mut bytes: Bytes) -> Result<(), LaneError> {
        let mut until = Instant::now() + self.stall;
        while !bytes.is_empty() {
            let writable = self.inner.bell.sleep(until, |rung| rung.writable.then_some(()));
            self.check()?;
            writable.ok_or(LaneError::Stalled(self.stall))?;
            let before = bytes.len();
            self.write(&mut bytes)?;
            if bytes.len() < before {
                until = Instant::now() + self.stall;
            }
        }
        Ok(())
    }

    /// Whether there is something ahead; an end counts. Takes what has arrived, if nothing is.
    fn fill(&mut self) -> Result<bool, LaneError> {
        self.check()?;
        if self.ahead.ended || !self.ahead.is_empty() {
            return Ok(true);
        }
        if !std::mem::take(&mut lock(&self.inner.bell.rung).readable) {
            return Ok(false);
        }
        let mut receive = lock(&self.inner.receive);
        let reading = receive.read_chunks(&mut self.ahead.chunks);
        let polled = pin!(reading).poll(&mut Context::from_waker(&self.wakers.0));
        drop(receive);
        match polled {
            Poll::Ready(Ok(Some(filled))) => {
                (self.ahead.next, self.ahead.filled) = (0, filled);
                lock(&self.inner.bell.rung).readable = true;
            }
            Poll::Ready(Ok(None)) => self.ahead.ended = true,
            Poll::Ready(Err(ReadError::ConnectionLost(error))) => {
                return Err(self.judge(error.into()));
            }
            Poll::Ready(Err(error)) => return Err(self.judge(error.into())),
            Poll::Pending => return Ok(false),
        }
        Ok(true)
    }

    fn send_pieces(&self, parts: &mut [IoSlice<'_>]) -> Result<(), LaneError> {
        let mut missing: usize = parts.iter().map(|part| part.len()).sum();
        let mut piece = BytesMut::new();
        for part in parts {
            let mut rest = &part[..];
            while !rest.is_empty() {
                if piece.capacity() == 0 {
                    piece.reserve(missing.min(PIECE));
                }
                let (some, after) = rest.split_at(rest.len().min(PIECE - piece.len()));
                piece.extend_from_slice(some);
                (rest, missing) = (after, missing - some.len());
                if piece.len() == PIECE || missing == 0 {
                    self.write_all(std::mem::take(&mut piece).freeze())?;
                }
            }
        }
        Ok(())
    }

    fn receive_all(&mut self, into: &mut [u8]) -> Result<(), LaneError> {
        let (mut filled, mut until) = (0, Instant::now() + self.stall);
        while filled < into.len() {
            if !self.fill()? {
                let readable = self.inner.bell.sleep(until, |rung| rung.readable.then_some(()));
                readable.ok_or(LaneError::Stalled(self.stall))?;
                continue;
            }
            match self.ahead.take(&mut into[filled..]) {
                0 if filled == 0 => return Err(LaneError::Closed),
                0 => return Err(LaneError::Truncated { missing: into.len() - filled }),
                some => filled += some,
            }
            until = Instant::now() + self.stall;
        }
        Ok(())
    }
}

impl Drop for QuicLane {
    fn drop(&mut self) {
        if self.failed {
            self.inner.give_up();
        }
    }
}

impl Lane for QuicLane {
    fn send(&mut self, parts: &mut [IoSlice<'_>]) -> Result<(), LaneError> {
        let sent = self.send_pieces(parts);
        self.noted(sent)
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<(), LaneError> {
        let received = self.receive_all(into);
        self.noted(received)
    }

    fn try_receive(&mut self, into: &mut [u8]) -> Result<usize, LaneError> {
        if !self.fill()? {
            return Ok(0);
        }
        match self.ahead.take(into) {
            0 if !into.is_empty() => Err(LaneError::Closed),
            some => Ok(some),
        }
    }

    fn wait(&mut self, within: Duration) -> Result<Woken, LaneError> {
        let until = Instant::now() + within;
        while !self.fill()? {
            let woken = self.inner.bell.sleep(until, |rung| match rung.readable {
                true => Some(Woken::Readable),
                false => std::mem::take(&mut rung.called).then_some(Woken::Called),
            });
            match woken {
                // Perhaps: it is looked at.
                Some(Woken::Readable) => {}
                Some(woken) => return Ok(woken),
                None => return Ok(Woken::TimedOut),
            }
        }
        Ok(Woken::Readable)
    }

    fn finish(&mut self) -> Result<(), LaneError> {
        let finished = lock(&self.inner.outlet).stream().finish();
        finished.map_err(|error| self.judge(error.into()))
    }

    fn handle(&self) -> LaneHandle {
        LaneHandle::new(Remote(Arc::downgrade(&self.inner)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
