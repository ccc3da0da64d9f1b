//! The daemon of one host, and the processes of its guests.
//!
//! ```text
//!  cli, other agents ──gRPC──► Agent ──process.proto──► guest process ══ lanes ══► guest process
//!                               │  admission, ownership       │ memory, vCPUs, engine
//!                               └── data folder: who, where, journal, log
//! ```
//!
//! An [`Agent`] starts guests, refuses what the host cannot hold, has guests sent and expected,
//! answers who owns one, lets nobody do what the policy does not allow, finds its guests again
//! after it has died, and tells over HTTP how all this goes, if it is asked to. It does **not**
//! touch guest memory, stand in a switchover, decide ownership by itself, or talk to people. The
//! [`guest_process`] is a process of its own, started by the agent and outliving it.
#![forbid(unsafe_code)]

mod access;
mod admission;
mod agent;
pub mod bench;
mod carriers;
mod convert;
mod deadlines;
mod ending;
mod folder;
mod following;
pub mod guest_process;
mod guests;
mod heartbeats;
mod history;
mod incoming;
mod journal;
mod kinds;
mod lifecycle;
mod limits;
mod lock;
mod log;
mod meeting;
mod metrics;
mod networks;
mod options;
mod os;
mod outgoing;
mod ownership;
mod probing;
mod process_link;
mod recovery;
mod relay;
mod report;
mod rerouting;
mod secret;
mod service;
mod stress;
#[cfg(test)]
mod stub_process;
mod trusting;
pub mod units;
mod watching;
mod web;

pub use access::{PolicyError, named_in_policy};
pub use agent::{Agent, AgentError};
pub use carriers::{check_travel, in_words as travels_in_words};
pub use deadlines::{Deadlines, MigrationDeadlines};
pub use folder::FolderError;
pub use heartbeats::{Heartbeat, Heartbeats};
pub use log::{LogFormat, start_log};
pub use options::{AgentOptions, Limits, PortRange};
pub use os::{
    Device, HostFacts, Lack, Overcommit, asked_to_end, host_facts, reader_gone, told_to_end,
};
pub use report::{instant, report_html};
pub use web::{WebOptions, WebRight};
pub use whimbrel_engine::page::{ByteCount, ByteRate};
pub use whimbrel_engine::transport::{Network, Subnet, Which};

/// Messages and service of `proto/whimbrel/process/v1`, where each field is explained.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
mod process_api {
    /// Versions of the calls between agent and guest process that this program speaks.
    pub(crate) const VERSIONS: std::ops::RangeInclusive<u32> = 1..=1;

    tonic::include_proto!("whimbrel.process.v1");
}
