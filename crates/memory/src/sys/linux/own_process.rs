//! Tests that need a process of their own.

use std::env;
use std::process::{Command, Output};

/// Set in such a process.
const OWN: &str = "WHIMBREL_TEST_OWN_PROCESS";
/// If the process hangs, it is ended.
const WATCHDOG_S: libc::c_uint = 300;

/// Runs the test at this path below here once more, alone in a new process, where it has to pass,
/// and returns whether it did; in that process returns false.
pub(super) fn passes(test: &str) -> bool {
    let Some(output) = run(test) else { return false };
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    true
}

/// Runs the test at this path below here once more, alone in a new process, and returns what
/// became of it; in that process returns nothing.
pub(super) fn run(test: &str) -> Option<Output> {
    if env::var_os(OWN).is_some() {
        // SAFETY: a call without pointers.
        unsafe { libc::alarm(WATCHDOG_S) };
        return None;
    }
    let path = format!("{}::{test}", module_path!().rsplit_once("::").expect("below sys").0);
    let path = path.split_once("::").expect("below the crate").1;
    let output = Command::new(env::current_exe().expect("this test"))
        .args([path, "--exact", "--nocapture"])
        .env(OWN, path)
        .output()
        .expect("the test starts itself");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("running 1 test"), "there is no test at {path}: {told}");
    Some(output)
}
