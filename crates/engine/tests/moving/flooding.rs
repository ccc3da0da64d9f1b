//! A destination's door is kept busy by callers who have no business there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use whimbrel_engine::protocol::batch;
use whimbrel_engine::{Carrier, IncomingOptions, Outcome};

use crate::carriers::credentials;
use crate::scribe::{Scribe, ScribeFactory};
use crate::{PAGES, incoming, options, outgoing};

/// What a caller does with its connection until it is hung up on. Then it calls again.
#[derive(Clone, Copy, Debug)]
enum Manners {
    Silent,
    /// The first word of a control connection, and no other.
    Greets,
    /// The beginning of a good greeting, a byte at a time.
    Slow,
    Garbage,
}

/// Callers that go on until this is dropped.
struct Flood {
    calls: Arc<AtomicUsize>,
    _callers: JoinSet<()>,
}

impl Flood {
    /// Comes back when each caller has got through once.
    async fn of(door: SocketAddr, callers: impl IntoIterator<Item = Manners>) -> Self {
        let (calls, mut tasks) = (Arc::<AtomicUsize>::default(), JoinSet::new());
        let mut first = JoinSet::new();
        for manners in callers {
            let (calls, (tell, told)) = (calls.clone(), tokio::sync::oneshot::channel());
            first.spawn(told);
            tasks.spawn(async move {
                let mut tell = Some(tell);
                loop {
                    let Ok(caller) = TcpStream::connect(door).await else { continue };
                    calls.fetch_add(1, Ordering::Relaxed);
                    tell.take().map(|tell| tell.send(()));
                    let _ = manners.call(caller).await;
                }
            });
        }
        while let Some(told) = first.join_next().await {
            told.expect("no panics").expect("it calls");
        }
        Self { calls, _callers: tasks }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Manners {
    async fn call(self, mut caller: TcpStream) -> std::io::Result<()> {
        match self {
            Self::Silent => {}
            Self::Greets => caller.write_all(&batch::CONTROL_MAGIC).await?,
            Self::Slow => {
                let mut pace = tokio::time::interval(Duration::from_millis(100));
                for byte in batch::LANE_MAGIC {
                    pace.tick().await;
                    caller.write_all(&[byte]).await?;
                }
            }
            Self::Garbage => caller.write_all(&[0xff; 4096]).await?,
        }
        let mut answer = Vec::new();
        caller.read_to_end(&mut answer).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooded_door_lets_a_migration_through() {
    let (incoming, address) = incoming(ScribeFactory::default(), IncomingOptions::default());
    let manners = [Manners::Silent, Manners::Greets, Manners::Slow, Manners::Garbage];
    let flood = Flood::of(address.address, manners.into_iter().cycle().take(180)).await;
    let before = flood.calls();
    let source = outgoing(Scribe::filled(PAGES, 256), address, options(Duration::from_millis(300)));
    let (source, destination) = tokio::join!(source.run(), incoming.run());
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    assert_eq!(source.outcome, destination.expect("a destination").outcome);
    assert!(flood.calls() > before, "they called all the time");
}

/// More callers than a door has places, none of whom ever says who it is, in clear and where the
/// door asks for that first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_silent_callers_than_places_keep_nobody_out() {
    let (near, far) = credentials();
    for (near, far, manners) in [
        (Carrier::Tcp, Carrier::Tcp, Manners::Silent),
        (Carrier::Tcp, Carrier::Tcp, Manners::Greets),
        (Carrier::Tls(near), Carrier::Tls(far), Manners::Silent),
    ] {
        let mut there = IncomingOptions::default();
        there.lanes.carrier = far;
        let (incoming, address) = incoming(ScribeFactory::default(), there);
        let incoming = tokio::spawn(incoming.run());
        let flood = Flood::of(address.address, [manners; 400]).await;
        let mut wanted = options(Duration::from_millis(300));
        wanted.lanes.carrier = near;
        let source = outgoing(Scribe::filled(PAGES, 256), address, wanted).run().await;
        assert!(matches!(source.outcome, Outcome::Completed { .. }), "{manners:?}: {source:?}");
        let destination = incoming.await.expect("no panics").expect("a destination");
        assert_eq!(source.outcome, destination.outcome);
        drop(flood);
    }
}
