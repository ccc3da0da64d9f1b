//! The way between two guest processes: everything they say passes here, and may be held, lost,
//! damaged or cut.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use whimbrel_page::LeafSum;
use whimbrel_protocol::batch::{CONTROL_MAGIC, MAGIC_SIZE};
use whimbrel_protocol::{CONTROL_FRAME_MAX, Message, Prepare};

use super::{Draws, Fate, Step};
use crate::peers::framed;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Control,
    Lane,
}

/// What ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The control connection.
    Control,
    /// One lane.
    OneLane,
    /// One lane, of which only the source hears.
    HalfALane,
    /// All lanes.
    Lanes,
}

/// Bytes that were read and not passed on. Without a word about them they arrive.
#[derive(Debug)]
pub struct Held {
    answer: oneshot::Sender<Fate>,
    passed: oneshot::Receiver<()>,
}

impl Held {
    /// Lets them go, and comes back when they are on their way, or never will be.
    pub async fn go(self, fate: Fate) {
        // The connection may be gone meanwhile, and the bytes with it.
        let _ = self.answer.send(fate);
        let _ = self.passed.await;
    }
}

/// Whether what is awaited has come about.
pub type Seen = Pin<Box<dyn Future<Output = bool> + Send>>;
/// Looks for it.
pub type Look = Arc<dyn Fn() -> Seen + Send + Sync>;

/// Held by the connection until what was held is passed on.
type Passing = Option<oneshot::Sender<()>>;

struct Connection {
    kind: Arc<OnceLock<Kind>>,
    task: AbortHandle,
    /// Ends the source's half only.
    half: Arc<Notify>,
}

struct Shared {
    target: OnceLock<SocketAddr>,
    connections: Mutex<Vec<Connection>>,
    expected: Mutex<Vec<(Step, oneshot::Sender<Held>)>>,
    /// How it is seen that a step has come which is in a record; until it has been.
    look: Mutex<Option<(Step, Look)>>,
    damage: Mutex<Option<(Kind, Draws)>>,
    /// The next Prepare is to name another root.
    another_root: AtomicBool,
    /// Bytes that lanes have carried to the destination.
    carried: AtomicU64,
    memory: u64,
    dark: watch::Sender<bool>,
}

/// The way to one guest process.
pub struct Way {
    /// Where it begins.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
        lock(&self.shared.connections).iter().for_each(|connection| connection.task.abort());
    }
}

/// Fewer bytes than pages come in.
const SMALL: usize = 16 << 10;
/// Bytes on the lanes by which the first round is well under way.
const FIRST_ROUND: u64 = 1 << 20;

impl Way {
    /// A way that begins at `ip`, for a guest of `memory` bytes.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn begin(ip: std::net::IpAddr, memory: u64) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            target: OnceLock::new(),
            connections: Mutex::default(),
            expected: Mutex::default(),
            look: Mutex::default(),
            damage: Mutex::default(),
            another_root: AtomicBool::new(false),
            carried: AtomicU64::new(0),
            memory,
            dark: watch::Sender::new(false),
        });
        let of_task = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((source, _)) = listener.accept().await {
                of_task.take(source);
            }
        });
        Self { address, shared, task }
    }

    /// Where it leads; said once.
    pub fn lead_to(&self, target: SocketAddr) {
        let _ = self.shared.target.set(target);
    }

    /// Holds what is under way when `step` comes.
    #[must_use]
    pub fn expect(&self, step: Step) -> oneshot::Receiver<Held> {
        let (tell, told) = oneshot::channel();
        lock(&self.shared.expected).push((step, tell));
        told
    }

    /// As [`Way::expect`], for a step that is in a record: nothing passes without a look at that
    /// once the first round is over. What was read before somebody looked is held, and all that
    /// comes after it is in the dark.
    #[must_use]
    pub fn expect_record(&self, step: Step, look: Look) -> oneshot::Receiver<Held> {
        let before = lock(&self.shared.look).replace((step, look));
        assert!(before.is_none(), "one record is looked at");
        self.expect(step)
    }

    /// Nobody waits for a step any more.
    pub fn forget(&self) {
        lock(&self.shared.expected).clear();
        *lock(&self.shared.look) = None;
    }

    /// Ends connections; false if there are none of that kind.
    pub fn cut(&self, cut: Cut) -> bool {
        let connections = lock(&self.shared.connections);
        let of = |kind| move |it: &&Connection| it.kind.get() == Some(&kind);
        let living = connections.iter().filter(|it| !it.task.is_finished());
        let (kind, most) = match cut {
            Cut::Control => (Kind::Control, usize::MAX),
            Cut::Lanes => (Kind::Lane, usize::MAX),
            Cut::OneLane | Cut::HalfALane => (Kind::Lane, 1),
        };
        let hit = living.filter(of(kind)).take(most).map(|it| match cut {
            Cut::HalfALane => it.half.notify_one(),
            Cut::Control | Cut::Lanes | Cut::OneLane => it.task.abort(),
        });
        hit.count() > 0
    }

    /// Nothing gets through, or everything again, late.
    pub fn darken(&self, dark: bool) {
        self.shared.dark.send_replace(dark);
    }

    /// Has the next Prepare name a root that is not the source's.
    pub fn falsify_root(&self) {
        self.shared.another_root.store(true, Ordering::Relaxed);
    }

    /// Flips one bit in what is passed on next on a connection of this kind.
    pub fn damage(&self, kind: Kind, draws: Draws) {
        *lock(&self.shared.damage) = Some((kind, draws));
    }

    /// Whether what was to be damaged has passed.
    #[must_use]
    pub fn has_damaged(&self) -> bool {
        lock(&self.shared.damage).is_none()
    }
}

impl Shared {
    fn take(self: &Arc<Self>, source: TcpStream) {
        let (kind, half) = (Arc::new(OnceLock::new()), Arc::new(Notify::new()));
        let shared = Arc::clone(self);
        let (known, ended) = (Arc::clone(&kind), Arc::clone(&half));
        let task = tokio::spawn(async move {
            // An end of one side is passed on by dropping both.
            let _ = shared.carry(source, &known, &ended).await;
        });
        lock(&self.connections).push(Connection { kind, task: task.abort_handle(), half });
    }

    async fn carry(
        &self,
        mut source: TcpStream,
        kind: &OnceLock<Kind>,
        half: &Notify,
    ) -> io::Result<()> {
        let mut magic = [0; MAGIC_SIZE];
        source.read_exact(&mut magic).await?;
        let kind = kind.get_or_init(|| match magic == CONTROL_MAGIC {
            true => Kind::Control,
            false => Kind::Lane,
        });
        self.light().await;
        let target = self.target.get().ok_or(io::ErrorKind::NotConnected)?;
        let mut destination = TcpStream::connect(target).await?;
        source.set_nodelay(true)?;
        destination.set_nodelay(true)?;
        destination.write_all(&magic).await?;
        {
            let (from_source, to_source) = source.split();
            let (from_destination, to_destination) = destination.split();
            let there = self.pass(*kind, true, from_source, to_destination);
            let back = self.pass(*kind, false, from_destination, to_source);
            tokio::select! {
                ended = async { tokio::try_join!(there, back) } => {
                    // Of an end nobody hears in the dark either.
                    self.light().await;
                    return ended.map(drop);
                }
                () = half.notified() => {}
            }
        }
        drop(source);
        let mut rest = vec![0; 1 << 16];
        while destination.read(&mut rest).await? > 0 {}
        Ok(())
    }

    async fn pass(
        &self,
        kind: Kind,
        to_destination: bool,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
    ) -> io::Result<()> {
        match kind {
            Kind::Control => self.frames(to_destination, &mut from, &mut to).await?,
            Kind::Lane => self.bytes(to_destination, &mut from, &mut to).await?,
        }
        self.light().await;
        to.shutdown().await
    }

    async fn frames(
        &self,
        to_destination: bool,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
    ) -> io::Result<()> {
        if !to_destination {
            let mut magic = [0; MAGIC_SIZE];
            from.read_exact(&mut magic).await?;
            to.write_all(&magic).await?;
        }
        loop {
            let mut length = [0; 4];
            if from.read(&mut length[..1]).await? == 0 {
                return Ok(());
            }
            from.read_exact(&mut length[1..]).await?;
            let size = u32::from_le_bytes(length) as usize;
            if size > CONTROL_FRAME_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let (mut body, mut seal) = (vec![0; size], [0; 8]);
            from.read_exact(&mut body).await?;
            from.read_exact(&mut seal).await?;
            let message = Message::decode(&body).ok();
            let step = message.as_ref().and_then(Step::of).filter(|step| self.counts(*step));
            let passing = self.hold(step, true).await?;
            self.light().await;
            if let Some(Message::Prepare(prepare)) = message
                && self.another_root.swap(false, Ordering::Relaxed)
            {
                to.write_all(&framed(&Message::Prepare(other(prepare)).encode())).await?;
                continue;
            }
            self.spoil(Kind::Control, &mut body);
            to.write_all(&[length.as_slice(), &body, &seal].concat()).await?;
            drop(passing);
        }
    }

    async fn bytes(
        &self,
        to_destination: bool,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            let step = if to_destination { self.carries(read as u64) } else { None };
            // What is encrypted may be a message as well, if it is small. Whoever looked for every
            // piece of the last pages would make a pause as long as it may be.
            let passing = self.hold(step, read < SMALL).await?;
            self.light().await;
            self.spoil(Kind::Lane, &mut buffer[..read]);
            to.write_all(&buffer[..read]).await?;
            drop(passing);
        }
    }

    /// What is digested before the first round is over is a rehearsal.
    fn counts(&self, step: Step) -> bool {
        step != Step::Digested || self.carried.load(Ordering::Relaxed) >= self.memory
    }

    /// The step that these bytes make.
    fn carries(&self, bytes: u64) -> Option<Step> {
        let before = self.carried.fetch_add(bytes, Ordering::Relaxed);
        let marks = [(FIRST_ROUND, Step::FirstRound), (self.memory * 65 / 64, Step::LaterRound)];
        let passed = |(mark, _): &(u64, Step)| (before..before + bytes).contains(mark);
        marks.into_iter().find(passed).map(|(_, step)| step)
    }

    /// The step that a record says has come; from then on it is dark.
    async fn recorded(&self) -> Option<Step> {
        let (step, look) = lock(&self.look).clone()?;
        let awaited = || lock(&self.expected).iter().any(|(awaited, _)| *awaited == step);
        if self.carried.load(Ordering::Relaxed) < self.memory || !awaited() || !look().await {
            return None;
        }
        // Whoever looks has a connection of their own, which is not to be found afterwards. Another
        // may have seen it at the same time.
        lock(&self.look).take()?;
        self.dark.send_replace(true);
        Some(step)
    }

    /// Waits for a word about what was read, if somebody waits for this step, or for one that a
    /// record tells of to who `looks`.
    async fn hold(&self, step: Option<Step>, looks: bool) -> io::Result<Passing> {
        let recorded = if looks { self.recorded().await } else { None };
        let waiting = {
            let mut expected = lock(&self.expected);
            let step = recorded.or(step);
            let at = expected.iter().position(|(awaited, _)| Some(*awaited) == step);
            at.map(|at| expected.swap_remove(at).1)
        };
        let Some(waiting) = waiting else { return Ok(None) };
        let ((answer, answered), (passing, passed)) = (oneshot::channel(), oneshot::channel());
        let _ = waiting.send(Held { answer, passed });
        match answered.await {
            Ok(Fate::Lost) => Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(Fate::Delivered) => Ok(Some(passing)),
            Err(_) => {
                if recorded.is_some() {
                    // Nobody waits for it any more, nor does anything that was to be in the dark.
                    self.dark.send_replace(false);
                }
                Ok(None)
            }
        }
    }

    async fn light(&self) {
        // The sender lives as long as `self`.
        let _ = self.dark.subscribe().wait_for(|dark| !dark).await;
    }

    fn spoil(&self, kind: Kind, bytes: &mut [u8]) {
        let mut damage = lock(&self.damage);
        if let Some((_, mut draws)) = damage.take_if(|(of, _)| *of == kind) {
            let at = draws.next() as usize % bytes.len();
            bytes[at] ^= 1 << (draws.next() % 8);
        }
    }
}

/// The same, for a memory with one page more.
fn other(mut prepare: Prepare) -> Prepare {
    prepare.root.sum = prepare.root.sum.plus(LeafSum(1));
    prepare
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
