//! What only the operating system can do to a process or tell of it.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Signal, kill_process, test_kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{interval, timeout};

use crate::program::Said;

/// What has not come about by then never will.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Where the system counts the bytes that went out of an interface.
pub(crate) fn counter_of_sent(interface: &str) -> String {
    format!("/sys/class/net/{interface}/statistics/tx_bytes")
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pid(rustix::process::Pid);

impl Pid {
    /// The process of a running child.
    ///
    /// # Panics
    /// If it was waited for.
    #[must_use]
    pub fn of(child: &Child) -> Self {
        Self::new(child.id().expect("not waited for"))
    }

    /// The process with this number.
    ///
    /// # Panics
    /// If no process can have it.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        Self(pid.expect("a process number"))
    }

    /// Where the system tells of it.
    #[must_use]
    pub fn folder(self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.0.as_raw_nonzero()))
    }
}

/// Writes a file that everybody, or nobody but this user, may read.
///
/// # Panics
/// If it cannot be written.
pub fn write(path: &Path, text: &str, private: bool) {
    fs::write(path, text).expect("written");
    let mode = if private { 0o600 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// Puts a file in another one's place, which is there whole at every moment.
///
/// # Panics
/// If it cannot be written.
pub fn replace(path: &Path, content: impl AsRef<[u8]>) {
    let folder = path.parent().expect("a folder");
    let mut file = tempfile::NamedTempFile::new_in(folder).expect("a file");
    file.write_all(content.as_ref()).and_then(|()| file.flush()).expect("written");
    file.persist(path).expect("it takes its place");
}

/// Asks a process to end, as Ctrl-C does.
pub fn interrupt(pid: Pid) {
    // An error says that it has ended already.
    let _ = kill_process(pid.0, Signal::INT);
}

/// Asks a process to end, as a service manager does.
pub fn terminate(pid: Pid) {
    let _ = kill_process(pid.0, Signal::TERM);
}

/// Stops a process where it stands, until [`go_on`].
pub fn stop(pid: Pid) {
    let _ = kill_process(pid.0, Signal::STOP);
}

/// Lets a stopped process go on.
pub fn go_on(pid: Pid) {
    let _ = kill_process(pid.0, Signal::CONT);
}

/// Processes that were started with `text` in one of their arguments.
#[must_use]
pub fn mentioning(text: &str) -> Vec<Pid> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mentions = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(text)
    };
    numbers.filter(mentions).map(Pid::new).collect()
}

/// How many sockets a process has open.
#[must_use]
pub fn sockets(pid: Pid) -> usize {
    let files = fs::read_dir(pid.folder().join("fd"));
    let links =
        files.into_iter().flatten().flatten().filter_map(|it| fs::read_link(it.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// Ends a process without asking.
pub fn kill(pid: Pid) {
    let _ = kill_process(pid.0, Signal::KILL);
}

/// Kills a process when the test ends, however it ends.
pub struct KilledAtTheEnd(pub Pid);

impl Drop for KilledAtTheEnd {
    fn drop(&mut self) {
        kill(self.0);
    }
}

/// Whether the process is there and has not ended.
#[must_use]
pub fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(pid.folder().join("stat"));
    let dead = stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|s| s.starts_with('Z')));
    test_kill_process(pid.0).is_ok() && !dead
}

/// The children of a process, and theirs.
#[must_use]
pub fn descendants(pid: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(pid.folder().join("task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let mut found = Vec::new();
    for child in lists.flat_map(|list| numbers(&list)) {
        found.push(child);
        found.extend(descendants(child));
    }
    found
}

fn numbers(list: &str) -> Vec<Pid> {
    list.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid::new).collect()
}

/// Looks again and again until there is something to see.
///
/// # Panics
/// If there is nothing for too long.
pub async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let watch = async {
        let mut ticks = interval(Duration::from_millis(5));
        loop {
            ticks.tick().await;
            if let Some(seen) = look() {
                return seen;
            }
        }
    };
    timeout(Duration::from_secs(60), watch).await.expect("what was waited for comes about")
}

/// A user who may do nothing special, with a folder and a copy of the program of their own.
pub struct Nobody {
    program: PathBuf,
    home: TempDir,
}

/// The user number that nobody has.
const NOBODY: &str = "65534";

impl Nobody {
    /// Copies `program` to where this user can read it.
    ///
    /// `None` where this test is run by an ordinary user already: then every test is.
    ///
    /// # Panics
    /// If there is no folder for them.
    #[must_use]
    pub fn new(program: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let home = TempDir::new().expect("a folder");
        let open_to_all = fs::Permissions::from_mode(0o777);
        fs::set_permissions(home.path(), open_to_all).expect("our own folder");
        let copy = home.path().join("whimbrel");
        // By another process: one that is started meanwhile would hold this one's file open, and a
        // program that is open for writing cannot be run.
        let copied = std::process::Command::new("install").arg(program).arg(&copy).status();
        assert!(copied.expect("it starts").success(), "the program can be copied");
        Some(Self { program: copy, home })
    }

    /// Runs the program as this user.
    pub async fn run(&self, words: &[&str]) -> Said {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]);
        command.arg(&self.program).args(words).env_clear().kill_on_drop(true);
        command.env("HOME", self.home.path()).env("TMPDIR", self.home.path());
        Said::of(command).await
    }
}

/// Bytes of one slot of a journal; its sequence number is at 16.
const SLOT: usize = 4096;

/// A file that takes nothing.
///
/// # Panics
/// If this host has none.
#[must_use]
pub fn full_disk() -> fs::File {
    fs::File::options().write(true).open("/dev/full").expect("every Linux has it")
}

/// A disk of a few mebibytes, in memory.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// A fresh one; `None` for who may not mount.
    ///
    /// # Panics
    /// If there is no folder for it.
    #[must_use]
    pub fn mount() -> Option<Self> {
        let folder = TempDir::new().expect("a folder");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m,mode=700", "whimbrel-test"]).arg(folder.path());
        mount.status().is_ok_and(|status| status.success()).then_some(Self { folder })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves not one byte.
    ///
    /// # Panics
    /// If the disk is never full.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.ballast()).expect("room for a name");
        let block = [0; 4096];
        let full = (0..1 << 20).find_map(|_| file.write_all(&block).err());
        assert_eq!(full.map(|why| why.kind()), Some(ErrorKind::StorageFull));
    }

    /// Leaves no room for the next write to a journal of two slots, as on a file system that
    /// writes nothing in place. The record that was written last stays.
    ///
    /// # Panics
    /// If there is no such journal.
    pub fn fill_under(&self, journal: &Path) {
        let file = fs::OpenOptions::new().read(true).write(true).open(journal).expect("a journal");
        let mut slots = [0; 2 * SLOT];
        file.read_exact_at(&mut slots, 0).expect("two slots");
        let sequence = |slot: usize| slots[slot * SLOT + 16..][..8].iter().rev();
        let older = if sequence(0).lt(sequence(1)) { 0 } else { 1 };
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, flags, (older * SLOT) as u64, SLOT as u64).expect("a hole");
        self.fill();
    }

    /// Gives back what [`SmallDisk::fill`] took.
    ///
    /// # Panics
    /// If it was not filled.
    pub fn empty(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.folder().join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: an agent that is just ending may still have a file open.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.folder()).status();
    }
}
