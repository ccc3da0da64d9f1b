//! The command line of identities: who one is, whom one trusts, and what one signs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use whimbrel_control::AgentAddress;
use whimbrel_control::identity::Fingerprint;

use crate::args::Encrypt;
use crate::parse::{certified_host, duration, identity_name};

/// Whose identity is shown.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct IdentityArgs {
    /// The folder of the identity to show, also to agents on this host [default: one of your own,
    /// beyond this host only].
    #[arg(long, env = "WHIMBREL_IDENTITY", value_name = "DIR")]
    pub(crate) identity: Option<PathBuf>,
}

/// How an agent tells who calls, and what they may do.
#[derive(Args, Debug)]
pub(crate) struct CallersArgs {
    /// The folder of its identity [default: `identity` in its data folder].
    #[arg(long, value_name = "DIR")]
    pub(crate) identity: Option<PathBuf>,
    /// The file that says who may do what [default: `policy.toml` in its data folder].
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Have callers prove who they are on this host too; beyond it they always do.
    #[arg(long)]
    pub(crate) tls: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) whose: IdentityArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[group(skip)]
pub(crate) struct PairArgs {
    /// The agent whose key is looked at, as host-b or 192.0.2.7:7117. Without it the one that is
    /// paired only calls, and --name and --fingerprint say who it is.
    #[arg(required_unless_present_all = ["name", "fingerprint"])]
    pub(crate) address: Option<AgentAddress>,
    /// What it is called here [default: its host].
    #[arg(long, value_parser = identity_name)]
    pub(crate) name: Option<String>,
    /// Its fingerprint, as `whimbrel identity` prints it there: nobody is asked to compare.
    #[arg(long, value_name = "SHA256:…")]
    pub(crate) fingerprint: Option<Fingerprint>,
    #[command(flatten)]
    pub(crate) whose: IdentityArgs,
}

#[derive(Args, Debug)]
pub(crate) struct UnpairArgs {
    /// Its name here, or its fingerprint.
    pub(crate) which: String,
    #[command(flatten)]
    pub(crate) whose: IdentityArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Pki {
    /// Make an authority in an empty folder. Keep its key where no guest runs.
    Init(InitArgs),
    /// Make an identity with a certificate, in a folder to be brought to its host.
    Issue(IssueArgs),
    /// Take certificates back; the list of these is to be brought to all hosts.
    Revoke(RevokeArgs),
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// The folder of the authority.
    pub(crate) authority: PathBuf,
    /// What it is called.
    #[arg(long, default_value = "whimbrel-authority", value_parser = identity_name)]
    pub(crate) name: String,
    /// How many days its certificate is valid.
    #[arg(long, default_value_t = 3650, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) days: u32,
}

#[derive(Args, Debug)]
pub(crate) struct IssueArgs {
    /// The folder of the authority.
    pub(crate) authority: PathBuf,
    /// Whom the certificate names: what policies and tickets call it.
    #[arg(value_parser = identity_name)]
    pub(crate) name: String,
    /// The folder for the new identity.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// A host name or address at which it answers; may be given more than once. None for a person.
    #[arg(long = "host", value_name = "HOST", value_parser = certified_host)]
    pub(crate) hosts: Vec<String>,
    /// How many days the certificate is valid.
    #[arg(long, default_value_t = 365, value_name = "N",
          value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) days: u32,
}

#[derive(Args, Debug)]
pub(crate) struct RevokeArgs {
    /// The folder of the authority.
    pub(crate) authority: PathBuf,
    /// The name, all of whose certificates are taken back, or the serial number of one.
    pub(crate) which: String,
}

#[derive(Args, Debug)]
pub(crate) struct TicketArgs {
    /// The uuid of the guest that may be moved; `whimbrel status` tells it.
    #[arg(value_parser = uuid_text)]
    pub(crate) guest: String,
    /// Who may send it: the name of an agent's certificate, or its fingerprint.
    #[arg(long, value_name = "IDENTITY", value_parser = subject)]
    pub(crate) from: String,
    /// Who may receive it.
    #[arg(long, value_name = "IDENTITY", value_parser = subject)]
    pub(crate) to: String,
    /// How long the ticket is good, from now.
    #[arg(long = "for", default_value = "300s", value_name = "TIME", value_parser = duration)]
    pub(crate) lifetime: Duration,
    /// Off allows memory to travel in clear and signed, where both hosts' policies trust the links
    /// [default: on].
    #[arg(long, value_enum, value_name = "WHETHER")]
    pub(crate) encrypt: Option<Encrypt>,
    /// The file for the ticket.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) whose: IdentityArgs,
}

/// An identity as every host calls it.
fn subject(text: &str) -> Result<String, String> {
    match Fingerprint::is_meant(text) {
        true => text.parse::<Fingerprint>().map(|print| print.to_string()),
        false => return identity_name(text).map_err(|bad| bad.to_string()),
    }
    .map_err(|error| error.to_string())
}

fn uuid_text(text: &str) -> Result<String, String> {
    let dashes = [8, 13, 18, 23];
    let good = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match dashes.contains(&at) {
            true => byte == b'-',
            false => byte.is_ascii_hexdigit(),
        });
    match good {
        true => Ok(text.to_ascii_lowercase()),
        false => Err("a guest's name may be used again, so a ticket needs its uuid".to_owned()),
    }
}
