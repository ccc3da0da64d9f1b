//! Where the executor waits: for events, for the time to look at the clock, and while the guest is
//! parked. A pause waits for the command that is being carried out, and for nothing else.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use whimbrel_engine::guest::Throttle;

use super::machine::Event;
use super::port::{Attach, Outlet, RelayId, ToGuest};
use crate::throttled::{STAND_MAX, stand};

/// Bytes of clients that wait here before relays do: one message of each may come on top.
const WAITING_MAX: usize = 64 << 20;
/// What an event counts for beside its bytes.
const EVENT_SIZE: usize = 64;
/// Events of one turn, so that relays hear in between.
const TURN_MAX: usize = 256;
/// A throttled executor works no longer than this at once, unless a command keeps it longer.
const TURN_LONGEST: Duration = Duration::from_millis(1);

#[derive(Default)]
struct State {
    paused: bool,
    /// Those who want memory to stand still for a moment.
    holds: u32,
    ended: bool,
    /// The executor may be writing.
    inside: bool,
    alive: bool,
    events: VecDeque<Event>,
    /// What they count for.
    waiting: usize,
    /// Relays that wait for room.
    relays: Vec<Waker>,
    /// The executor is to forget the relays.
    lets_go: bool,
    throttle: Throttle,
    /// The throttle keeps the executor out until then.
    stands_until: Option<Instant>,
}

impl State {
    const fn open(&self) -> bool {
        !self.paused && self.holds == 0 && !self.ended
    }

    /// Relays go on if there is room again.
    fn call_relays(&mut self) {
        if self.waiting < WAITING_MAX {
            self.relays.drain(..).for_each(Waker::wake);
        }
    }
}

/// What the executor is called for.
pub(crate) enum Call {
    /// It may go in. These events have come. If it is throttled it works so long and no longer.
    Work(Vec<Event>, Option<Duration>),
    /// The guest is parked: it is to forget the relays and all that is not in memory, outside.
    LetGo,
}

/// The doorway of one guest; closed at first.
pub(crate) struct Doorway {
    state: Mutex<State>,
    /// A copy of [`State::open`] that is looked at between commands.
    open: AtomicBool,
    /// The executor waits here.
    wake: Condvar,
    /// Whoever closed the doorway waits here.
    quiet: Condvar,
}

impl Doorway {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State { paused: true, ..State::default() }),
            open: AtomicBool::new(false),
            wake: Condvar::new(),
            quiet: Condvar::new(),
        }
    }

    /// Whether the executor may go on to its next command.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.lock().paused
    }

    pub(crate) fn throttle(&self) -> Throttle {
        self.lock().throttle
    }

    pub(crate) fn set_throttle(&self, throttle: Throttle) {
        self.change(|state| {
            state.throttle = throttle;
            state.stands_until = None;
        });
    }

    /// Brings an event that is not a relay's word.
    pub(crate) fn bring(&self, event: Event) {
        self.change(|state| state.events.push_back(event));
    }

    /// Brings a relay that attaches; what it asked for before and has not got, it does not want.
    pub(crate) fn attach(&self, attach: Attach, outlet: Box<dyn Outlet>) {
        let relay = attach.relay;
        self.change(|state| {
            state.events.retain(
                |event| !matches!(event, Event::Attach(earlier, _) if earlier.relay == relay),
            );
            state.events.push_back(Event::Attach(attach, outlet));
        });
    }

    /// Brings what a relay has said as soon as there is room; whether the guest is still here.
    pub(crate) fn poll_hear(
        &self,
        context: &Context<'_>,
        relay: RelayId,
        said: &mut Vec<ToGuest>,
    ) -> Poll<bool> {
        let mut state = self.lock();
        if state.ended {
            return Poll::Ready(false);
        }
        if state.waiting >= WAITING_MAX {
            state.relays.push(context.waker().clone());
            return Poll::Pending;
        }
        state.waiting += said.iter().map(size_of).sum::<usize>();
        state.events.extend(said.drain(..).map(|said| Event::FromRelay(relay, said)));
        self.wake.notify_all();
        Poll::Ready(true)
    }

    /// Waits until the executor may go in, and there is an event or `wait` is over: it is inside
    /// then. Or until it is to let go; `None` at the end of the guest.
    pub(crate) fn enter(&self, wait: Duration) -> Option<Call> {
        let deadline = Instant::now() + wait;
        let mut state = self.lock();
        loop {
            if state.ended {
                return None;
            }
            if std::mem::take(&mut state.lets_go) {
                return Some(Call::LetGo);
            }
            let until = state.stands_until.unwrap_or(deadline);
            let left = until.saturating_duration_since(Instant::now());
            let due = left.is_zero() || state.stands_until.is_none() && !state.events.is_empty();
            if !state.open() {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else if due {
                break;
            } else {
                let waited = self.wake.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        (state.stands_until, state.inside) = (None, true);
        let count = state.events.len().min(TURN_MAX);
        let events: Vec<_> = state.events.drain(..count).collect();
        let size: usize = events.iter().map(event_size).sum();
        state.waiting -= size;
        state.call_relays();
        Some(Call::Work(events, works_for(state.throttle)))
    }

    /// Comes out after `worked`, with the events that it did not get to.
    pub(crate) fn leave(&self, left: Vec<Event>, worked: Duration) {
        let mut state = self.lock();
        state.waiting += left.iter().map(event_size).sum::<usize>();
        left.into_iter().rev().for_each(|event| state.events.push_front(event));
        state.inside = false;
        let stands = stand(state.throttle, worked);
        state.stands_until = (!stands.is_zero()).then(|| Instant::now() + stands);
        if !state.open() {
            self.quiet.notify_all();
        }
    }

    /// The executor begins, or has ended.
    pub(crate) fn set_alive(&self, alive: bool) {
        let mut state = self.lock();
        (state.alive, state.inside) = (alive, false);
        self.quiet.notify_all();
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.lock().alive
    }

    /// Closes the doorway for the guest; `false` if the executor did not come out within `within`,
    /// and then it is as open as before.
    pub(crate) fn pause(&self, within: Duration) -> bool {
        self.close(within, |state| state.paused = true, |state| state.paused = false)
    }

    pub(crate) fn resume(&self) {
        self.change(|state| state.paused = false);
    }

    /// A parked guest has no relays any more: what they said and it did not take, they keep.
    pub(crate) fn let_go(&self) {
        self.change(|state| {
            state.events.retain(|event| matches!(event, Event::BeginMove));
            (state.waiting, state.lets_go) = (0, true);
            state.call_relays();
        });
    }

    /// Keeps memory still for a moment, whether or not the guest is parked.
    pub(crate) fn hold(&self, within: Duration) -> Option<Hold<'_>> {
        let held = self.close(within, |state| state.holds += 1, |state| state.holds -= 1);
        held.then_some(Hold { doorway: self })
    }

    /// Tells the executor to end, and relays that the guest is not here: their outlets are dropped.
    pub(crate) fn end(&self, within: Duration) -> bool {
        self.change(|state| {
            state.ended = true;
            state.events.clear();
            state.waiting = 0;
            state.call_relays();
        });
        self.falls_quiet(within, |state| !state.alive)
    }

    fn close(&self, within: Duration, close: fn(&mut State), undo: fn(&mut State)) -> bool {
        self.change(close);
        let quiet = self.falls_quiet(within, |state| !state.inside);
        if !quiet {
            self.change(undo);
        }
        quiet
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        self.open.store(state.open(), Ordering::Relaxed);
        self.wake.notify_all();
    }

    fn falls_quiet(&self, within: Duration, quiet: fn(&State) -> bool) -> bool {
        let waited = self.quiet.wait_timeout_while(self.lock(), within, |state| !quiet(state));
        quiet(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Every change of the state is whole: a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the executor works at once: not so long that it would have to stand for too long.
fn works_for(throttle: Throttle) -> Option<Duration> {
    let percent = u32::from(throttle.as_percent());
    (percent > 0).then(|| (STAND_MAX * (100 - percent) / percent).min(TURN_LONGEST))
}

fn size_of(said: &ToGuest) -> usize {
    let bytes = if let ToGuest::Bytes(_, _, bytes) = said { bytes.len() } else { 0 };
    EVENT_SIZE + bytes
}

fn event_size(event: &Event) -> usize {
    if let Event::FromRelay(_, said) = event { size_of(said) } else { 0 }
}

/// Keeps the guest's memory still until it is dropped.
pub(crate) struct Hold<'a> {
    doorway: &'a Doorway,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.doorway.change(|state| state.holds -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttled_executor_never_stands_still_for_long_and_has_its_share() {
        for percent in 1..=Throttle::MOST.as_percent() {
            let throttle = Throttle::percent(percent);
            let works = works_for(throttle).expect("it is throttled");
            let stands = stand(throttle, works);
            let share = stands.as_secs_f64() / (stands + works).as_secs_f64() * 100.0;
            assert!((share - f64::from(percent)).abs() < 0.1, "{percent}: {share}");
            assert!(works <= TURN_LONGEST && stands <= STAND_MAX, "{percent}: {stands:?}");
            assert!(stand(throttle, Duration::from_secs(1)) <= STAND_MAX, "{percent}");
        }
        assert_eq!(works_for(Throttle::OFF), None);
        assert_eq!(stand(Throttle::OFF, Duration::from_secs(1)), Duration::ZERO);
    }
}
