//! The networks that may carry migrations, and how those of two hosts meet in paths.
//!
//! ```text
//!   networks of a host ─► endpoints: its addresses there ─┐
//!   networks of the other ─► its endpoints, with ports ───┴─► paths: from where to where
//! ```
//!
//! Goals: what is not in a listed network carries nothing; each interface is in one path where
//! there are enough of them. Non-goals: whether a path works, and how fast it is: lanes find out.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use whimbrel_page::ByteRate;

use crate::Path;

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

/// What is no subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no subnet; write for example 10.1.0.0/24 or fd00:1::/64")]
pub struct NoSubnet;

impl Subnet {
    /// The addresses that agree with `address` in the first `prefix` bits.
    ///
    /// # Errors
    /// [`NoSubnet`] if an address has fewer bits.
    pub const fn new(address: IpAddr, prefix: u8) -> Result<Self, NoSubnet> {
        if prefix > bits(address) { Err(NoSubnet) } else { Ok(Self { address, prefix }) }
    }

    /// How many bits its addresses share.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether `other` is one of its addresses.
    #[must_use]
    pub fn contains(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => {
                let differ = one.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= self.prefix.into()
            }
            (IpAddr::V6(one), IpAddr::V6(other)) => {
                let differ = one.to_bits() ^ other.to_bits();
                differ.leading_zeros() >= self.prefix.into()
            }
            _ => false,
        }
    }
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Subnet {
    type Err = NoSubnet;

    fn from_str(text: &str) -> Result<Self, NoSubnet> {
        let (address, prefix) = text.split_once('/').ok_or(NoSubnet)?;
        let address = address.parse().map_err(|_| NoSubnet)?;
        Self::new(address, prefix.parse().map_err(|_| NoSubnet)?)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Which addresses of this host a network has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those within a subnet.
    Subnet(Subnet),
    /// Those of an interface, by the system's name for it.
    Interface(String),
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subnet(subnet) => subnet.fmt(f),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

/// A network of this host that may carry migrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Which one.
    pub which: Which,
    /// Those with the lowest number are used together; others only when none of them works.
    pub preference: u16,
    /// How fast it is, as far as somebody said.
    pub speed: Option<ByteRate>,
    /// What each path from it may carry.
    pub limit: Option<ByteRate>,
}

/// An address of a host in one of its networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address; port 0 is one that only connects.
    pub address: SocketAddr,
    /// The subnet that its interface is in, as far as it is known.
    pub subnet: Option<Subnet>,
    /// The interface, by its host's name for it; empty where nobody said.
    pub interface: String,
    /// As in [`Network`].
    pub preference: u16,
    /// As in [`Network`].
    pub speed: Option<ByteRate>,
}

/// The addresses that this host has in `networks`, in their order. Those of an interface that is
/// down count: it may come up.
///
/// # Errors
/// The system's.
pub fn endpoints(networks: &[Network]) -> io::Result<Vec<Endpoint>> {
    let found: Vec<_> = if_addrs::get_if_addrs()?.iter().map(Found::from).collect();
    Ok(within(networks, &found))
}

/// Whether `peer` is in a subnet of this host, as far as the system tells.
#[must_use]
pub fn is_near(peer: IpAddr) -> bool {
    near(peer).is_some()
}

/// This host's address in a subnet that has `peer` too, as far as the system tells.
#[must_use]
pub fn near(peer: IpAddr) -> Option<IpAddr> {
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    let has = |found: &Found| Subnet::new(found.ip, found.prefix).is_ok_and(|it| it.contains(peer));
    found.iter().map(Found::from).find(has).map(|found| found.ip)
}

/// The interface that has this address.
pub(crate) fn interface_of(ip: IpAddr) -> Option<String> {
    let found = if_addrs::get_if_addrs().ok()?;
    found.into_iter().find(|interface| interface.ip() == ip).map(|interface| interface.name)
}

/// An address as the system tells it.
struct Found {
    name: String,
    ip: IpAddr,
    prefix: u8,
    link_local: bool,
}

impl From<&if_addrs::Interface> for Found {
    fn from(interface: &if_addrs::Interface) -> Self {
        let prefix = match &interface.addr {
            if_addrs::IfAddr::V4(address) => address.prefixlen,
            if_addrs::IfAddr::V6(address) => address.prefixlen,
        };
        let (ip, link_local) = (interface.ip(), interface.is_link_local());
        Self { name: interface.name.clone(), ip, prefix, link_local }
    }
}

fn within(networks: &[Network], found: &[Found]) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for network in networks {
        let mut own: Vec<_> = found.iter().filter(|found| has(network, found)).collect();
        // An interface needs one address only, and every system speaks the older protocol.
        own.sort_by_key(|found| found.ip.is_ipv6());
        for Found { name, ip, prefix, .. } in own {
            if endpoints.iter().any(|known| known.interface == *name) {
                continue;
            }
            endpoints.push(Endpoint {
                address: SocketAddr::new(*ip, 0),
                subnet: Subnet::new(*ip, *prefix).ok(),
                interface: name.clone(),
                preference: network.preference,
                speed: network.speed,
            });
        }
    }
    endpoints
}

/// An address of a link alone says nothing to a peer that does not know the link.
fn has(network: &Network, found: &Found) -> bool {
    match &network.which {
        Which::Subnet(subnet) => subnet.contains(found.ip),
        Which::Interface(name) => *name == found.name && !found.link_local,
    }
}

/// The ways from `ours` to `theirs`. Interfaces that share a subnet are paired off, each with one
/// of its own as far as there are enough; what shares none is paired in order, for a router to
/// find the way. No endpoint of ours leaves the choice of the address to come from to the system.
#[must_use]
pub fn paths(ours: &[Endpoint], theirs: &[Endpoint]) -> Vec<Path> {
    if ours.is_empty() {
        return theirs.iter().map(|there| Path::to(there.address).preferred(there)).collect();
    }
    let mut pairing = Pairing { ours, theirs, paths: Vec::new(), used: Default::default() };
    pairing.pair(same_subnet, |here, there| !here && !there);
    // What is left over shares the other side's interface with another one.
    pairing.pair(same_subnet, |here, there| here != there);
    pairing.pair(same_family, |here, there| !here && !there);
    pairing.paths
}

fn same_family(here: &Endpoint, there: &Endpoint) -> bool {
    here.address.is_ipv4() == there.address.is_ipv4()
}

fn same_subnet(here: &Endpoint, there: &Endpoint) -> bool {
    let shares = |one: &Endpoint, other: &Endpoint| {
        one.subnet.is_some_and(|subnet| subnet.contains(other.address.ip()))
    };
    shares(here, there) && (there.subnet.is_none() || shares(there, here))
}

struct Pairing<'a> {
    ours: &'a [Endpoint],
    theirs: &'a [Endpoint],
    paths: Vec<Path>,
    /// Places in the two lists that are in a path.
    used: (BTreeSet<usize>, BTreeSet<usize>),
}

impl Pairing<'_> {
    /// Pairs what fits, where `wanted` says so of whether each side is in a path already.
    fn pair(
        &mut self,
        fits: impl Fn(&Endpoint, &Endpoint) -> bool,
        wanted: impl Fn(bool, bool) -> bool,
    ) {
        for (at, here) in self.ours.iter().enumerate() {
            for (to, there) in self.theirs.iter().enumerate() {
                let used = (self.used.0.contains(&at), self.used.1.contains(&to));
                if fits(here, there) && wanted(used.0, used.1) {
                    self.paths.push(path(here, there));
                    self.used.0.insert(at);
                    self.used.1.insert(to);
                }
            }
        }
    }
}

fn path(here: &Endpoint, there: &Endpoint) -> Path {
    let slower = match (here.speed, there.speed) {
        (Some(here), Some(there)) => Some(here.min(there)),
        (here, there) => here.or(there),
    };
    Path {
        local: Some(here.address.ip()),
        interface: Some(here.interface.clone()).filter(|name| !name.is_empty()),
        preference: here.preference.max(there.preference),
        speed: slower,
        near: same_subnet(here, there),
        ..Path::to(there.address)
    }
}

#[cfg(test)]
mod tests;
