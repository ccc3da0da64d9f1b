//! Clients that remember what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use whimbrel_tests::program::WATCHDOG;
use whimbrel_tests::redis::{Connection, Reply};

/// A client at work until it is told that it is enough.
pub(crate) struct Checker {
    enough: Arc<AtomicBool>,
    at_work: Vec<JoinHandle<u64>>,
}

impl Checker {
    /// So many clients, each of which counts its writes in the store and by itself.
    pub(crate) async fn start(address: &str, clients: u32) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let mut at_work = Vec::new();
        for number in 0..clients {
            let connection = Connection::to(address).await;
            at_work.push(tokio::spawn(work(connection, number, Arc::clone(&enough))));
        }
        Self { enough, at_work }
    }

    /// Ends the work; how many writes were acknowledged, all of which are there.
    ///
    /// # Panics
    /// If a write was lost or done twice, a reply came out of order, or a connection was reset.
    pub(crate) async fn finish(self) -> u64 {
        self.enough.store(true, Ordering::Relaxed);
        let mut writes = 0;
        for client in self.at_work {
            writes += client.await.expect("no client was let down");
        }
        writes
    }
}

/// Elements that a list has in the end: however long the load lasts, memory has room for them.
const KEPT: u64 = 20_000;

/// Every command is said once and answered once, so counters follow from what was acknowledged.
async fn work(mut connection: Connection, number: u32, enough: Arc<AtomicBool>) -> u64 {
    let (counter, list) = (format!("counter:{number}"), format!("list:{number}"));
    let bulk = |n: u64| Reply::Bulk('$', n.to_string().into_bytes());
    let mut count = 0;
    while !enough.load(Ordering::Relaxed) {
        // Several at once: some of them are on their way whenever the guest stands still.
        let mut bytes = Vec::new();
        for n in count + 1..=count + 8 {
            bytes.extend(format!("INCR {counter}\r\nRPUSH {list} {n}\r\n").bytes());
            if n > KEPT {
                bytes.extend(format!("LPOP {list}\r\n").bytes());
            }
            bytes.extend(format!("SET last:{number} {n}\r\n").bytes());
        }
        connection.say(&bytes).await;
        for n in count + 1..=count + 8 {
            let lengths = [n, n.min(KEPT + 1)].map(|n| Reply::Line(':', n.to_string()));
            let first = (n > KEPT).then(|| bulk(n - KEPT));
            for expected in lengths.into_iter().chain(first) {
                assert_eq!(connection.reply().await, expected, "client {number}");
            }
            assert_eq!(connection.reply().await, Reply::Line('+', "OK".to_owned()));
        }
        count += 8;
    }
    let last = connection.command(&[b"GET", format!("last:{number}").as_bytes()]).await;
    assert_eq!(last, Reply::Bulk('$', count.to_string().into_bytes()));
    let all = connection.command(&[b"LRANGE", list.as_bytes(), b"0", b"-1"]).await;
    let expected: Vec<_> = (count.saturating_sub(KEPT) + 1..=count).map(bulk).collect();
    let Reply::Many('*', all) = all else { panic!("of {count} elements: {all:?}") };
    let wrong = all.iter().zip(&expected).position(|(one, other)| one != other);
    assert_eq!((all.len(), wrong), (expected.len(), None), "the order is kept");
    count * 3
}

/// A client that asks again as soon as it is answered.
pub(crate) struct Pinger {
    enough: Arc<AtomicBool>,
    at_work: JoinHandle<Vec<Ping>>,
}

/// When it asked, and when it was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ping {
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
}

impl Pinger {
    pub(crate) async fn start(address: &str) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let (done, mut connection) = (Arc::clone(&enough), Connection::to(address).await);
        let at_work = tokio::spawn(async move {
            let mut pings = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let reply = connection.command(&[b"PING"]).await;
                assert_eq!(reply, Reply::Line('+', "PONG".into()));
                pings.push(Ping { asked, answered: Instant::now() });
            }
            pings
        });
        Self { enough, at_work }
    }

    pub(crate) async fn finish(self) -> Vec<Ping> {
        self.enough.store(true, Ordering::Relaxed);
        self.at_work.await.expect("it was answered")
    }
}

/// Writes that are on their way at once.
const DEPTH: u64 = 8;

/// Clients that write until their connections are reset.
pub(crate) struct Writers {
    at_work: Vec<JoinHandle<u64>>,
}

impl Writers {
    /// So many, each of which has written something when this is done, and goes on.
    pub(crate) async fn start(address: &str, clients: u32) -> Self {
        let mut at_work = Vec::new();
        for number in 0..clients {
            let stream = TcpStream::connect(address).await.expect("a server listens");
            let (tell, mut wrote) = mpsc::channel(1);
            at_work.push(tokio::spawn(write(stream, number, tell)));
            while wrote.recv().await.expect("it is at work") < 20 * DEPTH {}
        }
        Self { at_work }
    }

    /// Waits until all are reset, and looks for what was acknowledged to them.
    ///
    /// # Panics
    /// If something is missing, was done twice, or is there in another order.
    pub(crate) async fn have_lost_nothing(self, connection: &mut Connection) {
        for (number, client) in self.at_work.into_iter().enumerate() {
            let ended = timeout(WATCHDOG, client).await.expect("it is reset");
            let acknowledged = ended.expect("no reply was a wrong one");
            let list = format!("written:{number}");
            let all = connection.command(&[b"LRANGE", list.as_bytes(), b"0", b"-1"]).await;
            let Reply::Many('*', all) = all else { panic!("{all:?}") };
            let count = all.len() as u64;
            let may_be_there = acknowledged..=acknowledged + DEPTH;
            assert!(may_be_there.contains(&count), "{count} of {acknowledged}");
            let bulk = |n: u64| Reply::Bulk('$', n.to_string().into_bytes());
            assert!(all == (1..=count).map(bulk).collect::<Vec<_>>(), "client {number}");
        }
    }
}

/// How many writes were acknowledged before the connection was reset.
async fn write(mut stream: TcpStream, number: u32, tell: mpsc::Sender<u64>) -> u64 {
    let mut acknowledged = 0;
    loop {
        let next = acknowledged + 1..=acknowledged + DEPTH;
        let line = |n| format!("RPUSH written:{number} {n}\r\n").into_bytes();
        let said: Vec<u8> = next.clone().flat_map(line).collect();
        if stream.write_all(&said).await.is_err() {
            return acknowledged;
        }
        for n in next {
            let expected = format!(":{n}\r\n").into_bytes();
            let mut reply = vec![0; expected.len()];
            if stream.read_exact(&mut reply).await.is_err() {
                return acknowledged;
            }
            assert_eq!(reply, expected, "client {number}");
            acknowledged = n;
        }
        // Nobody may want to know any more, or has not looked yet.
        let _ = tell.try_send(acknowledged);
    }
}
