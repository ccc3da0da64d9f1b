//! Finding the guest: here, or where its record or another agent says that it went.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::{Status, Streaming};
use whimbrel_control::{AgentAddress, api};
use whimbrel_engine::protocol::{GuestUuid, Standing};

use super::{PAUSE, PAUSE_MAX};
use crate::agent::Core;

/// Frames that wait for the network.
const WAITING_MAX: usize = 8;
/// How long a guest is looked for before the relay says anew what it holds.
const FIND_WITHIN: Duration = Duration::from_secs(1);
/// How long nobody else is asked for a guest that is said to be here.
const HERE_FIRST: Duration = Duration::from_millis(20);

/// Both ways to the guest.
pub(super) struct Owner {
    pub(super) says: mpsc::Sender<api::RelayFrame>,
    pub(super) said: Streaming<api::GuestFrame>,
    /// The agent that was asked; none for a guest of this host.
    pub(super) agent: Option<String>,
}

/// A guest that is looked for.
pub(super) struct Search {
    pub(super) core: Arc<Core>,
    pub(super) guest: GuestUuid,
    pub(super) attach: api::RelayAttach,
    /// Where an agent has said that it went.
    pub(super) hint: Option<String>,
    /// The agent where it was found last.
    pub(super) before: Option<String>,
}

impl Search {
    /// Attaches to the guest where it runs, as soon as it does. A guest that moves may come to run
    /// on either side: both are asked, and each answers when it runs there.
    pub(super) async fn attach(self) -> Option<Owner> {
        let found = async {
            tokio::select! {
                biased;
                owner = self.until(false) => owner,
                owner = self.until(true) => owner,
            }
        };
        timeout(FIND_WITHIN, found).await.ok()
    }

    async fn until(&self, elsewhere: bool) -> Owner {
        if elsewhere && self.is_said_to_be_here() {
            sleep(HERE_FIRST).await;
        }
        let mut pause = PAUSE;
        loop {
            let asked = if elsewhere { self.there().await } else { self.here().await };
            match asked {
                Ok(owner) => return owner,
                Err(status) => {
                    tracing::debug!(guest = %self.guest, elsewhere, "{}", status.message());
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn is_said_to_be_here(&self) -> bool {
        let alive = self.core.guests.get(self.guest).filter(|guest| !guest.is_dead());
        let entry = alive.and_then(|guest| self.core.entry(&guest).ok().flatten());
        entry.is_some_and(|entry| entry.record.standing == Standing::Owner)
    }

    async fn here(&self) -> Result<Owner, Status> {
        let guest = self.core.guests.get(self.guest);
        let guest = guest.ok_or_else(|| Status::not_found("the guest is not here"))?;
        let mut link = guest.link(self.core.options.deadlines).await?;
        let (says, frames) = self.first_said();
        let said = link.relay(frames).await?;
        Ok(Owner { says, said, agent: None })
    }

    /// Where the hint leads, the record, or where it was before.
    async fn there(&self) -> Result<Owner, Status> {
        let guest = self.core.guests.get(self.guest);
        let recorded = guest.and_then(|guest| self.core.entry(&guest).ok().flatten());
        let recorded = recorded.map(|entry| entry.record.peer);
        let places = [self.hint.clone(), recorded, self.before.clone()];
        let peer = places.into_iter().flatten().find(|peer| !peer.is_empty());
        let peer: AgentAddress = peer
            .and_then(|peer| peer.parse().ok())
            .ok_or_else(|| Status::unavailable("nobody says where the guest is"))?;
        let mut client = match self.core.relays.take_way(self.guest, &peer) {
            Some(client) => client,
            None => self.core.connect(&peer).await?,
        };
        let (says, frames) = self.first_said();
        let said = client.relay(tokio_stream::wrappers::ReceiverStream::new(frames)).await;
        let said = said.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Owner { says, said, agent: Some(peer.to_string()) })
    }

    fn first_said(&self) -> (mpsc::Sender<api::RelayFrame>, mpsc::Receiver<api::RelayFrame>) {
        let (says, frames) = mpsc::channel(WAITING_MAX);
        let attach = Some(self.attach.clone());
        // A new channel has room.
        let _ = says.try_send(api::RelayFrame { attach, words: Vec::new() });
        (says, frames)
    }
}
