//! How a caller proves who it is, and learns who answers.

use std::error::Error;
use std::io;
use std::sync::{Arc, OnceLock};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use whimbrel_identity::rustls::{self, pki_types};
use whimbrel_identity::{
    Doubt, Fingerprint, Trust, Who, client_config, explain, explain_text, observing_config,
};

use crate::error::deepest;
use crate::{AgentAddress, ClientError};

/// What a caller has to show. On this host agents are spoken to in plain words unless they ask
/// for more; beyond it both sides always prove who they are.
#[derive(Clone, Debug, Default)]
pub struct Access {
    trust: Option<Arc<Trust>>,
    always: bool,
}

impl Access {
    /// Shows this identity beyond this host.
    #[must_use]
    pub fn beyond(trust: Arc<Trust>) -> Self {
        Self { trust: Some(trust), always: false }
    }

    /// Shows this identity everywhere, also on this host.
    #[must_use]
    pub fn always(trust: Arc<Trust>) -> Self {
        Self { trust: Some(trust), always: true }
    }

    /// How to speak with the agent at `address`; `None`: in plain words.
    pub(crate) fn to(&self, address: &AgentAddress) -> Result<Option<Secure>, ClientError> {
        if address.is_loopback() && !self.always {
            return Ok(None);
        }
        let none = || ClientError::NoIdentity { address: address.clone() };
        let trust = self.trust.clone().ok_or_else(none)?;
        let name = server_name(address).map_err(|why| {
            let address = address.clone();
            ClientError::NotThere { address, why }
        })?;
        let connector = TlsConnector::from(Arc::new(client_config(&trust)));
        let address = address.clone();
        Ok(Some(Secure { address, name, trust, connector, proven: OnceLock::new() }))
    }
}

/// A connection on which both sides have proved who they are.
type Stream = TokioIo<TlsStream<TcpStream>>;

/// A way to one agent on which both sides prove who they are.
#[derive(Clone)]
pub(crate) struct Secure {
    address: AgentAddress,
    name: pki_types::ServerName<'static>,
    trust: Arc<Trust>,
    connector: TlsConnector,
    /// Who answered first, and the certificates that proved it.
    proven: OnceLock<(Who, Vec<pki_types::CertificateDer<'static>>)>,
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secure").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Secure {
    pub(crate) fn who(&self) -> Option<&Who> {
        self.proven.get().map(|(who, _)| who)
    }

    /// Whether the certificates of whoever answered are still good here.
    pub(crate) fn still_proven(&self) -> Result<(), Doubt> {
        let Some((_, chain)) = self.proven.get() else { return Ok(()) };
        // Rules that cannot be read are no reason to doubt somebody.
        let Ok(rules) = self.trust.rules() else { return Ok(()) };
        let now = pki_types::UnixTime::now();
        rules.server(chain, &self.name, now).map(drop).map_err(|error| explain(&error))
    }

    async fn dial(self: Arc<Self>) -> io::Result<Stream> {
        let tcp = reach(&self.address).await?;
        let stream = self.connector.connect(self.name.clone(), tcp).await.map_err(in_words)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let rules = self.trust.rules().map_err(io::Error::other)?;
        let who = rules.server(chain, &self.name, pki_types::UnixTime::now());
        let who = who.map_err(|error| io::Error::other(explain(&error)))?;
        let known = || (who.clone(), chain.iter().map(|one| one.clone().into_owned()).collect());
        let (first, _) = self.proven.get_or_init(known);
        if first.fingerprint != who.fingerprint {
            let why = format!("{who} answers where {first} did before");
            let advice = "Another host may have taken its place; somebody may stand in between";
            return Err(io::Error::other(Doubt::new(why, advice)));
        }
        Ok(TokioIo::new(stream))
    }
}

/// Dials for a channel, also when it has to connect again.
pub(crate) fn connector(
    secure: Arc<Secure>,
) -> impl Service<http::Uri, Response = Stream, Error = io::Error, Future: Send> + Send + 'static {
    tower::service_fn(move |_| Arc::clone(&secure).dial())
}

/// A channel to the agent at `address` that connects when it is used, for those who only pass calls
/// on.
///
/// # Errors
/// As [`crate::Client::connect_as`] before it connects.
pub fn connect_lazy(address: &AgentAddress, access: &Access) -> Result<Channel, ClientError> {
    let not_there = |why| ClientError::NotThere { address: address.clone(), why };
    let endpoint = Endpoint::from_shared(address.uri());
    let endpoint = endpoint.map_err(|error| not_there(error.to_string()))?;
    Ok(match access.to(address)? {
        None => endpoint.connect_lazy(),
        Some(secure) => endpoint.connect_with_connector_lazy(connector(Arc::new(secure))),
    })
}

/// Whose key answers at an address. Nothing is believed and nothing is shown.
///
/// # Errors
/// Nobody is there, or nobody who speaks TLS 1.3.
pub async fn observe(address: &AgentAddress) -> Result<Fingerprint, ClientError> {
    let not_there = |why| ClientError::NotThere { address: address.clone(), why };
    let (config, seen) = observing_config();
    let name = server_name(address).map_err(not_there)?;
    let tcp = reach(address).await.map_err(|error| not_there(error.to_string()))?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    connected.map_err(|error| not_there(in_words(error).to_string()))?;
    seen.get().copied().ok_or_else(|| not_there("it showed no certificate".to_owned()))
}

async fn reach(address: &AgentAddress) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect((address.host(), address.port())).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

fn server_name(address: &AgentAddress) -> Result<pki_types::ServerName<'static>, String> {
    let name = pki_types::ServerName::try_from(address.host().to_owned());
    name.map_err(|_| format!("`{}` is no name that a certificate can hold", address.host()))
}

fn in_words(error: io::Error) -> io::Error {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    // Which of them it is depends on what was on its way when the other side had enough.
    let hung_up = [UnexpectedEof, ConnectionReset, ConnectionAborted, BrokenPipe];
    if hung_up.contains(&error.kind()) {
        let why =
            "it hangs up instead of saying who it is: it asks for no identity, or has no room";
        let advice = "Leave --identity (WHIMBREL_IDENTITY) out where it asks for none";
        return io::Error::other(Doubt::new(why, advice));
    }
    match find::<rustls::Error>(&error) {
        Some(why) => io::Error::other(explain(why)),
        None => error,
    }
}

/// Who doubts whom, where that is why something failed.
pub(crate) fn doubt(error: &(dyn Error + 'static)) -> Option<Doubt> {
    let ours = find::<Doubt>(error).cloned();
    let told = ours.or_else(|| find::<rustls::Error>(error).map(explain));
    // A certificate can run out between the handshake and the first call.
    let not_any_more = |status: &&Status| status.code() == Code::Unauthenticated;
    let refused = || find::<Status>(error).filter(not_any_more);
    let renew = "Have it trusted there again, or show another identity (--identity)";
    let told = told.or_else(|| refused().map(|status| Doubt::new(status.message(), renew)));
    told.or_else(|| explain_text(&deepest(error)))
}

/// The first cause of this type, also within an I/O error, which hides what it holds.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let held = held.and_then(|held| held.downcast_ref::<T>());
        if let Some(found) = error.downcast_ref::<T>().or(held) {
            return Some(found);
        }
        next = error.source();
    }
    None
}
