//! The command line as it is typed. What it means is decided in `plan`.

mod observing;
mod traffic;
mod travel;
pub(crate) mod trust;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use whimbrel_agent::{Deadlines, PortRange};
use whimbrel_control::{AgentAddress, api};

use crate::exit;
use crate::parse::{ListenAddress, Rate, Size, deadlines, duration, guest_name, ports};
use trust::{CallersArgs, IdentityArgs, PairArgs, Pki, ShowArgs, TicketArgs, UnpairArgs};

pub(crate) use observing::{DumpArgs, ReportArgs, ShownArgs, WatchArgs};
pub(crate) use traffic::{LimitArgs, NetworkArgs, TrafficArgs};
pub(crate) use travel::{Encrypt, TravelArgs};

/// Moves running guests from one host to another while they keep running.
#[derive(Debug, Parser)]
#[command(name = "whimbrel", version, after_help = exit::TABLE, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Move a guest at work between two agents on this host, and check every page of it.
    #[command(after_help = exit::TABLE)]
    Demo(DemoArgs),
    /// Be the agent of this host: hold guests, send them away, take them in.
    Agent(AgentArgs),
    /// Start a guest on an agent.
    Run(RunArgs),
    /// List the guests of an agent.
    List(ListArgs),
    /// Tell all about one guest.
    Status(StatusArgs),
    /// Watch a host and its guests, or follow a migration, also one that was started elsewhere.
    Watch(WatchArgs),
    /// Move a guest to another agent while it runs.
    #[command(after_help = exit::TABLE)]
    Migrate(MigrateArgs),
    /// Write what a migration came to as an HTML file, or list those that are remembered.
    Report(ReportArgs),
    /// Give up a migration; its guest runs on where it is.
    Cancel(CancelArgs),
    /// Say how fast a migration, or a host, may send; also while guests move.
    Limit(LimitArgs),
    /// Decide about a guest in doubt, when the other host is known to be off.
    Resolve(ResolveArgs),
    /// Let go of the clients of a guest that has moved away.
    Release(ReleaseArgs),
    /// Write all that a key-value guest holds as Redis commands, as `redis-cli --pipe` takes them.
    Dump(DumpArgs),
    /// End a guest.
    Stop(StopArgs),
    /// Ask an agent whether it is there and what it can take.
    Probe(ProbeArgs),
    /// Tell the fingerprint of your identity, and make one if there is none.
    Identity(ShowArgs),
    /// Trust the key of another agent or person, after comparing its fingerprint.
    Pair(PairArgs),
    /// Trust a paired key no more.
    Unpair(UnpairArgs),
    /// Be a private authority: certify agents and people, and take that back.
    #[command(subcommand)]
    Pki(Pki),
    /// Sign a ticket that allows one move of one guest, for somebody who may not order moves.
    Ticket(TicketArgs),
    /// Measure what this host can do: the plain mover, the engine and the whole product in turns.
    Bench(BenchArgs),
    /// Say what this host offers for live migration, what it lacks, and what to do about it.
    Doctor(DoctorArgs),
    /// What an agent starts for each guest.
    #[command(hide = true, disable_help_flag = true)]
    GuestProcess {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Print one JSON object at the end, and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    #[command(flatten)]
    pub(crate) movement: MoveArgs,
}

/// What a guest is to be.
#[derive(Args, Debug)]
#[command(next_help_heading = "Guest")]
pub(crate) struct GuestArgs {
    /// What kind of guest: one that writes memory and checks it, or a key-value store that Redis
    /// clients use.
    #[arg(long = "guest", value_enum, default_value_t = Kind::Stress, value_name = "KIND")]
    pub(crate) kind: Kind,
    /// Its memory, as 512MiB or 1GiB.
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    pub(crate) memory: Size,
    /// Where clients of a key-value guest connect, as 127.0.0.1:6379 [default: loopback, any port].
    #[arg(long = "serve", value_name = "ADDRESS")]
    pub(crate) serve: Option<SocketAddr>,
    /// The part that it writes again and again [default: 256MiB, or all of a smaller memory].
    #[arg(long, value_name = "SIZE")]
    pub(crate) working_set: Option<Size>,
    /// How fast it writes, as 400MiB/s, max or 0.
    #[arg(long, default_value = "400MiB/s", value_name = "RATE")]
    pub(crate) dirty_rate: Rate,
    /// What its pages hold.
    #[arg(long, value_enum, default_value_t = Fill::Random)]
    pub(crate) fill: Fill,
    /// In which order it writes.
    #[arg(long, value_enum, default_value_t = Pattern::Uniform)]
    pub(crate) pattern: Pattern,
    /// How many virtual processors write.
    #[arg(long, default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) vcpus: u32,
    /// What its content is derived from; two guests of one seed hold the same.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
}

/// How a guest is to be moved.
#[derive(Args, Debug)]
#[command(next_help_heading = "Migration")]
pub(crate) struct MoveArgs {
    /// How many connections carry the memory, 1 to 128 [default: the agent's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=128))]
    pub(crate) lanes: Option<u32>,
    /// How long the guest may stand still, as 300ms; 5s unless said where all is verified.
    #[arg(long, default_value = "300ms", default_value_if("verify", "full", "5s"),
          value_name = "TIME", value_parser = duration)]
    pub(crate) downtime: Duration,
    /// When a guest writes faster than the link carries: slow it down, switch over anyway,
    /// wait until it converges, or leave it where it is.
    #[arg(long, value_enum, default_value_t = Policy::Throttle)]
    pub(crate) policy: Policy,
    /// How far the guest may be slowed down, in percent [default: the agent's].
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=99))]
    pub(crate) throttle_limit: Option<u32>,
    /// What is compared before the guest runs there: what was sent with what landed, or both
    /// memories themselves while it stands still, which finds writes that were not tracked.
    #[arg(long, value_enum, default_value_t = Verify::Digest, value_name = "HOW")]
    pub(crate) verify: Verify,
    /// How much of one core looks, while the guest runs, for writes that were not tracked, in
    /// percent; 0 is none [default: the agent's].
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) scrub: Option<u32>,
    /// How writes are tracked; `whimbrel doctor` lists the ways [default: the best there is].
    #[arg(long, value_name = "NAME")]
    pub(crate) tracker: Option<String>,
    #[command(flatten)]
    pub(crate) travel: TravelArgs,
    #[command(flatten)]
    pub(crate) traffic: TrafficArgs,
    /// The TCP congestion control of the lanes [default: the agent's].
    #[arg(long, value_name = "NAME")]
    pub(crate) congestion: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct AgentArgs {
    /// The folder of the agent's guests and records; it belongs to this agent alone.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Where to listen; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:7117", value_name = "ADDRESS")]
    pub(crate) listen: ListenAddress,
    /// Where other agents reach this one, if not where it listens.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) advertise: Option<AgentAddress>,
    /// Ports for incoming migrations, as 7200-7299 [default: any].
    #[arg(long, value_name = "RANGE", value_parser = ports)]
    pub(crate) ports: Option<PortRange>,
    #[command(flatten)]
    pub(crate) networks: NetworkArgs,
    /// The most guests [default: 64].
    #[arg(long, value_name = "N")]
    pub(crate) guests: Option<u32>,
    /// The most migrations at the same time, each way [default: 2].
    #[arg(long, value_name = "N")]
    pub(crate) migrations: Option<u32>,
    /// The most memory for all guests together, as 16GiB [default: what this host has].
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Size>,
    /// Take guests although this host could not back all the memory they are promised.
    #[arg(long)]
    pub(crate) overcommit: bool,
    /// How long to wait for what, as silence=2s,doubt=10s; the guide lists all names.
    #[arg(long, value_name = "NAME=TIME,...", value_parser = deadlines)]
    pub(crate) deadlines: Option<Deadlines>,
    #[command(flatten)]
    pub(crate) shown: ShownArgs,
    #[command(flatten)]
    pub(crate) callers: CallersArgs,
    /// End, with all guests, when standard input ends.
    #[arg(long, hide = true)]
    pub(crate) die_with_parent: bool,
}

/// The agent that is asked.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// The agent to ask.
    #[arg(long, env = "WHIMBREL_AGENT", default_value = "127.0.0.1:7117", value_name = "ADDRESS")]
    pub(crate) agent: AgentAddress,
    #[command(flatten)]
    pub(crate) whose: IdentityArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Do not wait until the guest has filled its memory and works.
    #[arg(long)]
    pub(crate) detach: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// The guest's name [default: the agent finds one].
    #[arg(long, value_parser = guest_name)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Also those that have moved away or ended.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print one JSON array.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Its name or uuid.
    pub(crate) guest: String,
    /// Have the guest check its whole memory too.
    #[arg(long)]
    pub(crate) check: bool,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Do not wait for the end.
    #[arg(long)]
    pub(crate) detach: bool,
    /// Print one JSON object at the end, and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
    /// Its name or uuid.
    pub(crate) guest: String,
    /// The agent to move it to, as host-b or 192.0.2.7:7117.
    pub(crate) destination: AgentAddress,
    /// A ticket that allows this move, from `whimbrel ticket`.
    #[arg(long, value_name = "FILE")]
    pub(crate) ticket: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) movement: MoveArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    /// The guest that is moving, or the migration's id.
    pub(crate) guest: String,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args, Debug)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("decision").required(true))]
pub(crate) struct ResolveArgs {
    /// Its name or uuid.
    pub(crate) guest: String,
    /// Run it here. Needs --peer-is-off.
    #[arg(long, requires = "peer_is_off", group = "decision")]
    pub(crate) run_here: bool,
    /// It runs elsewhere: free what is here.
    #[arg(long, group = "decision")]
    pub(crate) give_up: bool,
    /// I vouch that the other host is off, or that the guest does not run there.
    #[arg(long)]
    pub(crate) peer_is_off: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args, Debug)]
pub(crate) struct ReleaseArgs {
    /// Its name or uuid.
    pub(crate) guest: String,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// Its name or uuid.
    pub(crate) guest: String,
    /// Also while it moves or is in doubt.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args, Debug)]
pub(crate) struct ProbeArgs {
    /// The agent, as host-b or 192.0.2.7:7117.
    pub(crate) address: AgentAddress,
    /// Have this agent measure each path from its host to that one.
    #[arg(long, value_name = "AGENT")]
    pub(crate) from: Option<AgentAddress>,
    /// With how many connections at once to measure, one number or more [default: 1,2,4,8].
    #[arg(long, value_delimiter = ',', value_name = "N,…", requires = "from",
          value_parser = clap::value_parser!(u32).range(1..=128))]
    pub(crate) lanes: Vec<u32>,
    #[command(flatten)]
    pub(crate) whose: IdentityArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// The memory that is moved; this host holds it four times at the worst moment.
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    pub(crate) memory: Size,
    /// How many connections carry it, one number or more.
    #[arg(long, value_delimiter = ',', default_value = "1,4", value_name = "N,…",
          value_parser = clap::value_parser!(u16).range(1..=128))]
    pub(crate) lanes: Vec<u16>,
    /// How often each is measured; medians are shown.
    #[arg(long, default_value_t = 3, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeats: u32,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// The data folder of this host's agent: its certificate, its policy and its files are looked
    /// at too.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Have this host's agent look at the paths to another host's agent too.
    #[arg(long, value_name = "AGENT")]
    pub(crate) peer: Option<AgentAddress>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print one JSON array.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Stress,
    Kv,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fill {
    Random,
    Zero,
    Text,
    Mixed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pattern {
    Uniform,
    Zipf,
    Sequential,
    Phases,
    HotSpot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    Throttle,
    Switch,
    Wait,
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verify {
    Digest,
    Full,
}

impl From<Fill> for api::Fill {
    fn from(fill: Fill) -> Self {
        match fill {
            Fill::Random => Self::Random,
            Fill::Zero => Self::Zero,
            Fill::Text => Self::Text,
            Fill::Mixed => Self::Mixed,
        }
    }
}

impl From<Pattern> for api::Pattern {
    fn from(pattern: Pattern) -> Self {
        match pattern {
            Pattern::Uniform => Self::Uniform,
            Pattern::Zipf => Self::Zipf,
            Pattern::Sequential => Self::Sequential,
            Pattern::Phases => Self::Phases,
            Pattern::HotSpot => Self::HotSpot,
        }
    }
}

impl From<Policy> for api::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Throttle => Self::Throttle,
            Policy::Switch => Self::Switch,
            Policy::Wait => Self::Wait,
            Policy::GiveUp => Self::GiveUp,
        }
    }
}

impl From<Verify> for api::Verify {
    fn from(verify: Verify) -> Self {
        match verify {
            Verify::Digest => Self::Digest,
            Verify::Full => Self::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declaration_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_agent_starts_its_guests_by_a_name_that_is_known_here() {
        let words = ["whimbrel", whimbrel_agent::guest_process::COMMAND, "--folder", "-x"];
        let command = Cli::try_parse_from(words).expect("known").command;
        let Command::GuestProcess { args } = command else { panic!("{command:?}") };
        assert_eq!(args, ["--folder", "-x"]);
    }

    #[test]
    fn the_default_addresses_have_the_default_port() {
        let list = Cli::try_parse_from(["whimbrel", "list"]).expect("defaults").command;
        let Command::List(args) = list else { panic!("list") };
        assert_eq!(args.target.agent.port(), whimbrel_control::DEFAULT_PORT);
        let agent = ["whimbrel", "agent", "--data", "x"];
        let Command::Agent(args) = Cli::try_parse_from(agent).expect("defaults").command else {
            panic!("agent")
        };
        assert_eq!(args.listen.0.port(), whimbrel_control::DEFAULT_PORT);
    }
}
