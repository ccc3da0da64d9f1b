//! Two agents that were started by hand, and everything a person asks of them.

use whimbrel_tests::os;
use whimbrel_tests::program::{Agent, run};

const SMALL: [&str; 4] = ["--memory", "32MiB", "--dirty-rate", "20MiB/s"];

#[tokio::test]
async fn a_guest_is_run_listed_moved_watched_and_stopped() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    here.guest("web", &SMALL).await;
    here.assert_runs("web").await;
    let begun = here.ask(&["migrate", "web", &there.address, "--detach", "--json"]).await.ended(0);
    let migration = begun.json()["migration"].as_str().expect("an id").to_owned();
    // By its id a migration can be followed whether it has ended meanwhile or not.
    let moved = here.ask(&["watch", &migration, "--json"]).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
    assert_eq!(moved["pages_verified"], 32 << 8, "{moved}");

    there.assert_runs("web").await;
    let left = here.ask(&["list", "--json"]).await.ended(0).json();
    assert_eq!(left.as_array().map(Vec::len), Some(0), "{left}");
    // And back again.
    let back = there.ask(&["migrate", "web", &here.address, "--json"]).await.ended(0).json();
    assert_eq!(back["outcome"], "completed", "{back}");
    here.assert_runs("web").await;
    let _ = here.ask(&["stop", "web"]).await.ended(0);
    assert_eq!(here.status("web").await["state"], "gone");
}

#[tokio::test]
async fn a_cancelled_migration_leaves_the_guest_where_it_is() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    here.guest("web", &["--memory", "64MiB", "--dirty-rate", "max"]).await;
    // Never converges, so that there is time to cancel.
    let options = ["--policy", "wait", "--downtime", "1ms", "--detach"];
    let words = ["migrate", "web", &there.address];
    let _ = here.ask(&[words.as_slice(), &options].concat()).await.ended(0);
    here.until("web", |guest| guest["state"] == "migrating").await;
    let twice = here.ask(&words).await.ended(6);
    assert!(twice.err.contains("migrat"), "{twice:?}");
    let _ = here.ask(&["cancel", "web"]).await.ended(0);
    here.until("web", |guest| guest["state"] == "running").await;
    here.assert_runs("web").await;
    let there_is = there.ask(&["list", "--json"]).await.ended(0).json();
    assert_eq!(there_is.as_array().map(Vec::len), Some(0), "{there_is}");
}

#[tokio::test]
async fn names_that_do_not_exist() {
    let agent = Agent::start().await;
    for words in [["status", "nobody"], ["stop", "nobody"], ["cancel", "nobody"]] {
        let said = agent.ask(&words).await.ended(6);
        assert!(said.err.contains("nobody"), "{said:?}");
    }
    let _ = agent.ask(&["migrate", "nobody", "127.0.0.1:9"]).await.ended(6);
}

#[tokio::test]
async fn an_agent_that_is_killed_finds_its_running_guests_again() {
    let mut agent = Agent::outlived().await;
    agent.guest("web", &SMALL).await;
    let before = agent.status("web").await;
    let guest = os::Pid::new(u32::try_from(before["pid"].as_u64().expect("a pid")).expect("small"));
    let _guard = os::KilledAtTheEnd(guest);
    agent.kill().await;
    agent.start_again().await;
    let after = agent.status("web").await;
    assert_eq!(after["pid"], before["pid"]);
    agent.assert_runs("web").await;
    let there = Agent::start().await;
    let moved = agent.ask(&["migrate", "web", &there.address, "--json"]).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
    there.assert_runs("web").await;
}

#[tokio::test]
async fn a_folder_belongs_to_one_agent() {
    let agent = Agent::start().await;
    let folder = agent.data().to_str().expect("UTF-8");
    let second = run(&["agent", "--listen", "127.0.0.1:0", "--data", folder]).await;
    assert_ne!(second.status, Some(0));
    assert!(second.err.contains("another agent"), "{second:?}");
}
