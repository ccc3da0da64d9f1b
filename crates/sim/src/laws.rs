//! The laws, looked at after every step.

use std::collections::BTreeMap;
use std::time::Duration;

use whimbrel_page::Leaf;
use whimbrel_protocol::{Now, Process, Standing, Violation};

use crate::breach::Law;
use crate::lander::Stage;
use crate::memory::{Place, TURNED, leaf_of};
use crate::plan::{PAUSES_MAX, Side};
use crate::rates::Excess;
use crate::world::World;

/// The longest deadline that any setting of a world allows for.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(3);

impl World {
    pub(crate) fn look_at_laws(&mut self) {
        let found = [
            (Law::OneRunner, self.two_guests()),
            (Law::Owning, self.not_owning()),
            (Law::Locks, self.without_locks()),
            (Law::OneCopy, self.two_copies()),
            (Law::TrueDigests, self.untrue_digest()),
            (Law::Limits, self.beyond_limits()),
            (Law::Deadlines, self.without_deadline()),
        ];
        for (law, what) in found {
            if let Some(what) = what {
                self.breach(law, what);
            }
        }
        self.look_at_pause();
        self.look_at_stand_still();
    }

    fn two_guests(&self) -> Option<String> {
        if self.former.iter().any(|former| former.dst.running) {
            return Some("the guest runs where an attempt failed".into());
        }
        (self.src.running && self.dst.running).then(|| "the guest runs on both sides".into())
    }

    /// Law 7: the source owns the guest until the grant; nobody runs without owning.
    fn not_owning(&self) -> Option<String> {
        let granted = match self.src.journal.entry() {
            Some((Standing::Granted | Standing::Ceded, term)) => Some(term),
            None if self.src.running => return Some("the source runs without a record".into()),
            _ => self.src.granted,
        };
        if let Some(term) = granted.filter(|_| self.src.running) {
            // Or the host that refused it was asked to take the guest again.
            let refused =
                |(standing, of)| of > term || (standing == Standing::Refused && of == term);
            let hosts = self.former.iter().map(|former| &former.dst).chain([&self.dst]);
            if !hosts.filter_map(|dst| dst.journal.durable()).any(refused) {
                return Some(format!("the source runs the guest after it granted term {term}"));
            }
        }
        if !self.dst.running {
            return None;
        }
        match self.dst.journal.entry() {
            Some((Standing::Running | Standing::Owner, term)) => {
                // A note that could not be written, or is lost, leaves the record before it, and
                // nobody can read one that was torn when the host died.
                let gives = [Standing::Switching, Standing::Granted, Standing::Ceded];
                let entry = self.src.journal.entry();
                let given =
                    entry.is_some_and(|(standing, of)| gives.contains(&standing) && of == term);
                let lost = self.src.process == Process::HostRestarted;
                (!given && !lost).then(|| format!("the destination runs under {term}, not granted"))
            }
            entry => Some(format!("the destination runs, and its record is {entry:?}")),
        }
    }

    /// Law 5: what is under way is bounded.
    fn beyond_limits(&self) -> Option<String> {
        let up = self.lanes.iter().filter(|(_, lane)| lane.account);
        for (id, lane) in up {
            let batches = self.src.ledger.flight(*id).batches;
            if batches > self.plan.window || lane.wire.len() > self.plan.window {
                return Some(format!("lane {} has {batches} batches under way", id.0));
            }
            if lane.wire.iter().any(|batch| batch.pages.len() as u64 > self.plan.batch.0) {
                return Some(format!("a batch of lane {} is too long", id.0));
            }
        }
        let (lanes, most) = (self.living_lanes().len(), self.plan.destination.lanes_max);
        if lanes > usize::from(most) {
            return Some(format!("{lanes} lanes are open of {most}"));
        }
        if self.src.pauses > PAUSES_MAX {
            let pauses = self.src.pauses;
            return Some(format!("the guest is paused for the {pauses}th time of {PAUSES_MAX}"));
        }
        self.src.excess.iter().find_map(Excess::breaks)
    }

    /// Law 6: whoever waits has a deadline, and not a far one.
    fn without_deadline(&self) -> Option<String> {
        let waits = [
            (self.src.alive, self.src.machine.phase(), self.src.machine.deadline()),
            (self.dst.alive, self.dst.machine.phase(), self.dst.machine.deadline()),
        ];
        let waits = waits.into_iter().filter(|(alive, phase, _)| *alive && *phase != "ended");
        for (_, phase, deadline) in waits {
            match deadline {
                None => return Some(format!("{phase} has no deadline")),
                Some(Now(at)) if at > self.now + WAIT_MAX => {
                    return Some(format!("{phase} waits until {at:?}"));
                }
                _ => {}
            }
        }
        None
    }

    /// Every page that is on a wire or being landed, and how often.
    pub(crate) fn in_flight(&self) -> BTreeMap<Place, u32> {
        let mut copies = BTreeMap::new();
        for lane in self.lanes.values().filter(|lane| lane.lander.lives()) {
            let landing = match &lane.lander.stage {
                Stage::Landing(batch) => Some(batch),
                Stage::None | Stage::Reading => None,
            };
            for (place, _) in lane.wire.iter().chain(landing).flat_map(|batch| &batch.pages) {
                *copies.entry(*place).or_insert(0) += 1;
            }
        }
        copies
    }

    /// Law 2: at most one copy of a page is in flight.
    fn two_copies(&self) -> Option<String> {
        let copies = self.in_flight();
        let (place, count) = copies.into_iter().find(|(_, count)| *count > 1)?;
        Some(format!("{count} copies of {} of {} are in flight", place.1, place.0))
    }

    /// Law 4: digests tell the truth about both memories.
    fn untrue_digest(&self) -> Option<String> {
        if !self.dst.alive || self.dst.running {
            return None;
        }
        let open = self.lanes.values().flat_map(|lane| &lane.flight);
        let open: Vec<Place> = open.flat_map(|(_, places, _)| places.iter().copied()).collect();
        for place in self.truth.memory.places() {
            let (region, page) = place;
            let held = leaf_of(self.dst.landing.memory.get(place));
            let known = self.dst.landing.table.get(region, page);
            let turned = self.dst.landing.memory.get(place) == TURNED;
            if !matches!(known, Leaf::Unknown) && !turned && !known.agrees(held) {
                return Some(format!("the digest of {page} of {region} is not what it holds"));
            }
            let committed = self.src.ledger.committed(region, page);
            let vague = matches!(committed, Leaf::Unknown) || !self.src.alive;
            if vague || self.dst.rotten.contains(region, page) || open.contains(&place) {
                continue;
            }
            if !committed.agrees(held) {
                return Some(format!("{page} of {region} counts as landed and is not there"));
            }
        }
        None
    }

    /// An honest peer never breaks the protocol. A stray event of a hand is the engine's kind of
    /// race: the machine says so, and must not change its mind.
    pub(crate) fn judge(&mut self, side: Side, fed: Result<(), Violation>) {
        match fed {
            Ok(()) => {}
            Err(violation) if violation.by_peer => {
                let what = format!("an honest peer was blamed at the {side:?}: {violation}");
                self.breach(Law::Honesty, what);
            }
            Err(violation) => {
                note!(self, "{side:?}: stray: {violation}");
                self.strays += 1;
            }
        }
    }
}
