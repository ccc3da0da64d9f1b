//! What a path between two hosts can do: round trip, packet size, throughput.
//!
//! ```text
//!   measure ──► TCP, echo: a byte goes and comes back      ──┐
//!           ──► TCP, sink: what arrives is counted         ──┼─► Answering, for a short time
//!           ──► UDP, no fragments: the size that arrived   ──┘
//!   measure_over ──► lanes of another carrier: the same ─────► Sinks
//! ```
//!
//! Who cannot show the token is not answered. The bytes mean nothing and are kept nowhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use whimbrel_page::{ByteCount, ByteRate};

use crate::dial::packets_along;
use crate::door::ACCEPT_AGAIN;
use crate::networks::interface_of;
use crate::os as system;
use crate::{
    Carrier, DialError, Door, DoorOptions, Kind, Path, Purpose, Stream, Tuning, connect, dial,
};

/// Opens the answering side of one probe.
pub type ProbeToken = [u8; TOKEN_SIZE];

const TOKEN_SIZE: usize = 16;
const ECHO: u8 = 1;
const SINK: u8 = 2;
/// Token and what is wanted.
const HEAD_SIZE: usize = TOKEN_SIZE + 1;
/// How long a caller may take to show its token, and whatever is waited for within a probe.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection of a probe may last.
const CALL_MAX: Duration = Duration::from_secs(60);
/// Connections that are answered at a time.
const CALLS_MAX: usize = 160;
const CHUNK: usize = 256 << 10;
const ROUND_TRIPS: usize = 20;
/// What an answer to a packet has: the token, and the size that arrived.
const ANSWER_SIZE: usize = TOKEN_SIZE + 4;
/// A packet without an answer is sent so often, and waited for so long each time if nothing else
/// is answered either.
const PACKET_TRIES: u32 = 3;
const PACKET_WAIT: Duration = Duration::from_secs(1);
/// Every host takes packets of this size, by the rules of each protocol.
const MTU_MIN: (u32, u32) = (576, 1280);
/// The largest frames that anybody uses.
const MTU_MAX: u32 = 9216;

/// The answering side. Dropping it ends it.
#[derive(Debug)]
pub struct Answering {
    addresses: Vec<Answerer>,
    tasks: Vec<JoinHandle<()>>,
}

/// Where one address of a host is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answerer {
    /// For connections.
    pub tcp: SocketAddr,
    /// For packets.
    pub udp: SocketAddr,
}

impl Answering {
    /// Answers at each of `ips`, on ports of the system's choice.
    ///
    /// # Errors
    /// The system's.
    pub async fn open(ips: &[IpAddr], token: ProbeToken) -> io::Result<Self> {
        let room = Arc::new(Semaphore::new(CALLS_MAX));
        let mut answering = Self { addresses: Vec::new(), tasks: Vec::new() };
        for ip in ips {
            let tcp = TcpListener::bind((*ip, 0)).await?;
            let udp = UdpSocket::bind((*ip, 0)).await?;
            answering.addresses.push(Answerer { tcp: tcp.local_addr()?, udp: udp.local_addr()? });
            answering.tasks.push(tokio::spawn(take_calls(tcp, token, Arc::clone(&room))));
            answering.tasks.push(tokio::spawn(take_packets(udp, token)));
        }
        Ok(answering)
    }

    /// Where it answers, in the order that was asked for.
    #[must_use]
    pub fn addresses(&self) -> &[Answerer] {
        &self.addresses
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Calls in progress end with this task.
async fn take_calls(listener: TcpListener, token: ProbeToken, room: Arc<Semaphore>) {
    let mut calls = JoinSet::new();
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // As at a door.
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        while calls.try_join_next().is_some() {}
        calls.spawn(async move {
            // Whoever breaks off a probe has no use for its answer.
            let _ = timeout(CALL_MAX, take_call(stream, token)).await;
            drop(place);
        });
    }
}

async fn take_call(mut stream: TcpStream, token: ProbeToken) -> io::Result<()> {
    let mut head = [0; HEAD_SIZE];
    timeout(PATIENCE, stream.read_exact(&mut head)).await??;
    if head[..TOKEN_SIZE] != token {
        return Ok(());
    }
    stream.set_nodelay(true)?;
    match head[TOKEN_SIZE] {
        ECHO => loop {
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await?;
        },
        SINK => sink(stream).await,
        _ => Ok(()),
    }
}

/// Counts what arrives, and says how much it was.
async fn sink(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let (mut chunk, mut sum) = (vec![0; CHUNK], 0_u64);
    loop {
        match stream.read(&mut chunk).await? {
            0 => break,
            some => sum += some as u64,
        }
    }
    stream.write_u64(sum).await?;
    stream.flush().await
}

/// What a lane of a probe says first; its token follows.
const LANE: Kind = Kind { magic: *b"WBPROBE1", size: 8 + TOKEN_SIZE, purpose: Purpose::Bulk };

/// Counts what arrives over a carrier. Dropping it ends it.
#[derive(Debug)]
pub struct Sinks {
    addresses: Vec<SocketAddr>,
    task: JoinHandle<()>,
}

impl Sinks {
    /// Answers at each of `ips`, on ports of the system's choice.
    ///
    /// # Errors
    /// The system's.
    pub fn open(ips: &[IpAddr], token: ProbeToken, carrier: Carrier) -> io::Result<Self> {
        let options = DoorOptions { carrier, greeting_within: PATIENCE, ..DoorOptions::default() };
        let addresses: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
        let door = Door::open(&addresses, vec![LANE], options)?;
        let addresses = door.addresses().to_vec();
        Ok(Self { addresses, task: tokio::spawn(take_lanes(door, token)) })
    }

    /// Where it answers, in the order that was asked for.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Sinks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lanes that are being counted end with this task.
async fn take_lanes(mut door: Door, token: ProbeToken) {
    let (room, mut lanes) = (Arc::new(Semaphore::new(CALLS_MAX)), JoinSet::new());
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let caller = door.next().await;
        while lanes.try_join_next().is_some() {}
        if caller.hello[LANE.magic.len()..] == token {
            lanes.spawn(async move {
                // Whoever breaks off a probe has no use for its answer.
                let _ = timeout(CALL_MAX, sink(caller.stream)).await;
                drop(place);
            });
        }
    }
}

async fn take_packets(socket: UdpSocket, token: ProbeToken) {
    let mut packet = vec![0; usize::from(u16::MAX)];
    loop {
        // An error tells of an earlier answer that did not arrive.
        let Ok((size, from)) = socket.recv_from(&mut packet).await else { continue };
        if size >= TOKEN_SIZE && packet[..TOKEN_SIZE] == token {
            let size = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
            let _ = socket.send_to(&[token.as_slice(), &size].concat(), from).await;
        }
    }
}

/// What a path can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The quickest of some round trips over a connection.
    pub round_trip: Duration,
    /// The largest packet that passes unfragmented, in bytes, headers of IP included; `None` if
    /// no packet was answered.
    pub mtu: Option<u32>,
    /// The largest that the interface here takes, as far as the system tells.
    pub mtu_here: Option<u32>,
    /// By the number of connections that were used at once.
    pub throughput: Vec<Throughput>,
}

/// What some connections at once carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throughput {
    /// How many.
    pub lanes: u16,
    /// All of them together.
    pub rate: ByteRate,
    /// Segments that this host sent again meanwhile, over all its connections.
    pub retransmitted: Option<u64>,
}

/// Measures a path to where `there` answers: with each number of `lanes` in turn, so long each.
///
/// # Errors
/// [`DialError`] if it cannot be reached, or ends the connection.
pub async fn measure(
    path: &Path,
    there: Answerer,
    token: ProbeToken,
    lanes: &[u16],
    each: Duration,
) -> Result<Measured, DialError> {
    let path = Path { remote: there.tcp, ..path.clone() };
    let round_trip = round_trip(&path, token).await?;
    let (mtu, mtu_here) = packets(&path, there.udp, token).await.map_err(DialError::Option)?;
    let mut throughput = Vec::new();
    for lanes in lanes {
        let mut streams = Vec::new();
        for _ in 0..*lanes {
            streams.push(call(&path, token, SINK).await?);
        }
        throughput.push(carry(streams, each).await?);
    }
    Ok(Measured { round_trip, mtu, mtu_here, throughput })
}

/// Measures what lanes of `carrier` bring along `path`, to where [`Sinks`] answer: with each
/// number of `lanes` in turn, so long each. What is sent again is not known.
///
/// # Errors
/// [`DialError`] if it cannot be reached, or ends a lane.
pub async fn measure_over(
    path: &Path,
    carrier: &Carrier,
    token: ProbeToken,
    lanes: &[u16],
    each: Duration,
) -> Result<Vec<Throughput>, DialError> {
    let mut throughput = Vec::new();
    for lanes in lanes {
        let mut streams = Vec::new();
        for _ in 0..*lanes {
            streams.push(lane(path, carrier, token).await?);
        }
        throughput.push(Throughput { retransmitted: None, ..carry(streams, each).await? });
    }
    Ok(throughput)
}

async fn lane(path: &Path, carrier: &Carrier, token: ProbeToken) -> Result<Stream, DialError> {
    let how = (carrier, LANE.purpose);
    let mut stream = connect(path, &Tuning::default(), how, PATIENCE).await?;
    let hello = [&LANE.magic[..], &token].concat();
    stream.write_all(&hello).await.map_err(DialError::Greeting)?;
    Ok(stream)
}

async fn call(path: &Path, token: ProbeToken, wanted: u8) -> Result<TcpStream, DialError> {
    let mut stream = dial(path, &Tuning::default(), PATIENCE).await?;
    let head = [token.as_slice(), &[wanted]].concat();
    stream.write_all(&head).await.map_err(DialError::Greeting)?;
    Ok(stream)
}

async fn round_trip(path: &Path, token: ProbeToken) -> Result<Duration, DialError> {
    let mut stream = call(path, token, ECHO).await?;
    let mut best = Duration::MAX;
    for _ in 0..ROUND_TRIPS {
        let asked = Instant::now();
        let there_and_back = async {
            stream.write_u8(1).await?;
            stream.read_u8().await
        };
        let answered = timeout(PATIENCE, there_and_back).await;
        answered.map_err(|_| DialError::Silent(PATIENCE))?.map_err(DialError::Greeting)?;
        best = best.min(asked.elapsed());
    }
    Ok(best)
}

async fn carry<S>(streams: Vec<S>, each: Duration) -> Result<Throughput, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let lanes = u16::try_from(streams.len()).unwrap_or(u16::MAX);
    let before = system::retransmitted();
    let began = Instant::now();
    let mut sending: JoinSet<io::Result<u64>> =
        streams.into_iter().map(|stream| send_for(stream, each)).collect();
    let mut sum = 0;
    while let Some(sent) = sending.join_next().await {
        sum += sent.map_err(io::Error::other).flatten().map_err(DialError::Greeting)?;
    }
    let rate = ByteRate((sum as f64 / began.elapsed().as_secs_f64()) as u64);
    let after = system::retransmitted();
    let retransmitted = after.zip(before).map(|(after, before)| after.saturating_sub(before));
    Ok(Throughput { lanes, rate, retransmitted })
}

/// Sends for so long, and hears how much has arrived.
async fn send_for(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    each: Duration,
) -> io::Result<u64> {
    let (chunk, until) = (vec![0xa5; CHUNK], Instant::now() + each);
    while Instant::now() < until {
        timeout(PATIENCE, stream.write_all(&chunk)).await??;
    }
    stream.shutdown().await?;
    timeout(PATIENCE, stream.read_u64()).await?
}

/// The largest packet that passes, and what the interface takes.
async fn packets(
    path: &Path,
    there: SocketAddr,
    token: ProbeToken,
) -> io::Result<(Option<u32>, Option<u32>)> {
    let socket = packets_along(path)?;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.connect(there).await?;
    system::forbid_fragments(&socket, there.is_ipv4())?;
    let here = socket.local_addr()?.ip();
    let interface = path.interface.clone().or_else(|| interface_of(here));
    let mtu_here = interface.and_then(|name| system::mtu(&name));
    let (least, headers) = if there.is_ipv4() { (MTU_MIN.0, 28) } else { (MTU_MIN.1, 48) };
    let mut largest = mtu_here.unwrap_or(MTU_MAX).clamp(least, u32::from(u16::MAX));
    if !passes(&socket, token, least - headers).await? {
        return Ok((None, mtu_here));
    }
    if passes(&socket, token, largest - headers).await? {
        return Ok((Some(largest), mtu_here));
    }
    // `passed` passes and `largest` does not.
    let mut passed = least;
    while passed + 1 < largest {
        let middle = passed + (largest - passed) / 2;
        match passes(&socket, token, middle - headers).await? {
            true => passed = middle,
            false => largest = middle,
        }
    }
    Ok((Some(passed), mtu_here))
}

/// Whether a packet with so much payload is answered. A small one follows it: where that is
/// answered alone the large one did not pass, and whoever is only slow to answer is waited for.
async fn passes(socket: &UdpSocket, token: ProbeToken, payload: u32) -> io::Result<bool> {
    let mut packet = vec![0; payload as usize];
    packet[..TOKEN_SIZE].copy_from_slice(&token);
    for number in 0..PACKET_TRIES {
        if socket.send(&packet).await.is_err() {
            // Too large for the interface; or the answer to an earlier one was an error.
            continue;
        }
        // Of a size by which its answer is told from those to earlier ones.
        let small = TOKEN_SIZE as u32 + (payload * PACKET_TRIES + number) % 256;
        let _ = socket.send(&packet[..small as usize]).await;
        let answered = first_answered(socket, token, [payload, small]);
        if let Ok(Ok(first)) = timeout(PACKET_WAIT, answered).await
            && first == payload
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Which of the sizes is answered first.
async fn first_answered(socket: &UdpSocket, token: ProbeToken, sizes: [u32; 2]) -> io::Result<u32> {
    let mut answer = [0; ANSWER_SIZE];
    loop {
        let size = socket.recv(&mut answer).await?;
        let (shown, arrived) = answer.split_at(TOKEN_SIZE);
        let told = sizes.into_iter().find(|size| arrived == size.to_be_bytes());
        if let Some(told) = told.filter(|_| size == ANSWER_SIZE && shown == token) {
            return Ok(told);
        }
    }
}

impl Measured {
    /// The throughput that the most connections brought, and the fewest that come near it.
    #[must_use]
    pub fn best(&self) -> Option<Throughput> {
        const NEAR_PERCENT: u64 = 95;
        let most = self.throughput.iter().map(|it| it.rate.0).max()?;
        let near = |it: &&Throughput| it.rate.0 * 100 >= most * NEAR_PERCENT;
        self.throughput.iter().find(near).copied()
    }

    /// What the best one keeps under way at this round trip: buffers should hold it.
    #[must_use]
    pub fn under_way(&self) -> Option<ByteCount> {
        let best = self.best()?;
        Some(ByteCount((best.rate.0 as f64 * self.round_trip.as_secs_f64()) as u64))
    }
}
