//! Where vCPU threads stand while the guest is parked, and how a pause knows that all do.
//!
//! A vCPU thread is *inside* guest memory or *at the gate*. Waiting for the next slice is done at
//! the gate too, so a pause waits only for those that are writing right now, and never for a
//! thread to be woken.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use whimbrel_engine::guest::Throttle;

/// Why the gate is closed, and who is through it.
#[derive(Debug)]
struct State {
    /// The guest is parked.
    paused: bool,
    /// Self-checks that want memory to stand still for a moment.
    holds: u32,
    /// The guest is gone; threads end.
    ended: bool,
    /// Threads of this rank and above are not needed; they end.
    crew: usize,
    /// Threads that may be writing.
    inside: u32,
    /// Threads that have not ended.
    alive: u32,
}

impl State {
    const fn open(&self) -> bool {
        !self.paused && self.holds == 0 && !self.ended
    }
}

/// What a thread at the gate is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// It is inside: it may write until [`Gate::is_open`] says otherwise.
    Inside,
    /// It must end.
    Ended,
}

/// The gate of one guest; closed at first.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    /// A copy of [`State::open`] that the writing loop can afford to look at.
    open: AtomicBool,
    throttle: AtomicU8,
    /// Threads that have been in wait here for the gate to open, and for their slice.
    opened: Condvar,
    /// Where each rank waits for its first entry. Those that turn out not to be needed are not
    /// woken when the others are: a guest that comes alive has better use for the processors.
    seats: Vec<Condvar>,
    /// Whoever closed the gate waits here for the last thread to come out.
    quiet: Condvar,
}

impl Gate {
    /// A gate for threads of so many ranks.
    pub(crate) fn new(ranks: usize) -> Self {
        let state =
            State { paused: true, holds: 0, ended: false, crew: usize::MAX, inside: 0, alive: 0 };
        Self {
            state: Mutex::new(state),
            open: AtomicBool::new(false),
            throttle: AtomicU8::new(0),
            opened: Condvar::new(),
            seats: (0..ranks).map(|_| Condvar::new()).collect(),
            quiet: Condvar::new(),
        }
    }

    /// Whether a thread inside may go on. Never blocks.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.lock().paused
    }

    pub(crate) fn throttle(&self) -> Throttle {
        Throttle::percent(self.throttle.load(Ordering::Relaxed))
    }

    /// Takes effect at once: whoever stands still because of an older throttle wakes up.
    pub(crate) fn set_throttle(&self, throttle: Throttle) {
        let _state = self.lock();
        self.throttle.store(throttle.as_percent(), Ordering::Relaxed);
        self.opened.notify_all();
    }

    /// A thread announces itself; from now on it is waited for when the guest ends.
    pub(crate) fn join(&self) {
        self.lock().alive += 1;
    }

    /// A thread says that it has ended.
    pub(crate) fn part(&self) {
        self.lock().alive -= 1;
        self.quiet.notify_all();
    }

    /// Only threads of a rank below `crew` are needed; the others will end when they are told to.
    pub(crate) fn need_only(&self, crew: usize) {
        self.lock().crew = crew;
    }

    /// Tells the threads that are not needed to end.
    pub(crate) fn dismiss(&self) {
        let crew = self.lock().crew.min(self.seats.len());
        self.seats[crew..].iter().for_each(Condvar::notify_all);
    }

    /// Waits until the gate is open, and goes in for the first time.
    pub(crate) fn first_enter(&self, rank: usize) -> Pass {
        self.wait_and_enter(rank, &self.seats[rank])
    }

    fn wait_and_enter(&self, rank: usize, place: &Condvar) -> Pass {
        let mut state = self.lock();
        while !state.open() && !state.ended && rank < state.crew {
            state = place.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended || rank >= state.crew {
            return Pass::Ended;
        }
        state.inside += 1;
        Pass::Inside
    }

    /// Waits until the gate is open, and goes in again.
    pub(crate) fn enter(&self) -> Pass {
        self.wait_and_enter(0, &self.opened)
    }

    /// Comes out.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        state.inside -= 1;
        if state.inside == 0 && !state.open() {
            self.quiet.notify_all();
        }
    }

    /// Comes out, waits for the time to come (or without end for `None`), and goes in again; a
    /// new throttle cuts the wait short.
    pub(crate) fn stand(&self, wait: Option<Duration>) -> Pass {
        self.leave();
        let deadline = wait.map(|wait| Instant::now() + wait);
        let mut state = self.lock();
        let throttle = self.throttle();
        while !state.ended && throttle == self.throttle() {
            let Some(deadline) = deadline else {
                state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.opened.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.enter()
    }

    /// Closes the gate for the guest; `false` if it did not fall quiet within `within`, and then
    /// it is as open as before.
    pub(crate) fn pause(&self, within: Duration) -> bool {
        self.close(within, |state| state.paused = true, |state| state.paused = false)
    }

    /// Opens the gate for the guest.
    pub(crate) fn resume(&self) {
        self.change(|state| state.paused = false);
    }

    /// Keeps the gate closed for a moment, whether or not the guest is parked.
    pub(crate) fn hold(&self, within: Duration) -> Option<Hold<'_>> {
        let held = self.close(within, |state| state.holds += 1, |state| state.holds -= 1);
        // Made only where it holds: dropping one gives a hold back.
        held.then(|| Hold { gate: self })
    }

    /// Tells all threads to end; `false` if some have not within `within`.
    pub(crate) fn end(&self, within: Duration) -> bool {
        self.change(|state| state.ended = true);
        self.falls_quiet(within, |state| state.alive == 0)
    }

    fn close(&self, within: Duration, close: fn(&mut State), undo: fn(&mut State)) -> bool {
        self.change(close);
        let quiet = self.falls_quiet(within, |state| state.inside == 0);
        if !quiet {
            self.change(undo);
        }
        quiet
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        self.open.store(state.open(), Ordering::Relaxed);
        let needed = if state.ended { usize::MAX } else { state.crew };
        self.opened.notify_all();
        self.seats.iter().take(needed).for_each(Condvar::notify_all);
    }

    fn falls_quiet(&self, within: Duration, quiet: fn(&State) -> bool) -> bool {
        let waited = self.quiet.wait_timeout_while(self.lock(), within, |state| !quiet(state));
        quiet(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The state is plain counters, whole at every moment: a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the guest's memory still until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    gate: &'a Gate,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.gate.change(|state| state.holds -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn a_hold_that_was_not_got_is_not_given_back() {
        let gate = Gate::new(1);
        gate.resume();
        assert_eq!(gate.enter(), Pass::Inside);
        assert!(gate.hold(AT_ONCE).is_none(), "somebody is inside");
        assert!(gate.is_open());
        gate.leave();
        let held = gate.hold(AT_ONCE).expect("nobody is inside");
        assert!(gate.hold(AT_ONCE).is_some_and(|_| !gate.is_open()));
        assert!(!gate.is_open(), "the first one still holds");
        drop(held);
        assert!(gate.is_open());
    }
}
