//! Rate limits: a lane asks before it takes, and is told how much it may, or when to ask again.
//!
//! Each limit is a bucket that fills at its rate. Who finds anything in it may take a quantum, also
//! if that leaves a debt; the debt is waited for. So the rate is kept over any longer time, and
//! over a short one it is exceeded by what the bucket holds and the quanta of the lanes.

use alloc::collections::BTreeMap;
use core::net::IpAddr;
use core::time::Duration;

use whimbrel_page::{ByteCount, ByteRate};

use crate::ids::Now;

/// What the lanes of a migration may carry together. `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// While the guest runs.
    pub rounds: Option<ByteRate>,
    /// While it stands still: the last pages. `None` is as while it runs.
    pub switchover: Option<ByteRate>,
    /// At any time: the migration's part of what its host may send.
    pub share: Option<ByteRate>,
    /// At any time, on paths from this address.
    pub paths: BTreeMap<IpAddr, ByteRate>,
}

impl Limits {
    /// The least of the limits that hold while the guest runs, and while it stands still, where
    /// paths come from these addresses. Those of paths hold together where no path is without.
    #[must_use]
    pub fn least(&self, from: &[Option<IpAddr>]) -> (Option<ByteRate>, Option<ByteRate>) {
        let of_path = |from: &Option<IpAddr>| from.as_ref().and_then(|from| self.paths.get(from));
        let of_paths =
            from.iter().map(|from| of_path(from).map(|rate| rate.0)).sum::<Option<u64>>();
        let of_paths = of_paths.filter(|_| !from.is_empty()).map(ByteRate);
        let least = |one: Option<ByteRate>| one.into_iter().chain(self.share).chain(of_paths).min();
        (least(self.rounds), least(self.switchover.or(self.rounds)))
    }
}

/// What a bucket holds at most: what its rate fills in this time.
const HOLDS: Duration = Duration::from_millis(25);
/// What a lane takes at a time at most: what the rate fills in this time.
const QUANTUM: Duration = Duration::from_millis(8);
/// And at least: a page.
const QUANTUM_MIN: f64 = 4096.0;
/// Waiting for less costs more than it gains.
const WAIT_MIN: Duration = Duration::from_micros(500);

#[derive(Debug)]
struct Bucket {
    rate: f64,
    level: f64,
    filled: Now,
}

impl Bucket {
    const fn new(rate: ByteRate, now: Now) -> Self {
        Self { rate: rate.0 as f64, level: 0.0, filled: now }
    }

    fn fill(&mut self, now: Now) {
        let passed = now.since(self.filled).as_secs_f64();
        let most = (self.rate * HOLDS.as_secs_f64()).max(QUANTUM_MIN);
        self.level = (self.level + self.rate * passed).min(most);
        self.filled = now;
    }

    fn quantum(&self) -> f64 {
        (self.rate * QUANTUM.as_secs_f64()).max(QUANTUM_MIN)
    }

    /// How much may be taken, or how long to wait.
    fn ask(&mut self, now: Now) -> Result<f64, Duration> {
        self.fill(now);
        if self.level > 0.0 {
            return Ok(self.quantum());
        }
        let wait = Duration::try_from_secs_f64(-self.level / self.rate.max(1.0));
        Err(wait.unwrap_or(Duration::MAX).max(WAIT_MIN))
    }
}

/// The limits at work.
#[derive(Debug, Default)]
pub struct Pace {
    rounds: Option<Bucket>,
    switchover: Option<Bucket>,
    share: Option<Bucket>,
    paths: BTreeMap<IpAddr, Bucket>,
    /// What these were made of.
    limits: Limits,
}

/// Which limits hold for a taking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The address its path comes from.
    pub from: Option<IpAddr>,
    /// Whether it is of the last pages.
    pub last: bool,
}

impl Pace {
    /// These limits hold from now on.
    pub fn set(&mut self, limits: &Limits, now: Now) {
        self.limits = limits.clone();
        set(&mut self.rounds, limits.rounds, now);
        set(&mut self.switchover, limits.switchover, now);
        set(&mut self.share, limits.share, now);
        self.paths.retain(|from, _| limits.paths.contains_key(from));
        for (from, rate) in &limits.paths {
            let fresh = Bucket::new(*rate, now);
            self.paths.entry(*from).or_insert(fresh).rate = rate.0 as f64;
        }
    }

    /// The limits that hold now.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    fn buckets(&mut self, claim: Claim) -> impl Iterator<Item = &mut Bucket> {
        let Self { rounds, switchover, share, paths, .. } = self;
        let own = if claim.last && switchover.is_some() { switchover } else { rounds };
        let path = claim.from.and_then(|from| paths.get_mut(&from));
        own.iter_mut().chain(share).chain(path)
    }

    /// How much may be taken now, or how long to wait before asking again.
    pub fn ask(&mut self, claim: Claim, now: Now) -> Result<ByteCount, Duration> {
        let (mut most, mut wait) = (f64::MAX, Duration::ZERO);
        for bucket in self.buckets(claim) {
            match bucket.ask(now) {
                Ok(some) => most = most.min(some),
                Err(longer) => wait = wait.max(longer),
            }
        }
        if wait.is_zero() { Ok(ByteCount(most as u64)) } else { Err(wait) }
    }

    /// So much is about to be sent.
    pub fn take(&mut self, claim: Claim, bytes: ByteCount) {
        self.buckets(claim).for_each(|bucket| bucket.level -= bytes.0 as f64);
    }

    /// So much of it was not.
    pub fn give_back(&mut self, claim: Claim, bytes: ByteCount) {
        self.buckets(claim).for_each(|bucket| bucket.level += bytes.0 as f64);
    }
}

fn set(bucket: &mut Option<Bucket>, rate: Option<ByteRate>, now: Now) {
    match (bucket.as_mut(), rate) {
        (Some(bucket), Some(rate)) => {
            // What was filled so far was filled at the old rate.
            bucket.fill(now);
            bucket.rate = rate.0 as f64;
        }
        (_, rate) => *bucket = rate.map(|rate| Bucket::new(rate, now)),
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    const RATE: ByteRate = ByteRate(100_000_000);
    const BATCH: u64 = 256 << 10;

    fn limits(rounds: Option<ByteRate>) -> Limits {
        Limits { rounds, ..Limits::default() }
    }

    /// What lanes that take what they may and wait as they are told send in a second.
    fn sent(pace: &mut Pace, claims: &[Claim], from: Now) -> Vec<u64> {
        let end = from.after(Duration::from_secs(1));
        let mut lanes: Vec<_> = claims.iter().map(|claim| (*claim, from, 0)).collect();
        while let Some((claim, at, bytes)) = lanes.iter_mut().min_by_key(|(_, at, _)| *at) {
            if *at >= end {
                break;
            }
            match pace.ask(*claim, *at) {
                Ok(most) => {
                    let took = most.0.min(BATCH);
                    pace.take(*claim, ByteCount(took));
                    *bytes += took;
                    *at = at.after(Duration::from_micros(100));
                }
                Err(wait) => *at = at.after(wait),
            }
        }
        lanes.into_iter().map(|(_, _, bytes)| bytes).collect()
    }

    fn assert_near(bytes: u64, rate: ByteRate) {
        let share = bytes as f64 / rate.0 as f64;
        assert!((0.95..=1.05).contains(&share), "{bytes} bytes in a second are not {rate}");
    }

    #[test]
    fn a_rate_is_kept_by_any_number_of_lanes() {
        for lanes in [1, 4, 32] {
            for rate in [ByteRate(2_000_000), RATE, ByteRate(1_250_000_000)] {
                let now = Now::default();
                let mut pace = Pace::default();
                pace.set(&limits(Some(rate)), now);
                let all = sent(&mut pace, &vec![Claim::default(); lanes], now);
                assert_near(all.iter().sum(), rate);
            }
        }
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let mut pace = Pace::default();
        assert_eq!(pace.ask(Claim::default(), Now::default()), Ok(ByteCount(u64::MAX)));
    }

    #[test]
    fn the_last_pages_have_a_limit_of_their_own() {
        let now = Now::default();
        let faster = Some(ByteRate(RATE.0 * 4));
        let mut pace = Pace::default();
        pace.set(&Limits { switchover: faster, ..limits(Some(RATE)) }, now);
        let last = Claim { last: true, ..Claim::default() };
        assert_near(sent(&mut pace, &[last], now)[0], ByteRate(RATE.0 * 4));
        pace.set(&limits(Some(RATE)), now);
        assert_near(sent(&mut pace, &[last], now.after(Duration::from_secs(2)))[0], RATE);
    }

    #[test]
    fn a_path_may_be_slower_than_the_rest() {
        let now = Now::default();
        let ip = |last| Some(IpAddr::from([10, 0, 0, last]));
        let slow = ByteRate(RATE.0 / 4);
        let paths = BTreeMap::from([(ip(1).expect("one"), slow)]);
        let mut pace = Pace::default();
        pace.set(&Limits { paths, share: Some(RATE), ..Limits::default() }, now);
        let claim = |last| Claim { from: ip(last), last: false };
        let all = sent(&mut pace, &[claim(1), claim(2)], now);
        assert_near(all[0], slow);
        assert_near(all[0] + all[1], RATE);
    }

    #[test]
    fn what_was_not_sent_is_given_back() {
        let now = Now::default();
        let mut pace = Pace::default();
        pace.set(&limits(Some(RATE)), now);
        let (claim, second) = (Claim::default(), now.after(Duration::from_secs(1)));
        assert!(pace.ask(claim, second).is_ok());
        pace.take(claim, ByteCount(RATE.0));
        assert!(pace.ask(claim, second).is_err());
        pace.give_back(claim, ByteCount(RATE.0));
        assert!(pace.ask(claim, second).is_ok());
    }

    #[test]
    fn the_least_limit_is_what_a_forecast_counts_on() {
        let rate = |rate| Some(ByteRate(rate));
        let all = Limits { switchover: rate(9), share: rate(5), ..limits(rate(7)) };
        assert_eq!(all.least(&[None]), (rate(5), rate(5)));
        let own = Limits { share: None, ..all };
        assert_eq!(own.least(&[None]), (rate(7), rate(9)));
        assert_eq!(Limits::default().least(&[]), (None, None));
        let [near, far] = [[10, 0, 0, 1], [10, 0, 1, 1]].map(IpAddr::from);
        let paths = BTreeMap::from([(near, ByteRate(2)), (far, ByteRate(4))]);
        let of_paths = Limits { paths, ..own };
        assert_eq!(of_paths.least(&[Some(near), Some(far)]), (rate(6), rate(6)), "both together");
        assert_eq!(of_paths.least(&[Some(near)]), (rate(2), rate(2)));
        assert_eq!(of_paths.least(&[Some(near), None]), (rate(7), rate(9)), "one has none");
    }
}
