//! Times: `250us`, `300ms`, `1.5s`.

use std::time::Duration;

use super::{BadInput, Scale, number_and_unit, scaled};

const EXAMPLE: &str = "300ms or 1.5s";

/// Reads a length of time, to the microsecond.
pub(crate) fn duration(text: &str) -> Result<Duration, BadInput> {
    let (number, unit) = number_and_unit(text.trim());
    let micros = match unit {
        "us" | "µs" | "μs" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "" if scaled(number, 1) != Err(Scale::NotANumber) => {
            return Err(BadInput::new(format!("{text:?} has no unit: us, ms or s"), EXAMPLE));
        }
        _ => {
            let wrong = format!("{text:?} is not a time: the units are us, ms and s");
            return Err(BadInput::new(wrong, EXAMPLE));
        }
    };
    scaled(number, micros).map(Duration::from_micros).map_err(|why| refused(text, why))
}

fn refused(text: &str, why: Scale) -> BadInput {
    let why = match why {
        Scale::NotANumber => "is not a number with a unit",
        Scale::NotWhole => "is finer than a microsecond",
        Scale::TooLarge => "is longer than anyone can wait",
    };
    BadInput::new(format!("{text:?} {why}"), EXAMPLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("250µs"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("0.3ms"), Ok(Duration::from_micros(300)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration(" 2 s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("0ms"), Ok(Duration::ZERO));
    }

    #[test]
    fn what_is_no_time_is_refused_with_an_example() {
        let cases = [
            ("", "not a time"),
            ("300", "has no unit"),
            ("soon", "not a time"),
            ("-5ms", "not a time"),
            ("5min", "not a time"),
            ("5m", "not a time"),
            ("5 MS", "not a time"),
            ("ms", "not a number"),
            ("1.2.3s", "not a number"),
            ("0.5us", "finer than a microsecond"),
            ("99999999999999999s", "longer than anyone can wait"),
        ];
        for (text, reason) in cases {
            let why = duration(text).expect_err(text).to_string();
            assert!(why.contains(reason), "{text:?}: {why}");
            assert!(why.ends_with("write for example 300ms or 1.5s"), "{text:?}: {why}");
        }
    }
}
