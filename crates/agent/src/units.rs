//! Numbers as a person reads them: two or three figures that mean something, and a unit.

use std::time::Duration;

/// `1.2 GiB`, `256 MiB`, `512 B`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (bytes.max(1).ilog2() / 10).min(4);
    let exact = bytes.trailing_zeros() >= 10 * power;
    let value = bytes as f64 / (1u64 << (10 * power)) as f64;
    format!("{} {}", figures(value, exact), UNITS[power as usize])
}

/// `780 MiB/s`.
pub fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", bytes(bytes_per_second))
}

/// `2 Gbit/s (238 MiB/s)`: as links are sold, and as memory is counted.
pub fn bandwidth(bytes_per_second: u64) -> String {
    const UNITS: [&str; 4] = ["bit", "kbit", "Mbit", "Gbit"];
    let bits = bytes_per_second as f64 * 8.0;
    let power = (bits.max(1.0).log10() as usize / 3).min(3);
    let value = bits / 1000f64.powi(power as i32);
    let hundredths = (value * 100.0).round() / 100.0;
    format!("{hundredths} {}/s ({})", UNITS[power], rate(bytes_per_second))
}

/// `850 µs`, `1.8 ms`, `41 ms`, `1.9 s`, `2 min 5 s`.
pub fn time(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => {
            format!("{} ms", figures(micros as f64 / 1e3, micros.is_multiple_of(1_000)))
        }
        1_000_000..60_000_000 => {
            format!("{} s", figures(micros as f64 / 1e6, micros.is_multiple_of(1_000_000)))
        }
        _ => format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

/// Time on a running clock: always in tenths of a second, so that it does not jump about.
pub fn clock(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{}:{:02} min", seconds / 60, seconds % 60),
    }
}

/// `262,144`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 page`, `2 pages`.
pub fn pages(pages: u64) -> String {
    counted(pages, "page")
}

/// `1 key`, `2 keys`: so many of what has a name in the singular.
pub fn counted(many: u64, name: &str) -> String {
    format!("{} {name}{}", count(many), if many == 1 { "" } else { "s" })
}

/// Below ten one place is shown, unless the value has none.
fn figures(value: f64, exact: bool) -> String {
    if value >= 9.95 || exact { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_unit_that_fits() {
        let cases = [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10_300, "10 KiB"),
            (256 << 20, "256 MiB"),
            (1 << 30, "1 GiB"),
            ((1 << 30) + 1, "1.0 GiB"),
            (1_288_490_189, "1.2 GiB"),
            (3 << 40, "3 TiB"),
            (u64::MAX, "16777216 TiB"),
        ];
        for (value, shown) in cases {
            assert_eq!(bytes(value), shown);
        }
        assert_eq!(rate(780 << 20), "780 MiB/s");
        assert_eq!(bandwidth(250_000_000), "2 Gbit/s (238 MiB/s)");
        assert_eq!(bandwidth(187_500), "1.5 Mbit/s (183 KiB/s)");
        assert_eq!(bandwidth(100 << 20), "838.86 Mbit/s (100 MiB/s)");
        assert_eq!(bandwidth(0), "0 bit/s (0 B/s)");
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        let cases = [
            (0, "0 µs"),
            (850, "850 µs"),
            (1_000, "1 ms"),
            (1_840, "1.8 ms"),
            (9_990, "10 ms"),
            (41_200, "41 ms"),
            (999_000, "999 ms"),
            (1_900_000, "1.9 s"),
            (125_000_000, "2 min 5 s"),
        ];
        for (micros, shown) in cases {
            assert_eq!(time(Duration::from_micros(micros)), shown);
        }
    }

    #[test]
    fn a_clock_keeps_its_tenths() {
        assert_eq!(clock(Duration::ZERO), "0.0 s");
        assert_eq!(clock(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(clock(Duration::from_secs(61)), "1:01 min");
    }

    #[test]
    fn counts_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (262_144, "262,144")];
        for (value, shown) in cases {
            assert_eq!(count(value), shown);
        }
        assert_eq!(count(1_234_567_890), "1,234,567,890");
        assert_eq!(pages(1), "1 page");
        assert_eq!(pages(81_920), "81,920 pages");
    }
}
