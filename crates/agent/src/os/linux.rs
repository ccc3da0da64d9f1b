//! Linux.

mod facts;
mod signals;

pub(super) use facts::host_facts;
pub(crate) use facts::{congestion_allowed, tcp_buffers_max};
pub use signals::{asked_to_end, reader_gone, told_to_end};

use std::fs;
use std::io::{self, Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, setrlimit,
};
use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use whimbrel_engine::page::ByteCount;

use super::Usage;

/// Whether lanes can be kept on the processors beside an interface.
pub(crate) const PINS_LANES: bool = true;

/// What to do about a file that others may read.
pub(crate) fn closing(path: &Path) -> String {
    format!("chmod 600 {}", path.display())
}

/// The run of the host that is going on.
pub(super) fn boot() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let uuid = uuid::Uuid::parse_str(text.trim())
        .map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
    Ok(uuid.into_bytes())
}

/// A handle on one process and no other.
pub(super) struct Handle(OwnedFd);

impl Handle {
    /// On the process of this number that started then, unless it has ended or its number is
    /// another's.
    pub(super) fn open(pid: u32, at: u64) -> io::Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match pidfd_open(raw, PidfdFlags::NONBLOCK) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            opened => opened?,
        };
        // Compared with the handle in hand: from here on the pid cannot change hands unseen.
        match started(pid) {
            Ok(started) if started == at => Ok(Some(Self(fd))),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether its last thread has ended.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        // A pidfd is readable once the last thread of the process has ended.
        Ok(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 1)
    }

    /// Ends it without asking. Nothing happens if it has ended.
    pub(super) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until its last thread has ended.
    pub(super) async fn ended(self) -> io::Result<()> {
        // Deprecated for descriptors that somebody else may close; this one is owned.
        #[expect(deprecated)]
        let fd = AsyncFd::with_interest(self.0, Interest::READABLE)?;
        fd.readable().await?.retain_ready();
        Ok(())
    }
}

/// When the process of this number started, in the kernel's ticks since boot.
pub(super) fn started(pid: u32) -> io::Result<u64> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The process ended between the opening and the reading of the file.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            return Err(ErrorKind::NotFound.into());
        }
        read => read?,
    };
    // The second field is the program's name in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').map(|(_, after)| after.split_whitespace());
    let started = fields.and_then(|mut fields| fields.nth(19)).and_then(|text| text.parse().ok());
    started.ok_or_else(|| Error::new(ErrorKind::InvalidData, "/proc/PID/stat has no start time"))
}

/// Bytes of memory that a process holds now, shared memory counted; 0 if it is gone.
pub(super) fn resident_of(pid: u32) -> ByteCount {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status_field(&status, "VmRSS:").unwrap_or(ByteCount::ZERO)
}

/// What this process has used so far.
pub(crate) fn usage() -> io::Result<Usage> {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = Duration::try_from(cpu).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status_field(&status, "VmHWM:")
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, "/proc/self/status has no VmHWM"))?;
    Ok(Usage { cpu, peak })
}

/// Memory this process holds now, without its page tables, and those.
pub(crate) fn resident() -> io::Result<(ByteCount, ByteCount)> {
    let status = fs::read_to_string("/proc/self/status")?;
    let fields = status_field(&status, "VmRSS:").zip(status_field(&status, "VmPTE:"));
    fields.ok_or_else(|| Error::new(ErrorKind::InvalidData, "/proc/self/status has no VmRSS"))
}

/// Sets a congestion control that does not pace, which the host's default may do: pacing is not
/// what a loopback is measured for.
pub(crate) fn unpaced(socket: &std::net::TcpStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_congestion(socket, "cubic")?)
}

/// Has this process open as many files as it may: each client of a guest is one.
pub(crate) fn open_many_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

/// Has [`Usage::peak`] count from now.
pub(crate) fn reset_peak() -> io::Result<()> {
    fs::write("/proc/self/clear_refs", "5")
}

/// Memory that new processes could be given without swapping: the host's, or what the control
/// groups around this process leave of it.
pub(crate) fn memory_available() -> io::Result<ByteCount> {
    let host = status_field(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:")
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, "/proc/meminfo has no MemAvailable"))?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let left = Path::new(group).ancestors().filter_map(group_left).min();
    Ok(left.map_or(host, |left| left.min(host)))
}

fn group_left(group: &Path) -> Option<ByteCount> {
    let read = |name| {
        let path = Path::new("/sys/fs/cgroup").join(group).join(name);
        fs::read_to_string(path).ok()?.trim().parse::<u64>().ok()
    };
    Some(ByteCount(read("memory.max")?.saturating_sub(read("memory.current")?)))
}

fn status_field(text: &str, name: &str) -> Option<ByteCount> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteCount(kib << 10))
}

/// Keeps signals that a terminal sends to the agent away from a guest process.
pub(crate) fn detach(command: &mut Command) {
    command.process_group(0);
}

/// Has a guest process end with this one: it sees the end of an input that both have.
pub(crate) fn tie(command: &mut Command) {
    command.arg("--die-with-parent").stdin(Stdio::inherit());
}

/// To be called once a process that was [tied](tie) has started.
#[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
pub(crate) fn tied(_: &Child) -> io::Result<()> {
    Ok(())
}

/// Streams are not inherited here unless they are given.
#[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
pub(crate) fn keep_streams() -> io::Result<()> {
    Ok(())
}

/// To be called when this process is about to end: those that are [tied](tie) see that by
/// themselves.
pub(crate) fn untie() {}

/// Opens a file to add to, for this user only.
pub(crate) fn append_private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    open_private(options.append(true).create(true), path)
}

/// Makes the folders that are missing on the way to `path`, for this user only.
pub(crate) fn create_private_folders(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether nobody but the owner may do anything with a file or folder.
pub(crate) fn is_private(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 == 0)
}

/// Opens a file; where it is made, it is for this user only.
pub(crate) fn open_private(options: &mut fs::OpenOptions, path: &Path) -> io::Result<fs::File> {
    options.mode(0o600).open(path)
}

/// Writes all of `bytes` at `offset` in one call where the disk takes them.
pub(crate) fn write_at(file: &fs::File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Reads up to the end of `into` or of the file.
pub(crate) fn read_at(file: &fs::File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.read_at(&mut into[read..], offset + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

/// A file that takes nothing because the disk is full.
#[cfg(test)]
pub(crate) fn full_disk() -> fs::File {
    fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap()
}

#[cfg(test)]
mod tests {
    use whimbrel_engine::protocol::Process;

    use super::*;
    use crate::os::{BootId, ProcessIdentity, reset_peak, usage};

    #[test]
    fn as_many_files_are_open_as_may_be() {
        let limit = getrlimit(Resource::Nofile);
        // No fewer than that: other tests in this process open many.
        let fewer = Some(limit.maximum.map_or(1 << 20, |most| most - 1));
        setrlimit(Resource::Nofile, Rlimit { current: fewer, ..limit }).unwrap();
        open_many_files().unwrap();
        let now = getrlimit(Resource::Nofile);
        assert_eq!((now.current, now.maximum), (limit.maximum, limit.maximum));
    }

    fn sleeper() -> std::process::Child {
        // `cat` waits for the end of its input: it lives as long as we hold the pipe.
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn identity(child: &std::process::Child) -> ProcessIdentity {
        let pid = child.id();
        ProcessIdentity { pid, started: started(pid).unwrap(), boot: BootId::now().unwrap() }
    }

    #[test]
    fn this_process_is_alive() {
        assert_eq!(ProcessIdentity::own().unwrap().fate().unwrap(), Process::Alive);
    }

    #[test]
    fn a_pid_in_other_hands_and_an_earlier_boot_are_told_apart() {
        let own = ProcessIdentity::own().unwrap();
        let earlier = ProcessIdentity { started: own.started - 1, ..own };
        assert_eq!(earlier.fate().unwrap(), Process::Dead);
        earlier.kill().unwrap();
        let rebooted = ProcessIdentity { boot: BootId([7; 16]), ..own };
        assert_eq!(rebooted.fate().unwrap(), Process::HostRestarted);
    }

    #[tokio::test]
    async fn a_killed_process_is_dead_before_and_after_it_is_reaped() {
        let mut child = sleeper();
        let identity = identity(&child);
        assert_eq!(identity.fate().unwrap(), Process::Alive);
        identity.kill().unwrap();
        identity.ended().await.unwrap();
        assert_eq!(identity.fate().unwrap(), Process::Dead);
        child.wait().unwrap();
        assert_eq!(identity.fate().unwrap(), Process::Dead);
        identity.kill().unwrap();
        identity.ended().await.unwrap();
    }

    #[test]
    fn usage_grows_with_what_is_done() {
        let before = usage().unwrap();
        let mut held = vec![1u8; 32 << 20];
        while usage().unwrap().cpu < before.cpu + Duration::from_millis(5) {
            held.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3));
        }
        assert!(usage().unwrap().peak >= ByteCount::mib(32));
        assert!(ProcessIdentity::own().unwrap().resident() >= ByteCount::mib(32));
        drop(held);
        reset_peak().unwrap();
        assert!(usage().unwrap().peak > ByteCount::ZERO);
    }

    #[test]
    fn some_memory_is_available() {
        assert!(memory_available().unwrap() > ByteCount::mib(1));
    }
}
