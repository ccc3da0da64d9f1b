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

/// What an agent has said of a guest that has left it, or is about to.
#[derive(Clone)]
pub(super) struct Hint {
    /// The agent where it goes.
    pub(super) to: String,
    /// The one that said so, where it may yet run on.
    pub(super) by: String,
}

/// A guest that is looked for.
pub(super) struct Search {
    pub(super) core: Arc<Core>,
    pub(super) guest: GuestUuid,
    pub(super) attach: api::RelayAttach,
    pub(super) hint: Option<Hint>,
    /// The agent where it was last.
    pub(super) before: Option<String>,
    /// Whether this host's record is asked where it went, before `before` is.
    pub(super) by_record: bool,
}

/// Where a guest is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Here,
    There,
    /// At the agent from which it was about to go there.
    Back,
}

impl Search {
    /// Attaches to the guest where it runs, as soon as it does. A guest that moves may come to run
    /// on either side: both are asked, and each answers when it runs there.
    pub(super) async fn attach(self) -> Option<Owner> {
        let found = async {
            tokio::select! {
                biased;
                owner = self.until(Place::Here) => owner,
                owner = self.until(Place::There) => owner,
                owner = self.until(Place::Back), if self.hint.is_some() => owner,
            }
        };
        timeout(FIND_WITHIN, found).await.ok()
    }

    async fn until(&self, place: Place) -> Owner {
        if place != Place::Here && self.is_said_to_be_here() {
            sleep(HERE_FIRST).await;
        }
        let mut pause = PAUSE;
        loop {
            let asked = match (place, &self.hint) {
                (Place::Here, _) => self.here().await,
                (Place::There, Some(Hint { to, by })) => self.at(to, by).await,
                (Place::Back, Some(Hint { to, by })) => self.at(by, to).await,
                (Place::There | Place::Back, None) => self.at(&self.last_known(), "").await,
            };
            match asked {
                Ok(owner) => return owner,
                Err(status) => {
                    tracing::debug!(guest = %self.guest, ?place, "{}", status.message());
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
        let (says, frames) = self.first_said("");
        let said = link.relay(frames).await?;
        Ok(Owner { says, said, agent: None })
    }

    /// Where it was last, or where the record says that it went; nowhere if nobody knows.
    fn last_known(&self) -> String {
        let guest = self.core.guests.get(self.guest);
        let recorded = guest.and_then(|guest| self.core.entry(&guest).ok().flatten());
        let mut places = [self.before.clone(), recorded.map(|entry| entry.record.peer)];
        if self.by_record {
            places.reverse();
        }
        places.into_iter().flatten().find(|peer| !peer.is_empty()).unwrap_or_default()
    }

    /// Asks an agent, while another one is asked as well.
    async fn at(&self, agent: &str, asks: &str) -> Result<Owner, Status> {
        let peer: AgentAddress =
            agent.parse().map_err(|_| Status::unavailable("nobody says where the guest is"))?;
        let mut client = match self.core.relays.take_way(self.guest, &peer) {
            Some(client) => client,
            None => self.core.connect(&peer).await?,
        };
        if client.host().host_id == format!("{:016x}", self.core.folder.host()) {
            return Err(Status::unavailable("that is this host, which is asked without a network"));
        }
        let (says, frames) = self.first_said(asks);
        let said = client.relay(tokio_stream::wrappers::ReceiverStream::new(frames)).await;
        let said = said.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Owner { says, said, agent: Some(peer.to_string()) })
    }

    fn first_said(
        &self,
        asks: &str,
    ) -> (mpsc::Sender<api::RelayFrame>, mpsc::Receiver<api::RelayFrame>) {
        let (says, frames) = mpsc::channel(WAITING_MAX);
        let attach = Some(api::RelayAttach { asks: asks.to_owned(), ..self.attach.clone() });
        // A new channel has room.
        let _ = says.try_send(api::RelayFrame { attach, words: Vec::new() });
        (says, frames)
    }
}
