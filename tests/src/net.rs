//! Hosts of a network of our own, in namespaces of the kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

/// A namespace with one cable to where the test is.
#[derive(Debug)]
pub struct Namespace {
    /// What `ip netns` calls it.
    pub name: String,
    /// Our end of the cable.
    pub outside: IpAddr,
    /// Its end.
    pub inside: IpAddr,
    cable: String,
}

impl Namespace {
    /// A fresh one; `None` for who may not make any.
    #[must_use]
    pub fn make() -> Option<Self> {
        static MADE: AtomicU8 = AtomicU8::new(0);
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        // Addresses that are set aside for tests of networks.
        let address = |end| Ipv4Addr::new(198, 18, (process % 256) as u8, number * 4 + end);
        let (outside, inside) = (address(1), address(2));
        let name = format!("whimbrel-{process}-{number}");
        let made = Self {
            cable: format!("wb{process}n{number}"),
            outside: outside.into(),
            inside: inside.into(),
            name,
        };
        let Self { name, cable, .. } = &made;
        let inner = format!("netns exec {name} ip");
        let steps = [
            format!("netns add {name}"),
            format!("link add {cable} type veth peer name wire netns {name}"),
            format!("addr add {outside}/30 dev {cable}"),
            format!("link set {cable} up"),
            format!("{inner} addr add {inside}/30 dev wire"),
            format!("{inner} link set wire up"),
            format!("{inner} link set lo up"),
        ];
        steps.iter().all(|step| ip(step)).then_some(made)
    }

    /// Pulls the cable out, or puts it back.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn cut(&self, cut: bool) {
        let state = if cut { "down" } else { "up" };
        assert!(ip(&format!("link set {} {state}", self.cable)), "{self:?}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = ip(&format!("link del {}", self.cable));
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(words: &str) -> bool {
    let done = Command::new("ip").args(words.split(' ')).output();
    done.is_ok_and(|done| done.status.success())
}
