//! What must be true of every run, whatever went wrong in it.

use whimbrel_control::api::{self, GuestState, Outcome};

use std::time::Duration;

use super::host::{DEADLINES, Ending, Sample, owns};
use super::run::Account;
use super::{Fault, SLACK, Side};

/// Everything that is wrong with a run.
#[must_use]
pub fn judge(account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    match account.settled_in {
        None => wrong.push("the sides never settled".to_owned()),
        Some(took) if took > deadlines() + SLACK => {
            wrong.push(format!("the sides settled after {took:?}, later than all deadlines"));
        }
        Some(_) => {}
    }
    wrong.extend(account.hung.iter().cloned());
    wrong.extend(stood_still(account));
    wrong.extend(one_outcome(account));
    wrong.extend(one_owner(account));
    wrong.extend(records_agree(account));
    wrong.extend(counters_agree(&account.at_source, &account.at_destination));
    wrong.extend(journals_agree(&account.at_source, &account.at_destination));
    wrong.extend(journals_agree(&account.at_destination, &account.at_source));
    wrong.extend(whole(account));
    wrong.extend(account.left.iter().map(|what| format!("left behind: {what}")));
    wrong
}

/// All that a side may wait for, one thing after the other.
fn deadlines() -> Duration {
    let one = |entry: &str| {
        let (_, text) = entry.trim().split_once('=')?;
        let millis = text.strip_suffix("ms").map(|it| it.parse().map(Duration::from_millis));
        millis.or(text.strip_suffix('s').map(|it| it.parse().map(Duration::from_secs)))?.ok()
    };
    DEADLINES.split(',').map(|entry| one(entry).expect("a name and a time")).sum()
}

/// Pause and silence: so long a guest that was not granted stands still at the source at most.
const STANDS_STILL: Duration = Duration::from_secs(2);

/// Before the grant the source runs its guest on, whatever becomes of the other side. That its
/// heart has not beaten between two looks is seen also where nobody could look in between.
fn stood_still(account: &Account) -> Option<String> {
    let silent = account.reached && account.scenario.fault.silences_guest(Side::Source);
    let mut since: Option<(&Sample, u64)> = None;
    for sample in account.at_source.iter().filter(|_| !silent) {
        let Some(beats) = pulse(sample).map(|pulse| pulse.heartbeats) else { continue };
        let owns = matches!(sample.guest.standing.as_str(), "owner" | "switching");
        match since.filter(|(_, before)| owns && *before == beats) {
            Some((first, _)) => {
                let still = sample.asked.saturating_duration_since(first.answered);
                if still > STANDS_STILL + SLACK {
                    return Some(format!("not granted, the guest stood still for {still:?}"));
                }
            }
            None => since = owns.then_some((sample, beats)),
        }
    }
    None
}

/// Both sides say the same (museum M20). A destination may have forgotten an attempt of which
/// nothing stayed there.
fn one_outcome(account: &Account) -> Option<String> {
    let outcomes = (account.source.outcome(), account.destination.outcome());
    let told = match outcomes {
        (Some(source), Some(destination)) => source == destination,
        (Some(source), None) => source == Outcome::Aborted,
        (None, _) => false,
    };
    (!told).then(|| format!("the sides tell two outcomes: {outcomes:?}"))
}

/// The guest is where the outcome says, and only a killed process may have taken it along.
fn one_owner(account: &Account) -> Option<String> {
    let (source, destination) = (account.source.state(), account.destination.state());
    let (owner, other, side) = match account.source.outcome() {
        Some(Outcome::Completed) => (destination, source, Side::Destination),
        _ => (source, destination, Side::Source),
    };
    let killed = account.reached && account.scenario.fault == Fault::KillGuest(side);
    let there = owner == GuestState::Running || (killed && owner == GuestState::Failed);
    let gone = other == GuestState::Gone;
    let states = format!("source {source:?}, destination {destination:?}");
    (!there || !gone).then(|| format!("the guest is not at the {side:?} alone: {states}"))
}

/// The two journals cannot both be read as an owner's, nor both as somebody else's.
fn records_agree(account: &Account) -> Option<String> {
    let standing = |ending: &Ending| match &ending.guest {
        Some(guest) => guest.standing.clone(),
        None => String::new(),
    };
    let pair = (standing(&account.source), standing(&account.destination));
    let good = match account.source.outcome() {
        Some(Outcome::Completed) => pair.0 == "ceded" && owns(&pair.1),
        _ => keeps(account, &pair.0) && matches!(pair.1.as_str(), "" | "refused"),
    };
    (!good).then(|| format!("the records do not agree: {pair:?}"))
}

/// A living source that found no room for its record says it again when it is asked.
fn keeps(account: &Account, standing: &str) -> bool {
    let no_room = account.scenario.fault == Fault::FillDisk(Side::Source);
    standing == "owner" || (no_room && standing == "switching")
}

/// The guest's heart beats on from where it stopped: what has beaten at the source after that
/// would be a second life.
fn counters_agree(at_source: &[Sample], at_destination: &[Sample]) -> Option<String> {
    let lived = at_destination.iter().filter_map(pulse).find(|pulse| pulse.heartbeats_here > 0)?;
    let handed_over = lived.heartbeats - lived.heartbeats_here;
    let most = at_source.iter().filter_map(pulse).map(|pulse| pulse.heartbeats).max()?;
    (most > handed_over).then(|| {
        format!("the guest ran twice: {handed_over} beats were handed over, and {most} were beaten")
    })
}

fn pulse(sample: &Sample) -> Option<&api::StressReport> {
    sample.guest.stress.as_ref()
}

/// Whoever was seen to own the guest before and after the other was seen to own it has owned it
/// all the time between, or the records mean nothing.
fn journals_agree(one: &[Sample], other: &[Sample]) -> Option<String> {
    let spans = one.windows(2).filter(|pair| pair.iter().all(|it| owns(&it.guest.standing)));
    for pair in spans {
        let between = |it: &&Sample| it.asked >= pair[0].answered && it.answered <= pair[1].asked;
        if let Some(twice) = other.iter().filter(between).find(|it| owns(&it.guest.standing)) {
            let (one, other) = (&pair[0].guest, &twice.guest);
            return Some(format!(
                "two records own the guest at once: {} under {}, {} under {}",
                one.standing, one.term_generation, other.standing, other.term_generation
            ));
        }
    }
    None
}

/// Every page of a guest that runs is right.
fn whole(account: &Account) -> Option<String> {
    match account.check.as_ref()? {
        Ok(check) if check.sound => None,
        Ok(check) => Some(format!("wrong pages: {}; {:?}", check.sentence, check.findings)),
        Err(why) => Some(format!("the guest does not check itself: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::faults::{Scenario, Step};

    fn ending(state: GuestState, standing: &str, outcome: Outcome) -> Ending {
        let guest =
            api::Guest { state: state.into(), standing: standing.into(), ..Default::default() };
        let migration = api::MigrationStatus { outcome: outcome.into(), ..Default::default() };
        Ending { guest: Some(guest), migration: Some(migration) }
    }

    /// What was seen at these milliseconds: the standing, all beats and those on this host.
    fn seen(looks: &[(u64, &str, u64, u64)]) -> Vec<Sample> {
        let began = Instant::now();
        let look = |(at, standing, heartbeats, heartbeats_here): &(u64, &str, u64, u64)| {
            let stress = api::StressReport {
                heartbeats: *heartbeats,
                heartbeats_here: *heartbeats_here,
                ..Default::default()
            };
            let standing = (*standing).to_owned();
            let at = began + Duration::from_millis(*at);
            let guest = api::Guest { standing, stress: Some(stress), ..Default::default() };
            Sample { asked: at, answered: at, guest }
        };
        looks.iter().map(look).collect()
    }

    fn completed() -> Account {
        let fault = Fault::KillGuest(Side::Destination);
        Account {
            scenario: Scenario::plain(Step::Done, fault),
            reached: true,
            hung: Vec::new(),
            source: ending(GuestState::Gone, "ceded", Outcome::Completed),
            destination: ending(GuestState::Running, "owner", Outcome::Completed),
            at_source: seen(&[(0, "owner", 10, 10), (20, "granted", 12, 12)]),
            at_destination: seen(&[(10, "may own", 0, 0), (30, "running", 15, 3)]),
            settled_in: Some(Duration::ZERO),
            check: Some(Ok(api::CheckReport { sound: true, ..Default::default() })),
            left: Vec::new(),
            logs: String::new(),
        }
    }

    fn complains(account: &Account, why: &str) {
        let wrong = judge(account);
        assert!(wrong.iter().any(|wrong| wrong.contains(why)), "{why}: {wrong:?}");
    }

    #[test]
    fn a_good_run_is_good() {
        assert_eq!(judge(&completed()), Vec::<String>::new());
        let aborted = Account {
            source: ending(GuestState::Running, "owner", Outcome::Aborted),
            destination: Ending::default(),
            at_destination: seen(&[(10, "may own", 0, 0)]),
            ..completed()
        };
        assert_eq!(judge(&aborted), Vec::<String>::new());
        let killed = Account {
            destination: ending(GuestState::Failed, "owner", Outcome::Completed),
            check: None,
            ..completed()
        };
        assert_eq!(judge(&killed), Vec::<String>::new());
    }

    #[test]
    fn a_guest_that_lives_twice_is_seen() {
        let at_source = seen(&[(0, "owner", 10, 10), (20, "granted", 13, 13)]);
        complains(&Account { at_source, ..completed() }, "ran twice");
        let at_source = seen(&[(0, "owner", 10, 10), (40, "owner", 12, 12)]);
        complains(&Account { at_source, ..completed() }, "two records");
        let source = ending(GuestState::Running, "owner", Outcome::Completed);
        complains(&Account { source, ..completed() }, "alone");
    }

    #[test]
    fn whatever_else_is_wrong_is_seen() {
        complains(&Account { settled_in: None, ..completed() }, "never settled");
        let settled_in = Some(Duration::from_secs(60));
        complains(&Account { settled_in, ..completed() }, "later than all deadlines");
        complains(&Account { hung: vec!["y".into()], ..completed() }, "y");
        let at_source = seen(&[(0, "owner", 9, 9), (10, "switching", 10, 10)]);
        let later = seen(&[(11_000, "switching", 10, 10), (11_010, "granted", 10, 10)]);
        let at_source = at_source.into_iter().chain(later).collect();
        complains(&Account { at_source, ..completed() }, "stood still");
        let source = ending(GuestState::Gone, "ceded", Outcome::Aborted);
        complains(&Account { source, ..completed() }, "two outcomes");
        let source = Ending::default();
        complains(&Account { source, ..completed() }, "two outcomes");
        let destination = ending(GuestState::Running, "may own", Outcome::Completed);
        complains(&Account { destination, ..completed() }, "records do not agree");
        let destination = ending(GuestState::Failed, "owner", Outcome::Completed);
        let lost = Account { destination, reached: false, ..completed() };
        complains(&lost, "alone");
        let check = Some(Ok(api::CheckReport::default()));
        complains(&Account { check, ..completed() }, "wrong pages");
        complains(&Account { left: vec!["x".into()], ..completed() }, "left behind: x");
    }
}
