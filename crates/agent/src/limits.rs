//! How fast migrations may leave this host: each one's own limit, and its share of the host's.
//!
//! ```text
//!  what each uses ─► who is held back wants more ─► shares by weight ─► its guest process: Limit
//! ```
//!
//! A share that is not used is lent to those who want more, and given back as soon as its owner
//! uses what is left to it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tonic::Status;
use whimbrel_control::api::{self, Direction, MigrationStatus};
use whimbrel_engine::page::ByteRate;
use whimbrel_engine::transport::{self, Network};

use crate::agent::Core;
use crate::guests::{Guest, Migration};
use crate::options::AgentOptions;
use crate::process_api as process;

/// How often what is used is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Who uses so much of a share is held back by it, and wants more.
const HELD_BACK: f64 = 0.85;
/// Who uses less is left this much more than it uses, and at least this part of its own share.
const HEADROOM: f64 = 1.25;
const LEFT: f64 = 0.1;
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
    host: Part,
    /// By the address its paths come from.
    paths: BTreeMap<IpAddr, Part>,
    /// The time of the last look, since the migration began.
    elapsed: Duration,
}

/// What a migration uses of something that it shares with others.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    bytes: u64,
    used: f64,
    share: Option<f64>,
}

impl Part {
    fn look(&mut self, bytes: u64, passed: Duration) {
        self.used = bytes.saturating_sub(self.bytes) as f64 / passed.as_secs_f64();
        self.bytes = bytes;
    }

    /// What it wants at most; `None` is all it can get.
    fn wants(&self) -> Option<f64> {
        self.share.filter(|share| self.used < share * HELD_BACK).map(|_| self.used * HEADROOM)
    }
}

impl Pace {
    pub(crate) fn ask(&self, asked: Asked) {
        self.lock().asked = asked;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn look(&self, status: &MigrationStatus) {
        let mut state = self.lock();
        let elapsed = Duration::from_micros(status.elapsed_us);
        let passed = elapsed.saturating_sub(state.elapsed);
        if passed.is_zero() {
            return;
        }
        state.elapsed = elapsed;
        state.host.look(status.bytes_on_wire, passed);
        for path in &status.paths {
            let Ok(from) = path.local.parse() else { continue };
            state.paths.entry(from).or_default().look(path.bytes, passed);
        }
    }
}

/// What this host's migrations may send together, and each path from some of its networks.
#[derive(Debug)]
pub(crate) struct HostLimits(Mutex<Said>);

#[derive(Clone, Debug)]
struct Said {
    host: Option<ByteRate>,
    networks: Vec<Network>,
}

impl HostLimits {
    pub(crate) fn new(options: &AgentOptions) -> Self {
        let networks = options.networks.clone();
        Self(Mutex::new(Said { host: options.limit, networks }))
    }

    fn said(&self) -> Said {
        lock(&self.0).clone()
    }
}

impl Core {
    /// Tells a guest's process its limits whenever they change, until the guest has left.
    pub(crate) async fn keep_paced(self: Arc<Self>, guest: Arc<Guest>, migration: Arc<Migration>) {
        let mut told = self.limits_of(&migration);
        while migration.is_running() {
            // Whether something has changed or only time has passed, it is looked at.
            let _ = tokio::time::timeout(LOOK_EVERY, migration.pace.changed.notified()).await;
            migration.pace.look(&migration.status());
            let limits = self.limits_of(&migration);
            if !differ(&told, &limits) {
                continue;
            }
            let request = process::LimitRequest { limits: Some(limits.clone()) };
            let told_it = async { guest.link(self.options.deadlines).await?.limit(request).await };
            match told_it.await {
                Ok(_) => told = limits,
                Err(status) => {
                    let name = &guest.config.name;
                    tracing::debug!(guest = name, "its limits stay: {}", status.message());
                }
            }
        }
    }

    /// The limits of a migration as things are now.
    pub(crate) fn limits_of(&self, migration: &Migration) -> process::Limits {
        let said = self.limits.said();
        let leaving = self.guests.running_out();
        let share = said.host.map(|host| {
            let share = share_of(host, migration, &leaving, |state| Some(state.host));
            migration.pace.lock().host.share = Some(share);
            share as u64
        });
        let mut paths = Vec::new();
        for network in said.networks.iter().filter(|network| network.limit.is_some()) {
            let limit = network.limit.unwrap_or_default();
            let here = transport::endpoints(std::slice::from_ref(network)).unwrap_or_default();
            for from in here.iter().map(|endpoint| endpoint.address.ip()) {
                let share = share_of(limit, migration, &leaving, |it| it.paths.get(&from).copied());
                migration.pace.lock().paths.entry(from).or_default().share = Some(share);
                let local = from.to_string();
                paths.push(process::PathLimit { local, bytes_per_s: share as u64 });
            }
        }
        let asked = migration.pace.lock().asked;
        process::Limits {
            rounds_bytes_per_s: asked.rate.map(|rate| rate.0),
            switchover_bytes_per_s: asked.switchover.map(|rate| rate.0),
            share_bytes_per_s: share,
            paths,
        }
    }

    /// Changes limits, and says which are in force then.
    pub(crate) fn set_limits(
        &self,
        request: &api::SetLimitsRequest,
    ) -> Result<api::LimitsInForce, Status> {
        let named = Some(request.migration.as_str()).filter(|name| !name.is_empty());
        let migration = named.map(|name| self.guests.find_migration(name)).transpose()?;
        if let Some(migration) = &migration {
            let leaves = migration.direction == Direction::Out && migration.is_running();
            let why = || Status::failed_precondition("it is not leaving this host just now");
            leaves.then_some(()).ok_or_else(why)?;
        }
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
        self.guests.running_out().iter().for_each(|other| other.pace.changed.notify_one());
        Ok(in_force)
    }

    fn set_host_limits(&self, request: &api::SetLimitsRequest) -> Result<(), Status> {
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
        Ok(())
    }

    fn host_limits_in_force(&self) -> api::LimitsInForce {
        let Said { host, networks } = self.limits.said();
        let limit = |network: &Network| {
            let network_name = network.which.to_string();
            let limit = network.limit?;
            Some(api::NetworkLimit { network: network_name, bytes_per_s: limit.0 })
        };
        api::LimitsInForce {
            host_bytes_per_s: host.map(|host| host.0),
            networks: networks.iter().filter_map(limit).collect(),
            ..Default::default()
        }
    }
}

/// What a migration may take of `all`, beside the others that leave.
fn share_of(
    all: ByteRate,
    migration: &Migration,
    leaving: &[Arc<Migration>],
    part: impl Fn(&State) -> Option<Part>,
) -> f64 {
    let claim = |other: &Migration| {
        let state = other.pace.lock();
        let part = part(&state)?;
        Some(Claim { weight: state.asked.weight.into(), wants: part.wants() })
    };
    let mut claims = Vec::new();
    for other in leaving.iter().filter(|other| other.id != migration.id) {
        claims.extend(claim(other));
    }
    let weight = migration.pace.lock().asked.weight.into();
    let wants = claim(migration).and_then(|own| own.wants);
    claims.push(Claim { weight, wants });
    divide(all.0 as f64, &claims).pop().unwrap_or(all.0 as f64)
}

/// One of those that share something.
#[derive(Clone, Copy, Debug)]
struct Claim {
    weight: f64,
    /// `None` is all it can get.
    wants: Option<f64>,
}

/// The shares of `all` by weight. Who wants less gets what it wants, though at least a tenth of
/// its own share, and the others get the rest; where nobody wants it, all do.
fn divide(all: f64, claims: &[Claim]) -> Vec<f64> {
    let sum: f64 = claims.iter().map(|claim| claim.weight).sum();
    let least = |claim: &Claim| all * claim.weight / sum * LEFT;
    let wants: Vec<Option<f64>> =
        claims.iter().map(|claim| claim.wants.map(|wants| wants.max(least(claim)))).collect();
    let mut shares = vec![None; claims.len()];
    loop {
        let given: f64 = shares.iter().flatten().sum();
        let open = || (0..claims.len()).filter(|at| shares[*at].is_none());
        let weights: f64 = open().map(|at| claims[at].weight).sum();
        let fair = |at: usize| (all - given).max(0.0) * claims[at].weight / weights;
        let content: Vec<usize> =
            open().filter(|at| wants[*at].is_some_and(|wants| wants <= fair(*at))).collect();
        if open().next().is_none() {
            // All are content: what is left over is lent before anybody asks.
            let over = (all - given).max(0.0);
            let more = claims.iter().map(|claim| over * claim.weight / sum);
            return shares.iter().flatten().zip(more).map(|(share, more)| share + more).collect();
        }
        if content.is_empty() {
            let fair: Vec<_> = (0..claims.len()).map(fair).collect();
            return shares.iter().zip(fair).map(|(share, fair)| share.unwrap_or(fair)).collect();
        }
        content.into_iter().for_each(|at| shares[at] = wants[at]);
    }
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
    let (one, other) = (rates(one), rates(other));
    one.len() != other.len() || one.into_iter().zip(other).any(far)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
