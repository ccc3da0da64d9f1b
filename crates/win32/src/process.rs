//! Processes: which one it is, whether it has ended, and its end.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::ptr::null_mut;
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    ERROR_INVALID_PARAMETER, FILETIME, HANDLE, INVALID_HANDLE_VALUE, WAIT_OBJECT_0, WAIT_TIMEOUT,
};
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetProcessTimes, INFINITE, OpenProcess, PROCESS_ACCESS_RIGHTS,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, PROCESS_TERMINATE,
    RegisterWaitForSingleObject, TerminateProcess, UnregisterWaitEx, WT_EXECUTEONLYONCE,
    WaitForSingleObject,
};

use crate::checked;

/// The exit status of a process that was ended without being asked.
const ENDED: u32 = 1;

/// A process, whose number nobody else gets as long as this is there.
#[derive(Debug)]
pub struct Process {
    handle: OwnedHandle,
    pid: u32,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads.
    pub cpu: Duration,
    /// Bytes of memory that it holds.
    pub resident: u64,
    /// The most that it ever held, in bytes.
    pub peak: u64,
}

impl Process {
    /// The process with this number, to be looked at; `None` if there is none.
    ///
    /// # Errors
    /// What the system says; it does not say of a process that this user may not look at whether
    /// it is the one that is meant, and such a process is not dead.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        let rights = PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE;
        match open(pid, rights) {
            Ok(handle) => Ok(Some(Self { handle, pid })),
            Err(error) if error.raw_os_error() == Some(ERROR_INVALID_PARAMETER as i32) => Ok(None),
            Err(error) => Err(explained(error, pid)),
        }
    }

    /// When it started, in units of 100 ns since 1601.
    ///
    /// # Errors
    /// What the system says.
    pub fn started(&self) -> io::Result<u64> {
        Ok(times(self.handle())?.0)
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// What the system says.
    pub fn has_ended(&self) -> io::Result<bool> {
        // SAFETY: the handle is open.
        match unsafe { WaitForSingleObject(self.handle(), 0) } {
            WAIT_OBJECT_0 => Ok(true),
            WAIT_TIMEOUT => Ok(false),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Ends it without asking. Nothing happens if it has ended.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(&self) -> io::Result<()> {
        // Only here, as whoever may look at a process need not be one who may end it. The number
        // is still its own: it is held.
        let ended = open(self.pid, PROCESS_TERMINATE).and_then(|handle| {
            // SAFETY: the handle is open.
            checked(unsafe { TerminateProcess(handle.as_raw_handle(), ENDED) })
        });
        match ended {
            // One that is ending lets nobody end it.
            Err(_) if self.has_ended()? => Ok(()),
            other => other.map_err(|error| explained(error, self.pid)),
        }
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// What the system says.
    pub fn usage(&self) -> io::Result<Usage> {
        usage(self.handle())
    }

    /// Calls `then` on a thread of the system once the process has ended, unless what this
    /// returns is dropped before.
    ///
    /// # Errors
    /// What the system says.
    pub fn watch(self, then: impl FnOnce() + Send + 'static) -> io::Result<Watch> {
        let then: Then = Box::new(then);
        let context = Box::into_raw(Box::new(Some(then)));
        let mut wait = null_mut();
        // SAFETY: the context lives until the wait is unregistered, and the process is open until
        // then; the callback runs once.
        let worked = unsafe {
            RegisterWaitForSingleObject(
                &mut wait,
                self.handle(),
                Some(ended),
                context.cast(),
                INFINITE,
                WT_EXECUTEONLYONCE,
            )
        };
        let watch = Watch { wait, context, _process: self };
        checked(worked).map(|()| watch)
    }

    fn handle(&self) -> HANDLE {
        self.handle.as_raw_handle()
    }
}

impl Usage {
    /// Of this process.
    ///
    /// # Errors
    /// What the system says.
    pub fn own() -> io::Result<Self> {
        // SAFETY: a call without pointers, whose handle need not be closed.
        usage(unsafe { GetCurrentProcess() })
    }
}

/// A handle on the process of this number, with these rights and no more.
fn open(pid: u32, rights: PROCESS_ACCESS_RIGHTS) -> io::Result<OwnedHandle> {
    // SAFETY: a call without pointers.
    let handle = unsafe { OpenProcess(rights, 0, pid) };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle was just made and is nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// The error with what to do about it, where that is known.
fn explained(error: io::Error, pid: u32) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let why = format!(
        "Windows denies this user process {pid} ({error}): work as the user who started it, or as \
         an administrator"
    );
    io::Error::new(error.kind(), why)
}

type Then = Box<dyn FnOnce() + Send>;

/// Waits for the end of a process. Dropping it ends the wait.
#[derive(Debug)]
pub struct Watch {
    wait: HANDLE,
    context: *mut Option<Then>,
    _process: Process,
}

// SAFETY: the context is reached by the callback alone until it is freed, and what it holds may
// be called on any thread.
unsafe impl Send for Watch {}
// SAFETY: a shared reference gives access to nothing.
unsafe impl Sync for Watch {}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.wait.is_null() {
            // SAFETY: registered and not unregistered before. The call waits for a callback that
            // is at work.
            unsafe { UnregisterWaitEx(self.wait, INVALID_HANDLE_VALUE) };
        }
        // SAFETY: made by `Box::into_raw`, and no callback uses it any more.
        drop(unsafe { Box::from_raw(self.context) });
    }
}

/// What a thread of the system calls.
unsafe extern "system" fn ended(context: *mut c_void, _timed_out: bool) {
    // SAFETY: the context of `Process::watch`, which lives until no callback runs, and which only
    // this one uses.
    let then = unsafe { &mut *context.cast::<Option<Then>>() };
    if let Some(then) = then.take() {
        then();
    }
}

/// When it started, and the time that it has used, both in units of 100 ns.
fn times(process: HANDLE) -> io::Result<(u64, u64)> {
    let [mut started, mut ended, mut kernel, mut user] = [FILETIME::default(); 4];
    // SAFETY: the handle is open, and each pointer is to a structure of its own.
    let worked =
        unsafe { GetProcessTimes(process, &mut started, &mut ended, &mut kernel, &mut user) };
    checked(worked)?;
    let number =
        |time: FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Ok((number(started), number(kernel) + number(user)))
}

fn usage(process: HANDLE) -> io::Result<Usage> {
    let (_, used) = times(process)?;
    let size = size_of::<PROCESS_MEMORY_COUNTERS>() as u32;
    let mut memory = PROCESS_MEMORY_COUNTERS { cb: size, ..Default::default() };
    // SAFETY: the handle is open, and the structure says how large it is.
    checked(unsafe { K32GetProcessMemoryInfo(process, &mut memory, size) })?;
    Ok(Usage {
        cpu: Duration::from_nanos(used.saturating_mul(100)),
        resident: memory.WorkingSetSize as u64,
        peak: memory.PeakWorkingSetSize as u64,
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::process::{Command, Stdio};
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::Job;
    use crate::access::set_list_of;

    /// Waits for the end of its input: it lives as long as we hold the pipe.
    fn sleeper() -> std::process::Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["process::tests::sleeps", "--exact"]).env("WHIMBREL_TEST_SLEEPS", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// What a sleeper does; nothing among the other tests.
    #[test]
    fn sleeps() {
        if std::env::var_os("WHIMBREL_TEST_SLEEPS").is_some() {
            io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
        }
    }

    #[test]
    fn a_process_that_is_killed_has_ended_and_whoever_waits_is_called() {
        let mut child = sleeper();
        let process = Process::open(child.id()).unwrap().unwrap();
        assert!(!process.has_ended().unwrap());
        let (tell, told) = sync_channel(1);
        let watched = Process::open(child.id()).unwrap().unwrap();
        let watch = watched.watch(move || tell.send(()).unwrap()).unwrap();
        process.kill().unwrap();
        told.recv().unwrap();
        assert!(process.has_ended().unwrap());
        process.kill().unwrap();
        drop(watch);
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_may_not_be_looked_at_is_not_taken_for_none() {
        let mut child = sleeper();
        let looked_at = Process::open(child.id()).unwrap().unwrap();
        // Nobody may do anything with it any more; handles stay as they are.
        set_list_of(child.as_raw_handle(), OsStr::new("D:P")).unwrap();
        let denied = [Process::open(child.id()).unwrap_err(), looked_at.kill().unwrap_err()];
        for error in denied {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("as an administrator"), "{error}");
        }
        assert!(!looked_at.has_ended().unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        looked_at.kill().unwrap();
    }

    #[test]
    fn whoever_may_look_at_a_process_need_not_be_one_who_may_end_it() {
        let mut child = sleeper();
        set_list_of(child.as_raw_handle(), OsStr::new("D:P(A;;0x101000;;;WD)")).unwrap();
        let process = Process::open(child.id()).unwrap().unwrap();
        assert_ne!(process.started().unwrap(), 0);
        assert!(!process.has_ended().unwrap());
        assert_eq!(process.kill().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_number_that_no_process_has_is_none() {
        // Numbers of processes are multiples of four.
        assert!(Process::open(u32::MAX - 3).unwrap().is_none());
    }

    #[test]
    fn nobody_is_called_after_the_watch_was_dropped() {
        let mut child = sleeper();
        let process = Process::open(child.id()).unwrap().unwrap();
        let (tell, told) = sync_channel::<()>(1);
        drop(process.watch(move || tell.send(()).unwrap()).unwrap());
        assert!(told.recv().is_err(), "the other end is gone");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn processes_differ_by_when_they_started_and_use_memory() {
        let (mut one, mut other) = (sleeper(), sleeper());
        let [first, second] =
            [&one, &other].map(|child| Process::open(child.id()).unwrap().unwrap());
        assert_ne!(first.started().unwrap(), 0);
        assert!(first.started().unwrap() <= second.started().unwrap());
        assert_eq!(first.started().unwrap(), first.started().unwrap());
        let own = Usage::own().unwrap();
        assert!(own.resident > 0 && own.peak >= own.resident, "{own:?}");
        for child in [&mut one, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_job_takes_its_processes_along() {
        let mut child = sleeper();
        let job = Job::new().unwrap();
        job.take(child.id()).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        drop(job);
        child.wait().unwrap();
    }
}
