//! Starting a guest process, finding it again, and speaking with it.

use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use whimbrel_control::api;
use whimbrel_engine::protocol::GuestUuid;

use crate::deadlines::Deadlines;
use crate::folder::GuestFolder;
use crate::guest_process::{COMMAND, READY, TOKEN_KEY};
use crate::options::AgentOptions;
use crate::os::{self, BootId, ProcessIdentity};
use crate::process_api::process_client::ProcessClient;
use crate::process_api::{self as process, ProcessFile, VERSIONS};

/// What a starting process may say in place of [`READY`], in bytes.
const FIRST_WORDS_MAX: u64 = 4096;

/// Why there is no speaking with a guest process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the guest process cannot be started: {0}")]
    Start(io::Error),
    #[error("the guest process did not come up within {0:?}; its log says how far it came")]
    Slow(Duration),
    #[error("the guest process did not come up: {0}")]
    Failed(String),
    #[error("the file that says how to find the guest process is unreadable: {0}")]
    Unreadable(io::Error),
    #[error("the guest process does not answer: {0}")]
    Unreachable(String),
    #[error(
        "the guest process (version {program}) speaks versions {min} to {max} with its agent and \
         this agent speaks {} to {}: run an agent of the other release on this data folder, and \
         move the guest with it",
        VERSIONS.start(), VERSIONS.end()
    )]
    Version { program: String, min: u32, max: u32 },
    #[error("another guest's process answers in its place")]
    Another,
}

impl From<LinkError> for Status {
    fn from(error: LinkError) -> Self {
        let why = error.to_string();
        match error {
            LinkError::Version { .. } => Self::failed_precondition(why),
            // It is this host's process: an agent that cannot be reached is another matter.
            _ => Self::internal(why),
        }
    }
}

/// Starts the process of the guest whose folder this is, and waits until it can be found.
pub(crate) async fn start(
    program: &Path,
    folder: &GuestFolder,
    options: &AgentOptions,
) -> Result<ProcessFile, LinkError> {
    let deadlines = options.deadlines;
    let mut child = spawn(program, folder, options).map_err(LinkError::Start)?;
    let ready = timeout(deadlines.process_start, first_words(&mut child)).await;
    let failed = match ready {
        Ok(Ok(words)) if words == READY => None,
        Ok(Ok(words)) => Some(LinkError::Failed(words)),
        Ok(Err(error)) => Some(LinkError::Start(error)),
        Err(_) => Some(LinkError::Slow(deadlines.process_start)),
    };
    if let Some(error) = failed {
        // Fails only for a process that has ended by itself.
        let _ = child.kill().await;
        return Err(error);
    }
    tokio::spawn(async move { child.wait().await });
    let file = folder.read_process().map_err(LinkError::Unreadable)?;
    file.ok_or_else(|| LinkError::Failed("it left no process file".to_owned()))
}

fn spawn(program: &Path, folder: &GuestFolder, options: &AgentOptions) -> io::Result<Child> {
    let mut command = StdCommand::new(program);
    command.arg(COMMAND).arg("--folder").arg(folder.path()).stdout(Stdio::piped());
    // What a panic says goes where the log goes.
    command.stderr(os::append_private(&folder.log())?);
    command.arg("--log").arg(options.log.to_string());
    if options.die_with_parent {
        os::tie(&mut command);
    } else {
        command.stdin(Stdio::null());
    }
    os::detach(&mut command);
    let mut child = Command::from(command).spawn()?;
    if options.die_with_parent
        && let Err(error) = os::tied(&child)
    {
        // Fails only for a process that has ended by itself.
        let _ = child.start_kill();
        return Err(error);
    }
    Ok(child)
}

async fn first_words(child: &mut Child) -> io::Result<String> {
    let Some(output) = child.stdout.take() else { return Ok(String::new()) };
    let mut output = output.take(FIRST_WORDS_MAX);
    let mut words = Vec::new();
    while !words.contains(&b'\n') && output.read_buf(&mut words).await? > 0 {}
    let words = String::from_utf8_lossy(&words);
    match words.lines().next() {
        Some(line) => Ok(line.to_owned()),
        None => Ok("it ended without a word; its log may have more".to_owned()),
    }
}

/// Which process a process file speaks of.
pub(crate) fn identity(file: &ProcessFile) -> Option<ProcessIdentity> {
    let boot = BootId(file.boot_id.as_slice().try_into().ok()?);
    Some(ProcessIdentity { pid: file.pid, started: file.started, boot })
}

/// A connection to a guest process of a version that this agent understands.
#[derive(Clone, Debug)]
pub(crate) struct ProcessLink {
    client: ProcessClient<InterceptedService<Channel, ShowToken>>,
    deadlines: Deadlines,
}

#[derive(Clone, Debug)]
struct ShowToken(MetadataValue<Ascii>);

impl Interceptor for ShowToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(TOKEN_KEY, self.0.clone());
        Ok(request)
    }
}

impl ProcessLink {
    /// Connects and agrees on a version.
    pub(crate) async fn connect(
        file: &ProcessFile,
        guest: GuestUuid,
        deadlines: Deadlines,
    ) -> Result<Self, LinkError> {
        let unreachable = |error: &dyn std::fmt::Display| LinkError::Unreachable(error.to_string());
        let mut token: MetadataValue<Ascii> =
            file.token.parse().map_err(|error| unreachable(&error))?;
        token.set_sensitive(true);
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", file.port))
            .map_err(|error| unreachable(&error))?
            .connect_timeout(deadlines.process_call)
            .http2_keep_alive_interval(deadlines.process_call)
            .keep_alive_timeout(deadlines.process_call)
            .tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(|error| unreachable(&error))?;
        let client = ProcessClient::with_interceptor(channel, ShowToken(token));
        let mut link = Self { client, deadlines };
        link.greet(guest).await?;
        Ok(link)
    }

    async fn greet(&mut self, guest: GuestUuid) -> Result<(), LinkError> {
        let hello =
            process::HelloRequest { version_min: *VERSIONS.start(), version_max: *VERSIONS.end() };
        let answer = self.client.hello(within(self.deadlines.process_call, hello)).await;
        let hello = answer
            .map_err(|status| LinkError::Unreachable(status.message().to_owned()))?
            .into_inner();
        let theirs = hello.version_min..=hello.version_max;
        if !overlap(&theirs, &VERSIONS) {
            let (min, max) = theirs.into_inner();
            return Err(LinkError::Version { program: hello.program_version, min, max });
        }
        if hello.guest_uuid != guest.to_string() {
            return Err(LinkError::Another);
        }
        Ok(())
    }

    /// Follows the running or last migration.
    pub(crate) async fn watch(&mut self) -> Result<Streaming<api::MigrationStatus>, Status> {
        let request = within(self.deadlines.process_call, process::WatchRequest {});
        answer(self.client.watch(request).await)
    }
}

impl ProcessLink {
    /// Attaches a relay to the guest, if it runs there.
    pub(crate) async fn relay(
        &mut self,
        frames: mpsc::Receiver<api::RelayFrame>,
    ) -> Result<Streaming<api::GuestFrame>, Status> {
        let call = self.client.relay(ReceiverStream::new(frames));
        let late = |_| Status::internal("the guest process does not answer");
        answer(timeout(self.deadlines.process_call, call).await.map_err(late)?)
    }
}

macro_rules! calls {
    ($($name:ident($request:ty) -> $answer:ty, $deadline:ident;)*) => {
        impl ProcessLink {
            $(pub(crate) async fn $name(&mut self, request: $request) -> Result<$answer, Status> {
                answer(self.client.$name(within(self.deadlines.$deadline, request)).await)
            })*
        }
    };
}

calls! {
    start(process::StartRequest) -> process::StartResponse, process_call;
    receive(process::ReceiveRequest) -> process::ReceiveResponse, process_call;
    get_status(process::GetStatusRequest) -> process::Status, process_call;
    check(process::CheckRequest) -> api::CheckReport, check;
    certify(process::CertifyRequest) -> process::CertifyResponse, process_call;
    migrate(process::MigrateRequest) -> process::MigrateResponse, process_call;
    give_up(process::GiveUpRequest) -> process::GiveUpResponse, process_call;
    reroute(process::RerouteRequest) -> process::RerouteResponse, process_call;
    limit(process::LimitRequest) -> process::LimitResponse, process_call;
    listen(process::ListenRequest) -> process::ListenResponse, process_call;
    get_memory_map(process::GetMemoryMapRequest) -> process::MemoryMap, process_call;
    cancel(process::CancelRequest) -> api::CancelMigrationResponse, process_call;
    ask(api::AskRequest) -> api::AskResponse, process_call;
    settle(process::SettleRequest) -> process::Status, process_call;
    r#yield(process::YieldRequest) -> process::YieldResponse, process_call;
    stop(process::StopRequest) -> process::StopResponse, process_call;
}

fn answer<T>(answer: Result<Response<T>, Status>) -> Result<T, Status> {
    answer.map(Response::into_inner).map_err(|status| {
        // A status with a source was made on this side.
        match std::error::Error::source(&status) {
            Some(_) => Status::from(LinkError::Unreachable(status.message().to_owned())),
            None => status,
        }
    })
}

fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// Whether two ranges of versions have one in common.
pub(crate) fn overlap(one: &RangeInclusive<u32>, other: &RangeInclusive<u32>) -> bool {
    one.start().max(other.start()) <= one.end().min(other.end())
}

#[cfg(test)]
mod tests;
