//! The threads of this process that make, protect, send and take packets.
//!
//! They are apart from whatever else the process waits for: a thread that encrypts gigabytes is
//! late for a heartbeat.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, TokioRuntime, UdpPoller};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::os as system;

/// A connection keeps one thread busy, and its socket a part of another.
const THREADS_MAX: usize = 4;
/// What one packet carries over IPv4, which carries less than IPv6.
const TOGETHER_MAX: u16 = u16::MAX - 20 - 8;

static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// A handle on the threads.
#[derive(Clone, Debug)]
pub(super) struct Drivers {
    threads: Handle,
    /// Packets that the system may be given in one call.
    together: usize,
}

impl Drivers {
    /// Starts them when they are needed first; they stay until the process ends.
    pub(super) fn get() -> io::Result<Self> {
        let mut kept = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads.min(THREADS_MAX)).thread_name("whimbrel-quic");
            *kept = Some(builder.enable_all().build()?);
        }
        let runtime = kept.as_ref().expect("it was just made");
        Ok(Self { threads: runtime.handle().clone(), together: usize::MAX })
    }

    /// For a socket that sends packets as large as this: together they have to fit the largest one
    /// of IP with its headers, or none of them leaves.
    pub(super) fn sending(self, largest: u16) -> Self {
        Self { together: usize::from(TOGETHER_MAX / largest.max(1)).max(1), ..self }
    }

    /// Goes on with `work` whoever has begun it.
    pub(super) fn finish(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.threads.spawn(work);
    }
}

impl quinn::Runtime for Drivers {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _within = self.threads.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.threads.spawn(work);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _within = self.threads.enter();
        let (socket, together) = (system::datagrams(socket)?, self.together);
        Ok(Arc::new(Port { socket, together }))
    }
}

/// A socket for which quinn keeps no more room than packets can take. It would keep room for as
/// many of the largest as the system may hand over in one, which together are no larger than one.
#[derive(Debug)]
struct Port {
    socket: Arc<dyn AsyncUdpSocket>,
    together: usize,
}

impl AsyncUdpSocket for Port {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        into: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, into, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments().min(self.together)
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
