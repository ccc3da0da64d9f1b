//! `agent`: the daemon of this host, on this side of its library.

use std::future::pending;
use std::net::SocketAddr;

use whimbrel_agent::{
    Agent, AgentError, AgentOptions, ByteCount, Limits, PortRange, WebOptions, WebRight,
    asked_to_end, start_log, told_to_end,
};
use whimbrel_control::AgentAddress;

use crate::args::AgentArgs;
use crate::exit::{Ending, Exit, Stop};
use crate::out;

/// How an agent's first line begins; the address follows.
const LISTENING: &str = "whimbrel agent listening on ";

/// How the line begins that says where it speaks HTTP, if it does; it comes before.
const SERVING: &str = "whimbrel agent serving ";

/// Runs an agent until it is asked to end.
pub(crate) async fn agent(args: AgentArgs) -> Ending {
    let started = start_log(args.shown.log, std::io::stderr);
    started.map_err(|why| Stop::failed(format!("no log: {why}")))?;
    let dies_with_parent = args.die_with_parent;
    let agent = Agent::bind(options(args)?).await?;
    if let Some(address) = agent.web_address() {
        out::line(format!("{SERVING}http://{address}/"));
    }
    out::line(announcement(agent.address()));
    let ended = async {
        match dies_with_parent {
            // Ctrl-C reaches the parent too, which then ends its agents in its own order.
            true => heard(told_to_end().await).await,
            false => interrupted().await,
        }
    };
    agent.serve(ended).await?;
    Ok(Exit::Done)
}

fn options(args: AgentArgs) -> Result<AgentOptions, Stop> {
    let defaults = Limits::default();
    let (token, may) = (args.shown.http_token, args.shown.http_may.map(WebRight::from));
    Ok(AgentOptions {
        web: args.shown.http.map(|listen| WebOptions { listen, token, may }),
        log: args.shown.log,
        advertise: args.advertise,
        identity: args.callers.identity,
        policy: args.callers.policy,
        tls: args.callers.tls,
        die_with_parent: args.die_with_parent,
        ports: args.ports.unwrap_or(PortRange::ANY),
        networks: args.networks.networks,
        limit: args.networks.limit,
        heartbeats: args.networks.heartbeat.unwrap_or_default(),
        pin_lanes: args.networks.pin_lanes,
        deadlines: args.deadlines.unwrap_or_default(),
        limits: Limits {
            guests: args.guests.unwrap_or(defaults.guests),
            migrations: args.migrations.unwrap_or(defaults.migrations),
            memory: args.memory.map(|memory| ByteCount(memory.0)),
            overcommit: args.overcommit,
            ..defaults
        },
        ..AgentOptions::new(args.data, args.listen.0)
    })
}

impl From<AgentError> for Stop {
    fn from(error: AgentError) -> Self {
        let exit = match &error {
            AgentError::NoToken { .. }
            | AgentError::ReadableToken { .. }
            | AgentError::ShortToken
            | AgentError::OpenToken { .. }
            | AgentError::Pinning => Exit::Usage,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

/// The line by which an agent says where it listens.
fn announcement(address: SocketAddr) -> String {
    format!("{LISTENING}{address}")
}

/// The address in an agent's announcement.
pub(crate) fn address_of(line: &str) -> Option<AgentAddress> {
    line.strip_prefix(LISTENING)?.trim().parse().ok()
}

/// Comes when a person or the system asks this program to end.
pub(crate) async fn interrupted() {
    heard(asked_to_end().await).await;
}

/// Signals that cannot be listened for never come; they then end the program at once.
async fn heard(signal: std::io::Result<()>) {
    if signal.is_err() {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_understood() {
        let address = "[::1]:7".parse().expect("an address");
        let heard = address_of(&announcement(address)).expect("heard");
        assert_eq!(heard.to_string(), "[::1]:7");
        assert_eq!(address_of("something else"), None);
        assert_eq!(address_of("whimbrel agent listening on nowhere at all"), None);
    }
}
