//! The program as it is for Windows, run under Wine beside those of this host. `.ci/windows` builds
//! it and knows how to run it.

use std::path::{Path, PathBuf};
use std::process::{Command as Blocking, Stdio};
use std::sync::OnceLock;

use tokio::process::Command;

use crate::program::Said;
use crate::skipped;

/// What builds and runs it.
const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/windows");

/// Builds the program, unless this host has nothing to build and run it with: then it says so, and
/// nothing of it is to be tested.
///
/// # Panics
/// If it does not build, or if everything has to be tested.
pub fn is_here() -> bool {
    let installed = Blocking::new(TOOL).arg("installed").status().expect("bash is here");
    if !installed.success() {
        skipped("there is no compiler for Windows or no Wine: `.ci/windows program` installs both");
        return false;
    }
    program();
    true
}

/// The program, built from the sources as they are, unless somebody has built it before and says
/// where it is.
fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(built) = std::env::var_os("WHIMBREL_WINDOWS_PROGRAM") {
            return built.into();
        }
        let mut build = Blocking::new(TOOL);
        let built = build.arg("program").stderr(Stdio::inherit()).output().expect("it starts");
        assert!(built.status.success(), "the program for Windows does not build");
        String::from_utf8(built.stdout).expect("UTF-8").trim().into()
    })
}

/// The program with these words, about to be started; it ends with the test.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(TOOL);
    command.arg("wine").arg(program()).args(words).env_remove("WHIMBREL_AGENT");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

/// Runs the program to its end.
///
/// # Panics
/// If it hangs.
pub async fn run(words: &[&str]) -> Said {
    Said::of(command(words)).await
}

/// The parent of a process of Windows hears an event of the console: `break`, `close`, `logoff` or
/// `shutdown`.
///
/// # Panics
/// If that cannot be brought about.
pub async fn event(event: &str, pid: &str) {
    let mut command = Command::new(TOOL);
    command.args(["event", event, pid]).stdin(Stdio::null()).kill_on_drop(true);
    let _ = Said::of(command).await.ended(0);
}

/// A file or folder of this host, as the program knows it.
#[must_use]
pub fn path(path: &Path) -> String {
    format!("Z:{}", path.display())
}
