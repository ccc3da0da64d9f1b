//! All that this crate asks of the operating system in its own words. Each system has one module
//! with the same face.
//!
//! Who a process is: a pid is used again, so it only counts together with the time its process
//! started and the boot that this time counts from.

mod facts;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(windows)]
use windows as system;

pub use facts::{Device, HostFacts, Lack, Overcommit, host_facts};
#[cfg(all(test, unix))]
pub(crate) use system::full_disk;
pub(crate) use system::{
    PINS_LANES, append_private, closing, congestion_allowed, create_private_folders, detach,
    is_private, keep_streams, memory_available, open_many_files, open_private, read_at, reset_peak,
    resident, tcp_buffers_max, tie, tied, unpaced, untie, usage, write_at,
};
pub use system::{asked_to_end, reader_gone, told_to_end};

use std::io;
use std::time::Duration;

use tokio::net::{TcpListener, ToSocketAddrs};
use whimbrel_engine::page::ByteCount;
use whimbrel_engine::protocol::Process;

/// Connections that wait to be accepted, at an address that many come to at once. The libraries'
/// own is 128; who comes when so many wait is not heard, and tries again after 1, 3 and 7 s.
const WAITING_MAX: i32 = 1024;

/// Listens at the first of `addresses` that can be had, with room for many who come at once.
pub(crate) async fn listen(addresses: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addresses).await?;
    rustix::net::listen(&listener, WAITING_MAX)?;
    Ok(listener)
}

/// The identity of one run of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BootId(pub(crate) [u8; 16]);

impl BootId {
    /// The run of the host that is going on.
    pub(crate) fn now() -> io::Result<Self> {
        system::boot().map(Self)
    }
}

/// A process and no other, before or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    /// Its number, which is used again.
    pub(crate) pid: u32,
    /// When it started, as the system counts.
    pub(crate) started: u64,
    /// The run of the host it belongs to.
    pub(crate) boot: BootId,
}

impl ProcessIdentity {
    /// This process.
    pub(crate) fn own() -> io::Result<Self> {
        let pid = std::process::id();
        let started = system::started(pid)?;
        Ok(Self { pid, started, boot: BootId::now()? })
    }

    /// What is known of it now.
    pub(crate) fn fate(&self) -> io::Result<Process> {
        if self.boot != BootId::now()? {
            return Ok(Process::HostRestarted);
        }
        let Some(handle) = self.open()? else { return Ok(Process::Dead) };
        Ok(if handle.has_ended()? { Process::Dead } else { Process::Alive })
    }

    /// Ends it without asking. Nothing happens if it has ended.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.open()?.map_or(Ok(()), |handle| handle.kill())
    }

    /// Waits until its last thread has ended.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        match self.open()? {
            Some(handle) => handle.ended().await,
            None => Ok(()),
        }
    }

    /// Bytes of memory it holds now, shared memory counted; 0 if it is gone.
    pub(crate) fn resident(&self) -> ByteCount {
        system::resident_of(self.pid)
    }

    /// A handle on it, unless it has ended or its pid is another's.
    fn open(&self) -> io::Result<Option<system::Handle>> {
        if self.boot != BootId::now()? {
            return Ok(None);
        }
        system::Handle::open(self.pid, self.started)
    }
}

/// What this process has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time of all its threads.
    pub(crate) cpu: Duration,
    /// The most memory it held since [`reset_peak`], shared memory counted.
    pub(crate) peak: ByteCount,
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn many_connect_before_anybody_is_accepted() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        // Half of them: more files than that a process often may not have.
        for number in 0..WAITING_MAX / 2 {
            // One who is not heard tries for minutes, and nobody makes room.
            let connected = timeout(Duration::from_secs(60), TcpStream::connect(address)).await;
            waiting.push(connected.unwrap_or_else(|_| panic!("{number} are too many")).unwrap());
        }
    }
}
