//! Which version and which features a session uses: the destination offers, the source picks.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use crate::{Failure, Fault, Feature, Offer, Plan};

/// The versions of `proto/wire.md` that this crate speaks.
pub const PROTOCOL_VERSIONS: RangeInclusive<u32> = 1..=1;

/// What a source picks from an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The highest version that both sides speak.
    pub version: u32,
    /// Every offered feature that the source knows, in the order of the offer.
    pub features: Vec<String>,
}

/// Picks from `offer` what a source can do that speaks `versions` and knows the features `known`
/// (wire.md S2, S3).
///
/// # Errors
/// [`Fault::Incompatible`] with a sentence that says what the two sides speak, and what to do.
pub fn negotiate(
    offer: &Offer,
    versions: RangeInclusive<u32>,
    known: &[&str],
) -> Result<Picked, Failure> {
    let (low, high) = (*versions.start(), *versions.end());
    let version = high.min(offer.version_max);
    if version < low.max(offer.version_min) {
        let older = if offer.version_max < low { "destination" } else { "source" };
        return Err(incompatible(format!(
            "the destination speaks the protocol versions {}..={}, this source {low}..={high}: \
             upgrade the {older}",
            offer.version_min, offer.version_max
        )));
    }
    let is_known = |feature: &&Feature| known.contains(&feature.name.as_str());
    if let Some(missing) = offer.features.iter().find(|f| f.mandatory && !is_known(f)) {
        return Err(incompatible(format!(
            "the destination demands the feature {:?}, which this source does not have: upgrade \
             the source, or turn the feature off at the destination",
            missing.name
        )));
    }
    let features = offer.features.iter().filter(is_known).map(|f| f.name.to_string()).collect();
    Ok(Picked { version, features })
}

/// Whether `plan` picks from `offer` what may be picked: a destination's look at what a source
/// made of its offer (wire.md S4).
///
/// # Errors
/// [`Fault::Peer`] with a sentence that names what was picked and not offered.
pub fn check_plan(plan: &Plan, offer: &Offer) -> Result<(), Failure> {
    let (low, high) = (offer.version_min, offer.version_max);
    let wrong = |why| Err(Failure::new(Fault::Peer, why));
    if !(low..=high).contains(&plan.version) {
        let picked = plan.version;
        return wrong(format!("version {picked} was picked, {low}..={high} were offered"));
    }
    let offered = |name: &&String| offer.features.iter().any(|f| f.name == **name);
    if let Some(name) = plan.features.iter().find(|name| !offered(name)) {
        return wrong(format!("the feature {name:?} was picked and not offered"));
    }
    let left_out = |f: &&Feature| f.mandatory && !plan.features.contains(&f.name);
    if let Some(feature) = offer.features.iter().find(left_out) {
        return wrong(format!("the mandatory feature {:?} was not picked", feature.name));
    }
    if plan.lanes > offer.lanes_max {
        let most = offer.lanes_max;
        return wrong(format!("{} lanes were asked for, {most} were offered", plan.lanes));
    }
    Ok(())
}

fn incompatible(why: String) -> Failure {
    Failure::new(Fault::Incompatible, why)
}
