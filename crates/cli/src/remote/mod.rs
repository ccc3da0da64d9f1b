//! Commands that ask an agent.

mod convert;
mod dump;
mod guests;
mod host;
mod limits;
mod migrations;
mod probe;
mod report;
mod viewer;

pub(crate) use convert::{Context, account, check, look as look_of};
pub(crate) use dump::dump;
pub(crate) use guests::{at_work, list, release, resolve, run, status, stop};
pub(crate) use limits::limit;
pub(crate) use migrations::{cancel, migrate, watch};
pub(crate) use probe::probe;
pub(crate) use report::report;
pub(crate) use viewer::Viewer;

use whimbrel_control::{AgentAddress, Client, ClientError, Deadlines};

use crate::args::Target;
use crate::args::trust::IdentityArgs;
use crate::exit::{Exit, Stop};

/// A client of the agent at `address` on this host, which asks nobody who they are.
///
/// # Errors
/// Nobody is there, or somebody else.
pub(crate) async fn connect(address: &AgentAddress) -> Result<Client, Stop> {
    connect_as(address, &IdentityArgs::default()).await
}

/// A client of the agent at `address`, which is shown this identity.
///
/// # Errors
/// Nobody is there, or somebody else, or one does not trust the other.
pub(crate) async fn connect_as(
    address: &AgentAddress,
    whose: &IdentityArgs,
) -> Result<Client, Stop> {
    let access = whose.access(address)?;
    Ok(Client::connect_as(address, Deadlines::default(), &access).await?)
}

impl Target {
    /// A client of the agent that is asked.
    pub(crate) async fn connect(&self) -> Result<Client, Stop> {
        connect_as(&self.agent, &self.whose).await
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Refused { code, .. } => refusal(*code),
            ClientError::NoIdentity { .. } => Exit::Failed,
            ClientError::Unproven { .. }
            | ClientError::AsksWho { .. }
            | ClientError::Version { .. } => Exit::Refused,
            ClientError::NotThere { .. }
            | ClientError::NotWhimbrel { .. }
            | ClientError::Lost { .. }
            | ClientError::Late { .. } => Exit::Unreachable,
        };
        Self::new(exit, error.to_string())
    }
}

/// An agent refuses for its own reasons, or hands on that somebody else could not be reached.
fn refusal(code: tonic::Code) -> Exit {
    match code {
        tonic::Code::Unavailable | tonic::Code::DeadlineExceeded => Exit::Unreachable,
        tonic::Code::Internal | tonic::Code::Unknown => Exit::Failed,
        _ => Exit::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_and_silence_are_told_apart() {
        let refused = |code| Stop::from(ClientError::Refused { code, why: "no".into() });
        assert_eq!(refused(tonic::Code::NotFound), Stop::new(Exit::Refused, "no"));
        assert_eq!(refused(tonic::Code::ResourceExhausted).exit, Exit::Refused);
        assert_eq!(refused(tonic::Code::Unavailable).exit, Exit::Unreachable);
        assert_eq!(refused(tonic::Code::Internal).exit, Exit::Failed);
        let address: AgentAddress = "host-b".parse().expect("an address");
        let lost = ClientError::Lost { address, why: "reset".into() };
        assert_eq!(Stop::from(lost).exit, Exit::Unreachable);
    }
}
