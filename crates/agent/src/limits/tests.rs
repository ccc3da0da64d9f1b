use super::*;

fn claim(weight: f64, wants: Option<f64>) -> Claim {
    Claim { weight, wants }
}

fn shares(all: f64, claims: &[Claim]) -> Vec<u64> {
    divide(all, claims).into_iter().map(|share| share.round() as u64).collect()
}

#[test]
fn under_contention_weights_count() {
    let claims = [claim(100.0, None), claim(300.0, None)];
    assert_eq!(shares(1000.0, &claims), [250, 750]);
    assert_eq!(shares(1000.0, &claims[..1]), [1000]);
}

#[test]
fn what_one_does_not_use_is_lent_to_the_others() {
    let claims = [claim(100.0, Some(100.0)), claim(100.0, None), claim(200.0, None)];
    assert_eq!(shares(1000.0, &claims), [100, 300, 600]);
    // Two that want less than their shares, one after the other.
    let claims = [claim(100.0, Some(200.0)), claim(100.0, Some(380.0)), claim(100.0, None)];
    assert_eq!(shares(1000.0, &claims), [200, 380, 420]);
    // Who wants more than its share gets it where there is no contention.
    let claims = [claim(100.0, Some(900.0)), claim(100.0, Some(50.0))];
    assert_eq!(shares(1000.0, &claims), [925, 75]);
}

#[test]
fn who_uses_nothing_keeps_enough_to_begin() {
    let claims = [claim(100.0, Some(0.0)), claim(100.0, None)];
    assert_eq!(shares(1000.0, &claims), [50, 950]);
}

#[test]
fn who_is_held_back_wants_more_and_who_is_not_wants_a_little_more_than_it_uses() {
    let part = |used, share| Part { bytes: 0, used, share };
    assert_eq!(part(100.0, None).wants(), None);
    assert_eq!(part(95.0, Some(100.0)).wants(), None);
    assert_eq!(part(40.0, Some(100.0)).wants(), Some(50.0));
}

#[test]
fn small_changes_are_not_told() {
    let limits = |share| process::Limits { share_bytes_per_s: share, ..Default::default() };
    assert!(!differ(&limits(Some(1000)), &limits(Some(1005))));
    assert!(differ(&limits(Some(1000)), &limits(Some(1100))));
    assert!(differ(&limits(None), &limits(Some(1))));
    let path = process::PathLimit { local: "10.0.0.1".to_owned(), bytes_per_s: 5 };
    assert!(differ(&limits(None), &process::Limits { paths: vec![path], ..limits(None) }));
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
