//! The walk of the guide, command by command, on two hosts that are addresses of loopback.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use whimbrel_tests::program::whimbrel;
use whimbrel_tests::skipped;

/// Ten times what the slowest command takes.
const WATCHDOG: Duration = Duration::from_secs(300);
/// How a command ends that an agent refuses.
const REFUSED: i32 = 6;
/// What the commands need beside the program itself.
const NEEDED: [&str; 2] = ["redis-cli", "curl"];

/// One host: its folder, and what its shell was told.
struct Host {
    folder: TempDir,
    variables: BTreeMap<String, String>,
}

impl Host {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), variables: BTreeMap::new() }
    }

    fn shell(&self, command: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let program = whimbrel().parent().expect("a folder").display();
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(self.folder.path());
        shell.env("PATH", format!("{program}:{path}")).env_remove("WHIMBREL_AGENT");
        shell.env_remove("WHIMBREL_IDENTITY").env("XDG_CONFIG_HOME", self.folder.path());
        shell.envs(&self.variables).stdin(Stdio::null()).stdout(Stdio::piped());
        shell.kill_on_drop(true);
        shell
    }
}

/// The commands of all `sh` blocks, each with its host.
fn commands(guide: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in guide.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => {
                let (host, command) = line.split_once("$ ").expect("HOST$ COMMAND");
                found.push((host.to_owned(), command.to_owned()));
            }
            _ => {}
        }
    }
    found
}

fn guide() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the house").to_owned();
    std::fs::read_to_string(root.join("docs/GUIDE.md")).expect("a guide")
}

/// What the guide says, as it is on this host: addresses that nobody else uses, and a folder that
/// is removed.
struct Here {
    a: String,
    b: String,
}

impl Here {
    fn new() -> Self {
        let pid = std::process::id();
        let net = format!("127.{}.{}", 1 + pid / 250 % 250, 1 + pid % 250);
        Self { a: format!("{net}.1"), b: format!("{net}.2") }
    }

    fn mean(&self, command: &str, host: &Host) -> String {
        let data: PathBuf = host.folder.path().join("data");
        command
            .replace("10.0.0.1", &self.a)
            .replace("10.0.0.2", &self.b)
            .replace("127.0.0.1:9117", &format!("{}:9117", self.a))
            .replace("/var/lib/whimbrel", data.to_str().expect("UTF-8"))
    }
}

/// An agent, once it listens. It ends with its guests when its standard input does, and asks who
/// calls as it does beyond its host.
async fn agent(host: &Host, command: &str) -> Child {
    let mut shell = host.shell(&format!("exec {command} --die-with-parent --tls"));
    let mut agent = shell.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let mut lines = BufReader::new(agent.stdout.take().expect("piped")).lines();
    loop {
        let line = timeout(WATCHDOG, lines.next_line()).await.expect("in time").expect("a line");
        let line = line.unwrap_or_else(|| panic!("{command} has ended"));
        if line.starts_with("whimbrel agent listening on ") {
            return agent;
        }
    }
}

/// Something to look at, until there is something to be seen.
async fn look(host: &Host, command: &str) {
    let mut looks = host.shell(&format!("exec {command}")).spawn().expect("it starts");
    let mut lines = BufReader::new(looks.stdout.take().expect("piped")).lines();
    let line = timeout(WATCHDOG, lines.next_line()).await.expect("in time").expect("a line");
    assert!(line.is_some_and(|line| line.starts_with("NAME")), "{command}");
    looks.kill().await.expect("it was alive");
}

async fn carried_out(host: &Host, command: &str) -> Output {
    let output = host.shell(command).stderr(Stdio::piped()).output();
    let output = timeout(WATCHDOG, output).await.unwrap_or_else(|_| panic!("{command} hangs"));
    output.expect("it runs")
}

/// What the other host's `identity` has printed.
fn fingerprint<'a>(said: &'a [(String, String, String)], name: &str) -> &'a str {
    let other =
        said.iter().find(|(host, command, _)| host != name && command == "whimbrel identity");
    let words = other.into_iter().flat_map(|(_, _, said)| said.split_whitespace());
    words.into_iter().find(|word| word.starts_with("SHA256:")).expect("a fingerprint")
}

#[tokio::test]
async fn every_command_of_the_walk_does_what_the_guide_says() {
    for needed in NEEDED {
        if std::process::Command::new(needed).arg("--version").output().is_err() {
            return skipped(&format!("no {needed}"));
        }
    }
    let here = Here::new();
    let mut hosts = BTreeMap::from([("host-a", Host::new()), ("host-b", Host::new())]);
    let (mut agents, mut said) = (Vec::new(), Vec::new());
    for (name, command) in commands(&guide()) {
        let host = hosts.get_mut(name.as_str()).unwrap_or_else(|| panic!("no {name}"));
        let meant = here.mean(&command, host);
        if let Some((variable, value)) =
            meant.strip_prefix("export ").and_then(|assigned| assigned.split_once('='))
        {
            host.variables.insert(variable.to_owned(), value.to_owned());
        } else if command.starts_with("whimbrel agent ") {
            agents.push(agent(host, &meant).await);
        } else if command == "whimbrel watch" {
            look(host, &meant).await;
        } else {
            // Nobody is there to compare the keys: the test does what a person does.
            let meant = match command.starts_with("whimbrel pair ") {
                true => format!("{meant} --fingerprint {}", fingerprint(&said, &name)),
                false => meant,
            };
            let mut output = carried_out(host, &meant).await;
            // The hosts know each other half a second later, and what is left of a migration that
            // was cancelled is gone a moment after it: a person is slower than that.
            let early = command.contains(" probe ") || command.contains(" --downtime 1s");
            let again = async {
                while early && output.status.code() == Some(REFUSED) {
                    output = carried_out(host, &meant).await;
                }
            };
            timeout(WATCHDOG, again).await.unwrap_or_else(|_| panic!("{meant} stays refused"));
            assert!(output.status.success(), "{meant}: {output:?}");
            said.push((name, command, String::from_utf8(output.stdout).expect("UTF-8")));
        }
    }
    assert_eq!(agents.len(), 2);
    let of = |part: &str| {
        let found = said.iter().find(|(_, command, _)| command.contains(part));
        found.map(|(_, _, said)| said.as_str()).unwrap_or_else(|| panic!("no {part}"))
    };
    assert!(of("migrate web 10.0.0.2").contains("✔ Moved 64 MiB"), "{}", of("migrate web"));
    assert!(of("status web --check").contains("web  running"));
    assert_eq!(of("GET greeting"), "hello\n");
    assert!(of("--pipe").contains("errors: 0, replies: 2"), "{}", of("--pipe"));
    assert!(of("whimbrel report").contains("completed"));
    assert!(
        of("curl").contains("whimbrel_migrations_total{direction=\"out\",outcome=\"completed\"} 2")
    );
    assert!(of("--json").contains("\"outcome\":\"completed\""), "{}", of("--json"));
    assert!(hosts["host-a"].folder.path().join("web.html").exists());
}

#[test]
fn commands_are_found_in_their_order() {
    let text = "x\n```\nno$ no\n```\n```sh\na$ one\nb$ two $ 3\n```\n";
    let pair = |host: &str, command: &str| (host.to_owned(), command.to_owned());
    assert_eq!(commands(text), [pair("a", "one"), pair("b", "two $ 3")]);
}
