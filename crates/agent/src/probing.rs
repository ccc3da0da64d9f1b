//! What the paths between two hosts can do, measured by their agents.
//!
//! ```text
//!  ProbePaths ─► this agent ─► OpenProbe ─► the other one answers for a while at its addresses
//!                    └─► each path in turn: round trip, packet size, throughput; over TLS and QUIC
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, oneshot};
use tonic::Status;
use whimbrel_control::{AgentAddress, Client, ClientError, api};
use whimbrel_engine::Identity;
use whimbrel_engine::transport::{
    self, Answerer, Answering, Carrier, Endpoint, Measured, Path, ProbeToken, Sinks, Throughput,
};

use crate::access::Caller;
use crate::agent::Core;
use crate::convert::micros;
use crate::lock::lock;
use crate::outgoing::of_peer;
use crate::{carriers, networks, os};

/// How long the other side answers at most, where nobody says that a probe is done.
const OPEN_FOR: Duration = Duration::from_secs(300);
/// Probes that are answered, and made, at a time.
const PROBES_MAX: usize = 2;
/// Connections at once that are tried where nobody says how many.
const LANES: [u16; 4] = [1, 2, 4, 8];
const LANES_MAX: u16 = 128;
/// How long each is tried.
const EACH: Duration = Duration::from_millis(1000);
const EACH_MAX: Duration = Duration::from_secs(10);
const TOKEN_SIZE: usize = 16;

/// Places for probes, those made here and those answered here.
#[derive(Debug)]
pub(crate) struct Probes {
    made: Semaphore,
    answered: Arc<Semaphore>,
    /// Those that are answered, by their tokens: dropped when they are done.
    open: Arc<Mutex<BTreeMap<Vec<u8>, oneshot::Sender<()>>>>,
}

impl Default for Probes {
    fn default() -> Self {
        let answered = Arc::new(Semaphore::new(PROBES_MAX));
        Self { made: Semaphore::new(PROBES_MAX), answered, open: Arc::default() }
    }
}

/// This host's clock, in microseconds since 1970.
pub(crate) fn clock_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(micros).unwrap_or_default()
}

impl Core {
    /// Answers a probe of another agent for a while.
    pub(crate) async fn open_probe(
        &self,
        caller: &Caller,
        request: &api::OpenProbeRequest,
    ) -> Result<api::OpenProbeResponse, Status> {
        let busy = || Status::resource_exhausted("other probes go on; try again soon");
        let place = Arc::clone(&self.probes.answered).try_acquire_owned().map_err(|_| busy())?;
        let endpoints = networks::endpoints(&self.options.networks)?;
        let ips: Vec<IpAddr> = match endpoints.as_slice() {
            [] => vec![caller.local.ip()],
            several => several.iter().map(|endpoint| endpoint.address.ip()).collect(),
        };
        let mut token = [0; TOKEN_SIZE];
        let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
        getrandom::fill(&mut token).map_err(|error| failed(&error))?;
        let answering = Answering::open(&ips, token).await.map_err(|error| failed(&error))?;
        let identity = carriers::identity(api::Carrier::Tls)?;
        let certificate_sha256 = carriers::told(identity.as_ref());
        let open = |carrier| {
            let carrier = certified(carrier, identity.clone(), &request.certificate_sha256)?;
            let opened = carrier.map(|carrier| Sinks::open(&ips, token, carrier)).transpose();
            opened.map_err(|error| failed(&error))
        };
        let (tls, quic) = (open(api::Carrier::Tls)?, open(api::Carrier::Quic)?);
        let mut told = Vec::new();
        for (at, answerer) in answering.addresses().iter().enumerate() {
            let address = answerer.tcp.to_string();
            let endpoint = endpoints.get(at).map(|it| networks::told(it, address.clone()));
            let unlisted = || api::Endpoint { address, ..Default::default() };
            told.push(api::ProbeEndpoint {
                endpoint: Some(endpoint.unwrap_or_else(unlisted)),
                udp: answerer.udp.to_string(),
                quic: quic.iter().map(|it| it.addresses()[at].to_string()).collect(),
                tls: tls.iter().map(|it| it.addresses()[at].to_string()).collect(),
            });
        }
        let (done, is_done) = oneshot::channel();
        let open = Arc::clone(&self.probes.open);
        lock(&open).insert(token.to_vec(), done);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(OPEN_FOR, is_done).await;
            lock(&open).remove(token.as_slice());
            drop((answering, tls, quic, place));
        });
        let listed = !endpoints.is_empty();
        let called = called_in(&endpoints, caller.local.ip()).to_string();
        let (endpoints, token) = (told, token.to_vec());
        Ok(api::OpenProbeResponse { endpoints, token, listed, certificate_sha256, called })
    }

    /// A probe is done: others need not wait for its place.
    pub(crate) fn close_probe(&self, request: &api::CloseProbeRequest) {
        lock(&self.probes.open).remove(&request.token);
    }

    /// Measures each path to another host.
    pub(crate) async fn probe_paths(
        self: Arc<Self>,
        request: api::ProbePathsRequest,
    ) -> Result<api::ProbePathsResponse, Status> {
        let destination: AgentAddress = request
            .destination
            .parse()
            .map_err(|error| Status::invalid_argument(format!("the destination {error}")))?;
        let lanes = lanes(&request)?;
        let each = request.each_ms.map_or(EACH, |ms| Duration::from_millis(ms.into()));
        let each = each.clamp(Duration::from_millis(10), EACH_MAX);
        let busy = || Status::resource_exhausted("other probes go on; try again soon");
        let _place = self.probes.made.try_acquire().map_err(|_| busy())?;
        let ours = networks::endpoints(&self.options.networks)?;
        let mut peer = self.connect(&destination).await?;
        let offset = clock_offset(&mut peer).await;
        let clock_offset_us = offset.map_err(|error| of_peer(&destination, &error))?;
        let identity = carriers::identity(api::Carrier::Tls)?;
        let certificate_sha256 = carriers::told(identity.as_ref());
        let opened = peer.open_probe(api::OpenProbeRequest { certificate_sha256 }).await;
        let opened = opened.map_err(|error| of_peer(&destination, &error))?;
        let over = |carrier| certified(carrier, identity.clone(), &opened.certificate_sha256);
        let (tls, quic) = (over(api::Carrier::Tls)?, over(api::Carrier::Quic)?);
        let token = opened.token.as_slice().try_into();
        let token = token.map_err(|_| Status::internal("the other side's token is unusable"))?;
        let paths = if ours.is_empty() && !opened.listed {
            let near = |it: &Answerer| transport::is_near(it.tcp.ip());
            answerers(&opened).map(|it| Path { near: near(&it), ..Path::to(it.tcp) }).collect()
        } else {
            networks::paths(&ours, &expected(&opened))?
        };
        let mut probes = Vec::new();
        let trial = Trial { opened: &opened, token, tls, quic, lanes: &lanes, each };
        for path in paths {
            let limit = path.local.and_then(|ip| self.limit_from(ip)).map(|limit| limit.0);
            let measured = trial.measure(&path).await;
            probes.extend(measured.map(|it| api::PathProbe { limit_bytes_per_s: limit, ..it }));
        }
        // The other side would find out by itself, though late.
        let _ = peer.close_probe(api::CloseProbeRequest { token: opened.token.clone() }).await;
        let listed = !self.options.networks.is_empty() || opened.listed;
        Ok(api::ProbePathsResponse {
            paths: probes,
            clock_offset_us,
            listed,
            called: opened.called.clone(),
            send_buffer_max_bytes: os::tcp_buffers_max().map(|(send, _)| send.0),
            congestion_allowed: os::congestion_allowed(),
        })
    }
}

/// Where this agent was called, or its address in the migration network that this is in.
fn called_in(endpoints: &[Endpoint], called: IpAddr) -> IpAddr {
    let called = called.to_canonical();
    let within = |it: &&Endpoint| it.subnet.is_some_and(|subnet| subnet.contains(called));
    let at = |it: &Endpoint| it.address.ip().to_canonical();
    endpoints
        .iter()
        .find(|it| at(it) == called)
        .or(endpoints.iter().find(within))
        .map_or(called, at)
}

/// How paths are tried.
struct Trial<'a> {
    opened: &'a api::OpenProbeResponse,
    token: ProbeToken,
    tls: Option<Carrier>,
    quic: Option<Carrier>,
    lanes: &'a [u16],
    each: Duration,
}

impl Trial<'_> {
    /// Nothing of a path that does not lead to where the other side answers.
    async fn measure(&self, path: &Path) -> Option<api::PathProbe> {
        let Self { opened, token, lanes, each, .. } = *self;
        let there = answerers(opened).find(|it| it.tcp == path.remote)?;
        let measured = transport::measure(path, there, token, lanes, each).await;
        let mut probe = match measured {
            Ok(measured) => told(path, &measured),
            Err(error) => {
                return Some(api::PathProbe { error: error.to_string(), ..named(path) });
            }
        };
        if let Some(beside) = beside(opened, there) {
            (probe.tls, probe.tls_error) = self.over(self.tls.as_ref(), path, &beside.tls).await;
            (probe.quic, probe.quic_error) =
                self.over(self.quic.as_ref(), path, &beside.quic).await;
        }
        Some(probe)
    }

    /// What lanes of a carrier bring to where they are answered, or why they bring nothing. Neither
    /// where one of the two sides does not measure that.
    async fn over(
        &self,
        carrier: Option<&Carrier>,
        path: &Path,
        there: &str,
    ) -> (Vec<api::Throughput>, String) {
        let (Some(carrier), Ok(remote)) = (carrier, there.parse()) else {
            return Default::default();
        };
        let path = Path { remote, ..path.clone() };
        match transport::measure_over(&path, carrier, self.token, self.lanes, self.each).await {
            Ok(measured) => (measured.iter().map(throughput).collect(), String::new()),
            Err(error) => (Vec::new(), error.to_string()),
        }
    }
}

/// A carrier to the side that has told this certificate; nothing if it has told none.
fn certified(
    carrier: api::Carrier,
    own: Option<Arc<Identity>>,
    peer: &[u8],
) -> Result<Option<Carrier>, Status> {
    let told = (!peer.is_empty()).then_some(peer);
    told.map(|peer| carriers::engines(carrier, own, peer, PathBuf::new)).transpose()
}

/// Where the address of an answerer is answered over other carriers.
fn beside(opened: &api::OpenProbeResponse, there: Answerer) -> Option<&api::ProbeEndpoint> {
    let tcp = there.tcp.to_string();
    let same = |it: &&api::ProbeEndpoint| it.endpoint.as_ref().is_some_and(|it| it.address == tcp);
    opened.endpoints.iter().find(same)
}

/// How far the other side's clock is ahead of this one, as far as one call can tell.
async fn clock_offset(peer: &mut Client) -> Result<i64, ClientError> {
    let (asked, before) = (Instant::now(), clock_us());
    let host = peer.get_host(api::GetHostRequest {}).await?;
    let here = before + micros(asked.elapsed()) / 2;
    Ok(if host.clock_us == 0 {
        0
    } else {
        host.clock_us.cast_signed().saturating_sub(here.cast_signed())
    })
}

/// What to say where the clocks of two hosts, in microseconds, differ by more than a call may take.
pub(crate) fn clocks_apart(ours: u64, theirs: u64) -> Option<String> {
    // A host that tells no clock is none that has one.
    let apart = Duration::from_micros(ours.abs_diff(theirs));
    (theirs != 0 && apart > Duration::from_secs(2)).then(|| {
        let (how, when) = if theirs > ours { ("ahead", "earlier") } else { ("behind", "later") };
        format!(
            "the clock there is {apart:.0?} {how}: what the guest has end at a time, as keys of a \
             store, ends so much {when}; run NTP on both hosts"
        )
    })
}

fn lanes(request: &api::ProbePathsRequest) -> Result<Vec<u16>, Status> {
    if request.lanes.is_empty() {
        return Ok(LANES.to_vec());
    }
    let fits = |lanes: &u32| u16::try_from(*lanes).ok().filter(|it| (1..=LANES_MAX).contains(it));
    let lanes: Option<Vec<u16>> = request.lanes.iter().map(fits).collect();
    let few = lanes.filter(|lanes| lanes.len() <= 8);
    few.ok_or_else(|| Status::invalid_argument("up to 8 numbers of lanes, each 1 to 128"))
}

fn answerers(opened: &api::OpenProbeResponse) -> impl Iterator<Item = Answerer> {
    opened.endpoints.iter().filter_map(|it| {
        let tcp: SocketAddr = it.endpoint.as_ref()?.address.parse().ok()?;
        Some(Answerer { tcp, udp: it.udp.parse().ok()? })
    })
}

/// The same as of a destination that expects a guest.
fn expected(opened: &api::OpenProbeResponse) -> api::PrepareIncomingResponse {
    let all: Vec<_> = opened.endpoints.iter().filter_map(|it| it.endpoint.clone()).collect();
    let address = all.first().map(|endpoint| endpoint.address.clone()).unwrap_or_default();
    let endpoints = if opened.listed { all } else { Vec::new() };
    api::PrepareIncomingResponse { address, endpoints, ..Default::default() }
}

fn named(path: &Path) -> api::PathProbe {
    api::PathProbe {
        name: path.to_string(),
        remote: path.remote.ip().to_string(),
        near: path.near,
        preference: path.preference.into(),
        ..Default::default()
    }
}

fn told(path: &Path, measured: &Measured) -> api::PathProbe {
    api::PathProbe {
        round_trip_us: micros(measured.round_trip),
        mtu: measured.mtu,
        mtu_here: measured.mtu_here,
        throughput: measured.throughput.iter().map(throughput).collect(),
        best_lanes: measured.best().map(|best| best.lanes.into()),
        under_way_bytes: measured.under_way().map(|bytes| bytes.0),
        ..named(path)
    }
}

fn throughput(it: &Throughput) -> api::Throughput {
    api::Throughput {
        lanes: it.lanes.into(),
        rate_bytes_per_s: it.rate.0,
        retransmitted: it.retransmitted,
    }
}

#[cfg(test)]
mod tests {
    use whimbrel_engine::page::ByteRate;
    use whimbrel_engine::transport::{Network, Which};

    use super::*;
    use crate::agent::Agent;
    use crate::options::AgentOptions;

    #[test]
    fn clocks_that_are_apart_are_told_with_what_follows() {
        let now = 1_800_000_000_000_000;
        for same in [0, now, now - 1_900_000, now + 1_900_000] {
            assert_eq!(clocks_apart(now, same), None, "{same}");
        }
        let ahead = clocks_apart(now, now + 60_000_000).unwrap();
        assert!(ahead.contains("60s ahead") && ahead.contains("earlier"), "{ahead}");
        let behind = clocks_apart(now, now - 5_000_000).unwrap();
        assert!(behind.contains("5s behind") && behind.contains("later"), "{behind}");
    }

    #[test]
    fn an_agent_that_is_called_within_a_migration_network_says_so() {
        let at = |ip: &str, subnet: Option<&str>| Endpoint {
            address: SocketAddr::new(ip.parse().unwrap(), 0),
            subnet: subnet.map(|it| it.parse().unwrap()),
            interface: String::new(),
            preference: 0,
            speed: None,
        };
        let endpoints = [at("10.1.0.7", Some("10.1.0.0/24")), at("10.2.0.7", None)];
        let cases = [
            ("10.1.0.8", "10.1.0.7"),
            ("10.2.0.7", "10.2.0.7"),
            ("::ffff:10.1.0.7", "10.1.0.7"),
            ("10.2.0.8", "10.2.0.8"),
        ];
        for (called, told) in cases {
            let told: IpAddr = told.parse().unwrap();
            assert_eq!(called_in(&endpoints, called.parse().unwrap()), told, "{called}");
        }
    }

    #[test]
    fn numbers_of_lanes_are_checked() {
        let asked = |lanes: &[u32]| {
            lanes_of(&api::ProbePathsRequest { lanes: lanes.to_vec(), ..Default::default() })
        };
        assert_eq!(asked(&[]), Some(LANES.to_vec()));
        assert_eq!(asked(&[3, 128]), Some(vec![3, 128]));
        for wrong in [&[0][..], &[129], &[1; 9]] {
            assert_eq!(asked(wrong), None, "{wrong:?}");
        }
    }

    fn lanes_of(request: &api::ProbePathsRequest) -> Option<Vec<u16>> {
        lanes(request).ok()
    }

    /// An agent with such networks, a client of it, and the address of another one like it.
    async fn two_agents(networks: &[Network]) -> ([tempfile::TempDir; 2], Client, String) {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut addresses = Vec::new();
        for folder in &folders {
            let mut options = AgentOptions::new(folder.path(), ([127, 0, 0, 1], 0).into());
            options.networks = networks.to_vec();
            let agent = Agent::bound(options).await;
            addresses.push(agent.address().to_string());
            tokio::spawn(agent.serve(std::future::pending()));
        }
        let address = addresses[0].parse().unwrap();
        let client = Client::connect(&address, Default::default()).await.unwrap();
        (folders, client, addresses.remove(1))
    }

    fn request(destination: &str, lanes: &[u32]) -> api::ProbePathsRequest {
        let destination = destination.to_owned();
        api::ProbePathsRequest { destination, lanes: lanes.to_vec(), each_ms: Some(20) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_agents_measure_the_way_between_them() {
        let (_folders, mut client, other) = two_agents(&[]).await;
        let probed = client.probe_paths(request(&other, &[1, 2])).await.unwrap();
        assert_eq!(probed.paths.len(), 1, "{probed:?}");
        let path = &probed.paths[0];
        assert_eq!((path.error.as_str(), path.throughput.len()), ("", 2), "{path:?}");
        for (carried, error) in [(&path.tls, &path.tls_error), (&path.quic, &path.quic_error)] {
            let lanes: Vec<_> = carried.iter().map(|it| it.lanes).collect();
            assert_eq!((error.as_str(), lanes.as_slice()), ("", &[1, 2][..]), "{path:?}");
            assert!(carried.iter().all(|it| it.rate_bytes_per_s > 0), "{path:?}");
        }
        assert!(path.round_trip_us > 0 && path.best_lanes.is_some() && !probed.listed, "{path:?}");
        assert!(client.probe_paths(request("not an address:0", &[1])).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_path_has_the_preference_and_the_limit_of_its_network() {
        let which = Which::Subnet("127.0.0.0/8".parse().unwrap());
        let limit = Some(ByteRate(250_000_000));
        let network = Network { which, preference: 3, speed: None, limit };
        let (_folders, mut client, other) = two_agents(&[network]).await;
        let told = &client.host().networks[0];
        assert_eq!((told.preference, told.limit_bytes_per_s), (3, Some(250_000_000)));
        assert!(told.addresses.contains(&"127.0.0.1".to_owned()), "{told:?}");
        let probed = client.probe_paths(request(&other, &[1])).await.unwrap();
        let path = &probed.paths[0];
        assert_eq!((path.preference, path.limit_bytes_per_s), (3, Some(250_000_000)), "{path:?}");
    }
}
