//! Two releases that meet agree on the best of both, or say what keeps them apart.

use whimbrel_protocol::{Fault, Feature, Offer, Picked, check_plan, negotiate};

use crate::samples;

fn offer(min: u32, max: u32, features: &[(&str, bool)]) -> Offer {
    let feature =
        |(name, mandatory): &(&str, bool)| Feature { name: (*name).into(), mandatory: *mandatory };
    let features = features.iter().map(feature).collect();
    Offer { version_min: min, version_max: max, features, ..samples::offer() }
}

#[test]
fn the_highest_common_version_is_picked() {
    for low in 1..6 {
        for high in low..6 {
            let picked = negotiate(&offer(low, high, &[]), 2..=4, &[]);
            let common = (2..=4).rev().find(|version| (low..=high).contains(version));
            assert_eq!(picked.ok().map(|picked| picked.version), common, "{low}..={high}");
        }
    }
}

#[test]
fn versions_apart_say_which_side_is_older() {
    let newer = negotiate(&offer(2, 3, &[]), 1..=1, &[]).expect_err("apart");
    assert_eq!(newer.fault, Fault::Incompatible);
    let expected = "the destination speaks the protocol versions 2..=3, this source 1..=1: \
                    upgrade the source";
    assert_eq!(newer.why, expected);
    let older = negotiate(&offer(1, 1, &[]), 2..=3, &[]).expect_err("apart");
    assert!(older.why.ends_with("upgrade the destination"), "{}", older.why);
}

#[test]
fn known_features_are_picked_and_unknown_optional_ones_ignored() {
    let offer = offer(1, 1, &[("a", true), ("b", false), ("c", false)]);
    let picked = negotiate(&offer, 1..=1, &["c", "a", "z"]);
    assert_eq!(picked, Ok(Picked { version: 1, features: vec!["a".into(), "c".into()] }));
    let refused = negotiate(&offer, 1..=1, &["b", "c"]).expect_err("a is mandatory");
    assert_eq!(refused.fault, Fault::Incompatible);
    assert!(refused.why.contains("demands the feature \"a\""), "{}", refused.why);
}

#[test]
fn a_plan_picks_only_what_was_offered() {
    let (plan, offer) = (samples::plan(), samples::offer());
    assert_eq!(check_plan(&plan, &offer), Ok(()));
    let why = |plan| check_plan(&plan, &offer).expect_err("not as offered").why;
    let mut wrong = plan.clone();
    wrong.version = 4;
    assert_eq!(why(wrong), "version 4 was picked, 1..=3 were offered");
    let mut wrong = plan.clone();
    wrong.features.push("wings".into());
    assert_eq!(why(wrong), "the feature \"wings\" was picked and not offered");
    let mut wrong = plan.clone();
    wrong.features.clear();
    assert_eq!(why(wrong), "the mandatory feature \"seal\" was not picked");
    let mut wrong = plan;
    wrong.lanes = 129;
    assert_eq!(why(wrong), "129 lanes were asked for, 128 were offered");
}
