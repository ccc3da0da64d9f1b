//! Heartbeats: `same-subnet=1sx5,cross-subnet=2sx10`.

use whimbrel_agent::{Heartbeat, Heartbeats};

use super::{BadInput, duration};

const EXAMPLE: &str = "same-subnet=1sx5,cross-subnet=2sx10";

/// Reads the heartbeats of one class of ways or both.
pub(crate) fn heartbeats(text: &str) -> Result<Heartbeats, BadInput> {
    let mut all = Heartbeats::default();
    for part in text.split(',') {
        let wrong = |why: &str| BadInput::new(format!("{part:?} {why}"), EXAMPLE);
        let (class, beat) = part.split_once('=').ok_or_else(|| wrong("is not CLASS=TIMExN"))?;
        let beat =
            heartbeat(beat).ok_or_else(|| wrong("is not CLASS=TIMExN, with N of 2 or more"))?;
        match class.trim() {
            "same-subnet" => all.same_subnet = Some(beat),
            "cross-subnet" => all.cross_subnet = Some(beat),
            _ => return Err(wrong("is neither same-subnet nor cross-subnet")),
        }
    }
    Ok(all)
}

fn heartbeat(text: &str) -> Option<Heartbeat> {
    let (delay, threshold) = text.trim().split_once('x')?;
    let delay = duration(delay).ok().filter(|delay| !delay.is_zero())?;
    let threshold =
        threshold.parse().ok().filter(|threshold| *threshold >= Heartbeat::THRESHOLD_MIN)?;
    Some(Heartbeat { delay, threshold })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn heartbeats_are_read() {
        let beat = |ms, threshold| Heartbeat { delay: Duration::from_millis(ms), threshold };
        let both = heartbeats("same-subnet=1sx5, cross-subnet=1.5sx10").expect("good");
        assert_eq!(both.same_subnet, Some(beat(1000, 5)));
        assert_eq!(both.cross_subnet, Some(beat(1500, 10)));
        assert_eq!(heartbeats("same-subnet=500msx4").expect("good").cross_subnet, None);
    }

    #[test]
    fn what_is_no_heartbeat_is_refused_with_an_example() {
        for (text, reason) in [
            ("", "is not CLASS=TIMExN"),
            ("same-subnet=1s", "is not CLASS=TIMExN"),
            ("same-subnet=1sx1", "2 or more"),
            ("same-subnet=0sx5", "is not CLASS=TIMExN"),
            ("lan=1sx5", "neither same-subnet nor cross-subnet"),
        ] {
            let why = heartbeats(text).expect_err(text).to_string();
            assert!(why.contains(reason) && why.contains("1sx5"), "{text}: {why}");
        }
    }
}
