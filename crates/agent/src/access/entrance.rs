//! Where connections come in.
//!
//! ```text
//!  accept ─► one of so many handshakes, each with so much time and bytes ─► a place ─► HTTP/2
//!               └ no room: the oldest one is hung up on, once it has had its time
//! ```
//!
//! Before somebody has proved who they are they cost a place among those who are about to, and
//! nothing of what they say is read but the handshake. Whoever is silent makes room for whoever
//! comes later, so that silence keeps nobody out; and everybody has time for a handshake, however
//! many come later.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use whimbrel_identity::rustls::pki_types::UnixTime;
use whimbrel_identity::{Trust, explain, rustls};

use super::caller::Caller;
use super::metered::Metered;
use super::rooms::{Room, Rooms};

/// Callers that are about to prove who they are, at a time. With [`LEFT_ALONE`] that is 256 in a
/// second, so that all who may wait to be accepted ([`os::listen`](crate::os::listen)) are heard
/// before they give up, after 5 s.
const HANDSHAKES_MAX: usize = 128;
/// What a caller may say before it has proved who it is, in bytes: some certificates.
const HANDSHAKE_BYTES_MAX: usize = 32 << 10;
/// Callers that were let in and wait for their first call to be read.
const WAITING_MAX: usize = 64;
/// So long a caller is not hung up on to make room for another one.
const LEFT_ALONE: Duration = Duration::from_millis(500);
/// How the first word of HTTP/2 begins.
const FIRST_BYTE: u8 = b'P';
/// Between two lines of the log about those who were not let in.
const COMPLAINT_EVERY: Duration = Duration::from_secs(1);
/// For the system to have room for one more connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How callers prove who they are.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) trust: Arc<Trust>,
    pub(crate) acceptor: TlsAcceptor,
}

/// A connection of a caller who was let in.
pub(crate) struct Connection {
    io: Box<dyn Io>,
    caller: Caller,
    _room: Room,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Those who come to `listener` and are let in; `tls` asks them who they are, each within
/// `handshake`. It ends with the stream.
pub(crate) fn entrance(
    listener: TcpListener,
    tls: Option<Tls>,
    handshake: Duration,
) -> ReceiverStream<io::Result<Connection>> {
    let (inside, waiting) = mpsc::channel(WAITING_MAX);
    let doorman = Doorman { tls, handshake, inside, rooms: Rooms::default() };
    tokio::spawn(stand(listener, Arc::new(doorman)));
    ReceiverStream::new(waiting)
}

struct Doorman {
    tls: Option<Tls>,
    handshake: Duration,
    inside: mpsc::Sender<io::Result<Connection>>,
    rooms: Rooms,
}

async fn stand(listener: TcpListener, doorman: Arc<Doorman>) {
    let mut tried: JoinSet<io::Result<()>> = JoinSet::new();
    let mut order: VecDeque<(Instant, AbortHandle)> = VecDeque::new();
    let mut log = Complaints::default();
    loop {
        order.retain(|(_, one)| !one.is_finished());
        let full = order.len() >= HANDSHAKES_MAX;
        let ripe = order.front().map_or_else(Instant::now, |(since, _)| *since + LEFT_ALONE);
        tokio::select! {
            accepted = listener.accept(), if !full => match accepted {
                Ok((tcp, _)) => {
                    let one = tried.spawn(Arc::clone(&doorman).admit(tcp));
                    order.push_back((Instant::now(), one));
                }
                Err(error) => {
                    tracing::warn!("a connection cannot be taken: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            () = sleep_until(ripe), if full => {
                if let Some((_, oldest)) = order.pop_front() {
                    oldest.abort();
                }
            }
            Some(done) = tried.join_next() => {
                if let Ok(Err(why)) = done {
                    log.complain(&why);
                }
            }
            () = doorman.inside.closed() => return,
        }
    }
}

impl Doorman {
    async fn admit(self: Arc<Self>, tcp: TcpStream) -> io::Result<()> {
        let remote = tcp.peer_addr()?;
        let within = self.handshake;
        let known = match &self.tls {
            None => timeout(within, plain(tcp)).await,
            Some(tls) => timeout(within, secure(tls, tcp)).await,
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("silent for {within:?}"));
        let named = |why| io::Error::other(format!("{remote} was not let in: {why}"));
        let (io, caller, key) = known.unwrap_or_else(|_| Err(late())).map_err(named)?;
        let full = || named(io::Error::other("it has, or all have, enough connections"));
        let room = self.rooms.take(key).ok_or_else(full)?;
        // Nobody takes them any more: the agent ends.
        let _ = self.inside.send(Ok(Connection { io, caller, _room: room })).await;
        Ok(())
    }
}

type Known = (Box<dyn Io>, Caller, Option<whimbrel_identity::Fingerprint>);

async fn plain(tcp: TcpStream) -> io::Result<Known> {
    let ends = (tcp.local_addr()?, tcp.peer_addr()?);
    tcp.set_nodelay(true)?;
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 || first != [FIRST_BYTE] {
        return Err(io::Error::other(
            "what it says is not HTTP/2, which is spoken in the clear here",
        ));
    }
    Ok((Box::new(tcp), Caller::local(ends.0, ends.1), None))
}

async fn secure(tls: &Tls, tcp: TcpStream) -> io::Result<Known> {
    let ends = (tcp.local_addr()?, tcp.peer_addr()?);
    tcp.set_nodelay(true)?;
    let metered = Metered::new(tcp, HANDSHAKE_BYTES_MAX);
    let mut stream = match tls.acceptor.accept(metered).into_fallible().await {
        Ok(stream) => stream,
        Err((error, left)) => {
            linger(left).await;
            return Err(in_words(error));
        }
    };
    stream.get_mut().0.unlimited();
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let chain: Vec<_> = chain.into_iter().map(|der| der.into_owned()).collect();
    let rules = tls.trust.rules().map_err(io::Error::other)?;
    let who = rules.caller(&chain, UnixTime::now());
    let who = who.map_err(|error| io::Error::other(explain(&error)))?;
    let key = Some(who.fingerprint);
    Ok((Box::new(stream), Caller::proven(ends, chain, rules, who), key))
}

/// Hears out what was sent on, so that why it was refused arrives before the connection is reset.
async fn linger(mut left: Metered) {
    // Whoever has gone hears nothing.
    let _ = left.shutdown().await;
    let mut unread = [0; 1024];
    while matches!(left.read(&mut unread).await, Ok(1..)) {}
}

fn in_words(error: io::Error) -> io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    tls.map(explain).map_or(error, io::Error::other)
}

/// Lines about those who were not let in, so many and no more.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    kept: u64,
}

impl Complaints {
    fn complain(&mut self, why: &io::Error) {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_EVERY) {
            self.kept += 1;
            return;
        }
        self.last = Some(Instant::now());
        match std::mem::take(&mut self.kept) {
            0 => tracing::warn!("{why}"),
            more => tracing::warn!("{why}; and {more} others before"),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_stream::StreamExt as _;

    use super::*;

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn callers_in_all_places_who_say_nothing_keep_nobody_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut inside = entrance(listener, None, PATIENCE * 10);
        let mut silent = Vec::new();
        for _ in 0..HANDSHAKES_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut honest = TcpStream::connect(address).await.unwrap();
        honest.write_all(b"PRI").await.unwrap();
        let let_in = timeout(PATIENCE, inside.next()).await.expect("somebody makes room");
        assert!(let_in.unwrap().is_ok());
        let oldest = timeout(PATIENCE, silent[0].read(&mut [0])).await.expect("it is hung up on");
        assert!(matches!(oldest, Ok(0) | Err(_)), "{oldest:?}");
        let newest = silent.last().unwrap().try_read(&mut [0]).unwrap_err();
        assert_eq!(newest.kind(), io::ErrorKind::WouldBlock, "the oldest one was enough");
    }
}
