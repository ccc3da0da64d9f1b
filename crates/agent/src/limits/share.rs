//! Dividing what can be sent among those who want to send.

use std::time::Duration;

use whimbrel_engine::page::ByteRate;

/// Who uses so much of a share is held back by it, and wants more.
const HELD_BACK: f64 = 0.85;
/// Who uses less is left this much more than it uses, and at least this part of its own share.
const HEADROOM: f64 = 1.25;
const LEFT: f64 = 0.1;

/// What a migration uses of something that it shares with others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    bytes: Option<u64>,
    /// Unknown at first: what came before the first look is how it began.
    rate: Option<f64>,
}

impl Used {
    /// It has used `bytes` in all, and `passed` since the last look.
    pub(super) fn look(&mut self, bytes: u64, passed: Duration) {
        let more = self.bytes.map(|before| bytes.saturating_sub(before));
        self.rate = more.map(|more| more as f64 / passed.as_secs_f64());
        self.bytes = Some(bytes);
    }

    /// What it wants at most, if it has this share; `None` is all it can get.
    pub(super) fn wants(&self, share: Option<f64>) -> Option<f64> {
        let rate = self.rate?;
        share.filter(|share| rate < share * HELD_BACK).map(|_| rate * HEADROOM)
    }
}

/// One of those that share something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    weight: f64,
    /// `None` is all it can get.
    wants: Option<f64>,
    /// It never has more.
    most: Option<f64>,
}

impl Claim {
    pub(super) fn new(weight: u32, wants: Option<f64>, most: Option<ByteRate>) -> Self {
        Self { weight: weight.into(), wants, most: most.map(|most| most.0 as f64) }
    }
}

/// What one of `claims` has of `all` whatever the others want, though no more than it may have.
pub(super) fn least(all: f64, own: &Claim, claims: &[Claim]) -> f64 {
    let sum: f64 = claims.iter().map(|claim| claim.weight).sum();
    own.most.unwrap_or(f64::INFINITY).min(all * own.weight / sum * LEFT)
}

/// The shares of `all` by weight. Who wants less gets what it wants, though at least a tenth of
/// its own share, and the others get the rest; where nobody wants it, all do.
pub(super) fn divide(all: f64, claims: &[Claim]) -> Vec<f64> {
    let sum: f64 = claims.iter().map(|claim| claim.weight).sum();
    let wants = |claim: &Claim| {
        let wants = claim.wants.map(|wants| wants.max(least(all, claim, claims)));
        wants.into_iter().chain(claim.most).reduce(f64::min)
    };
    let wants: Vec<Option<f64>> = claims.iter().map(wants).collect();
    let mut shares = vec![None; claims.len()];
    loop {
        let given: f64 = shares.iter().flatten().sum();
        let open = || (0..claims.len()).filter(|at| shares[*at].is_none());
        let weights: f64 = open().map(|at| claims[at].weight).sum();
        let fair = |at: usize| (all - given).max(0.0) * claims[at].weight / weights;
        let content: Vec<usize> =
            open().filter(|at| wants[*at].is_some_and(|wants| wants <= fair(*at))).collect();
        if open().next().is_none() {
            // All are content: what is left over is lent before anybody asks.
            let over = (all - given).max(0.0);
            let more = claims.iter().map(|claim| over * claim.weight / sum);
            return shares.iter().flatten().zip(more).map(|(share, more)| share + more).collect();
        }
        if content.is_empty() {
            let fair: Vec<_> = (0..claims.len()).map(fair).collect();
            return shares.iter().zip(fair).map(|(share, fair)| share.unwrap_or(fair)).collect();
        }
        content.into_iter().for_each(|at| shares[at] = wants[at]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(weight: u32, wants: Option<f64>) -> Claim {
        Claim::new(weight, wants, None)
    }

    fn shares(all: f64, claims: &[Claim]) -> Vec<u64> {
        divide(all, claims).into_iter().map(|share| share.round() as u64).collect()
    }

    #[test]
    fn under_contention_weights_count() {
        let claims = [claim(100, None), claim(300, None)];
        assert_eq!(shares(1000.0, &claims), [250, 750]);
        assert_eq!(shares(1000.0, &claims[..1]), [1000]);
    }

    #[test]
    fn what_one_does_not_use_is_lent_to_the_others() {
        let claims = [claim(100, Some(100.0)), claim(100, None), claim(200, None)];
        assert_eq!(shares(1000.0, &claims), [100, 300, 600]);
        // Two that want less than their shares, one after the other.
        let claims = [claim(100, Some(200.0)), claim(100, Some(380.0)), claim(100, None)];
        assert_eq!(shares(1000.0, &claims), [200, 380, 420]);
        // Who wants more than its share gets it where there is no contention.
        let claims = [claim(100, Some(900.0)), claim(100, Some(50.0))];
        assert_eq!(shares(1000.0, &claims), [925, 75]);
    }

    #[test]
    fn nobody_is_left_more_than_it_may_have() {
        let most = |rate| Some(ByteRate(rate));
        // Held back by its share or not.
        for wants in [None, Some(62.0)] {
            let claims = [claim(100, None), Claim::new(300, wants, most(50))];
            assert_eq!(shares(400.0, &claims), [350, 50]);
        }
        // Also where that is less than what it would have whatever the others want.
        let claims = [claim(100, None), Claim::new(300, Some(6.0), most(5))];
        assert_eq!(shares(400.0, &claims), [395, 5]);
        assert_eq!(least(400.0, &claims[1], &claims).round(), 5.0);
        assert_eq!(least(400.0, &claims[0], &claims).round(), 10.0);
    }

    #[test]
    fn who_uses_nothing_keeps_enough_to_begin() {
        let claims = [claim(100, Some(0.0)), claim(100, None)];
        assert_eq!(shares(1000.0, &claims), [50, 950]);
    }

    #[test]
    fn who_is_held_back_wants_more_and_who_is_not_wants_a_little_more_than_it_uses() {
        let mut used = Used::default();
        used.look(100, Duration::from_secs(1));
        assert_eq!(used.wants(Some(1000.0)), None);
        used.look(180, Duration::from_secs(2));
        assert_eq!(used.wants(None), None);
        assert_eq!(used.wants(Some(42.0)), None);
        assert_eq!(used.wants(Some(100.0)), Some(50.0));
    }
}
