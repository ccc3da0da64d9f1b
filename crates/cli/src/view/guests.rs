//! Guests, as a table, as a list of facts, and as objects.

use serde::Serialize;
use whimbrel_control::api;

use super::paint::{Line, Tone};
use super::state::{Check, PAGE_BYTES};
use super::units;
use crate::json::said;

/// One line a guest.
pub(crate) fn table(guests: &[api::Guest]) -> Vec<Line> {
    let width = guests.iter().map(|guest| guest.name.chars().count()).max().unwrap_or(0).max(4);
    let columns = [width + 2, width + 13, width + 23, width + 32];
    let row = |tone, cells: [&str; 5], state| {
        let [name, word, memory, kind, uuid] = cells;
        Line::default()
            .put(tone, name)
            .to(columns[0])
            .put(state, word)
            .to(columns[1])
            .put(tone, memory)
            .to(columns[2])
            .put(tone, kind)
            .to(columns[3])
            .put(Tone::Faint, uuid)
    };
    let head = ["NAME", "STATE", "MEMORY", "KIND", "UUID"];
    let mut lines = vec![row(Tone::Faint, head, Tone::Faint)];
    for guest in guests {
        let memory = units::bytes(guest.memory_bytes);
        let (state, tone) = state(guest.state());
        let cells = [guest.name.as_str(), state, &memory, &guest.kind, &guest.uuid];
        lines.push(row(Tone::Plain, cells, tone));
    }
    lines
}

/// All about one guest.
pub(crate) fn status(guest: &api::Guest) -> Vec<Line> {
    let (word, tone) = state(guest.state());
    let head = Line::default().put(Tone::Strong, &guest.name).put(tone, format!("  {word}"));
    let head = match guest.state_reason.as_str() {
        "" => head,
        why => head.put(Tone::Plain, format!(": {why}")),
    };
    let term = format!("term {}, {}", guest.term_generation, guest.standing);
    let memory = (units::bytes(guest.memory_bytes), units::bytes(guest.rss_bytes));
    let mut facts = vec![
        ("uuid", guest.uuid.clone()),
        ("kind", guest.kind.clone()),
        ("memory", format!("{}; its process holds {}", memory.0, memory.1)),
        ("owner", term),
        ("peer", guest.peer.clone()),
        ("migration", guest.migration_id.clone()),
        ("tracker", guest.tracker.clone()),
    ];
    if guest.pid != 0 {
        facts.push(("process", guest.pid.to_string()));
    }
    // What is on its way here has done no work, and is filled by its source.
    let starting = guest.state() == api::GuestState::Starting;
    let worked = guest.stress.iter().filter(|report| report.filled || starting);
    facts.extend(worked.flat_map(work));
    facts.extend(guest.kv.iter().flat_map(service));
    if !guest.service_address.is_empty() {
        facts.push(("clients at", guest.service_address.clone()));
        facts.push((
            "carried",
            format!("{} of clients", units::counted(guest.carried, "connection")),
        ));
    }
    let facts = facts.into_iter().filter(|(_, said)| !said.is_empty());
    let entry = |(label, said): (&str, String)| {
        Line::plain("  ").put(Tone::Faint, label).to(15).put(Tone::Plain, said)
    };
    std::iter::once(head).chain(facts.map(entry)).collect()
}

/// What the guest says of its own work.
fn work(report: &api::StressReport) -> Vec<(&'static str, String)> {
    if !report.filled {
        return vec![("work", "still filling its memory".into())];
    }
    let rate = units::rate(report.operations_per_s * PAGE_BYTES);
    let writes = units::count(report.operations);
    let mut facts = vec![("work", format!("writes {rate}; {writes} page writes so far"))];
    if report.throttle_percent > 0 {
        facts.push(("throttle", format!("{} %", report.throttle_percent)));
    }
    if report.blackout_us > 0 {
        facts.push(blackout(report.blackout_us));
    }
    facts
}

/// What a key-value guest says of itself.
fn service(report: &api::KvReport) -> Vec<(&'static str, String)> {
    let keys = units::counted(report.keys, "key");
    let commands = units::counted(report.commands, "command");
    let used = units::bytes(report.used_bytes);
    let mut facts = vec![
        ("store", format!("{keys}, {used} in use; {commands} so far")),
        ("clients", report.clients.to_string()),
    ];
    if report.throttle_percent > 0 {
        facts.push(("throttle", format!("{} %", report.throttle_percent)));
    }
    if report.blackout_us > 0 {
        facts.push(blackout(report.blackout_us));
    }
    facts
}

fn blackout(micros: u64) -> (&'static str, String) {
    let gap = units::time(std::time::Duration::from_micros(micros));
    ("blackout", format!("{gap} at the longest since its last move began"))
}

/// The word for a state, and how good it is.
pub(crate) fn state(state: api::GuestState) -> (&'static str, Tone) {
    match state {
        api::GuestState::Starting => ("starting", Tone::Warn),
        api::GuestState::Running => ("running", Tone::Good),
        api::GuestState::Paused => ("paused", Tone::Warn),
        api::GuestState::Migrating => ("migrating", Tone::Bar),
        api::GuestState::InDoubt => ("in doubt", Tone::Bad),
        api::GuestState::Gone => ("gone", Tone::Faint),
        api::GuestState::Failed => ("failed", Tone::Bad),
        api::GuestState::Unspecified => ("unknown", Tone::Warn),
    }
}

#[derive(Serialize)]
pub(crate) struct Object<'a> {
    uuid: &'a str,
    name: &'a str,
    kind: &'a str,
    state: &'static str,
    reason: Option<&'a str>,
    memory_bytes: u64,
    rss_bytes: u64,
    term: u64,
    standing: Option<&'a str>,
    peer: Option<&'a str>,
    migration: Option<&'a str>,
    tracker: Option<&'a str>,
    pid: Option<u32>,
    operations: Option<u64>,
    operations_per_s: Option<u64>,
    blackout_us: Option<u64>,
    lost_us: Option<u64>,
    keys: Option<u64>,
    clients: Option<u64>,
    commands: Option<u64>,
    service_address: Option<&'a str>,
    carried: Option<u64>,
    check: Option<crate::json::CheckObject<'a>>,
}

/// One guest for a program.
pub(crate) fn object<'a>(guest: &'a api::Guest, check: Option<&'a Check>) -> Object<'a> {
    let (stress, kv) = (guest.stress.as_ref(), guest.kv.as_ref());
    let relayed = !guest.service_address.is_empty();
    let gaps = stress.map(|report| (report.blackout_us, report.lost_us));
    let gaps = gaps.or_else(|| kv.map(|report| (report.blackout_us, report.lost_us)));
    Object {
        uuid: &guest.uuid,
        name: &guest.name,
        kind: &guest.kind,
        state: state(guest.state()).0,
        reason: said(&guest.state_reason),
        memory_bytes: guest.memory_bytes,
        rss_bytes: guest.rss_bytes,
        term: guest.term_generation,
        standing: said(&guest.standing),
        peer: said(&guest.peer),
        migration: said(&guest.migration_id),
        tracker: said(&guest.tracker),
        pid: (guest.pid != 0).then_some(guest.pid),
        operations: stress.map(|report| report.operations),
        operations_per_s: stress.map(|report| report.operations_per_s),
        blackout_us: gaps.map(|(blackout, _)| blackout),
        lost_us: gaps.map(|(_, lost)| lost),
        keys: kv.map(|report| report.keys),
        clients: kv.map(|report| report.clients),
        commands: kv.map(|report| report.commands),
        service_address: said(&guest.service_address),
        carried: relayed.then_some(guest.carried),
        check: check.map(crate::json::check),
    }
}

/// All guests for a program.
pub(crate) fn objects(guests: &[api::Guest]) -> Vec<Object<'_>> {
    guests.iter().map(|guest| object(guest, None)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> api::Guest {
        api::Guest {
            uuid: "0c5e9e4c-58ee-4c0b-9f1a-6a5d1f2b7c11".into(),
            name: "web-1".into(),
            kind: "stress".into(),
            state: api::GuestState::Running.into(),
            memory_bytes: 1 << 30,
            rss_bytes: 256 << 20,
            term_generation: 2,
            standing: "owner".into(),
            pid: 77,
            stress: Some(api::StressReport {
                filled: true,
                operations: 1_234_567,
                operations_per_s: 102_400,
                blackout_us: 2_400,
                ..api::StressReport::default()
            }),
            ..api::Guest::default()
        }
    }

    fn text(lines: &[Line]) -> String {
        lines.iter().map(|line| line.render(false) + "\n").collect()
    }

    #[test]
    fn a_table_fits_into_80_columns() {
        let long =
            api::Guest { name: "db".into(), state: api::GuestState::InDoubt.into(), ..guest() };
        let expected = "\
NAME   STATE      MEMORY    KIND     UUID
web-1  running    1 GiB     stress   0c5e9e4c-58ee-4c0b-9f1a-6a5d1f2b7c11
db     in doubt   1 GiB     stress   0c5e9e4c-58ee-4c0b-9f1a-6a5d1f2b7c11
";
        assert_eq!(text(&table(&[guest(), long])), expected);
    }

    #[test]
    fn one_guest_with_all_that_is_known() {
        let expected = "\
web-1  running
  uuid         0c5e9e4c-58ee-4c0b-9f1a-6a5d1f2b7c11
  kind         stress
  memory       1 GiB; its process holds 256 MiB
  owner        term 2, owner
  process      77
  work         writes 400 MiB/s; 1,234,567 page writes so far
  blackout     2.4 ms at the longest since its last move began
";
        assert_eq!(text(&status(&guest())), expected);
    }

    #[test]
    fn a_state_that_needs_words_has_them() {
        let state_reason = "the destination does not answer".to_owned();
        let state = api::GuestState::InDoubt.into();
        let doubtful = api::Guest { state, state_reason, ..guest() };
        let shown = text(&status(&doubtful));
        let head = "web-1  in doubt: the destination does not answer\n";
        assert!(shown.starts_with(head), "{shown}");
    }

    #[test]
    fn a_store_tells_of_its_clients() {
        let store = api::Guest {
            stress: None,
            kv: Some(api::KvReport { keys: 5, clients: 3, commands: 1_234, ..Default::default() }),
            service_address: "127.0.0.1:6379".into(),
            carried: 2,
            ..guest()
        };
        let shown = text(&status(&store));
        for fact in ["5 keys", "1,234 commands", "127.0.0.1:6379", "2 connections of clients"] {
            assert!(shown.contains(fact), "{fact}: {shown}");
        }
        let line = crate::json::line(&object(&store, None));
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&value["keys"], &value["carried"]), (&5.into(), &2.into()));
        assert!(value["operations"].is_null());
    }

    #[test]
    fn a_guest_as_an_object() {
        let check = Check { sound: true, pages: 9, ..Check::default() };
        let text = crate::json::line(&object(&guest(), Some(&check)));
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["state"], "running");
        assert_eq!(value["operations_per_s"], 102_400);
        assert_eq!(value["check"]["pages_checked"], 9);
    }
}
