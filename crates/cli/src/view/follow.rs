//! What can only be told from two looks: the rate of each lane, and why progress went back.

use std::time::Duration;

use super::state::{Look, PAGE_BYTES};
use super::units;

/// The least time over which a lane's rate is measured.
const RATE_WINDOW: Duration = Duration::from_millis(300);

/// A look, with what the looks before it say about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Frame {
    pub(crate) look: Look,
    /// Bytes a second of each lane of the look.
    pub(crate) lane_rates: Vec<u64>,
    /// Why there is more to send than a moment ago.
    pub(crate) setback: Option<String>,
    /// Sentences that were not told before, and when they came to be true.
    pub(crate) news: Vec<(Duration, String)>,
}

impl Frame {
    /// Bytes a second over all lanes: as they are now, or as the engine has measured them.
    pub(crate) fn link_rate(&self) -> u64 {
        match self.lane_rates.iter().sum() {
            0 => self.look.bandwidth.unwrap_or_default(),
            now => now,
        }
    }
}

/// Keeps what one look needs to know of the ones before it.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    last: Look,
    base: (Duration, Vec<(u32, u64)>),
    lane_rates: Vec<u64>,
    setback: Option<String>,
}

impl Follow {
    /// Takes the next look.
    pub(crate) fn take(&mut self, look: Look) -> Frame {
        self.measure(&look);
        let comparable = !self.last.rounds.is_empty();
        if look.pages_pending > self.last.pages_pending && comparable {
            self.setback = Some(setback(&self.last, &look));
        }
        let news = self.news(&look).to_vec();
        self.last = look.clone();
        let (lane_rates, setback) = (self.lane_rates.clone(), self.setback.clone());
        Frame { look, lane_rates, setback, news }
    }

    /// Those events of a look that were not told. An agent keeps the last ones only: its list may
    /// begin later than the one before, as long as that was.
    pub(crate) fn news<'a>(&self, look: &'a Look) -> &'a [(Duration, String)] {
        let (last, now) = (&self.last.events, &look.events);
        let mut kept = (0..last.len()).map(|gone| &last[gone..]);
        let told = kept.find(|kept| now.starts_with(kept)).map_or(0, <[_]>::len);
        &now[told..]
    }

    fn measure(&mut self, look: &Look) {
        let (since, base) = &self.base;
        let passed = look.elapsed.saturating_sub(*since);
        let before = |lane| base.iter().find(|(id, _)| *id == lane).map_or(0, |(_, bytes)| *bytes);
        if passed >= RATE_WINDOW || self.lane_rates.len() != look.lanes.len() {
            let rate = |bytes: u64| bytes as f64 / passed.as_secs_f64().max(1e-3);
            let rates = look.lanes.iter();
            let rates = rates.map(|lane| rate(lane.bytes.saturating_sub(before(lane.lane))) as u64);
            self.lane_rates = rates.collect();
        }
        if passed >= RATE_WINDOW {
            let lanes = look.lanes.iter().map(|lane| (lane.lane, lane.bytes));
            self.base = (look.elapsed, lanes.collect());
        }
    }
}

/// A sentence for a pending set that has grown from `last` to `now`.
fn setback(last: &Look, now: &Look) -> String {
    let ended = now.rounds.len().saturating_sub(2);
    let grown = (now.pages_pending - last.pages_pending) * PAGE_BYTES;
    match now.rounds.get(ended) {
        Some(round) if now.rounds.len() > last.rounds.len() && round.dirty_after > 0 => {
            let written = units::bytes(round.dirty_after * PAGE_BYTES);
            format!("the guest wrote {written} again while round {} was sent", round.round)
        }
        _ => {
            format!("{} go again: rewritten by the guest, or not acknowledged", units::bytes(grown))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::state::{Lane, Round};

    fn look(millis: u64, pending: u64, lanes: &[u64]) -> Look {
        let lane =
            |(lane, &bytes): (usize, &u64)| Lane { lane: lane as u32, bytes, pages: 0, open: true };
        Look {
            guest: "g".into(),
            elapsed: Duration::from_millis(millis),
            pages_total: 1000,
            pages_pending: pending,
            rounds: vec![round(0, 0)],
            lanes: lanes.iter().enumerate().map(lane).collect(),
            ..Look::default()
        }
    }

    fn round(round: u32, dirty_after: u64) -> Round {
        Round { round, pages: 1000, dirty_after, ..Round::default() }
    }

    #[test]
    fn lane_rates_come_from_the_difference_of_looks() {
        let mut follow = Follow::default();
        assert_eq!(follow.take(look(100, 900, &[100, 50])).lane_rates, [1000, 500]);
        assert_eq!(follow.take(look(200, 800, &[999, 999])).lane_rates, [1000, 500]);
        assert_eq!(follow.take(look(500, 700, &[500, 250])).lane_rates, [1000, 500]);
        let frame = follow.take(look(1000, 600, &[1500, 250]));
        assert_eq!((frame.lane_rates.as_slice(), frame.link_rate()), (&[2000, 0][..], 2000));
        let idle =
            Frame { look: Look { bandwidth: Some(7), ..Look::default() }, ..Frame::default() };
        assert_eq!(idle.link_rate(), 7);
    }

    #[test]
    fn a_new_lane_is_measured_at_once() {
        let mut follow = Follow::default();
        follow.take(look(1000, 900, &[1000]));
        assert_eq!(follow.take(look(1100, 900, &[1100, 50])).lane_rates, [1000, 500]);
    }

    #[test]
    fn progress_that_goes_back_says_why() {
        let mut follow = Follow::default();
        let before = Look { rounds: Vec::new(), ..look(0, 0, &[]) };
        assert_eq!(follow.take(before).setback, None);
        assert_eq!(follow.take(look(0, 1000, &[])).setback, None);
        let first = Look { rounds: vec![round(0, 0)], ..look(10, 10, &[]) };
        assert_eq!(follow.take(first).setback, None);
        let second = Look { rounds: vec![round(0, 512), round(1, 0)], ..look(20, 512, &[]) };
        let said = follow.take(second).setback.expect("a reason");
        assert_eq!(said, "the guest wrote 2 MiB again while round 0 was sent");
    }

    #[test]
    fn pages_given_back_within_a_round_are_told_too() {
        let mut follow = Follow::default();
        follow.take(look(10, 10, &[]));
        let said = follow.take(look(20, 266, &[])).setback.expect("a reason");
        assert_eq!(said, "1 MiB go again: rewritten by the guest, or not acknowledged");
    }

    #[test]
    fn each_event_is_told_once() {
        let mut follow = Follow::default();
        let event = |said: &str| (Duration::from_millis(7), said.to_owned());
        let with = |events: &[&str]| Look {
            events: events.iter().copied().map(event).collect(),
            ..look(1, 1, &[])
        };
        assert_eq!(follow.take(with(&["a"])).news, [event("a")]);
        assert_eq!(follow.take(with(&["a", "b", "c"])).news, [event("b"), event("c")]);
        assert!(follow.take(with(&["a", "b", "c"])).news.is_empty());
        // Of three that the agent keeps, the oldest one gives way.
        assert_eq!(follow.take(with(&["b", "c", "d"])).news, [event("d")]);
        assert_eq!(follow.take(with(&["d", "d", "e"])).news, [event("d"), event("e")]);
        // And all of them between two looks.
        let all = [event("f"), event("g"), event("h")];
        assert_eq!(follow.take(with(&["f", "g", "h"])).news, all);
        assert!(follow.take(with(&[])).news.is_empty());
    }
}
