//! The commands against real agents that were started by hand, as on two hosts.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::stand_in::{command, said, signal};

/// A real agent. It ends, with its guests, when its standard input does.
struct RealAgent {
    child: Child,
    address: String,
    folder: TempDir,
}

impl RealAgent {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let data = folder.path().to_str().unwrap();
        let words = ["agent", "--data", data, "--listen", "127.0.0.1:0", "--die-with-parent"];
        let mut program = command(&words);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = program.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().rsplit(' ').next().unwrap().to_owned();
        Self { child, address, folder }
    }

    fn whimbrel(&self, words: &[&str]) -> (String, String, i32) {
        said(&command(words).env("WHIMBREL_AGENT", &self.address).output().unwrap())
    }

    /// What the guests' processes have written down goes with the folder.
    fn print_logs(&self) {
        let guests = std::fs::read_dir(self.folder.path().join("guests"));
        for guest in guests.into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(guest.path().join("log")).unwrap_or_default();
            println!("--- log of {:?} at {}\n{log}", guest.file_name(), self.address);
        }
    }

    /// What the command prints as JSON.
    fn json(&self, words: &[&str]) -> Value {
        let (out, err, _) = self.whimbrel(words);
        serde_json::from_str(&out).unwrap_or_else(|why| panic!("{words:?}: {why}: {out}{err}"))
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.print_logs();
        }
    }
}

const SMALL: [&str; 7] =
    ["run", "--memory", "16MiB", "--working-set", "1MiB", "--dirty-rate", "10MiB/s"];

#[test]
fn a_guest_goes_there_and_back() {
    let (a, b) = (RealAgent::start(), RealAgent::start());
    let (out, err, status) = a.whimbrel(&[&SMALL[..], &["--name", "web"]].concat());
    assert_eq!(status, 0, "{err}");
    assert!(out.starts_with("web  "), "{out}");

    let there = a.json(&["migrate", "web", &b.address, "--json"]);
    assert_eq!(there["outcome"], "completed", "{there}");
    assert_eq!(
        (&there["source"], &there["destination"]),
        (&a.address.as_str().into(), &b.address.as_str().into())
    );
    assert_eq!(b.json(&["list", "--json"])[0]["name"], "web");
    assert_eq!(a.json(&["list", "--json"]), Value::Array(Vec::new()));

    let (out, err, status) = b.whimbrel(&["migrate", "web", &a.address]);
    assert_eq!(status, 0, "{out}{err}");
    assert!(out.contains("✔ Moved 16 MiB"), "{out}");
    let (out, err, status) = a.whimbrel(&["status", "web", "--check"]);
    assert_eq!(status, 0, "{out}{err}");
    assert!(out.starts_with("web  running"), "{out}");

    assert_eq!(a.whimbrel(&["stop", "web"]).2, 0);
    let (out, _, _) = a.whimbrel(&["list"]);
    assert_eq!(out, format!("no guests at {}\n", a.address));
}

/// What somebody is told who watches `busy` until there is something to see, and then interrupts.
fn bored_by(agent: &RealAgent, seen: &str) -> String {
    let mut bored = command(&["watch", "busy", "--agent", &agent.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(bored.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains(seen), "{first}");
    signal(&bored, "INT");
    let (_, err, status) = said(&bored.wait_with_output().unwrap());
    assert_eq!(status, 130, "{first}{err}");
    err
}

#[test]
fn a_migration_is_watched_and_cancelled_from_elsewhere() {
    let (a, b) = (RealAgent::start(), RealAgent::start());
    let busy = ["run", "--name", "busy", "--memory", "64MiB", "--dirty-rate", "max"];
    assert_eq!(a.whimbrel(&busy).2, 0);
    let waits = bored_by(&a, "waiting for its next migration to begin");
    assert!(waits.contains("no migration had begun") && !waits.contains("goes on"), "{waits}");
    let endless = ["--downtime", "1ms", "--policy", "wait", "--limit", "200Mbit/s", "--detach"];
    let (out, err, status) = a.whimbrel(&[&["migrate", "busy", &b.address], &endless[..]].concat());
    assert_eq!(status, 0, "{err}");
    assert!(out.ends_with("of busy has begun\n"), "{out}");

    let id = out.split(' ').nth(1).expect("its id");
    let watch = command(&["watch", id, "--json", "--agent", &a.address])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let goes_on = bored_by(&a, "");
    assert!(goes_on.contains("a migration that has begun goes on"), "{goes_on}");
    assert_eq!(a.json(&["status", "busy", "--json"])["state"], "migrating");

    let (out, err, status) = a.whimbrel(&["cancel", "busy"]);
    assert_eq!(status, 0, "{out}{err}");
    let (out, err, status) = said(&watch.wait_with_output().unwrap());
    assert_eq!(status, 3, "{out}{err}");
    let account: Value = serde_json::from_str(&out).expect("one JSON object");
    assert_eq!(account["outcome"], "aborted", "{account}");
    assert_eq!(a.json(&["status", "busy", "--json"])["state"], "running");
    assert_eq!(b.json(&["list", "--json"]), Value::Array(Vec::new()));
}

#[test]
fn what_cannot_be_done_is_refused_and_the_guest_runs_on() {
    let (a, b) = (RealAgent::start(), RealAgent::start());
    assert_eq!(a.whimbrel(&[&SMALL[..], &["--name", "web"]].concat()).2, 0);
    let nowhere = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let cases = [
        (&["migrate", "web", &nowhere][..], 5, "no agent answers"),
        (&["migrate", "nobody", &nowhere], 6, "nobody"),
        (&["run", "--name", "web", "--memory", "16MiB"], 6, "web"),
        (&["run", "--memory", "1000TiB"], 6, "memory"),
        (&["stop", "nobody"], 6, "nobody"),
        (&["cancel", "web"], 6, "has not been migrated"),
        (&["migrate", "web", &b.address, "--tracker", "magic"], 6, "magic"),
        (&["migrate", "web", &a.address], 6, "is this host itself"),
    ];
    for (words, status, reason) in cases {
        let (out, err, ended) = a.whimbrel(words);
        assert_eq!((ended, out.as_str()), (status, ""), "{words:?}: {err}");
        assert!(err.contains(reason), "{words:?}: {err}");
    }
    assert_eq!(a.json(&["status", "web", "--json"])["state"], "running");
}

#[test]
fn an_agent_is_refused_a_folder_and_an_address_in_use() {
    let a = RealAgent::start();
    let data = a.folder.path().to_str().unwrap();
    let second = ["agent", "--data", data, "--listen", "127.0.0.1:0"];
    let (_, err, status) = said(&command(&second).output().unwrap());
    assert_eq!(status, 1);
    assert!(err.contains("another agent works in"), "{err}");
    let other = TempDir::new().unwrap();
    let taken = ["agent", "--data", other.path().to_str().unwrap(), "--listen", &a.address];
    let (_, err, status) = said(&command(&taken).output().unwrap());
    assert_eq!(status, 1);
    assert!(err.contains("cannot listen at"), "{err}");
}

#[test]
fn doctor_judges_this_host() {
    let (out, err, status) = said(&command(&["doctor", "--json"]).output().unwrap());
    assert_eq!(status, 0, "{err}");
    let findings: Value = serde_json::from_str(&out).expect("a JSON array");
    let findings = findings.as_array().expect("an array");
    for subject in ["kernel", "tracker", "memory", "congestion", "open files", "mappings"] {
        let of = |finding: &&Value| finding["subject"] == subject;
        let finding = findings.iter().find(of).expect(subject);
        assert!(["ok", "warn", "bad"].contains(&finding["verdict"].as_str().unwrap()), "{finding}");
    }
    let (out, _, _) = said(&command(&["doctor"]).output().unwrap());
    assert!(out.contains("This host is ready for live migration"), "{out}");
}
