//! What an agent is told: where it works, what it holds at most, and how long it waits.

use std::net::SocketAddr;
use std::path::PathBuf;

use whimbrel_control::AgentAddress;
use whimbrel_engine::page::{ByteCount, ByteRate};
use whimbrel_engine::transport::Network;

use crate::deadlines::Deadlines;
use crate::heartbeats::Heartbeats;
use crate::log::LogFormat;
use crate::web::WebOptions;

/// Settings of one agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Its folder: journals, logs, and how to find guest processes again.
    pub data: PathBuf,
    /// Where it listens; port 0 takes any.
    pub listen: SocketAddr,
    /// Where other agents reach it, if that is not where it listens (a name, a mapped port).
    pub advertise: Option<AgentAddress>,
    /// The folder of its identity; `None`: `identity` in the data folder.
    pub identity: Option<PathBuf>,
    /// The file that says who may do what; `None`: `policy.toml` in the data folder.
    pub policy: Option<PathBuf>,
    /// Ask callers who they are also where only this host can call. Beyond it they always are.
    pub tls: bool,
    /// End when the standard input ends, and have guest processes end then too. For a parent that
    /// holds the other end of a pipe, this works however the parent dies.
    pub die_with_parent: bool,
    /// The program that has the `guest-process` command; `None`: this one.
    pub program: Option<PathBuf>,
    /// Ports that incoming migrations listen on.
    pub ports: PortRange,
    /// The networks that may carry migrations, in order; none leaves it to the routing table.
    pub networks: Vec<Network>,
    /// What leaves this host with all migrations together; `None` is no limit.
    pub limit: Option<ByteRate>,
    /// Keep a lane's thread on the processors beside the interface of its path.
    pub pin_lanes: bool,
    /// What the host holds at most.
    pub limits: Limits,
    /// How soon a peer of a migration is taken for dead.
    pub heartbeats: Heartbeats,
    /// How long the agent waits.
    pub deadlines: Deadlines,
    /// Where it speaks HTTP, if it does.
    pub web: Option<WebOptions>,
    /// How its guest processes log.
    pub log: LogFormat,
}

impl AgentOptions {
    /// An agent that works in `data` and listens at `listen`, everything else by default.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data: data.into(),
            listen,
            advertise: None,
            identity: None,
            policy: None,
            tls: false,
            die_with_parent: false,
            program: None,
            ports: PortRange::ANY,
            networks: Vec::new(),
            limit: None,
            pin_lanes: false,
            limits: Limits::default(),
            heartbeats: Heartbeats::default(),
            deadlines: Deadlines::default(),
            web: None,
            log: LogFormat::default(),
        }
    }
}

/// Ports to choose from, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first one; 0 stands for any free port.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl PortRange {
    /// Whatever port is free.
    pub const ANY: Self = Self { first: 0, last: 0 };
}

/// What a host holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Guests, those on their way here counted.
    pub guests: u32,
    /// Simultaneous migrations, each way.
    pub migrations: u32,
    /// Memory promised to guests, together; `None`: what the host has to give.
    pub memory: Option<ByteCount>,
    /// Take guests although the host could not back all memory they were promised.
    pub overcommit: bool,
    /// Guests that have moved away and are still remembered, for those who ask.
    pub remembered: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { guests: 64, migrations: 2, memory: None, overcommit: false, remembered: 64 }
    }
}
