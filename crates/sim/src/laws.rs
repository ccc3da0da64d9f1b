//! The laws, looked at after every step.

use std::collections::BTreeMap;

use whimbrel_page::Leaf;
use whimbrel_protocol::{Standing, Violation};

use crate::lander::Stage;
use crate::memory::{Place, leaf_of};
use crate::plan::Side;
use crate::world::World;

impl World {
    pub(crate) fn look_at_laws(&mut self) {
        let found = self.two_guests().or_else(|| self.not_owning());
        let found = found.or_else(|| self.two_copies()).or_else(|| self.untrue_digest());
        if let Some(what) = found {
            self.breach(what);
        }
    }

    fn two_guests(&self) -> Option<String> {
        (self.src.running && self.dst.running).then(|| "the guest runs on both sides".into())
    }

    /// Law 7: the source owns the guest until the grant; nobody runs without owning.
    fn not_owning(&self) -> Option<String> {
        let granted = match self.src.journal.entry() {
            Some((Standing::Granted | Standing::Ceded, term)) => Some(term),
            _ => None,
        };
        if let Some(term) = granted.filter(|_| self.src.running) {
            let refused = |(standing, of)| standing == Standing::Refused && of >= term;
            if !self.dst.journal.durable().is_some_and(refused) {
                return Some(format!("the source runs the guest after it granted term {term}"));
            }
        }
        if !self.dst.running {
            return None;
        }
        match self.dst.journal.entry() {
            Some((Standing::Running | Standing::Owner, term)) => {
                // A note that could not be written, or is lost, leaves the record before it.
                let gives = [Standing::Switching, Standing::Granted, Standing::Ceded];
                let entry = self.src.journal.entry();
                let given =
                    entry.is_some_and(|(standing, of)| gives.contains(&standing) && of == term);
                (!given).then(|| format!("the destination runs under {term}, not granted"))
            }
            entry => Some(format!("the destination runs, and its record is {entry:?}")),
        }
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
            if !matches!(known, Leaf::Unknown) && !known.agrees(held) {
                return Some(format!("the digest of {page} of {region} is not what it holds"));
            }
            let committed = self.src.ledger.committed(region, page);
            let vague = matches!(committed, Leaf::Unknown) || !self.src.alive;
            if vague || self.rotten.contains(region, page) || open.contains(&place) {
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
                self.breach(format!("an honest peer was blamed at the {side:?}: {violation}"));
            }
            Err(violation) => {
                note!(self, "{side:?}: stray: {violation}");
                self.strays += 1;
            }
        }
    }
}
