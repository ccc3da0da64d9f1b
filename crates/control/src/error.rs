use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};

use crate::{API_VERSION, AgentAddress};
use whimbrel_identity::{Doubt, explain_end};

/// Why an agent did not do what it was asked, by guilt.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody accepts connections there. Nothing was changed.
    #[error(
        "no agent answers at {address}: {why}; start one there with `whimbrel agent`, or check \
         the host and the port"
    )]
    NotThere {
        /// Where it was looked for.
        address: AgentAddress,
        /// What the network said.
        why: String,
    },
    /// Somebody accepts connections there who is not a Whimbrel agent. Nothing was changed.
    #[error("what answers at {address} is not a Whimbrel agent: {why}; check the port")]
    NotWhimbrel {
        /// Who was spoken to.
        address: AgentAddress,
        /// How one can tell.
        why: String,
    },
    /// The agent speaks another version of the API. Nothing was changed.
    #[error(
        "the agent at {address} speaks API version {theirs}, this program speaks {API_VERSION}; \
         upgrade the older one"
    )]
    Version {
        /// Who was spoken to.
        address: AgentAddress,
        /// What it speaks.
        theirs: u32,
    },
    /// Beyond this host nothing is said to anybody who does not prove who they are, and nothing
    /// is said without proving who says it. Nothing was changed.
    #[error(
        "{address} is not on this host, and an agent there is only spoken to with an identity: \
         give one with --identity"
    )]
    NoIdentity {
        /// Who was to be spoken to.
        address: AgentAddress,
    },
    /// One of the two sides is not sure who the other one is. Nothing was changed.
    #[error("no trust with {address}: {why}. {}", why.advice)]
    Unproven {
        /// Who was spoken to.
        address: AgentAddress,
        /// Who doubts whom.
        why: Doubt,
    },
    /// Who answers speaks TLS, and was called in plain words. Nothing was changed.
    #[error(
        "what answers at {address} speaks only with those who prove who they are: show an identity \
         that it trusts with --identity DIR (WHIMBREL_IDENTITY); on an agent's own host its own \
         one, DATA/identity, may do everything"
    )]
    AsksWho {
        /// Who was spoken to.
        address: AgentAddress,
    },
    /// The agent understood and said no.
    #[error("{why}")]
    Refused {
        /// What kind of no.
        code: Code,
        /// The agent's sentence.
        why: String,
    },
    /// The agent was reached before and now is not. Whether it did what it was asked is open.
    #[error("the agent at {address} was lost: {why}; ask it again for what it did")]
    Lost {
        /// Who was spoken to.
        address: AgentAddress,
        /// What the network said.
        why: String,
    },
    /// The agent did not answer in time. Whether it did what it was asked is open.
    #[error("the agent at {address} did not answer within {deadline:?}; ask it what it did")]
    Late {
        /// Who was spoken to.
        address: AgentAddress,
        /// The setting that ran out.
        deadline: Duration,
    },
}

impl ClientError {
    /// The gRPC code, where the agent itself said no.
    #[must_use]
    pub fn refusal(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    pub(crate) fn of_call(address: &AgentAddress, deadline: Duration, status: &Status) -> Self {
        let address = address.clone();
        if let Some(why) = crate::access::doubt(status) {
            return Self::Unproven { address, why };
        }
        // Only a status that was made on this side has a source: the transport's error.
        if status.source().is_some() {
            return match is_timeout(status) {
                true => Self::Late { address, deadline },
                false => Self::Lost { address, why: lost(&deepest(status)) },
            };
        }
        Self::Refused { code: status.code(), why: status.message().to_owned() }
    }
}

/// What the network said, where TLS would have it said by a link to its manual.
fn lost(why: &str) -> String {
    explain_end(why).map_or_else(|| why.to_owned(), |_| "it ended the connection".to_owned())
}

fn is_timeout(status: &Status) -> bool {
    matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded)
}

/// The innermost cause: outer layers only say "transport error".
pub(crate) fn deepest(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
