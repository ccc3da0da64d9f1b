//! The `whimbrel` program as a process, and agents that do not outlive their test.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command as Blocking, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::os::{self, Pid};
use crate::realm::realm;
use crate::windows;

/// A command that has not ended by then hangs: ten times what the slowest one takes here.
pub const WATCHDOG: Duration = Duration::from_secs(180);
/// How the program ends where no agent answers.
const NOT_THERE: i32 = 5;
/// How an agent's first line begins.
const LISTENING: &str = "whimbrel agent listening on ";
/// How the line before begins, if it speaks HTTP.
const SERVING: &str = "whimbrel agent serving http://";

/// The program, built from the sources as they are; or the one that `WHIMBREL_PROGRAM` names, to
/// measure two of them in turns.
pub fn whimbrel() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let named = || std::env::var_os("WHIMBREL_PROGRAM").map(PathBuf::from);
    BUILT.get_or_init(|| named().unwrap_or_else(build))
}

/// Builds it in the profile of this test, or of the program of this package that this is.
fn build() -> PathBuf {
    let test = std::env::current_exe().expect("a test is a program");
    let folder = test.parent().expect("target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM");
    let folder = if folder.ends_with("deps") { folder.parent().expect("it") } else { folder };
    let mut cargo = Blocking::new(env!("CARGO"));
    // The command line's own tests stand on it. With them it has the features that it has in
    // `cargo test --workspace`: with others nearly everything would be built once more.
    cargo.args(match folder.ends_with("release") {
        true => &["build", "--release", "--package", "whimbrel-cli", "--bin", "whimbrel"][..],
        false => &["test", "--workspace", "--no-run", "--test", "command_line"],
    });
    // What cargo tells this test of its own package: with other words in them build scripts are run
    // again, and all that stands on theirs is built again.
    let of_this_package = |name: &str| {
        name == "OUT_DIR" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(of_this_package) {
            cargo.env_remove(name);
        }
    }
    let status =
        cargo.arg("--quiet").current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
    assert!(status.success(), "the program does not build");
    folder.join(format!("whimbrel{}", std::env::consts::EXE_SUFFIX))
}

/// How a command ended.
#[derive(Debug)]
pub struct Said {
    /// The exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Runs `command` to its end.
    pub(crate) async fn of(mut command: Command) -> Self {
        let ended = timeout(WATCHDOG, command.output()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{command:?} hangs")).expect("it starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { status: ended.status.code(), out: text(ended.stdout), err: text(ended.stderr) }
    }

    /// The one JSON object on standard output.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    /// Panics unless the command ended with `status`.
    #[must_use]
    #[track_caller]
    pub fn ended(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        self
    }
}

/// The program with these words, about to be started; it ends with the test.
#[must_use]
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(whimbrel());
    command.args(words).env_remove("WHIMBREL_AGENT").env_remove("WHIMBREL_IDENTITY");
    command.env("XDG_CONFIG_HOME", realm().home()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end.
///
/// # Panics
/// If it hangs.
pub async fn run(words: &[&str]) -> Said {
    Said::of(command(words)).await
}

/// An agent as a process. Dropping it ends it; its guests end with it unless they outlive it.
pub struct Agent {
    /// Where it listens.
    pub address: String,
    /// Where it speaks HTTP, if it was asked to: an address and a port.
    pub http: Option<String>,
    child: Child,
    data: Data,
    how: How,
}

/// An agent's folder, and what it says on its standard error. A test that fails shows what was
/// said and what the guests' processes wrote down.
struct Data {
    folder: TempDir,
    /// Read by its path: the agent writes on where it stands in it.
    said: NamedTempFile,
}

impl Drop for Data {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.logs());
        }
    }
}

impl Data {
    fn within(folder: &Path) -> Self {
        let folder = TempDir::new_in(folder).expect("a folder");
        Self { folder, said: NamedTempFile::new().expect("a file") }
    }

    /// What the agent has said, and what the processes of its guests have logged.
    fn logs(&self) -> String {
        let mut logs =
            format!("--- the agent\n{}", fs::read_to_string(self.said.path()).unwrap_or_default());
        let guests = fs::read_dir(self.folder.path().join("guests"));
        for guest in guests.into_iter().flatten().flatten() {
            let log = fs::read_to_string(guest.path().join("log")).unwrap_or_default();
            logs.push_str(&format!("--- guest {:?}\n{log}", guest.file_name()));
        }
        logs
    }
}

/// How an agent is started, and started again.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// What is said on its command line besides its folder and its address.
    pub options: Vec<String>,
    /// The network namespace that it lives in, if not this one, and its address there.
    pub elsewhere: Option<(String, IpAddr)>,
    /// Where it listens on this host, if not at the usual loopback address.
    pub ip: Option<IpAddr>,
    /// More addresses at which others call it.
    pub also: Vec<IpAddr>,
    /// Nothing that it says on its standard error can be written.
    pub mute: bool,
    /// It is the program for Windows, under Wine.
    pub windows: bool,
}

impl How {
    /// With these options.
    #[must_use]
    pub fn with(options: &[&str]) -> Self {
        let options = options.iter().map(ToString::to_string).collect();
        Self { options, ..Self::default() }
    }

    fn command(&self, data: &Data, listen: &str) -> Command {
        let folder = data.folder.path().to_str().expect("UTF-8");
        let words = ["agent", "--listen", listen, "--data", folder];
        let mut command = match &self.elsewhere {
            None if self.windows => {
                let folder = windows::path(data.folder.path());
                windows::command(&["agent", "--listen", listen, "--data", &folder])
            }
            None => command(&words),
            Some((namespace, _)) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(whimbrel()).args(words);
                command.kill_on_drop(true).stdout(Stdio::piped());
                command
            }
        };
        command.args(&self.options).stdin(Stdio::piped());
        command.stderr(match self.mute {
            true => os::full_disk(),
            false => data.said.as_file().try_clone().expect("one file more"),
        });
        command
    }
}

impl Agent {
    /// An agent with a folder of its own.
    ///
    /// # Panics
    /// If it does not begin to listen.
    pub async fn start() -> Self {
        Self::start_in(&std::env::temp_dir()).await
    }

    /// As [`Agent::start`], in a folder that somebody else looks after.
    ///
    /// # Panics
    /// As [`Agent::start`].
    pub async fn start_in(folder: &Path) -> Self {
        Self::start_as(folder, How::with(&["--die-with-parent"])).await
    }

    /// An agent whose guests live on when it dies: the test has to end them.
    ///
    /// # Panics
    /// As [`Agent::start`].
    pub async fn outlived() -> Self {
        Self::start_as(&std::env::temp_dir(), How::default()).await
    }

    /// An agent in a folder of its own within `folder`.
    ///
    /// # Panics
    /// As [`Agent::start`].
    pub async fn start_as(folder: &Path, how: How) -> Self {
        Self::prepared(folder, how, |_| ()).await
    }

    /// As [`Agent::start_as`], after something was put into its folder.
    ///
    /// # Panics
    /// As [`Agent::start`].
    pub async fn prepared(folder: &Path, how: How, prepare: impl FnOnce(&Path)) -> Self {
        let data = Data::within(folder);
        prepare(data.folder.path());
        let ip = how.elsewhere.as_ref().map(|(_, ip)| *ip).or(how.ip);
        let ip = ip.unwrap_or_else(|| if how.windows { Ipv4Addr::LOCALHOST } else { own() }.into());
        if how.elsewhere.is_some() {
            realm().admit(data.folder.path(), &[&[ip], how.also.as_slice()].concat());
        }
        let any = SocketAddr::new(ip, 0).to_string();
        let (child, address, http) = listening(how.command(&data, &any), &data).await;
        Self { address, http, child, data, how }
    }

    /// An agent that listens at every address of a network namespace.
    ///
    /// # Panics
    /// As [`Agent::start`].
    pub async fn everywhere(namespace: &crate::net::Namespace, options: &[&str]) -> Self {
        let elsewhere = Some((namespace.name.clone(), Ipv4Addr::UNSPECIFIED.into()));
        let ends = crate::net::Wires::management_ends();
        let also = [&[namespace.inside], ends.as_slice()].concat();
        let options = [&["--die-with-parent"], options].concat();
        let how = How { elsewhere, also, ..How::with(&options) };
        let mut agent = Self::start_as(&std::env::temp_dir(), how).await;
        // Where it is from here.
        let port = agent.port();
        agent.address = SocketAddr::new(namespace.inside, port).to_string();
        agent
    }

    /// The port it listens on.
    ///
    /// # Panics
    /// Never: an agent has said where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.parse::<SocketAddr>().expect("an address").port()
    }

    /// The folder it works in.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.data.folder.path()
    }

    /// Has it work by another policy, once it looks.
    ///
    /// # Panics
    /// If that cannot be written.
    pub fn set_policy(&self, policy: impl AsRef<[u8]>) {
        os::replace(&self.data().join("policy.toml"), policy);
    }

    /// What it has said, and what the processes of its guests have logged.
    #[must_use]
    pub fn logs(&self) -> String {
        self.data.logs()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::of(&self.child)
    }

    /// Kills the agent, and nobody else.
    ///
    /// # Panics
    /// If that cannot be done.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it was alive");
    }

    /// Starts another one in place of one that was killed: on its folder and its address.
    ///
    /// # Panics
    /// As [`Agent::start`].
    pub async fn start_again(&mut self) {
        let command = self.how.command(&self.data, &self.address);
        (self.child, self.address, self.http) = listening(command, &self.data).await;
    }

    /// Asks it to end, and waits until it has; its folder is still there.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn end(&mut self) -> Option<i32> {
        os::terminate(self.pid());
        self.ended().await
    }

    /// Waits until it has ended, as somebody has asked it to; its folder is still there.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn ended(&mut self) -> Option<i32> {
        let ended = timeout(WATCHDOG, self.child.wait()).await.expect("an agent ends");
        ended.expect("it was started").code()
    }

    /// Asks this agent: a command with its words.
    pub async fn ask(&self, words: &[&str]) -> Said {
        // A machine that is busy may be too late with a connection, and then nothing was asked.
        let late = format!("answers at {}: no answer in", self.address);
        let words = [words, &["--agent", &self.address]].concat();
        for _ in 0..3 {
            let said = run(&words).await;
            if said.status != Some(NOT_THERE) || !said.err.contains(&late) {
                return said;
            }
            println!("{said:?}");
        }
        run(&words).await
    }

    /// Starts a guest and waits until it is at work.
    pub async fn guest(&self, name: &str, options: &[&str]) {
        let words = [&["run", "--name", name, "--json"], options].concat();
        let mut said = self.ask(&words).await;
        // What Wine says once in a while where many processes start at the same time.
        for _ in 0..3 {
            if !said.out.contains("os error 1359") {
                break;
            }
            said = self.ask(&words).await;
        }
        let _ = said.ended(0);
        self.until(name, |guest| guest["state"] == "running").await;
    }

    /// What is told about a guest.
    pub async fn status(&self, name: &str) -> Value {
        self.ask(&["status", name, "--json"]).await.ended(0).json()
    }

    /// Waits until what is told about a guest is as wanted.
    ///
    /// # Panics
    /// If that does not come about.
    pub async fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let watch = async {
            loop {
                let said = self.ask(&["status", name, "--json"]).await;
                // A machine that is busy may be too late with one answer.
                if said.status == Some(NOT_THERE) {
                    continue;
                }
                last = said.ended(0).json();
                if wanted(&last) {
                    return last.clone();
                }
            }
        };
        let seen = timeout(WATCHDOG, watch).await;
        seen.unwrap_or_else(|_| panic!("{name} does not become what was waited for: {last}"))
    }

    /// The guest is here and at work, and its memory is whole.
    ///
    /// # Panics
    /// If not.
    pub async fn assert_runs(&self, name: &str) {
        let before = self.status(name).await;
        assert_eq!(before["state"], "running", "{before}");
        let writes = |guest: &Value| guest["operations"].as_u64().unwrap_or(0);
        self.until(name, |guest| writes(guest) > writes(&before)).await;
        let checked = self.ask(&["status", name, "--check", "--json"]).await.ended(0).json();
        assert_eq!(checked["check"]["sound"], true, "{checked}");
    }
}

/// A loopback address for one agent, so that nobody takes its port between two of its lives.
fn own() -> Ipv4Addr {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let [c, d] = TAKEN.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 100 + (std::process::id() % 100) as u8, c, d)
}

/// Starts an agent, and waits until it says where it listens.
async fn listening(mut command: Command, data: &Data) -> (Child, String, Option<String>) {
    let mut http = None;
    let mut child = command.spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    loop {
        match timeout(WATCHDOG, lines.next_line()).await.expect("an agent says something") {
            Ok(Some(line)) => match line.strip_prefix(LISTENING) {
                Some(address) => return (child, address.trim().to_owned(), http),
                None => {
                    let served = line.strip_prefix(SERVING);
                    http = served.map(|address| address.trim_end_matches('/').to_owned()).or(http);
                }
            },
            _ => panic!("the agent has ended: {}", data.logs()),
        }
    }
}
