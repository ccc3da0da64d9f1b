//! The destination's hand on the machine: it opens the door, lands what comes, and runs the guest.
//!
//! ```text
//!   door ──► control connection ─► Hello ─► greet ─┐
//!    └────► lane ─► LaneHello ─────────────► admit ┼─► Destination ─► lanes, hands, link
//!   lanes (threads), hands (one thread), time ─────┘
//! ```

mod driver;
mod hands;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use whimbrel_memory::Landing;
use whimbrel_protocol::batch::{CONTROL_MAGIC, LANE_HELLO_SIZE, LANE_MAGIC, MAGIC_SIZE};
use whimbrel_protocol::{DestinationEvent, Hello, SessionId, Term, Token};
use whimbrel_transport::{Caller, Door, DoorKey, DoorOptions, Kind, Purpose};

use crate::Journal;
use crate::ended::{Asked, Cancel, Ended, Ending};
use crate::guest::GuestFactory;
use crate::journal::SharedJournal;
use crate::link::{Connection, LinkEvent};
use crate::options::IncomingOptions;
use crate::progress::Progress;
use crate::spawn::{Spawn, spawn};
use driver::Driver;
use hands::{Hands, Work};

/// The destination side of one migration: a door, and what will be behind it.
pub struct Incoming {
    door: Door,
    token: Token,
    factory: Box<dyn GuestFactory>,
    journal: Box<dyn Journal>,
    options: IncomingOptions,
    progress: watch::Sender<Progress>,
    cancel: (Cancel, mpsc::Receiver<String>),
    asked: (Asked, mpsc::Receiver<Term>),
    ending: Ending<io::Result<Ended>>,
}

/// What may wait for a driver; whoever has more to say waits with it.
const HAPPENED_MAX: usize = 256;

/// What a driver is told from its threads and tasks.
enum Happened {
    Machine(DestinationEvent),
    Reserved(Arc<Landing>),
    /// Somebody said hello on a control connection.
    Greeting(Hello, Connection),
    Link(LinkEvent),
}

impl From<LinkEvent> for Happened {
    fn from(event: LinkEvent) -> Self {
        Self::Link(event)
    }
}

/// The door's kinds of callers, by their place in its list.
const CONTROL: usize = 0;
const LANE: usize = 1;

impl Incoming {
    /// Listens at `address` (port 0 takes any) for the source that shows `token`.
    ///
    /// # Errors
    /// The system's, if it cannot be listened there.
    pub fn bind(
        address: SocketAddr,
        token: Token,
        factory: Box<dyn GuestFactory>,
        journal: Box<dyn Journal>,
        options: IncomingOptions,
    ) -> io::Result<Self> {
        Self::bind_all(&[address], token, factory, journal, options)
    }

    /// As [`Incoming::bind`], at each of `addresses`.
    ///
    /// # Errors
    /// As [`Incoming::bind`], and if there is no address.
    pub fn bind_all(
        addresses: &[SocketAddr],
        token: Token,
        factory: Box<dyn GuestFactory>,
        journal: Box<dyn Journal>,
        options: IncomingOptions,
    ) -> io::Result<Self> {
        let kinds = vec![
            Kind { magic: CONTROL_MAGIC, size: MAGIC_SIZE, purpose: Purpose::Control },
            Kind { magic: LANE_MAGIC, size: LANE_HELLO_SIZE, purpose: Purpose::Bulk },
        ];
        let patience = DoorOptions {
            greeting_within: options.lanes.open_timeout,
            tuning: options.lanes.tuning.clone(),
            carrier: options.lanes.carrier.clone(),
            ..DoorOptions::default()
        };
        let door = Door::open(addresses, kinds, patience)?;
        let (progress, _) = watch::channel(Progress::default());
        let (cancel, asked, ending) = (Cancel::new(), Asked::new(), Ending::new());
        Ok(Self { door, token, factory, journal, options, progress, cancel, asked, ending })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.door.address()
    }

    /// Everywhere that it listens, in the order of the addresses that were asked for.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.door.addresses()
    }

    /// A way to listen at more addresses while it runs.
    #[must_use]
    pub fn door_key(&self) -> DoorKey {
        self.door.key()
    }

    /// Follows the migration.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// A way to end it early, until the guest may run here.
    #[must_use]
    pub fn cancel(&self) -> Cancel {
        self.cancel.0.clone()
    }

    /// The way in for the question of the source's agent.
    #[must_use]
    pub fn asked(&self) -> Asked {
        self.asked.0.clone()
    }

    /// Where the end is left if the future of [`Incoming::run`] is dropped.
    #[must_use]
    pub fn ending(&self) -> Ending<io::Result<Ended>> {
        self.ending.clone()
    }

    /// Receives the guest. Comes back when the outcome is decided: after `Completed` the guest
    /// runs here. As with [`crate::Outgoing::run`], dropping the future ends nothing.
    ///
    /// # Errors
    /// The system's, if it gives no random numbers or no thread; nobody was let in then.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn run(self) -> impl Future<Output = io::Result<Ended>> + Send {
        let ending = self.ending();
        ending.begin(self.drive(spawn));
        async move { ending.take().await.expect("nobody else took what is still awaited here") }
    }

    pub(crate) async fn drive(self, spawn: Spawn) -> io::Result<Ended> {
        let (happened, events) = mpsc::channel(HAPPENED_MAX);
        let journal = SharedJournal::new(self.journal);
        let work = Work {
            factory: self.factory,
            backing: self.options.backing,
            journal: journal.clone(),
            planned: None,
            guest: None,
            acquired: false,
            runs: false,
            memory_max: self.options.memory_max,
            digesters: None,
            happened: happened.clone(),
        };
        let hands = Hands::start(work, spawn)?;
        let driver = Driver::new(self.token, self.options, hands, journal, happened)?;
        Ok(driver.run(self.door, events, (self.cancel.1, self.asked.1), self.progress).await)
    }
}

/// Lanes a session may have over its life, dead ones included.
const LANES_PER_SESSION: usize = 1024;

/// The random names and secrets of a session.
struct Secrets {
    session: SessionId,
    resume_token: Token,
    lane_tokens: Vec<Token>,
}

impl Secrets {
    fn draw() -> io::Result<Self> {
        let mut bytes = vec![0; 16 * (LANES_PER_SESSION + 2)];
        getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
        let mut numbers = bytes
            .chunks_exact(16)
            .map(|chunk| u128::from_le_bytes(chunk.try_into().expect("chunks of 16 bytes")));
        let mut next = || numbers.next().expect("as many as were drawn");
        let (session, resume_token) = (SessionId(next()), Token(next()));
        Ok(Self { session, resume_token, lane_tokens: numbers.map(Token).collect() })
    }
}

/// Lets a control connection in as far as its first message, which decides what it is. It has its
/// place at the door until then.
async fn greeting(mut caller: Caller, options: IncomingOptions, tell: mpsc::Sender<Happened>) {
    let (within, mut place) = (options.greeting_timeout, caller.take_place());
    let heard = tokio::time::timeout(within, async {
        let mut connection = Connection::answer(caller, &options.lanes).await?;
        match connection.hear().await? {
            whimbrel_protocol::Message::Hello(hello) => Ok((hello, connection)),
            other => Err(format!("{} instead of Hello", other.name())),
        }
    });
    let Some(heard) = place.hear(heard).await else {
        return tracing::warn!("a caller was not let in: it said nothing, and others came");
    };
    match heard {
        Ok(Ok((hello, connection))) => {
            let _ = tell.send(Happened::Greeting(hello, connection)).await;
        }
        Ok(Err(why)) => tracing::warn!("a caller was not let in: {why}"),
        Err(_) => tracing::warn!("a caller was not let in: it said nothing for {within:?}"),
    }
}
