//! Whole migrations in one process, over real sockets on loopback.

mod carriers;
mod flooding;
mod hanging;
mod relay;
mod scribe;
#[cfg(unix)]
mod scrubbing;
mod traffic;
mod trips;
#[cfg(unix)]
mod verifying;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use relay::{Cut, Relay};
use scribe::{Scribe, ScribeFactory, assert_same_memory, catch_up};
use whimbrel_engine::guest::{Guest, GuestFactory};
use whimbrel_engine::memory::TrackerKind;
use whimbrel_engine::page::{ByteCount, Run};
use whimbrel_engine::protocol::{Convergence, Policy, Standing, Token};
use whimbrel_engine::{
    DestinationAddress, Ended, Fault, Incoming, IncomingOptions, Outcome, Outgoing,
    OutgoingOptions, VolatileJournal,
};

const TOKEN: Token = Token(0x5eca7e);
const PAGES: u64 = 4096;

fn incoming(
    factory: impl GuestFactory,
    options: IncomingOptions,
) -> (Incoming, DestinationAddress) {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let journal = Box::<VolatileJournal>::default();
    let incoming = Incoming::bind(anywhere, TOKEN, Box::new(factory), journal, options);
    let incoming = incoming.expect("a free port");
    let address = incoming.address();
    (incoming, DestinationAddress { address, token: TOKEN })
}

fn outgoing(guest: impl Guest, to: DestinationAddress, options: OutgoingOptions) -> Outgoing {
    Outgoing::new(Box::new(guest), Box::<VolatileJournal>::default(), to, options)
}

fn options(downtime: Duration) -> OutgoingOptions {
    let mut options = OutgoingOptions { host: 7, ..OutgoingOptions::default() };
    options.source.convergence =
        Convergence { downtime_max: downtime, policy: Policy::Throttle { most: 99 } };
    options
}

async fn migrate(
    guest: impl Guest,
    factory: impl GuestFactory,
    options: OutgoingOptions,
) -> (Ended, Ended) {
    let (incoming, address) = incoming(factory, IncomingOptions::default());
    let source = outgoing(guest, address, options);
    let (source, destination) = tokio::join!(source.run(), incoming.run());
    (source, destination.expect("a destination"))
}

fn standing(ended: &Ended) -> Option<Standing> {
    ended.journal.read().expect("readable").map(|record| record.standing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_guest_arrives_whole() {
    let guest = Scribe::filled(PAGES, 0);
    let limit = options(Duration::from_millis(300));
    let (source, destination) = migrate(guest, ScribeFactory::default(), limit).await;
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    assert_eq!(source.outcome, destination.outcome);
    assert_eq!(standing(&source), Some(Standing::Ceded));
    assert_eq!(standing(&destination), Some(Standing::Owner));
    assert_eq!(source.report.pages_verified.0, PAGES);
    let raw = PAGES / 8 * 7 * 4096;
    let wire = source.report.progress.bytes_on_wire.0;
    assert!((raw..raw + raw / 50).contains(&wire), "{wire} bytes for {raw} that are not zero");
    let (mut left, mut right) = (source.guest.expect("back"), destination.guest.expect("there"));
    assert_same_memory(&mut *left, &mut *right);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_writes_all_the_time_arrives_whole_with_every_tracker() {
    for tracker in [TrackerKind::Userfaultfd, TrackerKind::Mprotect] {
        let guest = Scribe::filled(PAGES, 512);
        let mut wanted = options(Duration::from_millis(300));
        wanted.tracker = Some(tracker);
        let factory = ScribeFactory { busy_pages: 512, ..ScribeFactory::default() };
        let (source, destination) = migrate(guest, factory, wanted).await;
        assert!(matches!(source.outcome, Outcome::Completed { .. }), "{tracker}: {source:?}");
        let (mut left, mut right) =
            (source.guest.expect("back"), destination.guest.expect("there"));
        right.pause().expect("pause");
        // What the guest wrote after the move, written at the source too, makes both the same.
        catch_up(&mut *left, &mut *right, 512);
        assert_same_memory(&mut *left, &mut *right);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_cannot_load_leaves_the_guest_at_the_source() {
    let guest = Scribe::filled(PAGES, 64);
    let factory = ScribeFactory { fails_to_load: true, ..ScribeFactory::default() };
    let (source, destination) = migrate(guest, factory, options(Duration::from_secs(1))).await;
    let Outcome::Aborted(failure) = &source.outcome else { panic!("{source:?}") };
    assert!(failure.why.contains("it was told not to"), "{failure}");
    assert!(matches!(destination.outcome, Outcome::Aborted(_)), "{destination:?}");
    assert!(destination.guest.is_none());
    assert_eq!(standing(&source), Some(Standing::Owner));
    assert_eq!(standing(&destination), Some(Standing::Refused));
    assert_writes(source.guest.expect("back")).await;
}

/// The guest runs: its counter grows.
async fn assert_writes(mut guest: Box<dyn Guest>) {
    let watch = async {
        let before = guest.save_state().expect("state");
        while guest.save_state().expect("state") == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), watch).await.expect("it writes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_both_sides_and_the_guest_can_be_moved_again() {
    let (incoming, mut address) = incoming(ScribeFactory::default(), IncomingOptions::default());
    let relay = Relay::to(address.address, vec![(4 << 20, Cut::Stall)]).await;
    address.address = relay.address;
    let mut wanted = options(Duration::from_secs(1));
    wanted.source.lanes = 1;
    let guest = Scribe::filled(PAGES, PAGES);
    let throttles = guest.throttles();
    let source = outgoing(guest, address, wanted);
    let cancel = source.cancel();
    let canceller = async {
        while relay.cuts_left() > 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel("not today");
        cancel.cancel("said twice");
    };
    let (source, destination, ()) = tokio::join!(source.run(), incoming.run(), canceller);
    let Outcome::Aborted(failure) = &source.outcome else { panic!("{source:?}") };
    assert_eq!((failure.fault, failure.why.as_str()), (Fault::Cancelled, "not today"));
    assert_eq!(throttles().last(), Some(&0), "museum M27: at full speed, whatever it was before");
    assert!(matches!(destination.expect("ran").outcome, Outcome::Aborted(_)));
    assert_writes(source.guest.expect("back")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_is_told_and_harms_nobody() {
    let (incoming, mut address) = incoming(ScribeFactory::default(), IncomingOptions::default());
    let cancel = incoming.cancel();
    address.token = Token(1);
    let source = outgoing(Scribe::filled(64, 8), address, options(Duration::from_secs(1)));
    let ends = async {
        let ended = source.run().await;
        cancel.cancel("nobody else comes");
        ended
    };
    let (source, destination) = tokio::join!(ends, incoming.run());
    let Outcome::Aborted(failure) = &source.outcome else { panic!("{source:?}") };
    assert!(failure.why.contains("token is wrong"), "{failure}");
    assert!(matches!(destination.expect("ran").outcome, Outcome::Aborted(_)));
    assert_writes(source.guest.expect("back")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_address_is_a_clear_failure() {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let to = DestinationAddress { address: nobody, token: TOKEN };
    let ended = outgoing(Scribe::filled(64, 8), to, options(Duration::from_secs(1))).run().await;
    let Outcome::Aborted(failure) = &ended.outcome else { panic!("{ended:?}") };
    assert_eq!(failure.fault, Fault::Link);
    assert!(failure.why.contains("127.0.0.1:1 cannot be reached"), "{failure}");
    assert_writes(ended.guest.expect("back")).await;
}

/// A migration of an idle guest through a relay that cuts; `lanes` of them, small windows.
async fn migrate_with_cuts(lanes: u16, cuts: Vec<(u64, Cut)>) -> (Ended, Ended) {
    let (incoming, mut address) = incoming(ScribeFactory::default(), IncomingOptions::default());
    let relay = Relay::to(address.address, cuts).await;
    address.address = relay.address;
    let mut wanted = options(Duration::from_secs(1));
    wanted.source.lanes = lanes;
    wanted.lanes.window = ByteCount::kib(512);
    let source = outgoing(Scribe::filled(PAGES, 0), address, wanted);
    let (source, destination) = tokio::join!(source.run(), incoming.run());
    assert_eq!(relay.cuts_left(), 0, "every cut happened: {source:?}");
    (source, destination.expect("a destination"))
}

fn assert_moved_whole(source: Ended, destination: Ended) {
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    assert_eq!(source.outcome, destination.outcome);
    let (mut left, mut right) = (source.guest.expect("back"), destination.guest.expect("there"));
    assert_same_memory(&mut *left, &mut *right);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_that_die_are_survived_while_one_is_left() {
    let cuts = vec![(2 << 20, Cut::Lane), (5 << 20, Cut::Lane), (9 << 20, Cut::Lane)];
    let (source, destination) = migrate_with_cuts(4, cuts).await;
    let closed = source.report.progress.lanes.iter().filter(|lane| !lane.open).count();
    assert!(closed >= 3, "{:?}", source.report.progress.lanes);
    assert_moved_whole(source, destination);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_lost_comes_back_and_what_landed_is_not_sent_again() {
    let cuts = vec![(4 << 20, Cut::Everything), (10 << 20, Cut::Everything)];
    let (source, destination) = migrate_with_cuts(2, cuts).await;
    let said = |what: &str| source.report.progress.events.iter().any(|(_, e)| e.contains(what));
    assert!(said("the link is back"), "{:?}", source.report.progress.events);
    // Twice, at most both windows were under way.
    let raw = PAGES / 8 * 7 * 4096;
    let most = raw + raw / 50 + 2 * 2 * (512 << 10);
    let wire = source.report.progress.bytes_on_wire.0;
    assert!(wire <= most, "{wire} bytes on the wire, {most} are the most");
    assert_moved_whole(source, destination);
}

/// Kibibytes of page tables of this process.
fn page_tables_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux host");
    let line = status.lines().find_map(|line| line.strip_prefix("VmPTE:")).expect("VmPTE");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_guest_costs_what_it_has_touched() {
    const GIB: u64 = 1 << 30;
    // 64 MiB in 256 pieces, all over a tebibyte.
    let pieces = (0..256).map(|piece| piece * (4 * GIB / 4096));
    let pages: Vec<u64> = pieces.flat_map(|first| first..first + 64).collect();
    let before = page_tables_kib();
    let guest = Scribe::running(ByteCount(1024 * GIB), pages.iter().copied(), 0);
    let limit = options(Duration::from_secs(1));
    let (source, destination) = migrate(guest, ScribeFactory::default(), limit).await;
    assert!(matches!(source.outcome, Outcome::Completed { .. }), "{source:?}");
    assert_eq!(source.report.pages_verified.0, 1024 * GIB / 4096);
    let content = pages.len() as u64 * 4096;
    let wire = source.report.progress.bytes_on_wire.0;
    assert!(wire < content + content / 20, "{wire} bytes for {content}");
    let mut right = destination.guest.expect("there");
    right.pause().expect("pause");
    let resident = right.memory().resident().expect("known").0;
    assert!(resident <= content + content / 20, "{resident} bytes for {content}");
    // Both guests are in this process; a full one would have 512 MiB of page tables each.
    let tables = page_tables_kib() - before;
    assert!(tables < 32 << 10, "{tables} KiB of page tables");
    let left = source.guest.expect("back").memory();
    let (mut ours, mut theirs) = (vec![0; 64 * 4096], vec![0; 64 * 4096]);
    for first in pages.iter().step_by(64) {
        let run = Run::new(scribe::R, *first, 64);
        left.copy_run(run, &mut ours).expect("inside");
        right.memory().copy_run(run, &mut theirs).expect("inside");
        assert!(ours == theirs, "{run}");
    }
}
