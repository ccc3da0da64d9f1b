//! Migration networks: `10.1.0.0/24`, `eth1,preference=1,speed=10Gbit/s`.

use whimbrel_agent::{Network, Subnet, Which};

use super::{BadInput, bandwidth};

const EXAMPLE: &str = "10.1.0.0/24, or eth1,preference=1,speed=10Gbit/s";
/// What the name of an interface has at most. Linux takes 15 bytes without a space; people name
/// those of Windows ("vEthernet (Default Switch)"), and it takes 256.
const INTERFACE_BYTES_MAX: usize = 256;

/// Reads a network.
pub(crate) fn network(text: &str) -> Result<Network, BadInput> {
    let mut parts = text.split(',').map(str::trim);
    let which = which(parts.next().unwrap_or_default())?;
    let mut network = Network { which, preference: 0, speed: None, limit: None };
    for part in parts {
        let wrong = |why: &str| BadInput::new(format!("{part:?} {why}"), EXAMPLE);
        match part.split_once('=') {
            Some(("preference", number)) => {
                let number = number.parse();
                network.preference = number.map_err(|_| wrong("is no number up to 65535"))?;
            }
            Some(("speed", rate)) => network.speed = Some(bandwidth(rate)?),
            Some(("limit", rate)) => network.limit = Some(bandwidth(rate)?),
            _ => return Err(wrong("is none of preference=N, speed=RATE and limit=RATE")),
        }
    }
    Ok(network)
}

fn which(text: &str) -> Result<Which, BadInput> {
    let wrong = |why: String| BadInput::new(format!("{text:?} {why}"), EXAMPLE);
    if text.contains('/') {
        let subnet: Result<Subnet, _> = text.parse();
        return subnet.map(Which::Subnet).map_err(|_| wrong("is no subnet".into()));
    }
    let name = !text.is_empty() && text.len() <= INTERFACE_BYTES_MAX;
    let looks_like_address = text.parse::<std::net::IpAddr>().is_ok();
    if !name || looks_like_address || text.contains(char::is_control) {
        return Err(wrong("is neither a subnet nor the name of an interface".into()));
    }
    Ok(Which::Interface(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use whimbrel_agent::ByteRate;

    use super::*;

    #[test]
    fn networks_are_read() {
        let subnet = network("10.1.0.0/24").expect("a subnet");
        assert_eq!(subnet.which.to_string(), "10.1.0.0/24");
        assert_eq!((subnet.preference, subnet.speed), (0, None));
        let named = network("eth1, preference=2,speed=10Gbit/s").expect("an interface");
        assert_eq!(named.which, Which::Interface("eth1".into()));
        assert_eq!((named.preference, named.speed), (2, Some(ByteRate(1_250_000_000))));
        for name in ["Ethernet 2", "vEthernet (Default Switch)", "WLAN – Büro"] {
            let named = network(&format!(" {name} ,preference=1")).expect(name);
            assert_eq!((named.which, named.preference), (Which::Interface(name.into()), 1));
        }
        network(&"x".repeat(256)).expect("as long as Windows takes");
        let limited = network("eth1,limit=8Mbit/s").expect("a limit");
        assert_eq!((limited.speed, limited.limit), (None, Some(ByteRate(1_000_000))));
    }

    #[test]
    fn what_is_no_network_is_refused_with_an_example() {
        let too_long = "x".repeat(257);
        let cases = [
            ("", "neither a subnet"),
            ("10.1.0.1", "neither a subnet"),
            ("10.1.0.0/33", "is no subnet"),
            (too_long.as_str(), "neither a subnet"),
            (" ", "neither a subnet"),
            ("Ethernet\t2", "neither a subnet"),
            ("eth1,preference=x", "no number"),
            ("eth1,metric=1", "none of preference=N"),
            ("eth1,speed=fast", "bits or bytes a second"),
        ];
        for (text, reason) in cases {
            let why = network(text).expect_err(text).to_string();
            assert!(why.contains(reason) && why.contains("write for example"), "{text}: {why}");
        }
    }
}
