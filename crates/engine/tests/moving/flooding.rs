//! A destination's door is kept busy by callers who have no business there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use whimbrel_engine::protocol::{Standing, batch};
use whimbrel_engine::{Fault, IncomingOptions, Outcome};

use crate::scribe::{Scribe, ScribeFactory};
use crate::{PAGES, assert_writes, incoming, options, outgoing, standing};

/// What a caller does with its connection until it is hung up on. Then it calls again.
#[derive(Clone, Copy, Debug)]
enum Manners {
    Silent,
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
    let manners = [Manners::Silent, Manners::Slow, Manners::Garbage];
    let flood = Flood::of(address.address, manners.into_iter().cycle().take(180)).await;
    let before = flood.calls();
    let source = outgoing(Scribe::filled(PAGES, 256), address, options(Duration::from_millis(300)));
    let (source, destination) = tokio::join!(source.run(), incoming.run());
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    assert_eq!(source.outcome, destination.expect("a destination").outcome);
    assert!(flood.calls() > before, "they called all the time");
}

/// More silent callers than a door has places: nobody gets in, and the guest is none the worse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_without_a_free_place_costs_the_migration_and_nothing_else() {
    let (incoming, address) = incoming(ScribeFactory::default(), IncomingOptions::default());
    let (cancel, incoming) = (incoming.cancel(), tokio::spawn(incoming.run()));
    let flood = Flood::of(address.address, [Manners::Silent; 300]).await;
    let mut wanted = options(Duration::from_millis(300));
    wanted.source.greeting_timeout = Duration::from_millis(500);
    let source = outgoing(Scribe::filled(PAGES, 64), address, wanted).run().await;
    let Outcome::Aborted(failure) = &source.outcome else { panic!("{source:?}") };
    assert_eq!(failure.fault, Fault::Link, "{failure}");
    assert!(matches!(standing(&source), None | Some(Standing::Owner)));
    assert_writes(source.guest.expect("back")).await;
    drop(flood);
    cancel.cancel("nobody came");
    let ended = incoming.await.expect("no panics").expect("a destination");
    assert!(matches!(ended.outcome, Outcome::Aborted(_)), "{ended:?}");
}
