//! Looks for writes that the tracker missed, while the guest runs.
//!
//! ```text
//!   thread: memory in use ─► settled, and quiet of late? ─► read ─► not what was sent: a suspect
//!   hands:  harvest ─► names a suspect: written since it was sent.   Does not: missed, sent again
//! ```
//!
//! A suspect has two harvests to be named in: a discard shows in memory a moment before it is on
//! record, and a thread may be interrupted in between.
//!
//! Goals: a page that nobody harvests and that changed is found sooner or later; no page is
//! blamed for a write that is on record; the thread takes no more than its share of one core and
//! stands still in the pause. Non-goals: a proof that nothing was missed, which a full verification
//! is; pages that the guest writes all the time, which every harvest names.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use whimbrel_memory::{GuestMemory, MemoryError};
use whimbrel_page::{Leaf, PAGE_SIZE, PageCount, PageIndex, PageSet, RegionId, Run};

use crate::lanes::{SourceLanes, in_this_span};
use crate::options::CoreShare;

/// Pages that are looked at in one go: a harvest waits for one.
const PIECE: u64 = 64;
/// Suspects that wait for the next harvest; there is no looking for more then.
const SUSPECTS_MAX: usize = 4096;
/// Shorter rests are taken together: each costs the core something too, which is not counted.
const REST_MIN: Duration = Duration::from_millis(5);
/// Before looking again at a guest without memory in use.
const NOTHING_TO_DO: Duration = Duration::from_millis(100);

/// The thread, and what it shares with the hands.
pub(super) struct Scrub {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    memory: GuestMemory,
    lanes: SourceLanes,
    share: CoreShare,
    state: Mutex<State>,
    changed: Condvar,
}

/// Held by the thread for a piece and by the hands for a harvest: between the moment a page is
/// known to be settled and the moment it was read there is none.
pub(super) struct State {
    still: bool,
    ended: bool,
    /// What the last harvest named: likely to be written again.
    recent: PageSet,
    /// Each with whether a harvest has already been silent about it.
    suspects: BTreeMap<(RegionId, PageIndex), bool>,
    seen: PageCount,
}

impl Scrub {
    /// Begins to look, once the tracker is armed. `None` where that is not wanted, or where no
    /// thread can be had for it: a migration does without.
    pub(super) fn start(
        memory: &GuestMemory,
        lanes: &SourceLanes,
        share: CoreShare,
    ) -> Option<Self> {
        if share == CoreShare::NONE {
            return None;
        }
        let state = State::new(memory);
        let shared = Arc::new(Shared {
            memory: memory.clone(),
            lanes: lanes.clone(),
            share,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let works = shared.clone();
        let work = in_this_span(move || {
            if let Err(error) = works.run() {
                tracing::warn!("nobody looks for writes that were not tracked: {error}");
            }
        });
        let started = thread::Builder::new().name("whimbrel-scrub".into()).spawn(work);
        let started = started.inspect_err(|error| tracing::warn!("no thread to scrub: {error}"));
        started.ok().map(|thread| Self { shared, thread: Some(thread) })
    }

    /// Nothing is looked at while this is held: for a harvest and what is made of it.
    pub(super) fn hold(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// Wakes a thread that waits for its suspects to be judged.
    pub(super) fn judged(&self) {
        self.shared.changed.notify_all();
    }

    /// Stands still, or goes on.
    pub(super) fn stand_still(&self, still: bool) {
        self.shared.lock().still = still;
        self.shared.changed.notify_all();
    }
}

impl Drop for Scrub {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        // It takes nothing with it that anybody would have to be told.
        self.thread.take().map(JoinHandle::join);
    }
}

impl State {
    fn new(memory: &GuestMemory) -> Self {
        Self {
            still: false,
            ended: false,
            recent: PageSet::new(memory.layout()),
            suspects: BTreeMap::new(),
            seen: PageCount::ZERO,
        }
    }

    /// What a harvest that has just been made says of the suspects: those that none names were
    /// written behind the tracker's back. After the `last` one, of a guest that stands still,
    /// nothing more can come.
    pub(super) fn judge(&mut self, harvested: &PageSet, last: bool) -> Vec<Run> {
        self.recent.clear();
        self.recent.union_with(harvested);
        let mut missed = Vec::new();
        self.suspects.retain(|(region, page), unnamed| {
            let named = harvested.contains(*region, *page);
            let guilty = !named && (last || *unnamed);
            if guilty {
                missed.push(Run::new(*region, page.0, 1));
            }
            *unnamed = true;
            !named && !guilty
        });
        missed
    }

    /// Pages that were compared so far.
    pub(super) const fn seen(&self) -> PageCount {
        self.seen
    }

    /// Compares one page that was read with what the destination holds of it.
    fn compare(&mut self, region: RegionId, page: PageIndex, there: Leaf, found: Leaf) {
        self.seen += PageCount(1);
        if !there.agrees(found) {
            self.suspects.entry((region, page)).or_insert(false);
        }
    }

    fn must_wait(&self) -> bool {
        !self.ended && (self.still || self.suspects.len() >= SUSPECTS_MAX)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) -> Result<(), MemoryError> {
        let mut buffer = vec![0; PAGE_SIZE];
        let mut owed = Duration::ZERO;
        loop {
            let began = Instant::now();
            // Anew each time: what nobody has tracked may have been populated since.
            let touched = self.memory.touched()?;
            let idle = if touched.is_empty() { NOTHING_TO_DO } else { began.elapsed() };
            if !self.rest(idle, &mut owed) {
                return Ok(());
            }
            for run in touched.runs() {
                for piece in pieces(run) {
                    let Some(took) = self.look_at(piece, &mut buffer)? else { return Ok(()) };
                    if !self.rest(took, &mut owed) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Looks at a piece, once it may. Tells how long that took; `None` is the end.
    fn look_at(&self, piece: Run, buffer: &mut [u8]) -> Result<Option<Duration>, MemoryError> {
        let waited = self.changed.wait_while(self.lock(), |state| state.must_wait());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return Ok(None);
        }
        let began = Instant::now();
        let settled = self.lanes.settled(piece);
        for (page, there) in piece.pages().zip(settled) {
            let Some(there @ (Leaf::Zero | Leaf::Known(_))) = there else { continue };
            if state.recent.contains(piece.region, page) {
                continue;
            }
            self.memory.copy_run(Run::new(piece.region, page.0, 1), buffer)?;
            state.compare(piece.region, page, there, Leaf::of(buffer));
        }
        Ok(Some(began.elapsed()))
    }

    /// Leaves the core to others for as long as the share asks for after so much work, and for what
    /// is owed from before. `false` is the end.
    fn rest(&self, worked: Duration, owed: &mut Duration) -> bool {
        *owed += self.share.rest_after(worked);
        if (Duration::from_nanos(1)..REST_MIN).contains(owed) {
            return true;
        }
        let rest = std::mem::take(owed);
        let waited = self.changed.wait_timeout_while(self.lock(), rest, |state| !state.ended);
        !waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

fn pieces(run: Run) -> impl Iterator<Item = Run> {
    (run.first.0..run.end().0)
        .step_by(PIECE as usize)
        .map(move |first| Run::new(run.region, first, PIECE.min(run.end().0 - first)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::LaneOptions;
    use tokio::sync::mpsc::channel;
    use whimbrel_memory::Backing;
    use whimbrel_page::{ByteCount, Layout};

    const R: RegionId = RegionId(0);

    #[test]
    fn a_suspect_that_a_harvest_names_was_not_missed() {
        let layout = Layout::single(ByteCount::mib(1)).expect("valid");
        let memory = GuestMemory::allocate(&layout, Backing::Private).expect("memory");
        let mut state = State::new(&memory);
        let suspect = |state: &mut State, page| {
            state.compare(R, PageIndex(page), Leaf::Zero, Leaf::Known(5));
        };
        let of = |pages: &[u64]| {
            let mut set = PageSet::new(&layout);
            for page in pages {
                set.insert(Run::new(R, *page, 1));
            }
            set
        };
        state.compare(R, PageIndex(1), Leaf::Known(5), Leaf::Known(5));
        for page in [4, 3, 2, 3] {
            suspect(&mut state, page);
        }
        assert_eq!(state.judge(&of(&[3]), false), [], "each has another harvest");
        suspect(&mut state, 7);
        assert_eq!(state.judge(&of(&[2, 9]), false), [Run::new(R, 4, 1)]);
        suspect(&mut state, 8);
        suspect(&mut state, 9);
        let missed = state.judge(&of(&[9]), true);
        assert_eq!(missed, [Run::new(R, 7, 1), Run::new(R, 8, 1)], "none after the last one");
        assert_eq!(state.judge(&of(&[]), true), [], "each is judged once");
        assert_eq!(state.seen(), PageCount(8));
    }

    /// Processor time of this thread, where the host tells.
    fn cpu() -> Option<Duration> {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        told.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }

    /// Looks at so many pages of zeros. The processor time of that and the share of all the time.
    fn look_at(
        pages: u64,
        share: CoreShare,
        recent: &PageSet,
        layout: &Layout,
    ) -> Option<[f64; 2]> {
        let memory = GuestMemory::allocate(layout, Backing::Private).expect("memory");
        for page in 0..layout.pages().0 {
            memory.store_u64(R, PageIndex(page).offset(), 0).expect("inside");
        }
        let lanes = SourceLanes::new(memory.clone(), LaneOptions::default(), channel(1).0);
        let state = Mutex::new(State { recent: recent.clone(), ..State::new(&memory) });
        let shared = Arc::new(Shared { memory, lanes, share, state, changed: Condvar::new() });
        let works = shared.clone();
        let thread = thread::spawn(move || {
            let (began, before) = (Instant::now(), cpu()?);
            works.run().expect("it is read");
            let allowed = began.elapsed().as_secs_f64() * f64::from(share.as_percent()) / 100.0;
            Some([(cpu()? - before).as_secs_f64(), allowed])
        });
        let mut state = shared.lock();
        while state.seen < PageCount(pages) && !thread.is_finished() {
            let looked = shared.changed.wait_timeout(state, REST_MIN);
            state = looked.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.ended = true;
        assert!(state.suspects.is_empty(), "zeros are zeros");
        drop(state);
        shared.changed.notify_all();
        thread.join().expect("no panic")
    }

    /// Also where there is next to nothing to read, as the guest has just written nearly all.
    #[test]
    fn it_takes_no_more_than_its_share_of_a_core() {
        let layout = Layout::single(PageCount(64 * PIECE).bytes()).expect("valid");
        let quiet = PageSet::new(&layout);
        let mut busy = PageSet::new(&layout);
        for piece in 0..64 {
            busy.insert(Run::new(R, piece * PIECE + 1, PIECE - 1));
        }
        for (percent, pages, recent) in [(25, 10_000, quiet), (5, 4000, busy)] {
            let mut tries = 5;
            loop {
                let taken = look_at(pages, CoreShare::percent(percent), &recent, &layout);
                let Some([taken, allowed]) = taken else {
                    return println!("SKIPPED: this host does not tell the time of a thread");
                };
                println!("{percent} % of a core, {pages} pages: {taken:.3} s of {allowed:.3} s");
                // What it is woken up for, and the beginning, which has not rested yet.
                if taken < allowed * 1.5 + 0.003 {
                    break;
                }
                // Others on the machine may cost it some, but not each time.
                tries -= 1;
                assert!(tries > 0, "{taken} s, and {allowed} s are its share");
            }
        }
    }

    #[test]
    fn pieces_are_all_of_a_run() {
        let run = Run::new(R, 5, 2 * PIECE + 1);
        let all: Vec<Run> = pieces(run).collect();
        assert_eq!(all.iter().map(|piece| piece.count).sum::<PageCount>(), run.count);
        assert_eq!(all.last(), Some(&Run::new(R, 5 + 2 * PIECE, 1)));
    }
}
