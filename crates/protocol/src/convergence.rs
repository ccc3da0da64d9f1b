//! Whether a guest will converge, what its downtime would be, and what to do about it.
//!
//! With a link of `B` bytes a second, a round over `V` bytes lasts `V/B` and leaves what the guest
//! wrote in that time. Rounds shrink as long as less is written than was sent. The downtime that
//! can be offered is everything that happens while paused: parking, the last harvest, a full
//! verification if there is one, the last pages, the state, and 1.5 round trips for Prepare,
//! Prepared and Grant. Each of these parts was measured or rehearsed while the guest ran.

mod limits;

use alloc::format;
use alloc::string::String;
use core::hash::{Hash, Hasher};
use core::time::Duration;

use whimbrel_page::{ByteCount, ByteRate, PageCount};

use crate::verify::Cost;
use limits::Limits;

/// What to do with a guest that writes faster than it can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Slow it down step by step, up to this many percent; give up when that does not do.
    Throttle {
        /// The strongest throttle, in percent.
        most: u8,
    },
    /// Switch over with the downtime it takes.
    SwitchOver,
    /// Keep sending rounds until it converges by itself or somebody cancels.
    Wait,
    /// Leave it running at the source.
    GiveUp,
}

/// What the guest's convergence is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convergence {
    /// The longest downtime to switch over with.
    pub downtime_max: Duration,
    /// What to do where that cannot be had.
    pub policy: Policy,
}

/// One finished round, as the ledger and the tracker tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Bytes that were sent in it.
    pub bytes: ByteCount,
    /// How long sending them took.
    pub took: Duration,
    /// How long the guest could write before the harvest that followed.
    pub open: Duration,
    /// Pages that are pending after the harvest that followed it.
    pub dirty: PageCount,
    /// How long the harvest of a parked guest would have taken then.
    pub harvest: Duration,
    /// How long it took beside the harvest itself to have it done: the way to the thread that does
    /// such things, and back.
    pub errand: Duration,
}

/// What to do after a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send what is dirty in another round.
    Another,
    /// Pause, and send it then.
    Switch,
    /// Slow the guest down to this many percent, and send another round.
    Throttle(u8),
    /// End the attempt; the sentence has the numbers.
    GiveUp(String),
}

/// A round that leaves more than this share of what was dirty before it does not shrink.
const SHRINKING_PERCENT: u64 = 75;
/// Rounds in a row that must fail to shrink before the policy acts: one may be bad luck.
const STALLED_ROUNDS: u32 = 2;
/// Rounds below this size measure latency, not bandwidth.
const MEASURABLE: ByteCount = ByteCount::mib(4);
/// Rounds that tell how fast the last pages will go. A running guest slows some of them down, which
/// a parked one does not, so that the fastest counts.
const RECENT: usize = 3;
/// What is handed to another thread while the guest is paused, and waited for: parking, the last
/// pages, and at the destination loading and running.
const ERRANDS: u32 = 4;
/// A known time that is beaten counts at once, one that is exceeded is raised to this share of it.
const RISING_PERCENT: u32 = 125;
/// Last pages that are sent this quickly are not worth another round.
pub(crate) const NEGLIGIBLE: Duration = Duration::from_millis(1);
/// How much a throttle is raised at a time: quick at first, then in small steps.
const THROTTLE_STEPS: [u8; 6] = [20, 40, 60, 75, 85, 92];

/// Watches the rounds of one migration.
#[derive(Clone, Debug)]
pub struct Forecast {
    settings: Convergence,
    bandwidth: Option<f64>,
    /// Bytes a second of the last rounds but the first, whose pages were new to the destination.
    recent: [f64; RECENT],
    dirty_rate: f64,
    /// Dirty pages after the round before.
    before: PageCount,
    stalled: u32,
    throttle: u8,
    harvest: Duration,
    errand: Option<Duration>,
    round_trip: Option<Duration>,
    state: ByteCount,
    verification: Cost,
    limits: Limits,
}

/// No rate is ever NaN, so that equal bits are equal rates.
impl Hash for Forecast {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { settings, bandwidth, recent, dirty_rate, before, .. } = self;
        let Self { stalled, throttle, harvest, errand, round_trip, state: saved, .. } = self;
        let Self { verification, limits, .. } = self;
        let rates = (bandwidth.map(f64::to_bits), recent.map(f64::to_bits), dirty_rate.to_bits());
        let times = (harvest, errand, round_trip, limits);
        (settings, rates, before, stalled, throttle, times, saved, verification).hash(state);
    }
}

impl Forecast {
    /// A forecast for a guest of `pages`, of which nothing was sent yet.
    #[must_use]
    pub fn new(settings: Convergence, pages: PageCount) -> Self {
        Self {
            settings,
            bandwidth: None,
            recent: [0.0; RECENT],
            dirty_rate: 0.0,
            before: pages,
            stalled: 0,
            throttle: 0,
            harvest: Duration::ZERO,
            errand: None,
            round_trip: None,
            state: ByteCount::ZERO,
            verification: Cost::default(),
            limits: Limits::default(),
        }
    }

    /// Takes note of a measured round trip of the control connection. While paused nothing else is
    /// under way, so that the quickest is the best measure.
    pub fn round_trip(&mut self, measured: Duration) {
        self.round_trip = Some(quickest(self.round_trip, measured));
    }

    /// Takes note of what all lanes may carry together from now on: while the guest runs, and while
    /// the last pages are sent.
    pub const fn limited(&mut self, rounds: Option<ByteRate>, last: Option<ByteRate>) {
        self.limits = Limits { rounds, last };
    }

    /// Takes note of how large the guest's state is.
    pub const fn state_size(&mut self, bytes: ByteCount) {
        self.state = bytes;
    }

    /// Takes note of how much memory a full verification would read, and how long that takes here.
    pub const fn digests_here(&mut self, memory: ByteCount, takes: Duration) {
        self.verification.here(memory, takes);
    }

    /// Takes note of how long the destination took to digest so much.
    pub fn digests_there(&mut self, digested: ByteCount, took: Duration) {
        self.verification.there(digested, took);
    }

    /// Why no round will ever bring the downtime within its limit: the full verification alone
    /// takes longer.
    #[must_use]
    pub fn hopeless(&self) -> Option<String> {
        let takes = self.verification.time();
        let most = self.settings.downtime_max;
        (takes > most && self.settings.policy != Policy::SwitchOver).then(|| {
            format!(
                "verifying all {} MiB of memory in use would stop the guest for about {} ms, and \
                 {} ms are allowed: allow more downtime, or verify by digest",
                self.verification.memory().0 >> 20,
                takes.as_millis(),
                most.as_millis()
            )
        })
    }

    /// Bytes a second over all lanes, once a round was large enough to tell.
    #[must_use]
    pub fn bandwidth(&self) -> Option<ByteCount> {
        self.bandwidth.map(|rate| ByteCount(rate as u64))
    }

    /// Bytes a second that became dirty during the last round, a page counted once.
    #[must_use]
    pub const fn dirty_rate(&self) -> ByteCount {
        ByteCount(self.dirty_rate as u64)
    }

    /// The throttle that was decided last, in percent.
    #[must_use]
    pub const fn throttle(&self) -> u8 {
        self.throttle
    }

    /// The downtime of a switchover with `dirty` pages to send while paused.
    #[must_use]
    pub fn downtime(&self, dirty: PageCount) -> Option<Duration> {
        let bytes = dirty.bytes() + self.state;
        let recent = self.recent.into_iter().fold(0.0, f64::max);
        let measured = if recent > 0.0 { Some(recent) } else { self.bandwidth };
        let rate = self.limits.last(measured)?;
        let sending = Duration::try_from_secs_f64(bytes.0 as f64 / rate);
        let trips = self.round_trip.unwrap_or_default() * 3 / 2;
        let fixed = self.harvest + trips + self.errand.unwrap_or_default() * ERRANDS;
        let fixed = fixed.saturating_add(self.verification.time());
        Some(sending.unwrap_or(Duration::MAX).saturating_add(fixed))
    }

    /// The downtime of a switchover that pauses now, so long after the last harvest: the guest has
    /// gone on writing as it did.
    #[must_use]
    pub fn downtime_after(&self, since: Duration) -> Option<Duration> {
        let written = ByteCount((self.dirty_rate * since.as_secs_f64()) as u64);
        self.downtime(self.before + PageCount::covering(written))
    }

    /// Whether what is dirty is sent so quickly that a last look before the pause costs nothing.
    #[must_use]
    pub fn has_time_to_rehearse(&self) -> bool {
        self.negligible(self.before)
    }

    /// Takes note of a harvest while nothing else went on, which is how it will be in the pause.
    pub fn rehearsed(&mut self, harvest: Duration, errand: Duration, dirty: PageCount) {
        self.harvest = harvest;
        self.errand = Some(quickest(self.errand, errand));
        self.before = dirty;
    }

    /// Takes note of a round and decides what comes next.
    pub fn decide(&mut self, round: Round) -> Decision {
        self.measure(round);
        let shrinks = round.dirty.0 * 100 < self.before.0 * SHRINKING_PERCENT;
        self.before = round.dirty;
        let fits = self.downtime(round.dirty).is_some_and(|d| d <= self.settings.downtime_max);
        if round.dirty == PageCount::ZERO || (fits && (!shrinks || self.negligible(round.dirty))) {
            return Decision::Switch;
        }
        if shrinks || fits {
            self.stalled = 0;
            return Decision::Another;
        }
        self.stalled += 1;
        if self.stalled < STALLED_ROUNDS { Decision::Another } else { self.by_policy(round) }
    }

    fn by_policy(&mut self, round: Round) -> Decision {
        match self.settings.policy {
            Policy::SwitchOver => Decision::Switch,
            Policy::Wait => Decision::Another,
            Policy::GiveUp => Decision::GiveUp(self.numbers(round.dirty)),
            Policy::Throttle { most } => {
                let higher = THROTTLE_STEPS.into_iter().find(|step| *step > self.throttle);
                let next = higher.unwrap_or(most).min(most);
                if next <= self.throttle {
                    return Decision::GiveUp(self.numbers(round.dirty));
                }
                self.throttle = next;
                self.stalled = 0;
                Decision::Throttle(next)
            }
        }
    }

    fn measure(&mut self, round: Round) {
        self.harvest = round.harvest;
        self.errand = Some(quickest(self.errand, round.errand));
        self.dirty_rate = round.dirty.bytes().0 as f64 / round.open.as_secs_f64().max(1e-6);
        let rate = (round.bytes.0 as f64 / round.took.as_secs_f64().max(1e-6)).max(1.0);
        // A smaller one has only filled buffers.
        if self.bandwidth.is_some() && round.bytes >= MEASURABLE {
            self.recent.rotate_right(1);
            self.recent[0] = rate;
        }
        self.bandwidth = match self.bandwidth {
            _ if round.bytes == ByteCount::ZERO => self.bandwidth,
            Some(known) if round.bytes >= MEASURABLE => Some((known + rate) / 2.0),
            // A first round that is mostly zeros takes long and sends little; a small one that went
            // faster shows that it is no measure of the link.
            Some(known) => Some(known.max(rate)),
            None => Some(rate),
        };
    }

    fn negligible(&self, dirty: PageCount) -> bool {
        let rate = self.bandwidth.unwrap_or(1.0);
        dirty.bytes().0 as f64 / rate <= NEGLIGIBLE.as_secs_f64()
    }

    /// Why a guest does not converge, with what it would take.
    #[must_use]
    pub fn numbers(&self, dirty: PageCount) -> String {
        let offer = self.downtime(dirty).unwrap_or(Duration::MAX);
        let mib = |rate: f64| rate / (1 << 20) as f64;
        let throttled = match self.throttle {
            0 => String::new(),
            percent => format!(" although it was throttled by {percent} %"),
        };
        format!(
            "the guest dirties {:.0} MiB/s (each page counted once a round){throttled}, the lanes \
             carry {:.0} MiB/s, and {} MiB stay dirty: the downtime would be {} ms, and {} ms are \
             allowed",
            mib(self.dirty_rate),
            mib(self.bandwidth.unwrap_or(0.0)),
            dirty.bytes().0 >> 20,
            offer.as_millis(),
            self.settings.downtime_max.as_millis()
        )
    }
}

/// The quickest of what was measured; what is slower for good is believed step by step.
fn quickest(known: Option<Duration>, measured: Duration) -> Duration {
    known.map_or(measured, |known| measured.min(known * RISING_PERCENT / 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: PageCount = PageCount(262_144);

    fn forecast(policy: Policy, downtime_ms: u64) -> Forecast {
        let downtime_max = Duration::from_millis(downtime_ms);
        Forecast::new(Convergence { downtime_max, policy }, PAGES)
    }

    /// A round at 1000 MiB/s that leaves `dirty` MiB.
    fn round(mib: u64, dirty: u64) -> Round {
        Round {
            bytes: ByteCount::mib(mib),
            took: Duration::from_millis(mib.max(1)),
            open: Duration::from_millis(mib.max(1)),
            dirty: PageCount::covering(ByteCount::mib(dirty)),
            harvest: Duration::from_millis(1),
            errand: Duration::from_micros(100),
        }
    }

    #[test]
    fn an_idle_guest_switches_after_the_first_round() {
        assert_eq!(forecast(Policy::Wait, 300).decide(round(1024, 0)), Decision::Switch);
    }

    #[test]
    fn rounds_go_on_while_they_shrink_even_within_the_limit() {
        let mut forecast = forecast(Policy::GiveUp, 300);
        assert_eq!(forecast.decide(round(1024, 256)), Decision::Another);
        assert_eq!(forecast.decide(round(256, 100)), Decision::Another);
        assert_eq!(forecast.decide(round(100, 40)), Decision::Another);
        assert_eq!(forecast.decide(round(40, 35)), Decision::Switch, "the floor is reached");
    }

    #[test]
    fn a_guest_that_does_not_shrink_meets_the_policy() {
        let stall = |policy| {
            let mut forecast = forecast(policy, 30);
            (0..5).map(|_| forecast.decide(round(256, 256))).collect::<alloc::vec::Vec<_>>()
        };
        assert_eq!(stall(Policy::Wait).last(), Some(&Decision::Another));
        assert_eq!(stall(Policy::SwitchOver).last(), Some(&Decision::Switch));
        assert!(matches!(stall(Policy::GiveUp).last(), Some(Decision::GiveUp(why))
            if why.contains("1000 MiB/s") && why.contains("30 ms are allowed")));
        let throttled = stall(Policy::Throttle { most: 30 });
        assert_eq!(throttled[2], Decision::Throttle(20));
        assert_eq!(throttled[4], Decision::Throttle(30));
    }

    #[test]
    fn a_throttle_at_its_limit_gives_up_with_numbers() {
        let mut forecast = forecast(Policy::Throttle { most: 50 }, 1);
        let decisions = (0..20).map(|_| forecast.decide(round(256, 256)));
        let last = decisions.last();
        assert!(matches!(last, Some(Decision::GiveUp(why)) if why.contains("throttled by 50 %")));
    }

    #[test]
    fn the_downtime_counts_everything_that_happens_while_paused() {
        let mut forecast = forecast(Policy::Wait, 300);
        forecast.decide(round(1000, 100));
        let pages_only = forecast.downtime(PageCount::covering(ByteCount::mib(100)));
        assert!(pages_only >= Some(Duration::from_millis(100)));
        let rehearsed = Duration::from_millis(1) + Duration::from_micros(4 * 100);
        assert_eq!(pages_only, Some(Duration::from_millis(100) + rehearsed));
        forecast.round_trip(Duration::from_millis(20));
        forecast.state_size(ByteCount::mib(10));
        let more = forecast.downtime(PageCount::covering(ByteCount::mib(100)));
        let grown = more.zip(pages_only).map(|(more, pages)| more - pages);
        assert!(
            grown >= Some(Duration::from_millis(39)),
            "1.5 round trips and the state: {grown:?}"
        );
        forecast.digests_here(ByteCount::mib(1000), Duration::from_millis(70));
        forecast.digests_there(ByteCount::mib(10), Duration::from_millis(1));
        let verified = forecast.downtime(PageCount::covering(ByteCount::mib(100)));
        let grown = verified.zip(more).map(|(verified, more)| verified - more);
        let most = Some(Duration::from_millis(171));
        assert!(
            grown >= Some(Duration::from_millis(169)) && grown < most,
            "both digests: {grown:?}"
        );
    }

    #[test]
    fn a_verification_that_takes_too_long_by_itself_is_hopeless() {
        let mut forecast = forecast(Policy::Throttle { most: 99 }, 300);
        forecast.digests_here(ByteCount::mib(8192), Duration::from_millis(140));
        assert_eq!(forecast.hopeless(), None);
        forecast.digests_there(ByteCount::mib(1), Duration::from_millis(1));
        let why = forecast.hopeless().unwrap_or_default();
        assert!(why.contains("8192 MiB") && why.contains("8332 ms, and 300 ms"), "{why}");
        forecast.settings.policy = Policy::SwitchOver;
        assert_eq!(forecast.hopeless(), None, "that policy takes what it gets");
    }

    #[test]
    fn the_last_pages_go_as_fast_as_the_fastest_of_the_last_rounds() {
        let mut forecast = forecast(Policy::Wait, 300);
        let slow = |mib, ms| Round { took: Duration::from_millis(ms), ..round(mib, 100) };
        // The first round fills fresh memory and is no measure of what comes after it.
        forecast.decide(slow(1000, 2000));
        let after =
            |forecast: &Forecast| forecast.downtime(PageCount::covering(ByteCount::mib(100)));
        let fixed = Duration::from_micros(1400);
        assert_eq!(after(&forecast), Some(Duration::from_millis(200) + fixed));
        for ms in [125, 50, 100] {
            forecast.decide(slow(100, ms));
        }
        assert_eq!(after(&forecast), Some(Duration::from_millis(50) + fixed));
        for _ in 0..2 {
            forecast.decide(slow(100, 100));
        }
        assert_eq!(
            after(&forecast),
            Some(Duration::from_millis(100) + fixed),
            "three are looked at"
        );
    }

    #[test]
    fn what_is_written_until_the_pause_is_counted() {
        let mut forecast = forecast(Policy::Wait, 300);
        forecast.decide(round(1000, 100));
        forecast.decide(round(100, 50));
        let fixed = Duration::from_micros(1400);
        assert_eq!(
            forecast.downtime_after(Duration::ZERO),
            Some(Duration::from_millis(50) + fixed)
        );
        // 50 MiB in 100 ms were written, at 1000 MiB/s they are sent.
        let later = forecast.downtime_after(Duration::from_millis(20));
        assert_eq!(later, Some(Duration::from_millis(60) + fixed));
    }

    #[test]
    fn a_rehearsal_in_quiet_counts_for_more_than_a_round() {
        let mut forecast = forecast(Policy::Wait, 300);
        forecast.decide(round(1000, 100));
        assert!(!forecast.has_time_to_rehearse(), "100 ms of pages wait");
        forecast.decide(round(100, 1));
        assert!(forecast.has_time_to_rehearse());
        let us = Duration::from_micros;
        forecast.rehearsed(us(500), us(20), PageCount::ZERO);
        assert_eq!(forecast.downtime(PageCount::ZERO), Some(us(580)));
    }

    #[test]
    fn a_round_trip_is_the_quickest_until_it_is_slower_for_good() {
        let ms = Duration::from_millis;
        let mut forecast = forecast(Policy::Wait, 300);
        [10, 8, 100].into_iter().for_each(|measured| forecast.round_trip(ms(measured)));
        assert_eq!(forecast.round_trip, Some(ms(10)));
        (0..20).for_each(|_| forecast.round_trip(ms(100)));
        assert_eq!(forecast.round_trip, Some(ms(100)));
    }

    #[test]
    fn a_first_round_of_zeros_is_no_measure_of_the_link() {
        let mut forecast = forecast(Policy::Throttle { most: 99 }, 300);
        let slow = Round { took: Duration::from_secs(4), ..round(3, 3) };
        let decisions = [slow, round(3, 3), round(3, 3)].map(|round| forecast.decide(round));
        assert_eq!(decisions.last(), Some(&Decision::Switch), "{decisions:?}");
    }
}
