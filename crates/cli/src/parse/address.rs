//! Addresses to listen on: `127.0.0.1:7117`, `0.0.0.0`, `[::1]:0`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use whimbrel_control::DEFAULT_PORT;

use super::BadInput;

const EXAMPLE: &str = "127.0.0.1:7117 or [::1]:0, where port 0 stands for any free one";

/// Where an agent listens: an address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddress(pub(crate) SocketAddr);

impl FromStr for ListenAddress {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let at = text.trim().replace("localhost", &Ipv4Addr::LOCALHOST.to_string());
        if let Ok(socket) = at.parse::<SocketAddr>() {
            return Ok(Self(socket));
        }
        let bracketed = at.strip_prefix('[').and_then(|at| at.strip_suffix(']'));
        let ip: Option<IpAddr> = match bracketed {
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => at.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        let ip = ip.ok_or_else(|| {
            let wrong = format!("{text:?} is not an IP address of this host with a port");
            BadInput::new(wrong, EXAMPLE)
        })?;
        Ok(Self(SocketAddr::new(ip, DEFAULT_PORT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on_are_read() {
        let cases = [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("localhost", "127.0.0.1:7117"),
            (" localhost:9 ", "127.0.0.1:9"),
            ("0.0.0.0", "0.0.0.0:7117"),
            ("[::]:1", "[::]:1"),
            ("[::1]", "[::1]:7117"),
        ];
        for (text, shown) in cases {
            let at = text.parse::<ListenAddress>().map(|at| at.0.to_string());
            assert_eq!(at.as_deref(), Ok(shown));
        }
    }

    #[test]
    fn what_is_no_address_of_this_host_is_refused_with_an_example() {
        let cases = ["", ":7117", "host-b:7117", "127.0.0.1:", "127.0.0.1:65536", "::1", "[::1"];
        for text in cases {
            let why = text.parse::<ListenAddress>().expect_err(text).to_string();
            assert!(why.contains("not an IP address of this host"), "{why}");
            assert!(why.contains("write for example 127.0.0.1:7117"), "{why}");
        }
    }
}
