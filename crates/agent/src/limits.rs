//! How fast migrations may leave this host: each one's own limit, and its share of the host's.
//!
//! ```text
//!  what each uses ─► who is held back wants more ─► shares by weight ─► its guest process: Limit
//! ```
//!
//! A share that is not used is lent to those who want more, and given back as soon as its owner
//! uses what is left to it: it has it once their processes have been told that they have less.

mod share;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tonic::Status;
use whimbrel_control::api::{self, Direction, MigrationStatus};
use whimbrel_engine::page::ByteRate;
use whimbrel_engine::transport::{self, Network};

use crate::agent::Core;
use crate::guests::{Guest, Migration};
use crate::heartbeats::{Heartbeat, Heartbeats};
use crate::lock::lock;
use crate::options::AgentOptions;
use crate::process_api as process;
use share::{Claim, Used};

/// How often what is used is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What is used says little of a shorter time.
const LOOK_LEAST: Duration = Duration::from_millis(100);
/// A guest's process that says nothing for so long uses nothing.
const SILENT: Duration = Duration::from_secs(1);
/// A change of a share by less than this part is not worth a call.
const NOTICEABLE: f64 = 0.01;

const WEIGHT_DEFAULT: u32 = 100;
const WEIGHT_MAX: u32 = 1000;

/// What is asked for one migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    rate: Option<ByteRate>,
    switchover: Option<ByteRate>,
    weight: u32,
}

impl Asked {
    /// What it never exceeds, in any phase. The last round has the limit of the others where it
    /// has none of its own.
    fn most(&self) -> Option<ByteRate> {
        self.rate.map(|rate| self.switchover.map_or(rate, |last| rate.max(last)))
    }
}

impl Default for Asked {
    fn default() -> Self {
        Self { rate: None, switchover: None, weight: WEIGHT_DEFAULT }
    }
}

/// The limits in a migration's options.
pub(crate) fn asked(options: &api::MigrationOptions) -> Result<Asked, Status> {
    Ok(Asked {
        rate: options.rate_limit_bytes_per_s.and_then(rate),
        switchover: options.switchover_limit_bytes_per_s.and_then(rate),
        weight: options.weight.map_or(Ok(WEIGHT_DEFAULT), weight)?,
    })
}

/// 0 is no limit.
fn rate(bytes_per_s: u64) -> Option<ByteRate> {
    Some(ByteRate(bytes_per_s)).filter(|rate| *rate > ByteRate(0))
}

fn weight(weight: u32) -> Result<u32, Status> {
    let why = || Status::invalid_argument(format!("a weight is 1 to {WEIGHT_MAX}"));
    Some(weight).filter(|weight| (1..=WEIGHT_MAX).contains(weight)).ok_or_else(why)
}

/// How fast one migration may go, and goes.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    asked: Asked,
    host: Used,
    /// By the address its paths come from.
    paths: BTreeMap<IpAddr, Used>,
    /// What was looked at last, as time since the migration began, and when.
    elapsed: Duration,
    looked: Option<Instant>,
    /// What its process keeps to; nothing before it is under way.
    told: Option<process::Limits>,
}

impl State {
    fn is_silent(&self) -> bool {
        self.looked.is_some_and(|looked| looked.elapsed() > SILENT)
    }

    fn look(&mut self, status: &MigrationStatus) {
        let elapsed = Duration::from_micros(status.elapsed_us);
        let passed = elapsed.saturating_sub(self.elapsed);
        if passed < LOOK_LEAST {
            return;
        }
        (self.elapsed, self.looked) = (elapsed, Some(Instant::now()));
        self.host.look(status.bytes_on_wire, passed);
        let mut paths = BTreeMap::<IpAddr, u64>::new();
        for path in &status.paths {
            let Ok(from) = path.local.parse() else { continue };
            *paths.entry(from).or_default() += path.bytes;
        }
        self.paths.retain(|from, _| paths.contains_key(from));
        for (from, bytes) in paths {
            self.paths.entry(from).or_default().look(bytes, passed);
        }
    }

    /// What it claims of `what`, and has of it. Nothing of a path that it does not use, once that
    /// is known.
    fn claim(&self, what: What) -> Option<(Claim, f64)> {
        let told = self.told.as_ref()?;
        let (used, share) = match what {
            What::Host => (self.host, told.share_bytes_per_s),
            What::Path(from) => {
                let local = from.to_string();
                let share = told.paths.iter().find(|path| path.local == local);
                let unknown = self.looked.is_none().then_some(Used::default());
                (self.paths.get(&from).copied().or(unknown)?, share.map(|it| it.bytes_per_s))
            }
        };
        let (most, weight) = (self.asked.most(), self.asked.weight);
        if self.is_silent() {
            return Some((Claim::new(weight, Some(0.0), most), 0.0));
        }
        let share = share.map(|share| share as f64);
        Some((Claim::new(weight, used.wants(share), most), share.unwrap_or_default()))
    }
}

/// What migrations of this host share.
#[derive(Clone, Copy, Debug)]
enum What {
    Host,
    /// Paths that come from this address.
    Path(IpAddr),
}

impl Pace {
    pub(crate) fn ask(&self, asked: Asked) {
        self.lock().asked = asked;
        self.changed.notify_one();
    }

    /// Its process keeps to these.
    pub(crate) fn set_told(&self, limits: process::Limits) {
        self.lock().told = Some(limits);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// What this host's migrations may send together, and each path from some of its networks; and how
/// long their peers may be silent.
#[derive(Debug)]
pub(crate) struct HostLimits(Mutex<Said>);

#[derive(Clone, Debug)]
struct Said {
    host: Option<ByteRate>,
    networks: Vec<Network>,
    heartbeats: Heartbeats,
}

impl HostLimits {
    pub(crate) fn new(options: &AgentOptions) -> Self {
        let networks = options.networks.clone();
        let heartbeats = options.heartbeats;
        Self(Mutex::new(Said { host: options.limit, networks, heartbeats }))
    }

    /// Those of the migrations that begin now.
    pub(crate) fn heartbeats(&self) -> Heartbeats {
        lock(&self.0).heartbeats
    }

    fn said(&self) -> Said {
        lock(&self.0).clone()
    }
}

impl Core {
    /// Tells a guest's process its limits whenever they change, until the guest has left.
    pub(crate) async fn keep_paced(self: Arc<Self>, guest: Arc<Guest>, migration: Arc<Migration>) {
        while migration.is_running() {
            // Whether something has changed or only time has passed, it is looked at.
            let _ = tokio::time::timeout(LOOK_EVERY, migration.pace.changed.notified()).await;
            let told = {
                let mut state = migration.pace.lock();
                state.look(&migration.status());
                state.told.clone()
            };
            let Some(told) = told else { continue };
            let limits = self.limits_of(&migration);
            if !differ(&told, &limits) {
                continue;
            }
            let request = process::LimitRequest { limits: Some(limits.clone()) };
            let told_it = async { guest.link(self.options.deadlines).await?.limit(request).await };
            match told_it.await {
                Ok(_) => {
                    migration.pace.set_told(limits);
                    self.others_look(Some(&migration));
                }
                Err(status) => {
                    let name = &guest.config.name;
                    tracing::debug!(guest = name, "its limits stay: {}", status.message());
                }
            }
        }
        self.others_look(None);
    }

    /// Something has changed: guests that leave this host, other than `but`, may have to go at
    /// another pace.
    pub(crate) fn others_look(&self, but: Option<&Migration>) {
        let others = self.guests.running_out().into_iter();
        let others = others.filter(|other| but.is_none_or(|but| other.id != but.id));
        others.for_each(|other| other.pace.changed.notify_one());
    }

    /// The limits of a migration as things are now.
    pub(crate) fn limits_of(&self, migration: &Migration) -> process::Limits {
        let said = self.limits.said();
        let leaving = self.guests.running_out();
        let share = |all, what| share_of(all, migration, &leaving, what) as u64;
        let mut paths = Vec::new();
        for network in said.networks.iter().filter(|network| network.limit.is_some()) {
            let limit = network.limit.unwrap_or_default();
            for from in addresses(network) {
                let bytes_per_s = share(limit, What::Path(from));
                paths.push(process::PathLimit { local: from.to_string(), bytes_per_s });
            }
        }
        let asked = migration.pace.lock().asked;
        process::Limits {
            rounds_bytes_per_s: asked.rate.map(|rate| rate.0),
            switchover_bytes_per_s: asked.switchover.map(|rate| rate.0),
            share_bytes_per_s: said.host.map(|host| share(host, What::Host)),
            paths,
        }
    }

    /// The networks that this host's agent was given, with what of them is in force.
    pub(crate) fn networks(&self) -> Vec<api::HostNetwork> {
        let told = |network: &Network| api::HostNetwork {
            network: network.which.to_string(),
            preference: network.preference.into(),
            speed_bytes_per_s: network.speed.map(|speed| speed.0),
            limit_bytes_per_s: network.limit.map(|limit| limit.0),
            addresses: addresses(network).map(|ip| ip.to_string()).collect(),
        };
        self.limits.said().networks.iter().map(told).collect()
    }

    /// What each path from this address may carry.
    pub(crate) fn limit_from(&self, ip: IpAddr) -> Option<ByteRate> {
        let networks = self.limits.said().networks;
        let here = networks.iter().filter(|network| network.limit.is_some());
        here.filter(|network| addresses(network).any(|here| here == ip)).find_map(|it| it.limit)
    }

    /// Changes limits, and says which are in force then.
    pub(crate) fn set_limits(
        &self,
        request: &api::SetLimitsRequest,
    ) -> Result<api::LimitsInForce, Status> {
        let named = Some(request.migration.as_str()).filter(|name| !name.is_empty());
        let migration = named.map(|name| self.leaving(name)).transpose()?;
        let own = [request.rate_bytes_per_s, request.switchover_bytes_per_s];
        if migration.is_none() && (own.iter().any(Option::is_some) || request.weight.is_some()) {
            return Err(Status::invalid_argument("whose rate or weight? name a guest that moves"));
        }
        let weight = request.weight.map(weight).transpose()?;
        self.set_host_limits(request)?;
        let mut in_force = self.host_limits_in_force();
        if let Some(migration) = migration {
            let mut asked = migration.pace.lock().asked;
            asked.rate = request.rate_bytes_per_s.map_or(asked.rate, rate);
            asked.switchover = request.switchover_bytes_per_s.map_or(asked.switchover, rate);
            asked.weight = weight.unwrap_or(asked.weight);
            migration.pace.ask(asked);
            in_force.rate_bytes_per_s = asked.rate.map(|rate| rate.0);
            in_force.switchover_bytes_per_s = asked.switchover.map(|rate| rate.0);
            in_force.weight = Some(asked.weight);
            in_force.share_bytes_per_s = self.limits_of(&migration).share_bytes_per_s;
        }
        self.others_look(None);
        Ok(in_force)
    }

    /// The migration of this id or guest that limits can be put on.
    fn leaving(&self, named: &str) -> Result<Arc<Migration>, Status> {
        let migration = match self.guests.find(named) {
            Ok(guest) => self.check_here(&guest).map(|()| guest.migration())?,
            Err(_) => Some(self.guests.find_migration(named)?),
        };
        let leaves = |it: &Arc<Migration>| it.direction == Direction::Out && it.is_running();
        migration.filter(leaves).ok_or_else(|| {
            Status::failed_precondition(format!(
                "`{named}` is not moving away from this host just now, and limits end with a \
                 migration: give them to its next one, as `whimbrel migrate --limit`"
            ))
        })
    }

    fn set_host_limits(&self, request: &api::SetLimitsRequest) -> Result<(), Status> {
        let read = |said: &Option<_>| said.as_ref().map(Heartbeat::read).transpose();
        let (near, far) = (read(&request.same_subnet)?, read(&request.cross_subnet)?);
        let mut said = lock(&self.limits.0);
        let mut networks = said.networks.clone();
        for limit in &request.networks {
            let known = networks.iter_mut().find(|it| it.which.to_string() == limit.network);
            let Some(network) = known else {
                let names: Vec<_> = said.networks.iter().map(|it| it.which.to_string()).collect();
                return Err(Status::invalid_argument(format!(
                    "`{}` is none of this host's migration networks ({})",
                    limit.network,
                    names.join(", ")
                )));
            };
            network.limit = rate(limit.bytes_per_s);
        }
        said.networks = networks;
        said.host = request.host_bytes_per_s.map_or(said.host, rate);
        said.heartbeats.same_subnet = near.or(said.heartbeats.same_subnet);
        said.heartbeats.cross_subnet = far.or(said.heartbeats.cross_subnet);
        Ok(())
    }

    fn host_limits_in_force(&self) -> api::LimitsInForce {
        let Said { host, networks, heartbeats } = self.limits.said();
        let limit = |network: &Network| {
            let network_name = network.which.to_string();
            let limit = network.limit?;
            Some(api::NetworkLimit { network: network_name, bytes_per_s: limit.0 })
        };
        api::LimitsInForce {
            host_bytes_per_s: host.map(|host| host.0),
            networks: networks.iter().filter_map(limit).collect(),
            same_subnet: heartbeats.same_subnet.map(Heartbeat::said),
            cross_subnet: heartbeats.cross_subnet.map(Heartbeat::said),
            ..Default::default()
        }
    }
}

/// What a migration may take of `all`, beside the others that leave: no more than their processes
/// have been told to leave to it.
fn share_of(all: ByteRate, migration: &Migration, leaving: &[Arc<Migration>], what: What) -> f64 {
    let all = all.0 as f64;
    let (mut claims, mut kept) = (Vec::new(), 0.0);
    for other in leaving.iter().filter(|other| other.id != migration.id) {
        if let Some((claim, has)) = other.pace.lock().claim(what) {
            claims.push(claim);
            kept += has;
        }
    }
    let own = {
        let state = migration.pace.lock();
        let asked = || Claim::new(state.asked.weight, None, state.asked.most());
        state.claim(what).map_or_else(asked, |(claim, _)| claim)
    };
    claims.push(own);
    let fair = share::divide(all, &claims).pop().unwrap_or(all);
    fair.min((all - kept).max(share::least(all, &own, &claims)))
}

/// This host's addresses in a network; none where it does not tell them.
pub(crate) fn addresses(network: &Network) -> impl Iterator<Item = IpAddr> + use<> {
    let here = transport::endpoints(std::slice::from_ref(network)).unwrap_or_default();
    here.into_iter().map(|endpoint| endpoint.address.ip())
}

/// Whether somebody would notice.
fn differ(one: &process::Limits, other: &process::Limits) -> bool {
    let rates = |limits: &process::Limits| -> Vec<Option<u64>> {
        let own = [limits.rounds_bytes_per_s, limits.switchover_bytes_per_s];
        let paths = limits.paths.iter().map(|path| Some(path.bytes_per_s));
        own.into_iter().chain([limits.share_bytes_per_s]).chain(paths).collect()
    };
    let far = |(one, other): (Option<u64>, Option<u64>)| match (one, other) {
        (Some(one), Some(other)) => one.abs_diff(other) as f64 > one as f64 * NOTICEABLE,
        (one, other) => one != other,
    };
    let (here, there) = (one.paths.iter(), other.paths.iter());
    let same_paths = here.map(|path| &path.local).eq(there.map(|path| &path.local));
    !same_paths || rates(one).into_iter().zip(rates(other)).any(far)
}

#[cfg(test)]
mod tests;
