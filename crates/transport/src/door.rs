//! The door of a guest process, a port on each of its addresses: control connections and lanes
//! come through it.
//!
//! A caller says in its first bytes what it is. Those bytes have a fixed size, are waited for
//! with a deadline, and only so many callers may keep the door waiting, the oldest of whom make
//! room: garbage and silence cost a bounded read each, and nobody else's time.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::carrier::ANY;
use crate::greeters::{Greeters, Place};
use crate::os::{self as system, LocalListener};
use crate::quic::{self, Link};
use crate::{Carrier, Lane, LaneError, Purpose, Stream, Tuning};

/// A kind of connection: its first bytes, and how many it says before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The first 8 bytes.
    pub magic: [u8; 8],
    /// All bytes of the greeting, these 8 included.
    pub size: usize,
    /// What it is for, which decides how it is protected.
    pub purpose: Purpose,
}

/// How patient a door is.
#[derive(Clone, Debug)]
pub struct DoorOptions {
    /// How long a caller may take to say what it is.
    pub greeting_within: Duration,
    /// How many callers may be about to say it. Where more come, the longest silent makes room.
    pub greeting_max: usize,
    /// How long nobody has to make room.
    pub left_alone: Duration,
    /// How many connections that hold several may be there, by whoever was let in.
    pub links_max: usize,
    /// Socket options of what comes in.
    pub tuning: Tuning,
    /// How it travels; what comes otherwise is hung up on.
    pub carrier: Carrier,
}

/// One for each of 128 paths, and control connections that follow one another.
const LINKS_MAX: usize = 160;
/// Some round trips of a handshake across a continent.
const LEFT_ALONE: Duration = Duration::from_secs(1);

impl Default for DoorOptions {
    fn default() -> Self {
        Self {
            greeting_within: Duration::from_secs(5),
            greeting_max: 256,
            left_alone: LEFT_ALONE,
            links_max: LINKS_MAX,
            tuning: Tuning::default(),
            carrier: Carrier::default(),
        }
    }
}

/// Somebody who has said what it is.
#[derive(Debug)]
pub struct Caller {
    /// Which of the door's kinds, by its place in their list.
    pub kind: usize,
    /// Its greeting, of that kind's size.
    pub hello: Vec<u8>,
    /// Where it comes from.
    pub from: SocketAddr,
    /// The connection behind the greeting.
    pub stream: Stream,
    place: Option<Place>,
}

impl Caller {
    /// Its place, for whoever goes on finding out who it is; at once or never.
    ///
    /// # Panics
    /// If it was taken before.
    #[must_use]
    pub fn take_place(&mut self) -> Place {
        self.place.take().expect("taken once")
    }

    /// Answers the greeting.
    ///
    /// # Errors
    /// [`LaneError::Stalled`] or [`LaneError::Link`]; drop the caller.
    pub async fn answer(&mut self, answer: &[u8], within: Duration) -> Result<(), LaneError> {
        let answering = async {
            self.stream.write_all(answer).await?;
            self.stream.flush().await
        };
        match timeout(within, answering).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(LaneError::Stalled(within)),
        }
    }

    /// The lane behind the greeting.
    ///
    /// # Errors
    /// What the system says.
    pub fn into_lane(self, stall: Duration) -> io::Result<Box<dyn Lane>> {
        self.stream.into_lane(stall)
    }
}

/// Listening ports. Dropping it closes them; callers already through it stay.
#[derive(Debug)]
pub struct Door {
    callers: mpsc::Receiver<Caller>,
    addresses: Vec<SocketAddr>,
    key: DoorKey,
}

/// Opens more addresses of a [`Door`] while it is there. Keeps none of them open.
#[derive(Clone)]
pub struct DoorKey {
    porter: Arc<Porter>,
    /// `None` once the door is closed.
    listening: Arc<Mutex<Option<Vec<JoinHandle<()>>>>>,
}

impl DoorKey {
    /// Listens at one more address, and returns it with its port.
    ///
    /// # Errors
    /// What the system says; or that the door is closed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open_also(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Carrier::Local(_), Some([_, ..])) =
            (&self.porter.options.carrier, listening.as_deref())
        {
            let why = "a local socket has one path";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let listener = Listener::open(address, &self.porter.options)?;
        let address = listener.address()?;
        let closed = || io::Error::new(io::ErrorKind::NotConnected, "the door is closed");
        let porter = self.porter.clone();
        let task = match listener {
            Listener::Sockets(listener) => tokio::spawn(porter.run(listener)),
            Listener::Quic(listener) => tokio::spawn(porter.run_quic(listener, address)),
        };
        match listening.as_mut() {
            Some(tasks) => tasks.push(task),
            None => {
                task.abort();
                return Err(closed());
            }
        }
        Ok(address)
    }
}

impl fmt::Debug for DoorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DoorKey")
    }
}

/// Callers that have said what they are and wait for [`Door::next`].
const WAITING_MAX: usize = 16;

impl Door {
    /// Listens at each of `addresses`; port 0 stands for any. Where the carrier is a local socket,
    /// at its path instead, and the address is only one of this host.
    ///
    /// # Errors
    /// What the system says; or that there is no address.
    pub fn open(
        addresses: &[SocketAddr],
        kinds: Vec<Kind>,
        options: DoorOptions,
    ) -> io::Result<Self> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, "no address to listen at");
        addresses.first().ok_or_else(none)?;
        let (tell, callers) = mpsc::channel(WAITING_MAX);
        let greeters = Greeters::new(options.greeting_max, options.left_alone);
        let links = Semaphore::new(options.links_max);
        let porter = Arc::new(Porter { kinds, options, tell, greeters, links });
        let key = DoorKey { porter, listening: Arc::new(Mutex::new(Some(Vec::new()))) };
        let mut door = Self { callers, addresses: Vec::new(), key };
        let one = matches!(door.key.porter.options.carrier, Carrier::Local(_));
        for address in &addresses[..if one { 1 } else { addresses.len() }] {
            let address = door.key.open_also(*address)?;
            door.addresses.push(address);
        }
        Ok(door)
    }

    /// A way to open more addresses.
    #[must_use]
    pub fn key(&self) -> DoorKey {
        self.key.clone()
    }

    /// Where it listens, in the order that was asked for.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The first address it listens at.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The next caller. Safe to drop before it comes.
    pub async fn next(&mut self) -> Caller {
        // The listening task holds the other end for as long as the door is there.
        self.callers.recv().await.expect("the door listens until it is dropped")
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let listening = &self.key.listening;
        let tasks = listening.lock().unwrap_or_else(PoisonError::into_inner).take();
        tasks.iter().flatten().for_each(JoinHandle::abort);
    }
}

/// What callers come through, before anything is known of them.
enum Listener {
    Sockets(Sockets),
    Quic(quic::Listener),
}

/// Where each connection is a socket of its own.
enum Sockets {
    Tcp(TcpListener),
    Local(LocalListener),
}

/// A connection, and whether what is said on it is still to be protected.
enum Accepted {
    Bare(TcpStream),
    Ready(Stream),
}

/// The address of whoever has none but is of this host.
const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl Listener {
    fn open(address: SocketAddr, options: &DoorOptions) -> io::Result<Self> {
        Ok(match &options.carrier {
            Carrier::Local(path) => Self::Sockets(Sockets::Local(LocalListener::bind(path)?)),
            Carrier::Quic(quic) => {
                Self::Quic(quic::Listener::open(address, quic.credentials(), options)?)
            }
            Carrier::Tcp | Carrier::Signed(_) | Carrier::Tls(_) => {
                Self::Sockets(Sockets::Tcp(listen_on(address, &options.tuning)?))
            }
        })
    }

    fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Sockets(Sockets::Tcp(listener)) => listener.local_addr(),
            Self::Sockets(Sockets::Local(_)) => Ok(HERE),
            Self::Quic(listener) => listener.address(),
        }
    }
}

impl Sockets {
    async fn accept(&self) -> io::Result<(Accepted, SocketAddr)> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                (Accepted::Bare(stream), from)
            }
            Self::Local(listener) => (Accepted::Ready(listener.accept().await?.into()), HERE),
        })
    }
}

fn listen_on(address: SocketAddr, tuning: &Tuning) -> io::Result<TcpListener> {
    const BACKLOG: u32 = 256;
    let new = if address.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 };
    let socket = new()?;
    system::bind_again_at_once(&socket)?;
    // What is accepted inherits the buffers, and they count from the first packet on.
    tuning.apply_buffers(&SockRef::from(&socket))?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

struct Porter {
    kinds: Vec<Kind>,
    options: DoorOptions,
    tell: mpsc::Sender<Caller>,
    greeters: Greeters,
    links: Semaphore,
}

impl Porter {
    async fn run(self: Arc<Self>, listener: Sockets) {
        loop {
            let Ok((accepted, from)) = listener.accept().await else {
                // Out of file descriptors, most likely: it passes when somebody leaves, and
                // nothing tells when.
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            };
            // Only now: nobody is hung up on while nobody waits.
            let place = self.greeters.place().await;
            tokio::spawn(self.clone().receive(accepted, from, place));
        }
    }

    /// Connections end with this task as far as nobody has come through them.
    async fn run_quic(self: Arc<Self>, mut listener: quic::Listener, address: SocketAddr) {
        let mut links = JoinSet::new();
        loop {
            let crowded = || self.greeters.free() <= self.options.greeting_max / 2;
            let Some(link) = listener.accept(crowded).await else {
                // The socket has failed, and its connections with it.
                links.shutdown().await;
                drop(listener);
                listener = self.reopen(address).await;
                continue;
            };
            let place = self.greeters.place().await;
            while links.try_join_next().is_some() {}
            links.spawn(self.clone().follow(link, place));
        }
    }

    async fn reopen(&self, address: SocketAddr) -> quic::Listener {
        loop {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            // It can be what it was as soon as nobody holds the old socket.
            if let Ok(Listener::Quic(listener)) = Listener::open(address, &self.options) {
                return listener;
            }
        }
    }

    /// Shakes hands, and then hears out every stream. Whoever is let in holds no place between
    /// them: how many streams it may have is bounded by itself, and how many connections there are.
    async fn follow(self: Arc<Self>, link: Link, mut place: Place) {
        let from = link.from();
        let within = self.options.greeting_within;
        let shaken = place.hear(timeout(within, link.established())).await;
        let Some(Ok(Ok(streams))) = shaken else { return };
        let Ok(_counted) = self.links.try_acquire() else { return };
        drop(place);
        while let Ok(stream) = streams.next().await {
            let (accepted, place) = (Accepted::Ready(stream.into()), self.greeters.place().await);
            tokio::spawn(self.clone().receive(accepted, from, place));
        }
    }

    async fn receive(self: Arc<Self>, accepted: Accepted, from: SocketAddr, mut place: Place) {
        if let Some(Some((kind, hello, stream))) = place.hear(self.hear(accepted, from)).await {
            let caller = Caller { kind, hello, from, stream, place: Some(place) };
            // An error means that the door was dropped meanwhile.
            let _ = self.tell.send(caller).await;
        }
    }

    async fn protect(
        &self,
        accepted: Accepted,
        from: SocketAddr,
    ) -> io::Result<(Stream, &[Purpose])> {
        match accepted {
            Accepted::Ready(stream) => Ok((stream, ANY)),
            Accepted::Bare(stream) => {
                self.options.tuning.apply(&SockRef::from(&stream), from.ip())?;
                self.options.carrier.answer(stream).await
            }
        }
    }

    /// `None` is for those who are not what this door is for: they are hung up on.
    async fn hear(&self, accepted: Accepted, from: SocketAddr) -> Option<(usize, Vec<u8>, Stream)> {
        // wire.md B5: a fixed number of bytes, and a deadline for all of them.
        let greeting = async {
            let (mut stream, purposes) = self.protect(accepted, from).await.ok()?;
            let mut magic = [0; 8];
            // wire.md P12: one that has ended is ended here too.
            stream.read_exact(&mut magic).await.ok()?;
            let ours = |kind: &Kind| kind.magic == magic && purposes.contains(&kind.purpose);
            let kind = self.kinds.iter().position(ours)?;
            let mut hello = magic.to_vec();
            hello.resize(self.kinds[kind].size, 0);
            stream.read_exact(&mut hello[magic.len()..]).await.ok()?;
            Some((kind, hello, stream))
        };
        timeout(self.options.greeting_within, greeting).await.ok()?
    }
}

/// Until there may be a file descriptor again for one more connection.
pub(crate) const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
