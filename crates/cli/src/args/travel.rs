//! How memory and messages travel.

use clap::{Args, ValueEnum};
use whimbrel_control::api;

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct TravelArgs {
    /// What carries memory and messages. A Unix socket connects two agents of one host.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    pub(crate) transport: Transport,
    /// Whether they are encrypted; off sends memory in clear, and signed so that nobody on the way
    /// can change it [default: on beyond this host; within it nothing is encrypted or signed].
    #[arg(long, value_enum, value_name = "WHETHER")]
    pub(crate) encrypt: Option<Encrypt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Tcp,
    Tls,
    Quic,
    Unix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encrypt {
    On,
    Off,
}

impl From<Transport> for api::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Tls => Self::Tls,
            Transport::Quic => Self::Quic,
            Transport::Unix => Self::Unix,
        }
    }
}

impl From<Encrypt> for api::Encrypt {
    fn from(encrypt: Encrypt) -> Self {
        match encrypt {
            Encrypt::On => Self::On,
            Encrypt::Off => Self::Off,
        }
    }
}
