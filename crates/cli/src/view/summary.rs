//! What a person is told when a migration has ended.

use super::paint::{Line, Tone, wrap};
use super::state::{Account, Cost, Downtime, Outcome, Path};
use super::{moving, units};

const LABEL: usize = 14;
/// Rounds in the table: a summary stays within 24 lines.
const ROUNDS_SHOWN_MAX: usize = 7;
/// Columns of text beside the labels, so that all fits into 80.
const WRAP: usize = 62;

/// The summary, 80 columns wide but for what others have written.
pub(crate) fn summary(account: &Account) -> Vec<Line> {
    match account.outcome {
        Outcome::Completed => completed(account),
        Outcome::Aborted => aborted(account),
        Outcome::InDoubt => in_doubt(account),
        Outcome::Failed => failed(account),
    }
}

fn completed(account: &Account) -> Vec<Line> {
    let size = account.guest_ram.map_or_else(|| "its memory".into(), units::bytes);
    let took = account.total.map_or_else(String::new, |t| format!(" in {}", units::time(t)));
    let faults = account.fault();
    let head = format!("Moved {size}{took}: {} runs at ", account.guest);
    let (tone, mark) = if faults.is_none() { (Tone::Good, "✔ ") } else { (Tone::Bad, "✘ ") };
    let head = format!("{head}{}", account.destination);
    let mut lines = vec![headline(tone, mark, &head), Line::default()];
    lines.extend(stood_still(account));
    lines.extend(sent(account));
    lines.extend(account.travelled.map(|how| entry("", how)));
    lines.extend(paths(account));
    lines.extend(checked(account));
    lines.extend(cost(account));
    lines.extend(moving::rounds(&account.rounds, false, ROUNDS_SHOWN_MAX));
    if let Some(fault) = faults {
        lines.push(Line::default());
        lines.push(Line::default().put(Tone::Bad, format!("✘ {fault}")));
    }
    lines
}

fn aborted(account: &Account) -> Vec<Line> {
    let head = format!("Not moved: {} runs on at {}", account.guest, account.source);
    let mut lines = vec![headline(Tone::Warn, "✘ ", &head)];
    lines.extend(why(account));
    lines.extend(stood_still(account));
    lines.extend(moving::rounds(&account.rounds, false, ROUNDS_SHOWN_MAX));
    lines
}

fn in_doubt(account: &Account) -> Vec<Line> {
    let Account { guest, source, destination, .. } = account;
    let head = format!("In doubt: {guest} stands still at {source}, so that it cannot run twice");
    let settled = format!("it is settled by itself as soon as {destination} answers");
    let off = format!("only if {destination} is off and stays off:");
    let command = format!("whimbrel resolve {guest} --run-here --peer-is-off --agent {source}");
    let mut lines = vec![headline(Tone::Bad, "? ", &head)];
    lines.extend(why(account));
    lines.extend([entry("what now", settled), entry("", off)]);
    lines.push(Line::default().to(LABEL + 2).put(Tone::Strong, command));
    lines
}

fn failed(account: &Account) -> Vec<Line> {
    let head = headline(Tone::Bad, "✘ ", "It did not come to an end that can be told");
    std::iter::once(head).chain(why(account)).collect()
}

fn headline(tone: Tone, mark: &str, head: &str) -> Line {
    Line::default().put(tone, mark).put(Tone::Strong, head)
}

fn entry(label: &str, said: impl Into<String>) -> Line {
    Line::plain("  ").put(Tone::Faint, label).to(LABEL + 2).put(Tone::Plain, said)
}

fn why(account: &Account) -> Vec<Line> {
    let reason = account.reason.as_deref().unwrap_or("nobody said");
    let lines = wrap(reason, WRAP).into_iter().enumerate();
    lines.map(|(at, text)| entry(["why", ""][at.min(1)], text)).collect()
}

fn stood_still(account: &Account) -> Vec<Line> {
    let Some(downtime) = account.downtime.filter(|downtime| !downtime.is_zero()) else {
        return Vec::new();
    };
    let mut said = units::time(downtime);
    if let Some(limit) = account.downtime_limit {
        said += &format!(" of {} allowed", units::time(limit));
    }
    if let Some(forecast) = account.downtime_forecast {
        said += &format!("; forecast was {}", units::time(forecast));
    }
    let mut lines = vec![entry("stood still", said)];
    lines.extend(account.downtime_parts.iter().flat_map(parts));
    if let Some(blackout) = account.blackout {
        let said = format!("a gap of {} at the longest", units::time(blackout));
        let lost = account.lost.map(|lost| format!("; {} of work time lost", units::time(lost)));
        lines.push(entry("guest saw", said + &lost.unwrap_or_default()));
    }
    lines
}

/// The parts that took time, in their order, wrapped to the width of a terminal.
fn parts(downtime: &Downtime) -> Vec<Line> {
    let parts = [
        ("pause", downtime.pause),
        ("last look", downtime.harvest),
        ("state", downtime.state),
        ("full digest", downtime.verify),
        ("last pages", downtime.last_pages),
        ("verify", downtime.prepared),
        ("hand over", downtime.grant),
        ("start", downtime.run),
    ];
    let mut lines = vec![String::new()];
    for (name, time) in parts.iter().filter(|(_, time)| !time.is_zero()) {
        let part = format!("{name} {}", units::time(*time));
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(&part),
            Some(line) if line.len() + part.len() + 2 <= WRAP => *line += &format!(", {part}"),
            _ => lines.push(part),
        }
    }
    lines.into_iter().map(|line| entry("", line)).collect()
}

/// One path is no news.
fn paths(account: &Account) -> Vec<Line> {
    let several = Some(&account.paths).filter(|paths| paths.len() > 1);
    let told = |path: &Path| entry("", format!("{} over {}", units::bytes(path.bytes), path.name));
    several.into_iter().flatten().map(told).collect()
}

fn sent(account: &Account) -> Option<Line> {
    let bytes = account.bytes_on_wire?;
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let (rounds, lanes) = (account.rounds.len(), account.lanes.len());
    let mut said = format!("{} in {rounds} round{}", units::bytes(bytes), plural(rounds));
    said += &format!(" over {lanes} lane{}", plural(lanes));
    if let Some(mib_s) = account.throughput_mib_s {
        said += &format!(", {}", units::rate((mib_s * 1048576.0) as u64));
    }
    if let Some(percent) = account.throttle_percent.filter(|percent| *percent > 0) {
        said += &format!("; the guest was throttled by {percent} %");
    }
    Some(entry("sent", said))
}

fn checked(account: &Account) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(pages) = account.pages_verified {
        let said = format!("{} agreed on both sides before it ran there", units::pages(pages));
        lines.push(entry("checked", said));
        if account.verify == Some("full") {
            lines.push(entry("", "both memories were read again while it stood still"));
        }
    }
    if let Some(missed) = account.pages_missed.filter(|missed| *missed > 0) {
        let said = format!("{} changed unseen by the tracker; sent again", units::pages(missed));
        lines.push(entry("warning", said));
    }
    if let Some(check) = &account.check {
        let pages = units::pages(check.pages);
        let said = match check.sound {
            true => format!("{pages} read by the guest there: none lost, stale or torn"),
            false => format!("{pages} read by the guest there, and not all are right"),
        };
        lines.push(entry("", said));
    }
    if account.source_let_go == Some(true) {
        lines.push(entry(
            "one owner",
            format!("{} has let go: it ran in one place", account.source),
        ));
    }
    lines
}

fn cost(account: &Account) -> Vec<Line> {
    let side = |name: &str, cost: Cost| {
        let cpu = cost.cpu.map(|cpu| format!("{} of CPU", units::time(cpu)))?;
        let rss = cost.peak_rss.map(|rss| format!(", {} of memory at most", units::bytes(rss)));
        Some(format!("{name} {cpu}{}", rss.unwrap_or_default()))
    };
    let source = side("source", account.at_source);
    let destination = side("destination", account.at_destination);
    let both = source.into_iter().chain(destination);
    both.enumerate().map(|(at, said)| entry(["cost", ""][at.min(1)], said)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::view::state::{Check, Lane, Round};

    fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    pub(crate) fn account() -> Account {
        let cost = |ms: u64, mib: u64| Cost { cpu: Some(us(ms * 1000)), peak_rss: Some(mib << 20) };
        Account {
            outcome: Outcome::Completed,
            guest: "demo".into(),
            source: "127.0.0.1:41001".into(),
            destination: "127.0.0.1:41002".into(),
            total: Some(us(913_000)),
            downtime: Some(us(1_840)),
            downtime_parts: Some(Downtime {
                pause: us(90),
                harvest: us(310),
                state: us(0),
                last_pages: us(900),
                prepared: us(350),
                grant: us(70),
                run: us(120),
                verify: us(0),
            }),
            downtime_limit: Some(us(300_000)),
            downtime_forecast: Some(us(2_500)),
            blackout: Some(us(2_400)),
            lost: Some(us(31_000)),
            bytes_on_wire: Some(1_200 << 20),
            guest_ram: Some(1 << 30),
            throughput_mib_s: Some(1314.3),
            pages_verified: Some(262_144),
            at_source: cost(610, 1_100),
            at_destination: cost(540, 1_090),
            rounds: vec![
                Round {
                    round: 0,
                    pages: 262_144,
                    bytes: 1 << 30,
                    duration: us(812_000),
                    dirty_after: 9,
                },
                Round { round: 1, pages: 9, bytes: 36_864, duration: us(900), dirty_after: 0 },
            ],
            lanes: vec![Lane::default(); 2],
            check: Some(Check { sound: true, pages: 262_144, ..Check::default() }),
            source_let_go: Some(true),
            travelled: Some("over TCP, encrypted with TLS 1.3"),
            ..Account::default()
        }
    }

    fn text(account: &Account) -> String {
        summary(account).iter().map(|line| line.render(false) + "\n").collect()
    }

    const COMPLETED: &str = "\
✔ Moved 1 GiB in 913 ms: demo runs at 127.0.0.1:41002

  stood still   1.8 ms of 300 ms allowed; forecast was 2.5 ms
                pause 90 µs, last look 310 µs, last pages 900 µs
                verify 350 µs, hand over 70 µs, start 120 µs
  guest saw     a gap of 2.4 ms at the longest; 31 ms of work time lost
  sent          1.2 GiB in 2 rounds over 2 lanes, 1.3 GiB/s
                over TCP, encrypted with TLS 1.3
  checked       262,144 pages agreed on both sides before it ran there
                262,144 pages read by the guest there: none lost, stale or torn
  one owner     127.0.0.1:41001 has let go: it ran in one place
  cost          source 610 ms of CPU, 1.1 GiB of memory at most
                destination 540 ms of CPU, 1.1 GiB of memory at most

   round         pages        sent        took     dirty after
       0       262,144       1 GiB      812 ms               9
       1             9      36 KiB      900 µs               0
";

    #[test]
    fn a_completed_migration() {
        assert_eq!(text(&account()), COMPLETED);
    }

    #[test]
    fn a_full_verification_shows_its_price_and_what_it_found() {
        let parts = account().downtime_parts.map(|parts| Downtime { verify: us(91_000), ..parts });
        let (verify, pages_missed) = (Some("full"), Some(3));
        let shown = text(&Account { verify, pages_missed, downtime_parts: parts, ..account() });
        assert!(shown.contains("full digest 91 ms"), "{shown}");
        assert!(shown.contains("both memories were read again"), "{shown}");
        assert!(shown.contains("  warning       3 pages changed unseen"), "{shown}");
    }

    #[test]
    fn a_damaged_guest_is_no_success() {
        let sentence = "1 page is torn".to_owned();
        let check = Check { sound: false, pages: 100, torn: 1, sentence, ..Check::default() };
        let shown = text(&Account { check: Some(check), ..account() });
        assert!(shown.starts_with("✘ Moved 1 GiB"), "{shown}");
        assert!(shown.contains("100 pages read by the guest there, and not all"), "{shown}");
        assert!(shown.ends_with("\n✘ 1 page is torn\n"), "{shown}");
    }

    #[test]
    fn an_aborted_migration_says_where_the_guest_is_and_why() {
        let reason = Some("the link failed: no answer for 30 s".to_owned());
        let (outcome, downtime, rounds) = (Outcome::Aborted, None, Vec::new());
        let shown = text(&Account { outcome, reason, downtime, rounds, ..account() });
        let expected = "\
✘ Not moved: demo runs on at 127.0.0.1:41001
  why           the link failed: no answer for 30 s
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_guest_in_doubt_comes_with_what_to_do() {
        let reason = Some("no answer to the grant".to_owned());
        let shown = text(&Account { outcome: Outcome::InDoubt, reason, ..account() });
        let expected = "\
? In doubt: demo stands still at 127.0.0.1:41001, so that it cannot run twice
  why           no answer to the grant
  what now      it is settled by itself as soon as 127.0.0.1:41002 answers
                only if 127.0.0.1:41002 is off and stays off:
                whimbrel resolve demo --run-here --peer-is-off --agent 127.0.0.1:41001
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_nobody_knows_is_left_out() {
        let bare = Account { outcome: Outcome::Completed, ..Account::default() };
        let shown = text(&bare);
        assert!(!shown.contains("stood still") && !shown.contains("cost"), "{shown}");
        let failed = text(&Account::default());
        assert!(failed.contains("why           nobody said"), "{failed}");
    }
}
