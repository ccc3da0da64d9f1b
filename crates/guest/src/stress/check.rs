//! The guest looks at all of its memory and says what is wrong with it.
//!
//! Nobody has to stand still for that: a page is copied between two looks at its writer's count,
//! and if the page was not written in between, what it must hold follows from the count. Only for
//! pages that are written again on every try does the guest stand still, for one copy.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use whimbrel_memory::MemoryError;
use whimbrel_memory::page::{PAGE_SIZE, PageCount, PageIndex, PageSet, RegionId};

use super::content::{Damage, PageBytes, PageName, Sequence};
use super::plan::{Owner, Plan};
use super::shared::{Shared, Writes, each_chunk};

/// Copies of a page tried before the guest has to stand still for one.
const TRIES: u32 = 4;
/// How much longer than a pause a check waits for vCPUs to stand still: a busy host may be slow
/// to run them, and no downtime hangs on it.
const PATIENCE: u32 = 10;
/// Bad pages that a report lists one by one.
const LISTED_MAX: usize = 16;

/// A page that does not hold what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPage {
    /// Its region.
    pub region: RegionId,
    /// Its position there.
    pub page: PageIndex,
    /// What is wrong with it.
    pub damage: Damage,
    /// The version it should be.
    pub expected: Sequence,
    /// The version it says it is, if it says anything.
    pub found: Option<Sequence>,
}

impl fmt::Display for BadPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, page, damage, expected, found } = self;
        write!(f, "{region} {page} is {damage}: version {} expected, ", expected.0)?;
        match found {
            Some(found) => write!(f, "{} found", found.0),
            None => f.write_str("none found"),
        }
    }
}

/// What a self-check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Pages looked at: all the guest has.
    pub pages_checked: PageCount,
    /// Pages that are [`Damage::Lost`].
    pub lost: PageCount,
    /// Pages that are [`Damage::Stale`].
    pub stale: PageCount,
    /// Pages that are [`Damage::Ahead`].
    pub ahead: PageCount,
    /// Pages that are [`Damage::Torn`].
    pub torn: PageCount,
    /// Pages that are [`Damage::Foreign`].
    pub foreign: PageCount,
    /// The first few of them, in no particular order.
    pub examples: Vec<BadPage>,
}

impl CheckReport {
    /// All pages that are not as they should be.
    #[must_use]
    pub fn bad(&self) -> PageCount {
        self.lost + self.stale + self.ahead + self.torn + self.foreign
    }

    /// Whether every page is as it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.bad() == PageCount::ZERO
    }

    fn add(&mut self, bad: BadPage) {
        *match bad.damage {
            Damage::Lost => &mut self.lost,
            Damage::Stale => &mut self.stale,
            Damage::Ahead => &mut self.ahead,
            Damage::Torn => &mut self.torn,
            Damage::Foreign => &mut self.foreign,
        } += PageCount(1);
        if self.examples.len() < LISTED_MAX {
            self.examples.push(bad);
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pages_checked, lost, stale, ahead, torn, foreign, examples } = self;
        if self.is_clean() {
            return write!(f, "all {pages_checked} are as they should be");
        }
        write!(
            f,
            "of {pages_checked} {} are lost, {} stale, {} ahead, ",
            lost.0, stale.0, ahead.0
        )?;
        write!(f, "{} torn, {} foreign", torn.0, foreign.0)?;
        examples.first().map_or(Ok(()), |first| write!(f, "; {first}"))
    }
}

/// Why a guest could not look at its memory.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no guest any more.
    #[error("the guest is gone: it ended, or it moved away")]
    Gone,
    /// It has not arrived yet.
    #[error("the guest has no state yet: check it after it was loaded")]
    NoState,
    /// A vCPU did not come to a stand.
    #[error("a vCPU did not stand still within {0:?}: its memory may be stuck in a fault")]
    NotQuiet(Duration),
    /// The host did not say what is populated.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Checks every page. Where the vCPUs must stand still for that, it waits for them, and longer
/// than a pause would.
pub(crate) fn check(shared: &Shared, pause_within: Duration) -> Result<CheckReport, CheckError> {
    let quiet_within = pause_within * PATIENCE;
    let plan = shared.plan.get().ok_or(CheckError::NoState)?;
    // In this order: what these counts count is populated by the time the host is asked.
    let before = Counts::of(shared);
    let checker = Checker { shared, plan, before, touched: shared.memory.touched()?, quiet_within };
    let outcome = Mutex::new(Ok(CheckReport::default()));
    each_chunk(plan.pages().0, |numbers| {
        let count = PageCount(numbers.end - numbers.start);
        let found = checker.range(numbers);
        let mut outcome = outcome.lock().expect("no checker panics");
        match (&mut *outcome, found) {
            (Ok(report), Ok(bad)) => {
                report.pages_checked += count;
                bad.into_iter().for_each(|bad| report.add(bad));
            }
            (Ok(_), Err(error)) => *outcome = Err(error),
            (Err(_), _) => (),
        }
    });
    outcome.into_inner().expect("no checker panics")
}

struct Checker<'a> {
    shared: &'a Shared,
    plan: &'a Plan,
    /// What had been written before the host was asked what is populated.
    before: Counts,
    touched: PageSet,
    quiet_within: Duration,
}

impl Checker<'_> {
    fn range(&self, numbers: std::ops::Range<u64>) -> Result<Vec<BadPage>, CheckError> {
        let mut bytes = [0; PAGE_SIZE];
        let mut bad = Vec::new();
        for number in numbers {
            let (position, name) = self.plan.page(number);
            let owner = self.plan.owner(number);
            let (expected, wrong) = if self.touched.bitmap_at(position).contains(name.page.0) {
                let expected = self.copy(owner, name, &mut bytes)?;
                (expected, self.plan.content.judge(name, expected, &bytes))
            } else {
                // It was zero when the host was asked, and reading it would populate it.
                let expected = self.before.sequence(self.plan, owner);
                let zero = expected == Sequence(0) && self.plan.content.starts_as_zero(name);
                (expected, (!zero).then_some((Damage::Lost, None)))
            };
            bad.extend(wrong.map(|(damage, found)| {
                let PageName { region, page } = name;
                BadPage { region, page, damage, expected, found }
            }));
        }
        Ok(bad)
    }

    /// Copies a page and says which version the copy must be.
    fn copy(
        &self,
        owner: Owner,
        name: PageName,
        into: &mut PageBytes,
    ) -> Result<Sequence, CheckError> {
        let shared = self.shared;
        match owner {
            Owner::Nobody => {
                self.read(name, into)?;
                Ok(Sequence(0))
            }
            Owner::Heart => {
                let heart = shared.heart();
                self.read(name, into)?;
                Ok(Sequence(heart.pulse().beats))
            }
            Owner::Vcpu { vcpu, slot } => {
                let schedule = &self.plan.schedules[vcpu];
                let sequence = |done| Sequence(schedule.sequence_after(done, slot));
                let writes = &shared.writes[vcpu];
                for _ in 0..TRIES {
                    let before = sequence(writes.done());
                    self.read(name, into)?;
                    // One write may be under way that is not counted yet.
                    if sequence(writes.done_by_now() + 1) == before {
                        return Ok(before);
                    }
                }
                let held = shared.gate.hold(self.quiet_within);
                let _still = held.ok_or(CheckError::NotQuiet(self.quiet_within))?;
                self.read(name, into)?;
                Ok(sequence(writes.done()))
            }
        }
    }

    fn read(&self, name: PageName, into: &mut PageBytes) -> Result<(), CheckError> {
        Ok(self.shared.memory.read(name.region, name.page.offset(), into)?)
    }
}

/// What had been written at one moment.
struct Counts {
    writes: Vec<u64>,
    beats: u64,
}

impl Counts {
    fn of(shared: &Shared) -> Self {
        let writes = shared.writes.iter().map(Writes::done).collect();
        Self { writes, beats: shared.heart().pulse().beats }
    }

    fn sequence(&self, plan: &Plan, owner: Owner) -> Sequence {
        Sequence(match owner {
            Owner::Vcpu { vcpu, slot } => {
                plan.schedules[vcpu].sequence_after(self.writes[vcpu], slot)
            }
            Owner::Heart => self.beats,
            Owner::Nobody => 0,
        })
    }
}
