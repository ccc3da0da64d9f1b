//! How many connections there may be, together and of one identity.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use whimbrel_identity::Fingerprint;

/// Connections of callers that are let in, together.
const TOGETHER_MAX: usize = 512;
/// Of one identity.
const EACH_MAX: usize = 128;
const _: () = assert!(EACH_MAX * 2 <= TOGETHER_MAX, "one identity leaves room for others");

/// Whose connection it is; none who needs no identity here.
type Key = Option<Fingerprint>;

/// All places for connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Rooms(Arc<Mutex<BTreeMap<Key, usize>>>);

/// One taken place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    rooms: Rooms,
    key: Key,
}

impl Rooms {
    /// A place, if there is one.
    pub(super) fn take(&self, key: Key) -> Option<Room> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let together: usize = taken.values().sum();
        let most = if key.is_some() { EACH_MAX } else { TOGETHER_MAX };
        let own = taken.entry(key).or_default();
        if together >= TOGETHER_MAX || *own >= most {
            if *own == 0 {
                taken.remove(&key);
            }
            return None;
        }
        *own += 1;
        Some(Room { rooms: self.clone(), key })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.rooms.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places_and_places_come_back() {
        let rooms = Rooms::default();
        let key = |of: &[u8]| Some(Fingerprint::of(of));
        let mut held: Vec<_> = (0..EACH_MAX).map(|_| rooms.take(key(b"a")).unwrap()).collect();
        assert!(rooms.take(key(b"a")).is_none());
        for one in 0..(TOGETHER_MAX - EACH_MAX) {
            held.push(rooms.take(key(&one.to_be_bytes())).unwrap());
        }
        assert!(rooms.take(key(b"b")).is_none() && rooms.take(None).is_none());
        held.clear();
        assert!(rooms.0.lock().unwrap().is_empty());
        let held: Vec<_> = (0..TOGETHER_MAX).map(|_| rooms.take(None).unwrap()).collect();
        assert!(rooms.take(None).is_none());
        drop(held);
    }
}
