//! The relay of one guest: clients on one side, the guest wherever it runs on the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use whimbrel_control::api;
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_guest::kv::Turns;

use super::client::{Client, Event};
use super::owner::{Hint, Owner, Search};
use super::room::SharedRoom;
use super::{PAUSE, PAUSE_MAX};
use crate::agent::Core;

/// Events of clients that wait for the hub.
const EVENTS_MAX: usize = 256;
/// Bytes of words after which the next ones go into another frame.
const FRAME_MAX: usize = 512 << 10;
/// How long nobody is asked for a guest that is not found, as long as nobody waits for it.
const UNASKED: Duration = Duration::from_secs(60);
/// Clients at a time; one more than guests take, so that they are told.
const CLIENTS_MAX: usize = 10_001;

/// How a hub and whoever looks after it see each other.
pub(super) struct Looks {
    /// How many clients there are.
    pub(super) carried: Arc<AtomicU64>,
    /// The hub is to cut them, and to end.
    pub(super) let_go: Arc<Notify>,
}

pub(super) struct Hub {
    core: Arc<Core>,
    guest: GuestUuid,
    run: u64,
    entrance: Entrance,
    clients: BTreeMap<u64, Client>,
    looks: Looks,
    /// Clients are cut, and nobody is let in: the guest has to hear of it.
    letting_go: bool,
    /// When the guest was there last.
    found: Instant,
    last_id: u64,
    /// Room for what clients have said.
    room: SharedRoom,
    /// Clients of which the guest is to hear.
    news: Turns<u64>,
    events: mpsc::Receiver<Event>,
    to_events: mpsc::Sender<Event>,
    /// Where an agent has said that the guest goes.
    hint: Option<Hint>,
    /// The agent where it was last; none if that was on this host.
    before: Option<String>,
    /// It was not found there: the next search begins with the record.
    by_record: bool,
    /// It is not found, and people were told.
    missed: bool,
}

enum Input {
    Client(TcpStream),
    Event(Event),
    LetGo,
}

impl Hub {
    pub(super) fn new(
        core: Arc<Core>,
        guest: GuestUuid,
        run: u64,
        listener: TcpListener,
        looks: Looks,
    ) -> Self {
        let (to_events, events) = mpsc::channel(EVENTS_MAX);
        Self {
            core,
            guest,
            run,
            entrance: Entrance { listener, shut_until: Instant::now() },
            clients: BTreeMap::new(),
            looks,
            letting_go: false,
            found: Instant::now(),
            last_id: 0,
            room: SharedRoom::new(),
            news: Turns::default(),
            events,
            to_events,
            hint: None,
            before: None,
            by_record: false,
            missed: false,
        }
    }

    /// Relays until the task is ended, or the guest has heard that its clients were let go.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE;
        loop {
            let owner = self.find().await;
            let found = Instant::now();
            let was_there = match owner {
                Some(owner) => self.serve(owner).await,
                None => false,
            };
            if self.is_done() {
                return;
            }
            self.give_up(was_there);
            if was_there && found.elapsed() > PAUSE_MAX {
                // It moves: its clients are to wait for that and for nothing else.
                pause = PAUSE;
                continue;
            }
            // Two agents that each think the guest is with the other must not be asked in turns,
            // nor one without end that lets go at once.
            let leads = self.hint.is_some() && pause < PAUSE_MAX;
            pause = if was_there { PAUSE } else { (pause * 2).min(PAUSE_MAX) };
            if was_there || leads || self.is_waited_for() {
                self.meanwhile(sleep(pause)).await;
            } else {
                self.idle().await;
                pause = PAUSE;
            }
        }
    }

    /// Of the migration that the guest is in, or was in last.
    fn span(&self) -> tracing::Span {
        let guest = self.core.guests.get(self.guest);
        guest.map_or_else(tracing::Span::none, |guest| guest.span())
    }

    /// Somebody is there whom the guest concerns.
    fn is_waited_for(&self) -> bool {
        self.letting_go || !self.clients.is_empty()
    }

    /// Nobody is, until somebody comes, or for a while.
    async fn idle(&mut self) {
        let comes = async {
            while !self.is_waited_for() {
                let input = input(&mut self.entrance, &mut self.events, &self.looks.let_go).await;
                self.take_in(input);
            }
        };
        let _ = timeout(UNASKED, comes).await;
    }

    /// Nobody is left of whom the guest does not know that they are gone.
    fn is_done(&self) -> bool {
        self.letting_go && self.clients.is_empty()
    }

    /// Clients are not kept waiting for a guest that is nowhere; one that is here stands still.
    fn give_up(&mut self, was_there: bool) {
        let here = self.core.guests.get(self.guest).is_some_and(|guest| !guest.is_dead());
        if was_there || here {
            self.found = Instant::now();
            return;
        }
        let within = self.core.options.deadlines.relay;
        if self.clients.is_empty() || self.found.elapsed() < within {
            return;
        }
        let (clients, at) = (self.clients.len(), self.before.as_deref().unwrap_or("this host"));
        let _within = self.span().entered();
        tracing::error!(
            guest = %self.guest, clients, at,
            "its clients are disconnected: it was not found for {within:?}; it was there last"
        );
        self.clients.clear();
        self.news = Turns::default();
        self.count();
    }

    /// Cuts all clients. They are kept until the guest has heard that they are gone.
    fn let_go(&mut self) {
        self.letting_go = true;
        self.clients.values_mut().for_each(Client::cut);
        self.news = self.clients.keys().copied().collect();
    }

    /// Goes on with clients until `other` is done.
    async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        loop {
            tokio::select! {
                done = &mut other => return done,
                input = input(&mut self.entrance, &mut self.events, &self.looks.let_go) => {
                    self.take_in(input);
                }
            }
        }
    }

    /// Looks for the guest for a while.
    async fn find(&mut self) -> Option<Owner> {
        let held = self.clients.iter_mut().map(|(id, client)| client.attach(*id)).collect();
        self.news = self.clients.keys().copied().collect();
        let attach = api::RelayAttach {
            guest_uuid: self.guest.to_string(),
            host: self.core.folder.host(),
            run: self.run,
            held,
            last: self.last_id,
            asks: String::new(),
        };
        let search = Search {
            core: Arc::clone(&self.core),
            guest: self.guest,
            attach,
            hint: self.hint.take(),
            before: self.before.clone(),
            by_record: self.by_record,
        };
        self.by_record = !self.by_record;
        let owner = self.meanwhile(search.attach()).await;
        let missed = owner.is_none() && !self.clients.is_empty();
        let told = std::mem::replace(&mut self.missed, missed);
        if self.missed && !told {
            let at = self.before.as_deref().unwrap_or("this host");
            let _within = self.span().entered();
            tracing::warn!(guest = %self.guest, at, "its clients wait: it is not found");
        }
        owner
    }

    /// Relays to the guest as long as it is there; says whether it ever was.
    async fn serve(&mut self, mut owner: Owner) -> bool {
        let mut was_there = false;
        while !self.is_done() {
            let news = !self.news.is_empty();
            tokio::select! {
                frame = owner.said.message() => match frame {
                    Ok(Some(frame)) if frame.moved_to.is_empty() => {
                        if !std::mem::replace(&mut was_there, true) {
                            (self.before, self.by_record) = (owner.agent.clone(), false);
                        }
                        if !self.hear(&frame) {
                            let _within = self.span().entered();
                            tracing::error!(guest = %self.guest, "it does not say what follows");
                            return was_there;
                        }
                    }
                    Ok(Some(frame)) => {
                        let to = frame.moved_to;
                        self.hint = owner.agent.map(|by| Hint { to, by });
                        return was_there;
                    }
                    Ok(None) | Err(_) => return was_there,
                },
                permit = owner.says.reserve(), if news => match permit {
                    Ok(permit) => permit.send(self.frame()),
                    Err(_) => return was_there,
                },
                input = input(&mut self.entrance, &mut self.events, &self.looks.let_go) => {
                    self.take_in(input);
                }
            }
        }
        was_there
    }

    /// What has come of clients, and what has come since.
    fn take_in(&mut self, input: Option<Input>) {
        match input {
            Some(Input::Client(stream)) => self.welcome(stream),
            Some(Input::Event(event)) => self.happens(event),
            Some(Input::LetGo) => self.let_go(),
            None => {}
        }
        for _ in 0..EVENTS_MAX {
            let Ok(event) = self.events.try_recv() else { break };
            self.happens(event);
        }
    }

    fn welcome(&mut self, stream: TcpStream) {
        if self.letting_go || self.clients.len() >= CLIENTS_MAX {
            return;
        }
        self.last_id += 1;
        let client = Client::new(self.last_id, stream, &self.to_events, self.room.clone());
        self.clients.insert(self.last_id, client);
        self.news.insert(self.last_id);
        self.count();
    }

    fn happens(&mut self, event: Event) {
        let id = match event {
            Event::Said(id, _) | Event::Wrote(id, _) | Event::Ended(id) | Event::Closed(id) => id,
        };
        let Some(client) = self.clients.get_mut(&id) else { return };
        match event {
            Event::Said(_, bytes) => client.said(&bytes),
            Event::Wrote(_, count) => client.wrote(count),
            Event::Ended(_) => client.end(),
            Event::Closed(_) => client.close(),
        }
        self.news.insert(id);
    }

    fn hear(&mut self, frame: &api::GuestFrame) -> bool {
        for word in &frame.words {
            if word.gone {
                self.clients.remove(&word.connection);
                self.news.remove(&word.connection);
                continue;
            }
            // One that has gone here is gone there as soon as the guest hears of it.
            let Some(client) = self.clients.get_mut(&word.connection) else { continue };
            if !client.hear(word) {
                return false;
            }
            self.news.insert(word.connection);
        }
        self.count();
        true
    }

    fn count(&self) {
        self.looks.carried.store(self.clients.len() as u64, Ordering::Relaxed);
    }

    /// News of clients, in one frame.
    fn frame(&mut self) -> api::RelayFrame {
        let (mut words, mut size, mut unfinished) = (Vec::new(), 0, Vec::new());
        while size < FRAME_MAX
            && let Some(id) = self.news.take()
        {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            let start = words.len();
            if client.words(id, &mut words) {
                unfinished.push(id);
            }
            size += words[start..].iter().map(prost::Message::encoded_len).sum::<usize>();
        }
        self.news.extend(unfinished);
        api::RelayFrame { attach: None, words }
    }
}

/// Where clients come in.
struct Entrance {
    listener: TcpListener,
    shut_until: Instant,
}

impl Entrance {
    /// A client, unless one could not be let in.
    async fn accept(&mut self) -> Option<TcpStream> {
        sleep_until(self.shut_until).await;
        match self.listener.accept().await {
            Ok((stream, _)) => Some(stream),
            Err(error) => {
                tracing::warn!("a client was not let in: {error}");
                // No more sockets, most likely: others have to close first.
                self.shut_until = Instant::now() + PAUSE_MAX;
                None
            }
        }
    }
}

/// The next thing that comes of clients; nothing if one could not be let in.
async fn input(
    entrance: &mut Entrance,
    events: &mut mpsc::Receiver<Event>,
    let_go: &Notify,
) -> Option<Input> {
    tokio::select! {
        () = let_go.notified() => Some(Input::LetGo),
        event = events.recv() => event.map(Input::Event),
        stream = entrance.accept() => stream.map(Input::Client),
    }
}

// Others have no listener at hand at which nobody can be let in.
#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// Something at which nobody can be let in, and what keeps it so.
    async fn broken() -> (TcpListener, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = listener.accept().await.unwrap().0.into_std().unwrap();
        // It is readable, but a connection and no listener.
        tokio::io::AsyncWriteExt::write_all(&mut far, b"x").await.unwrap();
        let listener = std::net::TcpListener::from(std::os::fd::OwnedFd::from(stream));
        (TcpListener::from_std(listener).unwrap(), far)
    }

    #[tokio::test]
    async fn those_who_are_in_do_not_wait_for_those_who_cannot_be_let_in() {
        let (listener, _far) = broken().await;
        let mut entrance = Entrance { listener, shut_until: Instant::now() };
        let (says, mut events) = mpsc::channel(1);
        let let_go = Notify::new();
        let began = Instant::now();
        assert!(input(&mut entrance, &mut events, &let_go).await.is_none());
        assert!(entrance.shut_until >= began + PAUSE_MAX, "the next is tried at once");
        // However long it is shut.
        entrance.shut_until += UNASKED;
        says.send(Event::Ended(1)).await.unwrap();
        let said = input(&mut entrance, &mut events, &let_go).await;
        assert!(matches!(said, Some(Input::Event(Event::Ended(1)))));
        assert!(Instant::now() < entrance.shut_until);
    }
}
