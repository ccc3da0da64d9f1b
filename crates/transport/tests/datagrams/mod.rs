//! A network for one caller that can go dark, and in which its address can change.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    dark: Arc<AtomicBool>,
    moves: mpsc::Sender<oneshot::Sender<Moved>>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let front = UdpSocket::bind((LOOPBACK, 0)).await.expect("a free port");
        let address = front.local_addr().expect("bound");
        let (moves, asked) = mpsc::channel(1);
        let dark = Arc::<AtomicBool>::default();
        let task = tokio::spawn(run(front, target, Arc::clone(&dark), asked));
        Self { address, dark, moves, task }
    }

    /// From now on nothing passes, or everything does.
    pub(crate) fn darken(&self, dark: bool) {
        self.dark.store(dark, Ordering::SeqCst);
    }

    /// From now on packets come from another port, and what is sent to the old one is lost.
    pub(crate) async fn move_on(&self) -> Moved {
        let (tell, told) = oneshot::channel();
        self.moves.send(tell).await.expect("it runs");
        told.await.expect("it runs")
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
    dark: Arc<AtomicBool>,
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
                if !dark.load(Ordering::SeqCst) {
                    let _ = back.send(&going[..size]).await;
                }
            }
            received = back.recv(&mut coming) => {
                let (Ok(size), Some(caller)) = (received, caller) else { continue };
                if !dark.load(Ordering::SeqCst) {
                    let _ = front.send_to(&coming[..size], caller).await;
                }
            }
        }
    }
}
