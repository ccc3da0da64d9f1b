//! The calls of an agent, each with the process' token.

use std::io;
use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::{Request, Response, Status, Streaming};
use whimbrel_control::api;

use super::port;
use super::worker::Worker;
use crate::process_api::process_server::Process;
use crate::process_api::{self as process, VERSIONS};
use crate::relay::GuestFrames;
use crate::secret;
use crate::watching::{self, StatusStream};

/// Where calls carry the token.
pub(crate) const TOKEN_KEY: &str = "whimbrel-token";

/// The secret of one process: who shows it could read the process file.
#[derive(Clone)]
pub(super) struct Token(String);

impl Token {
    pub(super) fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(format!("{:032x}", u128::from_be_bytes(bytes))))
    }

    fn is(&self, shown: &[u8]) -> bool {
        secret::same(self.0.as_bytes(), shown)
    }

    /// As it stands in the process file.
    pub(super) fn shown(&self) -> String {
        self.0.clone()
    }
}

impl Interceptor for Token {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let shown = request.metadata().get(TOKEN_KEY);
        match shown.is_some_and(|shown| self.is(shown.as_bytes())) {
            true => Ok(request),
            false => {
                Err(Status::unauthenticated("only the agent of this guest process may call it"))
            }
        }
    }
}

pub(super) struct ProcessService {
    worker: Arc<Worker>,
}

impl ProcessService {
    pub(super) fn new(worker: Arc<Worker>) -> Self {
        Self { worker }
    }

    /// Runs `work` to its end, also if the caller goes away, where blocking is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Worker>) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let worker = Arc::clone(&self.worker);
        let done = tokio::task::spawn_blocking(move || work(&worker)).await;
        done.map_err(|error| Status::internal(format!("the call failed: {error}")))?
            .map(Response::new)
    }
}

#[tonic::async_trait]
impl Process for ProcessService {
    type WatchStream = StatusStream;

    async fn hello(
        &self,
        _: Request<process::HelloRequest>,
    ) -> Result<Response<process::HelloResponse>, Status> {
        Ok(Response::new(process::HelloResponse {
            version_min: *VERSIONS.start(),
            version_max: *VERSIONS.end(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            guest_uuid: self.worker.uuid().to_string(),
        }))
    }

    async fn start(
        &self,
        request: Request<process::StartRequest>,
    ) -> Result<Response<process::StartResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |worker| worker.start(request)).await
    }

    async fn receive(
        &self,
        request: Request<process::ReceiveRequest>,
    ) -> Result<Response<process::ReceiveResponse>, Status> {
        let worker = Arc::clone(&self.worker);
        worker.receive(request.into_inner()).await.map(Response::new)
    }

    async fn get_status(
        &self,
        _: Request<process::GetStatusRequest>,
    ) -> Result<Response<process::Status>, Status> {
        Ok(Response::new(self.worker.status()))
    }

    async fn check(
        &self,
        _: Request<process::CheckRequest>,
    ) -> Result<Response<api::CheckReport>, Status> {
        self.blocking(|worker| worker.check()).await
    }

    async fn certify(
        &self,
        _: Request<process::CertifyRequest>,
    ) -> Result<Response<process::CertifyResponse>, Status> {
        self.worker.certify().map(Response::new)
    }

    async fn migrate(
        &self,
        request: Request<process::MigrateRequest>,
    ) -> Result<Response<process::MigrateResponse>, Status> {
        let worker = Arc::clone(&self.worker);
        worker.migrate(request.into_inner()).await.map(Response::new)
    }

    async fn give_up(
        &self,
        request: Request<process::GiveUpRequest>,
    ) -> Result<Response<process::GiveUpResponse>, Status> {
        let begun = self.worker.give_up(request.into_inner().migration_id);
        Ok(Response::new(process::GiveUpResponse { begun }))
    }

    async fn watch(
        &self,
        _: Request<process::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(watching::stream(self.worker.watch(), || true)))
    }

    async fn reroute(
        &self,
        request: Request<process::RerouteRequest>,
    ) -> Result<Response<process::RerouteResponse>, Status> {
        self.worker.reroute(&request.into_inner()).map(Response::new)
    }

    async fn limit(
        &self,
        request: Request<process::LimitRequest>,
    ) -> Result<Response<process::LimitResponse>, Status> {
        self.worker.limit(&request.into_inner()).map(Response::new)
    }

    async fn listen(
        &self,
        request: Request<process::ListenRequest>,
    ) -> Result<Response<process::ListenResponse>, Status> {
        self.worker.listen_also(&request.into_inner()).map(Response::new)
    }

    async fn get_memory_map(
        &self,
        request: Request<process::GetMemoryMapRequest>,
    ) -> Result<Response<process::MemoryMap>, Status> {
        let cells = request.into_inner().cells_max;
        self.blocking(move |worker| Ok(worker.memory_map(cells))).await
    }

    async fn cancel(
        &self,
        request: Request<process::CancelRequest>,
    ) -> Result<Response<api::CancelMigrationResponse>, Status> {
        self.worker.cancel(&request.into_inner().reason).await.map(Response::new)
    }

    async fn ask(
        &self,
        request: Request<api::AskRequest>,
    ) -> Result<Response<api::AskResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |worker| worker.ask(&request)).await
    }

    async fn settle(
        &self,
        request: Request<process::SettleRequest>,
    ) -> Result<Response<process::Status>, Status> {
        let request = request.into_inner();
        self.blocking(move |worker| worker.settle(&request)).await
    }

    async fn r#yield(
        &self,
        request: Request<process::YieldRequest>,
    ) -> Result<Response<process::YieldResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |worker| worker.give_way(request.reason)).await
    }

    type RelayStream = GuestFrames;

    async fn relay(
        &self,
        request: Request<Streaming<api::RelayFrame>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        let port = self.worker.monitor().and_then(|monitor| monitor.port().cloned());
        let port = port.ok_or_else(|| Status::failed_precondition("the guest has no port here"))?;
        port::attach(port, request.into_inner()).await.map(Response::new)
    }

    async fn stop(
        &self,
        request: Request<process::StopRequest>,
    ) -> Result<Response<process::StopResponse>, Status> {
        self.worker.stop(request.into_inner().force).map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataValue;

    #[test]
    fn only_who_shows_the_token_is_let_in() {
        let mut token = Token::random().unwrap();
        let call = |shown: Option<&str>| {
            let mut request = Request::new(());
            if let Some(shown) = shown {
                let shown = MetadataValue::try_from(shown).unwrap();
                request.metadata_mut().insert(TOKEN_KEY, shown);
            }
            request
        };
        let right = token.shown();
        assert!(token.call(call(Some(&right))).is_ok());
        let other = Token::random().unwrap().shown();
        for shown in [None, Some(""), Some(&other), Some(&right[1..])] {
            let refused = token.call(call(shown)).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        }
    }
}
