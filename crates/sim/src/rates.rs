//! What the lanes may carry together: the shipping pace, and what is seen of it from outside.

use std::time::Duration;

use whimbrel_page::{ByteCount, ByteRate, PAGE_SIZE};
use whimbrel_protocol::{Claim, Limits, Now, SourceEvent};

use crate::world::World;

/// What may be carried at once beyond a rate: what the rate fills in this time, and two pages.
/// What is saved up and one taking are each a page at least.
const BURST: Duration = Duration::from_millis(33);

/// What one limit has let through beyond its rate, over the worst span of time that ends now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Excess {
    rate: u64,
    /// In bytes times nanoseconds, so that nothing is rounded.
    beyond: u128,
    at: Duration,
}

impl Excess {
    fn of(rate: Option<ByteRate>, now: Duration) -> Self {
        Self { rate: rate.map_or(0, |rate| rate.0), beyond: 0, at: now }
    }

    fn carry(&mut self, bytes: ByteCount, now: Duration) {
        let allowed = u128::from(self.rate) * (now - self.at).as_nanos();
        self.beyond = self.beyond.saturating_sub(allowed) + in_nanos(bytes.0);
        self.at = now;
    }

    const fn give_back(&mut self, bytes: ByteCount) {
        self.beyond = self.beyond.saturating_sub(in_nanos(bytes.0));
    }

    /// How much more it was than may be, if it was.
    pub(crate) fn breaks(&self) -> Option<String> {
        let burst = u128::from(self.rate) * BURST.as_nanos() + in_nanos(2 * PAGE_SIZE as u64);
        let over = (self.rate > 0).then(|| self.beyond.checked_sub(burst)).flatten()?;
        let (bytes, rate) = (over / in_nanos(1), self.rate);
        (over > 0).then(|| format!("{bytes} bytes more than {rate} a second were carried"))
    }
}

const fn in_nanos(bytes: u64) -> u128 {
    bytes as u128 * 1_000_000_000
}

impl World {
    /// Somebody limits the lanes from now on.
    pub(crate) fn limit(&mut self, rounds: Option<ByteRate>, switchover: Option<ByteRate>) {
        let limits = Limits { rounds, switchover, ..Limits::default() };
        self.src.pace.set(&limits, Now(self.now));
        self.src.excess = [rounds, switchover].map(|rate| Excess::of(rate, self.now));
        let (rounds, last) = limits.least(&[None]);
        self.tell_source(SourceEvent::Limited { rounds, last });
    }

    /// The limit that holds for this.
    fn excess(&mut self, claim: Claim) -> &mut Excess {
        let own = claim.last && self.src.excess[1].rate > 0;
        &mut self.src.excess[usize::from(own)]
    }

    /// So much was taken to be sent.
    pub(crate) fn carry(&mut self, claim: Claim, bytes: ByteCount) {
        self.src.pace.take(claim, bytes);
        let now = self.now;
        self.excess(claim).carry(bytes, now);
    }

    /// So much of it need not be sent.
    pub(crate) fn carried_less(&mut self, claim: Claim, bytes: ByteCount) {
        self.src.pace.give_back(claim, bytes);
        self.excess(claim).give_back(bytes);
    }
}
