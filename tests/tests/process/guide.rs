//! The guide, command by command: its walk on two hosts that are addresses of loopback, and all
//! else that it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use whimbrel_tests::program::{run, whimbrel};
use whimbrel_tests::skipped;

/// Ten times what the slowest command takes.
const WATCHDOG: Duration = Duration::from_secs(300);
/// How a command ends that an agent refuses.
const REFUSED: i32 = 6;
/// What the commands need beside the program itself.
const NEEDED: [&str; 2] = ["redis-cli", "curl"];
/// A guest of which the guide does not know yet who it is.
const SOME_GUEST: &str = "1a2b3c4d-0000-4000-8000-00000000beef";

/// One host, or somebody's desk: its folder, what its shell was told, and the agent on it.
struct Host {
    folder: TempDir,
    variables: BTreeMap<String, String>,
    agent: Option<Child>,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, variables: BTreeMap::new(), agent: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn shell(&self, command: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let program = whimbrel().parent().expect("a folder").display();
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(self.folder.path());
        shell.env("PATH", format!("{program}:{path}")).env_remove("WHIMBREL_AGENT");
        shell.env_remove("WHIMBREL_IDENTITY").env_remove("XDG_CONFIG_HOME");
        shell.env("HOME", self.folder.path()).envs(&self.variables);
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        shell
    }

    /// An agent, once it listens, in the place of the one before. It ends with its guests when its
    /// standard input does, and asks who calls as it does beyond its host.
    async fn begin(&mut self, command: &str) {
        self.end().await;
        let mut shell = self.shell(&format!("exec {command} --die-with-parent --tls"));
        let mut agent =
            shell.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let mut lines = BufReader::new(agent.stdout.take().expect("piped")).lines();
        loop {
            let line = timeout(WATCHDOG, lines.next_line()).await.expect("in time");
            let line = line.expect("a line").unwrap_or_else(|| panic!("{command} has ended"));
            if line.starts_with("whimbrel agent listening on ") {
                break;
            }
        }
        self.agent = Some(agent);
    }

    async fn end(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().await.expect("it was alive");
        }
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
    page("docs/GUIDE.md")
}

fn page(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the house").to_owned();
    fs::read_to_string(root.join(name)).expect("a page")
}

/// What the guide says, as it is on this host: addresses that nobody else uses, and a folder that
/// is removed.
struct Here {
    net: String,
    guest: String,
}

impl Here {
    fn new() -> Self {
        let pid = std::process::id();
        let net = format!("127.{}.{}.", 1 + pid / 250 % 250, 1 + pid % 250);
        Self { net, guest: SOME_GUEST.to_owned() }
    }

    fn mean(&self, command: &str, host: &Host) -> String {
        let Self { net, guest } = self;
        command
            .replace("10.0.0.", net)
            .replace("127.0.0.1:9117", &format!("{net}1:9117"))
            .replace("eth2", "lo")
            .replace(SOME_GUEST, guest)
            .replace("/var/lib/whimbrel", host.path("data").to_str().expect("UTF-8"))
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

/// The hosts and desks of the guide, and what its commands have said there.
struct Walk {
    here: Here,
    hosts: BTreeMap<String, Host>,
    said: Vec<(String, String, String)>,
}

impl Walk {
    fn host(&mut self, name: &str) -> &mut Host {
        self.hosts.entry(name.to_owned()).or_insert_with(Host::new)
    }

    async fn go(&mut self, name: &str, command: &str) {
        if command.starts_with("whimbrel ticket ") {
            self.certify().await;
        } else if command.contains("--ticket ticket") {
            let (from, to) = (self.host("ops").path("ticket"), self.host(name).path("ticket"));
            fs::copy(from, to).expect("a ticket was signed");
        }
        self.host(name);
        let host = self.hosts.get_mut(name).expect("it is there");
        let meant = self.here.mean(command, host);
        let assigned = meant.strip_prefix("export ").and_then(|it| it.split_once('='));
        if let Some((variable, value)) = assigned {
            host.variables.insert(variable.to_owned(), value.to_owned());
        } else if command.starts_with("whimbrel agent ") {
            host.begin(&meant).await;
        } else if command == "whimbrel watch" {
            look(host, &meant).await;
        } else {
            // Nobody is there to compare the keys: the test does what a person does.
            let meant = match command {
                _ if command.starts_with("whimbrel pair ") => {
                    format!("{meant} --fingerprint {}", fingerprint(&self.said, name))
                }
                "whimbrel demo" => format!("{meant} --memory 64MiB --working-set 16MiB"),
                _ => meant,
            };
            let output = until_done(host, command, &meant).await;
            let said = String::from_utf8(output.stdout).expect("UTF-8");
            self.said.push((name.to_owned(), command.to_owned(), said));
        }
    }

    /// People bring what the desk has made to where it belongs, and let `ops` do everything. There
    /// is a guest.
    async fn certify(&mut self) {
        for (name, last) in [("host-a", 1), ("host-b", 2)] {
            self.host(name).end().await;
            let (made, mut host) = (self.host("desk").path(name), Host::new());
            let data = host.path("data");
            assert!(carried_out(&host, "umask 077; mkdir data").await.status.success());
            fs::rename(made, data.join("identity")).expect("it is certified");
            fs::write(data.join("policy.toml"), "manage = ['ops']\n").expect("a file");
            let (data, net) = (data.display(), &self.here.net);
            let at = format!("--listen {net}{last} --advertise {net}{last}");
            host.begin(&format!("whimbrel agent --data {data} {at}")).await;
            self.hosts.insert(name.to_owned(), host);
        }
        for name in ["ops", "scheduler"] {
            let (made, own) =
                (self.host("desk").path(name), self.host(name).path(".config/whimbrel"));
            fs::create_dir_all(&own).expect("a folder");
            let own = own.join("identity");
            fs::rename(made, &own).expect("it is certified");
            // It is shown unasked beyond one's host only, which all of this is on.
            let shown = own.to_str().expect("UTF-8").to_owned();
            self.host(name).variables.insert("WHIMBREL_IDENTITY".to_owned(), shown);
        }
        let run =
            format!("whimbrel run --name db --memory 16MiB --json --agent {}1", self.here.net);
        let ran = carried_out(self.host("ops"), &run).await;
        let ran: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        let uuid = ran["uuid"].as_str().unwrap_or_else(|| panic!("no uuid: {ran}"));
        uuid.clone_into(&mut self.here.guest);
    }

    /// The commands of the text, as far as they can be done when both guests are there.
    async fn text(&mut self) {
        let help = run(&["--help"]).await.ended(0).out;
        let (mut at, mut other) = (("host-b", "10.0.0.2"), ("host-a", "10.0.0.1"));
        for words in named(&guide(), &listed(&help)) {
            let Some(command) = filled(&words, other.1) else { continue };
            if words[0] == "agent" {
                let mut host = Host::new();
                host.begin(&self.here.mean(&command, &host)).await;
                host.end().await;
                continue;
            }
            let host = &self.hosts[at.0];
            let meant = self.here.mean(&command, host);
            if words.len() > 1 && REFUSED_IN_TEXT.contains(&words[0].as_str()) {
                let output = carried_out(host, &meant).await;
                assert_eq!(output.status.code(), Some(REFUSED), "{meant}: {output:?}");
                continue;
            }
            until_done(host, &command, &meant).await;
            if words[0] == "migrate" {
                std::mem::swap(&mut at, &mut other);
            }
        }
        // The walk goes on with the store where it was.
        if at.0 != "host-b" {
            let back = self.here.mean("whimbrel migrate store 10.0.0.2", &self.hosts[at.0]);
            until_done(&self.hosts[at.0], &back, &back).await;
        }
    }

    /// What the first command with this in it has said.
    fn of(&self, part: &str) -> &str {
        let found = self.said.iter().find(|(_, command, _)| command.contains(part));
        found.map(|(_, _, said)| said.as_str()).unwrap_or_else(|| panic!("no {part}"))
    }
}

/// Commands that the walk has itself, or that nobody waits for.
const NOT_OF_TEXT: [&str; 9] =
    ["bench", "demo", "pair", "pki", "run", "stop", "ticket", "unpair", "watch"];

/// Those for which a guest would have to be moving, in doubt, or elsewhere.
const REFUSED_IN_TEXT: [&str; 4] = ["cancel", "limit", "release", "resolve"];

/// A command of the text with what its words stand for: the store, which is to go `there`. Nothing
/// if it is none to be done, or only a name.
fn filled(words: &[String], there: &str) -> Option<String> {
    let (verb, named) = (words[0].as_str(), words.len() == 1);
    if NOT_OF_TEXT.contains(&verb) {
        return None;
    }
    let data = "/var/lib/whimbrel";
    let mut line = words.join(" ");
    for (word, meant) in [
        ("GUEST", "store"),
        ("MIGRATION", "store"),
        ("AGENT", there),
        ("DATA", data),
        ("eth1", "lo"),
    ] {
        line = line.replace(word, meant);
    }
    let rest = line.strip_prefix(verb).filter(|rest| rest.starts_with(" --"));
    let line = match (verb, rest) {
        ("agent" | "dump" | "migrate" | "probe" | "status", _) if named => return None,
        ("agent", Some(rest)) => {
            format!("agent{rest} --data {data} --listen 10.0.0.3 --advertise 10.0.0.3")
        }
        ("migrate", Some(rest)) => format!("migrate store {there}{rest}"),
        ("status", Some(rest)) => format!("status store{rest}"),
        _ => line,
    };
    Some(format!("whimbrel {line}"))
}

/// Commands that may come too early, and how they are refused then: the hosts know each other half
/// a second after they were paired, and what is left of a guest that was here, or was to come and
/// does not, is gone a moment later. A person is slower than that.
const NOT_YET: [(&str, &str); 4] = [
    ("whimbrel probe ", "it is not paired"),
    ("whimbrel migrate ", "is here already"),
    ("whimbrel migrate ", "is not over"),
    ("whimbrel migrate ", "try again in a moment"),
];

async fn until_done(host: &Host, command: &str, meant: &str) -> Output {
    let is_early = |output: &Output| {
        let said = String::from_utf8_lossy(&output.stderr);
        let mut early = NOT_YET.iter();
        output.status.code() == Some(REFUSED)
            && early.any(|(early, why)| command.starts_with(early) && said.contains(why))
    };
    let again = async {
        loop {
            let output = carried_out(host, meant).await;
            if !is_early(&output) {
                return output;
            }
        }
    };
    let output = timeout(WATCHDOG, again).await.unwrap_or_else(|_| panic!("{meant} stays refused"));
    assert!(output.status.success(), "{meant}: {output:?}");
    output
}

#[tokio::test]
async fn every_command_of_the_guide_does_what_it_says() {
    for needed in NEEDED {
        if std::process::Command::new(needed).arg("--version").output().is_err() {
            return skipped(&format!("no {needed}"));
        }
    }
    let mut walk = Walk { here: Here::new(), hosts: BTreeMap::new(), said: Vec::new() };
    for (name, command) in commands(&guide()) {
        if command == "whimbrel stop web" {
            walk.text().await;
        }
        walk.go(&name, &command).await;
    }
    assert!(walk.of("migrate web 10.0.0.2").contains("✔ Moved 64 MiB"), "{:?}", walk.said);
    assert!(walk.of("status web --check").contains("web  running"));
    assert_eq!(walk.of("GET greeting"), "hello\n");
    assert!(walk.of("--pipe").contains("errors: 0, replies: 2"), "{}", walk.of("--pipe"));
    assert!(walk.of("whimbrel report").contains("completed"));
    let moved = "whimbrel_migrations_total{direction=\"out\",outcome=\"completed\"} 2";
    assert!(walk.of("curl").contains(moved), "{}", walk.of("curl"));
    assert!(walk.of("--json").contains("\"outcome\":\"completed\""), "{}", walk.of("--json"));
    let limits = walk.of("limit --host 8Gbit/s");
    assert!(limits.contains("each path from lo: 1 Gbit/s (119 MiB/s)"), "{limits}");
    assert!(walk.of("limit --host none").contains("the host: no limit"));
    let moved = walk.of("--ticket ticket");
    assert!(moved.contains("✔ Moved 16 MiB"), "{moved}");
    assert!(walk.of("pki revoke").starts_with("taken back of scheduler: 1 certificate"));
}

/// Lines of blocks that are not run, and look like commands.
fn strays(guide: &str) -> Vec<&str> {
    let (mut found, mut inside) = (Vec::new(), None);
    for line in guide.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(kind), None) => inside = Some(kind),
            (Some(_), Some(_)) => inside = None,
            (None, Some(kind)) if kind != "sh" => {
                let (before, after) = line.split_once("$ ").unwrap_or((line, ""));
                if after.starts_with("whimbrel") || before.starts_with("whimbrel") {
                    found.push(line);
                }
            }
            _ => {}
        }
    }
    found
}

/// Commands of the program that stand in the text, as far as they are spelt out.
fn named(guide: &str, commands: &[&str]) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let spans = guide.lines().filter(|line| !line.starts_with("```"));
    for span in spans.flat_map(|line| line.split('`').skip(1).step_by(2)) {
        let span = span.strip_prefix("whimbrel ").unwrap_or(span).replace(['[', ']'], "");
        let all: Vec<_> = span.split_whitespace().map(ToOwned::to_owned).collect();
        let mut words: Vec<_> =
            all.iter().take_while(|word| !word.contains('…')).cloned().collect();
        if words.len() < all.len() {
            // Its value is left out.
            words.pop_if(|word| word.starts_with("--"));
        }
        if words.first().is_some_and(|first| commands.contains(&first.as_str())) {
            found.insert(words);
        }
    }
    found
}

/// The commands that the program lists.
fn listed(help: &str) -> Vec<&str> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty()).filter(|it| !it.starts_with("   "));
    listed.filter_map(|line| line.split_whitespace().next()).collect()
}

/// What somebody who comes from Hyper-V looks for on the page on networks.
const OF_HYPER_V: [&str; 11] = [
    "CredSSP",
    "Kerberos",
    "SMB Multichannel",
    "SMB Direct",
    "SET",
    "VMQ",
    "RSS",
    "MinimumBandwidthMode",
    "jumbo frames",
    "SameSubnetDelay",
    "SameSubnetThreshold",
];

#[tokio::test]
async fn the_page_on_networks_has_the_words_of_hyper_v_and_no_option_that_there_is_not() {
    let page = page("docs/NETWORKS.md");
    let left: Vec<_> = page.lines().filter_map(|line| line.split('|').nth(1)).collect();
    for word in OF_HYPER_V {
        assert!(left.iter().any(|cell| cell.contains(word)), "no row of the table is on {word}");
    }
    let mut helps = String::new();
    for command in listed(&run(&["--help"]).await.ended(0).out) {
        helps += &run(&["help", command]).await.ended(0).out;
    }
    let known = options(&helps);
    assert!(known.contains("--network") && !known.contains("--networks"), "{known:?}");
    let unknown: Vec<_> = options(&page).difference(&known).copied().collect();
    assert_eq!(unknown, [""; 0], "no command has these");
}

/// The long options in a text.
fn options(text: &str) -> BTreeSet<&str> {
    let ours = |c: char| c == '-' || c.is_ascii_alphanumeric();
    let words = text.split(|c| !ours(c)).map(|word| word.trim_end_matches('-'));
    words.filter(|word| word.starts_with("--")).collect()
}

#[tokio::test]
async fn the_guide_names_every_command_and_none_that_there_is_not() {
    let guide = guide();
    assert_eq!(strays(&guide), [""; 0], "make it a block of `sh`, with HOST$ before each command");
    let help = run(&["--help"]).await.ended(0).out;
    let commands = listed(&help);
    assert!(commands.contains(&"migrate") && commands.contains(&"doctor"), "{help}");
    let named = named(&guide, &commands);
    for command in commands.iter().filter(|command| **command != "help") {
        assert!(named.iter().any(|words| words[0] == *command), "the guide lacks `{command}`");
    }
    for words in &named {
        let words: Vec<_> = words.iter().map(String::as_str).chain(["--help"]).collect();
        assert!(run(&words).await.ended(0).out.contains("Usage:"), "{words:?}");
    }
}

#[test]
fn what_looks_like_a_command_is_found_wherever_it_stands() {
    let text = "`run` and `whimbrel stop web …`\n```\na$ whimbrel x\nwhimbrel y\nz\n```\n\
                ```sh\nb$ whimbrel z\n```\n`migrate [GUEST] --limit …`, `other`\n";
    assert_eq!(strays(text), ["a$ whimbrel x", "whimbrel y"]);
    let found = named(text, &["run", "stop", "migrate"]);
    let found: Vec<_> = found.iter().map(|words| words.join(" ")).collect();
    assert_eq!(found, ["migrate GUEST", "run", "stop web"]);
}

#[test]
fn commands_are_found_in_their_order() {
    let text = "x\n```\nno$ no\n```\n```sh\na$ one\nb$ two $ 3\n```\n";
    let pair = |host: &str, command: &str| (host.to_owned(), command.to_owned());
    assert_eq!(commands(text), [pair("a", "one"), pair("b", "two $ 3")]);
}
