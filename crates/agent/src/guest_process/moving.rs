//! A migration as this process sees it: the engine does it, the agent watches it.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tonic::Status;
use tracing::Instrument;
use whimbrel_control::api;
use whimbrel_engine::memory::{TrackerKind, probe};
use whimbrel_engine::page::ByteCount;
use whimbrel_engine::protocol::Token;
use whimbrel_engine::protocol::limits::LANES_MAX;
use whimbrel_engine::{
    Carrier, Congestion, DestinationAddress, Ended, Failure, Fault, HungGuest, Identity, Incoming,
    IncomingOptions, Journal as _, LaneOptions, Outcome, Outgoing, OutgoingOptions, Progress,
    Returned, Traffic,
};

use super::expected::Expected;
use super::peer::PeerAgent;
use super::worker::{Held, Kept, Phase, Worker};
use crate::deadlines::MigrationDeadlines;
use crate::lock::lock;
use crate::log::migration_span;
use crate::os::{self, Usage};
use crate::{carriers, convert, kinds, networks, process_api as process, stress};

/// How long a guest that has arrived may take to its first heartbeat, which has seen the blackout.
const FIRST_BEAT_WITHIN: Duration = Duration::from_secs(2);

impl Worker {
    /// Makes a key for the next migration from here.
    pub(super) fn certify(&self) -> Result<process::CertifyResponse, Status> {
        let made = carriers::identity(api::Carrier::Tls)?;
        let certificate_sha256 = carriers::told(made.as_ref());
        *lock(&self.identity) = made;
        Ok(process::CertifyResponse { certificate_sha256 })
    }

    /// The key for the migration that begins.
    fn take_identity(&self) -> Option<Arc<Identity>> {
        lock(&self.identity).take()
    }

    /// Sends the guest away.
    pub(super) async fn migrate(
        self: Arc<Self>,
        request: process::MigrateRequest,
    ) -> Result<process::MigrateResponse, Status> {
        let carrier = request.carrier();
        let (own, peer) = (self.take_identity(), &request.certificate_sha256);
        let carried = carriers::engines(carrier, own, peer, || request.address.clone().into())?;
        let destination = destination(&request)?;
        let asked = request.options.unwrap_or_default();
        let deadlines = MigrationDeadlines::from(request.deadlines);
        let paths = networks::from_agent(&request.paths)?;
        let (traffic, path_count) = (Traffic::default(), paths.len());
        traffic.set_paths(paths);
        traffic.set_limits(super::traffic::limits(request.limits.as_ref())?);
        let mut options = OutgoingOptions {
            source: convert::source_options(&asked, &deadlines)?,
            scrub: convert::scrub(&asked)?,
            lanes: LaneOptions {
                pin: request.pin_lanes,
                traffic: traffic.clone(),
                carrier: carried,
                ..lanes(&asked, &deadlines)?
            },
            reacquire_timeout: deadlines.reacquire,
            return_timeout: deadlines.give_back,
            tracker: tracker(asked.tracker.as_deref())?,
            ask: PeerAgent::at(&request.peer, &request.identity, deadlines.ask),
            peer: request.peer,
            host: request.host_id,
            guest_heartbeat: asked.guest_heartbeat_us.map(Duration::from_micros),
            ..OutgoingOptions::default()
        };
        // Each path carries something only if it has a lane.
        options.source.lanes = options.source.lanes.max(path_count.min(LANES_MAX) as u16);
        let held = self.enter(|phase| match phase {
            Phase::Here(held) if !self.was_given_up(&request.migration_id) => {
                let (id, peer) = (&request.migration_id, &options.peer);
                self.begin_status(id, api::Direction::Out, peer, carrier);
                Ok((Phase::Moving, held))
            }
            other => Err(not_movable(other)),
        })?;
        // Chosen here and not by the engine, so that it can be shown.
        options.tracker = options.tracker.or_else(|| probe(&held.guest.memory()).choice());
        self.set_tracker(options.tracker);
        if let Ok(Some(record)) = held.journal.read() {
            options.term = record.term;
        }
        if let Some(monitor) = self.monitor() {
            monitor.begin_move();
        }
        let Held { guest, journal } = held;
        let outgoing = Outgoing::new(guest, Box::new(journal.clone()), destination, options);
        self.set_cancel(Some(outgoing.cancel()));
        self.set_ways(Some(traffic), None);
        self.set_map(outgoing.map());
        let before = usage_from_now();
        let span = self.span();
        let sending = async move {
            let progress = outgoing.progress();
            let ended = self.follow(outgoing.run(), progress).await;
            self.sent(ended, journal, before).await;
        };
        drop(tokio::spawn(sending.instrument(span)));
        Ok(process::MigrateResponse {})
    }

    /// Listens for the guest that this process is for.
    pub(super) async fn receive(
        self: Arc<Self>,
        request: process::ReceiveRequest,
    ) -> Result<process::ReceiveResponse, Status> {
        let before = usage_from_now();
        let ips = ips(&request)?;
        let carrier = request.carrier();
        let identity = carriers::identity(carrier)?;
        let certificate_sha256 = carriers::told(identity.as_ref());
        let path = self.folder.door();
        let peer = &request.certificate_sha256;
        let carried = carriers::engines(carrier, identity, peer, || path.clone())?;
        self.enter(|phase| match phase {
            Phase::Empty => Ok((Phase::Arriving, ())),
            other => Err((other, Status::failed_precondition("this process has a guest already"))),
        })?;
        let listening = self.listen(&ips, &request, carried).await;
        let (incoming, journal, token) = listening.inspect_err(|status| {
            self.set_phase(Phase::Failed(status.message().to_owned()));
        })?;
        let address = match carrier {
            api::Carrier::Local => path.display().to_string(),
            _ => incoming.address().to_string(),
        };
        let addresses = incoming.addresses().iter().map(SocketAddr::to_string).collect();
        self.begin_status(&request.migration_id, api::Direction::In, &request.peer, carrier);
        self.set_cancel(Some(incoming.cancel()));
        self.set_ways(None, Some(incoming.door_key()));
        self.set_asked(incoming.asked());
        let span = self.span();
        let receiving = async move {
            let progress = incoming.progress();
            match self.follow(incoming.run(), progress).await {
                Ok(ended) => self.received(ended, journal, before).await,
                Err(error) => self.not_begun(&error).await,
            }
        };
        drop(tokio::spawn(receiving.instrument(span)));
        let token = token.to_bytes().to_vec();
        Ok(process::ReceiveResponse { address, token, addresses, certificate_sha256 })
    }

    async fn listen(
        &self,
        ips: &[IpAddr],
        request: &process::ReceiveRequest,
        carrier: Carrier,
    ) -> Result<(Incoming, Kept, Token), Status> {
        let deadlines = MigrationDeadlines::from(request.deadlines);
        let mut refused = None;
        for port in port_range(request.port_first, request.port_last)? {
            let token = random_token()?;
            let (factory, monitors) = kinds::factory(&self.config().kind);
            let mut options = IncomingOptions {
                ask: PeerAgent::at(&request.peer, &request.identity, deadlines.ask),
                peer: request.peer.clone(),
                memory_max: ByteCount(self.config().memory_bytes),
                ..IncomingOptions::default()
            };
            deadlines.set_incoming(&mut options);
            options.lanes.carrier = carrier.clone();
            let kept = Kept::new(Box::new(self.open_journal()?));
            let journal = Box::new(kept.clone());
            let addresses: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
            let factory = Box::new(Expected::new(factory, self.config()));
            match Incoming::bind_all(&addresses, token, factory, journal, options) {
                Ok(incoming) => {
                    self.set_monitors(monitors);
                    return Ok((incoming, kept, token));
                }
                // What this host does not have it has at no other port.
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    return Err(Status::failed_precondition(error.to_string()));
                }
                Err(error) => refused = Some(error),
            }
        }
        let (first, last) = (request.port_first, request.port_last);
        let why = refused.map(|error| error.to_string()).unwrap_or_default();
        Err(Status::internal(format!("no port of {first}..={last} can be listened on: {why}")))
    }

    /// The span of the running migration or the last one: this process has one at a time.
    pub(super) fn span(&self) -> tracing::Span {
        match self.watch().borrow().migration_id.as_str() {
            "" => tracing::Span::none(),
            id => migration_span(id),
        }
    }

    fn begin_status(&self, id: &str, direction: api::Direction, peer: &str, carrier: api::Carrier) {
        let config = self.config();
        let status = api::MigrationStatus {
            migration_id: id.to_owned(),
            guest_uuid: config.uuid.clone(),
            guest_name: config.name.clone(),
            direction: direction.into(),
            peer: peer.to_owned(),
            phase: "preparing".to_owned(),
            carrier: carrier.into(),
            ..Default::default()
        };
        self.publish(|newest| *newest = status);
        let _within = self.span().entered();
        tracing::info!(?direction, peer, "a migration begins");
    }

    /// Passes on what the engine says until it has ended.
    async fn follow<T>(
        &self,
        run: impl Future<Output = T>,
        mut progress: watch::Receiver<Progress>,
    ) -> T {
        tokio::pin!(run);
        loop {
            tokio::select! {
                ended = &mut run => return ended,
                Ok(()) = progress.changed() => {
                    let status = convert::status_of(&progress.borrow_and_update());
                    self.publish(|newest| update(newest, status));
                }
            }
        }
    }

    /// The engine is done with the guest, though it may hang in a write of the journal.
    pub(super) async fn sent(self: Arc<Self>, ended: Ended, journal: Kept, before: Option<Usage>) {
        let mut status = final_status(&ended);
        let report = status.report.get_or_insert_default();
        if let Some((cpu, peak)) = used_since(before) {
            report.cpu_source_ms = Some(cpu);
            report.peak_rss_source_bytes = Some(peak);
        }
        let Ended { outcome, guest, hung, .. } = ended;
        self.set_cancel(None);
        self.set_ways(None, None);
        self.set_tracker(None);
        if let (Outcome::Aborted(_), Some(_)) = (&outcome, &guest) {
            self.felt(report);
        }
        let put = move |guest| match outcome {
            Outcome::InDoubt { .. } => Phase::InDoubt(Held { guest, journal }),
            _ => Phase::Here(Held { guest, journal }),
        };
        match (status.outcome(), guest, hung) {
            (api::Outcome::Completed, guest, _) => {
                self.end_of_migration(Phase::Gone, status).await;
                // Gigabytes are given back here: after all was told, and by a thread that serves
                // nobody.
                drop(tokio::task::spawn_blocking(move || drop(guest)));
            }
            (_, Some(guest), _) => self.end_of_migration(put(guest), status).await,
            (_, None, hung) => self.hangs(hung, status, |back| put(back.guest)).await,
        }
    }

    async fn received(self: Arc<Self>, ended: Ended, journal: Kept, before: Option<Usage>) {
        let mut status = final_status(&ended);
        let report = status.report.get_or_insert_default();
        if let Some((cpu, peak)) = used_since(before) {
            report.cpu_destination_ms = Some(cpu);
            report.peak_rss_destination_bytes = Some(peak);
        }
        let Ended { outcome, guest, hung, .. } = ended;
        self.set_cancel(None);
        self.set_ways(None, None);
        let phase = match (outcome, guest, hung) {
            (Outcome::Completed { .. }, Some(guest), _) => {
                self.first_beat().await;
                self.felt(report);
                Phase::Here(Held { guest, journal })
            }
            (_, None, Some(hung)) => {
                let put = |back: Returned| match back.runs {
                    true => Phase::Here(Held { guest: back.guest, journal }),
                    false => Phase::Gone,
                };
                return self.hangs(Some(hung), status, put).await;
            }
            _ => Phase::Gone,
        };
        self.end_of_migration(phase, status).await;
    }

    /// The migration has ended, and a call to the guest has not. When it does, the guest is put
    /// where it belongs.
    async fn hangs(
        self: Arc<Self>,
        hung: Option<HungGuest>,
        status: api::MigrationStatus,
        put: impl FnOnce(Returned) -> Phase + Send + 'static,
    ) {
        Arc::clone(&self).end_of_migration(Phase::Hanging, status).await;
        let coming_back = async move {
            let back = match hung {
                Some(hung) => hung.back().await,
                None => None,
            };
            tracing::info!(back = back.is_some(), "the guest does not hang any more");
            let lost = || Phase::Failed("the engine did not give the guest back".to_owned());
            self.set_phase(back.map_or_else(lost, put));
        };
        drop(tokio::spawn(coming_back.in_current_span()));
    }

    async fn not_begun(self: Arc<Self>, error: &io::Error) {
        let mut status = api::MigrationStatus::default();
        let why = format!("the host gives no threads or random numbers: {error}");
        convert::set_aborted(&mut status, &Failure::new(Fault::Capacity, why));
        self.end_of_migration(Phase::Gone, status).await;
    }

    /// The phase changes before the outcome is told: who has heard it finds things so.
    async fn end_of_migration(self: Arc<Self>, phase: Phase, status: api::MigrationStatus) {
        tracing::info!(outcome = ?status.outcome(), reason = %status.reason, "the migration ended");
        let worker = Arc::clone(&self);
        // Gigabytes are given back here.
        let changed = tokio::task::spawn_blocking(move || worker.set_phase(phase)).await;
        if let Err(error) = changed {
            tracing::error!("the guest could not be put in its place: {error}");
        }
        self.catch_up();
        self.publish(|newest| update(newest, status));
    }

    /// What the guest felt of the move.
    fn felt(&self, report: &mut api::MigrationReport) {
        if let Some((blackout, lost)) = self.monitor().and_then(|monitor| monitor.gaps()) {
            report.blackout_us = Some(blackout);
            report.lost_us = Some(lost);
        }
    }

    /// The gap of the move is known with the first heartbeat after it.
    async fn first_beat(&self) {
        let deadline = Instant::now() + FIRST_BEAT_WITHIN;
        let mut looks = interval(stress::BEAT_LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let beaten = || self.monitor().is_none_or(|monitor| monitor.has_beaten());
        while !beaten() {
            if timeout_at(deadline, looks.tick()).await.is_err() {
                tracing::warn!("the guest had no heartbeat within {FIRST_BEAT_WITHIN:?}");
                return;
            }
        }
    }
}

fn not_movable(phase: Phase) -> (Phase, Status) {
    let why = match &phase {
        Phase::Empty | Phase::Starting => "its memory is still being filled; try again then",
        Phase::Moving | Phase::Arriving => "it is already moving",
        Phase::InDoubt(_) => "who owns it is in doubt; resolve that first",
        Phase::Hanging => "it hangs in a call of an earlier migration",
        Phase::Yielded(..) => "it is paused, as it runs elsewhere; resolve that first",
        Phase::Here(_) => "its agent has given this migration up",
        _ => "it is not here",
    };
    let status = Status::failed_precondition(format!("the guest cannot be moved: {why}"));
    (phase, status)
}

fn destination(request: &process::MigrateRequest) -> Result<DestinationAddress, Status> {
    let invalid = |what| Status::invalid_argument(format!("the destination's {what} is unusable"));
    let address = match request.carrier() {
        // The carrier has the path.
        api::Carrier::Local => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        _ => request.address.parse().map_err(|_| invalid("address"))?,
    };
    let token = request.token.as_slice().try_into().map_err(|_| invalid("token"))?;
    Ok(DestinationAddress { address, token: Token::from_bytes(token) })
}

fn lanes(
    asked: &api::MigrationOptions,
    deadlines: &MigrationDeadlines,
) -> Result<LaneOptions, Status> {
    let mut options = LaneOptions::default();
    deadlines.set_lanes(&mut options);
    if let Some(name) = &asked.congestion {
        options.tuning.congestion = Congestion::Named(name.clone());
    }
    options.tuning.dscp = convert::dscp(asked)?;
    options.tuning.priority = asked.priority;
    Ok(options)
}

fn tracker(name: Option<&str>) -> Result<Option<TrackerKind>, Status> {
    let parsed = name.filter(|name| !name.is_empty()).map(str::parse).transpose();
    parsed.map_err(|error: whimbrel_engine::memory::NoSuchTracker| {
        Status::invalid_argument(error.to_string())
    })
}

/// Where to listen.
fn ips(request: &process::ReceiveRequest) -> Result<Vec<IpAddr>, Status> {
    let parse = |ip: &String| {
        let wrong = || Status::invalid_argument(format!("`{ip}` is not an IP address"));
        ip.parse().map_err(|_| wrong())
    };
    match request.bind_ips.as_slice() {
        [] => Ok(vec![parse(&request.bind_ip)?]),
        several => several.iter().map(parse).collect(),
    }
}

/// The ports to choose from.
pub(super) fn port_range(first: u32, last: u32) -> Result<RangeInclusive<u16>, Status> {
    let port = |port: u32| {
        u16::try_from(port).map_err(|_| Status::invalid_argument(format!("{port} is not a port")))
    };
    Ok(port(first)?..=port(last)?)
}

fn random_token() -> Result<Token, Status> {
    let mut bytes = [0; 16];
    let failed = |error| Status::internal(format!("the host gives no random numbers: {error}"));
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(Token::from_bytes(bytes))
}

/// Everything in `newest` is as in `status`, but what the migration is.
fn update(newest: &mut api::MigrationStatus, status: api::MigrationStatus) {
    *newest = api::MigrationStatus {
        migration_id: std::mem::take(&mut newest.migration_id),
        guest_uuid: std::mem::take(&mut newest.guest_uuid),
        guest_name: std::mem::take(&mut newest.guest_name),
        direction: newest.direction,
        peer: std::mem::take(&mut newest.peer),
        carrier: newest.carrier,
        ..status
    };
}

fn final_status(ended: &Ended) -> api::MigrationStatus {
    let mut status = convert::status_of(&ended.report.progress);
    convert::set_outcome(&mut status, &ended.outcome);
    status.report = Some(convert::report_of(&ended.report));
    status
}

fn usage_from_now() -> Option<Usage> {
    let usage = os::reset_peak().and_then(|()| os::usage());
    usage.inspect_err(|error| tracing::warn!("no account of this process: {error}")).ok()
}

/// Processor time since `before` in milliseconds, and the most memory since then in bytes.
fn used_since(before: Option<Usage>) -> Option<(u64, u64)> {
    let now = os::usage().ok()?;
    Some((convert::millis(now.cpu.saturating_sub(before?.cpu)), now.peak.0))
}
