use std::net::{IpAddr, Ipv4Addr};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn path(number: u8, preference: u16) -> Path {
    let ip = |host| IpAddr::from(Ipv4Addr::new(10, number, 0, host));
    let remote = SocketAddr::new(ip(2), 7);
    Path { local: Some(ip(1)), preference, ..Path::to(remote) }
}

fn paths(preferences: &[u16]) -> Paths {
    let mut paths = Paths::default();
    let each = (0..).zip(preferences).map(|(number, preference)| path(number, *preference));
    paths.replace(each.collect());
    paths
}

/// Has a path deliver so many mebibytes in a second.
fn deliver(paths: &mut Paths, id: usize, mib: u64, now: Instant) {
    paths.sent(PathId(id), ByteCount::mib(mib), now);
    paths.landed(PathId(id), ByteCount::mib(mib), now + SECOND);
}

#[test]
fn lanes_are_spread_evenly_at_first_and_by_what_each_path_delivers_then() {
    let mut paths = paths(&[0, 0]);
    let mut lanes = [0, 0];
    for expected in [0, 1, 0, 1] {
        let chosen = paths.choose(&lanes, &[]).expect("one");
        assert_eq!(chosen, PathId(expected));
        lanes[chosen.0] += 1;
    }
    let now = Instant::now();
    deliver(&mut paths, 0, 500, now);
    deliver(&mut paths, 1, 100, now);
    let now = now + SECOND;
    assert_eq!(paths.surplus(&[2, 2], now), Some(PathId(1)));
    assert_eq!(paths.surplus(&[3, 1], now + MOVE_EVERY), None, "each path keeps a lane");
    assert_eq!(paths.surplus(&[2, 2], now + SECOND), None, "not so soon again");
    assert_eq!(paths.surplus(&[2, 2], now + MOVE_EVERY), Some(PathId(1)));
}

#[test]
fn a_speed_that_was_said_counts_until_it_is_measured() {
    let mut paths = Paths::default();
    let said = |number, mib: u64| Path { speed: Some(ByteRate(mib << 20)), ..path(number, 0) };
    paths.replace(vec![said(0, 1000), said(1, 200)]);
    let mut lanes = [0, 0];
    for _ in 0..6 {
        lanes[paths.choose(&lanes, &[]).expect("one").0] += 1;
    }
    assert_eq!(lanes, [5, 1]);
    deliver(&mut paths, 1, 500, Instant::now());
    assert_eq!(paths.choose(&lanes, &[]), Some(PathId(1)), "it was more than was said");
}

/// A limit of a path that lanes are not on is no help to those that carry, and two paths from one
/// address share its limit.
#[test]
fn a_forecast_counts_on_the_addresses_that_lanes_go_out_from() {
    let mut paths = Paths::default();
    let beside = Path { remote: SocketAddr::new(IpAddr::from([10, 0, 0, 3]), 7), ..path(0, 0) };
    paths.replace(vec![path(0, 0), beside, path(1, 0), path(2, 1)]);
    let source = |number| path(number, 0).local;
    assert_eq!(paths.sources(), [source(0), source(1)]);
    let now = Instant::now();
    assert!(paths.failed(PathId(2), now));
    assert_eq!(paths.sources(), [source(0)]);
    assert!(paths.failed(PathId(0), now) && paths.failed(PathId(1), now));
    assert_eq!(paths.sources(), [source(2)], "the one that was left for this");
    assert!(paths.works(PathId(2), now));
    assert_eq!(paths.sources(), [source(1)]);
}

#[test]
fn equal_paths_keep_their_lanes() {
    let mut paths = paths(&[0, 0]);
    let now = Instant::now();
    deliver(&mut paths, 0, 110, now);
    deliver(&mut paths, 1, 100, now);
    assert_eq!(paths.surplus(&[2, 2], now + SECOND), None);
    assert_eq!(paths.surplus(&[3, 2], now + SECOND), None);
}

#[test]
fn what_failed_is_left_alone_longer_each_time_and_used_again_when_it_works() {
    let mut paths = paths(&[0, 0]);
    let (first, now) = (PathId(0), Instant::now());
    assert!(paths.failed(first, now));
    assert!(!paths.failed(first, now), "it is known");
    assert_eq!(paths.choose(&[0, 5], &[]), Some(PathId(1)));
    assert_eq!(paths.due_for_a_look(now), []);
    let now = now + OUT_FIRST;
    assert_eq!(paths.due_for_a_look(now).len(), 1);
    assert_eq!(paths.due_for_a_look(now), [], "somebody looks already");
    assert!(!paths.failed(first, now));
    assert_eq!(paths.due_for_a_look(now + OUT_FIRST), []);
    let now = now + OUT_FIRST * 2;
    assert_eq!(paths.due_for_a_look(now).len(), 1);
    assert!(paths.works(first, now));
    assert!(!paths.works(first, now));
    assert_eq!(paths.surplus(&[0, 4], now), Some(PathId(1)), "it gets a lane back");
    // What fails again soon has not recovered.
    assert!(paths.failed(first, now + SECOND));
    assert_eq!(paths.due_for_a_look(now + SECOND + OUT_FIRST * 2), []);
}

#[test]
fn less_preferred_paths_are_used_only_when_no_other_is_left() {
    let mut paths = paths(&[1, 0, 0]);
    let now = Instant::now();
    assert_eq!(paths.choose(&[0, 3, 3], &[]), Some(PathId(1)));
    paths.failed(PathId(1), now);
    assert_eq!(paths.choose(&[0, 0, 9], &[]), Some(PathId(2)));
    paths.failed(PathId(2), now);
    assert_eq!(paths.choose(&[9, 0, 0], &[]), Some(PathId(0)));
    assert_eq!(paths.choose(&[0, 0, 0], &[PathId(0)]), Some(PathId(1)), "out, but not forbidden");
    paths.works(PathId(2), now);
    assert_eq!(paths.surplus(&[2, 0, 0], now), Some(PathId(0)), "and they are left again");
}

#[test]
fn the_control_connection_moves_when_it_was_lost() {
    let mut paths = paths(&[0, 0]);
    let now = Instant::now();
    assert_eq!(paths.lost_control(), None);
    assert_eq!(paths.choose_control(), PathId(0));
    let lost = paths.lost_control().expect("it was there");
    paths.failed(lost, now);
    assert_eq!(paths.choose_control(), PathId(1));
    let mut single = Paths::default();
    single.or_to(path(0, 0).remote);
    assert_eq!(single.choose_control(), PathId(0));
    single.failed(PathId(0), now);
    assert_eq!(single.choose_control(), PathId(0));
}

#[test]
fn a_path_that_is_taken_away_is_left_and_one_that_appears_is_used() {
    let mut paths = paths(&[0, 0]);
    paths.replace(vec![path(1, 0), path(2, 0)]);
    assert_eq!(paths.count(), 3);
    let now = Instant::now();
    assert_eq!(paths.choose(&[0, 4, 0], &[]), Some(PathId(2)));
    assert_eq!(paths.surplus(&[2, 2, 0], now), Some(PathId(0)));
    paths.failed(PathId(0), now);
    assert_eq!(paths.due_for_a_look(now + SECOND), [], "nobody asks for it");
    assert!(!paths.reports(&[0, 2, 2])[0].up);
}

#[test]
fn at_the_end_a_slow_path_takes_what_lands_in_time() {
    let mut paths = paths(&[0, 0]);
    let batch = PageCount(64);
    let much = ByteCount::mib(100);
    assert_eq!(paths.share(PathId(1), ByteCount::ZERO, batch, &[1, 1]), batch, "nothing is known");
    let now = Instant::now();
    deliver(&mut paths, 0, 400, now);
    deliver(&mut paths, 1, 100, now);
    assert_eq!(
        paths.share(PathId(0), ByteCount::ZERO, batch, &[1, 1]),
        batch,
        "the fastest takes all"
    );
    assert_eq!(paths.share(PathId(1), much, batch, &[1, 1]), batch);
    // A fifth of what is left is its share.
    assert_eq!(paths.share(PathId(1), PageCount(50).bytes(), batch, &[1, 1]), PageCount(10));
    paths.sent(PathId(1), PageCount(10).bytes(), now + SECOND);
    assert_eq!(paths.share(PathId(1), PageCount(40).bytes(), batch, &[1, 1]), PageCount(0));
    assert_eq!(paths.share(PathId(1), PageCount(40).bytes(), batch, &[0, 1]), batch, "alone");
    // When the others have failed it is the fastest.
    paths.failed(PathId(0), now);
    assert_eq!(paths.share(PathId(1), PageCount(50).bytes(), batch, &[1, 1]), batch);
}

#[test]
fn a_rate_counts_busy_time_only() {
    let mut paths = paths(&[0, 0]);
    let now = Instant::now();
    deliver(&mut paths, 0, 8, now);
    deliver(&mut paths, 0, 8, now + SECOND * 100);
    let report = paths.reports(&[1, 0]).swap_remove(0);
    assert_eq!((report.bytes, report.rate), (ByteCount::mib(16), ByteRate(8 << 20)));
}

#[test]
fn a_path_is_alive_while_something_lands_on_it() {
    let mut paths = paths(&[0, 0]);
    let now = Instant::now();
    assert!(!paths.landed_within(PathId(0), SECOND, now), "nothing ever did");
    deliver(&mut paths, 0, 1, now);
    assert!(paths.landed_within(PathId(0), SECOND, now + SECOND * 3 / 2));
    assert!(!paths.landed_within(PathId(0), SECOND, now + SECOND * 2));
    assert!(
        !paths.landed_within(PathId(1), SECOND, now + SECOND),
        "of the other one it says nothing"
    );
}
