//! `whimbrel watch` on a real terminal.

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;
use whimbrel_tests::program::{Agent, WATCHDOG, command, whimbrel};
use whimbrel_tests::tmux::Terminal;
use whimbrel_tests::{os, skipped};

/// Watches an agent on a terminal; what comes after the program tells its exit status.
fn watch(agent: &Agent, columns: u16, rows: u16, environment: &str) -> Option<Terminal> {
    let program = whimbrel().display();
    let watch = format!("{environment} {program} watch --agent {}", agent.address);
    let script = format!("echo before; {watch}; echo left: $?; stty -a; exec sleep 600");
    let terminal = Terminal::start(columns, rows, &script);
    if terminal.is_none() {
        skipped("no tmux");
    }
    terminal
}

/// The terminal is as it was: its lines, its echo, and what comes after.
fn assert_given_back(terminal: &Terminal, status: i32) {
    let screen = terminal.until(|screen| screen.contains(" icanon") || screen.contains("-icanon"));
    assert!(screen.starts_with("before"), "{screen}");
    assert!(screen.contains(&format!("left: {status}")), "{screen}");
    assert!(screen.contains(" icanon") && screen.contains(" echo "), "{screen}");
}

/// A guest that moves, and does not come to an end by itself: so little goes through that it always
/// writes more than can be sent in a millisecond, however busy the machine is.
pub(crate) async fn endless(here: &Agent, there: &Agent) {
    here.guest("web", &["--memory", "64MiB", "--dirty-rate", "max"]).await;
    let words = ["migrate", "web", &there.address, "--policy", "wait", "--downtime", "1ms"];
    let slowly = ["--limit", "200Mbit/s", "--detach"];
    let _ = here.ask(&[&words[..], &slowly].concat()).await.ended(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_watched_on_a_terminal_of_80_by_24() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    here.guest("db", &["--memory", "16MiB", "--dirty-rate", "0"]).await;
    let Some(terminal) = watch(&here, 80, 24, "") else { return };
    terminal.until(|screen| screen.contains("▸ db    running") || screen.contains("▸ db  "));
    endless(&here, &there).await;
    terminal.until(|screen| screen.contains("web is here"));
    terminal.keys(&["Down"]);
    let screen = terminal.until(|screen| {
        let parts =
            ["▸ web", "guest writes", "lane 0", "downtime", "dirty after", "pre-copy, round"];
        parts.iter().all(|part| screen.contains(part))
    });
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    assert!(screen.contains("q leaves"), "{screen}");
    assert!(terminal.screen(true).contains("\x1b[3"), "there are no colours");
    println!("{screen}");

    terminal.resize(60, 14);
    terminal.until(|screen| screen.contains("q leaves") && screen.contains("▸ web"));
    terminal.resize(100, 30);
    terminal.until(|screen| screen.lines().any(|line| line.chars().count() > 80));
    // At another size than it had tmux lays what was there before out anew.
    terminal.resize(80, 24);
    terminal.until(|screen| screen.lines().all(|line| line.chars().count() <= 80));
    let _ = here.ask(&["cancel", "web"]).await.ended(0);
    terminal.until(|screen| screen.contains("web was not moved: cancelled"));
    terminal.keys(&["q"]);
    assert_given_back(&terminal, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_given_back_and_has_no_colours_unless_wanted() {
    let agent = Agent::start().await;
    agent.guest("web", &["--memory", "16MiB"]).await;
    for (keys, status) in [(["C-c"], 130), (["q"], 0)] {
        let Some(terminal) = watch(&agent, 80, 24, "NO_COLOR=1") else { return };
        terminal.until(|screen| screen.contains("▸ web"));
        assert!(!terminal.screen(true).contains("\x1b["), "{:?}", terminal.screen(true));
        terminal.keys(&keys);
        assert_given_back(&terminal, status);
    }
    // A signal from elsewhere.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pid");
    let told = format!("sh -c 'echo $$ >{}; exec \"$0\" \"$@\"'", file.display());
    let Some(terminal) = watch(&agent, 80, 24, &told) else { return };
    terminal.until(|screen| screen.contains("▸ web"));
    let pid = std::fs::read_to_string(file).expect("a pid");
    os::terminate(os::Pid::new(pid.trim().parse().expect("a number")));
    assert_given_back(&terminal, 130);
}

#[tokio::test]
async fn a_watch_ends_when_nobody_reads_it() {
    let agent = Agent::start().await;
    agent.guest("web", &["--memory", "16MiB", "--dirty-rate", "1MiB/s"]).await;
    let mut child = command(&["watch", "--agent", &agent.address]).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let head = timeout(WATCHDOG, lines.next_line()).await.expect("in time");
    assert!(head.expect("a line").expect("a line").starts_with("NAME"));
    // Nothing happens here any more that would be told.
    drop(lines);
    let ended = timeout(WATCHDOG, child.wait_with_output()).await.expect("it ends");
    let ended = ended.expect("it was alive");
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]));
}

#[tokio::test]
async fn without_a_terminal_a_host_is_told_in_lines_and_nothing_is_missed() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    here.guest("web", &["--memory", "16MiB", "--dirty-rate", "1MiB/s"]).await;
    let _ = here.ask(&["migrate", "web", &there.address, "--json"]).await.ended(0);
    let mut child = command(&["watch", "--agent", &there.address]).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let head = timeout(WATCHDOG, lines.next_line()).await.expect("in time");
    let head = head.expect("a line").expect("a line");
    assert!(head.starts_with("NAME"), "{head}");
    // There and back between two looks, of which the second one sees the guest as the first did.
    os::stop(os::Pid::of(&child));
    let _ = there.ask(&["migrate", "web", &here.address, "--json"]).await.ended(0);
    let _ = here.ask(&["migrate", "web", &there.address, "--json"]).await.ended(0);
    there.until("web", |guest| guest["state"] == "running").await;
    os::go_on(os::Pid::of(&child));
    for begins in ["web has moved to", "web has come from"] {
        loop {
            let line = timeout(WATCHDOG, lines.next_line()).await.expect("in time");
            let line = line.expect("a line").expect("it goes on");
            assert!(!line.contains('\x1b'), "{line:?}");
            // What had ended before somebody looked is no news.
            let (came, moved) =
                (line.starts_with("web has come"), line.starts_with("web has moved"));
            if came || moved {
                assert!(line.starts_with(begins), "{line}");
                break;
            }
        }
    }
    child.kill().await.expect("it was alive");
}
