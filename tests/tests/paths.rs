//! Migrations over several networks between two hosts, which come and go meanwhile.

use std::time::Duration;

use whimbrel_control::api::MigrationStatus;
use whimbrel_control::{Client, Deadlines, api};
use whimbrel_tests::net::Wires;
use whimbrel_tests::program::Agent;
use whimbrel_tests::realm::realm;
use whimbrel_tests::{os, skipped};

/// So that a dead wire is noticed soon.
const PATIENCE: [&str; 4] = [
    "--heartbeat",
    "same-subnet=200msx5,cross-subnet=200msx5",
    "--deadlines",
    "lane-open=1s,resume=30s,retry=100ms",
];
/// What a wire carries while something is done to it, so that there is time for it.
const SLOW_MBIT: u32 = 48;

/// How often a migration is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Two hosts with agents and a guest on the first one.
struct Hosts {
    wires: Wires,
    here: Agent,
    there: Agent,
    client: Client,
}

impl Hosts {
    async fn start(wires: Wires, networks: &[&str]) -> Self {
        let mut options = PATIENCE.to_vec();
        options.extend(networks.iter().flat_map(|network| ["--network", network]));
        let here = Agent::everywhere(&wires.here, &options).await;
        let there = Agent::everywhere(&wires.there, &options).await;
        let address = here.address.parse().expect("an address");
        let access = realm().access();
        let client = Client::connect_as(&address, Deadlines::default(), &access).await;
        let client = client.expect("it listens");
        Self { wires, here, there, client }
    }

    async fn begin(&self, options: &[&str]) {
        let to = format!("{}:{}", Wires::management(), self.there.port());
        let words = ["migrate", "web", &to, "--detach"];
        let _ = self.here.ask(&[&words, options].concat()).await.ended(0);
    }

    async fn look(&mut self) -> MigrationStatus {
        let request = api::GetMigrationRequest { migration: "web".to_owned() };
        self.client.get_migration(request).await.expect("a migration")
    }

    /// Waits until the migration is as wanted; it must not end before.
    async fn until(&mut self, what: &str, wanted: impl Fn(&[api::Path]) -> bool) -> Vec<api::Path> {
        let watch = async {
            let mut looks = tokio::time::interval(LOOK);
            loop {
                looks.tick().await;
                let status = self.look().await;
                if wanted(&status.paths) {
                    return status.paths;
                }
                let ended = status.outcome() != api::Outcome::Unspecified;
                assert!(!ended, "it ended before {what}: {} {:#?}", status.reason, status.events);
            }
        };
        let seen = tokio::time::timeout(os::PATIENCE, watch).await;
        match seen {
            Ok(paths) => paths,
            Err(_) => panic!("{what} does not come about: {:#?}", self.look().await),
        }
    }

    /// One wire is cut and restored, while another one carries on.
    async fn cut_and_restore(&mut self, cut: u8, other: u8) {
        self.wires.cut(cut, true);
        let before = self.until("the cut wire is out of use", |paths| !wire(paths, cut).up).await;
        let went_on = |paths: &[api::Path]| wire(paths, other).bytes > wire(&before, other).bytes;
        self.until("the others go on", went_on).await;
        self.wires.cut(cut, false);
        let before = wire(&before, cut).clone();
        let back = |paths: &[api::Path]| {
            let now = wire(paths, cut);
            now.up && now.connections > before.connections && now.bytes > before.bytes
        };
        self.until("the restored wire is used again", back).await;
    }

    /// The guest arrives, whole.
    async fn assert_moved(mut self) -> MigrationStatus {
        // By its id a migration can be followed whether it has ended meanwhile or not.
        let migration = self.look().await.migration_id;
        let _ = self.here.ask(&["watch", &migration, "--json"]).await;
        let last = self.look().await;
        assert_eq!(last.outcome(), api::Outcome::Completed, "{}: {:#?}", last.reason, last.events);
        self.there.assert_runs("web").await;
        last
    }
}

const GUEST: [&str; 6] = ["--memory", "192MiB", "--working-set", "8MiB", "--dirty-rate", "2MiB/s"];

fn wire(paths: &[api::Path], wire: u8) -> &api::Path {
    let name = format!("w{wire} ");
    paths.iter().find(|path| path.name.starts_with(&name)).expect("each wire is a path")
}

#[tokio::test]
async fn wires_are_cut_slowed_and_restored_while_a_guest_moves_over_them() {
    let Some(wires) = Wires::make(3) else { return skipped("only root may make networks") };
    (0..3).for_each(|wire| wires.shape(wire, SLOW_MBIT));
    let mut hosts = Hosts::start(wires, &["10.77.0.0/16"]).await;
    hosts.here.guest("web", &GUEST).await;
    hosts.begin(&["--lanes", "6"]).await;
    let all = |paths: &[api::Path]| paths.len() == 3 && paths.iter().all(|path| path.bytes > 0);
    hosts.until("pages land over each wire", all).await;
    // The control connection is on the first one.
    for cut in [0, 2] {
        hosts.cut_and_restore(cut, 1).await;
    }
    hosts.wires.shape(1, SLOW_MBIT / 16);
    let before = hosts.until("the slow wire is used", all).await;
    let more = |paths: &[api::Path]| wire(paths, 0).bytes > wire(&before, 0).bytes + (1 << 20);
    hosts.until("the others carry on", more).await;
    hosts.wires.unshape();
    let last = hosts.assert_moved().await;
    let report = last.report.expect("a report");
    assert_eq!(report.pages_verified, 192 << 8);
}

/// A connection of QUIC is its lanes' only one on a wire, and control has one of its own.
#[tokio::test]
async fn wires_are_cut_and_restored_under_quic() {
    let Some(wires) = Wires::make(2) else { return skipped("only root may make networks") };
    (0..2).for_each(|wire| wires.shape(wire, SLOW_MBIT));
    let mut hosts = Hosts::start(wires, &["10.77.0.0/16"]).await;
    hosts.here.guest("web", &GUEST).await;
    hosts.begin(&["--lanes", "4", "--transport", "quic"]).await;
    let both = |paths: &[api::Path]| paths.len() == 2 && paths.iter().all(|path| path.bytes > 0);
    hosts.until("pages land over each wire", both).await;
    hosts.cut_and_restore(0, 1).await;
    hosts.wires.unshape();
    let last = hosts.assert_moved().await;
    assert_eq!(last.carrier(), api::Carrier::Quic);
    assert_eq!(last.report.expect("a report").pages_verified, 192 << 8);
}

#[tokio::test]
async fn nothing_flows_outside_the_networks_and_what_appears_is_used() {
    let Some(wires) = Wires::make(2) else { return skipped("only root may make networks") };
    wires.cut(1, true);
    wires.unplug(1);
    wires.shape(0, SLOW_MBIT);
    let mut hosts = Hosts::start(wires, &["w0", "w1"]).await;
    hosts.here.guest("web", &GUEST).await;
    let outside = hosts.wires.sent("mgmt");
    hosts.begin(&["--lanes", "2"]).await;
    let one = |paths: &[api::Path]| paths.len() == 1 && paths[0].bytes > 0;
    hosts.until("the only wire carries", one).await;
    hosts.wires.plug(1);
    let both = |paths: &[api::Path]| paths.len() == 2 && wire(paths, 1).bytes > 0;
    hosts.until("the new wire carries too", both).await;
    hosts.wires.unshape();
    let talk = hosts.wires.sent("mgmt") - outside;
    assert!(talk < 1 << 20, "{talk} bytes went over the management network");
    hosts.assert_moved().await;
}

#[tokio::test]
async fn hosts_without_a_common_network_are_told_so() {
    let Some(wires) = Wires::make(1) else { return skipped("only root may make networks") };
    let here = Agent::everywhere(&wires.here, &["--network", "w0"]).await;
    let there = Agent::everywhere(&wires.there, &["--network", "203.0.113.0/24"]).await;
    here.guest("web", &["--memory", "16MiB"]).await;
    let to = format!("{}:{}", Wires::management(), there.port());
    let said = here.ask(&["migrate", "web", &to]).await;
    assert_ne!(said.status, Some(0));
    assert!(said.err.contains("203.0.113.0/24") && said.err.contains("--network"), "{said:?}");
    here.assert_runs("web").await;
}
