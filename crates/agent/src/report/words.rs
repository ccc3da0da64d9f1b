//! Numbers and names as a report shows them.

use std::time::Duration;

use whimbrel_control::api::{Decision, Outcome, decision::Step};

use crate::units;

/// What may stand in HTML, in a text or an attribute, whoever has written it.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// So many microseconds, as `1.8 ms`.
pub(super) fn micros(micros: u64) -> String {
    units::time(Duration::from_micros(micros))
}

/// A time of day, as `2026-11-26 17:05:09 UTC`.
#[must_use]
pub fn instant(unix_ms: u64) -> String {
    let (days, second) = (unix_ms / 86_400_000, unix_ms / 1000 % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The date so many days after 1970-01-01, counted in years that begin in March.
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year + era * 400;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

/// The class and the word of an outcome.
pub(super) const fn outcome(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Completed => ("completed", "completed"),
        Outcome::Aborted => ("aborted", "aborted"),
        Outcome::InDoubt => ("in-doubt", "in doubt"),
        Outcome::Unspecified => ("faint", "still going on"),
    }
}

/// What was decided.
pub(super) fn step(decision: &Decision) -> String {
    match decision.step {
        Some(Step::Round(round)) => format!("send it in round {round}"),
        Some(Step::ThrottlePercent(percent)) => format!("slow the guest down by {percent} %"),
        Some(Step::SwitchOver(_)) => "pause the guest and hand it over".to_owned(),
        Some(Step::RunOn(_)) => "let the guest run on at the source".to_owned(),
        None => "something that this version does not know".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (ms, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399_999, "2000-02-28 23:59:59 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00 UTC"),
            (1_795_712_709_000, "2026-11-26 17:05:09 UTC"),
            (4_107_542_400_000, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(instant(ms), shown);
        }
    }

    #[test]
    fn nothing_that_others_wrote_is_markup() {
        assert_eq!(escaped("<a b='c'>&\""), "&lt;a b=&#39;c&#39;&gt;&amp;&quot;");
    }
}
