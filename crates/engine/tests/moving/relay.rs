//! A relay between source and destination that cuts connections when so many bytes have passed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What to cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The control connection and every lane.
    Everything,
    /// The lane that carries the byte.
    Lane,
    /// Nothing: that lane carries no more, and stays open.
    Stall,
}

struct State {
    /// Cuts still to come: after how many bytes towards the destination, and what.
    cuts: Vec<(u64, Cut)>,
    passed: u64,
    connections: Vec<JoinHandle<()>>,
}

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    listening: JoinHandle<()>,
}

impl Relay {
    /// Relays to `target`, with these cuts in ascending order.
    pub(crate) async fn to(target: SocketAddr, cuts: Vec<(u64, Cut)>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State { cuts, passed: 0, connections: Vec::new() }));
        let shared = state.clone();
        let listening = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let relayed = tokio::spawn(relay(near, target, shared.clone()));
                shared.lock().expect("no panics").connections.push(relayed);
            }
        });
        Self { address, state, listening }
    }

    /// Cuts that have not happened.
    pub(crate) fn cuts_left(&self) -> usize {
        self.state.lock().expect("no panics").cuts.len()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listening.abort();
        self.state.lock().expect("no panics").connections.drain(..).for_each(|c| c.abort());
    }
}

async fn relay(near: TcpStream, target: SocketAddr, state: Arc<Mutex<State>>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let back = async { tokio::io::copy(&mut from_far, &mut to_near).await.map(drop) };
    let forth = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let count = from_near.read(&mut buffer).await?;
            match cut(&state, count as u64) {
                _ if count == 0 => return std::io::Result::Ok(()),
                Some(Cut::Stall) => return std::future::pending().await,
                Some(_) => return Ok(()),
                None => {}
            }
            to_far.write_all(&buffer[..count]).await?;
        }
    };
    // Either end is the end of both: dropping the halves closes both connections.
    let _ = tokio::select! { done = back => done, done = forth => done };
}

/// Counts what passes, and says what is to become of the connection it came on.
fn cut(state: &Mutex<State>, count: u64) -> Option<Cut> {
    let mut state = state.lock().expect("no panics");
    state.passed += count;
    let (_, what) = state.cuts.first().copied().filter(|(at, _)| *at <= state.passed)?;
    state.cuts.remove(0);
    if what == Cut::Everything {
        state.connections.drain(..).for_each(|connection| connection.abort());
    }
    Some(what)
}
