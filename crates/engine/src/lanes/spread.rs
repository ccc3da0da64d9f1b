//! Lanes over paths: where one is opened, when it moves, and how a path that failed is found to
//! work again.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use whimbrel_protocol::LaneId;
use whimbrel_protocol::batch::{LANE_ANSWER_SIZE, LaneAnswer, LaneHello};
use whimbrel_transport::{
    End, Lane, LaneHandle, LaneSecret, Path, Purpose, Stream, connect, greet, look,
};

use super::paths::PathId;
use super::source::{LaneEvent, Shared, SourceLanes, Stage, State};
use super::{LaneOptions, sign};
use crate::link::Connection;
use crate::progress::PathReport;

impl SourceLanes {
    /// Lanes that are opened from now on are signed with this: they belong to the control
    /// connection that it came from.
    pub(crate) fn sign_with(&self, secret: Option<LaneSecret>) {
        self.shared.lock().secret = secret;
    }

    /// Opens the control connection, which was lost if this was asked before: over another path
    /// then, and over one after the other until one can be reached. `address` is where to where
    /// nobody said any path. Who waits for this keeps no memory.
    pub(crate) fn call(
        &self,
        address: SocketAddr,
        within: Duration,
    ) -> impl Future<Output = Result<Connection, String>> + Send + use<> {
        let (shared, options) = (Arc::downgrade(&self.shared), self.shared.options.clone());
        async move {
            let mut tried = 0;
            loop {
                let Some((path, paths)) = control_path(&shared, address) else {
                    return Err("the migration has ended".into());
                };
                tried += 1;
                // One that swallows everything must not use up the time of the others.
                let within = if paths > 1 { within.min(options.open_timeout) } else { within };
                match Connection::call(&path, &options, within).await {
                    Err(why) if tried < paths => tracing::info!("path {path}: {why}"),
                    done => return done,
                }
            }
        }
    }

    /// What has to be done now and then: heeds what was said of paths, looks at those that were
    /// out, and moves a lane that is needed elsewhere. Needs a tokio runtime.
    pub(crate) fn tend(&self) {
        let mut state = self.shared.lock();
        self.shared.heed(&mut state);
        if state.paths.is_single() || state.stopped {
            return;
        }
        let now = Instant::now();
        for (id, path) in state.paths.due_for_a_look(now) {
            let options = &self.shared.options;
            let (tuning, carrier) = (options.tuning.clone(), options.carrier.clone());
            let (within, shared) = (options.open_timeout, Arc::downgrade(&self.shared));
            tokio::spawn(async move {
                let works = look(&path, &tuning, &carrier, within).await.is_ok();
                looked(&shared, id, works);
            });
        }
        state.count_spread();
        let State { paths, spread, last, .. } = &mut *state;
        let from = if *last { None } else { paths.surplus(spread, now) };
        if let Some(lane) = from.and_then(|from| state.one_on(from)) {
            state.begin_move(lane);
        }
    }

    /// Every path there is or was.
    pub(crate) fn path_reports(&self) -> Vec<PathReport> {
        let mut state = self.shared.lock();
        state.count_spread();
        state.paths.reports(&state.spread)
    }
}

/// The next path for the control connection, and how many there are.
fn control_path(shared: &Weak<Shared>, address: SocketAddr) -> Option<(Path, usize)> {
    let shared = shared.upgrade()?;
    let mut state = shared.lock();
    shared.heed(&mut state);
    state.paths.or_to(address);
    if let Some(lost) = state.paths.lost_control() {
        shared.path_failed(&mut state, lost, "the control connection was lost, or not to be had");
    }
    let chosen = state.paths.choose_control();
    Some((state.paths.path(chosen).clone(), state.paths.count()))
}

/// A path that was out was looked at. Who looks keeps nothing alive.
fn looked(shared: &Weak<Shared>, id: PathId, works: bool) {
    let Some(shared) = shared.upgrade() else { return };
    let mut state = shared.lock();
    match works {
        true => shared.path_works(&mut state, id),
        false => drop(state.paths.failed(id, Instant::now())),
    }
}

impl Shared {
    fn heed(&self, state: &mut State) {
        let paths = self.options.traffic.new_paths();
        let limits = self.options.traffic.new_limits();
        let news = limits.is_some() || paths.is_some() && !state.pace.limits().paths.is_empty();
        if let Some(paths) = paths {
            state.paths.replace(paths);
        }
        if let Some(limits) = limits {
            state.pace.set(&limits, self.at(Instant::now()));
            // They wait by what held before.
            state.wake_idle(usize::MAX);
        }
        if news {
            self.tell_limits(state);
        }
    }

    /// What a forecast may count on: paths come and go, and with them their limits.
    fn tell_limits(&self, state: &State) {
        let (rounds, last) = state.pace.limits().least(&state.paths.sources());
        self.tell(LaneEvent::Limited { rounds, last });
    }

    /// The path for a lane that is about to be opened.
    pub(super) fn first_path(&self, state: &mut State, address: SocketAddr) -> PathId {
        self.heed(state);
        state.paths.or_to(address);
        state.count_spread();
        state.paths.choose(&state.spread, &[]).expect("paths are taken away, but not the last one")
    }

    /// The lane behind a connection that stands.
    async fn greet(&self, mut stream: Stream, hello: &LaneHello) -> Result<Box<dyn Lane>, String> {
        let LaneOptions { carrier, open_timeout, stall_timeout, .. } = &self.options;
        let secret = self.lock().secret.clone();
        let (hello, mut answer) = (hello.encode(), [0; LANE_ANSWER_SIZE]);
        let greeted = greet(&mut stream, &hello, &mut answer, *open_timeout).await;
        greeted.map_err(|error| error.to_string())?;
        // wire.md B3: nothing is sent before this says so.
        let LaneAnswer(answer) = LaneAnswer::decode(&answer).map_err(|error| error.to_string())?;
        answer.map_err(|refusal| refusal.to_string())?;
        let lane = stream.into_lane(*stall_timeout).map_err(|error| error.to_string())?;
        sign(lane, carrier, secret, &hello, End::Source)
    }

    /// Opens a lane over `path`, or over another one that can be reached: up to the greeting the
    /// lane's ticket is good for any.
    pub(super) async fn connect(
        &self,
        mut path: PathId,
        hello: &LaneHello,
    ) -> Result<(Box<dyn Lane>, PathId), String> {
        let mut tried = Vec::new();
        loop {
            let way = self.lock().paths.path(path).clone();
            let LaneOptions { tuning, carrier, open_timeout, .. } = &self.options;
            let carrier = (carrier, Purpose::Bulk);
            let error = match connect(&way, tuning, carrier, *open_timeout).await {
                Ok(stream) => {
                    self.path_works(&mut self.lock(), path);
                    return Ok((self.greet(stream, hello).await?, path));
                }
                Err(error) => error,
            };
            tried.push(path);
            let mut state = self.lock();
            self.path_failed(&mut state, path, &error.to_string());
            state.count_spread();
            path = state.paths.choose(&state.spread, &tried).ok_or_else(|| error.to_string())?;
            if let Some(entry) = state.lanes.get_mut(&hello.lane) {
                entry.path = Some(path);
            }
        }
    }

    pub(super) fn path_failed(&self, state: &mut State, id: PathId, why: &str) {
        let news = state.paths.failed(id, Instant::now());
        if news && !state.paths.is_single() {
            let path = state.paths.path(id);
            self.tell(LaneEvent::Path(format!("path {path} is out of use: {why}")));
            self.tell_limits(state);
        }
    }

    fn path_works(&self, state: &mut State, id: PathId) {
        if state.paths.works(id, Instant::now()) && !state.paths.is_single() {
            let path = state.paths.path(id);
            self.tell(LaneEvent::Path(format!("path {path} works again")));
            self.tell_limits(state);
        }
    }
}

impl State {
    /// Counts how many lanes are on each path, or about to be. Every taking asks for it where there
    /// are several paths: it allocates nothing.
    pub(super) fn count_spread(&mut self) {
        let Self { spread, paths, lanes, .. } = self;
        spread.clear();
        spread.resize(paths.count(), 0);
        let living = lanes.values().filter(|entry| !entry.moving);
        let living = living.filter(|entry| matches!(entry.stage, Stage::Opening | Stage::Running));
        living.filter_map(|entry| entry.path).for_each(|path| spread[path.place()] += 1);
    }

    fn one_on(&self, path: PathId) -> Option<LaneId> {
        let on = self.lanes.iter().filter(|(_, entry)| entry.path == Some(path) && !entry.moving);
        on.filter(|(_, entry)| entry.stage == Stage::Running).map(|(lane, _)| *lane).next_back()
    }

    pub(super) fn begin_move(&mut self, lane: LaneId) {
        let Some(entry) = self.lanes.get_mut(&lane) else { return };
        entry.moving = true;
        entry.handle.iter().for_each(LaneHandle::wake);
    }

    /// Whether the lane is to end when all it sent has landed.
    pub(super) fn is_moving(&self, lane: LaneId) -> bool {
        self.lanes.get(&lane).is_some_and(|entry| entry.moving)
    }
}
