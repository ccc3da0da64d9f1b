//! Faults that are none of ours still do what they did: the tracker's handler passes them on.

use std::env;
use std::process::Command;

use whimbrel_memory::page::{ByteCount, Layout, RegionId};
use whimbrel_memory::{Backing, GuestMemory, TrackerKind, open};

/// Set in the process that is to overflow its stack.
const CHILD: &str = "WHIMBREL_TEST_OVERFLOW";

/// Arms the tracker and makes it answer one fault.
fn with_handler(then: impl FnOnce()) {
    let layout = Layout::single(ByteCount::mib(1)).expect("valid");
    let memory = GuestMemory::allocate(&layout, Backing::Private).expect("a small memory");
    memory.store_u64(RegionId(0), ByteCount(0), 1).expect("in range");
    let mut tracker = open(TrackerKind::Mprotect, &memory).expect("works on any Unix");
    tracker.arm().expect("armed");
    memory.store_u64(RegionId(0), ByteCount(0), 2).expect("in range");
    then();
}

#[test]
fn a_stack_overflow_is_still_told_by_the_runtime() {
    if env::var_os(CHILD).is_some() {
        return with_handler(|| println!("{}", endless(1)));
    }
    let output = Command::new(env::current_exe().expect("this test"))
        .args(["--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .expect("the test starts itself");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("overflowed its stack"), "{text}");
}

#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn endless(depth: u64) -> u64 {
    let block = std::hint::black_box([depth; 64]);
    endless(depth.wrapping_add(block[5])).wrapping_add(block[7])
}
