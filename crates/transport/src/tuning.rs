//! Socket options of lanes and control connections.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use whimbrel_page::ByteCount;

use crate::os as system;

/// Which congestion control a connection uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// The host's default; towards this very host one that does not pace, where there is one:
    /// BBR measures a path, and a loopback is none.
    #[default]
    Auto,
    /// This one, by the host's name for it, or no connection.
    Named(String),
}

/// What does not pace, best first. Ordinary users may not have all of them.
const UNPACED: [&str; 2] = ["cubic", "reno"];

/// Socket options. The defaults suit a data centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// The kernel's send buffer; `None` leaves it to the host, which adapts it.
    pub send_buffer: Option<ByteCount>,
    /// The kernel's receive buffer; `None` leaves it to the host, which adapts it.
    pub receive_buffer: Option<ByteCount>,
    /// The congestion control.
    pub congestion: Congestion,
    /// Silence after which the peer is probed.
    pub keepalive_after: Duration,
    /// The time from probe to probe.
    pub keepalive_every: Duration,
    /// So many probes without an answer end the connection.
    pub keepalive_probes: u32,
    /// How long sent bytes may stay unacknowledged by the peer's host.
    pub unacknowledged_max: Duration,
    /// The class of service that the network is told, 0..=63 (DSCP).
    pub dscp: Option<u8>,
    /// The priority in this host's own queues (`SO_PRIORITY`); beyond 6 it takes a privilege.
    pub priority: Option<u32>,
}

/// The system counts in seconds here.
const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

impl Default for Tuning {
    fn default() -> Self {
        Self {
            send_buffer: None,
            receive_buffer: None,
            congestion: Congestion::Auto,
            keepalive_after: Duration::from_secs(5),
            keepalive_every: Duration::from_secs(2),
            keepalive_probes: 3,
            unacknowledged_max: Duration::from_secs(10),
            dscp: None,
            priority: None,
        }
    }
}

impl Tuning {
    /// Sets everything but the buffers, which have to be set before a connection is made.
    pub(crate) fn apply(&self, socket: &SockRef<'_>, peer: IpAddr) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        self.apply_keepalive(socket)?;
        system::set_unacknowledged_max(socket, self.unacknowledged_max)?;
        system::mark(socket, peer.is_ipv4(), self.dscp, self.priority)?;
        self.apply_congestion(socket, peer)
    }

    /// Has the peer of a connection that is not ours, and may be silent, be probed as well.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn probe(&self, connection: &TcpStream) -> io::Result<()> {
        self.apply_keepalive(&SockRef::from(connection))
    }

    fn apply_keepalive(&self, socket: &SockRef<'_>) -> io::Result<()> {
        let probes = TcpKeepalive::new().with_time(self.keepalive_after.max(KEEPALIVE_MIN));
        let probes = probes.with_interval(self.keepalive_every.max(KEEPALIVE_MIN));
        let probes = probes.with_retries(self.keepalive_probes.max(1));
        system::set_keepalive(socket, &probes)
    }

    /// Sets the buffers that differ from the host's choice.
    pub(crate) fn apply_buffers(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if let Some(size) = self.send_buffer {
            socket.set_send_buffer_size(size.0 as usize)?;
        }
        if let Some(size) = self.receive_buffer {
            socket.set_recv_buffer_size(size.0 as usize)?;
        }
        Ok(())
    }

    fn apply_congestion(&self, socket: &SockRef<'_>, peer: IpAddr) -> io::Result<()> {
        match &self.congestion {
            Congestion::Named(name) => system::set_congestion(socket, name).map_err(|error| {
                let why = format!("this host does not offer congestion control `{name}`: {error}");
                io::Error::new(error.kind(), why)
            }),
            Congestion::Auto if peer.is_loopback() => {
                let set = |name: &&str| system::set_congestion(socket, name).is_ok();
                let _ = UNPACED.iter().find(|name| set(name));
                Ok(())
            }
            Congestion::Auto => Ok(()),
        }
    }
}
