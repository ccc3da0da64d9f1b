//! Whether a guest will converge, what its downtime would be, and what to do about it.
//!
//! With a link of `B` bytes a second, a round over `V` bytes lasts `V/B` and leaves what the guest
//! wrote in that time. Rounds shrink as long as less is written than was sent. The downtime that
//! can be offered is everything that happens while paused: parking, the last harvest, a full
//! verification if there is one, the last pages, the state, and two round trips: Prepare, Prepared,
//! Grant, Running, of which the guest itself waits for the first three. Each of these parts was
//! measured or rehearsed while the guest ran.

mod limits;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::time::Duration;

use whimbrel_page::{ByteCount, ByteRate, PageCount};

use crate::Throughput;
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

/// A harvest and what came before it, as the lanes and the tracker tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// What the lanes have carried by then, since the migration began.
    pub throughput: Throughput,
    /// How long the guest could write what the harvest brought; `None` where it stood still
    /// meanwhile, and nobody knows.
    pub open: Option<Duration>,
    /// Pages that the harvest brought.
    pub written: PageCount,
    /// Pages that are pending after it, older ones included.
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
/// What was under way before a measurement may land within it, so that it has to be larger by this.
const OUTWEIGHS: u64 = 4;
/// So much says what a link carries to within a factor: enough not to stop a guest for it in vain.
const TELLING: ByteCount = ByteCount::mib(1);
/// Rounds that tell how fast the last pages will go. A running guest slows some of them down, which
/// a parked one does not, so that the fastest counts.
const RECENT: usize = 3;
/// What is handed to another thread while the guest is paused, and waited for: parking, the record
/// of the grant, and at the destination loading and running.
const ERRANDS: u32 = 4;
/// The same for the last pages: a lane is woken here, and one there.
const LANE_ERRANDS: u32 = 2;
/// One that took longer met a host that stood still, which it will not do each time.
const ERRAND_MAX: Duration = Duration::from_secs(1);
/// Who waits for an errand in quiet sleeps meanwhile and is woken, where one who is at work anyhow
/// takes the next thing: that costs so many times as much at most.
const QUIET: u32 = 4;
/// A known time that is beaten counts at once, one that is exceeded is raised to this share of it.
const RISING_PERCENT: u32 = 125;
/// Last pages that are sent this quickly are not worth another round.
pub(crate) const NEGLIGIBLE: Duration = Duration::from_millis(1);
/// The parts of a downtime, as people are told of them.
const PARTS: [&str; 5] = [
    "the pages",
    "the state",
    "2 round trips",
    "the last harvest and the ways between threads",
    "verifying memory",
];
/// How much a throttle is raised at a time: quick at first, then in small steps.
const THROTTLE_STEPS: [u8; 6] = [20, 40, 60, 75, 85, 92];

/// Watches the rounds of one migration.
#[derive(Clone, Debug)]
pub struct Forecast {
    settings: Convergence,
    bandwidth: Option<f64>,
    /// Bytes a second of the last rounds but the first, whose pages were new to the destination.
    recent: [f64; RECENT],
    /// What the lanes had carried when that was measured last.
    counted: Throughput,
    /// Whether enough was carried to know the link.
    telling: bool,
    dirty_rate: Option<f64>,
    /// Dirty pages after the round before.
    before: PageCount,
    stalled: u32,
    throttle: u8,
    harvest: Duration,
    /// The one before it.
    earlier: Duration,
    errand: Option<Duration>,
    round_trip: Option<Duration>,
    state: ByteCount,
    verification: Cost,
    limits: Limits,
}

/// No rate is ever NaN, so that equal bits are equal rates.
impl Hash for Forecast {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { settings, bandwidth, recent, counted, telling, dirty_rate, .. } = self;
        let Self { before, stalled, throttle, harvest, earlier, errand, round_trip, .. } = self;
        let Self { state: saved, verification, limits, .. } = self;
        let carried = (bandwidth.map(f64::to_bits), recent.map(f64::to_bits), counted, telling);
        let rates = (carried, dirty_rate.map(f64::to_bits));
        let times = (harvest, earlier, errand, round_trip, limits);
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
            counted: Throughput::default(),
            telling: false,
            dirty_rate: None,
            before: pages,
            stalled: 0,
            throttle: 0,
            harvest: Duration::ZERO,
            earlier: Duration::ZERO,
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
        let takes = self.verification.believed();
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

    /// Bytes a second that became dirty during the last round, a page counted once; `None` before
    /// that is known.
    #[must_use]
    pub fn dirty_rate(&self) -> Option<ByteCount> {
        self.dirty_rate.map(|rate| ByteCount(rate as u64))
    }

    /// The throttle that was decided last, in percent.
    #[must_use]
    pub const fn throttle(&self) -> u8 {
        self.throttle
    }

    /// The downtime of a switchover with `dirty` pages to send while paused.
    #[must_use]
    pub fn downtime(&self, dirty: PageCount) -> Option<Duration> {
        Some(self.parts(dirty)?.into_iter().fold(Duration::ZERO, Duration::saturating_add))
    }

    /// What a downtime is made of, in the order of [`PARTS`].
    fn parts(&self, dirty: PageCount) -> Option<[Duration; PARTS.len()]> {
        let recent = self.recent.into_iter().fold(0.0, f64::max);
        let measured = if recent > 0.0 { Some(recent) } else { self.bandwidth };
        let rate = self.limits.last(measured)?;
        let sending = |bytes: ByteCount| {
            Duration::try_from_secs_f64(bytes.0 as f64 / rate).unwrap_or(Duration::MAX)
        };
        // The guest stands still for one and a half; that it runs comes back after two, and that
        // is what the source measures.
        let trips = self.round_trip.unwrap_or_default() * 2;
        let lanes = if dirty == PageCount::ZERO { 0 } else { LANE_ERRANDS };
        let errands = self.errand.unwrap_or_default() * (ERRANDS + lanes);
        let here = self.harvest.saturating_add(errands);
        let verification = self.verification.believed();
        Some([sending(dirty.bytes()), sending(self.state), trips, here, verification])
    }

    /// Whether a pause with `dirty` pages would take longer than `limit`, as far as that is known:
    /// a link that has carried next to nothing may be any. Never so for the policy that takes what
    /// it gets.
    pub(crate) fn exceeds(&self, dirty: PageCount, limit: Duration) -> bool {
        let known = self.telling && self.settings.policy != Policy::SwitchOver;
        known && self.downtime(dirty).is_some_and(|downtime| downtime > limit)
    }

    /// Whether it would take so much longer than allowed that a second measurement would say so
    /// too.
    pub(crate) fn exceeds_by_far(&self, dirty: PageCount) -> bool {
        self.exceeds(dirty, self.settings.downtime_max.saturating_mul(3) / 2)
    }

    /// The downtime of a switchover that pauses now, so long after the last harvest: the guest has
    /// gone on writing as it did.
    #[must_use]
    pub fn downtime_after(&self, since: Duration) -> Option<Duration> {
        let rate = self.dirty_rate.unwrap_or_default();
        let written = ByteCount((rate * since.as_secs_f64()) as u64);
        self.downtime(self.before + PageCount::covering(written))
    }

    /// Whether a last look before the pause costs next to nothing: what is written meanwhile is
    /// sent in no time.
    #[must_use]
    pub fn has_time_to_rehearse(&self) -> bool {
        let rate = self.dirty_rate.unwrap_or_default();
        let written = ByteCount((rate * self.harvest.as_secs_f64()) as u64);
        self.negligible(PageCount::covering(written))
    }

    /// Takes note of a look while nothing else went on, which is how it will be in the pause.
    pub fn rehearsed(&mut self, harvest: Duration, errand: Duration, dirty: PageCount) {
        self.harvest = harvest;
        self.errand = Some(quickest(self.errand, errand.min(ERRAND_MAX)));
        self.before = dirty;
    }

    /// Takes note of what an errand took in quiet, for the estimate of a pause that is decided: a
    /// pause is not put off by one such measurement.
    pub fn errand_in_quiet(&mut self, errand: Duration) {
        let most = self.errand.map_or(ERRAND_MAX, |known| known * QUIET).min(ERRAND_MAX);
        self.errand = Some(errand.min(most));
    }

    /// Takes note of a round and decides what comes next.
    pub fn decide(&mut self, round: Round) -> Decision {
        self.measure(round);
        let shrinks = round.dirty.0 * 100 < self.before.0 * SHRINKING_PERCENT;
        self.before = round.dirty;
        let most = self.settings.downtime_max;
        let fits = self.downtime(round.dirty).is_some_and(|downtime| downtime <= most);
        let idle = round.dirty == PageCount::ZERO;
        let floor = !shrinks || self.negligible(round.dirty);
        if (fits && floor) || (idle && !self.exceeds(round.dirty, most)) {
            return Decision::Switch;
        }
        if !idle && (shrinks || fits) {
            self.stalled = 0;
            return Decision::Another;
        }
        self.stalled += 1;
        if self.stalled < STALLED_ROUNDS { Decision::Another } else { self.by_policy(round.dirty) }
    }

    /// Whether a pause takes too long without any page. One harvest that something came in between
    /// does not say so.
    fn is_too_slow_at_rest(&self) -> bool {
        let calm = Self { harvest: self.harvest.min(self.earlier), ..self.clone() };
        calm.exceeds(PageCount::ZERO, self.settings.downtime_max)
    }

    fn by_policy(&mut self, dirty: PageCount) -> Decision {
        let give_up = |forecast: &Self| Decision::GiveUp(forecast.numbers(dirty));
        match self.settings.policy {
            Policy::SwitchOver => Decision::Switch,
            // Nothing is written: the next round would find what this one did.
            _ if dirty == PageCount::ZERO => give_up(self),
            Policy::Wait => Decision::Another,
            Policy::GiveUp => give_up(self),
            // What it takes beside the pages is not less for a slower guest.
            Policy::Throttle { .. } if self.is_too_slow_at_rest() => give_up(self),
            Policy::Throttle { most } => {
                let higher = THROTTLE_STEPS.into_iter().find(|step| *step > self.throttle);
                let next = higher.unwrap_or(most).min(most);
                if next <= self.throttle {
                    return give_up(self);
                }
                self.throttle = next;
                self.stalled = 0;
                Decision::Throttle(next)
            }
        }
    }

    fn measure(&mut self, round: Round) {
        self.earlier = core::mem::replace(&mut self.harvest, round.harvest);
        self.errand = Some(quickest(self.errand, round.errand.min(ERRAND_MAX)));
        if let Some(open) = round.open {
            let written = round.written.bytes().0 as f64;
            self.dirty_rate = Some(written / open.as_secs_f64().max(1e-6));
        }
        self.carried(round.throughput);
    }

    /// A bandwidth is what was acknowledged, for the time in which anything was under way: with
    /// the last acknowledgements of a round missing it is too low, and never too high.
    fn carried(&mut self, throughput: Throughput) {
        let (bytes, busy) = throughput.since(&self.counted);
        let rate = self.limits.rounds(bytes.0 as f64 / busy.as_secs_f64().max(1e-6));
        let enough = bytes >= MEASURABLE && bytes.0 >= OUTWEIGHS * self.counted.under_way.0;
        self.telling |= bytes >= TELLING;
        self.bandwidth = match self.bandwidth {
            Some(known) if enough && self.counted != Throughput::default() => {
                self.recent.rotate_right(1);
                self.recent[0] = rate;
                Some((known + rate) / 2.0)
            }
            Some(known) if self.counted != Throughput::default() => Some(known),
            // Until there is enough of it, all of it is looked at.
            known if bytes == ByteCount::ZERO => known,
            _ => Some(rate),
        };
        if enough || self.counted != Throughput::default() {
            self.counted = throughput;
        }
    }

    fn negligible(&self, dirty: PageCount) -> bool {
        let rate = self.bandwidth.unwrap_or(1.0);
        dirty.bytes().0 as f64 / rate <= NEGLIGIBLE.as_secs_f64()
    }

    /// Why a guest does not converge, what its downtime would be made of, and what helps.
    #[must_use]
    pub fn numbers(&self, dirty: PageCount) -> String {
        let parts = self.parts(dirty).unwrap_or([Duration::MAX; PARTS.len()]);
        let offer = parts.into_iter().fold(Duration::ZERO, Duration::saturating_add);
        let told = PARTS.iter().zip(parts).filter(|(_, time)| *time >= NEGLIGIBLE);
        let told: Vec<_> =
            told.map(|(what, time)| format!("{} ms for {what}", time.as_millis())).collect();
        let throttled = match self.throttle {
            0 => String::new(),
            percent => format!(" although it was throttled by {percent} %"),
        };
        format!(
            "the guest dirties {}/s (each page counted once a round){throttled}, the lanes carry \
             {}/s, {} stay dirty and {} of state go with them: the downtime would be {} ms ({}), \
             and {} ms are allowed; allow more downtime, lift a limit or use more lanes, or have \
             it switch over anyway",
            amount(self.dirty_rate.unwrap_or_default()),
            amount(self.bandwidth.unwrap_or_default()),
            amount(dirty.bytes().0 as f64),
            amount(self.state.0 as f64),
            offer.as_millis(),
            told.join(", "),
            self.settings.downtime_max.as_millis()
        )
    }
}

/// So many bytes, for a person: slow lanes do not carry 0 MiB a second.
fn amount(bytes: f64) -> String {
    let mib = bytes / (1 << 20) as f64;
    if mib < 10.0 { format!("{:.0} KiB", mib * 1024.0) } else { format!("{mib:.0} MiB") }
}

/// The quickest of what was measured; what is slower for good is believed step by step.
fn quickest(known: Option<Duration>, measured: Duration) -> Duration {
    known.map_or(measured, |known| measured.min(known * RISING_PERCENT / 100))
}

#[cfg(test)]
mod tests;
