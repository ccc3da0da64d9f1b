//! `run`, `list`, `status`, `stop`, `resolve` and `probe` as a script sees them.

use crate::stand_in::{Script, StandIn, said};
use serde_json::Value;
use whimbrel_control::api;

fn guest() -> api::Guest {
    api::Guest {
        uuid: "0c5e9e4c-58ee-4c0b-9f1a-6a5d1f2b7c11".into(),
        name: "web".into(),
        kind: "stress".into(),
        state: api::GuestState::Running.into(),
        memory_bytes: 1 << 30,
        ..api::Guest::default()
    }
}

fn one_guest() -> Script {
    Script { guests: vec![guest()], ..Script::default() }
}

#[test]
fn an_empty_agent_says_so() {
    let agent = StandIn::start(Script::default());
    let (out, _, status) = said(&agent.whimbrel(&["list"]));
    assert_eq!((out, status), (format!("no guests at {}\n", agent.address), 0));
    assert_eq!(said(&agent.whimbrel(&["list", "--json"])).0, "[]\n");
}

#[test]
fn guests_are_listed() {
    let agent = StandIn::start(one_guest());
    let (out, _, status) = said(&agent.whimbrel(&["list"]));
    assert_eq!(status, 0);
    assert!(out.starts_with("NAME") && out.contains("web   running    1 GiB"), "{out}");
    let list: Value = serde_json::from_str(&said(&agent.whimbrel(&["list", "--json"])).0).unwrap();
    assert_eq!(list[0]["name"], "web");
    assert_eq!(list[0]["memory_bytes"], 1 << 30);
}

#[test]
fn a_guest_is_started_as_asked() {
    let agent = StandIn::start(Script::default());
    let words = ["run", "--name", "web", "--memory", "64MiB", "--json", "--detach"];
    let (out, err, status) = said(&agent.whimbrel(&words));
    assert_eq!(status, 0, "{err}");
    let guest: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&guest["name"], &guest["memory_bytes"]), (&"web".into(), &(64 << 20).into()));
}

#[test]
fn a_guest_that_is_damaged_is_7() {
    let check = |sound, sentence: &str| api::CheckReport {
        sound,
        pages_checked: 262_144,
        sentence: sentence.into(),
        ..api::CheckReport::default()
    };
    let sound = Script { check: check(true, "all pages are right"), ..one_guest() };
    let (out, _, status) = said(&StandIn::start(sound).whimbrel(&["status", "web", "--check"]));
    assert_eq!(status, 0);
    assert!(out.ends_with("checked      all pages are right\n"), "{out}");
    let torn = Script { check: check(false, "1 page is torn"), ..one_guest() };
    let words = ["status", "web", "--check", "--json"];
    let (out, _, status) = said(&StandIn::start(torn).whimbrel(&words));
    assert_eq!(status, 7);
    let guest: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(guest["check"]["sound"], false);
}

#[test]
fn a_guest_that_does_not_exist_is_6() {
    let agent = StandIn::start(Script::default());
    let resolve = ["resolve", "web", "--run-here", "--peer-is-off"];
    for words in [&["status", "web"][..], &resolve] {
        let (out, err, status) = said(&agent.whimbrel(words));
        assert_eq!((out.as_str(), status), ("", 6));
        assert_eq!(err, "whimbrel: no guest of that name is here\n");
    }
}

#[test]
fn a_guest_is_stopped() {
    let agent = StandIn::start(one_guest());
    let (out, _, status) = said(&agent.whimbrel(&["stop", "web", "--force"]));
    assert_eq!((out.as_str(), status), ("web has ended\n", 0));
}

#[test]
fn an_agent_is_probed() {
    let agent = StandIn::start(Script::default());
    let (out, _, status) = said(&agent.whimbrel(&["probe", &agent.address]));
    assert_eq!(status, 0);
    assert!(out.contains("is a Whimbrel agent, version 9.9.9"), "{out}");
    assert!(out.contains("3 GiB free"), "{out}");
}
