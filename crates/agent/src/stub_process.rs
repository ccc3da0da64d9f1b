//! For tests: a guest process that says who it is and little else, and is in truth the test.

use std::ops::RangeInclusive;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use whimbrel_control::api;
use whimbrel_engine::protocol::GuestUuid;

use crate::guest_process::TOKEN_KEY;
use crate::os::ProcessIdentity;
use crate::process_api::process_server::{Process, ProcessServer};
use crate::process_api::{self as process, ProcessFile, VERSIONS};
use crate::watching::StatusStream;

const SECRET: &str = "0123";

/// A process that answers as long as its runtime runs.
pub(crate) struct StubProcess {
    /// How it is found.
    pub(crate) file: ProcessFile,
    /// Why it was told to yield, if it was.
    pub(crate) yielded: watch::Receiver<String>,
    /// The migration that it has begun; as long as that is nothing it does not answer for one.
    pub(crate) begun: watch::Sender<Option<&'static str>>,
    /// How often that was asked.
    pub(crate) asked: watch::Receiver<u32>,
    /// What it was asked about the guest's owner; it has decided nothing.
    pub(crate) questions: watch::Receiver<Vec<api::Question>>,
}

struct Stub {
    guest: GuestUuid,
    versions: RangeInclusive<u32>,
    yielded: watch::Sender<String>,
    begun: watch::Receiver<Option<&'static str>>,
    asked: watch::Sender<u32>,
    questions: watch::Sender<Vec<api::Question>>,
}

impl StubProcess {
    pub(crate) async fn of(guest: GuestUuid) -> Self {
        Self::of_versions(guest, VERSIONS).await
    }

    pub(crate) async fn of_versions(guest: GuestUuid, versions: RangeInclusive<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().into();
        let (sender, yielded) = watch::channel(String::new());
        let (begun, told) = watch::channel(None);
        let (times, asked) = watch::channel(0);
        let (question, questions) = watch::channel(Vec::new());
        let service = ProcessServer::new(Stub {
            guest,
            versions,
            yielded: sender,
            begun: told,
            asked: times,
            questions: question,
        });
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(Server::builder().serve_with_incoming(service, incoming));
        let own = ProcessIdentity::own().unwrap();
        let (pid, started, boot_id) = (own.pid, own.started, own.boot.0.to_vec());
        let file = ProcessFile { pid, started, boot_id, port, token: SECRET.to_owned() };
        Self { file, yielded, begun, asked, questions }
    }
}

macro_rules! silent {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        #[tonic::async_trait]
        impl Process for Stub {
            type WatchStream = StatusStream;
            type RelayStream = tokio_stream::Once<Result<api::GuestFrame, Status>>;

            async fn hello(
                &self,
                request: Request<process::HelloRequest>,
            ) -> Result<Response<process::HelloResponse>, Status> {
                if request.metadata().get(TOKEN_KEY).is_none_or(|token| token != SECRET) {
                    return Err(Status::unauthenticated("who are you?"));
                }
                Ok(Response::new(process::HelloResponse {
                    version_min: *self.versions.start(),
                    version_max: *self.versions.end(),
                    program_version: "9.9".to_owned(),
                    guest_uuid: self.guest.to_string(),
                }))
            }

            async fn r#yield(
                &self,
                request: Request<process::YieldRequest>,
            ) -> Result<Response<process::YieldResponse>, Status> {
                self.yielded.send_replace(request.into_inner().reason);
                Ok(Response::new(process::YieldResponse {}))
            }

            async fn give_up(
                &self,
                request: Request<process::GiveUpRequest>,
            ) -> Result<Response<process::GiveUpResponse>, Status> {
                self.asked.send_modify(|times| *times += 1);
                let told = self.begun.borrow().ok_or_else(|| Status::unavailable("a stub"))?;
                let begun = request.into_inner().migration_id == told;
                Ok(Response::new(process::GiveUpResponse { begun }))
            }

            async fn ask(
                &self,
                request: Request<api::AskRequest>,
            ) -> Result<Response<api::AskResponse>, Status> {
                let question = request.into_inner().question();
                self.questions.send_modify(|asked| asked.push(question));
                Ok(Response::new(api::AskResponse { answer: api::Answer::AskAgain.into() }))
            }

            /// The guest is attached to, and lets go at once.
            async fn relay(
                &self,
                _: Request<Streaming<api::RelayFrame>>,
            ) -> Result<Response<Self::RelayStream>, Status> {
                Ok(Response::new(tokio_stream::once(Ok(api::GuestFrame::default()))))
            }

            $(async fn $name(&self, _: Request<$request>) -> Result<Response<$answer>, Status> {
                Err(Status::unimplemented("a stub"))
            })*
        }
    };
}

silent! {
    start(process::StartRequest) -> process::StartResponse;
    receive(process::ReceiveRequest) -> process::ReceiveResponse;
    get_status(process::GetStatusRequest) -> process::Status;
    check(process::CheckRequest) -> api::CheckReport;
    certify(process::CertifyRequest) -> process::CertifyResponse;
    migrate(process::MigrateRequest) -> process::MigrateResponse;
    watch(process::WatchRequest) -> Self::WatchStream;
    reroute(process::RerouteRequest) -> process::RerouteResponse;
    limit(process::LimitRequest) -> process::LimitResponse;
    listen(process::ListenRequest) -> process::ListenResponse;
    get_memory_map(process::GetMemoryMapRequest) -> process::MemoryMap;
    cancel(process::CancelRequest) -> api::CancelMigrationResponse;
    settle(process::SettleRequest) -> process::Status;
    stop(process::StopRequest) -> process::StopResponse;
}
