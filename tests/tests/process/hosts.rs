//! Two agents that were started by hand, and everything a person asks of them.

use whimbrel_tests::os;
use whimbrel_tests::program::{Agent, How, run};

use crate::watching::endless;

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
    endless(&here, &there).await;
    here.until("web", |guest| guest["state"] == "migrating").await;
    let twice = here.ask(&["migrate", "web", &there.address]).await.ended(6);
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

#[tokio::test]
async fn a_limit_holds_a_migration_back_until_it_is_lifted() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    here.guest("web", &["--memory", "64MiB", "--dirty-rate", "1MiB/s"]).await;
    // Minutes at this rate.
    let options = ["--limit", "2Mbit/s", "--weight", "300", "--detach"];
    let words = ["migrate", "web", &there.address];
    let _ = here.ask(&[words.as_slice(), &options].concat()).await.ended(0);
    here.until("web", |guest| guest["state"] == "migrating").await;
    let host = here.ask(&["limit", "--host", "1Gbit/s", "--json"]).await.ended(0).json();
    assert_eq!(host["host_bytes_per_s"], 125_000_000, "{host}");
    let own = here.ask(&["limit", "web", "--switchover", "8Mbit/s", "--json"]).await.ended(0);
    let own = own.json();
    assert_eq!(
        (own["rate_bytes_per_s"].as_u64(), own["weight"].as_u64()),
        (Some(250_000), Some(300))
    );
    assert_eq!(own["switchover_bytes_per_s"], 1_000_000, "{own}");
    let unknown = here.ask(&["limit", "--network", "eth9=1Gbit/s"]).await.ended(6);
    assert!(unknown.err.contains("eth9"), "{unknown:?}");
    let lifted = here.ask(&["limit", "web", "--rate", "none", "--switchover", "none"]).await;
    assert!(lifted.ended(0).out.contains("web: no limit"));
    there.until("web", |guest| guest["state"] == "running").await;
    there.assert_runs("web").await;
    let idle = there.ask(&["limit", "web", "--rate", "1Gbit/s"]).await.ended(6);
    assert!(idle.err.contains("`web` is not moving away from this host"), "{idle:?}");
    // What is left of its process there could be stopped.
    here.until("web", |guest| guest["state"] == "gone" && guest["pid"].is_null()).await;
    // Whoever asks for it where it has left is told where it is.
    let went = format!("web` does not run here any more: it has moved to {}", there.address);
    for words in [
        &["stop", "web"][..],
        &["stop", "web", "--force"],
        &["status", "web", "--check"],
        &["limit", "web", "--rate", "1Gbit/s"],
        &["migrate", "web", &there.address],
    ] {
        let said = here.ask(words).await.ended(6);
        assert!(said.err.contains(&went), "{said:?}");
    }
    let over = here.ask(&["cancel", "web"]).await.ended(6);
    assert!(over.err.contains(&format!("`web` has moved to {}", there.address)), "{over:?}");
    there.assert_runs("web").await;
}

#[tokio::test]
async fn a_probe_measures_the_way_from_one_host_to_another() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    let words = ["probe", &there.address, "--from", &here.address, "--lanes", "1", "--json"];
    let probed = run(&words).await.ended(0).json();
    let findings = probed["paths"].as_array().expect("findings");
    let find = |what: &str| findings.iter().find(|it| it["subject"] == what).expect("found");
    assert_eq!(find("paths")["verdict"], "warn", "one path only: {probed}");
    assert_eq!(find("networks")["verdict"], "warn", "no networks are listed: {probed}");
    assert_eq!(find("clocks")["verdict"], "ok", "{probed}");
    let plain = run(&["probe", &there.address, "--json"]).await.ended(0).json();
    assert!(plain["paths"].is_null(), "{plain}");
}

#[tokio::test]
async fn a_peer_that_cannot_be_reached_and_a_network_that_is_not_there_are_findings() {
    let options = ["--die-with-parent", "--network", "ehto9,preference=1,limit=2Gbit/s"];
    let agent = Agent::start_as(&std::env::temp_dir(), How::with(&options)).await;
    assert!(agent.logs().contains("ehto9"), "{}", agent.logs());
    let nobody = "127.0.0.1:9";
    let found = agent.ask(&["doctor", "--peer", nobody, "--json"]).await.ended(1).json();
    let of = |subject: &str| {
        let all = found.as_array().expect("findings");
        all.iter().find(|finding| finding["subject"] == subject).expect(subject).clone()
    };
    assert!(of("tracker")["found"].is_string(), "this host is told of too: {found}");
    assert_eq!(of("peer")["verdict"], "bad", "{found}");
    let network = of("network");
    assert_eq!(network["verdict"], "warn", "{network}");
    let told = network["found"].as_str().expect("a sentence");
    assert!(told.starts_with("ehto9, preference 1, limit 2 Gbit/s (238 MiB/s): "), "{told}");
    let probed = run(&["probe", &agent.address]).await.ended(0);
    assert!(probed.out.contains("no address of the host is in it"), "{probed:?}");
}
