//! A client that remembers what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinHandle;
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

/// Every command is said once and answered once, so counters follow from what was acknowledged.
async fn work(mut connection: Connection, number: u32, enough: Arc<AtomicBool>) -> u64 {
    let (counter, list) = (format!("counter:{number}"), format!("list:{number}"));
    let mut count = 0;
    while !enough.load(Ordering::Relaxed) {
        // Several at once: some of them are on their way whenever the guest stands still.
        let mut bytes = Vec::new();
        for n in count + 1..=count + 8 {
            bytes.extend(format!("INCR {counter}\r\nRPUSH {list} {n}\r\n").bytes());
            bytes.extend(format!("SET last:{number} {n}\r\n").bytes());
        }
        connection.say(&bytes).await;
        for n in count + 1..=count + 8 {
            for expected in [Reply::Line(':', n.to_string()), Reply::Line(':', n.to_string())] {
                assert_eq!(connection.reply().await, expected, "client {number}");
            }
            assert_eq!(connection.reply().await, Reply::Line('+', "OK".to_owned()));
        }
        count += 8;
    }
    let last = connection.command(&[b"GET", format!("last:{number}").as_bytes()]).await;
    assert_eq!(last, Reply::Bulk('$', count.to_string().into_bytes()));
    let all = connection.command(&[b"LRANGE", list.as_bytes(), b"0", b"-1"]).await;
    let bulk = |n: u64| Reply::Bulk('$', n.to_string().into_bytes());
    assert!(all == Reply::Many('*', (1..=count).map(bulk).collect()), "the order is kept");
    count * 3
}
