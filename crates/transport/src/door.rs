//! The door of a guest process, a port on each of its addresses: control connections and lanes
//! come through it.
//!
//! A caller says in its first bytes what it is. Those bytes have a fixed size, are waited for
//! with a deadline, and only so many callers may keep the door waiting: garbage and silence cost
//! a bounded read each, and nobody else's time.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{LaneError, TcpLane, Tuning};

/// A kind of connection: its first bytes, and how many it says before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The first 8 bytes.
    pub magic: [u8; 8],
    /// All bytes of the greeting, these 8 included.
    pub size: usize,
}

/// How patient a door is.
#[derive(Clone, Debug)]
pub struct DoorOptions {
    /// How long a caller may take to say what it is.
    pub greeting_within: Duration,
    /// How many callers may be about to say it.
    pub greeting_max: usize,
    /// Socket options of what comes in.
    pub tuning: Tuning,
}

impl Default for DoorOptions {
    fn default() -> Self {
        let greeting_within = Duration::from_secs(5);
        Self { greeting_within, greeting_max: 256, tuning: Tuning::default() }
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
    pub stream: TcpStream,
}

impl Caller {
    /// Answers the greeting.
    ///
    /// # Errors
    /// [`LaneError::Stalled`] or [`LaneError::Link`]; drop the caller.
    pub async fn answer(&mut self, answer: &[u8], within: Duration) -> Result<(), LaneError> {
        match timeout(within, self.stream.write_all(answer)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(LaneError::Stalled(within)),
        }
    }

    /// The lane behind the greeting.
    ///
    /// # Errors
    /// What the system says.
    pub fn into_lane(self, stall: Duration) -> io::Result<TcpLane> {
        TcpLane::from_tokio(self.stream, stall)
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
        let listener = listen_on(address, &self.porter.options.tuning)?;
        let address = listener.local_addr()?;
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = || io::Error::new(io::ErrorKind::NotConnected, "the door is closed");
        let task = tokio::spawn(self.porter.clone().run(listener));
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
    /// Listens at each of `addresses`; port 0 stands for any.
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
        let room = Arc::new(Semaphore::new(options.greeting_max));
        let porter = Arc::new(Porter { kinds, options, tell, room });
        let key = DoorKey { porter, listening: Arc::new(Mutex::new(Some(Vec::new()))) };
        let mut door = Self { callers, addresses: Vec::new(), key };
        for address in addresses {
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

fn listen_on(address: SocketAddr, tuning: &Tuning) -> io::Result<TcpListener> {
    const BACKLOG: u32 = 256;
    let new = if address.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 };
    let socket = new()?;
    socket.set_reuseaddr(true)?;
    // What is accepted inherits the buffers, and they count from the first packet on.
    tuning.apply_buffers(&SockRef::from(&socket))?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

struct Porter {
    kinds: Vec<Kind>,
    options: DoorOptions,
    tell: mpsc::Sender<Caller>,
    room: Arc<Semaphore>,
}

impl Porter {
    async fn run(self: Arc<Self>, listener: TcpListener) {
        loop {
            let permit = self.room.clone().acquire_owned().await.expect("never closed");
            let Ok((stream, from)) = listener.accept().await else {
                // Out of file descriptors, most likely: it passes when somebody leaves, and
                // nothing tells when.
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            };
            let porter = self.clone();
            tokio::spawn(async move {
                if let Some(caller) = porter.hear(stream, from).await {
                    // An error means that the door was dropped meanwhile.
                    let _ = porter.tell.send(caller).await;
                }
                drop(permit);
            });
        }
    }

    /// `None` is for those who are not what this door is for: they are hung up on.
    async fn hear(&self, mut stream: TcpStream, from: SocketAddr) -> Option<Caller> {
        self.options.tuning.apply(&SockRef::from(&stream), from.ip()).ok()?;
        // wire.md B5: a fixed number of bytes, and a deadline for all of them.
        let greeting = async {
            let mut magic = [0; 8];
            stream.read_exact(&mut magic).await.ok()?;
            let kind = self.kinds.iter().position(|kind| kind.magic == magic)?;
            let mut hello = magic.to_vec();
            hello.resize(self.kinds[kind].size, 0);
            stream.read_exact(&mut hello[magic.len()..]).await.ok()?;
            Some((kind, hello))
        };
        let (kind, hello) = timeout(self.options.greeting_within, greeting).await.ok()??;
        Some(Caller { kind, hello, from, stream })
    }
}

const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
