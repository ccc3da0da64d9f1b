use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use whimbrel_engine::guest::Guest;
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_guest::kv::{
    Attach, ConnectionId, FromGuest, KvGuest, KvMonitor, Outlet, Overrun, Position, RelayId, Said,
    ToGuest,
};
use whimbrel_memory::page::{ByteCount, Layout};
use whimbrel_memory::{Backing, GuestMemory};

/// Longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn memory(size: ByteCount) -> GuestMemory {
    let layout = Layout::single(size).expect("whole pages");
    GuestMemory::allocate(&layout, Backing::Private).expect("memory")
}

/// A running guest.
pub(crate) fn guest(size: ByteCount) -> KvGuest {
    let mut guest = KvGuest::new(GuestUuid(9), "kv", memory(size)).expect("made");
    guest.resume().expect("it has a store");
    guest
}

struct Channel(SyncSender<Vec<FromGuest>>);

impl Outlet for Channel {
    fn has_room(&self) -> bool {
        true
    }

    fn is_there(&self) -> bool {
        true
    }

    fn give(&mut self, said: Vec<FromGuest>) -> bool {
        self.0.send(said).is_ok()
    }

    fn cut(&mut self, _: Overrun) {}
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for it.
pub(crate) fn finish<T>(future: impl Future<Output = T>) -> T {
    let (mut future, waker) = (pin!(future), Waker::from(Arc::new(Unpark(thread::current()))));
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        thread::park_timeout(PATIENCE);
    }
}

/// A command as an array.
pub(crate) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(*word);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// A reply of bytes.
pub(crate) fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// A relay with one client.
pub(crate) struct Relay {
    pub(crate) id: RelayId,
    pub(crate) connection: ConnectionId,
    monitor: KvMonitor,
    from_guest: Receiver<Vec<FromGuest>>,
    /// What the client has said, and what it has heard.
    pub(crate) said: Vec<u8>,
    pub(crate) heard: Vec<u8>,
    pub(crate) taken: Position,
    pub(crate) credit: Position,
    pub(crate) last: bool,
    pub(crate) gone: bool,
}

impl Relay {
    /// Attaches a new run of a relay to a guest and connects its client.
    pub(crate) fn new(monitor: &KvMonitor, host: u64, run: u64) -> Self {
        let id = RelayId { host, run };
        let from_guest = attach(monitor, id, Vec::new());
        let relay = Self {
            id,
            connection: ConnectionId(1),
            monitor: monitor.clone(),
            from_guest,
            said: Vec::new(),
            heard: Vec::new(),
            taken: Position(0),
            credit: Position(0),
            last: false,
            gone: false,
        };
        relay.tell(ToGuest::Open(relay.connection));
        relay
    }

    /// The guest lives elsewhere now.
    pub(crate) fn attach(&mut self, monitor: &KvMonitor) {
        let held = vec![(self.connection, Position(self.heard.len() as u64))];
        self.from_guest = attach(monitor, self.id, held);
        self.monitor = monitor.clone();
    }

    /// An attachment that was asked for before the client came, and comes late.
    pub(crate) fn attach_late(&self) {
        let late = attach_as(
            &self.monitor,
            Attach { relay: self.id, last: ConnectionId(0), held: Vec::new() },
        );
        assert_eq!(late.recv_timeout(PATIENCE), Ok(Vec::new()));
    }

    /// Waits until the guest has let go of it.
    pub(crate) fn is_let_go(&self) {
        while let Ok(said) = self.from_guest.recv_timeout(PATIENCE) {
            assert!(said.is_empty(), "a parked guest says {said:?}");
        }
        let end = self.from_guest.try_recv();
        assert_eq!(end, Err(TryRecvError::Disconnected), "the guest keeps the relay");
    }

    /// Waits until the guest has cut it off.
    pub(crate) fn is_cut_off(&self) {
        while self.from_guest.recv_timeout(PATIENCE).is_ok() {}
        let end = self.from_guest.try_recv();
        assert_eq!(end, Err(TryRecvError::Disconnected), "the guest keeps the relay");
    }

    pub(crate) fn tell(&self, said: ToGuest) {
        assert!(finish(self.telling(said)), "the guest has gone");
    }

    /// Tells it as soon as the guest has room for it.
    pub(crate) async fn telling(&self, said: ToGuest) -> bool {
        self.monitor.hear(self.id, vec![said]).await
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        let from = Position(self.said.len() as u64);
        self.said.extend_from_slice(bytes);
        self.tell(ToGuest::Bytes(self.connection, from, bytes.to_vec().into()));
    }

    /// Says again what was not taken.
    pub(crate) fn say_again(&self) {
        let rest = self.said[self.taken.0 as usize..].to_vec();
        self.tell(ToGuest::Bytes(self.connection, self.taken, rest.into()));
    }

    /// Waits until `enough` is so.
    #[track_caller]
    pub(crate) fn listen(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let said = self.from_guest.recv_timeout(PATIENCE).expect("the guest says more");
            said.into_iter().for_each(|said| self.hear(said));
        }
    }

    fn hear(&mut self, said: FromGuest) {
        match said {
            FromGuest::Gone(connection) => self.gone |= connection == self.connection,
            FromGuest::Said(Said { taken, credit, from, bytes, last, .. }) => {
                assert_eq!(from.0, self.heard.len() as u64, "a reply is lost, or comes twice");
                self.heard.extend_from_slice(&bytes);
                (self.taken, self.credit, self.last) = (taken, credit, last);
            }
        }
    }

    /// Says something and waits for exactly this reply.
    #[track_caller]
    pub(crate) fn hears(&mut self, bytes: &[u8], reply: &[u8]) {
        let start = self.heard.len();
        self.say(bytes);
        self.listen(|relay| relay.heard.len() >= start + reply.len());
        assert_eq!(
            self.heard[start..].escape_ascii().to_string(),
            reply.escape_ascii().to_string()
        );
    }

    pub(crate) fn confirm(&self) {
        let heard = Position(self.heard.len() as u64);
        self.tell(ToGuest::Delivered(self.connection, heard));
    }
}

fn attach(
    monitor: &KvMonitor,
    id: RelayId,
    held: Vec<(ConnectionId, Position)>,
) -> Receiver<Vec<FromGuest>> {
    attach_as(monitor, Attach { relay: id, last: ConnectionId(1), held })
}

fn attach_as(monitor: &KvMonitor, attach: Attach) -> Receiver<Vec<FromGuest>> {
    let (give, from_guest) = sync_channel(1 << 16);
    assert!(monitor.attach(attach, Box::new(Channel(give))));
    from_guest
}
