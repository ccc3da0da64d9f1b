//! The migration networks of this host and of the other one, and the paths between them.

use std::net::{IpAddr, SocketAddr};

use tonic::Status;
use whimbrel_control::api;
use whimbrel_engine::page::ByteRate;
use whimbrel_engine::transport::{self, Endpoint, Network, Path, Subnet};

use crate::process_api as process;

/// This host's addresses in the networks that may carry migrations; none where none are listed,
/// which leaves it to the routing table.
///
/// # Errors
/// A refusal, if networks are listed and this host has no address there.
pub(crate) fn endpoints(networks: &[Network]) -> Result<Vec<Endpoint>, Status> {
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    let endpoints = transport::endpoints(networks).map_err(|error| {
        Status::internal(format!("this host does not tell its addresses: {error}"))
    })?;
    if endpoints.is_empty() {
        return Err(Status::failed_precondition(format!(
            "this host has no address in its migration networks ({}): bring one of them up, or \
             start its agent with another --network",
            listed(networks)
        )));
    }
    Ok(endpoints)
}

fn listed(networks: &[Network]) -> String {
    let names: Vec<_> = networks.iter().map(|network| network.which.to_string()).collect();
    names.join(", ")
}

/// The ways from here to where a destination listens. Empty where neither side lists networks.
///
/// # Errors
/// A refusal, if there is no way.
pub(crate) fn paths(
    ours: &[Endpoint],
    expected: &api::PrepareIncomingResponse,
) -> Result<Vec<Path>, Status> {
    let mut theirs: Vec<_> = expected.endpoints.iter().filter_map(heard).collect();
    if ours.is_empty() && theirs.is_empty() {
        return Ok(Vec::new());
    }
    if theirs.is_empty() {
        let address = expected.address.parse();
        let address: SocketAddr =
            address.map_err(|_| Status::internal("the destination names no address"))?;
        let (subnet, interface) = (None, String::new());
        theirs.push(Endpoint { address, subnet, interface, preference: 0, speed: None });
    }
    let paths = transport::paths(ours, &theirs);
    if paths.is_empty() {
        let all = |endpoints: &[Endpoint]| {
            let ips: Vec<_> = endpoints.iter().map(|it| it.address.ip().to_string()).collect();
            if ips.is_empty() { "no address".to_owned() } else { ips.join(", ") }
        };
        return Err(Status::failed_precondition(format!(
            "there is no path: this host's migration networks have {}, the destination's {}; give \
             both agents a --network that they share",
            all(ours),
            all(&theirs)
        )));
    }
    Ok(paths)
}

/// An endpoint for the other side, which listens at `address`.
pub(crate) fn told(endpoint: &Endpoint, address: String) -> api::Endpoint {
    api::Endpoint {
        address,
        prefix: endpoint.subnet.map(|subnet| subnet.prefix().into()),
        interface: endpoint.interface.clone(),
        preference: endpoint.preference.into(),
        speed_bytes_per_s: endpoint.speed.map(|speed| speed.0),
    }
}

/// What the other side tells; an address that is none is no endpoint.
fn heard(endpoint: &api::Endpoint) -> Option<Endpoint> {
    let address: SocketAddr = endpoint.address.parse().ok()?;
    let prefix = endpoint.prefix.and_then(|prefix| u8::try_from(prefix).ok());
    Some(Endpoint {
        address,
        subnet: prefix.and_then(|prefix| Subnet::new(address.ip(), prefix).ok()),
        interface: endpoint.interface.clone(),
        preference: u16::try_from(endpoint.preference).unwrap_or(u16::MAX),
        speed: endpoint.speed_bytes_per_s.map(ByteRate),
    })
}

/// Whether an endpoint is at this address.
pub(crate) fn is_at(endpoint: &api::Endpoint, ip: IpAddr) -> bool {
    endpoint.address.parse().is_ok_and(|address: SocketAddr| address.ip() == ip)
}

/// Paths for a guest process.
pub(crate) fn to_process(paths: &[Path]) -> Vec<process::Path> {
    let told = |path: &Path| process::Path {
        remote: path.remote.to_string(),
        local: path.local.map(|ip| ip.to_string()).unwrap_or_default(),
        interface: path.interface.clone().unwrap_or_default(),
        preference: path.preference.into(),
        speed_bytes_per_s: path.speed.map(|speed| speed.0),
        near: path.near,
    };
    paths.iter().map(told).collect()
}

/// Paths as the agent told them.
///
/// # Errors
/// A refusal of what are no addresses.
pub(crate) fn from_agent(paths: &[process::Path]) -> Result<Vec<Path>, Status> {
    paths.iter().map(of_agent).collect()
}

fn of_agent(path: &process::Path) -> Result<Path, Status> {
    let unusable =
        |_| Status::invalid_argument(format!("a path's addresses are unusable: {path:?}"));
    let local = Some(path.local.as_str()).filter(|local| !local.is_empty());
    Ok(Path {
        local: local.map(str::parse).transpose().map_err(unusable)?,
        interface: Some(path.interface.clone()).filter(|name| !name.is_empty()),
        preference: u16::try_from(path.preference).unwrap_or(u16::MAX),
        speed: path.speed_bytes_per_s.map(ByteRate),
        near: path.near,
        ..Path::to(path.remote.parse().map_err(unusable)?)
    })
}

#[cfg(test)]
mod tests {
    use whimbrel_engine::transport::Which;

    use super::*;

    fn network(which: Which) -> Network {
        Network { which, preference: 3, speed: Some(ByteRate(125_000_000)), limit: None }
    }

    fn loopback() -> Vec<Endpoint> {
        let subnet = "127.0.0.0/8".parse().unwrap();
        endpoints(&[network(Which::Subnet(subnet))]).unwrap()
    }

    #[test]
    fn networks_without_an_address_here_are_named_in_the_refusal() {
        let networks = [network(Which::Interface("nonesuch0".to_owned()))];
        let status = endpoints(&networks).unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().contains("nonesuch0"), "{status}");
        assert_eq!(endpoints(&[]).unwrap(), []);
    }

    #[test]
    fn both_lists_meet_in_paths_that_a_guest_process_understands() {
        let ours = loopback();
        let there = told(&ours[0], "127.0.0.1:77".to_owned());
        let mut expected = api::PrepareIncomingResponse {
            address: "127.0.0.1:77".to_owned(),
            endpoints: vec![there],
            ..Default::default()
        };
        let met = paths(&ours, &expected).unwrap();
        assert_eq!(met.len(), 1);
        assert!(met[0].near && met[0].preference == 3, "{met:?}");
        assert_eq!(from_agent(&to_process(&met)).unwrap(), met);
        // A destination without a list.
        expected.endpoints.clear();
        assert_eq!(paths(&ours, &expected).unwrap().len(), 1);
        assert_eq!(paths(&[], &expected).unwrap(), []);
        expected.address = "[fd00::1]:77".to_owned();
        let status = paths(&ours, &expected).unwrap_err();
        assert!(status.message().contains("fd00::1"), "{status}");
    }

    #[test]
    fn a_path_without_addresses_is_refused() {
        let path = process::Path { remote: "nowhere".to_owned(), ..Default::default() };
        assert_eq!(from_agent(&[path]).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
