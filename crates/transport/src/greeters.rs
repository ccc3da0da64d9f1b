//! Places for those who have not said yet who or what they are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};

/// So long nobody is hung up on to make room for somebody else: some round trips of a handshake
/// across a continent.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// So many places. Where all are taken and somebody waits, whoever has had one longest is asked to
/// go, once they have had their time: silence keeps nobody out.
pub(crate) struct Greeters {
    room: Arc<Semaphore>,
    /// Since when each has its place, the oldest first, and what asks them to go.
    order: Mutex<VecDeque<(Instant, oneshot::Sender<()>)>>,
}

/// Somebody's place.
pub(crate) struct Place {
    unwanted: oneshot::Receiver<()>,
    _room: OwnedSemaphorePermit,
}

impl Greeters {
    pub(crate) fn new(most: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(most)), order: Mutex::default() }
    }

    /// How many places are free.
    pub(crate) fn free(&self) -> usize {
        self.room.available_permits()
    }

    /// A place for somebody who has come.
    pub(crate) async fn place(&self) -> Place {
        let mut room = std::pin::pin!(self.room.clone().acquire_owned());
        loop {
            tokio::select! {
                room = &mut room => return self.seat(room.expect("never closed")),
                () = sleep_until(self.due()) => {
                    if self.make_room() {
                        // Theirs, or that of whoever leaves before; one is enough.
                        return self.seat(room.await.expect("never closed"));
                    }
                }
            }
        }
    }

    fn seat(&self, room: OwnedSemaphorePermit) -> Place {
        let (ask, unwanted) = oneshot::channel();
        self.order().push_back((Instant::now(), ask));
        Place { unwanted, _room: room }
    }

    /// When somebody has had their time; there may be nobody yet.
    fn due(&self) -> Instant {
        let mut order = self.order();
        order.retain(|(_, ask)| !ask.is_closed());
        order.front().map_or_else(Instant::now, |(since, _)| *since) + LEFT_ALONE
    }

    /// Whether somebody was asked to go.
    fn make_room(&self) -> bool {
        let mut order = self.order();
        if order.front().is_none_or(|(since, _)| since.elapsed() < LEFT_ALONE) {
            return false;
        }
        order.pop_front().is_some_and(|(_, ask)| ask.send(()).is_ok())
    }

    fn order(&self) -> MutexGuard<'_, VecDeque<(Instant, oneshot::Sender<()>)>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// What comes of `greeting`; nothing if the place is wanted for somebody else before.
    pub(crate) async fn hear<T>(&mut self, greeting: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            said = greeting => {
                // Whoever was heard out is not asked to go.
                self.unwanted.close();
                Some(said)
            }
            _ = &mut self.unwanted => None,
        }
    }
}
