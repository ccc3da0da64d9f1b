//! What a person typed becomes a typed value, or a sentence that says what was wrong and shows
//! what is right.

mod address;
mod bandwidth;
mod deadlines;
mod dscp;
mod duration;
mod heartbeat;
mod identity;
mod name;
mod network;
mod ports;
mod rate;
mod size;

pub(crate) use address::ListenAddress;
pub(crate) use bandwidth::{Limit, bandwidth, limit, network_limit};
pub(crate) use deadlines::deadlines;
pub(crate) use dscp::dscp;
pub(crate) use duration::duration;
pub(crate) use heartbeat::heartbeats;
pub(crate) use identity::{certified_host, identity_name};
pub(crate) use name::guest_name;
pub(crate) use network::network;
pub(crate) use ports::ports;
pub(crate) use rate::Rate;
pub(crate) use size::Size;

use std::fmt;

/// A refusal of something that was typed. It cannot be made without an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadInput {
    wrong: String,
    example: &'static str,
}

impl BadInput {
    pub(crate) fn new(wrong: impl Into<String>, example: &'static str) -> Self {
        Self { wrong: wrong.into(), example }
    }
}

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; write for example {}", self.wrong, self.example)
    }
}

impl std::error::Error for BadInput {}

/// Splits `1.5GiB` into `1.5` and `GiB`. Either may be empty.
fn number_and_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// Why a decimal number times its unit is not a whole number of the smallest unit.
#[derive(Debug, PartialEq, Eq)]
enum Scale {
    NotANumber,
    NotWhole,
    TooLarge,
}

/// `number × factor`, exactly: no rounding is done to what a person asked for.
fn scaled(number: &str, factor: u64) -> Result<u64, Scale> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let empty = whole.is_empty() || number.ends_with('.');
    if empty || fraction.contains('.') {
        return Err(Scale::NotANumber);
    }
    let fraction = fraction.trim_end_matches('0');
    let places = u32::try_from(fraction.len()).map_err(|_| Scale::NotWhole)?;
    // A fraction with more places than 2^64 has can only be whole times a factor beyond it.
    let denominator = 10u128.checked_pow(places).filter(|_| places < 20).ok_or(Scale::NotWhole)?;
    let digits = format!("{whole}{fraction}").parse::<u128>().map_err(|_| Scale::TooLarge)?;
    let product = digits.checked_mul(u128::from(factor)).ok_or(Scale::TooLarge)?;
    if product % denominator != 0 {
        return Err(Scale::NotWhole);
    }
    u64::try_from(product / denominator).map_err(|_| Scale::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_part_from_their_units() {
        assert_eq!(number_and_unit("1.5GiB"), ("1.5", "GiB"));
        assert_eq!(number_and_unit("300 ms"), ("300", "ms"));
        assert_eq!(number_and_unit("max"), ("", "max"));
        assert_eq!(number_and_unit("12"), ("12", ""));
        assert_eq!(number_and_unit("-3s"), ("", "-3s"));
        assert_eq!(number_and_unit(""), ("", ""));
    }

    #[test]
    fn scaling_is_exact() {
        assert_eq!(scaled("3", 1024), Ok(3072));
        assert_eq!(scaled("1.5", 1024), Ok(1536));
        assert_eq!(scaled("0.50", 2), Ok(1));
        assert_eq!(scaled("007", 1), Ok(7));
        assert_eq!(scaled("0.3", 1), Err(Scale::NotWhole));
        assert_eq!(scaled("0.00000000000000000001", u64::MAX), Err(Scale::NotWhole));
    }

    #[test]
    fn scaling_refuses_what_is_no_number_or_too_large() {
        for text in ["", ".", "1.", ".5", "1.2.3"] {
            assert_eq!(scaled(text, 1), Err(Scale::NotANumber), "{text:?}");
        }
        assert_eq!(scaled("18446744073709551615", 1), Ok(u64::MAX));
        assert_eq!(scaled("18446744073709551616", 1), Err(Scale::TooLarge));
        assert_eq!(scaled("17179869184", 1 << 30), Err(Scale::TooLarge));
        assert_eq!(scaled(&"9".repeat(100), 1), Err(Scale::TooLarge));
    }

    #[test]
    fn a_refusal_shows_what_is_right() {
        let said = BadInput::new("\"x\" is not a size", "1GiB").to_string();
        assert_eq!(said, "\"x\" is not a size; write for example 1GiB");
    }
}
