//! What a migration came to, as one HTML file that needs no other: rounds, the timeline of the
//! blackout, and every decision with the numbers it was made on.

mod drawing;
mod words;

use std::fmt::Write;

use whimbrel_control::api::{Direction, MigrationReport, MigrationStatus, Outcome, Verify};
use whimbrel_engine::page::PageCount;

use crate::carriers;
use crate::units::{bytes, count};
pub use words::instant;
use words::{escaped, micros};

const STYLE: &str = include_str!("style.css");

/// The report of an ended migration, or what is known of a running one, as its agent `here` tells
/// it. Nothing in it is loaded from elsewhere, and nothing of it is a script.
#[must_use]
pub fn report_html(status: &MigrationStatus, here: &str) -> String {
    let title = format!("Migration of {}", status.guest_name);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        escaped(&title)
    );
    page += &head(status, here);
    if let Some(report) = &status.report {
        page += &facts(status, report);
        page += &blackout(status, report);
    }
    page += &rounds(status);
    page += &decisions(status);
    page += &lanes(status);
    page += &events(status);
    page += "</body>\n</html>\n";
    page
}

fn head(status: &MigrationStatus, here: &str) -> String {
    let (class, word) = words::outcome(status.outcome());
    let (from, to) = match status.direction() {
        Direction::In => (status.peer.as_str(), here),
        Direction::Out | Direction::Unspecified => (here, status.peer.as_str()),
    };
    let mut head = format!(
        "<h1>{} from {} to {}: <span class=\"{class}\">{word}</span></h1>\n",
        escaped(&status.guest_name),
        escaped(from),
        escaped(to)
    );
    if !status.reason.is_empty() {
        let _ = writeln!(head, "<p>{}</p>", escaped(&status.reason));
    }
    let side = match status.direction() {
        Direction::In => "destination",
        Direction::Out | Direction::Unspecified => "source",
    };
    let _ = write!(head, "<p class=\"faint\">As the {side} tells it");
    if status.ended_at_ms > 0 {
        let _ = write!(head, "; ended {}", instant(status.ended_at_ms));
    }
    let (id, uuid) = (escaped(&status.migration_id), escaped(&status.guest_uuid));
    let _ = writeln!(head, "; migration {id} of guest {uuid}</p>");
    head
}

fn facts(status: &MigrationStatus, report: &MigrationReport) -> String {
    let known = |value: Option<u64>, shown: fn(u64) -> String| {
        value.map_or_else(|| "not known".to_owned(), shown)
    };
    let verified = match report.verify() {
        Verify::Full => "both memories themselves",
        Verify::Digest | Verify::Unspecified => "what was sent with what landed",
    };
    let milliseconds = |ms: u64| micros(ms * 1000);
    let facts = [
        ("took", micros(report.total_ms * 1000)),
        ("guest memory", bytes(report.guest_ram_bytes)),
        ("on the wire", bytes(report.bytes_on_wire)),
        ("memory travelled", travelled(status)),
        ("throughput", format!("{:.0} MiB/s", report.throughput_mib_s)),
        ("downtime", micros(report.downtime_us)),
        ("downtime forecast", known(report.downtime_estimate_us, micros)),
        ("downtime allowed", known(status.downtime_limit_us, micros)),
        ("gap that the guest saw", known(report.blackout_us, micros)),
        ("work time lost", known(report.lost_us, micros)),
        ("throttled at the end", format!("{} %", status.throttle_percent)),
        ("verified", verified.to_owned()),
        ("pages verified", count(report.pages_verified)),
        ("pages scrubbed", count(report.pages_scrubbed)),
        ("writes the tracker missed", count(report.pages_missed)),
        ("CPU at the source", known(report.cpu_source_ms, milliseconds)),
        ("CPU at the destination", known(report.cpu_destination_ms, milliseconds)),
        ("peak memory at the source", known(report.peak_rss_source_bytes, bytes)),
        ("peak memory at the destination", known(report.peak_rss_destination_bytes, bytes)),
    ];
    let told = facts.iter().filter(|(label, _)| is_told(label, status, report));
    let row = |(label, said): &(&str, String)| {
        format!("<div><dt>{label}</dt><dd>{}</dd></div>\n", escaped(said))
    };
    format!("<h2>In numbers</h2>\n<dl>\n{}</dl>\n", told.map(row).collect::<String>())
}

/// What carried the memory, and over which paths.
fn travelled(status: &MigrationStatus) -> String {
    let names: Vec<_> = status.paths.iter().map(|path| path.name.as_str()).collect();
    let by = match names.len() {
        0 => String::new(),
        1 => format!(", by {}", names[0]),
        some => format!(", by {some} paths: {}", names.join("; ")),
    };
    carriers::in_words(status.carrier()).to_owned() + &by
}

/// What did not happen has no figure, and some have the source alone.
fn is_told(label: &str, status: &MigrationStatus, report: &MigrationReport) -> bool {
    match label {
        "downtime" => report.downtime_us > 0,
        "verified" | "pages verified" => report.pages_verified > 0,
        "downtime forecast" | "downtime allowed" => status.direction() != Direction::In,
        _ => true,
    }
}

fn blackout(status: &MigrationStatus, report: &MigrationReport) -> String {
    if report.downtime_us == 0 {
        let said = match (status.direction(), status.outcome()) {
            (Direction::In, Outcome::Completed) => "The source's clock has its timeline.",
            _ => "The guest was not handed over.",
        };
        return format!("<h2>The blackout</h2>\n<p class=\"faint\">{said}</p>\n");
    }
    format!("<h2>The blackout</h2>\n{}\n", drawing::blackout(status))
}

fn rounds(status: &MigrationStatus) -> String {
    // One that was not sent to its end has no figures.
    let begun = status.rounds.last().is_some_and(|last| last.duration_us == 0 && last.pages == 0);
    let ended = &status.rounds[..status.rounds.len() - usize::from(begun)];
    if ended.is_empty() {
        return String::new();
    }
    let rows = ended.iter().map(|round| {
        vec![
            round.round.to_string(),
            count(round.pages),
            bytes(round.bytes),
            micros(round.duration_us),
            rate(round.bytes, round.duration_us),
            count(round.dirty_after),
        ]
    });
    let head = ["round", "pages", "sent", "took", "rate", "dirty pages after"];
    let drawing = drawing::rounds(ended);
    format!("<h2>Rounds</h2>\n{drawing}\n{}", table(&head, &[], rows))
}

fn decisions(status: &MigrationStatus) -> String {
    if status.decisions.is_empty() {
        return String::new();
    }
    let unknown = || "–".to_owned();
    let rows = status.decisions.iter().map(|decision| {
        let rate =
            |rate: Option<u64>| rate.map_or_else(unknown, |rate| format!("{}/s", bytes(rate)));
        vec![
            micros(decision.elapsed_us),
            bytes(PageCount(decision.pages_dirty).bytes().0),
            rate(decision.dirty_rate_bytes_per_s),
            rate(decision.bandwidth_bytes_per_s),
            decision.downtime_forecast_us.map_or_else(unknown, micros),
            words::step(decision),
        ]
    });
    let head = ["at", "dirty", "guest dirties", "lanes carry", "downtime then", "decided to"];
    let limit = status.downtime_limit_us.map_or_else(String::new, |limit| {
        format!("<p class=\"faint\">A downtime of {} was allowed.</p>\n", micros(limit))
    });
    format!("<h2>Decisions</h2>\n{limit}{}", table(&head, &[5], rows))
}

fn lanes(status: &MigrationStatus) -> String {
    if status.lanes.is_empty() {
        return String::new();
    }
    let rows = status.lanes.iter();
    let rows = rows.map(|lane| vec![lane.lane.to_string(), bytes(lane.bytes), count(lane.pages)]);
    format!("<h2>Lanes</h2>\n{}", table(&["lane", "carried", "pages"], &[], rows))
}

fn events(status: &MigrationStatus) -> String {
    if status.events.is_empty() {
        return String::new();
    }
    let rows = status.events.iter();
    let rows = rows.map(|event| vec![micros(event.elapsed_us), event.sentence.clone()]);
    format!("<h2>What happened</h2>\n{}", table(&["at", "what"], &[1], rows))
}

fn rate(bytes_sent: u64, micros: u64) -> String {
    match micros {
        0 => "–".to_owned(),
        _ => format!("{}/s", bytes((bytes_sent as f64 * 1e6 / micros as f64) as u64)),
    }
}

/// A table whose columns `texts` hold text and all others numbers.
fn table(head: &[&str], texts: &[usize], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cell = |tag: &str, at: usize, said: &str| match texts.contains(&at) {
        true => format!("<{tag} class=\"text\">{}</{tag}>", escaped(said)),
        false => format!("<{tag}>{}</{tag}>", escaped(said)),
    };
    let line = |tag: &str, cells: Vec<&str>| {
        let cells: String =
            cells.iter().enumerate().map(|(at, said)| cell(tag, at, said)).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let head = line("th", head.to_vec());
    let body: String =
        rows.map(|row| line("td", row.iter().map(String::as_str).collect())).collect();
    format!("<div class=\"wide\"><table>\n{head}{body}</table></div>\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use whimbrel_control::api::{
        self, Decision, DowntimeParts, Event, Lane, Round, decision::Step,
    };

    fn ended() -> MigrationStatus {
        let parts = DowntimeParts {
            pause_us: 100,
            harvest_us: 900,
            last_pages_us: 1_000,
            prepared_us: 2_000,
            grant_us: 1_000,
            ..Default::default()
        };
        let report = MigrationReport {
            total_ms: 2_500,
            downtime_us: 5_000,
            downtime_parts: Some(parts),
            downtime_estimate_us: Some(4_000),
            ..Default::default()
        };
        let decision = |step| Decision {
            elapsed_us: 7,
            step: Some(step),
            pages_dirty: 512,
            bandwidth_bytes_per_s: Some(900 << 20),
            dirty_rate_bytes_per_s: Some(400 << 20),
            downtime_forecast_us: Some(44_000),
        };
        MigrationStatus {
            migration_id: "m-1".to_owned(),
            guest_name: "<b>web</b>".to_owned(),
            peer: "there:2".to_owned(),
            direction: Direction::Out.into(),
            outcome: Outcome::Completed.into(),
            downtime_limit_us: Some(300_000),
            ended_at_ms: 1_795_712_709_000,
            rounds: vec![Round {
                pages: 1000,
                bytes: 1 << 22,
                duration_us: 10,
                ..Round::default()
            }],
            carrier: api::Carrier::Tls.into(),
            paths: ["a → b", "c → d"]
                .map(|name| api::Path { name: name.into(), ..Default::default() })
                .into(),
            lanes: vec![Lane { bytes: 77, ..Lane::default() }],
            events: vec![Event { elapsed_us: 3, sentence: "a lane & another".to_owned() }],
            decisions: vec![decision(Step::Round(1)), decision(Step::SwitchOver(true))],
            report: Some(report),
            ..Default::default()
        }
    }

    #[test]
    fn everything_is_told_and_nothing_is_loaded_or_run() {
        let page = report_html(&ended(), "here:1");
        for told in [
            "&lt;b&gt;web&lt;/b&gt; from here:1 to there:2",
            "2026-11-26 17:05:09 UTC",
            "send the last pages 1 ms",
            "forecast 4 ms",
            "send it in round 1",
            "pause the guest and hand it over",
            "A downtime of 300 ms was allowed",
            "900 MiB/s",
            "over TCP, encrypted with TLS 1.3, by 2 paths: a → b; c → d",
            "a lane &amp; another",
        ] {
            assert!(page.contains(told), "{told} is missing in\n{page}");
        }
        for foreign in ["<script", "http:", "https:", "url(", "@import", "<link", "<img", "<b>"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn the_parts_of_the_timeline_lie_side_by_side() {
        let page = drawing::blackout(&ended());
        // The forecast is shorter than the downtime, which fills the width of 900.
        for part in [r#"x="0.0" y="8" width="18.0""#, r#"x="720.0" y="8" width="180.0""#] {
            assert!(page.contains(part), "{part} is missing in {page}");
        }
    }

    #[test]
    fn one_that_failed_early_has_a_report_too() {
        let status = MigrationStatus {
            outcome: Outcome::Aborted.into(),
            reason: "no room".to_owned(),
            ..Default::default()
        };
        let page = report_html(&status, "here:1");
        assert!(page.contains("aborted") && page.contains("no room"), "{page}");
        let rounds = vec![Round::default()];
        let begun = MigrationStatus { report: Some(Default::default()), rounds, ..status };
        let page = report_html(&begun, "here:1");
        assert!(page.contains("The guest was not handed over"), "{page}");
        for nothing in ["<dt>downtime</dt>", "verified", "Rounds"] {
            assert!(!page.contains(nothing), "{nothing} in {page}");
        }
    }
}
