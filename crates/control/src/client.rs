use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use whimbrel_identity::{Doubt, Who, explain_end};

use crate::access::{self, Access, Secure};
use crate::api::agent_client::AgentClient;
use crate::error::deepest;
use crate::{API_VERSION, AgentAddress, ClientError, PRODUCT, api};

/// How long a client waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For a connection and the first word of the agent.
    pub connect: Duration,
    /// For the answer to a call.
    pub call: Duration,
    /// For a guest's check of its whole memory.
    pub check: Duration,
    /// For a sign of life while a stream has nothing to say.
    pub quiet: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            call: Duration::from_secs(30),
            check: Duration::from_secs(600),
            quiet: Duration::from_secs(10),
        }
    }
}

/// A connection to one agent; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    address: AgentAddress,
    deadlines: Deadlines,
    host: api::Host,
    secure: Option<Arc<Secure>>,
    inner: AgentClient<Channel>,
}

impl Client {
    /// Connects on this host without an identity, and makes sure that a Whimbrel agent of a
    /// version we understand answers.
    ///
    /// # Errors
    /// As [`Client::connect_as`].
    pub async fn connect(
        address: &AgentAddress,
        deadlines: Deadlines,
    ) -> Result<Self, ClientError> {
        Self::connect_as(address, deadlines, &Access::default()).await
    }

    /// Connects as `access` says, and makes sure that a Whimbrel agent of a version we understand
    /// answers.
    ///
    /// # Errors
    /// [`ClientError::NotThere`], [`ClientError::NoIdentity`], [`ClientError::Unproven`],
    /// [`ClientError::AsksWho`], [`ClientError::NotWhimbrel`] or [`ClientError::Version`].
    pub async fn connect_as(
        address: &AgentAddress,
        deadlines: Deadlines,
        access: &Access,
    ) -> Result<Self, ClientError> {
        let secure = access.to(address)?.map(Arc::new);
        let endpoint = endpoint(address, deadlines)?;
        let not_there = |why| ClientError::NotThere { address: address.clone(), why };
        let connecting = async {
            match &secure {
                None => endpoint.connect().await,
                Some(secure) => {
                    endpoint.connect_with_connector(access::connector(Arc::clone(secure))).await
                }
            }
        };
        let channel = match timeout(deadlines.connect, connecting).await {
            Ok(connected) => connected.map_err(|error| match doubt(secure.as_deref(), &error) {
                Some(why) => ClientError::Unproven { address: address.clone(), why },
                None => not_there(deepest(&error)),
            })?,
            Err(_) => return Err(not_there(format!("no answer in {:?}", deadlines.connect))),
        };
        let mut inner = AgentClient::new(channel);
        let host = greet(&mut inner, address, deadlines, secure.as_deref()).await?;
        Ok(Self { address: address.clone(), deadlines, host, secure, inner })
    }

    /// Who answers, where that was proven: the same as long as this client lives.
    #[must_use]
    pub fn who(&self) -> Option<&Who> {
        self.secure.as_ref()?.who()
    }

    /// Whether whoever answered is still trusted here: certificates run out and are taken back.
    ///
    /// # Errors
    /// Why not.
    pub fn still_trusted(&self) -> Result<(), Doubt> {
        self.secure.as_ref().map_or(Ok(()), |secure| secure.still_proven())
    }

    /// Where this agent was found.
    #[must_use]
    pub fn address(&self) -> &AgentAddress {
        &self.address
    }

    /// What the agent said about its host when the connection was made.
    #[must_use]
    pub fn host(&self) -> &api::Host {
        &self.host
    }

    /// Follows a migration, by its id or its guest, from now to its end.
    ///
    /// # Errors
    /// As every call.
    pub async fn watch(&mut self, migration: &str) -> Result<Watch, ClientError> {
        let request = api::WatchMigrationRequest { migration: migration.to_owned() };
        let request = within(self.deadlines.call, request);
        let answer = self.inner.watch_migration(request).await;
        let stream = self.answer(self.deadlines.call, answer)?;
        Ok(Watch { address: self.address.clone(), quiet: self.deadlines.quiet, stream })
    }

    /// Between agents: attaches a relay of clients to a guest.
    ///
    /// # Errors
    /// As every call.
    pub async fn relay(
        &mut self,
        frames: impl tonic::IntoStreamingRequest<Message = api::RelayFrame>,
    ) -> Result<Streaming<api::GuestFrame>, ClientError> {
        let deadline = self.deadlines.call;
        let late = |_| Status::deadline_exceeded("the agent does not answer");
        let answer = timeout(deadline, self.inner.relay(frames)).await;
        self.answer(deadline, answer.map_err(late).flatten())
    }

    fn answer<T>(
        &self,
        deadline: Duration,
        answer: Result<Response<T>, Status>,
    ) -> Result<T, ClientError> {
        answer
            .map(Response::into_inner)
            .map_err(|status| ClientError::of_call(&self.address, deadline, &status))
    }
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $answer:ident, $deadline:ident;)*) => {
        /// One method a call of the API. Each one fails with [`ClientError::Refused`] where the
        /// agent says no, and with [`ClientError::Lost`] or [`ClientError::Late`] where it is
        /// not heard.
        #[allow(clippy::missing_errors_doc)]
        impl Client {
            $(
                $(#[$doc])*
                pub async fn $name(
                    &mut self,
                    request: api::$request,
                ) -> Result<api::$answer, ClientError> {
                    let deadline = self.deadlines.$deadline;
                    let answer = self.inner.$name(within(deadline, request)).await;
                    self.answer(deadline, answer)
                }
            )*
        }
    };
}

calls! {
    /// What the host has, and what of it is free.
    get_host(GetHostRequest) -> Host, call;
    /// Starts a guest.
    start_guest(StartGuestRequest) -> Guest, call;
    /// All guests of the host.
    list_guests(ListGuestsRequest) -> ListGuestsResponse, call;
    /// One guest.
    get_guest(GetGuestRequest) -> Guest, call;
    /// Has a guest check its whole memory.
    check_guest(CheckGuestRequest) -> CheckReport, check;
    /// Ends a guest.
    stop_guest(StopGuestRequest) -> StopGuestResponse, call;
    /// Lets go of the clients of a guest that runs elsewhere.
    release_guest(ReleaseGuestRequest) -> ReleaseGuestResponse, call;
    /// A person's decision about a guest in doubt.
    resolve_guest(ResolveGuestRequest) -> Guest, call;
    /// Starts a migration; returns when the destination expects the guest.
    migrate(MigrateRequest) -> MigrationStatus, call;
    /// A look at a migration.
    get_migration(GetMigrationRequest) -> MigrationStatus, call;
    /// The migrations that have ended.
    list_migrations(ListMigrationsRequest) -> ListMigrationsResponse, call;
    /// Cancels a migration, if it is not too late.
    cancel_migration(CancelMigrationRequest) -> CancelMigrationResponse, call;
    /// Changes how fast a migration, or the host, may send.
    set_limits(SetLimitsRequest) -> LimitsInForce, call;
    /// Measures each path to another host; takes seconds.
    probe_paths(ProbePathsRequest) -> ProbePathsResponse, check;
    /// Between agents: has measurements answered for a while.
    open_probe(OpenProbeRequest) -> OpenProbeResponse, call;
    /// Between agents: they have been answered.
    close_probe(CloseProbeRequest) -> CloseProbeResponse, call;
    /// Between agents: has a guest expected.
    prepare_incoming(PrepareIncomingRequest) -> PrepareIncomingResponse, call;
    /// Between agents: takes [`Client::prepare_incoming`] back.
    cancel_incoming(CancelIncomingRequest) -> CancelIncomingResponse, call;
    /// Between agents: where a guest that is expected can come to by now.
    refresh_endpoints(RefreshEndpointsRequest) -> RefreshEndpointsResponse, call;
    /// Between agents: a question of ownership.
    ask(AskRequest) -> AskResponse, call;
    /// Between agents: who runs a guest under which term.
    meet(MeetRequest) -> MeetResponse, call;
}

/// The statuses of one migration as they come.
#[derive(Debug)]
pub struct Watch {
    address: AgentAddress,
    quiet: Duration,
    stream: Streaming<api::MigrationStatus>,
}

impl Watch {
    /// The next status; `None` after the one that carries the outcome.
    ///
    /// # Errors
    /// [`ClientError::Lost`] if the agent went away; the migration goes on without it.
    pub async fn next(&mut self) -> Result<Option<api::MigrationStatus>, ClientError> {
        let next = self.stream.message().await;
        next.map_err(|status| ClientError::of_call(&self.address, self.quiet, &status))
    }
}

fn endpoint(address: &AgentAddress, deadlines: Deadlines) -> Result<Endpoint, ClientError> {
    let endpoint = Endpoint::from_shared(address.uri()).map_err(|error| ClientError::NotThere {
        address: address.clone(),
        why: deepest(&error),
    })?;
    Ok(endpoint
        .connect_timeout(deadlines.connect)
        .http2_keep_alive_interval(deadlines.quiet)
        .keep_alive_timeout(deadlines.quiet)
        .tcp_nodelay(true))
}

/// Who doubts whom, where that may be why nothing was answered.
fn doubt(secure: Option<&Secure>, error: &(dyn Error + 'static)) -> Option<Doubt> {
    // Theirs is said after ours, and whoever hangs up at once may be gone before it is heard.
    let hung_up = || {
        let _ = secure?.who()?;
        // Without a cause it is an answer.
        let _ = error.source()?;
        let why = deepest(error);
        let why =
            format!("it hung up on this identity ({why}): it does not trust it, or has no room");
        Some(Doubt::new(why, "The log of the agent there says which"))
    };
    access::doubt(error).or_else(|| explain_end(&deepest(error))).or_else(hung_up)
}

async fn greet(
    inner: &mut AgentClient<Channel>,
    address: &AgentAddress,
    deadlines: Deadlines,
    secure: Option<&Secure>,
) -> Result<api::Host, ClientError> {
    let not_whimbrel = |why: String| ClientError::NotWhimbrel { address: address.clone(), why };
    let asked = inner.get_host(within(deadlines.connect, api::GetHostRequest {})).await;
    let host = match asked {
        Ok(answer) => answer.into_inner(),
        Err(status) if matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) => {
            let why = format!("it accepts connections and says nothing in {:?}", deadlines.connect);
            return Err(not_whimbrel(why));
        }
        Err(status) => match doubt(secure, &status) {
            Some(why) => return Err(ClientError::Unproven { address: address.clone(), why }),
            None if secure.is_none() && asks_who(address, deadlines).await => {
                return Err(ClientError::AsksWho { address: address.clone() });
            }
            None => return Err(not_whimbrel(deepest(&status))),
        },
    };
    if host.product != PRODUCT {
        return Err(not_whimbrel(format!("it calls itself `{}`", host.product)));
    }
    if host.api_version != API_VERSION {
        let theirs = host.api_version;
        return Err(ClientError::Version { address: address.clone(), theirs });
    }
    Ok(host)
}

/// Whether TLS is spoken there: what it answers to plain words is no HTTP/2.
async fn asks_who(address: &AgentAddress, deadlines: Deadlines) -> bool {
    matches!(timeout(deadlines.connect, access::observe(address)).await, Ok(Ok(_)))
}

fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}
