//! What a program says to a Whimbrel agent: the generated API and a client with deadlines.
//!
//! ```text
//!  AgentAddress, Access ──Client::connect──► Client ──one method a call──► api::* or ClientError
//! ```
//!
//! The client knows how to reach an agent and to prove who calls and who answers, how long to wait,
//! and how to tell whose fault a failure is. It does **not** retry, keep state, parse command lines
//! or print; the server side is the `agent` crate, which implements [`api::agent_server::Agent`].
#![forbid(unsafe_code)]

mod access;
mod address;
mod client;
mod error;
pub mod ticket;

pub use access::{Access, connect_lazy, observe};
pub use address::{AddressError, AgentAddress};
pub use client::{Client, Deadlines, Watch};
pub use error::ClientError;
pub use whimbrel_identity as identity;

/// Messages and services of `proto/whimbrel/agent/v1`, where each field is explained.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod api {
    tonic::include_proto!("whimbrel.agent.v1");
}

/// The name by which [`api::Host::product`] says that this is a Whimbrel agent.
pub const PRODUCT: &str = "whimbrel";

/// The version of the API that this program speaks. New fields do not change it.
pub const API_VERSION: u32 = 1;

/// The port an agent listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7117;
