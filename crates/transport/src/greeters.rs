//! Places for those who have not said yet who or what they are.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};

/// Whoever is asked to go has gone by then, and nobody else need be asked.
const GONE_WITHIN: Duration = Duration::from_millis(50);

/// So many places. Where all are taken and somebody waits, whoever has had one longest is asked to
/// go, once they have had their time: silence keeps nobody out.
pub(crate) struct Greeters {
    room: Arc<Semaphore>,
    /// So long nobody is asked to go.
    left_alone: Duration,
    /// Since when each has its place, the oldest first, and what asks them to go.
    order: Mutex<VecDeque<(Instant, oneshot::Sender<()>)>>,
}

/// Somebody's place among those who have not said yet who they are; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    unwanted: oneshot::Receiver<()>,
    _room: OwnedSemaphorePermit,
}

impl Greeters {
    pub(crate) fn new(most: usize, left_alone: Duration) -> Self {
        Self { room: Arc::new(Semaphore::new(most)), left_alone, order: Mutex::default() }
    }

    /// How many places are free.
    pub(crate) fn free(&self) -> usize {
        self.room.available_permits()
    }

    /// A place for somebody who has come.
    pub(crate) async fn place(&self) -> Place {
        let mut room = pin!(self.room.clone().acquire_owned());
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                biased;
                room = &mut room => return self.seat(room.expect("never closed")),
                () = sleep_until(self.due().max(not_before)) => {
                    self.make_room();
                    not_before = Instant::now() + GONE_WITHIN;
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
        order.front().map_or_else(Instant::now, |(since, _)| *since) + self.left_alone
    }

    /// Asks whoever has had a place longest, if they have had their time.
    fn make_room(&self) {
        let mut order = self.order();
        if order.front().is_some_and(|(since, _)| since.elapsed() >= self.left_alone)
            && let Some((_, ask)) = order.pop_front()
        {
            // Who has left meanwhile has made room as well.
            let _ = ask.send(());
        }
    }

    fn order(&self) -> MutexGuard<'_, VecDeque<(Instant, oneshot::Sender<()>)>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// What comes of `greeting`; nothing if the place is wanted for somebody else before. Whoever
    /// has held it for less than [`crate::DoorOptions::left_alone`] is heard out.
    pub async fn hear<T>(&mut self, greeting: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            said = greeting => Some(said),
            _ = &mut self.unwanted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than anything here takes.
    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn nobody_is_asked_to_go_while_there_is_room() {
        let greeters = Greeters::new(2, Duration::from_secs(1));
        let mut silent = greeters.place().await;
        tokio::time::advance(NEVER).await;
        for _ in 0..20 {
            drop(greeters.place().await);
        }
        assert!(silent.unwanted.try_recv().is_err(), "it was asked to go");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_silent_goes_after_its_time_and_nobody_else() {
        let greeters = Greeters::new(2, Duration::from_secs(1));
        let (mut first, mut second) = (greeters.place().await, greeters.place().await);
        let began = Instant::now();
        let hearing = async {
            assert_eq!(first.hear(std::future::pending::<()>()).await, None);
            drop(first);
        };
        let (_place, ()) = tokio::join!(greeters.place(), hearing);
        assert_eq!(began.elapsed().as_secs(), 1, "it had its time");
        assert_eq!(second.hear(std::future::ready(7)).await, Some(7));
        assert!(second.unwanted.try_recv().is_err(), "one is enough");
    }
}
