//! All that this crate asks of the operating system in its own words. Linux; the face is the same
//! elsewhere.
//!
//! Who a process is: a pid is used again, so it only counts together with the time its process
//! started and the boot that this time counts from.

mod facts;
mod signals;

pub use facts::{Device, HostFacts, Overcommit, host_facts};
pub use signals::{asked_to_end, told_to_end};

use std::fs;
use std::io::{self, Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, Timespec, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use whimbrel_engine::page::ByteCount;
use whimbrel_engine::protocol::Process;

/// The random identity of one run of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BootId(pub(crate) [u8; 16]);

impl BootId {
    /// The run of the host that is going on.
    pub(crate) fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let uuid = uuid::Uuid::parse_str(text.trim())
            .map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        Ok(Self(uuid.into_bytes()))
    }
}

/// A process and no other, before or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    /// Its number, which is used again.
    pub(crate) pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub(crate) started: u64,
    /// The run of the host it belongs to.
    pub(crate) boot: BootId,
}

impl ProcessIdentity {
    /// This process.
    pub(crate) fn own() -> io::Result<Self> {
        let pid = std::process::id();
        let started = started(pid)?;
        Ok(Self { pid, started, boot: BootId::now()? })
    }

    /// What is known of it now.
    pub(crate) fn fate(&self) -> io::Result<Process> {
        if self.boot != BootId::now()? {
            return Ok(Process::HostRestarted);
        }
        let Some(fd) = self.open()? else { return Ok(Process::Dead) };
        let mut polled = [PollFd::new(&fd, PollFlags::IN)];
        // A pidfd is readable once the last thread of the process has ended.
        let ended = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? == 1;
        Ok(if ended { Process::Dead } else { Process::Alive })
    }

    /// Ends it without asking. Nothing happens if it has ended.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match self.open()?.map(|fd| pidfd_send_signal(&fd, Signal::KILL)) {
            None | Some(Ok(()) | Err(rustix::io::Errno::SRCH)) => Ok(()),
            Some(Err(error)) => Err(error.into()),
        }
    }

    /// Waits until its last thread has ended.
    pub(crate) async fn ended(&self) -> io::Result<()> {
        let Some(fd) = self.open()? else { return Ok(()) };
        // Deprecated for descriptors that somebody else may close; this one is owned.
        #[expect(deprecated)]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        fd.readable().await?.retain_ready();
        Ok(())
    }

    /// Bytes of memory it holds now, shared memory counted; 0 if it is gone.
    pub(crate) fn resident(&self) -> ByteCount {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        status_field(&status, "VmRSS:").unwrap_or(ByteCount::ZERO)
    }

    /// A handle on it, unless it has ended or its pid is another's.
    fn open(&self) -> io::Result<Option<OwnedFd>> {
        if self.boot != BootId::now()? {
            return Ok(None);
        }
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            opened => opened?,
        };
        // Compared with the handle in hand: from here on the pid cannot change hands unseen.
        match started(self.pid) {
            Ok(started) if started == self.started => Ok(Some(fd)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn started(pid: u32) -> io::Result<u64> {
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

/// What this process has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time of all its threads.
    pub(crate) cpu: Duration,
    /// The most memory it held since [`reset_peak`], shared memory counted.
    pub(crate) peak: ByteCount,
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

/// Opens a file to add to, for this user only.
pub(crate) fn append_private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true);
    private(&mut options);
    options.open(path)
}

/// Makes the folders that are missing on the way to `path`, for this user only.
pub(crate) fn create_private_folders(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Whether nobody but the owner may do anything with a file or folder.
pub(crate) fn is_private(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 == 0)
}

/// Files that the options open are for this user only.
pub(crate) fn private(options: &mut fs::OpenOptions) {
    options.mode(0o600);
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
    use super::*;
    use std::process::Stdio;

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
