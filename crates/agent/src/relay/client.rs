//! One client of a guest: its socket, and what is between it and the guest.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::AbortHandle;
use whimbrel_control::api::{self, relay_word::What};
use whimbrel_engine::transport::Tuning;
use whimbrel_guest::kv::PIECE_MAX;

use super::room::{OWN, Room, SharedRoom};

/// What comes from the sockets of clients.
pub(super) enum Event {
    /// A client has said more.
    Said(u64, Bytes),
    /// So many bytes more are with the client.
    Wrote(u64, u64),
    /// The client says no more.
    Ended(u64),
    /// The client has gone, or its last reply is with it.
    Closed(u64),
}

/// Replies on their way to the socket.
#[derive(Default)]
struct Outgoing {
    waiting: Mutex<(BytesMut, bool)>,
    more: Notify,
}

impl Outgoing {
    fn add(&self, bytes: &[u8], last: bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.0.extend_from_slice(bytes);
        waiting.1 |= last;
        drop(waiting);
        self.more.notify_one();
    }

    fn take(&self) -> (BytesMut, bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut waiting.0), waiting.1)
    }
}

/// A client. What it has said is kept until the guest has taken it.
pub(super) struct Client {
    /// Its bytes from `taken` on.
    kept: BytesMut,
    taken: u64,
    sent: u64,
    credit: u64,
    /// The guest has said where it stands since the relay attached to it.
    synced: bool,
    /// The guest that is attached to has been told of it.
    announced: bool,
    ended: bool,
    ended_told: bool,
    closed: bool,
    closed_told: bool,
    /// Replies that came here, those that are with the client, and those the guest knows are.
    heard: u64,
    delivered: u64,
    delivered_told: u64,
    outgoing: Arc<Outgoing>,
    /// Room for bytes that are kept.
    room: Room,
    tasks: [AbortHandle; 2],
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Client {
    pub(super) fn new(
        id: u64,
        stream: TcpStream,
        events: &mpsc::Sender<Event>,
        shared: SharedRoom,
    ) -> Self {
        // Without it replies wait for each other; with it failing they only do that.
        let _ = stream.set_nodelay(true);
        // Without it a client is carried for ever whose host has lost its power.
        let _ = Tuning::default().probe(&stream);
        let (read, write) = stream.into_split();
        let outgoing = Arc::new(Outgoing::default());
        let room = Room::new(shared);
        let reader = tokio::spawn(listen(id, read, events.clone(), room.unread()));
        let writer = tokio::spawn(speak(id, write, events.clone(), Arc::clone(&outgoing)));
        Self {
            kept: BytesMut::new(),
            taken: 0,
            sent: 0,
            credit: 0,
            synced: false,
            announced: false,
            ended: false,
            ended_told: false,
            closed: false,
            closed_told: false,
            heard: 0,
            delivered: 0,
            delivered_told: 0,
            outgoing,
            room,
            tasks: [reader.abort_handle(), writer.abort_handle()],
        }
    }

    /// It is in the list with which the relay attaches.
    pub(super) fn attach(&mut self, id: u64) -> api::RelayHeld {
        (self.announced, self.synced) = (true, false);
        (self.ended_told, self.closed_told) = (false, false);
        // Only what the client has: the guest keeps the rest, and may say no more than a little
        // beyond it, however often a relay attaches.
        self.delivered_told = self.delivered;
        api::RelayHeld { connection: id, delivered: self.delivered }
    }

    pub(super) fn said(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        self.room.grow();
    }

    pub(super) fn wrote(&mut self, count: u64) {
        self.delivered += count;
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Closes its socket.
    pub(super) fn cut(&mut self) {
        self.closed = true;
        self.tasks.iter().for_each(AbortHandle::abort);
    }

    /// What the guest says of it; `false` if that does not follow on what it said before.
    pub(super) fn hear(&mut self, word: &api::GuestWord) -> bool {
        let end = self.taken + self.kept.len() as u64;
        if word.taken > end || word.from > self.heard {
            return false;
        }
        if !self.synced && word.taken < self.taken {
            // What it lacks is not kept any more: the guest that took it was another one, under a
            // term that has lost. This client's connection ends with that one.
            self.cut();
            return true;
        }
        if let Some(newly) = word.taken.checked_sub(self.taken) {
            self.kept.advance(newly as usize);
            self.room.free(newly as usize);
            self.taken = word.taken;
        }
        if self.kept.is_empty() {
            self.room.shrink();
            self.kept = BytesMut::new();
        }
        if !self.synced {
            (self.synced, self.sent) = (true, self.taken);
        }
        self.sent = self.sent.max(self.taken);
        self.credit = word.credit;
        let known = (self.heard - word.from) as usize;
        let new = word.bytes.get(known..).unwrap_or_default();
        self.heard += new.len() as u64;
        self.outgoing.add(new, word.last);
        true
    }

    /// What the guest is to hear of it, and whether there is more.
    pub(super) fn words(&mut self, id: u64, words: &mut Vec<api::RelayWord>) -> bool {
        let mut say = |what| words.push(api::RelayWord { connection: id, what: Some(what) });
        if !self.announced {
            self.announced = true;
            say(What::Open(true));
        }
        if self.delivered > self.delivered_told {
            self.delivered_told = self.delivered;
            say(What::Delivered(self.delivered));
        }
        if self.closed && !self.closed_told {
            self.closed_told = true;
            say(What::Closed(true));
        }
        // Nobody waits for what the rest of it would come to.
        if !self.synced || self.closed {
            return false;
        }
        let end = self.taken + self.kept.len() as u64;
        let until = end.min(self.credit).min(self.sent + PIECE_MAX as u64).max(self.sent);
        if until > self.sent {
            let range = (self.sent - self.taken) as usize..(until - self.taken) as usize;
            let bytes = self.kept[range].to_vec();
            say(What::Bytes(api::RelayBytes { from: self.sent, bytes }));
            self.sent = until;
        }
        if self.ended && !self.ended_told && self.sent == end {
            self.ended_told = true;
            say(What::Ended(end));
        }
        self.sent < end.min(self.credit)
    }
}

async fn listen(
    id: u64,
    mut read: OwnedReadHalf,
    events: mpsc::Sender<Event>,
    room: Arc<Semaphore>,
) {
    let mut buffer = BytesMut::new();
    let end = loop {
        buffer.reserve(OWN);
        let count = match read.read_buf(&mut (&mut buffer).limit(OWN)).await {
            Ok(0) => break Event::Ended(id),
            Ok(count) => count,
            Err(_) => break Event::Closed(id),
        };
        let mut left = count;
        while left > 0 {
            // Comes back as the guest takes the bytes. The guest hears of as many as there is room
            // for: where it can take none of them, it decides by how many there are.
            let Ok(one) = room.acquire().await else { return };
            one.forget();
            let more = room.available_permits().min(left - 1);
            let more = room.try_acquire_many(more as u32).map_or(0, |permits| {
                permits.forget();
                more
            });
            left -= 1 + more;
            let part = buffer.split_to(1 + more).freeze();
            if events.send(Event::Said(id, part)).await.is_err() {
                return;
            }
        }
    };
    // A relay that has ended has closed the socket.
    let _ = events.send(end).await;
}

async fn speak(
    id: u64,
    mut write: OwnedWriteHalf,
    events: mpsc::Sender<Event>,
    outgoing: Arc<Outgoing>,
) {
    loop {
        let (bytes, last) = outgoing.take();
        if bytes.is_empty() && !last {
            outgoing.more.notified().await;
            continue;
        }
        let written = write.write_all(&bytes).await.is_ok();
        let count = bytes.len() as u64;
        if !written || events.send(Event::Wrote(id, count)).await.is_err() || last {
            break;
        }
    }
    let _ = write.shutdown().await;
    let _ = events.send(Event::Closed(id)).await;
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use whimbrel_guest::kv::WINDOW;

    /// A client of which so many bytes came, and its other end.
    async fn client(bytes: &[u8]) -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (events, _) = mpsc::channel(1);
        let stream = listener.accept().await.unwrap().0;
        let mut client = Client::new(1, stream, &events, SharedRoom::new());
        let room = client.room.unread();
        room.acquire_many(bytes.len() as u32).await.unwrap().forget();
        client.said(bytes);
        (client, far)
    }

    fn taken(taken: u64) -> api::GuestWord {
        api::GuestWord { connection: 1, taken, credit: taken + WINDOW, ..Default::default() }
    }

    fn bytes(client: &mut Client) -> Vec<(u64, Vec<u8>)> {
        let mut words = Vec::new();
        client.words(1, &mut words);
        let said = words.into_iter().filter_map(|word| match word.what {
            Some(What::Bytes(said)) => Some((said.from, said.bytes)),
            _ => None,
        });
        said.collect()
    }

    #[tokio::test]
    async fn a_guest_that_is_attached_to_anew_hears_what_it_has_not_taken() {
        let (mut client, _far) = client(b"abcd").await;
        client.attach(1);
        assert!(client.hear(&taken(0)));
        assert_eq!(bytes(&mut client), [(0, b"abcd".to_vec())]);
        assert!(client.hear(&taken(3)));
        client.attach(1);
        assert!(client.hear(&taken(3)));
        assert_eq!(bytes(&mut client), [(3, b"d".to_vec())]);
        assert!(!client.hear(&taken(5)), "more than was said");
    }

    /// What comes after its first byte is more than there is room for.
    #[tokio::test]
    async fn a_guest_hears_of_as_much_as_there_is_room_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (events, mut heard) = mpsc::channel(1);
        let stream = listener.accept().await.unwrap().0;
        let _client = Client::new(1, stream, &events, SharedRoom::new());
        let mut said = 0;
        for bytes in [1, OWN] {
            far.write_all(&vec![b'x'; bytes]).await.unwrap();
            while said < bytes {
                let Some(Event::Said(_, bytes)) = heard.recv().await else { panic!("it ends") };
                said += bytes.len();
            }
        }
        assert_eq!(said, OWN);
    }

    #[tokio::test]
    async fn a_client_that_is_silent_is_probed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = listener.accept().await.unwrap().0.into_std().unwrap();
        let same = accepted.try_clone().unwrap();
        let (events, _) = mpsc::channel(1);
        let stream = TcpStream::from_std(accepted).unwrap();
        let _client = Client::new(1, stream, &events, SharedRoom::new());
        assert!(rustix::net::sockopt::socket_keepalive(&same).unwrap());
    }

    /// It ran elsewhere meanwhile, where it took more, and a person has said that it did not.
    #[tokio::test]
    async fn a_client_of_a_guest_that_has_forgotten_it_is_disconnected() {
        let (mut client, mut far) = client(b"abcd").await;
        client.attach(1);
        assert!(client.hear(&taken(3)));
        client.attach(1);
        assert!(client.hear(&taken(2)));
        assert!(client.closed && bytes(&mut client).is_empty());
        let read = far.read(&mut [0]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}
