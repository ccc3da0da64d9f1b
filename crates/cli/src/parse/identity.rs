//! Names of identities.

use whimbrel_control::identity::is_name;
use whimbrel_control::identity::rustls::pki_types::ServerName;

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

/// Reads a host that a certificate is for: a name or an address, and nothing around it.
pub(crate) fn certified_host(text: &str) -> Result<String, BadInput> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    match ServerName::try_from(name) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            let wrong =
                format!("{text:?} is not the name or the address of a host, without a port");
            Err(BadInput::new(wrong, "host-b.example or 10.0.0.2"))
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

    #[test]
    fn a_certificate_is_for_hosts_and_nothing_else() {
        for host in ["host-b", "b.example", "*.example", "10.0.0.2", "fd00::2", "h_1"] {
            assert_eq!(certified_host(host).as_deref(), Ok(host));
        }
        for bad in ["", "http://x", "host-b:7117", "[fd00::2]", "a b", "10.0.0.0/24", "*"] {
            let why = certified_host(bad).unwrap_err().to_string();
            assert!(why.contains("name or the address of a host"), "{why}");
        }
    }
}
