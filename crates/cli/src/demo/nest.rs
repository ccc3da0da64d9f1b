//! Two agents as real processes, in folders of their own, that do not outlive the demo.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use whimbrel_control::{AgentAddress, Client, api};

use crate::agent::address_of;
use crate::exit::Stop;
use crate::remote::connect;

/// For an agent to say where it listens.
const START_WITHIN: Duration = Duration::from_secs(10);
/// For an agent to end by itself when its lifeline is cut.
const END_WITHIN: Duration = Duration::from_secs(10);
/// The end of an agent's log that is shown when it fails.
const LOG_LINES_SHOWN: usize = 5;

/// One agent as a child process.
pub(crate) struct AgentProcess {
    name: &'static str,
    child: Child,
    pub(crate) client: Client,
}

/// All that a demo leaves behind if nobody clears it away. Dropping it kills and removes too,
/// without waiting; [`Nest::clear`] lets the agents end in order.
pub(crate) struct Nest {
    agents: Vec<AgentProcess>,
    /// One that does not answer yet. Its folder cannot be removed everywhere before it has ended.
    hatching: Option<Child>,
    folder: TempDir,
}

impl Nest {
    /// An empty one.
    pub(crate) fn new() -> Result<Self, Stop> {
        let folder = tempfile::Builder::new().prefix("whimbrel-demo-").tempdir();
        let folder = folder.map_err(|why| Stop::failed(format!("no temporary folder: {why}")))?;
        Ok(Self { agents: Vec::new(), hatching: None, folder })
    }

    /// Starts one more agent and makes sure that it answers.
    pub(crate) async fn hatch(&mut self, name: &'static str) -> Result<AgentAddress, Stop> {
        let data = self.folder.path().join(name);
        let child = self.hatching.insert(spawn(&data)?);
        let stdout = child.stdout.take();
        let address = match timeout(START_WITHIN, announced(stdout)).await {
            Ok(Some(address)) => address,
            Ok(None) => return Err(self.fallen(name, "ended before it listened")),
            Err(_) => return Err(self.fallen(name, "did not say where it listens")),
        };
        let client = connect(&address).await?;
        let hatched = self.hatching.take();
        self.agents.extend(hatched.map(|child| AgentProcess { name, child, client }));
        Ok(address)
    }

    /// The agent that was started as number `at`.
    pub(crate) fn agent(&mut self, at: usize) -> &mut AgentProcess {
        &mut self.agents[at]
    }

    /// If an agent has died, why: a better reason than that it does not answer.
    pub(crate) fn obituary(&mut self) -> Option<Stop> {
        let dead = self.agents.iter_mut().find_map(|agent| {
            let status = agent.child.try_wait().ok().flatten()?;
            Some((agent.name, status))
        });
        dead.map(|(name, status)| self.fallen(name, &format!("ended early ({status})")))
    }

    /// Ends the guests, then the agents, and removes the folder.
    pub(crate) async fn clear(mut self, guest: &str) {
        for agent in &mut self.agents {
            let request = api::StopGuestRequest { guest: guest.to_owned(), force: true };
            // It may be gone, or the agent: then its lifeline ends it.
            let _ = timeout(END_WITHIN, agent.client.stop_guest(request)).await;
        }
        let hatched = self.agents.into_iter().map(|agent| agent.child);
        let mut children: Vec<_> = hatched.chain(self.hatching).collect();
        for child in &mut children {
            drop(child.stdin.take());
        }
        for child in &mut children {
            if timeout(END_WITHIN, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        }
    }

    fn fallen(&self, name: &str, how: &str) -> Stop {
        let log = std::fs::read_to_string(log_path(&self.folder.path().join(name)));
        let log = log.unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        let said = if last.is_empty() { String::new() } else { format!(":\n  {last}") };
        Stop::failed(format!("the agent of the {name} {how}{said}"))
    }
}

fn log_path(data: &Path) -> std::path::PathBuf {
    data.with_extension("log")
}

/// Starts an agent whose lifeline is its standard input: however this process ends, it ends.
fn spawn(data: &Path) -> Result<Child, Stop> {
    let failed = |what: &str, why: std::io::Error| Stop::failed(format!("{what}: {why}"));
    let program = std::env::current_exe().map_err(|why| failed("this program is gone", why))?;
    let log = std::fs::File::create(log_path(data)).map_err(|why| failed("no log", why))?;
    Command::new(program)
        .args(["agent", "--listen", "127.0.0.1:0", "--die-with-parent", "--data"])
        .arg(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(|why| failed("an agent could not be started", why))
}

/// The address in the line by which an agent says that it listens.
async fn announced(stdout: Option<ChildStdout>) -> Option<AgentAddress> {
    let mut lines = BufReader::new(stdout?).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = address_of(&line) {
            return Some(address);
        }
    }
    None
}
