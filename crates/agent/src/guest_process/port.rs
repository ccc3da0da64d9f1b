//! The guest's service port: what agents' relays say and hear.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use whimbrel_control::api;
use whimbrel_guest::kv::{FromGuest, KvMonitor, Outlet, RelayId};

use crate::relay::words;

/// Messages to a relay that wait for the network.
const WAITING_MAX: usize = 8;

struct ToRelay(mpsc::Sender<Result<api::GuestFrame, Status>>);

impl Outlet for ToRelay {
    fn has_room(&self) -> bool {
        self.0.capacity() > 0
    }

    fn give(&mut self, said: Vec<FromGuest>) -> bool {
        let words = said.into_iter().map(words::of_guest).collect();
        let frame = api::GuestFrame { words, moved_to: String::new() };
        // There is room, as nobody else gives; so it fails only if the relay has gone.
        self.0.try_send(Ok(frame)).is_ok()
    }
}

/// Attaches a relay, whose first frame says who it is.
pub(super) async fn attach(
    port: KvMonitor,
    mut frames: Streaming<api::RelayFrame>,
) -> Result<ReceiverStream<Result<api::GuestFrame, Status>>, Status> {
    let first = frames.message().await?.unwrap_or_default();
    let attach = first.attach.ok_or_else(|| Status::invalid_argument("a relay attaches first"))?;
    // A guest that is parked may be about to run elsewhere.
    if !port.is_running() {
        return Err(Status::failed_precondition("the guest does not run here"));
    }
    let relay = RelayId { host: attach.host, run: attach.run };
    let (give, said) = mpsc::channel(WAITING_MAX);
    tracing::info!(host = attach.host, held = attach.held.len(), "a relay attaches");
    if !port.attach(relay, words::held(&attach), Box::new(ToRelay(give))) {
        return Err(Status::failed_precondition("the guest has left"));
    }
    tokio::spawn(hear(port, relay, frames));
    Ok(ReceiverStream::new(said))
}

/// Brings what a relay says to the guest, as long as both are there.
async fn hear(port: KvMonitor, relay: RelayId, mut frames: Streaming<api::RelayFrame>) {
    while let Ok(Some(frame)) = frames.message().await {
        match port.hear(relay, frame.words.into_iter().filter_map(words::to_guest).collect()) {
            Ok(true) => {}
            Ok(false) => return,
            Err(overrun) => {
                tracing::error!(host = relay.host, "a relay is cut off: {overrun}");
                return;
            }
        }
    }
}
