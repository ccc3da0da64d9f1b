//! What a demo that worked must say about itself in its one JSON object.

use serde_json::Value;

/// Numbers of the contract that are more than 0 when a guest has really moved.
const POSITIVE: [&str; 10] = [
    "total_ms",
    "downtime_us",
    "blackout_us",
    "bytes_on_wire",
    "guest_ram_bytes",
    "pages_verified",
    "cpu_source_ms",
    "cpu_destination_ms",
    "peak_rss_source_bytes",
    "peak_rss_destination_bytes",
];
/// Numbers of each entry in `rounds`.
const ROUND: [&str; 5] = ["round", "pages", "bytes", "duration_us", "dirty_after"];
/// Numbers of each entry in `lanes`.
const LANE: [&str; 3] = ["lane", "bytes", "pages"];
const PAGE_SIZE: u64 = 4096;

/// Everything that is wrong with `text` as the account of a completed and verified demo with a
/// guest of `guest_ram` bytes; nothing, if all is well.
#[must_use]
pub fn faults(text: &str, guest_ram: u64) -> Vec<String> {
    let account: Value = match serde_json::from_str(text) {
        Ok(account) => account,
        Err(why) => return vec![format!("not one JSON object: {why}")],
    };
    let mut faults = Vec::new();
    if account["outcome"] != "completed" {
        faults.push(format!("the outcome is {}: {}", account["outcome"], account["reason"]));
    }
    let zero = POSITIVE.into_iter().filter(|field| number(&account, field).is_none_or(|n| n == 0));
    faults.extend(zero.map(|field| format!("{field} is {}", account[field])));
    if number(&account, "lost_us").is_none() {
        faults.push(format!("lost_us is {}", account["lost_us"]));
    }
    if account["throughput_mib_s"].as_f64().is_none_or(|rate| rate <= 0.0) {
        faults.push(format!("throughput_mib_s is {}", account["throughput_mib_s"]));
    }
    if account["verify"] != "digest" && account["verify"] != "full" {
        faults.push(format!("verify is {}", account["verify"]));
    }
    // Nothing writes a demo's memory behind its tracker.
    if number(&account, "pages_missed") != Some(0) {
        faults.push(format!("pages_missed is {}", account["pages_missed"]));
    }
    if number(&account, "pages_scrubbed").is_none() {
        faults.push(format!("pages_scrubbed is {}", account["pages_scrubbed"]));
    }
    if account["downtime_parts"]["verify_us"].as_u64().is_none() {
        faults.push(format!("downtime_parts is {}", account["downtime_parts"]));
    }
    faults.extend(entries(&account, "rounds", &ROUND));
    faults.extend(entries(&account, "lanes", &LANE));
    faults.extend(contradictions(&account, guest_ram));
    faults
}

fn number(value: &Value, field: &str) -> Option<u64> {
    value[field].as_u64()
}

/// What is missing from the entries of a list, which has at least one.
fn entries(account: &Value, list: &str, fields: &[&str]) -> Vec<String> {
    let Some(entries) = account[list].as_array().filter(|entries| !entries.is_empty()) else {
        return vec![format!("{list} is {}", account[list])];
    };
    let incomplete = |entry: &&Value| fields.iter().any(|field| number(entry, field).is_none());
    entries.iter().filter(incomplete).map(|entry| format!("{list} has {entry}")).collect()
}

/// Figures that cannot all be true.
fn contradictions(account: &Value, guest_ram: u64) -> Vec<String> {
    let of = |field| number(account, field).unwrap_or(0);
    let sum = |list: &str, field| {
        let entries = account[list].as_array().into_iter().flatten();
        entries.filter_map(|entry| number(entry, field)).sum::<u64>()
    };
    let full = account["verify"] == "full";
    let digested = number(&account["downtime_parts"], "verify_us").is_some_and(|time| time > 0);
    let in_order = account["rounds"].as_array().into_iter().flatten().enumerate();
    let in_order =
        in_order.into_iter().all(|(at, round)| number(round, "round") == Some(at as u64));
    let claims = [
        (of("guest_ram_bytes") == guest_ram, "guest_ram_bytes is not the memory asked for"),
        (of("pages_verified") == guest_ram / PAGE_SIZE, "not every page was verified"),
        (
            of("downtime_us") <= of("total_ms").saturating_add(1) * 1000,
            "downtime exceeds the total",
        ),
        (full == digested, "the price of verifying is not that of what was verified"),
        (in_order, "rounds are not numbered from 0"),
        (sum("lanes", "bytes") <= of("bytes_on_wire"), "lanes carried more than went on the wire"),
        (sum("rounds", "pages") > 0, "no round had a page"),
    ];
    claims.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RAM: u64 = 8 << 20;

    fn good() -> Value {
        json!({
            "outcome": "completed", "reason": null, "total_ms": 20, "downtime_us": 900,
            "blackout_us": 1200, "lost_us": 0, "bytes_on_wire": 9_000_000,
            "guest_ram_bytes": RAM, "pages_verified": 2048, "cpu_source_ms": 9,
            "cpu_destination_ms": 9, "peak_rss_source_bytes": 1, "peak_rss_destination_bytes": 1,
            "throughput_mib_s": 400.5, "verify": "digest", "pages_missed": 0,
            "pages_scrubbed": 0,
            "downtime_parts": {"verify_us": 0, "grant_us": 900},
            "rounds": [{"round": 0, "pages": 2048, "bytes": 8, "duration_us": 1, "dirty_after": 0}],
            "lanes": [{"lane": 1, "bytes": 8_000_000, "pages": 2048, "open": true}],
        })
    }

    #[test]
    fn a_good_account_has_no_fault() {
        assert_eq!(faults(&good().to_string(), RAM), [""; 0]);
    }

    #[test]
    fn every_field_of_the_contract_is_missed() {
        let account = good();
        let fields = account.as_object().expect("an object").keys().filter(|key| *key != "reason");
        for field in fields {
            let mut account = account.clone();
            account[field] = Value::Null;
            assert!(!faults(&account.to_string(), RAM).is_empty(), "{field}");
            account.as_object_mut().expect("an object").remove(field);
            assert!(!faults(&account.to_string(), RAM).is_empty(), "{field}");
        }
    }

    #[test]
    fn false_accounts_are_found() {
        let lies = [
            ("outcome", json!("aborted")),
            ("pages_verified", json!(2047)),
            ("guest_ram_bytes", json!(RAM / 2)),
            ("downtime_us", json!(22_000)),
            ("lanes", json!([])),
            ("rounds", json!([{"round": 0, "pages": 1}])),
            ("bytes_on_wire", json!(1000)),
            ("verify", json!("full")),
            ("pages_missed", json!(1)),
            ("downtime_parts", json!({"verify_us": 5})),
        ];
        for (field, lie) in lies {
            let mut account = good();
            account[field] = lie;
            assert!(!faults(&account.to_string(), RAM).is_empty(), "{field}");
        }
        assert!(faults("outcome: completed", RAM)[0].contains("not one JSON object"));
        assert!(!faults(&format!("{} {}", good(), good()), RAM).is_empty());
    }
}
