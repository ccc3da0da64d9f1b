//! Where this process has had page faults, from the kernel's own log: perf takes a sample when a
//! fault has been dealt with, and before the thread goes on.
//!
//! What is write-protected or not there cannot be written without a fault, so the log says where
//! a scan of page tables has to look. It is not taken at its word. The kernel counts the faults of
//! the whole process too, and the log is complete only where that count has grown by what was
//! logged: not after a fault of a thread that nobody has attached to, not where a buffer was full,
//! and not where a thread had the kernel deal with a fault in a system call, of which perf is not
//! told. In neither are faults of somebody else in this memory: of other processes, and of workers
//! of the kernel. It is for memory that has no such writers ([`crate::Writers`]).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memmap2::{MmapOptions, MmapRaw};
use whimbrel_page::PAGE_SIZE;

use super::checked;

/// `struct perf_event_attr`, as long as its first version.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint: u32,
    address: u64,
}

const _: () = assert!(size_of::<Attributes>() == 64);

const SOFTWARE: u32 = 1;
/// Counted when a fault is over; the event for all of them counts when it begins, which is before
/// the page can be written and would be too early.
const MINOR_FAULTS: u64 = 5;
const MAJOR_FAULTS: u64 = 6;
const SAMPLE_ADDRESS: u64 = 1 << 3;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
/// `PERF_EVENT_IOC_SET_OUTPUT`.
const SET_OUTPUT: u64 = 0x2405;
/// The type of a record that is a sample.
const SAMPLE: u32 = 9;

/// Pages of a thread's buffer. A sample takes two words, so it holds 4,095 of them.
const BUFFER_PAGES: usize = 16;
/// Where `struct perf_event_mmap_page` has how far was written and read, and where the buffer is
/// and how long, in words.
const HEAD: usize = 1024 / WORD;
const TAIL: usize = 1032 / WORD;
const BUFFER: Range<usize> = 1040 / WORD..1056 / WORD;
const WORD: usize = size_of::<u64>();

/// How often counts are compared before faults that come all the time are taken for lost ones.
const TRIES: usize = 8;
/// How long others are looked at until each of them was seen asleep.
const SETTLING_MAX: Duration = Duration::from_millis(1);
/// Each takes two descriptors and a buffer.
const THREADS_MAX: usize = 128;

/// The faults of all threads there are.
pub(super) struct FaultLog {
    /// The first event of a host makes it wait, and is had before it is needed.
    _first: OwnedFd,
    threads: BTreeMap<libc::pid_t, Thread>,
    logged: u64,
    /// Faults of the process that were in no log at the last restart, or fewer; none where that
    /// could not be told.
    unlogged: Option<u64>,
}

impl FaultLog {
    /// A log of no thread yet, which begins with a restart. Fails where the kernel has no perf
    /// events, or not for us; may wait some ten milliseconds, where nobody has one yet.
    pub(super) fn open() -> io::Result<Self> {
        // Numbers of threads that are another namespace's would be those of strangers.
        let own = fs::read_link("/proc/self")?;
        if own.to_str() != Some(&std::process::id().to_string()) {
            return Err(io::Error::other("/proc is that of another namespace"));
        }
        // A read then makes a block writable for everybody, before its fault is in the log.
        const ZERO_PAGE: &str = "/sys/kernel/mm/transparent_hugepage/use_zero_page";
        if fs::read_to_string(ZERO_PAGE).is_ok_and(|it| it.trim() == "0") {
            return Err(io::Error::other("huge pages that were only read can be written"));
        }
        let first = open(own_id(), MINOR_FAULTS)?;
        Ok(Self { _first: first, threads: BTreeMap::new(), logged: 0, unlogged: None })
    }

    /// Whether it costs anything yet: a thread that is attached to takes longer to be switched.
    pub(super) fn has_begun(&self) -> bool {
        !self.threads.is_empty()
    }

    /// Begins anew: what is missing until now is the caller's to find. Attaches to threads that
    /// are new.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.drain(|_| ());
        self.threads.retain(|_, thread| !thread.is_over());
        self.attach()?;
        // What is in no log must not be taken for more than it is. A fault is counted, then logged:
        // one between the two would add to it, were it not logged by the time of the last look; and
        // one that comes later makes it less, but for our own from the first look on.
        let faults = faults()?;
        self.drain(|_| ());
        let settled = self.settle()?;
        let own = self.threads.get(&own_id()).map_or(0, |thread| thread.drain(&mut |_| ()));
        self.drain(|_| ());
        self.unlogged = settled.then(|| faults.saturating_sub(self.logged));
        self.logged += own;
        Ok(())
    }

    /// Hands the address of every fault to `each` that is in the log, and says whether these are
    /// all since the restart that were over when it was called. A page may be written by other
    /// threads just before the fault that made it writable is over.
    pub(super) fn take(&mut self, mut each: impl FnMut(usize)) -> io::Result<bool> {
        let Some(unlogged) = self.unlogged else {
            return Ok(false);
        };
        for _ in 0..TRIES {
            self.drain(&mut each);
            // In this order: a fault between the two makes the difference too large.
            if faults()? <= self.logged + unlogged {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn drain(&mut self, mut each: impl FnMut(usize)) {
        self.logged += self.threads.values().map(|thread| thread.drain(&mut each)).sum::<u64>();
    }

    /// Attaches to whom it can. A thread that is started meanwhile is missing, and will be missed.
    fn attach(&mut self) -> io::Result<()> {
        for id in tasks()? {
            if self.threads.contains_key(&id) {
                continue;
            }
            if self.threads.len() == THREADS_MAX {
                return Err(io::Error::other("there are too many threads"));
            }
            match Thread::attach(id) {
                // Its number may have been given to a stranger in the meantime.
                Ok(thread) if is_running(id)?.is_some() => drop(self.threads.insert(id, thread)),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether what each thread has counted is in its log: nobody sleeps in between, so that will
    /// do for those that are seen asleep now, and this thread has no fault now.
    fn settle(&self) -> io::Result<bool> {
        let mut unsettled: Vec<_> =
            self.threads.keys().copied().filter(|id| *id != own_id()).collect();
        let began = Instant::now();
        loop {
            let mut awake = Vec::new();
            for id in unsettled {
                if is_running(id)? == Some(true) {
                    awake.push(id);
                }
            }
            if awake.is_empty() {
                return Ok(true);
            }
            if began.elapsed() > SETTLING_MAX {
                return Ok(false);
            }
            unsettled = awake;
        }
    }
}

fn own_id() -> libc::pid_t {
    // SAFETY: a call without pointers.
    unsafe { libc::gettid() }
}

/// The threads of this process.
fn tasks() -> io::Result<Vec<libc::pid_t>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<libc::pid_t>().ok()));
    }
    Ok(found)
}

/// Whether a thread of this process runs or would if it could; none if there is no such thread.
fn is_running(id: libc::pid_t) -> io::Result<Option<bool>> {
    match fs::read_to_string(format!("/proc/self/task/{id}/stat")) {
        // The state comes after the name, which is in parentheses and may have some.
        Ok(stat) => Ok(Some(stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('R')))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// One thread's faults.
struct Thread {
    minor: OwnedFd,
    _major: OwnedFd,
    /// A page that describes the buffer, and the buffer.
    map: MmapRaw,
}

impl Thread {
    fn attach(id: libc::pid_t) -> io::Result<Self> {
        let minor = open(id, MINOR_FAULTS)?;
        let len = (1 + BUFFER_PAGES) * PAGE_SIZE;
        let map = MmapOptions::new().len(len).map_raw(minor.as_raw_fd())?;
        let major = open(id, MAJOR_FAULTS)?;
        // SAFETY: a call without pointers.
        let outcome =
            unsafe { libc::ioctl(major.as_raw_fd(), SET_OUTPUT as libc::Ioctl, minor.as_raw_fd()) };
        checked(outcome.into())?;
        let thread = Self { minor, _major: major, map };
        let buffer = thread.words()[BUFFER].iter().map(|word| word.load(Ordering::Acquire));
        if !buffer.eq([PAGE_SIZE as u64, (BUFFER_PAGES * PAGE_SIZE) as u64]) {
            return Err(io::Error::other("the host's pages are not of 4 KiB"));
        }
        // The first write there is a fault, and not to be one of the first look.
        thread.words()[TAIL].store(0, Ordering::Release);
        Ok(thread)
    }

    /// Whether the thread has ended and nothing of it is left to be read.
    fn is_over(&self) -> bool {
        let mut ask = libc::pollfd { fd: self.minor.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one pollfd.
        let answers = unsafe { libc::poll(&raw mut ask, 1, 0) };
        let [head, tail] = [HEAD, TAIL].map(|word| self.words()[word].load(Ordering::Acquire));
        answers == 1 && ask.revents & libc::POLLHUP != 0 && head == tail
    }

    /// Empties the buffer; returns how many faults were in it.
    fn drain(&self, each: &mut impl FnMut(usize)) -> u64 {
        let (about, buffer) = self.words().split_at(PAGE_SIZE / WORD);
        let word = |at: u64| buffer[at as usize / WORD % buffer.len()].load(Ordering::Relaxed);
        let head = about[HEAD].load(Ordering::Acquire);
        let mut at = about[TAIL].load(Ordering::Relaxed);
        let mut count = 0;
        while at < head {
            // Type, flags and size of the record.
            let header = word(at);
            if header as u32 == SAMPLE {
                count += 1;
                each(word(at + WORD as u64) as usize);
            }
            at += (header >> 48).max(WORD as u64);
        }
        about[TAIL].store(head, Ordering::Release);
        count
    }

    fn words(&self) -> &[AtomicU64] {
        let len = self.map.len() / WORD;
        // SAFETY: the mapping is aligned to pages and lives as long as `self`. What the kernel
        // writes to it we only ever touch as atomic words.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), len) }
    }
}

/// An event that is counted in whatever mode the thread is when it has a fault; where that is
/// forbidden, for its own doing only.
fn open(thread: libc::pid_t, event: u64) -> io::Result<OwnedFd> {
    open_with(thread, event, 0).or_else(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => open_with(thread, event, EXCLUDE_KERNEL),
        _ => Err(error),
    })
}

fn open_with(thread: libc::pid_t, config: u64, flags: u64) -> io::Result<OwnedFd> {
    let attributes = Attributes {
        kind: SOFTWARE,
        size: size_of::<Attributes>() as u32,
        config,
        sample_period: 1,
        sample_type: SAMPLE_ADDRESS,
        flags,
        ..Attributes::default()
    };
    let [any, none]: [libc::c_int; 2] = [-1, -1];
    // SAFETY: the first argument is a perf_event_attr of the size that it says.
    let fd = checked(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread,
            any,
            none,
            CLOSE_ON_EXEC,
        )
    })?;
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The faults of all threads of this process, of those that have ended as well.
fn faults() -> io::Result<u64> {
    // SAFETY: all zeros are a rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is one.
    checked(unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) }.into())?;
    Ok(usage.ru_minflt as u64 + usage.ru_majflt as u64)
}

#[cfg(test)]
mod tests;
