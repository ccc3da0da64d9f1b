//! `demo` with real agents and guest processes: what it says, and that nothing is left of it.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::stand_in::{command, said, signal};

/// No wait in these tests is longer, whatever else the machine does.
const WATCHDOG: Duration = Duration::from_secs(60);

/// The demo, with a folder of its own for what it makes.
fn demo(folder: &Path, options: &[&str]) -> Command {
    let mut demo = command(&[&["demo"], options].concat());
    demo.env("TMPDIR", folder);
    demo
}

fn is_empty(folder: &TempDir) -> bool {
    folder.path().read_dir().unwrap().next().is_none()
}

#[test]
fn a_guest_moves_and_proves_itself() {
    let folder = TempDir::new().unwrap();
    let loads = [
        &["--dirty-rate", "0"][..],
        &["--dirty-rate", "100MiB/s", "--fill", "mixed", "--lanes", "2"],
        &["--dirty-rate", "max", "--fill", "zero", "--vcpus", "2", "--pattern", "zipf"],
    ];
    for load in loads {
        let size = ["--memory", "32MiB", "--working-set", "4MiB", "--json"];
        let options = [&size, load].concat();
        let (out, err, status) = said(&demo(folder.path(), &options).output().unwrap());
        assert_eq!(status, 0, "{load:?}: {out}{err}");
        let account: Value = serde_json::from_str(&out).expect("one JSON object");
        assert_eq!(account["outcome"], "completed", "{account}");
        assert_eq!(account["pages_verified"], 8192, "{account}");
        assert_eq!(account["guest_ram_bytes"], 32 << 20, "{account}");
        assert_eq!(account["check"]["sound"], true, "{account}");
        assert_eq!(account["runs_at_destination"], true, "{account}");
        assert_eq!(account["source_let_go"], true, "{account}");
        for field in ["total_ms", "downtime_us", "blackout_us", "cpu_source_ms"] {
            assert!(account[field].as_u64().is_some_and(|value| value > 0), "{field}: {account}");
        }
    }
    assert!(is_empty(&folder));
}

#[test]
fn a_full_verification_tells_its_price() {
    let folder = TempDir::new().unwrap();
    let load = ["--memory", "32MiB", "--working-set", "4MiB", "--dirty-rate", "20MiB/s"];
    let options = [&load[..], &["--verify", "full", "--json"]].concat();
    let (out, err, status) = said(&demo(folder.path(), &options).output().unwrap());
    assert_eq!(status, 0, "{out}{err}");
    let account: Value = serde_json::from_str(&out).expect("one JSON object");
    assert_eq!((&account["outcome"], &account["verify"]), (&"completed".into(), &"full".into()));
    assert_eq!((&account["pages_missed"], &account["check"]["sound"]), (&0.into(), &true.into()));
    let parts = account["downtime_parts"].as_object().expect("the parts");
    assert!(parts["verify_us"].as_u64() > Some(0), "{account}");
    let sum: u64 = parts.values().map(|part| part.as_u64().expect("a number")).sum();
    let downtime = account["downtime_us"].as_u64().expect("a number");
    assert!(downtime.abs_diff(sum) <= parts.len() as u64, "{account}");
    assert!(is_empty(&folder));
}

#[test]
fn a_person_reads_what_happened() {
    let folder = TempDir::new().unwrap();
    let options = ["--memory", "32MiB", "--dirty-rate", "10MiB/s"];
    let (out, err, status) = said(&demo(folder.path(), &options).output().unwrap());
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    let sentences = [
        "A guest of 32 MiB works on the first: it writes 10 MiB/s to 32 MiB of it.",
        "✔ Moved 32 MiB in ",
        "8,192 pages agreed on both sides before it ran there",
        "8,192 pages read by the guest there: none lost, stale or torn",
        "has let go: it ran in one place",
    ];
    for sentence in sentences {
        assert!(out.contains(sentence), "{sentence}: {out}");
    }
    assert!(out.lines().all(|line| line.chars().count() <= 120), "{out}");
}

/// A demo whose agents are known. It is ended by its lifeline, or with the test.
struct Running {
    demo: Child,
    agents: Vec<TcpStream>,
}

impl Running {
    /// Starts a demo that takes long, and connects to its agents.
    fn start(folder: &Path) -> Self {
        let options = ["--memory", "1GiB", "--working-set", "512MiB", "--policy", "wait"];
        let slowly = ["--dirty-rate", "max", "--downtime", "1ms", "--limit", "200Mbit/s"];
        let options = [&options[..], &slowly].concat();
        let demo = demo(folder, &options).stdout(Stdio::piped()).spawn().unwrap();
        let mut running = Self { demo, agents: Vec::new() };
        let mut first = String::new();
        BufReader::new(running.demo.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        let words = first.trim_end().trim_end_matches('.').split_whitespace();
        let addresses = words.filter(|word| word.starts_with("127.0.0.1:"));
        running.agents = addresses.map(|address| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(running.agents.len(), 2, "{first}");
        running
    }

    /// Waits until both agents have closed their connections, as they do when they end.
    fn agents_have_ended(&mut self) {
        for agent in &mut self.agents {
            agent.set_read_timeout(Some(WATCHDOG)).unwrap();
            match agent.read_to_end(&mut Vec::new()) {
                Ok(_) => {}
                Err(why) => assert_eq!(why.kind(), ErrorKind::ConnectionReset, "{why}"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.demo.kill();
        let _ = self.demo.wait();
    }
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    for name in ["INT", "TERM", "HUP"] {
        let folder = TempDir::new().unwrap();
        let mut running = Running::start(folder.path());
        signal(&running.demo, name);
        assert_eq!(running.demo.wait().unwrap().code(), Some(130), "{name}");
        running.agents_have_ended();
        assert!(is_empty(&folder), "{name}");
    }
}

#[test]
fn the_agents_die_with_a_demo_that_is_killed() {
    let folder = TempDir::new().unwrap();
    let mut running = Running::start(folder.path());
    signal(&running.demo, "KILL");
    assert_eq!(running.demo.wait().unwrap().code(), None);
    running.agents_have_ended();
}

#[test]
fn a_guest_that_this_host_cannot_hold_is_refused_with_numbers() {
    let folder = TempDir::new().unwrap();
    let output = demo(folder.path(), &["--memory", "1000TiB", "--json"]).output().unwrap();
    let (out, err, status) = said(&output);
    assert_eq!(status, 1, "{err}");
    let account: Value = serde_json::from_str(&out).expect("one JSON object");
    assert_eq!(account["outcome"], "failed");
    let reason = account["reason"].as_str().unwrap();
    assert!(reason.starts_with("a guest of 1000 TiB needs 2000 TiB here"), "{reason}");
    assert!(reason.contains("are free: try --memory"), "{reason}");
    assert!(is_empty(&folder));
}
