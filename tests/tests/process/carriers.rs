//! Every transport moves a guest, says which one it was, and refuses what it cannot do.

use whimbrel_tests::demo;
use whimbrel_tests::program::{Agent, run};

const MIB: u64 = 1 << 20;

/// What is asked for on the command line, and what the account says of it.
const WAYS: [(&[&str], &str); 7] = [
    (&[], "tcp"),
    (&["--transport", "tcp", "--encrypt", "on"], "tls"),
    (&["--encrypt", "off"], "tcp-signed"),
    (&["--transport", "tls"], "tls"),
    (&["--transport", "unix"], "unix"),
    (&["--transport", "quic"], "quic"),
    (&["--transport", "tls", "--encrypt", "on"], "tls"),
];

#[tokio::test]
async fn the_demo_completes_over_each() {
    for (way, name) in WAYS {
        let words = ["demo", "--json", "--memory", "32MiB", "--dirty-rate", "50MiB/s"];
        let said = run(&[words.as_slice(), way].concat()).await.ended(0);
        let faults = demo::faults(&said.out, 32 * MIB);
        assert!(faults.is_empty(), "{way:?}: {faults:?}: {said:?}");
        assert_eq!(said.json()["transport"], name, "{said:?}");
    }
}

/// There and back: the process that was a destination makes a key of its own as a source.
#[tokio::test]
async fn a_guest_goes_there_and_back_over_each() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    here.guest("web", &["--memory", "32MiB", "--dirty-rate", "20MiB/s"]).await;
    for (way, name) in [WAYS[2], WAYS[3], WAYS[4], WAYS[5]] {
        for (from, to) in [(&here, &there), (&there, &here)] {
            let words = ["migrate", "web", &to.address, "--json"];
            let moved = from.ask(&[words.as_slice(), way].concat()).await.ended(0).json();
            assert_eq!(moved["outcome"], "completed", "{moved}");
            assert_eq!(moved["transport"], name, "{moved}");
            to.assert_runs("web").await;
        }
    }
}

/// The processes have not met, and the destination's waited for the source's.
#[tokio::test]
async fn a_move_that_cannot_begin_leaves_nothing_that_the_next_one_finds() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    here.guest("web", &["--memory", "16MiB"]).await;
    let words = ["migrate", "web", &there.address, "--json"];
    for way in [&["--congestion", "none-such"], &["--congestion", "none-other"]] {
        let aborted = here.ask(&[words.as_slice(), way].concat()).await.ended(3).json();
        assert!(aborted["reason"].to_string().contains(way[1]), "{aborted}");
    }
    let moved = here.ask(&words).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
    there.assert_runs("web").await;
}

#[tokio::test]
async fn what_does_not_go_together_is_refused_and_moves_nothing() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    here.guest("web", &["--memory", "32MiB", "--dirty-rate", "1MiB/s"]).await;
    let elsewhere = "192.0.2.1:7117";
    for (to, way, why) in [
        (
            there.address.as_str(),
            ["--transport", "tls", "--encrypt", "off"].as_slice(),
            "choose tcp",
        ),
        (&there.address, &["--transport", "quic", "--encrypt", "off"], "choose tcp"),
        (&there.address, &["--transport", "quic", "--dscp", "8"], "no DSCP"),
        (&there.address, &["--transport", "quic", "--congestion", "vegas"], "not `vegas`"),
        (&there.address, &["--transport", "unix", "--dscp", "AF11"], "leave out DSCP"),
        (&there.address, &["--transport", "unix", "--encrypt", "on"], "leave encryption unsaid"),
        (elsewhere, &["--transport", "unix"], "two agents of one host"),
    ] {
        let said = here.ask(&[["migrate", "web", to].as_slice(), way].concat()).await;
        assert_ne!(said.status, Some(0), "{said:?}");
        assert!(said.err.contains(why), "{said:?}");
    }
    here.assert_runs("web").await;
}
