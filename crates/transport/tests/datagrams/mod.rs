//! A network for one caller that can lose packets or go dark, and in which its address can change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::carried::LOOPBACK;

/// Where the relay came from, and comes from.
type Moved = (SocketAddr, SocketAddr);

/// Passes packets on until it is dropped.
pub(crate) struct Relay {
    /// Where it is called.
    pub(crate) address: SocketAddr,
    losses: Arc<Losses>,
    moves: mpsc::Sender<oneshot::Sender<Moved>>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let front = UdpSocket::bind((LOOPBACK, 0)).await.expect("a free port");
        let address = front.local_addr().expect("bound");
        let (moves, asked) = mpsc::channel(1);
        let losses = Arc::<Losses>::default();
        let task = tokio::spawn(run(front, target, Arc::clone(&losses), asked));
        Self { address, losses, moves, task }
    }

    /// From now on nothing passes, or everything does.
    pub(crate) fn darken(&self, dark: bool) {
        self.lose(dark.into());
    }

    /// From now on one packet in so many is lost, whichever way it goes.
    pub(crate) fn lose(&self, one_in: u32) {
        self.losses.one_in.store(one_in, Ordering::SeqCst);
    }

    /// Packets that were lost so far.
    pub(crate) fn lost(&self) -> u32 {
        self.losses.lost.load(Ordering::SeqCst)
    }

    /// From now on packets come from another port, and what is sent to the old one is lost.
    pub(crate) async fn move_on(&self) -> Moved {
        let (tell, told) = oneshot::channel();
        self.moves.send(tell).await.expect("it runs");
        told.await.expect("it runs")
    }
}

#[derive(Default)]
struct Losses {
    /// 0 is none.
    one_in: AtomicU32,
    passed: AtomicU32,
    lost: AtomicU32,
}

impl Losses {
    /// Whether the next packet passes.
    fn pass(&self) -> bool {
        let one_in = self.one_in.load(Ordering::SeqCst);
        let number = self.passed.fetch_add(1, Ordering::SeqCst);
        let lost = one_in > 0 && number.is_multiple_of(one_in);
        self.lost.fetch_add(lost.into(), Ordering::SeqCst);
        !lost
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn towards(target: SocketAddr) -> UdpSocket {
    let back = UdpSocket::bind((LOOPBACK, 0)).await.expect("a free port");
    back.connect(target).await.expect("loopback");
    back
}

/// An error tells of an earlier packet that did not arrive: it is lost, as packets are.
async fn run(
    front: UdpSocket,
    target: SocketAddr,
    losses: Arc<Losses>,
    mut moves: mpsc::Receiver<oneshot::Sender<Moved>>,
) {
    let mut back = towards(target).await;
    let mut caller = None;
    let (mut going, mut coming) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            Some(tell) = moves.recv() => {
                let before = back.local_addr().expect("bound");
                back = towards(target).await;
                let _ = tell.send((before, back.local_addr().expect("bound")));
            }
            received = front.recv_from(&mut going) => {
                let Ok((size, from)) = received else { continue };
                caller = Some(from);
                if losses.pass() {
                    let _ = back.send(&going[..size]).await;
                }
            }
            received = back.recv(&mut coming) => {
                let (Ok(size), Some(caller)) = (received, caller) else { continue };
                if losses.pass() {
                    let _ = front.send_to(&coming[..size], caller).await;
                }
            }
        }
    }
}
