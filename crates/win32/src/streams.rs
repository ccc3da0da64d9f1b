//! The standard streams of this process.

use std::io;
use std::os::windows::io::{AsRawHandle as _, RawHandle};

use windows_sys::Win32::Foundation::{
    HANDLE_FLAG_INHERIT, INVALID_HANDLE_VALUE, SetHandleInformation,
};

use crate::checked;

/// Has no process that this one starts inherit its streams besides those that are given to it on
/// purpose: whoever reads what this process writes would wait for the other one's end, too.
///
/// # Errors
/// What the system says.
pub fn keep_streams() -> io::Result<()> {
    streams().into_iter().try_for_each(|stream| {
        // SAFETY: a call without pointers; the system checks the handle.
        checked(unsafe { SetHandleInformation(stream, HANDLE_FLAG_INHERIT, 0) })
    })
}

/// Those that are there: a program without a console need not have any.
fn streams() -> Vec<RawHandle> {
    let all =
        [io::stdin().as_raw_handle(), io::stdout().as_raw_handle(), io::stderr().as_raw_handle()];
    all.into_iter().filter(|it| !it.is_null() && *it != INVALID_HANDLE_VALUE).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::*;
    use crate::Process;

    /// What has not come about by then never will.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// This program with one test in it that does something else where this variable is set.
    fn start(test: &str, stdout: Stdio) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([&format!("streams::tests::{test}"), "--exact", "--nocapture"]);
        command.env("WHIMBREL_TEST_STREAMS", "1").stdin(Stdio::inherit()).stdout(stdout);
        command.stderr(Stdio::null()).spawn().unwrap()
    }

    fn is_started() -> bool {
        std::env::var_os("WHIMBREL_TEST_STREAMS").is_some()
    }

    /// Starts a process that lives on, as an agent does; nothing among the other tests.
    #[test]
    fn starts_another() {
        if is_started() {
            keep_streams().unwrap();
            println!("pid {} ", start("lives_on", Stdio::null()).id());
        }
    }

    /// Waits for the end of the input; nothing among the other tests.
    #[test]
    fn lives_on() {
        if is_started() {
            io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
        }
    }

    #[test]
    fn a_process_that_lives_on_does_not_hold_the_output_of_the_one_that_started_it() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["streams::tests::starts_another", "--exact", "--nocapture"]);
        command.env("WHIMBREL_TEST_STREAMS", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (tell, told) = sync_channel(1);
        let _reader = std::thread::spawn(move || {
            let mut said = String::new();
            tell.send(output.read_to_string(&mut said).map(|_| said)).unwrap();
        });
        // It ends only where nobody else can write there any more.
        let said = told.recv_timeout(PATIENCE).expect("somebody holds it").unwrap();
        let pid = said.split_once("pid ").unwrap().1.split_whitespace().next().unwrap();
        let other = Process::open(pid.parse().unwrap()).unwrap().unwrap();
        assert!(!other.has_ended().unwrap());
        drop(child.stdin.take());
        child.wait().unwrap();
        let (tell, told) = sync_channel(1);
        let _watch = other.watch(move || tell.send(()).unwrap()).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
    }
}
