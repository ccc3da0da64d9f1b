//! Hosts of a network of our own, in namespaces of the kernel.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::os;

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

/// Two hosts on networks of their own, with several wires from one to the other: `w0`, `w1`, …,
/// and `mgmt`, on which their agents talk.
#[derive(Debug)]
pub struct Wires {
    /// The first host.
    pub here: Namespace,
    /// The other one.
    pub there: Namespace,
    count: u8,
}

impl Wires {
    /// Fresh ones; `None` for who may not make any.
    #[must_use]
    pub fn make(count: u8) -> Option<Self> {
        let wires = Self { here: Namespace::make()?, there: Namespace::make()?, count };
        let names = (0..count).map(|wire| (format!("w{wire}"), Self::subnet(wire)));
        let mut all = names.chain([("mgmt".to_owned(), "10.76.0".to_owned())]);
        let (here, there) = (&wires.here.name, &wires.there.name);
        let laid = all.all(|(name, net)| {
            let inside = |namespace: &str, words: &str| ip(&format!("-n {namespace} {words}"));
            inside(here, &format!("link add {name} type veth peer name {name} netns {there}"))
                && inside(here, &format!("addr add {net}.1/24 dev {name}"))
                && inside(there, &format!("addr add {net}.2/24 dev {name}"))
                && inside(here, &format!("link set {name} up"))
                && inside(there, &format!("link set {name} up"))
        });
        laid.then_some(wires)
    }

    /// The first three numbers of the addresses of a wire; the first host has 1, the other one 2.
    #[must_use]
    pub fn subnet(wire: u8) -> String {
        format!("10.77.{wire}")
    }

    /// Where the other host is for the agent of the first one.
    #[must_use]
    pub const fn management() -> &'static str {
        "10.76.0.2"
    }

    /// Both ends of the wire on which agents talk.
    #[must_use]
    pub const fn management_ends() -> [IpAddr; 2] {
        [IpAddr::V4(Ipv4Addr::new(10, 76, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 76, 0, 2))]
    }

    /// Has a wire carry so many megabits a second, each way.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn shape(&self, wire: u8, mbit: u32) {
        for host in [&self.here, &self.there] {
            let words = format!(
                "netns exec {} tc qdisc replace dev w{wire} root tbf rate {mbit}mbit burst 256kb \
                 latency 20ms",
                host.name
            );
            assert!(ip(&words), "{words}");
        }
    }

    /// Has every wire carry what it can.
    pub fn unshape(&self) {
        for wire in 0..self.count {
            for host in [&self.here, &self.there] {
                // One that was not shaped has nothing to lose.
                let _ = ip(&format!("netns exec {} tc qdisc del dev w{wire} root", host.name));
            }
        }
    }

    /// Pulls a wire out, or puts it back.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn cut(&self, wire: u8, cut: bool) {
        let state = if cut { "down" } else { "up" };
        let words = format!("-n {} link set w{wire} {state}", self.there.name);
        assert!(ip(&words), "{words}");
    }

    /// Takes a wire's addresses away on both sides, as if it had never had any.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn unplug(&self, wire: u8) {
        for host in [&self.here, &self.there] {
            let words = format!("-n {} addr flush dev w{wire}", host.name);
            assert!(ip(&words), "{words}");
        }
    }

    /// Gives them back, and puts the wire in.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn plug(&self, wire: u8) {
        self.cut(wire, false);
        for (host, end) in [(&self.here, 1), (&self.there, 2)] {
            let net = Self::subnet(wire);
            let words = format!("-n {} addr add {net}.{end}/24 dev w{wire}", host.name);
            assert!(ip(&words), "{words}");
        }
    }

    /// Sets the largest packet that each end of a wire takes, in bytes.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn set_mtu(&self, wire: u8, here: u32, there: u32) {
        for (host, mtu) in [(&self.here, here), (&self.there, there)] {
            let words = format!("-n {} link set w{wire} mtu {mtu}", host.name);
            assert!(ip(&words), "{words}");
        }
    }

    /// Bytes that the first host has sent over an interface.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn sent(&self, interface: &str) -> u64 {
        let told = self.told_here(&format!("cat {}", os::counter_of_sent(interface)));
        told.trim().parse().expect("a number of bytes")
    }

    /// The first host's connections to an address, one a line, with how what they send is marked.
    ///
    /// # Panics
    /// If the system does not tell.
    #[must_use]
    pub fn marks(&self, to: &str) -> Vec<String> {
        let told = self.told_here(&format!("ss -HOtn --tos state established dst {to}"));
        told.lines().map(str::to_owned).collect()
    }

    /// What a program says on the first host.
    fn told_here(&self, words: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.here.name]).args(words.split_whitespace());
        let done = command.output().expect("ip runs");
        assert!(done.status.success(), "{words}: {done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }
}

fn ip(words: &str) -> bool {
    let done = Command::new("ip").args(words.split_whitespace()).output();
    done.is_ok_and(|done| done.status.success())
}
