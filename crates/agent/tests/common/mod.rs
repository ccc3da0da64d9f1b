//! Agents as real processes on loopback, and clients to them.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use whimbrel_control::api::{self, GuestState};
use whimbrel_control::{AgentAddress, Client, ClientError, Deadlines};

/// Ten times the longest deadline that a test waits for.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(200);

/// What agents wait for when nothing is wrong: on a busy machine it takes long, and no test is
/// about that. Those that are set it otherwise.
const PATIENT: [&str; 3] =
    ["process_start_ms=100000", "process_call_ms=50000", "peer_call_ms=200000"];

pub(crate) const MIB: u64 = 1 << 20;

/// An agent's process with a data folder of its own.
pub(crate) struct AgentProcess {
    pub(crate) folder: TempDir,
    pub(crate) address: AgentAddress,
    child: Child,
    pub(crate) arguments: Vec<String>,
}

fn command(data: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_whimbrel-agent"));
    command.arg(format!("data={}", data.display())).args(PATIENT).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn listening(child: &mut Child) -> AgentAddress {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim().parse().expect("the agent says where it listens")
}

impl AgentProcess {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Guests die with the test, however that ends.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        arguments.push("die_with_parent=true".to_owned());
        let mut child = command(folder.path(), &arguments).spawn().unwrap();
        let address = listening(&mut child);
        Self { folder, address, child, arguments }
    }

    /// An agent whose folder is on a disk of its own; `None` where ordinary users mount nothing.
    pub(crate) fn on_a_small_disk(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let arguments = vec!["die_with_parent=true".to_owned()];
        let plain = command(folder.path(), &arguments);
        let mut words = vec![plain.get_program().to_owned()];
        words.extend(plain.get_args().map(ToOwned::to_owned));
        let mount = format!(
            "mount -t tmpfs -o size={size} tmpfs {} && exec \"$@\"",
            folder.path().display()
        );
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &mount, "sh"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().parse().ok()?;
        Some(Self { folder, address, child, arguments })
    }

    /// Leaves no byte free on the agent's disk.
    pub(crate) fn fill_disk(&self) {
        assert!(self.on_its_disk("yes >> filler; true"));
    }

    /// Whether a guest of it has a process that it remembers.
    pub(crate) fn remembers_a_process(&self) -> bool {
        self.on_its_disk("test -e guests/*/process")
    }

    /// Whether a script in its folder succeeds. The small disk is only there for the agent and
    /// whoever joins it.
    fn on_its_disk(&self, script: &str) -> bool {
        let script = format!("cd {} && {{ {script}; }}", self.folder.path().display());
        let pid = self.child.id().to_string();
        let enter = ["--target", &pid, "--user", "--mount", "--preserve-credentials", "sh", "-c"];
        let outcome =
            Command::new("nsenter").args(enter).arg(script).stderr(Stdio::null()).status();
        outcome.unwrap().success()
    }

    /// Kills the agent without a warning, and starts another one on the same folder, which also
    /// gets what the first one kept open: the lifeline.
    pub(crate) fn kill_and_restart(&mut self) {
        let lifeline = self.kill();
        self.restart();
        // The guests of the first agent hang on its standard input.
        std::mem::forget(lifeline);
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the agent without a warning. Its guests live as long as what is returned.
    pub(crate) fn kill(&mut self) -> std::process::ChildStdin {
        let lifeline = self.child.stdin.take().unwrap();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        lifeline
    }

    pub(crate) fn restart(&mut self) {
        self.child = command(self.folder.path(), &self.arguments).spawn().unwrap();
        self.address = listening(&mut self.child);
    }

    /// Another agent on the same folder: what it says on its way out.
    pub(crate) fn second_on_the_same_folder(&self) -> String {
        let mut command = command(self.folder.path(), &[]);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) async fn client(&self) -> Client {
        let patient = Deadlines {
            connect: Duration::from_secs(50),
            call: Duration::from_secs(300),
            quiet: Duration::from_secs(100),
            ..Deadlines::default()
        };
        Client::connect(&self.address, patient).await.unwrap()
    }

    /// What the guests' processes have written down; it goes with the folder.
    pub(crate) fn guest_logs(&self) -> String {
        let mut logs = String::new();
        for folder in self.guest_folders() {
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            logs.push_str(&format!("--- log in {} at {}\n{log}", folder.display(), self.address));
        }
        logs
    }

    /// The folders of guests there are.
    pub(crate) fn guest_folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("guests")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("{}", self.guest_logs());
        }
    }
}

/// A guest that writes 8 MiB a second in a working set of 8 MiB.
pub(crate) fn stress(name: &str, memory_bytes: u64) -> api::StartGuestRequest {
    use api::stress_config::Rate;
    let stress = api::StressConfig {
        working_set_bytes: memory_bytes.min(8 * MIB),
        rate: Some(Rate::DirtyRateBytesPerS(8 * MIB)),
        ..Default::default()
    };
    let config =
        api::GuestConfig { memory_bytes, kind: Some(api::guest_config::Kind::Stress(stress)) };
    api::StartGuestRequest { name: name.to_owned(), config: Some(config) }
}

/// A guest that writes as fast as it can in all its memory, from more threads than there are
/// lanes, so that no round leaves little enough for the last one.
pub(crate) fn restless(name: &str) -> api::StartGuestRequest {
    let memory_bytes = 64 * MIB;
    let stress = api::StressConfig {
        vcpus: 4,
        working_set_bytes: memory_bytes,
        rate: Some(api::stress_config::Rate::DirtyRateMax(true)),
        ..Default::default()
    };
    let kind = Some(api::guest_config::Kind::Stress(stress));
    let config = Some(api::GuestConfig { memory_bytes, kind });
    api::StartGuestRequest { name: name.to_owned(), config }
}

/// A test that needs something absent says so; where everything is required, it fails.
pub(crate) fn skipped(why: &str) {
    println!("SKIPPED: {why}");
    let required = std::env::var("WHIMBREL_REQUIRE").is_ok_and(|value| value == "all");
    assert!(!required, "{why}");
}

pub(crate) async fn guest(client: &mut Client, name: &str) -> Result<api::Guest, ClientError> {
    client.get_guest(api::GetGuestRequest { guest: name.to_owned() }).await
}

/// Looks until the guest is as `wanted`.
pub(crate) async fn guest_when(
    client: &mut Client,
    name: &str,
    wanted: impl Fn(&api::Guest) -> bool,
) -> api::Guest {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let looking = async {
        loop {
            let seen = guest(client, name).await.unwrap();
            if wanted(&seen) {
                return seen;
            }
            looks.tick().await;
        }
    };
    tokio::time::timeout(WATCHDOG, looking).await.expect("the guest comes to be as wanted")
}

/// Starts a guest and waits until its memory is filled.
pub(crate) async fn start_filled(client: &mut Client, name: &str, memory_bytes: u64) -> api::Guest {
    filled(client, stress(name, memory_bytes)).await
}

pub(crate) async fn filled(client: &mut Client, request: api::StartGuestRequest) -> api::Guest {
    let name = request.name.clone();
    client.start_guest(request).await.unwrap();
    guest_when(client, &name, |guest| guest.state() == GuestState::Running).await
}

pub(crate) fn migrate_request(name: &str, to: &AgentAddress) -> api::MigrateRequest {
    api::MigrateRequest {
        guest: name.to_owned(),
        destination: to.to_string(),
        options: Some(api::MigrationOptions { lanes: Some(2), ..Default::default() }),
        ..Default::default()
    }
}

/// Watches a migration to its end.
pub(crate) async fn ended(client: &mut Client, migration: &str) -> api::MigrationStatus {
    let watching = async {
        let mut watch = client.watch(migration).await.unwrap();
        let mut newest = None;
        while let Some(status) = watch.next().await.unwrap() {
            newest = Some(status);
        }
        newest.unwrap()
    };
    tokio::time::timeout(WATCHDOG, watching).await.expect("the migration ends")
}

/// Kills a process that the test knows the number of.
pub(crate) fn kill(pid: u32) {
    signal(pid, "-KILL");
}

/// Sends it a signal of `kill(1)`.
pub(crate) fn signal(pid: u32, which: &str) {
    let status = Command::new("kill").arg(which).arg(pid.to_string()).status().unwrap();
    assert!(status.success());
}

/// Whether a process is there that does more than wait to be reaped.
pub(crate) fn is_alive(pid: u32) -> bool {
    let listed = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8(listed.stdout).unwrap();
    !state.trim().is_empty() && !state.starts_with('Z')
}
