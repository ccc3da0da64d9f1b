//! Finding the guest: here, or where its record or another agent says that it went.

use std::sync::Arc;

use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use whimbrel_control::{AgentAddress, api};
use whimbrel_engine::protocol::GuestUuid;

use crate::agent::Core;

/// Frames that wait for the network.
const WAITING_MAX: usize = 8;

/// Both ways to the guest.
pub(super) struct Owner {
    pub(super) says: mpsc::Sender<api::RelayFrame>,
    pub(super) said: Streaming<api::GuestFrame>,
    /// The agent that was asked; none for a guest of this host.
    pub(super) agent: Option<String>,
}

/// Attaches to the guest: here, where `hint` says that it went, where the record does, or where it
/// was found `before`.
pub(super) async fn attach(
    core: Arc<Core>,
    uuid: GuestUuid,
    attach: api::RelayAttach,
    hint: Option<String>,
    before: Option<String>,
) -> Result<Owner, Status> {
    let first = api::RelayFrame { attach: Some(attach), words: Vec::new() };
    let guest = core.guests.get(uuid);
    if let Some(guest) = &guest
        && let Ok(mut link) = guest.link(core.options.deadlines).await
    {
        let (says, frames) = first_said(first.clone());
        if let Ok(said) = link.relay(frames).await {
            return Ok(Owner { says, said, agent: None });
        }
    }
    let elsewhere = || Status::unavailable("the guest is nowhere to be found for now");
    let recorded = guest.and_then(|guest| core.entry(&guest).ok().flatten());
    let recorded = recorded.map(|entry| entry.record.peer).filter(|peer| !peer.is_empty());
    let peer: AgentAddress = hint
        .filter(|peer| !peer.is_empty())
        .or(recorded)
        .or(before)
        .and_then(|peer| peer.parse().ok())
        .ok_or_else(elsewhere)?;
    let mut client = core.connect(&peer).await?;
    let (says, frames) = first_said(first);
    let said = client.relay(tokio_stream::wrappers::ReceiverStream::new(frames)).await;
    let said = said.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(Owner { says, said, agent: Some(peer.to_string()) })
}

fn first_said(
    first: api::RelayFrame,
) -> (mpsc::Sender<api::RelayFrame>, mpsc::Receiver<api::RelayFrame>) {
    let (says, frames) = mpsc::channel(WAITING_MAX);
    // A new channel has room.
    let _ = says.try_send(first);
    (says, frames)
}
