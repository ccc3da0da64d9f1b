//! What people and their tools are shown, as it is typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use whimbrel_agent::{LogFormat, WebRight};

use super::Target;

/// What an agent shows of itself.
#[derive(Args, Debug)]
pub(crate) struct ShownArgs {
    /// Speak HTTP there, as 127.0.0.1:9117: a page, metrics for Prometheus, reports of migrations.
    /// Where the agent asks callers who they are, or others than this host can connect,
    /// --http-token has to be given too [default: no HTTP].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<SocketAddr>,
    /// The file with the token that whoever asks over HTTP has to show, for your user only.
    #[arg(long, value_name = "FILE", requires = "http")]
    pub(crate) http_token: Option<PathBuf>,
    /// What may be done over HTTP, whatever the policy says; more than to look only at an address
    /// of this host, as HTTP is not encrypted [default: look where the agent asks callers who they
    /// are or --http is another host's to reach, and manage elsewhere].
    #[arg(long, value_name = "RIGHT", requires = "http")]
    pub(crate) http_may: Option<May>,
    /// What the agent and the processes of its guests log: lines of text or JSON objects.
    #[arg(long, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log: LogFormat,
}

/// What may be done over HTTP.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum May {
    /// To look at guests and migrations.
    Look,
    /// To move guests and to cancel that, too.
    Order,
    /// To decide about guests in doubt, too.
    Manage,
}

impl From<May> for WebRight {
    fn from(may: May) -> Self {
        match may {
            May::Look => Self::Look,
            May::Order => Self::Order,
            May::Manage => Self::Manage,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    /// A guest, whose next migration is waited for if none is under way; or a migration's id.
    /// Without one, the host with all its guests is watched, until q is pressed.
    pub(crate) guest: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
    /// Print one JSON object at the end, and nothing else.
    #[arg(long, requires = "guest")]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DumpArgs {
    /// Its name or uuid.
    pub(crate) guest: String,
    /// The file to write, - for standard output [default: NAME.resp].
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// A migration's id, or a guest, whose last migration it is; without one, all that the agent
    /// remembers are listed.
    pub(crate) migration: Option<String>,
    /// The file to write, - for standard output [default: whimbrel-ID.html].
    #[arg(long, short, value_name = "FILE", requires = "migration")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) target: Target,
}
