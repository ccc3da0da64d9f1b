use super::*;

fn network(which: &str, preference: u16) -> Network {
    let which = match which.parse() {
        Ok(subnet) => Which::Subnet(subnet),
        Err(NoSubnet) => Which::Interface(which.into()),
    };
    Network { which, preference, speed: None, limit: None }
}

fn found(name: &str, ip: &str, prefix: u8) -> Found {
    let link_local = ip.starts_with("fe80");
    Found { name: name.into(), ip: ip.parse().expect("an address"), prefix, link_local }
}

/// An endpoint as `name address/prefix`.
fn endpoint(name: &str, address: &str) -> Endpoint {
    let (ip, prefix) = address.split_once('/').expect("an address and a prefix");
    let ip = ip.parse().expect("an address");
    let subnet = Subnet::new(ip, prefix.parse().expect("a prefix")).ok();
    let address = SocketAddr::new(ip, 7);
    Endpoint { address, subnet, interface: name.into(), preference: 0, speed: None }
}

fn told(paths: &[Path]) -> Vec<String> {
    let told = |path: &Path| {
        let local = path.local.map_or("any".to_owned(), |ip| ip.to_string());
        format!("{local} {} {}", path.remote.ip(), if path.near { "near" } else { "far" })
    };
    paths.iter().map(told).collect()
}

#[test]
fn a_subnet_has_the_addresses_that_begin_like_it() {
    let subnet: Subnet = "10.1.2.0/23".parse().expect("a subnet");
    assert_eq!(subnet.to_string(), "10.1.2.0/23");
    for (ip, within) in [("10.1.2.1", true), ("10.1.3.255", true), ("10.1.4.0", false)] {
        assert_eq!(subnet.contains(ip.parse().expect("an address")), within, "{ip}");
    }
    let six: Subnet = "fd00:1::/64".parse().expect("a subnet");
    assert!(six.contains("fd00:1::9".parse().expect("an address")));
    assert!(!six.contains("10.1.2.1".parse().expect("an address")));
    let all: Subnet = "0.0.0.0/0".parse().expect("a subnet");
    assert!(all.contains("192.0.2.1".parse().expect("an address")));
    for wrong in ["", "10.1.2.0", "10.1.2.0/33", "fd00::/129", "eth0/24", "10.1.2.0/-1"] {
        assert_eq!(wrong.parse::<Subnet>(), Err(NoSubnet), "{wrong}");
    }
}

#[test]
fn only_addresses_within_the_networks_are_endpoints_in_their_order() {
    let here = [
        found("lo", "127.0.0.1", 8),
        found("mgmt", "192.168.0.5", 24),
        found("a", "fd00::5", 64),
        found("a", "10.1.0.5", 24),
        found("a", "fe80::1", 64),
        found("b", "fe80::2", 64),
        found("b", "10.2.0.5", 24),
    ];
    let networks = [network("b", 1), network("10.1.0.0/16", 0), network("c", 0)];
    let endpoints = within(&networks, &here);
    let told: Vec<_> = endpoints.iter().map(|e| (e.interface.as_str(), e.preference)).collect();
    assert_eq!(told, [("b", 1), ("a", 0)]);
    assert_eq!(endpoints[0].address.ip().to_string(), "10.2.0.5");
    assert_eq!(endpoints[1].subnet.map(Subnet::prefix), Some(24));
}

#[test]
fn interfaces_of_the_same_subnet_are_paired_off() {
    let ours = [endpoint("a", "10.1.0.1/24"), endpoint("b", "10.2.0.1/24")];
    let theirs = [endpoint("x", "10.2.0.2/24"), endpoint("y", "10.1.0.2/24")];
    let met = told(&paths(&ours, &theirs));
    assert_eq!(met, ["10.1.0.1 10.1.0.2 near", "10.2.0.1 10.2.0.2 near"]);
    // Two and two in one subnet are two paths, not four; one more on a side shares.
    let ours = [endpoint("a", "10.1.0.1/24"), endpoint("b", "10.1.0.3/24")];
    let theirs = [endpoint("x", "10.1.0.2/24"), endpoint("y", "10.1.0.4/24")];
    assert_eq!(told(&paths(&ours, &theirs)).len(), 2);
    let met = told(&paths(&ours, &theirs[..1]));
    assert_eq!(met, ["10.1.0.1 10.1.0.2 near", "10.1.0.3 10.1.0.2 near"]);
}

#[test]
fn what_shares_no_subnet_is_left_to_a_router() {
    let ours = [endpoint("a", "10.1.0.1/24"), endpoint("b", "10.8.0.1/24")];
    let theirs = [endpoint("x", "10.1.0.2/24"), endpoint("y", "10.9.0.2/24")];
    let met = told(&paths(&ours, &theirs));
    assert_eq!(met, ["10.1.0.1 10.1.0.2 near", "10.8.0.1 10.9.0.2 far"]);
    // A destination without a list listens where its agent was reached.
    let unlisted = Endpoint { subnet: None, ..endpoint("", "10.1.0.2/24") };
    assert_eq!(told(&paths(&ours, &[unlisted])), ["10.1.0.1 10.1.0.2 near"]);
    assert_eq!(paths(&ours, &[endpoint("x", "fd00::1/64")]), []);
}

#[test]
fn without_a_list_the_system_chooses_where_to_come_from() {
    let theirs = [endpoint("x", "10.1.0.2/24"), endpoint("y", "10.2.0.2/24")];
    assert_eq!(told(&paths(&[], &theirs)), ["any 10.1.0.2 far", "any 10.2.0.2 far"]);
}

#[test]
fn a_path_is_as_preferred_and_as_fast_as_its_worse_end() {
    let speed = |rate| Some(ByteRate(rate));
    let here = Endpoint { preference: 2, speed: speed(5), ..endpoint("a", "10.1.0.1/24") };
    let there = Endpoint { preference: 1, speed: speed(9), ..endpoint("x", "10.1.0.2/24") };
    let met = &paths(&[here], &[there])[0];
    assert_eq!((met.preference, met.speed), (2, speed(5)));
    assert_eq!(met.interface.as_deref(), Some("a"));
}

#[test]
fn this_host_has_a_loopback() {
    let network = network("127.0.0.0/8", 0);
    let endpoints = endpoints(&[network]).expect("interfaces");
    assert!(endpoints.iter().any(|endpoint| endpoint.address.ip().is_loopback()), "{endpoints:?}");
}
