//! Where lanes go, how fast, and what is warned of.

use std::net::SocketAddr;
use std::time::Duration;

use whimbrel_engine::page::{ByteRate, PAGE_SIZE};
use whimbrel_engine::transport::Path;
use whimbrel_engine::{
    DestinationAddress, Ended, Incoming, IncomingOptions, Limits, Outcome, OutgoingOptions,
    VolatileJournal,
};

use crate::scribe::{Scribe, ScribeFactory, assert_same_memory};
use crate::{PAGES, TOKEN, migrate, options, outgoing};

/// Two addresses of loopback, as if each were a network.
fn two_addresses() -> Incoming {
    let address = |last| SocketAddr::from(([127, 0, 0, last], 0));
    let factory = Box::new(ScribeFactory::default());
    let journal = Box::<VolatileJournal>::default();
    let options = IncomingOptions::default();
    Incoming::bind_all(&[address(1), address(2)], TOKEN, factory, journal, options)
        .expect("free ports")
}

fn paths(incoming: &Incoming) -> Vec<Path> {
    let path = |remote: &SocketAddr| Path { local: Some(remote.ip()), ..Path::to(*remote) };
    incoming.addresses().iter().map(path).collect()
}

/// Moves an idle guest over `paths` of a destination with two addresses.
async fn over(incoming: Incoming, paths: Vec<Path>, wanted: OutgoingOptions) -> (Ended, Ended) {
    wanted.lanes.traffic.set_paths(paths);
    // The first path is the only address that counts.
    let nowhere = SocketAddr::from(([127, 0, 0, 9], 1));
    let to = DestinationAddress { address: nowhere, token: TOKEN };
    let source = outgoing(Scribe::filled(PAGES, 0), to, wanted);
    let (source, destination) = tokio::join!(source.run(), incoming.run());
    (source, destination.expect("a destination"))
}

fn said(ended: &Ended, what: &str) -> bool {
    ended.report.progress.events.iter().any(|(_, sentence)| sentence.contains(what))
}

fn assert_moved(source: Ended, destination: Ended) {
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    let (mut left, mut right) = (source.guest.expect("back"), destination.guest.expect("there"));
    assert_same_memory(&mut *left, &mut *right);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_path_carries_what_its_lanes_take() {
    let incoming = two_addresses();
    let paths = paths(&incoming);
    let wanted = options(Duration::from_secs(1));
    // Slow enough for both to take part, however late the lanes of one of them open.
    let limits = Limits { rounds: Some(ByteRate(8 << 20)), ..Limits::default() };
    wanted.lanes.traffic.set_limits(limits);
    let (source, destination) = over(incoming, paths, wanted).await;
    let told = &source.report.progress.paths;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|path| path.bytes.0 > 0 && path.connections >= 2), "{told:?}");
    assert_moved(source, destination);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_leads_nowhere_costs_nothing_but_time() {
    let incoming = two_addresses();
    let mut paths = paths(&incoming);
    // Nobody listens there; the control connection tries it first.
    paths[0].remote.set_port(1);
    let (source, destination) = over(incoming, paths, options(Duration::from_secs(1))).await;
    let told = source.report.progress.paths.clone();
    assert_eq!((told[0].bytes.0, told[0].connections), (0, 0), "{told:?}");
    assert!(told[1].connections >= 4 && !told[0].up, "{told:?}");
    assert!(said(&source, "out of use"), "{:?}", source.report.progress.events);
    assert_moved(source, destination);
}

/// The last pages wait for it, however fast the rounds went, and the forecast knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_pages_keep_to_a_limit_of_their_own() {
    let rate = ByteRate(4 << 20);
    let mut wanted = options(Duration::from_secs(12));
    wanted.source.pause_budget = Duration::from_secs(60);
    // Rounds slow enough for the guest to write in.
    let rounds = Some(ByteRate(40 << 20));
    wanted.lanes.traffic.set_limits(Limits { rounds, switchover: Some(rate), ..Limits::default() });
    let factory = ScribeFactory { busy_pages: PAGES, ..ScribeFactory::default() };
    let guest = Scribe::filled(PAGES, PAGES).with_last_words(4 * PAGES);
    let (source, _) = migrate(guest, factory, wanted).await;
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    let report = &source.report;
    let rounds = &report.progress.rounds;
    let [.., before, last] = rounds.as_slice() else { panic!("one round: {rounds:?}") };
    assert!(last.pages.0 > PAGES / 2, "what it wrote before it stood still: {last:?}");
    // What a bucket holds, and a quantum of each lane, may go before it is waited for.
    let at_once = Duration::from_millis(25 + 8 * 4);
    let needed = Duration::from_secs_f64(last.bytes.0 as f64 / rate.0 as f64);
    assert!(last.duration >= needed - at_once, "{last:?} at {rate}");
    // However busy the machine is. For so many pages a tenth of the rate takes longer.
    let at_most = 5 * needed + Duration::from_secs(10);
    assert!(last.duration < at_most, "{last:?} at {rate}");
    // Of what it writes before a pause only what was known before it can be expected.
    let known = before.dirty_after.0 * PAGE_SIZE as u64;
    let expected = Duration::from_secs_f64(known as f64 / rate.0 as f64);
    assert!(report.downtime_estimate > Some(expected / 2), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_the_guests_own_cluster_may_not_survive_is_warned_of() {
    for (own, warned) in [(Duration::from_nanos(1), true), (Duration::from_secs(60), false)] {
        let mut wanted = options(Duration::from_secs(1));
        wanted.guest_heartbeat = Some(own);
        let (source, _) = migrate(Scribe::filled(PAGES, 0), ScribeFactory::default(), wanted).await;
        assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
        assert_eq!(said(&source, "allow less downtime"), warned, "{own:?}");
        assert_eq!(said(&source, "about to stand still"), warned, "{own:?}");
    }
}
