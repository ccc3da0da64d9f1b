//! What the agent says over HTTP: a page for people, metrics for Prometheus, reports of migrations.
//!
//! ```text
//!  listener ─► connection (few at a time) ─► Gate: token, Host, Origin, method ─► route ─► answer
//! ```
//!
//! Off unless it is asked for. It reads and changes nothing but by way of what the API can do, and
//! the page loads nothing from elsewhere.

mod events;
mod gate;
mod orders;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::agent::{AgentError, Core};
use crate::metrics;
use crate::os;
use crate::report::report_html;
use events::Newsroom;
pub use gate::WebRight;
use gate::{Aim, Gate};
use orders::Order;

/// Connections at a time; more wait for one to end.
const CONNECTIONS_MAX: usize = 64;
/// For a request's head to come.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_MAX: usize = 16 << 10;
/// For the body of an order to come, and its bytes.
const BODY_WITHIN: Duration = Duration::from_secs(10);
const BODY_MAX: usize = 64 << 10;
/// Those who listen to events at a time.
const LISTENERS_MAX: usize = 16;
/// Bytes of a token: what is shorter is guessed.
const TOKEN_MIN: usize = 16;
/// After a connection could not be accepted, as when there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Where and to whom the agent speaks HTTP.
#[derive(Clone, Debug)]
pub struct WebOptions {
    /// Where it listens; port 0 takes any.
    pub listen: SocketAddr,
    /// The file with what everybody who asks has to show, for this user only; needed where the
    /// agent asks callers who they are, or others than this host can ask.
    pub token: Option<PathBuf>,
    /// What may be done there, which no policy says; if this does not either, to look where the
    /// agent asks callers who they are or others than this host can ask, and everything where
    /// neither is so. Others than this host only look: what they show can be read on the way.
    pub may: Option<WebRight>,
}

/// A listener that is not served yet.
#[derive(Debug)]
pub(crate) struct Web {
    listener: TcpListener,
    address: SocketAddr,
    gate: Gate,
}

impl Web {
    /// Listens. Where the agent `asks` its callers who they are, a token does so here.
    pub(crate) async fn bind(
        options: &WebOptions,
        name: Option<&str>,
        asks: bool,
    ) -> Result<Self, AgentError> {
        let address = options.listen;
        let token = options.token.as_deref().map(read_token).transpose()?;
        let beyond = !is_this_host(address.ip());
        let may = match options.may {
            Some(WebRight::Order | WebRight::Manage) if beyond => {
                return Err(AgentError::ReadableToken { address });
            }
            Some(may) => may,
            None if asks || beyond => WebRight::Look,
            None => WebRight::Manage,
        };
        match &token {
            None if asks || beyond => {
                return Err(AgentError::NoToken { address });
            }
            Some(token) if token.len() < TOKEN_MIN => return Err(AgentError::ShortToken),
            _ => {}
        }
        let listen = |source| AgentError::ListenHttp { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self { listener, address, gate: Gate::new(token, name.map(str::to_owned), may) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped, and its connections with it.
    pub(crate) async fn serve(self, core: Arc<Core>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let listeners = Arc::new(Semaphore::new(LISTENERS_MAX));
        let room = Room { core, gate: self.gate, newsroom: Arc::default(), listeners };
        let room = Arc::new(room);
        let mut connections = tokio::task::JoinSet::new();
        loop {
            // Nobody closes it.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let room = Arc::clone(&room);
                    connections.spawn(async move {
                        room.speak(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!("no connection over HTTP: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
}

/// A token that others read is no secret.
fn read_token(path: &Path) -> Result<String, AgentError> {
    let unreadable = |source| AgentError::UnreadableToken { path: path.to_owned(), source };
    if !os::is_private(path).map_err(unreadable)? {
        return Err(AgentError::OpenToken { path: path.to_owned() });
    }
    Ok(std::fs::read_to_string(path).map_err(unreadable)?.trim().to_owned())
}

fn is_this_host(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

type Answer = Response<BoxBody<Bytes, Infallible>>;
/// Why something is not answered, and in which words.
type Refusal = (StatusCode, String);

/// What all connections share.
struct Room {
    core: Arc<Core>,
    gate: Gate,
    newsroom: Arc<Newsroom>,
    listeners: Arc<Semaphore>,
}

/// What there is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked<'a> {
    /// A file of the page: its type and its text.
    File(&'static str, &'static str),
    Metrics,
    Events,
    Report(&'a str),
    Map(&'a str),
    Order(Order),
}

impl<'a> Asked<'a> {
    fn of(path: &'a str) -> Option<Self> {
        Some(match path {
            "/" => Self::File("text/html; charset=utf-8", include_str!("page.html")),
            "/page.css" => Self::File("text/css; charset=utf-8", include_str!("page.css")),
            "/page.js" => Self::File("text/javascript; charset=utf-8", include_str!("page.js")),
            "/metrics" => Self::Metrics,
            "/events" => Self::Events,
            "/migrate" => Self::Order(Order::Migrate),
            "/cancel" => Self::Order(Order::Cancel),
            "/resolve" => Self::Order(Order::Resolve),
            path => match path.trim_start_matches('/').split_once('/')? {
                ("report", migration) => Self::Report(migration),
                ("map", guest) => Self::Map(guest),
                _ => return None,
            },
        })
    }

    const fn aim(self) -> Aim {
        match self {
            Self::File(..) => Aim::Page,
            Self::Metrics | Self::Events | Self::Report(_) | Self::Map(_) => Aim::Read,
            Self::Order(order) => Aim::Change(order.needs()),
        }
    }
}

impl Room {
    /// Whoever does not get through the gate soon leaves the place to others.
    async fn speak(self: Arc<Self>, stream: TcpStream) {
        let admitted = Arc::new(AtomicBool::new(false));
        let answer = |request| {
            let (room, admitted) = (Arc::clone(&self), Arc::clone(&admitted));
            async move { Ok::<_, Infallible>(room.answer(request, &admitted).await) }
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::pin!(connection);
        let ended = match timeout(self.core.options.deadlines.handshake, &mut connection).await {
            Err(_) if !admitted.load(Ordering::Relaxed) => {
                return tracing::debug!("a connection over HTTP has shown no token");
            }
            Err(_) => connection.await,
            Ok(ended) => ended,
        };
        if let Err(error) = ended {
            tracing::debug!("a connection over HTTP ended: {error}");
        }
    }

    async fn answer(&self, request: Request<Incoming>, admitted: &AtomicBool) -> Answer {
        match self.route(request, admitted).await {
            Ok(answer) => answer,
            Err((status, why)) => {
                let mut answer = text(status, format!("{why}\n"));
                if status == StatusCode::UNAUTHORIZED {
                    let scheme = HeaderValue::from_static("Bearer");
                    answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
                }
                answer
            }
        }
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        admitted: &AtomicBool,
    ) -> Result<Answer, Refusal> {
        let (head, body) = request.into_parts();
        let asked = Asked::of(head.uri.path());
        // Who may ask for nothing is not told what there is.
        let aim = asked.map_or(Aim::Read, Asked::aim);
        self.gate.check(aim, &head.method, &head.headers)?;
        if aim != Aim::Page || self.gate.asks_nobody() {
            admitted.store(true, Ordering::Relaxed);
        }
        match asked {
            Some(Asked::File(kind, file)) => Ok(with_policy(with_type(kind, file), PAGE_POLICY)),
            Some(Asked::Metrics) => self.metrics().await,
            Some(Asked::Events) => self.events(),
            Some(Asked::Report(migration)) => self.report(migration),
            Some(Asked::Map(guest)) => self.map(guest).await,
            Some(Asked::Order(order)) => {
                let body = whole(body).await?;
                order.carry_out(&self.core, &body).await.map(|said| text(StatusCode::OK, said))
            }
            None => Err((StatusCode::NOT_FOUND, "there is nothing of that name".to_owned())),
        }
    }

    /// A stream that ends with the connection. A listener too many is not kept waiting.
    fn events(&self) -> Result<Answer, Refusal> {
        let place = Arc::clone(&self.listeners).try_acquire_owned().map_err(|_| {
            let why = format!("{LISTENERS_MAX} pages are open already: close one");
            (StatusCode::SERVICE_UNAVAILABLE, why)
        })?;
        let (sender, events) = mpsc::channel(1);
        let telling = Arc::clone(&self.newsroom);
        let telling = telling.tell(Arc::clone(&self.core), self.gate.may(), sender);
        tokio::spawn(async move {
            telling.await;
            drop(place);
        });
        let frames = ReceiverStream::new(events).map(|event| Ok(Frame::data(event)));
        Ok(answer("text/event-stream", StreamBody::new(frames).boxed()))
    }

    async fn metrics(&self) -> Result<Answer, Refusal> {
        let page = self.core.metrics().await.map_err(|status| {
            tracing::warn!("no metrics: {}", status.message());
            (StatusCode::INTERNAL_SERVER_ERROR, status.message().to_owned())
        })?;
        Ok(with_type(metrics::CONTENT_TYPE, page))
    }

    fn report(&self, migration: &str) -> Result<Answer, Refusal> {
        let status = self.core.look_up(migration).map_err(|status| not_found(&status))?;
        let page = report_html(&status, &self.core.address.to_string());
        Ok(with_policy(with_type("text/html; charset=utf-8", page), REPORT_POLICY))
    }

    /// Where the memory of a guest that moves away is. Nothing looks for that unless it is asked.
    /// A guest that has just gone is no error: the page has not heard of it yet.
    async fn map(&self, guest: &str) -> Result<Answer, Refusal> {
        let Ok(map) = self.core.memory_map(guest).await else {
            return Ok(text(StatusCode::NO_CONTENT, String::new()));
        };
        let body = serde_json::json!({ "pages_per_cell": map.pages_per_cell, "cells": map.cells });
        Ok(with_type("application/json", body.to_string()))
    }
}

fn not_found(status: &tonic::Status) -> Refusal {
    (StatusCode::NOT_FOUND, status.message().to_owned())
}

/// All of a body that is neither too long nor too slow.
async fn whole(body: Incoming) -> Result<Bytes, Refusal> {
    let body = timeout(BODY_WITHIN, Limited::new(body, BODY_MAX).collect()).await;
    let late = |_| (StatusCode::REQUEST_TIMEOUT, "the order does not come".to_owned());
    let long = |_| (StatusCode::PAYLOAD_TOO_LARGE, "no order is so long".to_owned());
    Ok(body.map_err(late)?.map_err(long)?.to_bytes())
}

/// Nothing of the page comes from elsewhere, nothing goes elsewhere, and no page has it in a frame.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// A report has its style within it, and nothing else.
const REPORT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
    frame-ancestors 'none'";

fn with_policy(mut answer: Answer, policy: &'static str) -> Answer {
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    answer
}

fn text(status: StatusCode, said: String) -> Answer {
    let mut answer = with_type("text/plain; charset=utf-8", said);
    *answer.status_mut() = status;
    answer
}

fn with_type(kind: &'static str, said: impl Into<Bytes>) -> Answer {
    answer(kind, Full::new(said.into()).boxed())
}

fn answer(kind: &'static str, body: BoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    let headers: [(HeaderName, &'static str); 4] = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}
