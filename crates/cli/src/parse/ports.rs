//! Ranges of ports: `7200-7299`, or one port.

use whimbrel_agent::PortRange;

use super::BadInput;

/// Reads the ports that incoming migrations may listen on.
pub(crate) fn ports(text: &str) -> Result<PortRange, BadInput> {
    let (first, last) = text.trim().split_once('-').unwrap_or((text.trim(), text.trim()));
    let wrong = |why: &str| BadInput::new(format!("{text:?} {why}"), "7200-7299");
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err(wrong("is not a range of ports between 1 and 65535"));
    };
    if first > last {
        return Err(wrong("ends before it begins"));
    }
    Ok(PortRange { first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports_are_read() {
        assert_eq!(ports("7200-7299"), Ok(PortRange { first: 7200, last: 7299 }));
        assert_eq!(ports(" 1 - 65535 "), Ok(PortRange { first: 1, last: 65535 }));
        assert_eq!(ports("7200"), Ok(PortRange { first: 7200, last: 7200 }));
    }

    #[test]
    fn what_is_no_range_is_refused_with_an_example() {
        for text in ["", "-", "a-b", "0-7", "7-", "-7", "7-65536", "7-8-9", "7..9"] {
            let why = ports(text).expect_err(text).to_string();
            assert!(why.contains("not a range of ports") && why.ends_with("7200-7299"), "{why}");
        }
        assert!(ports("9-7").expect_err("backwards").to_string().contains("ends before"));
    }
}
