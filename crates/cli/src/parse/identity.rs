//! Names of identities.

use whimbrel_control::identity::is_name;

use super::BadInput;

/// Reads the name of an identity.
pub(crate) fn identity_name(text: &str) -> Result<String, BadInput> {
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => {
            let wrong = format!("{text:?} is not 1 to 64 letters, digits, and - _ .");
            Err(BadInput::new(wrong, "host-b"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_plain() {
        assert_eq!(identity_name("host-b.example_1").unwrap(), "host-b.example_1");
        for bad in ["", "a b", "SHA256:x", "a/b", "ä", &"n".repeat(65)] {
            assert!(identity_name(bad).unwrap_err().to_string().contains("host-b"), "{bad}");
        }
    }
}
