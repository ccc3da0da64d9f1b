//! Clients of guests, whose sockets the agent holds: they stay connected while the guest moves.
//!
//! ```text
//!  client ══ socket ══ Hub ══ Relay ══► guest process here
//!                       └──── Relay ══► the agent where it went ══ Relay ══► guest process there
//! ```
//!
//! A hub keeps what a client says until the guest's memory has it, and the guest keeps what it
//! replies until the client has it; both count from the connection's first byte. So a hub that
//! attaches to the guest anew, wherever that is, goes on where they stand. A guest that left is
//! relayed to until this host is told to let go of it. An agent that a guest leaves tells the hubs
//! of others where it goes, and they ask there: no agent stands between a hub and the guest's own.
//! A hub does **not** look into what is said.

mod client;
mod hub;
mod owner;
mod room;
pub(crate) mod words;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::iter::once_with;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _, iter, once};
use tonic::{Status, Streaming};
use whimbrel_control::{AgentAddress, Client, api};
use whimbrel_engine::protocol::{GuestUuid, Standing};
use whimbrel_engine::transport;

use crate::access::Authenticated;
use crate::agent::Core;
use crate::convert::parse_uuid;
use crate::guests::Guest;
use crate::os;
use crate::process_api::GuestFile;
use hub::{Hub, Looks};

/// What an agent's relay hears of a guest.
pub(crate) type GuestFrames =
    Pin<Box<dyn Stream<Item = Result<api::GuestFrame, Status>> + Send + 'static>>;

/// Between attempts to find a guest: at first, and at most.
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// How soon it is noticed that another host is not trusted any more.
const TRUST_LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// Frames on their way through this agent.
const PASSING_MAX: usize = 8;

/// An address that is listened at, before there is anything to relay to.
pub(crate) struct Door(TcpListener);

impl Door {
    pub(crate) fn address(&self) -> String {
        self.0.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }
}

/// Listens where the clients of a guest that is asked for are to connect, if it has any.
pub(crate) async fn door(config: &api::GuestConfig) -> Result<Option<Door>, Status> {
    let Some(api::guest_config::Kind::Kv(kv)) = &config.kind else { return Ok(None) };
    let address = if kv.listen.is_empty() { "127.0.0.1:0" } else { &kv.listen };
    let address: SocketAddr = address.parse().map_err(|_| {
        let why = format!("`{address}` is not an address and port to listen at for clients");
        Status::invalid_argument(why)
    })?;
    let listener = os::listen(address).await.map_err(|error| {
        let why = format!("cannot listen at {address} for the guest's clients: {error}");
        Status::failed_precondition(why)
    })?;
    Ok(Some(Door(listener)))
}

struct Relay {
    address: String,
    carried: Arc<AtomicU64>,
    task: JoinHandle<()>,
    let_go: Arc<Notify>,
    /// A connection to where the guest is about to go.
    way: Option<Client>,
}

/// All relays of this agent.
pub(crate) struct Relays {
    /// Which run of this agent: connections of an older one are gone.
    run: u64,
    relays: Mutex<BTreeMap<GuestUuid, Relay>>,
}

impl Relays {
    pub(crate) fn new() -> io::Result<Self> {
        let run = getrandom::u64().map_err(io::Error::other)?;
        Ok(Self { run, relays: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<GuestUuid, Relay>> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where this host takes clients of a guest, and how many it carries.
    pub(crate) fn look(&self, guest: GuestUuid) -> Option<(String, u64)> {
        let relays = self.lock();
        let relay = relays.get(&guest)?;
        Some((relay.address.clone(), relay.carried.load(Ordering::Relaxed)))
    }

    /// A guest that has clients is about to go there: they are not to wait for a connection then.
    pub(crate) fn set_way(&self, guest: GuestUuid, way: &Client) {
        if let Some(relay) = self.lock().get_mut(&guest) {
            relay.way = Some(way.clone());
        }
    }

    /// The connection to `peer` that was kept for this; the next one is a new one.
    fn take_way(&self, guest: GuestUuid, peer: &AgentAddress) -> Option<Client> {
        self.lock().get_mut(&guest)?.way.take_if(|way| way.address() == peer)
    }
}

impl Core {
    /// Relays clients that come through this door to the guest, wherever it is.
    pub(crate) fn relay(self: &Arc<Self>, guest: &Guest, door: Door) {
        let (address, carried) = (door.address(), Arc::new(AtomicU64::new(0)));
        tracing::info!(guest = %guest.config.name, address, "clients are taken");
        let (core, run) = (Arc::clone(self), self.relays.run);
        let let_go = Arc::new(Notify::new());
        let looks = Looks { carried: Arc::clone(&carried), let_go: Arc::clone(&let_go) };
        let task = tokio::spawn(Hub::new(core, guest.uuid, run, door.0, looks).run());
        let relay = Relay { address, carried, task, let_go, way: None };
        if let Some(old) = self.relays.lock().insert(guest.uuid, relay) {
            old.task.abort();
        }
    }

    /// Cuts the clients of a guest that runs elsewhere, and has it hear of that, if it can be heard
    /// in time; how many there were.
    async fn cut_clients(&self, guest: GuestUuid) -> Option<u64> {
        let mut relay = self.relays.lock().remove(&guest)?;
        let carried = relay.carried.load(Ordering::Relaxed);
        relay.let_go.notify_one();
        if timeout(self.options.deadlines.peer_call, &mut relay.task).await.is_err() {
            tracing::warn!(%guest, "it was not told that its clients are gone: it counts them yet");
            relay.task.abort();
        }
        Some(carried)
    }

    /// Lets go of a guest's clients with the guest; how many there were.
    pub(crate) fn end_relay(&self, guest: GuestUuid) -> Option<u64> {
        let relay = self.relays.lock().remove(&guest)?;
        relay.task.abort();
        Some(relay.carried.load(Ordering::Relaxed))
    }

    /// Takes clients of a guest that has come here: where they came at the source, if that can be
    /// listened at on this host, and near it otherwise.
    pub(crate) async fn take_over_port(self: &Arc<Self>, guest: &Guest) {
        let asked = &guest.config.service_address;
        if asked.is_empty() {
            return;
        }
        if self.relays.look(guest.uuid).is_none() {
            match os::listen(served_at(asked, transport::near).as_slice()).await {
                Ok(listener) => self.relay(guest, Door(listener)),
                Err(error) => {
                    let name = &guest.config.name;
                    tracing::error!(guest = name, "its clients are not taken here: {error}");
                    return;
                }
            }
        }
        // The next agent of this folder listens there too.
        let service_address = self.relays.look(guest.uuid).map(|(at, _)| at).unwrap_or_default();
        let config = GuestFile { service_address, ..guest.config.clone() };
        if let Err(error) = guest.folder.keep_config(config).await {
            tracing::error!(guest = %guest.config.name, "its port is not remembered: {error}");
        }
    }

    /// Listens where the agent before this one took clients of the guest.
    pub(crate) async fn listen_again(self: &Arc<Self>, guest: &Guest) {
        let address = &guest.config.service_address;
        if address.is_empty() {
            return;
        }
        match os::listen(address).await {
            Ok(listener) => self.relay(guest, Door(listener)),
            Err(error) => {
                let name = &guest.config.name;
                tracing::error!(guest = name, address, "its clients are not taken: {error}");
            }
        }
    }

    /// This host is told to let go of a guest that runs elsewhere.
    pub(crate) async fn release_guest(
        self: Arc<Self>,
        request: api::ReleaseGuestRequest,
    ) -> Result<api::ReleaseGuestResponse, Status> {
        let guest = self.guests.find(&request.guest)?;
        let name = &guest.config.name;
        // Who has moved away is said to be gone before all that is done; its port is noted last.
        self.bury(&guest).await?;
        if !guest.is_dead() {
            let why = format!("guest `{name}` is here: its clients are let go with it, by `stop`");
            return Err(Status::failed_precondition(why));
        }
        let carried = self.cut_clients(guest.uuid).await.ok_or_else(|| {
            Status::failed_precondition(format!("no clients of guest `{name}` come here"))
        })?;
        let config =
            GuestFile { stopped: true, service_address: String::new(), ..guest.config.clone() };
        guest.folder.write_config(&config).map_err(|error| {
            Status::internal(format!("the guest's folder cannot be written: {error}"))
        })?;
        tracing::info!(guest = name, carried, "its clients are let go");
        Ok(api::ReleaseGuestResponse { carried })
    }

    /// Another agent's relay attaches to a guest through this one, for as long as it is `trusted`.
    pub(crate) async fn pass_on(
        self: Arc<Self>,
        mut frames: Streaming<api::RelayFrame>,
        who: &Authenticated,
        trusted: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<GuestFrames, Status> {
        let first = frames.message().await?.unwrap_or_default();
        let named = first.attach.as_ref().and_then(|attach| parse_uuid(&attach.guest_uuid));
        let uuid = named.ok_or_else(|| Status::invalid_argument("a relay attaches first"))?;
        let guest = self.guests.get(uuid);
        let guest = guest.ok_or_else(|| Status::not_found("there is no such guest here"))?;
        guest.check_relay(who.0.as_ref())?;
        let asks = first.attach.as_ref().map(|attach| attach.asks.clone()).unwrap_or_default();
        if let Some(leads) = self.leads_to(&guest, &asks) {
            return Ok(Box::pin(once(Ok(leads))));
        }
        let mut link = guest.link(self.options.deadlines).await?;
        let (pass, passing) = mpsc::channel(PASSING_MAX);
        // A new channel has room.
        let _ = pass.try_send(first);
        let said = link.relay(passing).await?;
        let (end, ended) = mpsc::channel(1);
        tokio::spawn(async move {
            let passing = async {
                while let Ok(Some(frame)) = frames.message().await {
                    if pass.send(frame).await.is_err() {
                        return;
                    }
                }
                // It may listen yet.
                std::future::pending::<()>().await;
            };
            let lost = async {
                let mut look = tokio::time::interval(TRUST_LOOKED_AT_EVERY);
                while trusted() {
                    look.tick().await;
                }
            };
            tokio::select! {
                () = passing => {}
                () = end.closed() => {}
                () = lost => {
                    tracing::warn!("a relay is let go: its host is not trusted any more");
                    // It may have gone by itself.
                    let _ = end.send(()).await;
                }
            }
        });
        // A guest that lets go of its clients is about to go on elsewhere: they need not ask where.
        let leads = move || self.leads_to(&guest, "").map(Ok);
        let said = said.chain(iter(once_with(leads).flatten())).map(Some).chain(once(None));
        let ended = ReceiverStream::new(ended).map(|()| None);
        Ok(Box::pin(said.merge(ended).map_while(|said| said)))
    }

    /// Where a guest went, or is about to go, for a relay that does not ask there as it `asks`.
    fn leads_to(&self, guest: &Guest, asks: &str) -> Option<api::GuestFrame> {
        let record = self.entry(guest).ok()??.record;
        let tells = match record.standing {
            Standing::Switching | Standing::Granted | Standing::Ceded | Standing::Refused => true,
            Standing::MayOwn => guest.is_dead(),
            Standing::Owner | Standing::Running => false,
        };
        let moved_to = record.peer;
        let tells = tells && !moved_to.is_empty() && moved_to != asks;
        tells.then(|| api::GuestFrame { words: Vec::new(), moved_to })
    }
}

/// Where clients may be taken that came to `asked` at the source, the first of these that can be
/// had: there, at another port, at this host's address `near` it in its network. Nobody is served
/// to another network than before: without such an address, to this host alone.
fn served_at(asked: &str, near: impl Fn(IpAddr) -> Option<IpAddr>) -> Vec<SocketAddr> {
    let Ok(asked) = asked.parse::<SocketAddr>() else { return Vec::new() };
    let ip = asked.ip();
    let mut places = vec![asked, SocketAddr::new(ip, 0)];
    if !ip.is_loopback() && !ip.is_unspecified() {
        let alone = if ip.is_ipv4() { LOCALHOST_V4 } else { LOCALHOST_V6 };
        let near = near(ip).unwrap_or(alone);
        places.extend([asked.port(), 0].map(|port| SocketAddr::new(near, port)));
    }
    places
}

const LOCALHOST_V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOCALHOST_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
