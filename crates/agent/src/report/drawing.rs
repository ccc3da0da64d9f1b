//! The drawings of a report, as SVG that needs nothing around it.

use std::fmt::Write;

use whimbrel_control::api::{DowntimeParts, MigrationStatus, Round};
use whimbrel_engine::page::PageCount;

use super::words;
use crate::units;

/// Units of the drawings' own; they are scaled to the width of the page.
const WIDTH: f64 = 900.0;
const BAR_HEIGHT: f64 = 34.0;
const ROUND_HEIGHT: f64 = 22.0;
const LABEL: f64 = 70.0;
/// Rounds that are drawn; the table has all.
const ROUNDS_DRAWN_MAX: usize = 24;

/// The parts of the downtime with their names, in their order.
pub(super) fn parts(parts: &DowntimeParts) -> [(&'static str, u64); 8] {
    [
        ("park the guest", parts.pause_us),
        ("last harvest", parts.harvest_us),
        ("save its state", parts.state_us),
        ("full verification", parts.verify_us),
        ("send the last pages", parts.last_pages_us),
        ("prepare and compare", parts.prepared_us),
        ("grant", parts.grant_us),
        ("run there", parts.run_us),
    ]
}

/// The downtime as a bar of its parts, with marks for what was forecast and what was allowed.
pub(super) fn blackout(status: &MigrationStatus) -> String {
    let report = status.report.as_ref();
    let Some((report, told)) = report.and_then(|report| Some((report, report.downtime_parts?)))
    else {
        return String::new();
    };
    let downtime = report.downtime_us.max(1);
    let forecast = report.downtime_estimate_us.unwrap_or(0);
    let scale = WIDTH / downtime.max(forecast) as f64;
    let mut svg = format!(
        r#"<svg viewBox="0 0 {WIDTH} 84" role="img" aria-label="timeline of the blackout">"#
    );
    let mut from = 0;
    let mut key = String::new();
    for (number, (name, took)) in parts(&told).into_iter().enumerate() {
        let (x, width) = (from as f64 * scale, took as f64 * scale);
        let (colour, took_text) = (number + 1, words::micros(took));
        let _ = write!(svg, r#"<rect x="{x:.1}" y="8" width="{width:.1}" height="{BAR_HEIGHT}" "#);
        let _ = write!(
            svg,
            r#"style="fill:var(--p{colour})"><title>{name}: {took_text}, from {}</title></rect>"#,
            words::micros(from)
        );
        let _ = write!(
            key,
            r#"<li><i style="background:var(--p{colour})"></i> {name} {took_text}</li>"#
        );
        from += took;
    }
    let _ = write!(svg, r#"<text x="0" y="60" class="faint">0: the guest is paused</text>"#);
    let _ = write!(
        svg,
        r#"<text x="{:.1}" y="60" text-anchor="end">{}: it runs there</text>"#,
        (downtime as f64 * scale).max(330.0),
        words::micros(downtime)
    );
    if forecast > 0 {
        let x = forecast as f64 * scale;
        let _ = write!(
            svg,
            r#"<path d="M{x:.1} 4 V46" stroke="currentColor" stroke-dasharray="3 3"/>"#
        );
        let (at, anchor) = if x > WIDTH / 2.0 { (x, "end") } else { (x, "start") };
        let _ = write!(
            svg,
            r#"<text x="{at:.1}" y="78" text-anchor="{anchor}" class="faint">forecast {}</text>"#,
            words::micros(forecast)
        );
    }
    format!(r#"<div class="wide">{svg}</svg></div><ul class="key">{key}</ul>"#)
}

/// What each round has sent, and what was dirty after it.
pub(super) fn rounds(rounds: &[Round]) -> String {
    let drawn = &rounds[..rounds.len().min(ROUNDS_DRAWN_MAX)];
    let dirty = |round: &Round| PageCount(round.dirty_after).bytes().0;
    let most = drawn.iter().map(|round| round.bytes.max(dirty(round))).max().unwrap_or(0).max(1);
    let height = drawn.len() as f64 * ROUND_HEIGHT + 4.0;
    let mut svg = format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="bytes of each round">"#
    );
    let scale = (WIDTH - LABEL - 90.0) / most as f64;
    for (at, round) in drawn.iter().enumerate() {
        let y = at as f64 * ROUND_HEIGHT;
        let (sent, left) = (round.bytes as f64 * scale, dirty(round) as f64 * scale);
        let _ = write!(
            svg,
            r#"<text x="0" y="{:.0}" class="faint">round {}</text>"#,
            y + 15.0,
            round.round
        );
        for (offset, width, colour) in [(3.0, sent, "a"), (12.0, left, "b")] {
            let _ = write!(
                svg,
                r#"<rect x="{LABEL}" y="{:.0}" width="{width:.1}" height="7" "#,
                y + offset
            );
            let _ = write!(svg, r#"style="fill:var(--{colour})"/>"#);
        }
        let _ = write!(
            svg,
            r#"<text x="{:.0}" y="{:.0}">{}</text>"#,
            LABEL + sent.max(left) + 6.0,
            y + 15.0,
            units::bytes(round.bytes)
        );
    }
    let key = r#"<ul class="key"><li><i style="background:var(--a)"></i> sent</li>
<li><i style="background:var(--b)"></i> dirty after the round</li></ul>"#;
    format!(r#"<div class="wide">{svg}</svg></div>{key}"#)
}
