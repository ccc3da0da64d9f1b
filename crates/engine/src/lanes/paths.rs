//! The paths of a source: which one a lane takes, what each delivers, and which are out of use.
//!
//! Lanes pull from one ledger, so that a path carries what it delivers as long as it has a lane
//! that is never idle. How many it has follows what it delivers; a lane moves by ending, in peace,
//! and beginning elsewhere. A path on which a connection failed is left alone for a while, longer
//! each time, and looked at again before a lane is moved to it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use whimbrel_page::{ByteCount, ByteRate, PageCount};
use whimbrel_transport::Path;

use crate::progress::PathReport;

/// How long a path is left alone after its first failure, and at most.
const OUT_FIRST: Duration = Duration::from_millis(250);
const OUT_MAX: Duration = Duration::from_secs(8);
/// A path that was in use for so long has recovered: its next failure is a first one.
const RECOVERED: Duration = Duration::from_secs(10);
/// Between two lanes that move: to a path without any, and to one that has too few.
const MOVE_FIRST: Duration = Duration::from_millis(300);
const MOVE_EVERY: Duration = Duration::from_secs(2);
/// A lane moves where it delivers so much more, in percent: less is noise.
const MOVE_GAIN_PERCENT: f64 = 150.0;
/// Moves in one migration. Each takes a lane number, of which a session has 1024.
const MOVES_MAX: u32 = 256;
/// A rate is taken over so much busy time.
const SAMPLE: Duration = Duration::from_millis(100);
/// A shorter time in which all landed tells of latency, not of a rate.
const SAMPLE_MIN: Duration = Duration::from_millis(20);

/// The place of a path in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathId(usize);

#[derive(Debug, Default)]
pub(super) struct Paths {
    known: Vec<Known>,
    moved: Option<Instant>,
    moves: u32,
    control: Option<PathId>,
}

#[derive(Debug)]
struct Known {
    path: Path,
    /// No longer among those that may be used.
    gone: bool,
    out: Option<Out>,
    /// Since when it works, and how long the next failure keeps it out.
    works: Option<Instant>,
    next_out: Duration,
    connections: u32,
    in_flight: u64,
    /// When something last landed on it.
    heard: Option<Instant>,
    meter: Meter,
}

/// Since a connection failed.
#[derive(Debug)]
struct Out {
    until: Instant,
    looking: bool,
}

/// How fast what was sent lands, while there is something to land.
#[derive(Debug, Default)]
struct Meter {
    total: u64,
    rate: Option<f64>,
    /// Landed since then; `None` while nothing is in flight.
    since: Option<Instant>,
    landed: u64,
}

impl Meter {
    fn landed(&mut self, bytes: u64, idle: bool, now: Instant) {
        self.total += bytes;
        self.landed += bytes;
        let Some(since) = self.since else { return };
        let took = now.saturating_duration_since(since);
        if took >= SAMPLE || (idle && took >= SAMPLE_MIN) {
            let rate = self.landed as f64 / took.as_secs_f64();
            self.rate = Some(self.rate.map_or(rate, |known| (known + rate) / 2.0));
            (self.since, self.landed) = (Some(now), 0);
        }
        if idle {
            (self.since, self.landed) = (None, 0);
        }
    }
}

impl Known {
    fn new(path: Path) -> Self {
        Self {
            path,
            gone: false,
            out: None,
            works: None,
            next_out: OUT_FIRST,
            connections: 0,
            in_flight: 0,
            heard: None,
            meter: Meter::default(),
        }
    }

    fn same(&self, path: &Path) -> bool {
        (self.path.remote, self.path.local) == (path.remote, path.local)
    }

    fn is_up(&self) -> bool {
        !self.gone && self.out.is_none()
    }
}

impl Paths {
    /// Makes sure that there is one, to `address` if nobody said another.
    pub(super) fn or_to(&mut self, address: SocketAddr) {
        if self.known.is_empty() {
            self.known.push(Known::new(Path::to(address)));
        }
    }

    /// These, and no other, from now on.
    pub(super) fn replace(&mut self, paths: Vec<Path>) {
        for known in &mut self.known {
            known.gone = !paths.iter().any(|path| known.same(path));
        }
        for path in paths {
            match self.known.iter_mut().find(|known| known.same(&path)) {
                Some(known) => known.path = path,
                None => self.known.push(Known::new(path)),
            }
        }
    }

    pub(super) fn path(&self, id: PathId) -> &Path {
        &self.known[id.0].path
    }

    pub(super) fn is_single(&self) -> bool {
        self.known.len() < 2
    }

    /// The addresses that lanes may go out from now, each once: its paths have one limit together.
    pub(super) fn sources(&self) -> Vec<Option<IpAddr>> {
        let used = self.ids().filter(|id| self.in_use(*id));
        let mut sources: Vec<_> = used.map(|id| self.path(id).local).collect();
        sources.sort_unstable();
        sources.dedup();
        sources
    }

    fn ids(&self) -> impl Iterator<Item = PathId> + use<> {
        (0..self.known.len()).map(PathId)
    }

    // --- choosing --------------------------------------------------------------------------

    /// Whether lanes may be on it now: it works, and none that is preferred does.
    fn in_use(&self, id: PathId) -> bool {
        let up = self.known.iter().filter(|known| known.is_up());
        let best = up.map(|known| known.path.preference).min();
        let known = &self.known[id.0];
        known.is_up() && Some(known.path.preference) == best
    }

    /// What it delivers, or what was said of it, or as much as the others.
    fn weight(&self, id: PathId) -> f64 {
        let told =
            |known: &Known| known.meter.rate.or(known.path.speed.map(|speed| speed.0 as f64));
        let rates = self.known.iter().filter_map(told);
        let (sum, count) = rates.fold((0.0, 0.0), |(sum, count), rate| (sum + rate, count + 1.0));
        let mean = if count > 0.0 { sum / count } else { 1.0 };
        told(&self.known[id.0]).unwrap_or(mean).max(1.0)
    }

    /// The path for one more lane, where `lanes` are on each already. One that is out comes last.
    pub(super) fn choose(&self, lanes: &[usize], not: &[PathId]) -> Option<PathId> {
        let open = || self.ids().filter(|id| !not.contains(id) && !self.known[id.0].gone);
        let gain = |id: PathId| match lanes[id.0] {
            0 => f64::INFINITY,
            some => self.weight(id) / (some + 1) as f64,
        };
        // The first of those that are equal: the list is in order.
        let better = |one: PathId, other: PathId| if gain(other) > gain(one) { other } else { one };
        let best = open().filter(|id| self.in_use(*id)).reduce(better);
        let up = || open().find(|id| self.known[id.0].is_up());
        let until = |id: &PathId| self.known[id.0].out.as_ref().map(|out| out.until);
        best.or_else(up).or_else(|| open().min_by_key(until))
    }

    /// The path that the control connection was on: it was lost.
    pub(super) const fn lost_control(&mut self) -> Option<PathId> {
        self.control.take()
    }

    /// The path for the control connection.
    pub(super) fn choose_control(&mut self) -> PathId {
        let none = vec![0; self.known.len()];
        let chosen = self.choose(&none, &[]).unwrap_or(PathId(0));
        self.control = Some(chosen);
        chosen
    }

    /// The path from which a lane should move, where `lanes` are on each.
    pub(super) fn surplus(&mut self, lanes: &[usize], now: Instant) -> Option<PathId> {
        let to = self.choose(lanes, &[]).filter(|to| self.in_use(*to))?;
        let waited = |wait| self.moved.is_none_or(|moved| now >= moved + wait);
        if self.moves >= MOVES_MAX || !waited(MOVE_FIRST) {
            return None;
        }
        let gives =
            |from: &PathId| *from != to && lanes[from.0] > 0 && self.leaves(*from, to, lanes);
        let from = self.ids().find(|id| gives(id) && (lanes[to.0] == 0 || waited(MOVE_EVERY)))?;
        (self.moved, self.moves) = (Some(now), self.moves + 1);
        Some(from)
    }

    fn leaves(&self, from: PathId, to: PathId, lanes: &[usize]) -> bool {
        let (here, there) = (lanes[from.0], lanes[to.0]);
        match self.in_use(from) {
            // A lane on one that is out is dying already.
            false => self.known[from.0].out.is_none(),
            true if here < 2 => false,
            true if there == 0 => true,
            true => {
                let (stays, gains) = (self.weight(from) / here as f64, self.weight(to));
                gains / (there + 1) as f64 * 100.0 > stays * MOVE_GAIN_PERCENT
            }
        }
    }

    // --- failing and coming back -----------------------------------------------------------

    /// A connection on it failed. Whether that is news.
    pub(super) fn failed(&mut self, id: PathId, now: Instant) -> bool {
        let known = &mut self.known[id.0];
        if known.out.as_ref().is_some_and(|out| !out.looking) {
            return false;
        }
        let news = known.out.is_none();
        if known.works.take().is_some_and(|since| now >= since + RECOVERED) {
            known.next_out = OUT_FIRST;
        }
        known.out = Some(Out { until: now + known.next_out, looking: false });
        known.next_out = (known.next_out * 2).min(OUT_MAX);
        news
    }

    /// A connection on it stands. Whether that is news.
    pub(super) fn works(&mut self, id: PathId, now: Instant) -> bool {
        let known = &mut self.known[id.0];
        known.works.get_or_insert(now);
        known.out.take().is_some()
    }

    /// A lane was opened on it.
    pub(super) fn opened(&mut self, id: PathId) {
        self.known[id.0].connections += 1;
    }

    /// The paths that it is time to look at again; whoever looks says what was seen.
    pub(super) fn due_for_a_look(&mut self, now: Instant) -> Vec<(PathId, Path)> {
        let due = |(at, known): (usize, &mut Known)| {
            let out = known.out.as_mut().filter(|out| !out.looking && out.until <= now)?;
            out.looking = !known.gone;
            out.looking.then(|| (PathId(at), known.path.clone()))
        };
        self.known.iter_mut().enumerate().filter_map(due).collect()
    }

    // --- measuring -------------------------------------------------------------------------

    pub(super) fn sent(&mut self, id: PathId, bytes: ByteCount, now: Instant) {
        let known = &mut self.known[id.0];
        known.in_flight += bytes.0;
        if known.in_flight > 0 {
            known.meter.since.get_or_insert(now);
        }
    }

    pub(super) fn landed(&mut self, id: PathId, bytes: ByteCount, now: Instant) {
        let known = &mut self.known[id.0];
        known.in_flight = known.in_flight.saturating_sub(bytes.0);
        known.heard = Some(now);
        known.meter.landed(bytes.0, known.in_flight == 0, now);
    }

    /// Whether something has landed on it within so long.
    pub(super) fn landed_within(&self, id: PathId, within: Duration, now: Instant) -> bool {
        self.known[id.0].heard.is_some_and(|heard| now < heard + within)
    }

    /// A lane ended with so much in flight.
    pub(super) fn abandoned(&mut self, id: PathId, bytes: ByteCount) {
        let known = &mut self.known[id.0];
        known.in_flight = known.in_flight.saturating_sub(bytes.0);
        if known.in_flight == 0 {
            (known.meter.since, known.meter.landed) = (None, 0);
        }
    }

    /// How much of a batch a lane on this path may take, where so much is pending: no more than
    /// lands by the time at which all of it can, so that nobody waits for the slowest path at the
    /// end. The fastest one takes what it gets. One without `lanes` takes nothing, however fast it
    /// was; and where nothing is under way at all, nobody else is about to take what is left.
    pub(super) fn share(
        &self,
        id: PathId,
        pending: ByteCount,
        batch: PageCount,
        lanes: &[usize],
    ) -> PageCount {
        let takes = |id: PathId| self.known[id.0].is_up() && lanes[id.0] > 0;
        let rate = |id: PathId| self.known[id.0].meter.rate.filter(|_| takes(id));
        let rates = || self.ids().filter_map(rate);
        let Some(own) = rate(id).filter(|_| !self.is_single()) else { return batch };
        let (all, fastest) = (rates().sum::<f64>(), rates().fold(0.0, f64::max));
        if own >= fastest {
            return batch;
        }
        let under_way: u64 = self.known.iter().map(|known| known.in_flight).sum();
        let by = (pending.0 + under_way) as f64 / all;
        let bytes = (own * by) as u64;
        let room = bytes.saturating_sub(self.known[id.0].in_flight);
        let least = u64::from(under_way == 0);
        batch.min(PageCount((room / PageCount(1).bytes().0).max(least)))
    }

    /// All of them, where `lanes` are on each.
    pub(super) fn reports(&self, lanes: &[usize]) -> Vec<PathReport> {
        let report = |(known, lanes): (&Known, &usize)| PathReport {
            name: known.path.to_string(),
            local: known.path.local,
            bytes: ByteCount(known.meter.total),
            rate: ByteRate(known.meter.rate.unwrap_or_default() as u64),
            lanes: *lanes as u16,
            connections: known.connections,
            up: known.is_up(),
        };
        self.known.iter().zip(lanes).map(report).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.known.len()
    }
}

impl PathId {
    pub(super) const fn place(self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests;
