//! Room in this agent for what clients have said and their guest has not taken.
//!
//! Each client has a little of its own, so that none waits because of others. The rest is for all
//! of a hub's clients: one that has more to say may have as much of it as it leaves to others, and
//! gives it back when the guest has taken everything. So the clients of one guest need a bounded
//! amount of memory, however many of them there are and whatever they do. (Beside this, each may
//! have [`OWN`] bytes in the buffer that it is read into: they wait for room.)

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use whimbrel_guest::kv::{KEPT_MIN, WINDOW};

/// What each client has, and what is read of it at once.
pub(super) const OWN: usize = 16 << 10;
const _: () = assert!(OWN as u64 >= KEPT_MIN);
/// What all clients of a hub have beside that.
const SHARED: usize = 64 << 20;
/// What one client may have beside its own: more would only wait here.
const MORE_MAX: usize = 2 * WINDOW as usize;

/// What is left of the room for all clients of a hub.
#[derive(Clone)]
pub(super) struct SharedRoom(Arc<AtomicUsize>);

impl SharedRoom {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(SHARED)))
    }

    fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The room of one client.
pub(super) struct Room {
    /// Bytes that may be read of it yet.
    unread: Arc<Semaphore>,
    /// What it has of the shared room.
    more: usize,
    shared: SharedRoom,
}

impl Room {
    pub(super) fn new(shared: SharedRoom) -> Self {
        Self { unread: Arc::new(Semaphore::new(OWN)), more: 0, shared }
    }

    /// Whoever reads of the client takes from this.
    pub(super) fn unread(&self) -> Arc<Semaphore> {
        Arc::clone(&self.unread)
    }

    /// The client has said something, and may have more to say. Only its hub calls this, for one
    /// client after the other.
    pub(super) fn grow(&mut self) {
        let may_have = self.shared.left().saturating_sub(self.more) / 2;
        let more = may_have.min(MORE_MAX - self.more);
        self.shared.0.fetch_sub(more, Ordering::Relaxed);
        self.more += more;
        self.unread.add_permits(more);
    }

    /// The guest has taken so many bytes.
    pub(super) fn free(&mut self, count: usize) {
        self.unread.add_permits(count);
    }

    /// The guest has taken everything.
    pub(super) fn shrink(&mut self) {
        let unused = self.unread.forget_permits(self.more);
        self.give_back(unused);
    }

    fn give_back(&mut self, count: usize) {
        self.more -= count;
        self.shared.0.fetch_add(count, Ordering::Relaxed);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.give_back(self.more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients say much, and their guest takes nothing of it.
    #[test]
    fn all_clients_have_some_room_and_never_more_than_there_is() {
        let shared = SharedRoom::new();
        let mut rooms: Vec<_> = (0..10_000).map(|_| Room::new(shared.clone())).collect();
        for _ in 0..10 {
            rooms.iter_mut().for_each(Room::grow);
        }
        let room: usize = rooms.iter().map(|room| room.unread.available_permits()).sum();
        assert!(room <= SHARED + rooms.len() * OWN, "{room} bytes");
        assert!(rooms.iter().all(|room| room.unread.available_permits() >= OWN));
        // Whoever comes late has as much as it had to say, if others are done.
        rooms.truncate(1);
        rooms[0].shrink();
        assert_eq!((rooms[0].unread.available_permits(), shared.left()), (OWN, SHARED));
        rooms[0].grow();
        assert_eq!(rooms[0].unread.available_permits(), OWN + MORE_MAX);
    }

    #[test]
    fn what_a_client_still_has_in_use_is_not_given_back() {
        let shared = SharedRoom::new();
        let mut room = Room::new(shared.clone());
        room.grow();
        room.unread.try_acquire_many((OWN + 1000) as u32).expect("room").forget();
        room.shrink();
        assert_eq!(shared.left(), SHARED - 1000);
        room.free(OWN + 1000);
        room.shrink();
        assert_eq!((room.unread.available_permits(), shared.left()), (OWN, SHARED));
    }
}
