//! Windows.

mod facts;
mod signals;

pub(super) use facts::host_facts;
pub(crate) use facts::{congestion_allowed, tcp_buffers_max};
pub use signals::{asked_to_end, reader_gone, told_to_end};

use std::fs;
use std::io::{self, ErrorKind};
use std::os::windows::fs::FileExt;
use std::os::windows::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use tokio::process::Child;
use tokio::sync::oneshot;
use whimbrel_engine::page::ByteCount;
use whimbrel_win32::{Job, Process, Right, others_may};

use super::Usage;

/// Whether lanes can be kept on the processors beside an interface: which those are is not told in
/// a way that holds for every interface.
pub(crate) const PINS_LANES: bool = false;

/// What to do about a file that others may read.
pub(crate) use whimbrel_win32::closing;

/// The run of the host that is going on, as the time when it began.
pub(super) fn boot() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&whimbrel_win32::boot_time()?.to_le_bytes());
    Ok(id)
}

/// A handle on one process and no other.
pub(super) struct Handle(Process);

impl Handle {
    /// On the process of this number that started then, unless its number is another's.
    pub(super) fn open(pid: u32, at: u64) -> io::Result<Option<Self>> {
        // Compared with the handle in hand, which keeps the number from changing hands.
        match Process::open(pid)? {
            Some(process) if process.started()? == at => Ok(Some(Self(process))),
            _ => Ok(None),
        }
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        self.0.has_ended()
    }

    /// Ends it without asking. Nothing happens if it has ended.
    pub(super) fn kill(&self) -> io::Result<()> {
        self.0.kill()
    }

    /// Waits until it has ended.
    pub(super) async fn ended(self) -> io::Result<()> {
        let (tell, told) = oneshot::channel::<()>();
        let _watch = self.0.watch(move || drop(tell))?;
        // That the other end is gone is what is waited for.
        let _ = told.await;
        Ok(())
    }
}

/// When the process of this number started, in units of 100 ns since 1601.
pub(super) fn started(pid: u32) -> io::Result<u64> {
    Process::open(pid)?.ok_or(ErrorKind::NotFound)?.started()
}

/// Bytes of memory that a process holds now, shared memory counted; 0 if it is gone.
pub(super) fn resident_of(pid: u32) -> ByteCount {
    let process = Process::open(pid).ok().flatten();
    let used = process.and_then(|process| process.usage().ok());
    ByteCount(used.map_or(0, |used| used.resident))
}

/// What this process has used so far.
pub(crate) fn usage() -> io::Result<Usage> {
    let used = whimbrel_win32::Usage::own()?;
    Ok(Usage { cpu: used.cpu, peak: ByteCount(used.peak) })
}

/// Memory this process holds now; Windows tells nobody of page tables.
pub(crate) fn resident() -> io::Result<(ByteCount, ByteCount)> {
    Ok((ByteCount(whimbrel_win32::Usage::own()?.resident), ByteCount::ZERO))
}

/// The system's congestion control does not pace.
#[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
pub(crate) fn unpaced(_: &std::net::TcpStream) -> io::Result<()> {
    Ok(())
}

/// Windows has no such limit.
#[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
pub(crate) fn open_many_files() -> io::Result<()> {
    Ok(())
}

/// Windows counts [`Usage::peak`] from the start of the process, always.
#[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
pub(crate) fn reset_peak() -> io::Result<()> {
    Ok(())
}

/// Memory that new processes could be given: what is free, and what the system may still promise.
pub(crate) fn memory_available() -> io::Result<ByteCount> {
    let memory = whimbrel_win32::memory()?;
    Ok(ByteCount(memory.free.min(memory.promisable)))
}

/// Keeps what a terminal sends to the agent, its end too, away from a guest process.
pub(crate) fn detach(command: &mut Command) {
    const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
    const CREATE_NO_WINDOW: u32 = 0x800_0000;
    command.creation_flags(CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW);
}

/// The processes that end with this one, however it ends.
static TIED: Mutex<Option<Job>> = Mutex::new(None);

/// Has a guest process end with this one: [`tied`] does it. An input that two processes read at
/// the same time would have the second one wait for the first to read.
pub(crate) fn tie(command: &mut Command) {
    command.stdin(Stdio::null());
}

/// To be called once a process that was [prepared](tie) has started. If this process ends before
/// that, the other one is told nothing to do, and ends by itself.
pub(crate) fn tied(child: &Child) -> io::Result<()> {
    // One that has ended needs nobody to end it.
    let Some(pid) = child.id() else { return Ok(()) };
    let mut tied = TIED.lock().unwrap_or_else(PoisonError::into_inner);
    let job = match tied.take() {
        Some(job) => job,
        None => Job::new()?,
    };
    tied.insert(job).take(pid)
}

/// To be called when this process is about to end: ends those that are [tied] to it.
pub(crate) fn untie() {
    drop(TIED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Has guest processes inherit none of this process's streams: they outlive it.
pub(crate) use whimbrel_win32::keep_streams;

/// Opens a file to add to, for this user only.
pub(crate) fn append_private(path: &Path) -> io::Result<fs::File> {
    open_private(fs::OpenOptions::new().append(true).create(true), path)
}

/// Makes the folders that are missing on the way to `path`, for this user only.
pub(crate) fn create_private_folders(path: &Path) -> io::Result<()> {
    whimbrel_win32::create_private_folders(path)
}

/// Whether nobody but the owner, and those who administer the host, may do anything with a file
/// or folder.
pub(crate) fn is_private(path: &Path) -> io::Result<bool> {
    Ok(!others_may(path, Right::Read)? && !others_may(path, Right::Write)?)
}

/// Opens a file, for this user only.
pub(crate) fn open_private(options: &mut fs::OpenOptions, path: &Path) -> io::Result<fs::File> {
    whimbrel_win32::open_private(options, path)
}

/// Writes all of `bytes` at `offset` in one call where the disk takes them.
pub(crate) fn write_at(file: &fs::File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match file.seek_write(&bytes[written..], offset + written as u64)? {
            0 => return Err(ErrorKind::WriteZero.into()),
            more => written += more,
        }
    }
    Ok(())
}

/// Reads up to the end of `into` or of the file.
pub(crate) fn read_at(file: &fs::File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.seek_read(&mut into[read..], offset + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}
