//! Asking the agent of the other side who owns the guest.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use whimbrel_control::{Access, AgentAddress, Client, ClientError, Deadlines};
use whimbrel_engine::AskPeer;
use whimbrel_engine::protocol::{Answer, GuestUuid, Question, Term};
use whimbrel_identity::{IdentityError, IdentityFolder, Trust};

use crate::convert;

/// The other side's agent: the address that stays when guest processes do not.
pub(super) struct PeerAgent {
    address: AgentAddress,
    /// The folder of the identity that it is shown; empty if it asks for none.
    identity: String,
    within: Duration,
    runtime: Handle,
}

/// Why nothing was heard of the other agent.
#[derive(Debug, thiserror::Error)]
enum Unasked {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Peer(#[from] ClientError),
}

impl PeerAgent {
    /// `None` if there is nobody to ask. Called where the runtime is that will carry the questions;
    /// each is answered `within` this time.
    pub(super) fn at(address: &str, identity: &str, within: Duration) -> Option<Arc<dyn AskPeer>> {
        let (address, identity) = (address.parse().ok()?, identity.to_owned());
        Some(Arc::new(Self { address, identity, within, runtime: Handle::current() }))
    }

    fn access(&self) -> Result<Access, IdentityError> {
        match self.identity.as_str() {
            "" => Ok(Access::default()),
            folder => Ok(Access::always(Trust::open(IdentityFolder::at(folder))?)),
        }
    }
}

impl AskPeer for PeerAgent {
    fn ask(&self, question: Question, guest: GuestUuid, term: Term) -> Answer {
        let asked = self.runtime.block_on(self.ask_once(question, guest, term));
        asked.unwrap_or_else(|error| {
            tracing::warn!(peer = %self.address, "who owns the guest could not be asked: {error}");
            Answer::Unknown
        })
    }
}

impl PeerAgent {
    async fn ask_once(
        &self,
        question: Question,
        guest: GuestUuid,
        term: Term,
    ) -> Result<Answer, Unasked> {
        let Self { address, within, .. } = self;
        let access = self.access()?;
        let deadlines = Deadlines { connect: *within, call: *within, ..Deadlines::default() };
        let mut client = Client::connect_as(address, deadlines, &access).await?;
        let response = client.ask(convert::ask_request(guest, term, question)).await?;
        let answer = convert::answer(&response).unwrap_or(Answer::Unknown);
        tracing::info!(peer = %address, ?question, %term, ?answer, "asked who owns the guest");
        Ok(answer)
    }
}
