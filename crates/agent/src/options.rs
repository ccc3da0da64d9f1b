//! What an agent is told: where it works, what it holds at most, and how long it waits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use whimbrel_control::AgentAddress;
use whimbrel_engine::page::ByteCount;

/// Settings of one agent.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Its folder: journals, logs, and how to find guest processes again.
    pub data: PathBuf,
    /// Where it listens; port 0 takes any.
    pub listen: SocketAddr,
    /// Where other agents reach it, if that is not where it listens (a name, a mapped port).
    pub advertise: Option<AgentAddress>,
    /// Listen beyond this host although nobody who connects is asked who they are.
    pub insecure: bool,
    /// End when the standard input ends, and have guest processes end then too. For a parent that
    /// holds the other end of a pipe, this works however the parent dies.
    pub die_with_parent: bool,
    /// The program that has the `guest-process` command; `None`: this one.
    pub program: Option<PathBuf>,
    /// Ports that incoming migrations listen on.
    pub ports: PortRange,
    /// What the host holds at most.
    pub limits: Limits,
    /// How long the agent waits.
    pub deadlines: Deadlines,
}

impl AgentOptions {
    /// An agent that works in `data` and listens at `listen`, everything else by default.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data: data.into(),
            listen,
            advertise: None,
            insecure: false,
            die_with_parent: false,
            program: None,
            ports: PortRange::ANY,
            limits: Limits::default(),
            deadlines: Deadlines::default(),
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

/// How long an agent waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For a guest process to come up.
    pub process_start: Duration,
    /// For a guest process to answer.
    pub process_call: Duration,
    /// For a guest process to end after it was told to; then it is killed.
    pub process_stop: Duration,
    /// For a guest to check its whole memory.
    pub check: Duration,
    /// For another agent to be reached.
    pub peer_connect: Duration,
    /// For another agent to answer; it starts a process for some answers.
    pub peer_call: Duration,
    /// For the destination's half of a report.
    pub collect: Duration,
    /// Between questions about a guest in doubt: at first, and doubling from there.
    pub ask_pause: Duration,
    /// Between questions about a guest in doubt: at most.
    pub ask_pause_max: Duration,
    /// How long a destination is asked for a guest whose process has died here, before it is told
    /// that the guest will not come. By then it has noticed that the link is lost, so that it
    /// runs the guest or never can.
    pub abandon: Duration,
    /// How long an outcome in doubt is held back while it may still be settled.
    pub settle: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            process_start: secs(10),
            process_call: secs(5),
            process_stop: secs(10),
            check: secs(600),
            peer_connect: secs(5),
            peer_call: secs(20),
            collect: secs(10),
            ask_pause: Duration::from_millis(500),
            ask_pause_max: secs(30),
            abandon: secs(8),
            settle: secs(15),
        }
    }
}
