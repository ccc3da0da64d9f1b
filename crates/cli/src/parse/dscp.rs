//! Classes of service: `10`, `AF11`, `CS1`, `EF`.

use super::BadInput;

/// Of expedited forwarding (RFC 3246).
const EF: u32 = 46;
const MAX: u32 = 63;

/// Reads a class of service, by its number or by its name.
pub(crate) fn dscp(text: &str) -> Result<u32, BadInput> {
    let number = text.parse().ok().filter(|number| *number <= MAX);
    number.or_else(|| named(&text.to_ascii_uppercase())).ok_or_else(|| {
        let wrong = format!("{text:?} is none of 0 to 63, AF11 to AF43, CS0 to CS7 and EF");
        BadInput::new(wrong, "AF11")
    })
}

fn named(name: &str) -> Option<u32> {
    let digits = |prefix| -> Option<Vec<u32>> {
        name.strip_prefix(prefix)?.chars().map(|digit| digit.to_digit(8)).collect()
    };
    // RFC 2597: a class of 1 to 4, and in it a drop precedence of 1 to 3. RFC 2474: CS0 to CS7.
    match (name, digits("AF").as_deref(), digits("CS").as_deref()) {
        ("EF", ..) => Some(EF),
        (_, Some([class @ 1..=4, drop @ 1..=3]), _) => Some(class * 8 + drop * 2),
        (_, _, Some([class])) => Some(class * 8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_numbers_and_names() {
        for (text, class) in [
            ("0", 0),
            ("63", 63),
            ("AF11", 10),
            ("af43", 38),
            ("AF32", 28),
            ("CS0", 0),
            ("cs7", 56),
            ("EF", 46),
        ] {
            assert_eq!(dscp(text), Ok(class), "{text}");
        }
    }

    #[test]
    fn other_words_are_refused_with_an_example() {
        for text in ["", "64", "-1", "AF", "AF10", "AF14", "AF51", "AF111", "CS8", "CS", "BE"] {
            let why = dscp(text).expect_err(text).to_string();
            assert!(why.contains("AF11 to AF43") && why.contains("for example AF11"), "{why}");
        }
    }
}
