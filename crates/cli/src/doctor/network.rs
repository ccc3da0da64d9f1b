//! What an experienced administrator would say of the paths between two hosts.

use std::net::IpAddr;
use std::time::Duration;

use whimbrel_control::{AgentAddress, api};

use super::Finding;
use crate::args::Target;
use crate::exit::Stop;
use crate::view::units;

/// Clocks that are farther apart confuse logs and certificates.
const CLOCKS_APART: Duration = Duration::from_secs(1);
/// Bytes in a segment, roughly.
const SEGMENT: u64 = 1448;
/// A link that sends more again than one segment in so many loses packets.
const LOSSY: u64 = 500;
/// A longer way with losses is nothing for a congestion control that takes them for a queue.
const LONG_WAY: Duration = Duration::from_millis(20);

/// Has an agent measure the paths to the one at `peer`, and says which networks it has.
///
/// # Errors
/// One of the two does not answer, or refuses.
pub(super) async fn probe(
    target: &Target,
    peer: &AgentAddress,
    here: &mut Vec<Finding>,
) -> Result<api::ProbePathsResponse, Stop> {
    let mut client = target.connect().await?;
    here.extend(of_host(&client.host().networks));
    let destination = peer.to_string();
    Ok(client.probe_paths(api::ProbePathsRequest { destination, ..Default::default() }).await?)
}

/// Nothing could be measured.
pub(super) fn unknown(why: &str) -> Finding {
    Finding::bad("peer", why, "nothing between the two hosts was looked at; mend that first")
}

/// What there is to say of the paths to an agent at `peer`, those first that are used first.
pub(crate) fn findings(probed: &api::ProbePathsResponse, peer: &str) -> Vec<Finding> {
    let mut paths: Vec<_> = probed.paths.iter().collect();
    paths.sort_by_key(|path| path.preference);
    let mut found = vec![number(&paths), management(probed, peer)];
    let bbr = bbr(&probed.congestion_allowed);
    found.extend(paths.into_iter().flat_map(|path| of_path(path, bbr)));
    found.extend(buffers(probed));
    found.extend([lanes(probed), clocks(probed.clock_offset_us)]);
    found
}

/// How many paths are used together, and how many stand by, as their preferences say.
fn number(paths: &[&api::PathProbe]) -> Finding {
    let works: Vec<_> = paths.iter().filter(|path| path.error.is_empty()).collect();
    let first = works.first().map(|path| path.preference);
    let together = works.iter().filter(|path| Some(path.preference) == first).count();
    let plural = |n: usize| if n == 1 { "path is" } else { "paths are" };
    match (together, works.len() - together) {
        (0, _) => Finding::bad(
            "paths",
            "none works: no guest can move there",
            "look at the reasons below; both agents need a --network that they share",
        ),
        (1, 0) => Finding::warn(
            "paths",
            "one path only: its loss stops a migration, and its speed is all there is",
            "give both agents a second --network",
        ),
        (some, 0) => Finding::ok("paths", format!("{some} paths work at once")),
        (some, rest) => Finding::ok(
            "paths",
            format!("{some} {} used, {rest} more by preference once none works", plural(some)),
        ),
    }
}

/// What there is to say of the networks that an agent was given.
fn of_host(networks: &[api::HostNetwork]) -> Vec<Finding> {
    networks.iter().map(of_network).collect()
}

fn of_network(network: &api::HostNetwork) -> Finding {
    let told = described(network);
    if network.addresses.is_empty() {
        let found = format!("{told}: this host has no address in it, and nothing goes there");
        let advice = "start the agent with it spelt as the system has it, or bring it up";
        return Finding::warn("network", found, advice);
    }
    Finding::ok("network", format!("{told}: {}", network.addresses.join(", ")))
}

/// A network with what was said of it.
pub(crate) fn described(network: &api::HostNetwork) -> String {
    let api::HostNetwork { network, preference, speed_bytes_per_s, limit_bytes_per_s, .. } =
        network;
    let speed = speed_bytes_per_s.map(|rate| format!(", speed {}", units::bandwidth(rate)));
    let limit = limit_bytes_per_s.map(limited).unwrap_or_default();
    format!("{network}{}{}{limit}", preferred(*preference), speed.unwrap_or_default())
}

/// Nothing of the first ones.
fn preferred(preference: u32) -> String {
    match preference {
        0 => String::new(),
        some => format!(", preference {some}"),
    }
}

fn limited(rate: u64) -> String {
    format!(", limit {}", units::bandwidth(rate))
}

fn management(probed: &api::ProbePathsResponse, peer: &str) -> Finding {
    let subject = "networks";
    // An agent that does not say where it was called was perhaps called by its address.
    let called = if probed.called.is_empty() { peer } else { &probed.called };
    let address = |text: &str| text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let called = address(called);
    let shared =
        probed.paths.iter().find(|path| called.is_some() && address(&path.remote) == called);
    match shared {
        _ if !probed.listed => Finding::warn(
            subject,
            "migrations use the network on which the agents are called: management's",
            "start both agents with --network for each network that may carry migrations",
        ),
        Some(path) => {
            let found = format!(
                "{} is in the network where the agent is called: management's",
                path.remote
            );
            Finding::warn(subject, found, "leave that network out of --network, or limit it")
        }
        None => Finding::ok(subject, "migrations have networks of their own"),
    }
}

fn of_path(path: &api::PathProbe, bbr: &str) -> Vec<Finding> {
    let limit = path.limit_bytes_per_s.map(limited).unwrap_or_default();
    let name = format!("{}{}{limit}", path.name, preferred(path.preference));
    if !path.error.is_empty() {
        let advice = "look at cable, route and firewall between these addresses";
        return vec![Finding::bad("path", format!("{name}: {}", path.error), advice)];
    }
    let trip = units::time(Duration::from_micros(path.round_trip_us));
    let class = if path.near { "same subnet" } else { "across subnets" };
    let carried: Vec<_> = path.throughput.iter().map(rate).collect();
    let told = format!("{name}: {class}, round trip {trip}, {}", carried.join(", "));
    let mut found = vec![Finding::ok("path", told)];
    found.push(packets(path));
    found.extend(tls(path));
    found.extend(quic(path));
    found.extend(losses(path, bbr));
    found
}

fn tls(path: &api::PathProbe) -> Option<Finding> {
    let advice = "look for what changes connections on the way, or move with --transport quic";
    over("tls", "TLS", (&path.tls, &path.tls_error), path, advice)
}

fn quic(path: &api::PathProbe) -> Option<Finding> {
    let advice = "let UDP pass between the hosts, or move with --transport tls";
    over("quic", "QUIC", (&path.quic, &path.quic_error), path, advice)
}

/// Nothing where one of the agents is of a release that does not measure it.
fn over(
    subject: &str,
    called: &str,
    (carried, error): (&[api::Throughput], &str),
    path: &api::PathProbe,
    advice: &str,
) -> Option<Finding> {
    let name = &path.name;
    if !error.is_empty() {
        let found = format!("{name}: {called} does not work: {error}");
        return Some(Finding::warn(subject, found, advice));
    }
    let carried: Vec<_> = carried.iter().map(rate).collect();
    let told = || Finding::ok(subject, format!("{name}: over {called} {}", carried.join(", ")));
    (!carried.is_empty()).then(told)
}

fn rate(it: &api::Throughput) -> String {
    let plural = if it.lanes == 1 { "" } else { "s" };
    format!("{} with {} lane{plural}", units::rate(it.rate_bytes_per_s), it.lanes)
}

fn packets(path: &api::PathProbe) -> Finding {
    let subject = "packets";
    match (path.mtu, path.mtu_here) {
        (None, _) => Finding::warn(
            subject,
            format!("{}: no packet was answered; what size passes is not known", path.name),
            "let UDP pass between the two hosts while they are probed",
        ),
        (Some(passes), Some(here)) if passes < here.min(65_535) => Finding::warn(
            subject,
            format!(
                "{}: {passes} bytes pass, though the interface here takes {here}: the MTU differs \
                 along the way",
                path.name
            ),
            format!("set one MTU on both hosts and all between: {here} there, or {passes} here"),
        ),
        (Some(passes), _) if passes > 1500 => {
            Finding::ok(subject, format!("{}: jumbo frames of {passes} bytes pass", path.name))
        }
        (Some(passes), _) => Finding::ok(subject, format!("{}: {passes} bytes pass", path.name)),
    }
}

/// How to come to it on a host that allows these congestion controls for TCP, if it says which.
fn bbr(allowed: &[String]) -> &'static str {
    match allowed {
        [] => "bbr is better, where the source allows it: --transport quic has one of its own",
        some if some.iter().any(|name| name == "bbr") => "whimbrel migrate --congestion bbr",
        _ => {
            "have the source's kernel allow bbr (net.ipv4.tcp_allowed_congestion_control), then \
             whimbrel migrate --congestion bbr"
        }
    }
}

fn losses(path: &api::PathProbe, bbr: &str) -> Option<Finding> {
    let best = path.throughput.iter().rfind(|it| Some(it.lanes) == path.best_lanes)?;
    let again = best.retransmitted?;
    let segments = (best.rate_bytes_per_s / SEGMENT).max(1);
    if again == 0 || again * LOSSY < segments {
        return None;
    }
    let found = format!("{}: {again} segments were sent again in a second", path.name);
    let advice = match Duration::from_micros(path.round_trip_us) >= LONG_WAY {
        true => format!("on a long way that loses packets, {bbr}"),
        false => "look at cables and at the buffers of the switch; fewer lanes crowd less".into(),
    };
    Some(Finding::warn("losses", found, advice))
}

/// Buffers that hold less than a path keeps under way slow it down.
fn buffers(probed: &api::ProbePathsResponse) -> Option<Finding> {
    let each =
        |path: &api::PathProbe| Some(path.under_way_bytes? / u64::from(path.best_lanes?.max(1)));
    let needed = probed.paths.iter().filter_map(each).max()?;
    let most = probed.send_buffer_max_bytes?;
    let found = format!(
        "a lane keeps {} under way, and its buffer holds {}",
        units::bytes(needed),
        units::bytes(most)
    );
    let advice = "sysctl net.ipv4.tcp_wmem='4096 65536 67108864', tcp_rmem likewise, on both hosts";
    (needed * 2 > most).then(|| Finding::warn("way", found, advice))
}

fn lanes(probed: &api::ProbePathsResponse) -> Finding {
    // Lanes go over the paths that are preferred among those that work.
    let works = |path: &&api::PathProbe| path.error.is_empty() && path.best_lanes.is_some();
    let measured = || probed.paths.iter().filter(works);
    let first = measured().map(|path| path.preference).min();
    let used = measured().filter(|path| Some(path.preference) == first);
    match used.filter_map(|path| path.best_lanes).sum::<u32>() {
        0 => Finding::ok("lanes", "nothing was measured"),
        sum => Finding::ok("lanes", format!("more than --lanes {sum} bring little here")),
    }
}

fn clocks(offset_us: i64) -> Finding {
    let apart = Duration::from_micros(offset_us.unsigned_abs());
    if apart < CLOCKS_APART {
        return Finding::ok("clocks", format!("{} apart", units::time(apart)));
    }
    let way = if offset_us > 0 { "ahead" } else { "behind" };
    let found = format!("the other host's is {} {way}", units::time(apart));
    Finding::warn("clocks", found, "run NTP on both: logs and certificates count on it")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn path(name: &str) -> api::PathProbe {
        let throughput = |lanes, mib: u64, again| api::Throughput {
            lanes,
            rate_bytes_per_s: mib << 20,
            retransmitted: Some(again),
        };
        api::PathProbe {
            name: name.into(),
            remote: "10.1.0.2".into(),
            near: true,
            round_trip_us: 200,
            mtu: Some(9000),
            mtu_here: Some(9000),
            throughput: vec![throughput(1, 600, 0), throughput(2, 1100, 3)],
            tls: vec![throughput(1, 550, 0), throughput(2, 900, 0)],
            quic: vec![throughput(1, 500, 0)],
            best_lanes: Some(2),
            ..Default::default()
        }
    }

    fn good() -> api::ProbePathsResponse {
        api::ProbePathsResponse {
            paths: vec![path("a"), path("b")],
            clock_offset_us: -900,
            listed: true,
            called: "192.168.0.2".into(),
            send_buffer_max_bytes: Some(4 << 20),
            congestion_allowed: vec!["bbr".into()],
        }
    }

    fn troubles(probed: &api::ProbePathsResponse) -> Vec<String> {
        // By a name that its address is not seen from.
        let troubles = findings(probed, "host-b").into_iter();
        let troubles = troubles.filter(|finding| finding.verdict != Verdict::Ok);
        troubles
            .map(|it| format!("{}: {} → {}", it.subject, it.found, it.advice.expect("advice")))
            .collect()
    }

    #[test]
    fn good_paths_are_told_with_what_they_carry() {
        assert_eq!(troubles(&good()), [""; 0]);
        let all = findings(&good(), "host-b");
        let told = all.iter().find(|finding| finding.subject == "path").expect("each path");
        let expected =
            "a: same subnet, round trip 200 µs, 600 MiB/s with 1 lane, 1.1 GiB/s with 2 lanes";
        assert_eq!(told.found, expected);
        let over =
            all.iter().filter(|finding| finding.subject == "tls" || finding.subject == "quic");
        let over: Vec<_> = over.map(|finding| finding.found.as_str()).collect();
        let expected = [
            "a: over TLS 550 MiB/s with 1 lane, 900 MiB/s with 2 lanes",
            "a: over QUIC 500 MiB/s with 1 lane",
        ];
        assert_eq!(over[..2], expected);
        assert!(all.iter().any(|finding| finding.found.contains("--lanes 4")), "{all:?}");
        assert!(all.iter().any(|finding| finding.found.contains("jumbo frames")), "{all:?}");
    }

    #[test]
    fn paths_stand_in_the_order_of_preference_whatever_came_of_them() {
        let path = |name: &str, preference, error: &str| api::PathProbe {
            preference,
            error: error.into(),
            limit_bytes_per_s: (preference == 2).then_some(250_000_000),
            ..path(name)
        };
        let paths = vec![path("c", 2, ""), path("a", 0, "no route"), path("b", 1, "")];
        let probed = api::ProbePathsResponse { paths, ..good() };
        let all = findings(&probed, "host-b");
        assert_eq!(all[0].found, "1 path is used, 1 more by preference once none works");
        let told = all.iter().filter(|finding| finding.subject == "path");
        let told: Vec<_> = told.map(|finding| finding.found.as_str()).collect();
        assert!(told[0].starts_with("a: no route"), "{told:?}");
        assert!(told[1].starts_with("b, preference 1: same subnet"), "{told:?}");
        let limited = "c, preference 2, limit 2 Gbit/s (238 MiB/s): same subnet";
        assert!(told[2].starts_with(limited), "{told:?}");
        assert!(all.iter().any(|finding| finding.found.contains("--lanes 2 bring")), "{all:?}");
    }

    #[test]
    fn a_network_that_the_host_is_not_in_is_found() {
        let network = |name: &str, addresses: &[&str]| api::HostNetwork {
            network: name.into(),
            preference: 1,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let found = of_host(&[network("eth1", &["10.1.0.7"]), network("ehto2", &[])]);
        assert_eq!(found[0], Finding::ok("network", "eth1, preference 1: 10.1.0.7"));
        assert_eq!(found[1].verdict, Verdict::Warn);
        assert!(found[1].found.contains("ehto2, preference 1: this host has no"), "{found:?}");
    }

    #[test]
    fn each_trouble_is_found_and_comes_with_advice() {
        let with = |change: fn(&mut api::PathProbe)| {
            let mut probed = good();
            change(&mut probed.paths[0]);
            probed
        };
        let cases = [
            (api::ProbePathsResponse { paths: vec![path("a")], ..good() }, "one path only"),
            (api::ProbePathsResponse { listed: false, ..good() }, "management"),
            (api::ProbePathsResponse { clock_offset_us: 90_000_000, ..good() }, "ahead"),
            (with(|path| path.remote = "192.168.0.2".into()), "management's"),
            (
                api::ProbePathsResponse { called: "10.1.0.2".into(), ..good() },
                "leave that network out of --network",
            ),
            (with(|path| path.mtu = Some(1500)), "the MTU differs along the way"),
            (with(|path| path.mtu = None), "no packet was answered"),
            (with(|path| path.error = "unreachable".into()), "unreachable"),
            (with(|path| path.quic_error = "no answer".into()), "QUIC does not work: no answer"),
            (with(|path| path.tls_error = "a stranger".into()), "TLS does not work: a stranger"),
            (with(|path| path.throughput[1].retransmitted = Some(9000)), "fewer lanes crowd less"),
            (
                with(|path| {
                    path.throughput[1].retransmitted = Some(9000);
                    path.round_trip_us = 80_000;
                }),
                "packets, whimbrel migrate --congestion bbr",
            ),
            (
                api::ProbePathsResponse {
                    congestion_allowed: vec!["cubic".into()],
                    ..with(|path| {
                        path.throughput[1].retransmitted = Some(9000);
                        path.round_trip_us = 80_000;
                    })
                },
                "tcp_allowed_congestion_control",
            ),
            (with(|path| path.under_way_bytes = Some(6 << 20)), "keeps 3 MiB under way"),
            (
                api::ProbePathsResponse { called: "::ffff:10.1.0.2".into(), ..good() },
                "management's",
            ),
        ];
        for (probed, what) in cases {
            let told = troubles(&probed);
            assert!(told.iter().any(|told| told.contains(what)), "{what}: {told:?}");
        }
        let none = api::ProbePathsResponse { paths: Vec::new(), ..good() };
        assert!(troubles(&none)[0].contains("none works"));
    }
}
