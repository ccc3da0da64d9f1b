//! Guests cross the border between Linux and Windows, and what Windows lacks is said. Windows is
//! Wine here.

use std::env::temp_dir;

use whimbrel_tests::program::{Agent, How};
use whimbrel_tests::{demo, os, windows};

const CROSSINGS: u32 = 10;
const MIB: u64 = 1 << 20;
/// How `whimbrel` ends where it is asked for what there is not, where a migration was given up, and
/// where an agent says no.
const MISUSED: i32 = 2;
const ABORTED: i32 = 3;
const REFUSED: i32 = 6;

/// What `doctor` says that Windows lacks.
const LACKS: [&str; 12] = [
    "post-copy",
    "commitment",
    "sharing",
    "huge pages",
    "sockets",
    "marks",
    "congestion",
    "interfaces",
    "processors",
    "peak",
    "page tables",
    "pipes",
];

/// Kills the processes that were started with this word when the test ends, however it ends.
struct Mentioning(String);

impl Drop for Mentioning {
    fn drop(&mut self) {
        os::mentioning(&self.0).into_iter().for_each(os::kill);
    }
}

async fn abroad() -> Agent {
    let how = How { windows: true, ..How::with(&["--die-with-parent"]) };
    Agent::start_as(&temp_dir(), how).await
}

async fn migrate(from: &Agent, to: &Agent, how: &[&str]) {
    let words = ["migrate", "web", &to.address, "--json"];
    let moved = from.ask(&[&words, how].concat()).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
    to.assert_runs("web").await;
}

#[tokio::test]
async fn a_guest_crosses_the_border_ten_times_each_way() {
    if !windows::is_here() {
        return;
    }
    let (here, there) = (Agent::start().await, abroad().await);
    here.guest("web", &["--memory", "64MiB", "--dirty-rate", "20MiB/s"]).await;
    for crossing in 0..CROSSINGS {
        // Each way with a digest of both memories, once encrypted and once in clear.
        let how = ["--verify", "full", "--encrypt", "on"];
        let how = if crossing % 2 == 0 { &how[..2] } else { &how[..] };
        migrate(&here, &there, how).await;
        migrate(&there, &here, how).await;
    }
}

/// Wine refuses what QUIC asks of a socket: packets come and go one by one there.
#[tokio::test]
async fn a_guest_crosses_the_border_over_quic() {
    if !windows::is_here() {
        return;
    }
    let (here, there) = (Agent::start().await, abroad().await);
    here.guest("web", &["--memory", "16MiB", "--dirty-rate", "2MiB/s"]).await;
    let how = ["--transport", "quic", "--verify", "full"];
    migrate(&here, &there, &how).await;
    migrate(&there, &here, &how).await;
}

#[tokio::test]
async fn the_demo_runs_with_two_agents_of_windows() {
    if !windows::is_here() {
        return;
    }
    let words = ["demo", "--json", "--memory", "128MiB", "--dirty-rate", "20MiB/s"];
    let said = windows::run(&words).await.ended(0);
    assert_eq!(demo::faults(&said.out, 128 * MIB), [""; 0], "{said:?}");
}

#[tokio::test]
async fn a_guest_of_windows_that_loses_its_agent_ends() {
    if !windows::is_here() {
        return;
    }
    let mut agent = abroad().await;
    agent.guest("web", &["--memory", "16MiB"]).await;
    agent.kill().await;
    agent.start_again().await;
    // It was tied to the agent, whose end has ended it.
    let list = agent.ask(&["list", "--json"]).await.ended(0).json();
    let states: Vec<_> = list.as_array().expect("a list").iter().map(|it| &it["state"]).collect();
    assert!(states.iter().all(|state| **state != "running"), "{list}");
}

#[tokio::test]
async fn what_windows_lacks_is_said() {
    if !windows::is_here() {
        return;
    }
    let found = windows::run(&["doctor", "--json"]).await.ended(0).json();
    let findings = found.as_array().expect("a list");
    let subjects: Vec<_> = findings.iter().filter_map(|it| it["subject"].as_str()).collect();
    assert_eq!(subjects, [&["system", "tracker", "memory"], LACKS.as_slice()].concat(), "{found}");
    assert!(findings[1]["found"].to_string().contains("write-watch is used"), "{found}");
    for lack in &findings[3..] {
        assert_eq!(lack["verdict"], "warn", "{lack}");
        assert!(lack["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{lack}");
    }
    // Each is a row of the page, whose table says the same.
    let page = include_str!("../../../docs/WINDOWS.md");
    for lack in LACKS {
        assert!(page.contains(&format!("| {lack} |")), "docs/WINDOWS.md does not name {lack:?}");
    }
}

#[tokio::test]
async fn an_agent_of_windows_does_not_begin_with_what_it_cannot_keep() {
    if !windows::is_here() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let data = windows::path(&folder.path().join("data"));
    let words = ["agent", "--data", &data, "--listen", "127.0.0.1:0", "--pin-lanes"];
    let refused = windows::run(&words).await.ended(MISUSED);
    assert!(refused.err.contains("--pin-lanes") && refused.err.contains("leave it out"));
    assert!(!folder.path().join("data").exists(), "nothing was changed");
}

#[tokio::test]
async fn what_windows_cannot_do_is_refused_with_what_to_do_and_the_guest_stays() {
    if !windows::is_here() {
        return;
    }
    let (here, there) = (Agent::start().await, abroad().await);
    here.guest("web", &["--memory", "16MiB"]).await;
    let refused = here.ask(&["migrate", "web", &there.address, "--transport", "unix"]).await;
    let refused = refused.ended(REFUSED);
    assert!(refused.err.contains("choose tcp"), "{refused:?}");
    here.assert_runs("web").await;
    migrate(&here, &there, &[]).await;
    for (option, value, why) in [
        ("--transport", "unix", "choose tcp"),
        ("--dscp", "8", "New-NetQosPolicy"),
        ("--priority", "3", "New-NetQosPolicy"),
        ("--congestion", "cubic", "Set-NetTCPSetting"),
    ] {
        let words = ["migrate", "web", &here.address, option, value, "--json"];
        let refused = there.ask(&words).await.ended(ABORTED).json();
        assert!(refused["reason"].to_string().contains(why), "{refused}");
        there.assert_runs("web").await;
    }
    migrate(&there, &here, &[]).await;
}

/// An agent of Windows is told to end, once by each: it ends in peace every time, and the next one
/// finds the same guest at work.
async fn ends_without_its_guest(events: &[&str]) {
    let how = How { windows: true, ..How::default() };
    let mut agent = Agent::start_as(&temp_dir(), how).await;
    let _guest = Mentioning(agent.data().file_name().expect("a folder").display().to_string());
    for event in events {
        agent.guest("web", &["--memory", "16MiB"]).await;
        let pid = agent.status("web").await["pid"].clone();
        match *event {
            "SIGINT" => os::interrupt(agent.pid()),
            event => windows::event(event, &pid.to_string()).await,
        }
        assert_eq!(agent.ended().await, Some(0), "{event}: {}", agent.logs());
        agent.start_again().await;
        assert_eq!(agent.status("web").await["pid"], pid, "{event}");
        agent.assert_runs("web").await;
        let _ = agent.ask(&["stop", "web"]).await.ended(0);
    }
}

/// Under Wine, SIGINT is Ctrl-C typed at the console.
#[tokio::test]
async fn ctrl_c_ends_an_agent_of_windows_and_its_guest_lives_on() {
    if windows::is_here() {
        ends_without_its_guest(&["SIGINT"]).await;
    }
}

/// Wine makes no such events: `tests/windows/console_event.c` has the agent hear them.
#[tokio::test]
async fn closing_the_window_ends_an_agent_of_windows_and_its_guest_lives_on() {
    if windows::is_here() {
        ends_without_its_guest(&["break", "close", "logoff", "shutdown"]).await;
    }
}
