//! `whimbrel demo`: one command, a verified result, and nothing left behind.

use whimbrel_tests::program::{command, run};
use whimbrel_tests::{demo, os};

const MIB: u64 = 1 << 20;

async fn moves(memory_mib: u64, options: &[&str]) {
    let memory = format!("{memory_mib}MiB");
    let words = ["demo", "--json", "--memory", &memory];
    let said = run(&[words.as_slice(), options].concat()).await.ended(0);
    let faults = demo::faults(&said.out, memory_mib * MIB);
    assert!(faults.is_empty(), "{faults:?}: {said:?}");
}

#[tokio::test]
async fn an_idle_guest() {
    moves(64, &["--dirty-rate", "0"]).await;
}

#[tokio::test]
async fn a_busy_guest() {
    let busy = ["--dirty-rate", "100MiB/s", "--working-set", "16MiB", "--vcpus", "2"];
    moves(64, &[busy.as_slice(), &["--pattern", "zipf", "--fill", "mixed"]].concat()).await;
}

#[tokio::test]
async fn a_guest_at_full_speed() {
    moves(64, &["--dirty-rate", "max", "--working-set", "64MiB", "--lanes", "1"]).await;
}

#[tokio::test]
async fn a_guest_of_zeros_over_many_lanes() {
    moves(128, &["--fill", "zero", "--dirty-rate", "0", "--lanes", "16"]).await;
}

#[tokio::test]
async fn the_old_tracker() {
    let tracker = ["--tracker", "mprotect", "--dirty-rate", "50MiB/s"];
    moves(32, &[tracker.as_slice(), &["--pattern", "phases", "--fill", "text"]].concat()).await;
}

#[tokio::test]
async fn an_ordinary_user() {
    let Some(nobody) = os::Nobody::new(whimbrel_tests::program::whimbrel()) else { return };
    let said = nobody.run(&["demo", "--json", "--memory", "32MiB"]).await.ended(0);
    let faults = demo::faults(&said.out, 32 * MIB);
    assert!(faults.is_empty(), "{faults:?}: {said:?}");
}

/// However it ends, neither its processes nor its folder outlive it.
async fn leaves_nothing(end: impl FnOnce(os::Pid)) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut demo = command(&["demo", "--memory", "256MiB", "--dirty-rate", "max"]);
    demo.env("TMPDIR", folder.path());
    let mut demo = demo.spawn().expect("it starts");
    let pid = os::Pid::of(&demo);
    let family = os::until(|| Some(os::descendants(pid)).filter(|all| all.len() >= 3)).await;
    end(pid);
    let _ = demo.wait().await;
    os::until(|| family.iter().all(|pid| !os::is_alive(*pid)).then_some(())).await;
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("readable").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn interrupted_it_leaves_nothing() {
    leaves_nothing(os::interrupt).await;
}
