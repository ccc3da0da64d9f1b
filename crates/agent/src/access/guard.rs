//! Who calls, and what they may do: trust, policy and tickets of one agent.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tonic::Status;
use whimbrel_control::{Access, AgentAddress, api};
use whimbrel_identity::{IdentityFolder, Rules, Trust, Who, server_config};

use super::caller::{Authenticated, Caller};
use super::entrance::Tls;
use super::policy::{Action, PolicyFile};
use super::spent::Spent;
use super::warrant::now_s;
use crate::agent::AgentError;
use crate::carriers;
use crate::deadlines::Deadlines;
use crate::options::AgentOptions;

/// Decides about callers.
#[derive(Debug)]
pub(crate) struct Guard {
    trust: Arc<Trust>,
    /// Callers have to prove who they are.
    secure: bool,
    access: Access,
    policy: PolicyFile,
    spent: Spent,
    deadlines: Deadlines,
}

impl Guard {
    /// Reads everything, and makes an identity if there is none.
    pub(crate) fn open(options: &AgentOptions) -> Result<Self, AgentError> {
        let in_data = |name: &str| options.data.join(name);
        let folder = options.identity.clone().unwrap_or_else(|| in_data("identity"));
        let folder = IdentityFolder::at(std::path::absolute(folder).map_err(AgentError::Failed)?);
        folder.ensure()?;
        let trust = Trust::open(folder)?;
        let secure = options.tls || !options.listen.ip().is_loopback();
        let access = match secure {
            true => Access::always(Arc::clone(&trust)),
            false => Access::beyond(Arc::clone(&trust)),
        };
        let policy = options.policy.clone().unwrap_or_else(|| in_data("policy.toml"));
        let spent = Spent::open(in_data("tickets"), now_s());
        Ok(Self {
            trust,
            secure,
            access,
            policy: PolicyFile::open(policy)?,
            spent: spent.map_err(AgentError::Failed)?,
            deadlines: options.deadlines,
        })
    }

    /// How callers prove who they are; `None` where only this host can call.
    pub(crate) fn tls(&self) -> Option<Tls> {
        let acceptor = || TlsAcceptor::from(Arc::new(server_config(&self.trust)));
        self.secure.then(|| Tls { trust: Arc::clone(&self.trust), acceptor: acceptor() })
    }

    /// How this agent calls others.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// The folder of the identity that another agent is shown; empty if it asks for none.
    pub(crate) fn identity_for(&self, peer: &AgentAddress) -> String {
        let shown = self.secure || !peer.is_loopback();
        let folder: &Path = self.trust.folder().path();
        if shown { folder.to_string_lossy().into_owned() } else { String::new() }
    }

    /// Who calls, as far as they are trusted now.
    pub(crate) fn who(&self, caller: &Caller) -> Result<Authenticated, Status> {
        caller.who(&self.trust)
    }

    pub(super) fn rules(&self) -> Result<Arc<Rules>, Status> {
        self.trust.rules().map_err(|error| Status::failed_precondition(error.to_string()))
    }

    pub(super) fn spent(&self) -> &Spent {
        &self.spent
    }

    pub(super) fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    /// Whether somebody may do something.
    pub(crate) fn may(&self, who: &Who, action: Action) -> Result<bool, Status> {
        let allowed = self.policy.allows(who, action);
        allowed.map_err(|error| Status::failed_precondition(error.to_string()))
    }

    /// Whether a caller may do something: on a host that speaks only with itself, everything.
    pub(crate) fn allows(&self, who: &Authenticated, action: Action) -> Result<bool, Status> {
        who.0.as_ref().map_or(Ok(true), |who| self.may(who, action))
    }

    /// Refuses a caller who may not.
    pub(crate) fn require(&self, who: &Authenticated, action: Action) -> Result<(), Status> {
        who.0.as_ref().map_or(Ok(()), |who| self.require_of(who, action))
    }

    /// Refuses somebody who may not.
    pub(crate) fn require_of(&self, who: &Who, action: Action) -> Result<(), Status> {
        match self.may(who, action)? {
            true => Ok(()),
            false => Err(Status::permission_denied(self.refusal(who, action))),
        }
    }

    pub(super) fn refusal(&self, who: &Who, action: Action) -> String {
        self.policy.refusal(who, action)
    }

    /// Refuses an address over which a session travels that must not: one beyond this host where
    /// nothing protects it, one on a link that is not trusted where it is signed only.
    pub(crate) fn carries(&self, carrier: api::Carrier, ip: IpAddr) -> Result<(), Status> {
        let trusted = self.policy.trusts(ip);
        let trusted = || trusted.map_err(|error| Status::failed_precondition(error.to_string()));
        carriers::carries(carrier, ip, trusted, || self.policy.distrust(ip))
    }
}
