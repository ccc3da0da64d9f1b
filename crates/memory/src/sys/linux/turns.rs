//! How long a thread is at work before the scheduler looks for another.
//!
//! The scheduler of Linux shares a processor by *turns*; who wakes up and asks for a shorter turn
//! than the one at work goes first (Linux 6.12). Long turns cost a thread no part of its share.

use std::io;
use std::mem::size_of;
use std::time::Duration;

use super::checked;

/// The scheduler takes up to 100 ms.
const LONG: Duration = Duration::from_millis(10);

/// Lets this thread take long turns, so that whoever wakes up beside it need not wait for its turn
/// to end: the threads of a guest above all. A kernel before 6.12 does not know of turns, and a
/// thread that is not scheduled in the ordinary way has none: both is no error.
///
/// # Errors
/// What the system says.
pub fn take_long_turns() -> io::Result<()> {
    let mut wanted = attributes()?;
    let ordinary = [libc::SCHED_OTHER, libc::SCHED_BATCH].map(|policy| policy as u32);
    if !ordinary.contains(&wanted.sched_policy) {
        return Ok(());
    }
    wanted.sched_runtime = LONG.as_nanos() as u64;
    // SAFETY: the structure is this thread's own, and says how large it is.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
    checked(done).map(drop)
}

/// How this thread is scheduled.
fn attributes() -> io::Result<libc::sched_attr> {
    // SAFETY: a structure of numbers, all of which may be 0.
    let mut found: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: the kernel writes no more than the size it is told.
    checked(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, size, 0) })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_long_and_nothing_else_changes() {
        let work = || {
            let before = attributes().expect("told");
            take_long_turns().expect("no privilege is needed");
            (before, attributes().expect("told"))
        };
        let (before, after) = std::thread::spawn(work).join().expect("no panic");
        assert_eq!(
            (after.sched_policy, after.sched_nice),
            (before.sched_policy, before.sched_nice)
        );
        if before.sched_runtime == 0 {
            return println!("SKIPPED: this kernel does not tell of turns");
        }
        assert_eq!(Duration::from_nanos(after.sched_runtime), LONG);
    }
}
