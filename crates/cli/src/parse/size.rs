//! Sizes: `1GiB`, `256MiB`, `1.5GiB`, or plain bytes.

use std::fmt;
use std::str::FromStr;

use super::{BadInput, Scale, number_and_unit, scaled};
use crate::view::units;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

const EXAMPLE: &str = "512MiB or 1GiB";

impl FromStr for Size {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let (number, unit) = number_and_unit(text.trim());
        let factor = factor(unit).ok_or_else(|| unknown_unit(text, unit))?;
        scaled(number, factor).map(Self).map_err(|why| refused(text, why))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&units::bytes(self.0))
    }
}

/// The bytes of a unit that leaves no doubt.
pub(super) fn factor(unit: &str) -> Option<u64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    })
}

fn unknown_unit(text: &str, unit: &str) -> BadInput {
    let known = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" => "KiB",
        "m" | "mb" => "MiB",
        "g" | "gb" => "GiB",
        "t" | "tb" => "TiB",
        _ => {
            let wrong = format!("{text:?} is not a size: the units are KiB, MiB and GiB");
            return BadInput::new(wrong, EXAMPLE);
        }
    };
    let wrong =
        format!("{unit:?} can mean powers of 1000 or of 1024: {known} is always the latter");
    BadInput::new(wrong, EXAMPLE)
}

fn refused(text: &str, why: Scale) -> BadInput {
    let why = match why {
        Scale::NotANumber => "is not a number with a unit",
        Scale::NotWhole => "is not a whole number of bytes",
        Scale::TooLarge => "is more than 64 bits can count",
    };
    BadInput::new(format!("{text:?} {why}"), EXAMPLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(text: &str) -> Result<u64, String> {
        text.parse::<Size>().map(|size| size.0).map_err(|why| why.to_string())
    }

    #[test]
    fn every_unit_is_read() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("4096B"), Ok(4096));
        assert_eq!(size("4KiB"), Ok(4096));
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("2TiB"), Ok(2 << 40));
    }

    #[test]
    fn case_blanks_and_fractions_are_understood() {
        assert_eq!(size("1gib"), Ok(1 << 30));
        assert_eq!(size(" 1 GiB "), Ok(1 << 30));
        assert_eq!(size("1.5GiB"), Ok(3 << 29));
        assert_eq!(size("0.25KiB"), Ok(256));
    }

    #[test]
    fn units_that_leave_a_doubt_are_refused() {
        for (text, right) in [("1G", "GiB"), ("1GB", "GiB"), ("5m", "MiB"), ("1kb", "KiB")] {
            let why = size(text).unwrap_err();
            assert!(why.contains(right) && why.contains("1024"), "{why}");
            assert!(why.ends_with("write for example 512MiB or 1GiB"), "{why}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_reason() {
        let cases = [
            ("", "not a number with a unit"),
            ("GiB", "not a number with a unit"),
            ("lots", "the units are KiB, MiB and GiB"),
            ("-1GiB", "the units are"),
            ("+1GiB", "the units are"),
            ("1e9", "the units are"),
            ("1GiB/s", "the units are"),
            ("1GiBGiB", "the units are"),
            ("1..5GiB", "not a number with a unit"),
            ("0.3KiB", "not a whole number of bytes"),
            ("0.5", "not a whole number of bytes"),
            ("99999999999999GiB", "more than 64 bits"),
            ("１GiB", "the units are"),
        ];
        for (text, reason) in cases {
            let why = size(text).expect_err(text);
            assert!(why.contains(reason), "{text:?}: {why}");
        }
    }
}
