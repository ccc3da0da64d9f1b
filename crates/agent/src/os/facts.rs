//! What the system says about this host that matters to live migration. Nothing is judged here,
//! and nothing is changed.

use whimbrel_engine::memory::Probe;
use whimbrel_engine::page::ByteCount;

/// What the system says about this host. What it does not say is `None` or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The kernel's release, as "6.18.44", of Linux.
    pub kernel: Option<String>,
    /// The version of any other system, by its name.
    pub system: Option<String>,
    /// What the processor calls itself.
    pub processor: Option<String>,
    /// What Whimbrel does elsewhere and cannot do on this system, whatever the host is set to.
    pub lacks: &'static [Lack],
    /// Which dirty trackers work here, found out by trying them.
    pub trackers: Probe,
    /// Memory that new processes could be given.
    pub memory_available: Option<ByteCount>,
    /// How the kernel promises memory.
    pub overcommit: Option<Overcommit>,
    /// When anonymous memory gets huge pages: "always", "madvise" or "never".
    pub huge_pages: Option<String>,
    /// Mappings a process may have.
    pub mappings_max: Option<u64>,
    /// Files a process may have open.
    pub files_max: Option<u64>,
    /// The TCP congestion control of new connections.
    pub congestion: Option<String>,
    /// The congestion controls that this user may ask for instead.
    pub congestion_allowed: Vec<String>,
    /// The most that TCP buffers of one connection hold: to send, to receive.
    pub tcp_buffers_max: Option<(ByteCount, ByteCount)>,
    /// The most that a program may have other sockets hold: to send, to receive.
    pub udp_buffers_max: Option<(ByteCount, ByteCount)>,
    /// Whether hardware virtualisation can be used.
    pub kvm: Device,
}

/// Something that this system does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What it is about: a word or two.
    pub subject: &'static str,
    /// What is not there.
    pub found: &'static str,
    /// What to do instead.
    pub advice: &'static str,
}

/// How the kernel promises memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overcommit {
    /// Anything but the obviously impossible.
    Heuristic,
    /// Anything.
    Always,
    /// No more than it has.
    Never,
}

/// Whether a device can be used by this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// It can be opened.
    Usable,
    /// It is there, and this user may not open it.
    Forbidden,
    /// It is not there.
    Absent,
}

/// Looks at this host. Takes some milliseconds: trackers are tried out.
#[must_use]
pub fn host_facts() -> HostFacts {
    super::system::host_facts()
}
