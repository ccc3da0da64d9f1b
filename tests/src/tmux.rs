//! A terminal that a test looks at: a session of tmux of its own.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Ten times what anything takes to be seen.
const WATCHDOG: Duration = Duration::from_secs(120);

/// One terminal. Dropping it ends what runs there.
pub struct Terminal {
    folder: TempDir,
}

impl Terminal {
    /// A terminal of that size in which a shell carries out `script`; `None` where there is no
    /// tmux.
    ///
    /// # Panics
    /// If tmux is there and does not work.
    #[must_use]
    pub fn start(columns: u16, rows: u16, script: &str) -> Option<Self> {
        Command::new("tmux").arg("-V").output().ok()?;
        let terminal = Self { folder: tempfile::tempdir().expect("a folder") };
        // Nobody's settings.
        std::fs::write(terminal.folder.path().join("settings"), "").expect("written");
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let size = ["new-session", "-d", "-x", &columns, "-y", &rows, "sh", "-c", script];
        terminal.tmux(&size);
        Some(terminal)
    }

    /// What is to be seen; with the codes of colours if `codes`.
    #[must_use]
    pub fn screen(&self, codes: bool) -> String {
        let words: &[&str] = &["capture-pane", "-p", "-e"];
        self.tmux(if codes { words } else { &words[..2] })
    }

    /// Waits until something is to be seen.
    ///
    /// # Panics
    /// If it is not.
    pub fn until(&self, wanted: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let screen = self.screen(false);
            if wanted(&screen) {
                return screen;
            }
            assert!(began.elapsed() < WATCHDOG, "this was not waited for:\n{screen}");
            std::thread::yield_now();
        }
    }

    /// Types keys, by tmux' names for them.
    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Makes the terminal another size.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    fn tmux(&self, words: &[&str]) -> String {
        let output = self.try_tmux(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn try_tmux(&self, words: &[&str]) -> Output {
        let mut tmux = Command::new("tmux");
        let file = |name| self.folder.path().join(name);
        tmux.arg("-u").arg("-f").arg(file("settings")).arg("-S").arg(file("socket"));
        // A locale that has all the characters.
        tmux.args(words).env("LC_ALL", "C.UTF-8").env("TERM", "xterm-256color").env_remove("TMUX");
        tmux.output().expect("tmux runs")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.try_tmux(&["kill-server"]);
    }
}
