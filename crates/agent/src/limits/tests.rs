use super::*;

#[test]
fn a_migration_exceeds_the_higher_of_its_own_limits_in_no_phase() {
    let most = |rate: Option<u64>, switchover: Option<u64>| {
        let (rate, switchover) = (rate.map(ByteRate), switchover.map(ByteRate));
        Asked { rate, switchover, ..Asked::default() }.most().map(|most| most.0)
    };
    assert_eq!(most(Some(5), None), Some(5));
    assert_eq!(most(Some(5), Some(9)), Some(9));
    assert_eq!(most(Some(5), Some(2)), Some(5));
    // Rounds without a limit may take all there is.
    assert_eq!([most(None, None), most(None, Some(9))], [None, None]);
}

#[test]
fn small_changes_are_not_told() {
    let limits = |share| process::Limits { share_bytes_per_s: share, ..Default::default() };
    assert!(!differ(&limits(Some(1000)), &limits(Some(1005))));
    assert!(differ(&limits(Some(1000)), &limits(Some(1100))));
    assert!(differ(&limits(None), &limits(Some(1))));
    let path = |local: &str| {
        let path = process::PathLimit { local: local.to_owned(), bytes_per_s: 5 };
        process::Limits { paths: vec![path], ..limits(None) }
    };
    assert!(differ(&limits(None), &path("10.0.0.1")));
    assert!(!differ(&path("10.0.0.1"), &path("10.0.0.1")));
    // One address has taken the place of another one.
    assert!(differ(&path("10.0.0.1"), &path("10.0.0.2")));
}

#[test]
fn what_is_asked_must_make_sense() {
    let options = |weight| api::MigrationOptions { weight, ..Default::default() };
    assert_eq!(asked(&options(None)).unwrap(), Asked::default());
    for wrong in [0, WEIGHT_MAX + 1] {
        let status = asked(&options(Some(wrong))).unwrap_err();
        assert!(status.message().contains("1 to 1000"), "{status}");
    }
    let none = api::MigrationOptions { rate_limit_bytes_per_s: Some(0), ..Default::default() };
    assert_eq!(asked(&none).unwrap().rate, None);
}

fn status(seconds: u64, paths: &[(&str, u64)]) -> MigrationStatus {
    let path = |(local, bytes): &(&str, u64)| api::Path {
        local: (*local).to_owned(),
        bytes: *bytes,
        ..Default::default()
    };
    MigrationStatus {
        elapsed_us: seconds * 1_000_000,
        bytes_on_wire: paths.iter().map(|(_, bytes)| bytes).sum(),
        paths: paths.iter().map(path).collect(),
        ..Default::default()
    }
}

#[test]
fn paths_from_one_address_are_one_use_of_it() {
    let mut state = State { told: Some(process::Limits::default()), ..State::default() };
    state.look(&status(1, &[("10.0.0.1", 100), ("10.0.0.1", 900)]));
    state.look(&status(2, &[("10.0.0.1", 300), ("10.0.0.1", 1000)]));
    assert_eq!(state.paths[&"10.0.0.1".parse().unwrap()].wants(Some(1e9)), Some(375.0));
    assert_eq!(state.host.wants(Some(1e9)), Some(375.0));
}

#[test]
fn nobody_claims_what_it_does_not_use_nor_before_it_is_under_way() {
    let from = |at: &str| What::Path(at.parse().unwrap());
    let mut state = State::default();
    assert!(state.claim(What::Host).is_none());
    state.told = Some(process::Limits::default());
    assert!(state.claim(What::Host).is_some());
    // It may use any of them.
    assert!(state.claim(from("10.0.0.1")).is_some() && state.claim(from("10.0.0.2")).is_some());
    state.look(&status(1, &[("10.0.0.1", 100)]));
    assert!(state.claim(from("10.0.0.1")).is_some() && state.claim(from("10.0.0.2")).is_none());
}
