use std::fmt;
use std::str::FromStr;

use crate::DEFAULT_PORT;

/// Where an agent listens: a host name or IP address and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AgentAddress {
    host: String,
    port: u16,
}

/// A text that is not the address of an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not an agent's address: {why}; write HOST:PORT, as 10.0.0.7:7117 or [::1]:7117"
)]
pub struct AddressError {
    text: String,
    why: &'static str,
}

impl AgentAddress {
    /// The host as it was written, without the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is on this very host, where nobody stands in between.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let ip = self.host.parse::<std::net::IpAddr>();
        ip.map_or(self.host == "localhost", |ip| ip.is_loopback())
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{self}")
    }
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for AgentAddress {
    type Err = AddressError;

    /// `host:port`, `host`, `[ipv6]:port` or `[ipv6]`; without a port it is [`DEFAULT_PORT`].
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fail = |why| AddressError { text: text.to_owned(), why };
        let (host, port) = split(text).map_err(fail)?;
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => port.parse().map_err(|_| fail("the port is not a number below 65536"))?,
        };
        if port == 0 {
            return Err(fail("port 0 is nobody's"));
        }
        check_host(host).map_err(fail)?;
        Ok(Self { host: host.to_owned(), port })
    }
}

fn split(text: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the bracket is not closed")?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| "what is in brackets is not IPv6")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("only a port may follow the bracket"),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err("IPv6 addresses need brackets"),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    if host.is_empty() {
        return Err("the host is missing");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.len() > 253 || !host.chars().all(allowed) {
        return Err("that is not a host name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentAddress, AddressError> {
        text.parse()
    }

    #[test]
    fn what_people_write_is_understood_and_shown_the_same_way() {
        for (text, shown) in [
            ("10.0.0.7:7117", "10.0.0.7:7117"),
            ("host-b.example:9", "host-b.example:9"),
            ("host-b", "host-b:7117"),
            ("[::1]:65535", "[::1]:65535"),
            ("[fe80::1]", "[fe80::1]:7117"),
        ] {
            let address = parse(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(parse(shown).unwrap(), address);
        }
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        for (text, loopback) in
            [("127.0.0.1", true), ("127.9.9.9:1", true), ("[::1]", true), ("localhost", true)]
                .into_iter()
                .chain([("10.0.0.7", false), ("[::2]", false), ("localhost.example", false)])
        {
            assert_eq!(parse(text).unwrap().is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "host is missing"),
            (":7117", "host is missing"),
            ("a:b", "not a number"),
            ("a:70000", "not a number"),
            ("a:0", "port 0"),
            ("::1", "brackets"),
            ("[::1", "not closed"),
            ("[a]:1", "not IPv6"),
            ("[::1]x", "only a port"),
            ("a b:1", "not a host name"),
            ("http://a:1", "brackets"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
