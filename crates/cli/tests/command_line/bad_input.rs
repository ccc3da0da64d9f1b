//! What is said to a command line that does not make sense, or that leads nowhere.

use std::io::Write;
use std::net::TcpListener;

use crate::stand_in::{command, said};
use serde_json::Value;

/// Runs the program, which must refuse with `status` and say `reason` on standard error only.
fn refused(words: &[&str], status: i32, reason: &str) {
    let (out, err, ended) = said(&command(words).output().unwrap());
    assert_eq!(ended, status, "{words:?}: {err}");
    assert!(err.contains(reason), "{words:?}: {err}");
    assert_eq!(out, "", "{words:?}");
}

#[test]
fn sizes_rates_times_and_addresses_that_do_not_parse() {
    let cases = [
        (&["demo", "--memory", "lots"][..], "\"lots\" is not a size"),
        (&["demo", "--memory", "1GB"], "GiB is always the latter"),
        (&["run", "--memory", "-1"], "unexpected argument"),
        (&["run", "--memory=-1"], "is not a size"),
        (&["demo", "--memory", "99999999999GiB"], "more than 64 bits"),
        (&["demo", "--dirty-rate", "400"], "says no bytes a second"),
        (&["demo", "--dirty-rate", "fast"], "400MiB/s, max, or 0"),
        (&["demo", "--downtime", "300"], "has no unit"),
        (&["demo", "--downtime", "soon"], "300ms or 1.5s"),
        (&["list", "--agent", "a:b:c"], "IPv6 addresses need brackets"),
        (&["probe", "host:99999"], "not a number below 65536"),
        (&["probe", ""], "the host is missing"),
        (&["migrate", "web", "host:0"], "port 0"),
        (&["agent", "--data", "x", "--listen", "host-b"], "not an IP address of this host"),
        (&["run", "--name", "a b"], "letters, digits"),
    ];
    for (words, reason) in cases {
        refused(words, 2, reason);
    }
}

#[test]
fn options_that_do_not_go_together_or_exceed_a_limit() {
    let cases = [
        (&["demo", "--memory", "512KiB"][..], "at least 1 MiB"),
        (&["demo", "--memory", "1048577"], "multiple of 4KiB"),
        (&["demo", "--memory", "1MiB", "--working-set", "2MiB"], "larger than --memory 1 MiB"),
        (&["demo", "--lanes", "0"], "1..=128"),
        (&["demo", "--lanes", "129"], "1..=128"),
        (&["demo", "--lanes", "two"], "invalid digit"),
        (&["demo", "--vcpus", "17"], "1..=16"),
        (&["demo", "--throttle-limit", "100"], "0..=99"),
        (&["demo", "--downtime", "1us"], "1ms to 60s"),
        (&["demo", "--fill", "full"], "random, zero, text, mixed"),
        (&["run", "--name", "web", "--serve", "127.0.0.1:6379"], "say --guest kv too"),
        (&["demo", "--guest", "windows"], "stress, kv"),
        (&["resolve", "web"], "--run-here|--give-up"),
        (&["resolve", "web", "--run-here"], "--peer-is-off"),
        (&["resolve", "web", "--run-here", "--give-up", "--peer-is-off"], "cannot be used with"),
        (&["migrate", "web"], "<DESTINATION>"),
        (&["teleport"], "unrecognized subcommand 'teleport'"),
        (&["demo", "--quick"], "unexpected argument '--quick'"),
        (&[], "Usage: whimbrel"),
    ];
    for (words, reason) in cases {
        refused(words, 2, reason);
    }
}

#[test]
fn a_program_reads_the_refusal_as_one_object() {
    let cases = [
        (&["demo", "--memory", "lots", "--json"][..], "is not a size"),
        (&["demo", "--working-set", "2GiB", "--json"], "larger than --memory"),
        (&["migrate", "web", "a:b", "--json"], "is not an agent's address"),
    ];
    for (words, reason) in cases {
        let (out, _, status) = said(&command(words).output().unwrap());
        assert_eq!(status, 2, "{words:?}");
        let account: Value = serde_json::from_str(&out).expect("one JSON object");
        assert_eq!(account["outcome"], "failed");
        assert!(account["total_ms"].is_null() && account["rounds"].is_array());
        assert!(account["reason"].as_str().unwrap().contains(reason), "{account}");
    }
}

#[test]
fn an_agent_that_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let agent = ["--agent", address.as_str()];
    let commands = [
        &["list"][..],
        &["run"],
        &["status", "web"],
        &["watch", "web"],
        &["migrate", "web", "host-b"],
        &["cancel", "web"],
        &["stop", "web"],
        &["resolve", "web", "--give-up"],
    ];
    for command in commands {
        refused(&[command, &agent].concat(), 5, "no agent answers at");
    }
    refused(&["probe", &address], 5, "start one there with `whimbrel agent`");
    refused(&["probe", "no-such-host.invalid"], 5, "no agent answers at no-such-host.invalid");
}

#[test]
fn a_port_that_is_not_whimbrel() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n");
        }
    });
    refused(&["probe", &address], 5, "is not a Whimbrel agent");
    refused(&["list", "--agent", &address], 5, "is not a Whimbrel agent");
}

#[test]
fn help_and_version_are_no_errors() {
    for words in [&["--help"][..], &["demo", "--help"], &["migrate", "-h"]] {
        let (out, err, status) = said(&command(words).output().unwrap());
        assert_eq!((status, err.as_str()), (0, ""));
        assert!(out.contains("Usage: whimbrel") && out.contains("Exit status:"), "{out}");
        assert!(!out.contains("guest-process"), "{out}");
    }
    let (out, _, status) = said(&command(&["--version"]).output().unwrap());
    assert_eq!(status, 0);
    assert!(out.starts_with("whimbrel 0."), "{out}");
}
