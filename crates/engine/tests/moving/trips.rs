//! How often the two sides wait for each other while the guest stands still: one and a half round
//! trips, counted in messages.
//!
//! A relay writes down what passes on the control connection, and hands on no acknowledgement of a
//! lane once the guest is parked: whoever waited for one would wait for ever.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, GuestFactory, Throttle};
use whimbrel_engine::memory::GuestMemory;
use whimbrel_engine::page::Layout;
use whimbrel_engine::protocol::Message;
use whimbrel_engine::protocol::batch::{CONTROL_MAGIC, MAGIC_SIZE};
use whimbrel_engine::{IncomingOptions, Outcome};

use crate::scribe::{Scribe, ScribeFactory};
use crate::{incoming, options, outgoing};

const PARKED: &str = "parked";
const RUNS: &str = "runs";
/// What follows the body of a control frame.
const SEAL_SIZE: usize = 8;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().expect("no panics").push(what.into());
    }

    fn has(&self, what: &str) -> bool {
        self.0.lock().expect("no panics").iter().any(|noted| noted == what)
    }

    /// From the last time that the guest was parked.
    fn paused(&self) -> Vec<String> {
        let log = self.0.lock().expect("no panics");
        let parked = log.iter().rposition(|noted| noted == PARKED).expect("it was parked");
        log[parked..].to_vec()
    }
}

/// Notes when it is parked and when it runs.
struct Marked(Box<dyn Guest>, Log);

impl Guest for Marked {
    fn describe(&self) -> GuestDescription {
        self.0.describe()
    }

    fn memory(&self) -> GuestMemory {
        self.0.memory()
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        self.0.pause()?;
        self.1.note(PARKED);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.1.note(RUNS);
        self.0.resume()
    }

    fn save_state(&mut self) -> Result<Bytes, GuestError> {
        self.0.save_state()
    }

    fn load_state(&mut self, state: &Bytes) -> Result<(), GuestError> {
        self.0.load_state(state)
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        self.0.throttle(throttle)
    }
}

struct MarkedFactory(ScribeFactory, Log);

impl GuestFactory for MarkedFactory {
    fn check(&self, guest: &GuestDescription, layout: &Layout) -> Result<(), String> {
        self.0.check(guest, layout)
    }

    fn create(
        &mut self,
        guest: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        Ok(Box::new(Marked(self.0.create(guest, memory)?, self.1.clone())))
    }
}

async fn listen(target: SocketAddr, log: Log) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(relay(near, target, log.clone()));
        }
    });
    address
}

/// Either end is the end of both: dropping the halves closes both connections.
async fn relay(mut near: TcpStream, target: SocketAddr, log: Log) -> std::io::Result<()> {
    let mut magic = [0; MAGIC_SIZE];
    near.read_exact(&mut magic).await?;
    let mut far = TcpStream::connect(target).await?;
    far.write_all(&magic).await?;
    if magic == CONTROL_MAGIC {
        far.read_exact(&mut magic).await?;
        near.write_all(&magic).await?;
    }
    let ((mut from_near, mut to_near), (mut from_far, mut to_far)) =
        (near.into_split(), far.into_split());
    if magic == CONTROL_MAGIC {
        return tokio::select! {
            done = frames(from_near, to_far, "to the destination", &log) => done,
            done = frames(from_far, to_near, "to the source", &log) => done,
        };
    }
    let back = async {
        let mut buffer = [0; 4096];
        loop {
            let count = from_far.read(&mut buffer).await?;
            if log.has(PARKED) {
                return std::future::pending().await;
            }
            if count == 0 {
                return Ok(());
            }
            to_near.write_all(&buffer[..count]).await?;
        }
    };
    tokio::select! {
        done = back => done,
        done = tokio::io::copy(&mut from_near, &mut to_far) => done.map(drop),
    }
}

/// Hands frames on and notes them; those that only show that there is somebody are no news.
async fn frames(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: &str,
    log: &Log,
) -> std::io::Result<()> {
    loop {
        let length = from.read_u32_le().await?;
        let mut rest = vec![0; length as usize + SEAL_SIZE];
        from.read_exact(&mut rest).await?;
        let body = Bytes::copy_from_slice(&rest[..length as usize]);
        match Message::decode(&body).expect("the sides speak the protocol") {
            Message::Ping(_) | Message::Pong(_) => {}
            message => log.note(format!("{} {way}", message.name())),
        }
        to.write_u32_le(length).await?;
        to.write_all(&rest).await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_and_a_half_round_trips_pass_while_the_guest_stands_still() {
    let log = Log::default();
    let factory = MarkedFactory(ScribeFactory::default(), log.clone());
    let (incoming, mut address) = incoming(factory, IncomingOptions::default());
    address.address = listen(address.address, log.clone()).await;
    // It writes to the last, so that there are last pages to send.
    let guest = Marked(Box::new(Scribe::filled(1024, 64).with_last_words(64)), log.clone());
    let source = outgoing(guest, address, options(std::time::Duration::from_secs(5)));
    let (source, _destination) = tokio::join!(source.run(), incoming.run());
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    let last = source.report.progress.rounds.last().expect("rounds");
    assert!(last.pages.0 > 0, "there were last pages: {last:?}");
    let paused = log.paused();
    let until_it_runs = paused.iter().position(|noted| noted == RUNS).expect("it runs");
    let expected = [
        PARKED,
        "Prepare to the destination",
        "Prepared to the source",
        "Grant to the destination",
    ];
    assert_eq!(paused[..until_it_runs], expected);
}
