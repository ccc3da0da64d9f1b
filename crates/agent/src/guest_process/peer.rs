//! Asking the agent of the other side who owns the guest.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use whimbrel_control::{AgentAddress, Client, ClientError, Deadlines};
use whimbrel_engine::AskPeer;
use whimbrel_engine::protocol::{Answer, GuestUuid, Question, Term};

use crate::convert;

/// The other side's agent: the address that stays when guest processes do not.
pub(super) struct PeerAgent {
    address: AgentAddress,
    within: Duration,
    runtime: Handle,
}

impl PeerAgent {
    /// `None` if there is nobody to ask. Called where the runtime is that will carry the questions;
    /// each is answered `within` this time.
    pub(super) fn at(address: &str, within: Duration) -> Option<Arc<dyn AskPeer>> {
        let address = address.parse().ok()?;
        Some(Arc::new(Self { address, within, runtime: Handle::current() }))
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
    ) -> Result<Answer, ClientError> {
        let Self { address, within, .. } = self;
        let deadlines = Deadlines { connect: *within, call: *within, ..Deadlines::default() };
        let mut client = Client::connect(address, deadlines).await?;
        let response = client.ask(convert::ask_request(guest, term, question)).await?;
        let answer = convert::answer(&response);
        tracing::info!(peer = %address, ?question, %term, ?answer, "asked who owns the guest");
        Ok(answer)
    }
}
