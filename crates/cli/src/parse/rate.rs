//! Rates: `400MiB/s`, `max`, or `0`.

use std::fmt;
use std::str::FromStr;

use super::size::factor;
use super::{BadInput, number_and_unit, scaled};
use crate::view::units;

/// How fast a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rate {
    /// Bytes a second.
    PerSecond(u64),
    /// As fast as it can.
    Max,
}

const EXAMPLE: &str = "400MiB/s, max, or 0 for a guest that writes nothing";

impl FromStr for Rate {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let wrong = |why: &str| BadInput::new(format!("{text:?} {why}"), EXAMPLE);
        let rate = text.trim();
        if rate.eq_ignore_ascii_case("max") {
            return Ok(Self::Max);
        }
        let (number, unit) = number_and_unit(rate);
        if unit.is_empty() && scaled(number, 1) == Ok(0) {
            return Ok(Self::PerSecond(0));
        }
        let unit = unit.strip_suffix("/s").ok_or_else(|| wrong("says no bytes a second"))?;
        let factor = factor(unit)
            .filter(|_| !unit.is_empty())
            .ok_or_else(|| wrong("has an unknown unit: KiB/s, MiB/s and GiB/s are known"))?;
        let bytes = scaled(number, factor).map_err(|_| wrong("is not a rate"))?;
        Ok(Self::PerSecond(bytes))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PerSecond(0) => f.write_str("0"),
            Self::PerSecond(bytes) => f.write_str(&units::rate(bytes)),
            Self::Max => f.write_str("max"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Result<Rate, String> {
        text.parse().map_err(|why: BadInput| why.to_string())
    }

    #[test]
    fn rates_are_read() {
        assert_eq!(rate("400MiB/s"), Ok(Rate::PerSecond(400 << 20)));
        assert_eq!(rate("1.5GiB/s"), Ok(Rate::PerSecond(3 << 29)));
        assert_eq!(rate("64 kib/s"), Ok(Rate::PerSecond(64 << 10)));
        assert_eq!(rate("512B/s"), Ok(Rate::PerSecond(512)));
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!(rate("MAX"), Ok(Rate::Max));
        assert_eq!(rate("0"), Ok(Rate::PerSecond(0)));
        assert_eq!(rate("0MiB/s"), Ok(Rate::PerSecond(0)));
    }

    #[test]
    fn what_is_no_rate_is_refused_with_an_example() {
        let cases = [
            ("", "no bytes a second"),
            ("400", "no bytes a second"),
            ("400MiB", "no bytes a second"),
            ("fast", "no bytes a second"),
            ("-1MiB/s", "unknown unit"),
            ("400/s", "unknown unit"),
            ("400Mbit/s", "unknown unit"),
            ("400MB/s", "unknown unit"),
            ("MiB/s", "not a rate"),
            ("99999999999999GiB/s", "not a rate"),
            ("0.3B/s", "not a rate"),
        ];
        for (text, reason) in cases {
            let why = rate(text).expect_err(text);
            assert!(why.contains(reason), "{text:?}: {why}");
            assert!(why.contains("400MiB/s, max, or 0"), "{text:?}: {why}");
        }
    }

    #[test]
    fn a_rate_is_shown_as_it_is_typed() {
        assert_eq!(Rate::PerSecond(400 << 20).to_string(), "400 MiB/s");
        assert_eq!(Rate::PerSecond(0).to_string(), "0");
        assert_eq!(Rate::Max.to_string(), "max");
    }
}
