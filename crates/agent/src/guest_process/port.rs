//! The guest's service port: what agents' relays say and hear.

use std::time::Duration;

use tokio::sync::mpsc::{self, WeakSender};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{StreamExt as _, once};
use tonic::{Status, Streaming};
use whimbrel_control::api;
use whimbrel_guest::kv::{FromGuest, KvMonitor, Outlet, Overrun, RelayId};

use crate::relay::{GuestFrames, words};

/// Messages to a relay that wait for the network.
const WAITING_MAX: usize = 8;
/// How long a relay waits for a guest that is not running yet.
const RUNS_WITHIN: Duration = Duration::from_secs(2);

type Frame = Result<api::GuestFrame, Status>;

struct ToRelay(mpsc::Sender<Frame>);

impl Outlet for ToRelay {
    fn has_room(&self) -> bool {
        self.0.capacity() > 0
    }

    fn is_there(&self) -> bool {
        !self.0.is_closed()
    }

    fn give(&mut self, said: Vec<FromGuest>) -> bool {
        let words = said.into_iter().map(words::of_guest).collect();
        let frame = api::GuestFrame { words, moved_to: String::new() };
        // There is room, as nobody else gives; so it fails only if the relay has gone.
        self.0.try_send(Ok(frame)).is_ok()
    }

    fn cut(&mut self, why: Overrun) {
        tracing::error!("a relay is cut off: {why}");
        // One that does not even listen hears no reason.
        let _ = self.0.try_send(Err(Status::resource_exhausted(why.to_string())));
    }
}

/// Attaches a relay, whose first frame says who it is, as soon as the guest runs here.
pub(super) async fn attach(
    port: KvMonitor,
    mut frames: Streaming<api::RelayFrame>,
) -> Result<GuestFrames, Status> {
    let first = frames.message().await?.unwrap_or_default();
    let attach = first.attach.ok_or_else(|| Status::invalid_argument("a relay attaches first"))?;
    let (host, held) = (attach.host, attach.held.len());
    let (give, mut said) = mpsc::channel(WAITING_MAX);
    let (attach, outlet) = (words::attach(&attach), give.downgrade());
    let relay = attach.relay;
    let away = || Status::failed_precondition("the guest does not run here");
    if !port.attach(attach, Box::new(ToRelay(give))) {
        return Err(away());
    }
    let first = timeout(RUNS_WITHIN, said.recv()).await.ok().flatten().ok_or_else(away)?;
    tracing::info!(host, held, "a relay is attached");
    tokio::spawn(hear(port, relay, frames, outlet));
    Ok(Box::pin(once(first).chain(ReceiverStream::new(said))))
}

/// Brings what a relay says to the guest, as long as both are there and the guest keeps its outlet.
/// What the guest has no room for yet is not read: the relay is held back by the connection.
async fn hear(
    port: KvMonitor,
    relay: RelayId,
    mut frames: Streaming<api::RelayFrame>,
    outlet: WeakSender<Frame>,
) {
    while let Ok(Some(frame)) = frames.message().await {
        let words = frame.words.into_iter().filter_map(words::to_guest).collect();
        if !port.hear(relay, words).await || outlet.strong_count() == 0 {
            return;
        }
    }
}
