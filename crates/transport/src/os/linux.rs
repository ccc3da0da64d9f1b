//! Linux.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::RecvFlags;
use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::net::{TcpSocket, UdpSocket};

use crate::Woken;

/// A stream between two processes of one host.
pub(crate) type LocalStream = tokio::net::UnixStream;

/// The socket of such a stream, out of the hands of a runtime.
pub(crate) fn socket_of(stream: LocalStream) -> io::Result<Socket> {
    stream.into_std().map(Socket::from)
}

/// Wakes a thread that waits for a socket.
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Rings until somebody hears it in [`wait`].
    pub(crate) fn ring(&self) {
        // It can only fail because it has been rung 2⁶⁴ times and not been heard.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    fn hush(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }
}

/// Waits for bytes, the end or an error of `stream`, or for `bell`.
pub(crate) fn wait(stream: &impl AsFd, bell: &Bell, within: Duration) -> io::Result<Woken> {
    let timeout = Timespec::try_from(within).ok();
    let mut events = [
        PollFd::new(stream, PollFlags::IN),
        PollFd::from_borrowed_fd(bell.0.as_fd(), PollFlags::IN),
    ];
    match poll(&mut events, timeout.as_ref()) {
        // The caller looks at what it waits for and comes back.
        Err(rustix::io::Errno::INTR) => return Ok(Woken::Called),
        other => other?,
    };
    let readable = !events[0].revents().is_empty();
    let called = bell.hush();
    Ok(match (readable, called) {
        (true, _) => Woken::Readable,
        (false, true) => Woken::Called,
        (false, false) => Woken::TimedOut,
    })
}

/// What has arrived, without waiting: `None` if nothing has, 0 at the end.
pub(crate) fn receive_now(stream: &impl AsFd, into: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::net::recv(stream, into, RecvFlags::DONTWAIT) {
        Ok((received, _)) => Ok(Some(received)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Lets a port be listened at again while connections of an earlier listener end.
pub(crate) fn bind_again_at_once(socket: &TcpSocket) -> io::Result<()> {
    socket.set_reuseaddr(true)
}

/// Has a silent peer be probed.
pub(crate) fn set_keepalive(socket: &SockRef<'_>, probes: &TcpKeepalive) -> io::Result<()> {
    socket.set_tcp_keepalive(probes)
}

/// Picks the congestion control of one socket.
pub(crate) fn set_congestion(socket: &SockRef<'_>, name: &str) -> io::Result<()> {
    socket.set_tcp_congestion(name.as_bytes())
}

/// The congestion control of one socket, where the system tells it.
pub(crate) fn congestion(socket: &SockRef<'_>) -> Option<String> {
    let name = socket.tcp_congestion().ok()?;
    let name = name.split(|byte| *byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

/// How long sent bytes may stay unacknowledged before the connection is given up.
pub(crate) fn set_unacknowledged_max(socket: &SockRef<'_>, most: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(most))
}

/// Sends and receives through this interface only. Where this user may not choose it, the address
/// to come from has to do.
pub(crate) fn bind_interface(socket: &SockRef<'_>, name: &str) -> io::Result<()> {
    match socket.bind_device(Some(name.as_bytes())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

/// Marks what is sent: a DSCP for the network, a priority for this host's queues.
pub(crate) fn mark(
    socket: &SockRef<'_>,
    v4: bool,
    dscp: Option<u8>,
    priority: Option<u32>,
) -> io::Result<()> {
    // The priority comes last: the kernel derives one from the other mark.
    match dscp.map(|dscp| u32::from(dscp) << 2) {
        Some(class) if v4 => socket.set_tos_v4(class)?,
        Some(class) => socket.set_tclass_v6(class)?,
        None => {}
    }
    priority.map_or(Ok(()), |priority| socket.set_priority(priority))
}

/// Where the system tells of its interfaces.
const INTERFACES: &str = "/sys/class/net";

/// Keeps the calling thread on the processors beside this interface.
pub(crate) fn pin_beside(name: &str) -> io::Result<()> {
    pin(&beside(Path::new(INTERFACES), name)?)
}

/// Keeps the calling thread on these processors, if there are any.
fn pin(processors: &BTreeSet<usize>) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    let known = |cpu: &&usize| **cpu < rustix::thread::CpuSet::MAX_CPU;
    processors.iter().filter(known).for_each(|cpu| set.set(*cpu));
    if set.count() == 0 { Ok(()) } else { Ok(rustix::thread::sched_setaffinity(None, &set)?) }
}

/// The processors beside an interface: those of the NUMA node of its device. One that stands on
/// others, as a VLAN, a team or a bridge does, is where those are. Beside one that is and has no
/// device there are none that are nearer than others.
fn beside(interfaces: &Path, name: &str) -> io::Result<BTreeSet<usize>> {
    let own = interfaces.join(name);
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match std::fs::read_to_string(own.join("device/local_cpulist")) {
        Err(error) if missing(&error) => {}
        told => return Ok(processors(told?.trim()).collect()),
    }
    let mut found = BTreeSet::new();
    let entries = match std::fs::read_dir(&own) {
        Err(error) if missing(&error) => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?.file_name();
        if let Some(lower) = entry.to_str().and_then(|entry| entry.strip_prefix("lower_")) {
            found.extend(beside(interfaces, lower)?);
        }
    }
    Ok(found)
}

/// The largest packet that an interface takes, in bytes.
pub(crate) fn mtu(interface: &str) -> Option<u32> {
    let told = std::fs::read_to_string(Path::new(INTERFACES).join(interface).join("mtu")).ok()?;
    told.trim().parse().ok()
}

/// The largest packet, in bytes, that the system lets out towards where a socket is connected to.
pub(crate) fn mtu_towards(socket: &impl AsFd, v4: bool) -> io::Result<u32> {
    use rustix::net::sockopt;
    Ok(if v4 { sockopt::ip_mtu(socket)? } else { sockopt::ipv6_mtu(socket)? })
}

/// Has every packet travel whole or not at all, whatever the system believes of the way.
pub(crate) fn forbid_fragments(socket: &UdpSocket, v4: bool) -> io::Result<()> {
    use rustix::net::sockopt;
    Ok(if v4 {
        sockopt::set_ip_mtu_discover(socket, sockopt::Ipv4PathMtuDiscovery::PROBE)
    } else {
        sockopt::set_ipv6_mtu_discover(socket, sockopt::Ipv6PathMtuDiscovery::PROBE)
    }?)
}

/// A socket for QUIC's packets, in the hands of the runtime within which this is called.
pub(crate) fn datagrams(socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    TokioRuntime.wrap_udp_socket(socket)
}

/// Segments that this host has sent again so far, over all its connections.
pub(crate) fn retransmitted() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/self/net/snmp").ok()?;
    let mut lines = told.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|name| name == "RetransSegs")?;
    numbers.split_whitespace().nth(at)?.parse().ok()
}

/// The numbers in a list of the kernel, as `0-3,8`.
fn processors(list: &str) -> impl Iterator<Item = usize> {
    let ranges = list.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    });
    ranges.flatten()
}

/// Takes connections at a path that only this user's processes can reach. Dropping it closes it.
pub(crate) struct LocalListener {
    listener: tokio::net::UnixListener,
    path: std::path::PathBuf,
}

impl LocalListener {
    /// Listens at `path`, in a folder that belongs to this process.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        // One of an earlier process that was killed.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = tokio::net::UnixListener::bind(path).map_err(|error| {
            let why = format!("a socket cannot be made at {}: {error}", path.display());
            io::Error::new(error.kind(), why)
        })?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next connection of a process of this user.
    pub(crate) async fn accept(&self) -> io::Result<LocalStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let caller = stream.peer_cred()?.uid();
            if caller == rustix::process::geteuid().as_raw() {
                return Ok(stream);
            }
        }
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        // Whoever has removed it before has done the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Connects to a path of this host.
pub(crate) async fn connect_local(path: &Path) -> io::Result<LocalStream> {
    LocalStream::connect(path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        let read = |list| processors(list).collect::<Vec<_>>();
        assert_eq!(read("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(read("5"), [5]);
        assert_eq!(read(""), [0_usize; 0]);
        assert_eq!(read("x,1-y"), [0_usize; 0]);
    }

    #[test]
    fn the_system_counts_what_was_sent_again_and_tells_the_size_of_packets() {
        assert!(retransmitted().is_some());
        assert!(mtu("lo").is_some_and(|mtu| mtu >= 1500));
        assert_eq!(mtu("nonesuch0"), None);
    }

    #[test]
    fn beside_no_device_every_processor_is_as_near() {
        pin_beside("lo").expect("nothing to do");
        pin_beside("no such interface").expect("nothing to do");
    }

    /// Interfaces as the kernel shows them: two devices, a team of them, and a VLAN on that.
    #[test]
    fn a_thread_stays_beside_the_device_that_an_interface_stands_on() {
        let folder = std::env::temp_dir().join(format!("whimbrel-net-{}", std::process::id()));
        let make = |path: &str| std::fs::create_dir_all(folder.join(path)).expect("a folder");
        for (device, list) in [("eth0", "0-1"), ("eth1", "4,6-7\n")] {
            make(&format!("{device}/device"));
            make(&format!("bond0/lower_{device}"));
            let list = std::fs::write(folder.join(device).join("device/local_cpulist"), list);
            list.expect("a file");
        }
        make("vlan7/lower_bond0");
        make("dummy0/queues");
        let near = |name| beside(&folder, name).expect("told").into_iter().collect::<Vec<_>>();
        assert_eq!(near("eth1"), [4, 6, 7]);
        assert_eq!(near("vlan7"), [0, 1, 4, 6, 7]);
        assert_eq!(near("dummy0"), [0_usize; 0]);
        std::fs::remove_dir_all(&folder).expect("it was made here");
    }

    #[test]
    fn a_thread_that_was_pinned_runs_there_and_nowhere_else() {
        let pinned = std::thread::spawn(|| {
            // One on which it may be, whichever that is here.
            let may = rustix::thread::sched_getaffinity(None).expect("told");
            let last = (0..rustix::thread::CpuSet::MAX_CPU).rfind(|cpu| may.is_set(*cpu));
            let last = last.expect("it runs on one");
            pin(&BTreeSet::new()).expect("nothing to do");
            assert_eq!(rustix::thread::sched_getaffinity(None).expect("told"), may);
            pin(&BTreeSet::from([last])).expect("it may be there");
            let is = rustix::thread::sched_getaffinity(None).expect("told");
            assert_eq!((is.count(), is.is_set(last)), (1, true));
        });
        pinned.join().expect("no panic");
    }
}
