//! Where lanes go and how fast, as it is typed.

use std::time::Duration;

use clap::Args;
use whimbrel_agent::{ByteRate, Heartbeats, Network};

use super::Target;
use crate::parse::{Limit, bandwidth, dscp, duration, heartbeats, limit, network, network_limit};

/// The networks of a host.
#[derive(Args, Debug)]
pub(crate) struct NetworkArgs {
    /// A network that may carry migrations, as 10.1.0.0/24 or eth1,preference=1,speed=10Gbit/s,
    /// limit=2Gbit/s; may be said more than once, and nothing flows outside of them [default: any].
    #[arg(long = "network", value_name = "NETWORK", value_parser = network)]
    pub(crate) networks: Vec<Network>,
    /// What may leave this host with all migrations together, as 8Gbit/s [default: no limit].
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    pub(crate) limit: Option<ByteRate>,
    /// How soon a silent peer is taken for dead, by whether routers are between, as
    /// same-subnet=1sx5,cross-subnet=2sx10 [default: as the deadlines say].
    #[arg(long, value_name = "CLASS=TIMExN,...", value_parser = heartbeats)]
    pub(crate) heartbeat: Option<Heartbeats>,
    /// Keep each lane on the processors beside the interface that it goes through.
    #[arg(long)]
    pub(crate) pin_lanes: bool,
}

/// How fast a guest may be moved, and how that is marked.
#[derive(Args, Debug)]
pub(crate) struct TrafficArgs {
    /// What the lanes may carry together, as 2Gbit/s or 200MiB/s [default: no limit].
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    pub(crate) limit: Option<ByteRate>,
    /// The same for the last pages, while the guest stands still [default: as --limit].
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    pub(crate) switchover_limit: Option<ByteRate>,
    /// The weight beside other migrations from the same host, 1 to 1000 [default: 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) weight: Option<u32>,
    /// The heartbeat of the guest's own cluster, as 5s: a pause that may be longer is warned of.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) guest_heartbeat: Option<Duration>,
    /// The class of service that the network is told: 0 to 63, or AF11 to AF43, CS0 to CS7, EF;
    /// AF11 is for bulk data.
    #[arg(long, value_name = "CLASS", value_parser = dscp)]
    pub(crate) dscp: Option<u32>,
    /// The priority in the host's own queues, as SO_PRIORITY: 0 to 6, or with CAP_NET_ADMIN to 15,
    /// or a class of tc as one number.
    #[arg(long, value_name = "N")]
    pub(crate) priority: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct LimitArgs {
    /// The guest that is moving, or the migration's id; without one only the host is meant.
    pub(crate) guest: Option<String>,
    /// What its lanes may carry together, as 2Gbit/s or 200MiB/s; none is no limit.
    #[arg(long, value_name = "RATE", value_parser = limit, requires = "guest")]
    pub(crate) rate: Option<Limit>,
    /// The same for its last pages, while the guest stands still.
    #[arg(long, value_name = "RATE", value_parser = limit, requires = "guest")]
    pub(crate) switchover: Option<Limit>,
    /// Its weight beside other migrations, 1 to 1000; they begin with 100.
    #[arg(long, value_name = "N", requires = "guest",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) weight: Option<u32>,
    /// What may leave the host with all its migrations together.
    #[arg(long, value_name = "RATE", value_parser = limit)]
    pub(crate) host: Option<Limit>,
    /// What each path from a migration network of the agent may carry, as eth1=2Gbit/s.
    #[arg(long = "network", value_name = "NETWORK=RATE", value_parser = network_limit)]
    pub(crate) networks: Vec<(String, Limit)>,
    /// How soon a silent peer is taken for lost in migrations that begin from now on, as
    /// same-subnet=1sx5,cross-subnet=2sx10.
    #[arg(long, value_name = "CLASS=TIMExN,...", value_parser = heartbeats)]
    pub(crate) heartbeat: Option<Heartbeats>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}
