//! `limit`: how fast a migration, or a host, may send.

use std::time::Duration;

use serde::Serialize;
use whimbrel_agent::Heartbeat;
use whimbrel_control::api;

use crate::args::LimitArgs;
use crate::exit::{Ending, Exit};
use crate::parse::Limit;
use crate::view::units;
use crate::{json, out};

/// Changes limits, and says which are in force then.
pub(crate) async fn limit(args: LimitArgs) -> Ending {
    let network = |(network, limit): &(String, Limit)| api::NetworkLimit {
        network: network.clone(),
        bytes_per_s: limit.told(),
    };
    let heartbeats = args.heartbeat.unwrap_or_default();
    let request = api::SetLimitsRequest {
        migration: args.guest.clone().unwrap_or_default(),
        rate_bytes_per_s: args.rate.map(Limit::told),
        switchover_bytes_per_s: args.switchover.map(Limit::told),
        weight: args.weight,
        host_bytes_per_s: args.host.map(Limit::told),
        networks: args.networks.iter().map(network).collect(),
        same_subnet: heartbeats.same_subnet.map(Heartbeat::said),
        cross_subnet: heartbeats.cross_subnet.map(Heartbeat::said),
    };
    let in_force = args.target.connect().await?.set_limits(request).await?;
    match args.json {
        true => out::line(json::line(&object(&in_force))),
        false => {
            let asked: Vec<_> = args.networks.iter().map(|(network, _)| network.as_str()).collect();
            lines(args.guest.as_deref(), &asked, &in_force).into_iter().for_each(out::line);
        }
    }
    Ok(Exit::Done)
}

/// Of networks those with a limit, and those that were asked about.
fn lines(guest: Option<&str>, asked: &[&str], limits: &api::LimitsInForce) -> Vec<String> {
    let rate = |rate: Option<u64>| rate.map_or("no limit".to_owned(), units::bandwidth);
    let mut lines = Vec::new();
    if let Some(guest) = guest {
        lines.push(format!("{guest}: {}", rate(limits.rate_bytes_per_s)));
        let last = limits.switchover_bytes_per_s.or(limits.rate_bytes_per_s);
        lines.push(format!("its last pages: {}", rate(last)));
        let share = limits.share_bytes_per_s.map(units::bandwidth);
        let share = share.map_or(String::new(), |share| format!(", now {share} of the host's"));
        lines.push(format!("its weight: {}{share}", limits.weight.unwrap_or_default()));
    }
    lines.push(format!("the host: {}", rate(limits.host_bytes_per_s)));
    let of = |network: &str, limit| format!("each path from {network}: {}", rate(limit));
    let limited = limits.networks.iter();
    lines.extend(limited.clone().map(|limit| of(&limit.network, Some(limit.bytes_per_s))));
    let free = |asked: &&&str| limited.clone().all(|limit| limit.network != **asked);
    lines.extend(asked.iter().filter(free).map(|network| of(network, None)));
    lines.extend(heartbeats(limits).map(|(class, beat)| {
        let delay = units::time(Duration::from_micros(beat.delay_us));
        format!("a silent peer, {class}: lost after {} times {delay}", beat.threshold)
    }));
    lines
}

/// The heartbeats that were said, with their classes.
fn heartbeats(
    limits: &api::LimitsInForce,
) -> impl Iterator<Item = (&'static str, api::HostHeartbeat)> {
    let all = [("same-subnet", limits.same_subnet), ("cross-subnet", limits.cross_subnet)];
    all.into_iter().filter_map(|(class, beat)| Some((class, beat?)))
}

#[derive(Serialize)]
struct Object<'a> {
    rate_bytes_per_s: Option<u64>,
    switchover_bytes_per_s: Option<u64>,
    weight: Option<u32>,
    share_bytes_per_s: Option<u64>,
    host_bytes_per_s: Option<u64>,
    networks: Vec<NetworkObject<'a>>,
    heartbeats: Vec<HeartbeatObject>,
}

#[derive(Serialize)]
struct HeartbeatObject {
    class: &'static str,
    delay_us: u64,
    threshold: u32,
}

#[derive(Serialize)]
struct NetworkObject<'a> {
    network: &'a str,
    bytes_per_s: u64,
}

fn object(limits: &api::LimitsInForce) -> Object<'_> {
    Object {
        rate_bytes_per_s: limits.rate_bytes_per_s,
        switchover_bytes_per_s: limits.switchover_bytes_per_s,
        weight: limits.weight,
        share_bytes_per_s: limits.share_bytes_per_s,
        host_bytes_per_s: limits.host_bytes_per_s,
        networks: limits
            .networks
            .iter()
            .map(|limit| NetworkObject { network: &limit.network, bytes_per_s: limit.bytes_per_s })
            .collect(),
        heartbeats: heartbeats(limits)
            .map(|(class, api::HostHeartbeat { delay_us, threshold })| HeartbeatObject {
                class,
                delay_us,
                threshold,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force() -> api::LimitsInForce {
        let network = "eth1".to_owned();
        api::LimitsInForce {
            rate_bytes_per_s: Some(250_000_000),
            weight: Some(300),
            share_bytes_per_s: Some(200_000_000),
            networks: vec![api::NetworkLimit { network, bytes_per_s: 50_000_000 }],
            cross_subnet: Some(api::HostHeartbeat { delay_us: 2_000_000, threshold: 10 }),
            ..Default::default()
        }
    }

    #[test]
    fn what_is_in_force_is_told() {
        let told = lines(Some("web"), &["eth1", "eth2"], &in_force());
        let expected = [
            "web: 2 Gbit/s (238 MiB/s)",
            "its last pages: 2 Gbit/s (238 MiB/s)",
            "its weight: 300, now 1.6 Gbit/s (191 MiB/s) of the host's",
            "the host: no limit",
            "each path from eth1: 400 Mbit/s (48 MiB/s)",
            "each path from eth2: no limit",
            "a silent peer, cross-subnet: lost after 10 times 2 s",
        ];
        assert_eq!(told, expected);
        assert_eq!(lines(None, &[], &in_force()).len(), 3);
    }

    #[test]
    fn and_as_an_object() {
        let value: serde_json::Value =
            serde_json::from_str(&json::line(&object(&in_force()))).expect("JSON");
        assert_eq!(value["rate_bytes_per_s"], 250_000_000);
        assert_eq!(value["host_bytes_per_s"], serde_json::Value::Null);
        assert_eq!(value["networks"][0]["network"], "eth1");
        let beats = serde_json::json!([
            { "class": "cross-subnet", "delay_us": 2_000_000, "threshold": 10 }
        ]);
        assert_eq!(value["heartbeats"], beats);
    }
}
