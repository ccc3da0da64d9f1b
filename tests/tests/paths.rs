//! Migrations over several networks between two hosts, which come and go meanwhile.
#![cfg(target_os = "linux")]

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use whimbrel_control::api::MigrationStatus;
use whimbrel_control::{Client, Deadlines, api};
use whimbrel_tests::net::Wires;
use whimbrel_tests::os::Pid;
use whimbrel_tests::program::Agent;
use whimbrel_tests::realm::realm;
use whimbrel_tests::{os, skipped};

/// So that a dead wire is noticed soon: that is said while the agent runs, which begins otherwise.
const HEARTBEAT: &str = "same-subnet=200msx5,cross-subnet=200msx5";
const PATIENCE: [&str; 4] = [
    "--heartbeat",
    "same-subnet=2sx60,cross-subnet=2sx60",
    "--deadlines",
    "lane-open=1s,resume=30s,retry=100ms",
];
/// What a wire carries while something is done to it, so that there is time for it.
const SLOW_MBIT: u32 = 32;

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
        Self::start_with(wires, networks, &[]).await
    }

    /// With more options for the first one.
    async fn start_with(wires: Wires, networks: &[&str], more: &[&str]) -> Self {
        let mut options = PATIENCE.to_vec();
        options.extend(networks.iter().flat_map(|network| ["--network", network]));
        let here = Agent::everywhere(&wires.here, &[&options, more].concat()).await;
        let there = Agent::everywhere(&wires.there, &options).await;
        let _ = here.ask(&["limit", "--heartbeat", HEARTBEAT]).await.ended(0);
        let address = here.address.parse().expect("an address");
        let access = realm().access();
        let client = Client::connect_as(&address, Deadlines::default(), &access).await;
        let client = client.expect("it listens");
        Self { wires, here, there, client }
    }

    /// It does not end before the wires carry more than [`GUEST`] writes.
    async fn begin(&self, options: &[&str]) {
        let to = format!("{}:{}", Wires::management(), self.there.port());
        let words = ["migrate", "web", &to, "--detach", "--policy", "wait"];
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
                let MigrationStatus { reason, events, paths, .. } = &status;
                let ended = status.outcome() != api::Outcome::Unspecified;
                assert!(!ended, "it ended before {what}: {reason} {events:#?} {paths:#?}");
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
        let left = |paths: &[api::Path]| !wire(paths, cut).up && wire(paths, cut).lanes == 0;
        let before = self.until("the cut wire is out of use, without a lane", left).await;
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

    /// The wire with the most lanes is slowed and restored, while `count` of them are at work.
    async fn slow_and_restore(&mut self, count: u32) {
        let paths = self.look().await.paths;
        let most = (0..paths.len() as u8).max_by_key(|it| wire(&paths, *it).lanes);
        let slowed = most.expect("there are wires");
        self.wires.shape(slowed, SLOW_MBIT / 3);
        let half = u64::from(SLOW_MBIT) * 1_000_000 / 8 / 2;
        let rate = |paths: &[api::Path]| wire(paths, slowed).rate_bytes_per_s;
        let others = |paths: &[api::Path]| {
            let lanes = paths.iter().map(|path| path.lanes).sum::<u32>();
            rate(paths) < half && wire(paths, slowed).lanes == 1 && lanes == count
        };
        let before = self.until("one lane stays on the slowed wire", others).await;
        let all = |paths: &[api::Path]| {
            let carries = |(now, then): (&api::Path, &api::Path)| now.up && now.bytes > then.bytes;
            paths.iter().zip(&before).all(carries)
        };
        self.until("each wire carries on", all).await;
        self.wires.shape(slowed, SLOW_MBIT);
        self.until("the restored wire delivers", |paths| rate(paths) > half).await;
    }

    /// From now on much more lands over one wire than over the other one, which is a quarter as
    /// fast, and something over that.
    async fn favour(&mut self, fast: u8, slow: u8) {
        let before = self.look().await.paths;
        let more = |paths: &[api::Path], it| wire(paths, it).bytes - wire(&before, it).bytes;
        let much = |paths: &[api::Path]| more(paths, fast) > 16 << 20;
        let after = self.until("the fast wire carries", much).await;
        let [fast, slow] = [fast, slow].map(|it| more(&after, it));
        assert!(slow > 0 && slow * 2 < fast, "{slow} and {fast} bytes over wires of 1 and 4");
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

/// It writes faster than slow wires carry, three together.
const GUEST: [&str; 6] =
    ["--memory", "192MiB", "--working-set", "32MiB", "--dirty-rate", "40MiB/s"];

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
    hosts.slow_and_restore(6).await;
    hosts.wires.unshape();
    let last = hosts.assert_moved().await;
    // That is the heartbeat, or the system's own clock of what was not acknowledged, set by it.
    let silence = ["silent for 1000 ms", "timed out"];
    let noticed = |it: &api::Event| silence.iter().any(|said| it.sentence.contains(said));
    assert!(last.events.iter().any(noticed), "{:#?}", last.events);
    // Nobody has asked for it.
    assert_eq!(last.carrier(), api::Carrier::Tls);
    assert_eq!(last.report.expect("a report").pages_verified, 192 << 8);
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
    (0..2).for_each(|wire| wires.shape(wire, SLOW_MBIT));
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
async fn lanes_gather_where_more_is_delivered() {
    let Some(wires) = Wires::make(2) else { return skipped("only root may make networks") };
    wires.shape(0, SLOW_MBIT);
    wires.shape(1, SLOW_MBIT / 4);
    let mut hosts = Hosts::start(wires, &["10.77.0.0/16"]).await;
    hosts.here.guest("web", &GUEST).await;
    hosts.begin(&["--lanes", "4"]).await;
    let gathered =
        |paths: &[api::Path]| paths.len() == 2 && [0, 1].map(|it| wire(paths, it).lanes) == [3, 1];
    hosts.until("one lane of four is on the slow wire", gathered).await;
    hosts.favour(0, 1).await;
    hosts.wires.unshape();
    hosts.assert_moved().await;
}

#[tokio::test]
async fn a_wire_that_is_less_preferred_carries_while_no_other_works() {
    let Some(wires) = Wires::make(2) else { return skipped("only root may make networks") };
    (0..2).for_each(|wire| wires.shape(wire, SLOW_MBIT));
    let mut hosts = Hosts::start(wires, &["w0", "w1,preference=1"]).await;
    hosts.here.guest("web", &GUEST).await;
    hosts.begin(&["--lanes", "2"]).await;
    let carries = |paths: &[api::Path]| paths.len() == 2 && wire(paths, 0).bytes > 4 << 20;
    let seen = hosts.until("the preferred wire carries", carries).await;
    assert_eq!((wire(&seen, 1).connections, wire(&seen, 1).bytes), (0, 0), "{seen:#?}");
    hosts.wires.cut(0, true);
    let other = |paths: &[api::Path]| !wire(paths, 0).up && wire(paths, 1).bytes > 0;
    hosts.until("the other one carries when it is cut", other).await;
    hosts.wires.cut(0, false);
    let back = |paths: &[api::Path]| wire(paths, 0).lanes == 2 && wire(paths, 1).lanes == 0;
    hosts.until("all lanes are back on the preferred one", back).await;
    hosts.wires.unshape();
    hosts.assert_moved().await;
}

#[tokio::test]
async fn wires_keep_to_their_limits_and_those_are_changed_meanwhile() {
    let Some(wires) = Wires::make(2) else { return skipped("only root may make networks") };
    let mut hosts = Hosts::start(wires, &["w0,limit=12Mbit/s", "w1,limit=48Mbit/s"]).await;
    hosts.here.guest("web", &GUEST).await;
    hosts.begin(&["--lanes", "4"]).await;
    let both = |paths: &[api::Path]| paths.len() == 2 && paths.iter().all(|path| path.bytes > 0);
    hosts.until("pages land over each wire", both).await;
    hosts.favour(1, 0).await;
    let words = ["limit", "--network", "w0=48Mbit/s", "--network", "w1=12Mbit/s", "--json"];
    let said = hosts.here.ask(&words).await.ended(0).json();
    assert_eq!(said["networks"][0]["bytes_per_s"], 6_000_000, "{said}");
    hosts.favour(0, 1).await;
    let words = ["limit", "--network", "w0=none", "--network", "w1=none"];
    let _ = hosts.here.ask(&words).await.ended(0);
    hosts.assert_moved().await;
}

#[tokio::test]
async fn what_is_sent_is_marked_as_it_was_asked() {
    let Some(wires) = Wires::make(1) else { return skipped("only root may make networks") };
    wires.shape(0, SLOW_MBIT);
    let mut hosts = Hosts::start(wires, &["10.77.0.0/16"]).await;
    hosts.here.guest("web", &GUEST).await;
    hosts.begin(&["--lanes", "2", "--dscp", "10", "--priority", "4"]).await;
    let both = |paths: &[api::Path]| paths.len() == 1 && paths[0].lanes == 2 && paths[0].bytes > 0;
    hosts.until("two lanes carry", both).await;
    // The control connection is one of them. The system tells a priority as a class.
    let marked = |line: &&String| line.contains("tos:0x28") && line.contains("class_id:0x4");
    // A lane that was slow may just be opened again.
    let () = os::until(|| {
        let marks = hosts.wires.marks(&format!("{}.2", Wires::subnet(0)));
        let seen = (marks.iter().filter(marked).count(), marks.len());
        println!("{seen:?} {marks:#?}");
        (seen == (3, 3)).then_some(())
    })
    .await;
    hosts.wires.unshape();
    hosts.assert_moved().await;
}

/// One wire takes jumbo frames, the other only as far as the first host knows.
#[tokio::test]
async fn each_path_is_probed_for_what_passes() {
    let Some(wires) = Wires::make(2) else { return skipped("only root may make networks") };
    wires.set_mtu(0, 9000, 9000);
    wires.set_mtu(1, 9000, 1500);
    let mut hosts = Hosts::start(wires, &["10.77.0.0/16"]).await;
    let destination = format!("{}:{}", Wires::management(), hosts.there.port());
    let request = api::ProbePathsRequest { destination, lanes: vec![1, 2], each_ms: Some(100) };
    let probed = hosts.client.probe_paths(request).await.expect("measured");
    assert!(probed.listed && probed.paths.len() == 2, "{probed:#?}");
    assert_eq!(probed.called, Wires::management());
    let here = probed.paths.iter().map(|path| (path.near, path.mtu_here));
    assert_eq!(here.collect::<Vec<_>>(), [(true, Some(9000)); 2]);
    let [jumbo, narrow] = [0, 1].map(|it| probed.paths[it].mtu.expect("packets pass"));
    // The wire itself lets a tag of a VLAN pass too.
    assert!(jumbo == 9000 && (1500..=1504).contains(&narrow), "{jumbo} and {narrow} bytes pass");
    for path in &probed.paths {
        assert_eq!([&path.error, &path.tls_error, &path.quic_error], [""; 3]);
        assert!(path.round_trip_us > 0 && path.best_lanes.is_some(), "{path:#?}");
        for carried in [&path.throughput, &path.tls, &path.quic] {
            let told: Vec<_> = carried.iter().map(|it| it.lanes).collect();
            assert_eq!(told, [1, 2], "{path:#?}");
            assert!(carried.iter().all(|it| it.rate_bytes_per_s > 0), "{path:#?}");
        }
        assert!(path.throughput.iter().all(|it| it.retransmitted.is_some()), "{path:#?}");
    }
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

/// Has the first host's agent, and the guests that it starts from now on, find each wire at a
/// device with these processors beside it.
fn at_devices(agent: &Agent, processors: &[&str]) -> TempDir {
    let interfaces = TempDir::new().expect("a folder");
    for (wire, list) in processors.iter().enumerate() {
        let device = interfaces.path().join(format!("w{wire}/device"));
        std::fs::create_dir_all(&device).expect("a folder");
        std::fs::write(device.join("local_cpulist"), format!("{list}\n")).expect("a file");
    }
    let namespace = format!("--mount={}", agent.pid().folder().join("ns/mnt").display());
    let bind = ["mount", "--bind", interfaces.path().to_str().expect("UTF-8"), "/sys/class/net"];
    let done = Command::new("nsenter").arg(namespace).args(bind).output();
    let done = done.expect("nsenter runs");
    assert!(done.status.success(), "{done:?}");
    interfaces
}

/// Where the lanes' threads of a process may run, each as the system's list of processors.
fn lanes_may_run_on(guest: Pid) -> Vec<String> {
    let threads = std::fs::read_dir(guest.folder().join("task")).expect("it lives");
    let told = threads.filter_map(|thread| {
        // One that has just ended tells nothing.
        let status = std::fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        field("Name:")?.starts_with("whimbrel-out").then(|| field("Cpus_allowed_list:"))?
    });
    told.collect()
}

#[tokio::test]
async fn a_lane_stays_beside_the_device_of_its_wire() {
    let own = lists_of(&std::fs::read_to_string("/proc/self/status").expect("told"));
    let [one, other] = &own[..] else { return skipped("it takes two processors") };
    let Some(wires) = Wires::make(2) else { return skipped("only root may make networks") };
    (0..2).for_each(|wire| wires.shape(wire, SLOW_MBIT));
    let mut hosts = Hosts::start_with(wires, &["w0", "w1"], &["--pin-lanes"]).await;
    let _devices = at_devices(&hosts.here, &[one, other]);
    hosts.here.guest("web", &GUEST).await;
    hosts.begin(&["--lanes", "2"]).await;
    let guest = hosts.client.get_guest(api::GetGuestRequest { guest: "web".to_owned() });
    let guest = Pid::new(guest.await.expect("it runs").pid);
    let beside = |paths: &[api::Path]| {
        let mut may = lanes_may_run_on(guest);
        may.sort();
        paths.iter().all(|path| path.lanes == 1) && may == [one.as_str(), other]
    };
    hosts.until("each lane is kept beside its wire's device", beside).await;
    hosts.wires.unshape();
    hosts.assert_moved().await;
}

/// Two processors on which a process with this status may run, each by itself.
fn lists_of(status: &str) -> Vec<String> {
    let told = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let ranges = told.unwrap_or_default().trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u32>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().take(2).map(|processor| processor.to_string()).collect()
}
