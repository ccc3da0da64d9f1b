//! Names of guests.

use super::BadInput;

/// The most bytes a guest's name may have; the wire allows no more.
const NAME_BYTES_MAX: usize = 64;

const EXAMPLE: &str = "web-1";

/// Reads the name a new guest is to have: one that can be typed again and printed in a table.
pub(crate) fn guest_name(text: &str) -> Result<String, BadInput> {
    let wrong = |why: String| Err(BadInput::new(why, EXAMPLE));
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() {
        return wrong("a guest needs a name".into());
    }
    if text.len() > NAME_BYTES_MAX {
        return wrong(format!("a name has at most {NAME_BYTES_MAX} bytes, not {}", text.len()));
    }
    if let Some(c) = text.chars().find(|&c| !allowed(c)) {
        return wrong(format!("a name has letters, digits and -_. in it, not {c:?}"));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return wrong(format!("a name begins with a letter or a digit, not like {text:?}"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_can_be_typed_again_are_taken() {
        for name in ["a", "web-1", "DB_2.primary", "9lives", &"x".repeat(64)] {
            assert_eq!(guest_name(name).as_deref(), Ok(name));
        }
    }

    #[test]
    fn other_names_are_refused_with_the_reason() {
        let cases = [
            ("", "needs a name"),
            (" ", "not ' '"),
            ("a b", "not ' '"),
            ("a/b", "not '/'"),
            ("../up", "not '/'"),
            ("-x", "begins with"),
            (".hidden", "begins with"),
            ("é", "not 'é'"),
            ("a\nb", "not '\\n'"),
            (&"x".repeat(65), "at most 64 bytes, not 65"),
        ];
        for (text, reason) in cases {
            let why = guest_name(text).expect_err(text).to_string();
            assert!(why.contains(reason), "{text:?}: {why}");
        }
    }
}
