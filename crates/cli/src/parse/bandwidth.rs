//! How fast a link is, or may be used: `10Gbit/s`, `400MiB/s`.

use whimbrel_agent::ByteRate;

use super::size::factor;
use super::{BadInput, number_and_unit, scaled};

const EXAMPLE: &str = "10Gbit/s or 400MiB/s";

/// Reads a bandwidth. Links are sold in bits, by powers of 1000; memory is counted in bytes.
pub(crate) fn bandwidth(text: &str) -> Result<ByteRate, BadInput> {
    let wrong = |why: &str| BadInput::new(format!("{text:?} {why}"), EXAMPLE);
    let (number, unit) = number_and_unit(text.trim());
    let no_unit = || wrong("says no bits or bytes a second");
    let unit = unit.strip_suffix("/s").filter(|unit| !unit.is_empty()).ok_or_else(no_unit)?;
    let (factor, share) = match bits(unit) {
        Some(factor) => (factor, 8),
        None => (
            factor(unit).ok_or_else(|| {
                wrong("has an unknown unit: Mbit/s, Gbit/s, MiB/s and GiB/s are known")
            })?,
            1,
        ),
    };
    let rate = scaled(number, factor).map_err(|_| wrong("is no rate"))? / share;
    if rate == 0 { Err(wrong("carries nothing")) } else { Ok(ByteRate(rate)) }
}

/// A rate, or that there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<ByteRate>);

impl Limit {
    /// As an agent is told: 0 is no limit.
    pub(crate) fn told(self) -> u64 {
        self.0.map_or(0, |rate| rate.0)
    }
}

/// Reads a limit: a bandwidth, or `none`.
pub(crate) fn limit(text: &str) -> Result<Limit, BadInput> {
    if text.trim().eq_ignore_ascii_case("none") {
        return Ok(Limit(None));
    }
    bandwidth(text).map(|rate| Limit(Some(rate)))
}

/// Reads the limit of a network, as `eth1=2Gbit/s`. A rate has no `=`, which the name of an
/// interface may have.
pub(crate) fn network_limit(text: &str) -> Result<(String, Limit), BadInput> {
    let wrong = || BadInput::new(format!("{text:?} is not NETWORK=RATE"), "eth1=2Gbit/s");
    let (network, rate) = text.rsplit_once('=').ok_or_else(wrong)?;
    Ok((network.trim().to_owned(), limit(rate)?))
}

fn bits(unit: &str) -> Option<u64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_thousands_and_bytes_are_powers_of_two() {
        for (text, bytes) in [
            ("10Gbit/s", 1_250_000_000),
            ("200 mbit/s", 25_000_000),
            ("1.5kbit/s", 187),
            ("1MiB/s", 1 << 20),
            ("2.5GiB/s", 5 << 29),
        ] {
            assert_eq!(bandwidth(text).expect(text), ByteRate(bytes), "{text}");
        }
    }

    #[test]
    fn a_limit_may_be_none() {
        assert_eq!(limit("None"), Ok(Limit(None)));
        assert_eq!(limit("8Mbit/s").map(Limit::told), Ok(1_000_000));
        assert_eq!(network_limit("eth1=none"), Ok(("eth1".into(), Limit(None))));
        for name in ["Ethernet 2", "vEthernet (Default Switch)", "a=b"] {
            let limited = network_limit(&format!(" {name} = 8Mbit/s")).expect(name);
            assert_eq!(limited, (name.into(), Limit(Some(ByteRate(1_000_000)))));
        }
        assert!(network_limit("eth1").is_err());
    }

    #[test]
    fn what_is_no_bandwidth_is_refused_with_an_example() {
        let cases = [
            ("", "no bits or bytes"),
            ("10", "no bits or bytes"),
            ("10Gbit", "no bits or bytes"),
            ("10GB/s", "unknown unit"),
            ("0Gbit/s", "carries nothing"),
            ("xGbit/s", "unknown unit"),
        ];
        for (text, reason) in cases {
            let why = bandwidth(text).expect_err(text).to_string();
            assert!(why.contains(reason) && why.contains("10Gbit/s"), "{text}: {why}");
        }
    }
}
