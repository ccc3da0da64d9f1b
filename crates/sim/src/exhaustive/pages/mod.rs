//! Two pages on two lanes, in every order of reading, sending, landing and acknowledging.
//!
//! The shipping ledger, and around it a guest of two pages that writes when it likes, a tracker,
//! lanes that copy page by page and can die, and a destination that lands page by page. A page is
//! a number; one that was copied or landed while it changed is [`TORN`].
//!
//! Not in here: who decides when a round begins (that is [`super::handover`]): rounds follow each
//! other, then lanes drain, the guest stands still, and what is left is sent.

mod lanes;

use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::rc::Rc;

use whimbrel_page::{Layout, Leaf, LeafSum, PageCount, PageIndex, PageSet, RegionId, Root, Run};
use whimbrel_protocol::ledger::{LedgerEvent, Pass};
use whimbrel_protocol::{BatchSeq, LaneId, Ledger, RoundNumber};

use self::lanes::Lane;
use super::digest::Digest;
use super::explore::Model;

/// Pages of the guest.
pub(crate) const PAGES: usize = 2;
const LANES: usize = 2;
/// The rounds before the last one.
const ROUNDS: u32 = 2;
/// What a guest may write into a page; 0 is zeros.
const CONTENTS: u8 = 3;
/// Half of one content and half of another.
pub(crate) const TORN: u8 = 0xee;
/// What a batch holds that was garbled on its way.
pub(crate) const GARBLED: u8 = 0xdd;

pub(crate) const REGION: RegionId = RegionId(0);

/// A hand that breaks one law: each must be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slip {
    /// The dirty log is read and cleared only after what was dirty has been taken (museum M8).
    ClearAfterReading,
    /// The pages of a broken lane go again before its other end is closed (law 3).
    GiveBackEarly,
    /// What a broken lane had under way counts as landed (museum M14).
    LostCountsAsLanded,
    /// A page that was being landed when its lane died counts as what it was before (law 4).
    TornIsKnown,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The guest writes this into a page.
    Write(usize, u8),
    /// A lane takes pages.
    Take(usize),
    /// It begins to copy the next one.
    Copy(usize),
    /// It has copied it.
    Copied(usize),
    /// It sends what it has copied.
    Send(usize),
    /// The next page that arrived is being landed.
    Land(usize),
    /// It is in place.
    Landed(usize),
    /// An acknowledgement arrives.
    Ack(usize),
    /// The dirty log is fetched and cleared while the round goes on: the next one begins with that.
    Ahead,
    /// The dirty log is fetched and cleared.
    Harvest,
    /// The guest is parked and what it wrote last is known.
    Pause,
    /// Everything that was sent has landed: the roots are compared, and the guest runs.
    Run,
    /// A lane breaks.
    Break(usize),
    /// A batch is garbled on its way.
    Garble(usize),
    /// The thread of a broken lane ends, wherever it is.
    End(usize),
    /// The source is told what had landed on a lane; another one is in its place.
    Closed(usize),
    /// Only where that is the slip: the log is cleared of what was read before.
    Clear,
}

/// Where the migration stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Round(u32),
    Harvest(u32),
    Drain,
    Pause,
    Flush,
    /// The destination must come to this root, with the last batches of these lanes.
    Prepare(Root, BTreeMap<LaneId, BatchSeq>),
    Ran,
    /// The roots differ: the source keeps the guest.
    Differs,
}

/// A guest that is being sent.
#[derive(Clone, Debug)]
pub struct Pages {
    stage: Stage,
    ledger: Rc<Ledger>,
    lanes: [Lane; LANES],
    next_lane: u16,
    /// What landed on lanes that are over.
    closed: BTreeMap<LaneId, BatchSeq>,
    guest: [u8; PAGES],
    dirty: [bool; PAGES],
    /// The harvest for the next round was made while this one went on.
    ahead: bool,
    /// Pages that were read from the log and are not cleared yet.
    unclear: Option<[bool; PAGES]>,
    there: [u8; PAGES],
    known: [Leaf; PAGES],
    /// Pages a lane takes at a time.
    batch: PageCount,
    writes: u32,
    faults: u32,
    garbled: bool,
    slip: Option<Slip>,
    breach: Option<&'static str>,
}

pub(crate) fn leaf_of(content: u8) -> Leaf {
    match content {
        0 => Leaf::Zero,
        content => Leaf::Known(0x100 + u128::from(content)),
    }
}

fn set_of(pages: [bool; PAGES]) -> PageSet {
    let mut set = PageSet::new(&layout());
    for page in (0..PAGES).filter(|page| pages[*page]) {
        set.insert(Run::new(REGION, page as u64, 1));
    }
    set
}

fn layout() -> Layout {
    Layout::single(PageCount(PAGES as u64).bytes()).expect("a small layout")
}

impl Pages {
    /// A guest that writes so often, on lanes that take so many pages at a time, in a world where
    /// so much may go wrong.
    #[must_use]
    pub fn new(writes: u32, batch: u64, faults: u32) -> Self {
        let mut ledger = Ledger::new(&layout());
        let lanes = [0, 1].map(|id| Lane::new(LaneId(id)));
        lanes.iter().for_each(|lane| ledger.open_lane(lane.id));
        ledger.merge(&set_of([true; PAGES]));
        ledger.start_round(RoundNumber(0), Pass::Once);
        Self {
            stage: Stage::Round(0),
            ledger: ledger.into(),
            lanes,
            next_lane: LANES as u16,
            closed: BTreeMap::new(),
            guest: [1, 2],
            dirty: [false; PAGES],
            ahead: false,
            unclear: None,
            there: [0; PAGES],
            known: [Leaf::Zero; PAGES],
            batch: PageCount(batch),
            writes,
            faults,
            garbled: false,
            slip: None,
            breach: None,
        }
    }

    /// The same, with a law broken.
    #[must_use]
    pub fn with_slip(self, slip: Slip) -> Self {
        Self { slip: Some(slip), ..self }
    }

    const fn runs(&self) -> bool {
        matches!(self.stage, Stage::Round(_) | Stage::Harvest(_) | Stage::Drain | Stage::Pause)
    }

    // --- rounds -----------------------------------------------------------------------------

    /// What the ledger has to say moves the migration on.
    fn poll(&mut self) {
        while let Some(event) = Rc::make_mut(&mut self.ledger).poll() {
            match (event, &self.stage) {
                (LedgerEvent::RoundTaken(_), Stage::Round(round)) => {
                    self.stage = Stage::Harvest(*round);
                }
                (LedgerEvent::Drained, Stage::Drain) => self.stage = Stage::Pause,
                // The account of a broken lane comes first, and then another flush.
                (LedgerEvent::RoundTaken(_), Stage::Flush)
                    if self.lanes.iter().all(|lane| !lane.broken) =>
                {
                    let sent = self.ledger.lanes().collect();
                    self.stage = Stage::Prepare(self.ledger.root_when_landed(), sent);
                }
                _ => {}
            }
        }
    }

    fn fetch(&mut self) {
        let dirty = match self.slip {
            Some(Slip::ClearAfterReading) => *self.unclear.insert(self.dirty),
            _ => std::mem::take(&mut self.dirty),
        };
        Rc::make_mut(&mut self.ledger).harvested(&set_of(dirty));
    }

    fn harvest(&mut self) {
        if !std::mem::take(&mut self.ahead) {
            self.fetch();
        }
        let Stage::Harvest(round) = self.stage else { return };
        let ledger = Rc::make_mut(&mut self.ledger);
        if round + 1 < ROUNDS {
            self.stage = Stage::Round(round + 1);
            ledger.start_round(RoundNumber(round + 1), Pass::Once);
        } else {
            self.stage = Stage::Drain;
            ledger.end_round();
            ledger.await_drained(PageCount::ZERO);
        }
        self.poll();
    }

    fn pause(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        Rc::make_mut(&mut self.ledger).harvested(&set_of(dirty));
        self.flush();
    }

    fn flush(&mut self) {
        self.stage = Stage::Flush;
        Rc::make_mut(&mut self.ledger).start_round(RoundNumber(ROUNDS), Pass::UntilEmpty);
        self.poll();
    }

    // --- the switchover ---------------------------------------------------------------------

    /// How far a lane has come at the destination, whether it is over or not.
    fn landed_on(&self, id: LaneId) -> BatchSeq {
        let open = self.lanes.iter().find(|lane| lane.id == id).map(|lane| lane.landed);
        open.or_else(|| self.closed.get(&id).copied()).unwrap_or_default()
    }

    fn all_landed(&self) -> bool {
        let Stage::Prepare(_, sent) = &self.stage else { return false };
        sent.iter().all(|(lane, last)| self.landed_on(*lane) >= *last)
    }

    fn run(&mut self) {
        let Stage::Prepare(said, _) = self.stage else { return };
        let mut root = Root::default();
        for (page, leaf) in self.known.iter().enumerate() {
            root.sum = root.sum.plus(leaf.mix(REGION, PageIndex(page as u64)));
            root.unknown += PageCount(u64::from(matches!(leaf, Leaf::Unknown)));
        }
        if !root.agrees(said) {
            self.stage = Stage::Differs;
            if !self.garbled {
                self.breach = Some("the roots differ, and nothing was garbled");
            }
            return;
        }
        self.stage = Stage::Ran;
        if self.there != self.guest {
            self.breach = Some("the guest runs on pages that are not its own");
        }
    }

    // --- laws -------------------------------------------------------------------------------

    /// Copies of a page that are taken, on a wire or being landed.
    fn copies(&self, page: usize) -> usize {
        self.lanes.iter().map(|lane| lane.copies(page)).sum()
    }

    fn broken_law(&self) -> Option<String> {
        if let Some(what) = self.breach {
            return Some(what.into());
        }
        (0..PAGES).find_map(|page| {
            if self.copies(page) > 1 {
                return Some(format!("two copies of page {page} are in flight"));
            }
            let (held, known) = (leaf_of(self.there[page]), self.known[page]);
            if !matches!(known, Leaf::Unknown) && !known.agrees(held) {
                return Some(format!("the digest of page {page} is not what is there"));
            }
            let committed = self.ledger.committed(REGION, PageIndex(page as u64));
            let open = self.lanes.iter().any(|lane| lane.has_under_way(page));
            let sure = !matches!(committed, Leaf::Unknown) && !open;
            (sure && !committed.agrees(held))
                .then(|| format!("page {page} counts as landed and is not there"))
        })
    }

    fn steps_of_guest(&self, steps: &mut Vec<Step>) {
        if !self.runs() || self.writes == 0 {
            return;
        }
        for page in 0..PAGES {
            let others = (0..CONTENTS).filter(|content| *content != self.guest[page]);
            steps.extend(others.map(|content| Step::Write(page, content)));
        }
    }

    fn write(&mut self, page: usize, content: u8) {
        self.writes -= 1;
        self.guest[page] = content;
        self.dirty[page] = true;
        self.lanes.iter_mut().for_each(|lane| lane.is_written(page));
    }
}

impl Model for Pages {
    type Step = Step;

    fn digest(&self) -> u64 {
        let Self { stage, ledger, lanes, next_lane, closed, guest, dirty, unclear, .. } = self;
        let Self { there, known, batch, writes, faults, garbled, slip, breach, ahead, .. } = self;
        let mut digest = Digest::default();
        (stage, ledger, lanes, next_lane, closed, guest, dirty, unclear).hash(&mut digest);
        (there, known, batch, writes, faults, garbled, slip, breach, ahead).hash(&mut digest);
        digest.finish()
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        match self.stage {
            Stage::Ran | Stage::Differs => return steps,
            Stage::Round(_) if self.unclear.is_none() && !self.ahead => steps.push(Step::Ahead),
            Stage::Harvest(_) if self.unclear.is_none() => steps.push(Step::Harvest),
            Stage::Pause if self.unclear.is_none() => steps.push(Step::Pause),
            _ => {}
        }
        (0..LANES).for_each(|lane| self.steps_of_lane(lane, &mut steps));
        if self.all_landed() {
            steps.push(Step::Run);
        }
        steps.extend(self.unclear.map(|_| Step::Clear));
        self.steps_of_guest(&mut steps);
        steps
    }

    fn faults(&self) -> Vec<Step> {
        if self.faults == 0 || matches!(self.stage, Stage::Ran | Stage::Differs) {
            return Vec::new();
        }
        let whole = (0..LANES).filter(|lane| !self.lanes[*lane].broken);
        let carrying = (0..LANES).filter(|lane| !self.lanes[*lane].wire.is_empty());
        whole.map(Step::Break).chain(carrying.map(Step::Garble)).collect()
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(page, content) => self.write(page, content),
            Step::Ahead => {
                self.ahead = true;
                self.fetch();
                self.poll();
            }
            Step::Harvest => self.harvest(),
            Step::Pause => self.pause(),
            Step::Run => self.run(),
            Step::Clear => {
                if let Some(read) = self.unclear.take() {
                    (0..PAGES).for_each(|page| self.dirty[page] &= !read[page]);
                }
            }
            Step::Break(lane) => {
                self.faults -= 1;
                self.break_lane(lane);
            }
            Step::Garble(lane) => {
                (self.faults, self.garbled) = (self.faults - 1, true);
                self.lanes[lane].garble();
            }
            of_lane => self.step_of_lane(of_lane),
        }
    }

    fn check(&self) -> Result<(), String> {
        self.broken_law().map_or(Ok(()), Err)
    }

    fn end(&self) -> Result<&'static str, String> {
        match self.stage {
            Stage::Ran => Ok("the guest has moved"),
            Stage::Differs => Ok("garbled, and found"),
            ref stage => Err(format!("it waits for ever: {stage:?}")),
        }
    }
}

/// A sum with one more page in it.
pub(crate) fn with(sum: LeafSum, leaf: Leaf, page: usize) -> LeafSum {
    sum.plus(leaf.mix(REGION, PageIndex(page as u64)))
}
