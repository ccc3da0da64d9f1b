//! The daemon: it opens its folder, finds its guests again, and listens.

use std::future::Future;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::Server;
use whimbrel_control::AgentAddress;
use whimbrel_control::api::Tracker;
use whimbrel_control::api::agent_server::AgentServer;
use whimbrel_identity::IdentityError;

use crate::access::{Gate, Guard, PolicyError, entrance};
use crate::folder::{DataFolder, FolderError};
use crate::guests::Guests;
use crate::history::History;
use crate::lifecycle::trackers;
use crate::limits::HostLimits;
use crate::metrics::Counters;
use crate::options::AgentOptions;
use crate::os;
use crate::probing::Probes;
use crate::relay::Relays;
use crate::service::AgentService;
use crate::web::Web;

/// How long calls may take to end when the agent does.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// A client that is silent for so long is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Calls of one client that are worked on at a time.
const CALLS_MAX: usize = 64;

/// Why an agent cannot begin, or go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The data folder is not to be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The address is not to be listened at.
    #[error("cannot listen at {address}: {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// It cannot prove who it is, or whom it trusts cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Who may do what cannot be read.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The address is not to be listened at for HTTP.
    #[error("cannot listen at {address} for HTTP: {source}; choose another address with --http")]
    ListenHttp {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Over HTTP others could ask than the agent lets in, and nobody would ask who they are.
    #[error(
        "HTTP at {address} would let those in whom this agent asks who they are, and whoever \
         connects could move guests: say what they have to show with --http-token FILE, or let \
         both listen at 127.0.0.1"
    )]
    NoToken {
        /// The address.
        address: SocketAddr,
    },
    /// What is shown over HTTP could be read on the way, and used by whoever has read it.
    #[error(
        "HTTP at {address} is not encrypted, and whoever reads the token on the way could move \
         guests with it: let it listen at 127.0.0.1 and reach it through a tunnel or a proxy with \
         TLS, or leave --http-may out, and it only shows them"
    )]
    ReadableToken {
        /// The address.
        address: SocketAddr,
    },
    /// The token for HTTP cannot be read.
    #[error("the token in {} cannot be read: {source}", path.display())]
    UnreadableToken {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The token for HTTP is known to others.
    #[error(
        "others may read the token in {}: {}, and take another one if they may have",
        path.display(), os::closing(path)
    )]
    OpenToken {
        /// The file.
        path: PathBuf,
    },
    /// The token for HTTP is too short.
    #[error("the token of --http-token is guessed: give it 16 characters or more")]
    ShortToken,
    /// Lanes cannot be kept on processors here.
    #[error(
        "--pin-lanes keeps lanes on the processors beside an interface, and this system does not \
         tell which those are: leave it out, and lanes run on any processor"
    )]
    Pinning,
    /// The program that guest processes run is not known.
    #[error("the path of this program is not known: {0}; start it by its full path")]
    Program(io::Error),
    /// The operating system says no.
    #[error("the agent failed: {0}")]
    Failed(io::Error),
}

/// What all parts of an agent work on.
pub(crate) struct Core {
    pub(crate) options: AgentOptions,
    pub(crate) folder: DataFolder,
    pub(crate) guard: Arc<Guard>,
    pub(crate) program: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) guests: Guests,
    pub(crate) trackers: Vec<Tracker>,
    pub(crate) relays: Relays,
    pub(crate) limits: HostLimits,
    pub(crate) probes: Probes,
    pub(crate) history: Arc<History>,
    pub(crate) counters: Counters,
}

/// An agent that listens; its guests run whether it does or not.
pub struct Agent {
    core: Arc<Core>,
    listener: TcpListener,
    web: Option<Web>,
}

impl Agent {
    /// Locks the data folder, makes an identity if there is none, listens, and finds the guests of
    /// the folder again.
    ///
    /// # Errors
    /// [`AgentError`]; nothing was changed.
    pub async fn bind(options: AgentOptions) -> Result<Self, AgentError> {
        let address = options.listen;
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(AgentError::Program)?,
        };
        if options.pin_lanes && !os::PINS_LANES {
            return Err(AgentError::Pinning);
        }
        os::keep_streams().map_err(AgentError::Failed)?;
        if let Err(error) = os::open_many_files() {
            tracing::warn!("the limit of open files stays what it is: {error}");
        }
        let folder = DataFolder::open(&options.data)?;
        let guard = Arc::new(Guard::open(&options)?);
        let listen = |source| AgentError::Listen { address, source };
        let listener = os::listen(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (guests, trackers) = (Guests::default(), trackers());
        let relays = Relays::new().map_err(AgentError::Failed)?;
        let (limits, probes) = (HostLimits::new(&options), Probes::default());
        let web = match &options.web {
            Some(web) => {
                let name = options.advertise.as_ref().map(AgentAddress::host);
                Some(Web::bind(web, name, guard.tls().is_some()).await?)
            }
            None => None,
        };
        let history = Arc::new(folder.history()?);
        let core = Core {
            options,
            folder,
            guard,
            program,
            address,
            guests,
            trackers,
            relays,
            limits,
            probes,
            history,
            counters: Counters::default(),
        };
        let core = Arc::new(core);
        for lost in core.networks().iter().filter(|network| network.addresses.is_empty()) {
            let network = &lost.network;
            tracing::warn!(
                network,
                "this host has no address in a --network, so that it carries nothing: is it \
                 spelt as the system has it, and up?"
            );
        }
        core.recover().await.map_err(AgentError::Failed)?;
        Ok(Self { core, listener, web })
    }

    /// As [`Agent::bind`], for tests. A process that another test is just starting holds the lock
    /// of the folder too, until it has begun.
    #[cfg(test)]
    pub(crate) async fn bound(options: AgentOptions) -> Self {
        let began = std::time::Instant::now();
        loop {
            match Self::bind(options.clone()).await {
                Err(AgentError::Folder(FolderError::InUse { .. }))
                    if began.elapsed() < Duration::from_secs(50) =>
                {
                    tokio::task::yield_now().await;
                }
                bound => return bound.expect("an agent"),
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn core(&self) -> Arc<Core> {
        Arc::clone(&self.core)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.core.address
    }

    /// Where it speaks HTTP.
    #[must_use]
    pub fn web_address(&self) -> Option<SocketAddr> {
        self.web.as_ref().map(Web::address)
    }

    /// Serves until `shutdown` comes, or, for an agent that dies with its parent, until that has
    /// gone. Guests go on without it.
    ///
    /// # Errors
    /// [`AgentError::Failed`].
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
        let parent_gone = self.parent_gone()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let guard = Arc::clone(&self.core.guard);
        let incoming = entrance(self.listener, guard.tls(), self.core.options.deadlines.handshake);
        let service = AgentServer::new(AgentService::new(Arc::clone(&self.core)));
        let service = Gate::new(service, guard);
        let served = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .concurrency_limit_per_connection(CALLS_MAX)
            .serve_with_incoming_shutdown(service, incoming, async move {
                // An error is a sender that is gone, which means the same.
                let _ = stopped.await;
            });
        let data = self.core.options.data.display();
        tracing::info!(address = %self.core.address, %data, "serving");
        // Ends when it is dropped.
        let mut web = tokio::task::JoinSet::new();
        if let Some(listener) = self.web {
            tracing::info!(address = %listener.address(), "serving HTTP");
            web.spawn(listener.serve(Arc::clone(&self.core)));
        }
        tokio::pin!(served);
        tokio::select! {
            ended = &mut served => {
                return ended.map_err(|error| AgentError::Failed(io::Error::other(error)));
            }
            () = shutdown => tracing::info!("told to end; guests go on"),
            () = parent_gone => {
                tracing::info!("the parent has gone");
                self.core.outlive_guests().await;
            }
        }
        drop(stop);
        // Watchers hold their calls open: what has not ended by then is cut.
        let _ = tokio::time::timeout(CLOSED_WITHIN, served).await;
        Ok(())
    }

    /// Comes when the standard input has ended, for an agent that is to die then.
    fn parent_gone(&self) -> Result<impl Future<Output = ()> + use<>, AgentError> {
        let (gone, seen) = oneshot::channel();
        let watched = self.core.options.die_with_parent;
        if watched {
            let wait = move || {
                let mut byte = [0];
                while !matches!(io::stdin().lock().read(&mut byte), Ok(0) | Err(_)) {}
                // Nobody waits if the agent ends for another reason.
                let _ = gone.send(());
            };
            let thread = std::thread::Builder::new().name("lifeline".to_owned()).spawn(wait);
            thread.map_err(AgentError::Failed)?;
        }
        Ok(async move {
            let _ = seen.await;
            if !watched {
                std::future::pending::<()>().await;
            }
        })
    }
}

impl Core {
    /// How the other side reaches this agent: its host, empty where only the other side can see
    /// it, and its port.
    pub(crate) fn reached_at(&self) -> (String, u16) {
        match &self.options.advertise {
            Some(address) => (address.host().to_owned(), address.port()),
            None => (specific(self.address.ip()), self.address.port()),
        }
    }
}

fn specific(ip: IpAddr) -> String {
    if ip.is_unspecified() { String::new() } else { ip.to_string() }
}
