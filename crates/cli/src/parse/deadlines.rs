//! Deadlines by their names: `silence=2s,doubt=10s`.

use whimbrel_agent::Deadlines;

use super::{BadInput, duration};

const EXAMPLE: &str = "silence=2s,doubt=10s";

/// Reads deadlines; those that are not named are as by default.
pub(crate) fn deadlines(text: &str) -> Result<Deadlines, BadInput> {
    let mut all = Deadlines::default();
    for part in text.split(',') {
        let wrong = |why: &str| BadInput::new(format!("{part:?} {why}"), EXAMPLE);
        let (name, time) = part.split_once('=').ok_or_else(|| wrong("is not NAME=TIME"))?;
        let Some(deadline) = all.named(name.trim()) else {
            let known: Vec<_> = Deadlines::names().collect();
            return Err(wrong(&format!("names no deadline; there are {}", known.join(", "))));
        };
        *deadline = duration(time)?;
        if deadline.is_zero() {
            return Err(wrong("waits for nothing"));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_named_is_set_and_the_rest_stays() {
        let set = deadlines("silence=2s, doubt = 1.5s").expect("good");
        let mut expected = Deadlines::default();
        expected.migration.silence = Duration::from_secs(2);
        expected.migration.doubt = Duration::from_millis(1500);
        assert_eq!(set, expected);
    }

    #[test]
    fn what_is_no_deadline_is_refused_with_an_example() {
        let cases = [
            ("", "is not NAME=TIME"),
            ("silence", "is not NAME=TIME"),
            ("quiet=2s", "names no deadline; there are process-start, "),
            ("silence=2", "has no unit"),
            ("silence=0s", "waits for nothing"),
            ("silence=2s,", "is not NAME=TIME"),
        ];
        for (text, reason) in cases {
            let why = deadlines(text).expect_err(text).to_string();
            assert!(why.contains(reason) && why.contains("write for example"), "{text}: {why}");
        }
    }

    #[test]
    fn the_guide_has_all_of_them_with_their_defaults() {
        let guide = include_str!("../../../../docs/GUIDE.md");
        for name in Deadlines::names() {
            let default = *Deadlines::default().named(name).expect("known");
            let row = format!("| `{name}` | {default:?} | ");
            assert!(guide.contains(&row), "{row}");
        }
    }
}
