//! A migration that is under way, as a block of lines for a terminal or one line for a log.

use super::follow::Frame;
use super::paint::{Line, Tone, bar};
use super::state::{Lane, Look, PAGE_BYTES, Path, Round};
use super::units;

/// Columns before the bars, and the widest bar.
const LABEL: usize = 14;
const BAR_MAX: usize = 40;
/// More lanes than this share one line.
const LANES_SHOWN_MAX: usize = 4;
/// Rounds in the table of a migration that is under way.
const ROUNDS_SHOWN_MAX: usize = 4;
/// What stands above them.
const ROUNDS_HEAD: usize = 2;

/// The engine's word for the phase in which rounds follow one another.
const PRE_COPY: &str = "pre-copy";

/// The block for a terminal of `columns` × `rows`. It leaves a row for the cursor.
pub(crate) fn block(frame: &Frame, columns: usize, rows: usize) -> Vec<Line> {
    let look = &frame.look;
    if look.rounds.is_empty() {
        return vec![headline(look, columns).cut(columns)];
    }
    let mut lines = vec![headline(look, columns), memory(look, columns)];
    lines.push(setback(frame));
    lines.push(Line::default());
    lines.extend(speeds(frame, columns));
    lines.push(downtime(look, columns));
    let going_on = look.phase == PRE_COPY;
    let table = rounds(&look.rounds, going_on, ROUNDS_SHOWN_MAX);
    // A head with nothing below it says nothing.
    let rows = rows.saturating_sub(1).max(1);
    if rows > lines.len() + ROUNDS_HEAD {
        lines.extend(table);
    }
    lines.truncate(rows);
    lines.into_iter().map(|line| line.cut(columns)).collect()
}

/// The same in one line. It says why, if there is more to send than the line before said, with
/// `before` bytes.
pub(crate) fn line(frame: &Frame, before: Option<u64>) -> String {
    let look = &frame.look;
    let mut text = format!("{:>8}  {}", units::clock(look.elapsed), stage(look));
    if look.rounds.is_empty() {
        return text;
    }
    text += &format!("  {:>3} %  {} to go", percent(look), units::bytes(look.pending()));
    text += &format!("  link {}", units::rate(frame.link_rate()));
    if let Some(rate) = look.dirty_rate {
        text += &format!("  guest writes {}", units::rate(rate));
    }
    if look.throttle_percent > 0 {
        text += &format!("  throttled {} %", look.throttle_percent);
    }
    if let Some(forecast) = look.downtime_forecast {
        text += &format!("  downtime {}", units::time(forecast));
    }
    if let Some(why) = &frame.setback
        && before.is_some_and(|before| look.pending() > before)
    {
        text += &format!("  ↺ {why}");
    }
    text
}

/// What a round that has ended has done, in one sentence.
pub(crate) fn round_ended(round: &Round) -> String {
    let (sent, took) = (units::bytes(round.bytes), units::time(round.duration));
    let pages = units::pages(round.pages);
    let again = match round.dirty_after {
        0 => "nothing was written meanwhile".to_owned(),
        dirty => format!("the guest wrote {} again", units::pages(dirty)),
    };
    format!("round {} sent {pages} ({sent}) in {took}; {again}", round.round)
}

fn stage(look: &Look) -> String {
    match look.rounds.last() {
        Some(round) if look.phase == PRE_COPY => format!("pre-copy, round {}", round.round),
        _ if look.phase.is_empty() => "starting".to_owned(),
        _ => look.phase.clone(),
    }
}

/// Whole percent; 100 only when nothing is left.
fn percent(look: &Look) -> u64 {
    (look.fresh() * 100.0).floor() as u64
}

fn headline(look: &Look, columns: usize) -> Line {
    let clock = units::clock(look.elapsed);
    let way = format!("  {} → {}", look.source, look.destination);
    let size = match look.pages_total {
        0 => String::new(),
        pages => format!("  {}", units::bytes(pages * PAGE_BYTES)),
    };
    Line::default()
        .put(Tone::Strong, look.guest.clone())
        .put(Tone::Plain, size)
        .put(Tone::Faint, way)
        .put(Tone::Plain, format!("  {}", stage(look)))
        .cut(columns.saturating_sub(clock.len() + 1))
        .to(columns.saturating_sub(clock.len()))
        .put(Tone::Strong, clock)
}

fn memory(look: &Look, columns: usize) -> Line {
    let width = columns.saturating_sub(LABEL + 24);
    let said = format!("{:>3} %  ", percent(look));
    meter("memory", look.fresh(), width, Tone::Good)
        .put(Tone::Strong, said)
        .put(Tone::Plain, format!("{} to go", units::bytes(look.pending())))
}

fn setback(frame: &Frame) -> Line {
    let Some(why) = &frame.setback else { return Line::default() };
    Line::default().to(LABEL).put(Tone::Warn, format!("↺ {why}"))
}

fn meter(label: &str, share: f64, width: usize, tone: Tone) -> Line {
    let filled = bar(share, width);
    Line::default().put(Tone::Faint, label).to(LABEL).put(tone, filled).to(LABEL + width + 1)
}

fn speeds(frame: &Frame, columns: usize) -> Vec<Line> {
    let look = &frame.look;
    let width = BAR_MAX.min(columns.saturating_sub(LABEL + 30));
    let link_rate = frame.link_rate();
    let most = link_rate.max(look.dirty_rate.unwrap_or_default()).max(1);
    let share = |rate: u64| rate as f64 / most as f64;
    let link = meter("link", share(link_rate), width, Tone::Bar);
    let link = link.put(Tone::Plain, units::rate(link_rate));
    let written = share(look.dirty_rate.unwrap_or_default());
    let writes = meter("guest writes", written, width, Tone::Warn);
    let writes = match look.dirty_rate {
        Some(rate) => throttled(writes.put(Tone::Plain, units::rate(rate)), look),
        None => writes.put(Tone::Faint, "known after the first round"),
    };
    let mut lines = vec![link, writes];
    lines.extend(lanes(frame, width, share));
    lines.extend(paths(look, width, share));
    lines
}

/// One path is no news.
fn paths(look: &Look, width: usize, share: impl Fn(u64) -> f64) -> Vec<Line> {
    let shown = |(number, path): (usize, &Path)| {
        let line = meter(&format!("path {number}"), share(path.rate), width, Tone::Bar);
        match path.up {
            true => line.put(Tone::Plain, format!("{} {}", units::rate(path.rate), path.name)),
            false => line.put(Tone::Warn, format!("out of use: {}", path.name)),
        }
    };
    let several = Some(&look.paths).filter(|paths| paths.len() > 1);
    several.into_iter().flatten().enumerate().map(shown).collect()
}

fn throttled(line: Line, look: &Look) -> Line {
    match look.throttle_percent {
        0 => line.put(Tone::Faint, ", at full speed"),
        percent => line.put(Tone::Warn, format!(", throttled {percent} %")),
    }
}

fn lanes(frame: &Frame, width: usize, share: impl Fn(u64) -> f64) -> Vec<Line> {
    let lanes: Vec<_> = frame.look.lanes.iter().zip(&frame.lane_rates).collect();
    if lanes.len() > LANES_SHOWN_MAX {
        let open: Vec<u64> = lanes.iter().filter(|(lane, _)| lane.open).map(|(_, r)| **r).collect();
        return vec![many_lanes(&open, lanes.len() - open.len())];
    }
    let shown = |(lane, rate): (&Lane, &u64)| {
        let label = format!("lane {}", lane.lane);
        let line = meter(&label, share(*rate), width, Tone::Bar);
        if lane.open {
            line.put(Tone::Plain, units::rate(*rate))
        } else {
            line.put(Tone::Warn, format!("closed after {}", units::bytes(lane.bytes)))
        }
    };
    lanes.into_iter().map(shown).collect()
}

fn many_lanes(open: &[u64], closed: usize) -> Line {
    let least = open.iter().min().copied().unwrap_or(0);
    let most = open.iter().max().copied().unwrap_or(0);
    let each = format!("{} open, {} to {} each", open.len(), units::rate(least), units::rate(most));
    let line = Line::default().put(Tone::Faint, "lanes").to(LABEL).put(Tone::Plain, each);
    if closed == 0 { line } else { line.put(Tone::Warn, format!(", {closed} closed")) }
}

fn downtime(look: &Look, columns: usize) -> Line {
    let width = BAR_MAX.min(columns.saturating_sub(LABEL + 30));
    let (Some(forecast), limit) = (look.downtime_forecast, look.downtime_limit) else {
        return meter("downtime", 0.0, width, Tone::Good).put(Tone::Faint, "too early to tell");
    };
    let fits = limit.is_none_or(|limit| forecast <= limit);
    let tone = if fits { Tone::Good } else { Tone::Warn };
    let share = limit.map_or(0.0, |limit| forecast.as_secs_f64() / limit.as_secs_f64());
    let mut said = format!("{} if moved now", units::time(forecast));
    if let Some(limit) = limit {
        said = format!("{} of {} allowed", units::time(forecast), units::time(limit));
    }
    meter("downtime", share, width, tone).put(tone, said)
}

/// The first round and the last ones as a table of at most `most` rows, without a round that has
/// just begun. What is dirty after a last round that is `going_on` is not known yet.
pub(crate) fn rounds(rounds: &[Round], going_on: bool, most: usize) -> Vec<Line> {
    let begun = rounds.last().is_some_and(|last| last.duration.is_zero() && last.pages == 0);
    let rounds = &rounds[..rounds.len() - usize::from(begun)];
    if rounds.is_empty() {
        return Vec::new();
    }
    let head =
        format!("{:>8}{:>14}{:>12}{:>12}{:>16}", "round", "pages", "sent", "took", "dirty after");
    let mut lines = vec![Line::default(), Line::default().put(Tone::Faint, head)];
    let last = rounds.len() - 1;
    let row = |at: usize| row(&rounds[at], going_on && !begun && at == last);
    if rounds.len() <= most {
        lines.extend((0..rounds.len()).map(row));
        return lines;
    }
    lines.push(row(0));
    lines.push(Line::default().put(Tone::Faint, format!("{:>8}", "…")));
    lines.extend((rounds.len() + 2 - most..rounds.len()).map(row));
    lines
}

fn row(round: &Round, going_on: bool) -> Line {
    let dirty = if going_on { "…".to_owned() } else { units::count(round.dirty_after) };
    Line::plain(format!(
        "{:>8}{:>14}{:>12}{:>12}{:>16}",
        round.round,
        units::count(round.pages),
        units::bytes(round.bytes),
        units::time(round.duration),
        dirty,
    ))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::view::state::Lane;

    fn frame() -> Frame {
        let ms = Duration::from_millis;
        let lane = |lane| Lane { lane, bytes: 600 << 20, pages: 150_000, open: true };
        let look = Look {
            guest: "demo".into(),
            source: "127.0.0.1:41001".into(),
            destination: "127.0.0.1:41002".into(),
            phase: "pre-copy".into(),
            elapsed: ms(1234),
            pages_total: 262_144,
            pages_pending: 57_345,
            bandwidth: Some(3_174 << 20),
            dirty_rate: Some(400 << 20),
            throttle_percent: 0,
            downtime_forecast: Some(ms(41)),
            downtime_limit: Some(ms(300)),
            rounds: vec![
                Round {
                    round: 0,
                    pages: 262_144,
                    bytes: 1 << 30,
                    duration: ms(612),
                    dirty_after: 81_920,
                },
                Round {
                    round: 1,
                    pages: 24_575,
                    bytes: 100 << 20,
                    duration: ms(32),
                    dirty_after: 0,
                },
            ],
            lanes: vec![lane(0), Lane { open: false, ..lane(1) }],
            paths: Vec::new(),
            events: Vec::new(),
        };
        let setback = Some("the guest wrote 320 MiB again while round 0 was sent".to_owned());
        Frame { look, lane_rates: vec![3_174 << 20, 0], setback, news: Vec::new() }
    }

    fn text(frame: &Frame, columns: usize, rows: usize) -> String {
        let lines = block(frame, columns, rows);
        lines.iter().map(|line| line.render(false) + "\n").collect()
    }

    const AT_80: &str = "\
demo  1 GiB  127.0.0.1:41001 → 127.0.0.1:41002  pre-copy, round 1          1.2 s
memory        ████████████████████████████████▊           78 %  224 MiB to go
              ↺ the guest wrote 320 MiB again while round 0 was sent

link          ████████████████████████████████████ 3.1 GiB/s
guest writes  ████▌                                400 MiB/s, at full speed
lane 0        ████████████████████████████████████ 3.1 GiB/s
lane 1                                             closed after 600 MiB
downtime      ████▉                                41 ms of 300 ms allowed

   round         pages        sent        took     dirty after
       0       262,144       1 GiB      612 ms          81,920
       1        24,575     100 MiB       32 ms               …
";

    #[test]
    fn the_block_at_80_columns() {
        assert_eq!(text(&frame(), 80, 24), AT_80);
    }

    #[test]
    fn no_terminal_is_too_small_or_overrun() {
        for columns in [1, 20, 40, 80, 200] {
            for rows in [1, 5, 24] {
                let lines = block(&frame(), columns, rows);
                assert!(lines.len() < rows.max(2), "{columns}x{rows}");
                assert!(lines.iter().all(|line| line.width() <= columns), "{columns}x{rows}");
            }
        }
    }

    #[test]
    fn before_the_first_figures_there_is_a_line_too() {
        let look =
            Look { pages_total: 0, rounds: Vec::new(), phase: String::new(), ..frame().look };
        let shown = text(&Frame { look, ..Frame::default() }, 80, 24);
        let expected = "demo  127.0.0.1:41001 → 127.0.0.1:41002  starting".to_owned();
        assert_eq!(shown, format!("{expected:<75}1.2 s\n"));
    }

    #[test]
    fn a_throttled_guest_that_does_not_fit_is_shown_in_warning_tones() {
        let mut frame = frame();
        frame.look.throttle_percent = 40;
        frame.look.downtime_forecast = Some(Duration::from_millis(1900));
        let lines = block(&frame, 80, 24);
        let shown: String = lines.iter().map(|line| line.render(true)).collect();
        assert!(shown.contains("\x1b[33m, throttled 40 %\x1b[0m"), "{shown}");
        assert!(shown.contains("\x1b[33m1.9 s of 300 ms allowed\x1b[0m"), "{shown}");
    }

    #[test]
    fn many_lanes_share_a_line() {
        let mut frame = frame();
        let lane = |lane| Lane { lane, open: lane != 3, ..Lane::default() };
        frame.look.lanes = (0..8).map(lane).collect();
        frame.lane_rates = (0..8).map(|lane| (380 + lane) << 20).collect();
        let shown = text(&frame, 80, 24);
        let expected = "lanes         7 open, 380 MiB/s to 387 MiB/s each, 1 closed";
        assert!(shown.lines().any(|line| line == expected), "{shown}");
    }

    #[test]
    fn the_first_round_and_the_last_ones_are_in_the_table() {
        let round = |round| Round { round, pages: 1, ..Round::default() };
        let mut many: Vec<Round> = (0..9).map(round).collect();
        many.push(Round { round: 9, ..Round::default() });
        let first_word =
            |line: &Line| line.render(false).split_whitespace().next().map(str::to_owned);
        let shown: Vec<String> = rounds(&many, false, 4).iter().filter_map(first_word).collect();
        assert_eq!(shown, ["round", "0", "…", "7", "8"]);
        let shown: Vec<String> = rounds(&many, false, 9).iter().filter_map(first_word).collect();
        assert_eq!(shown[1..], ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    }

    #[test]
    fn one_line_says_the_same() {
        let expected = "   1.2 s  pre-copy, round 1   78 %  224 MiB to go  link 3.1 GiB/s  \
                        guest writes 400 MiB/s  downtime 41 ms";
        assert_eq!(line(&frame(), None), expected);
        let mut throttled = frame();
        throttled.look.throttle_percent = 20;
        assert!(line(&throttled, None).contains("throttled 20 %"));
    }

    #[test]
    fn an_ended_round_is_a_sentence() {
        let rounds = frame().look.rounds;
        let first =
            "round 0 sent 262,144 pages (1 GiB) in 612 ms; the guest wrote 81,920 pages again";
        assert_eq!(round_ended(&rounds[0]), first);
        assert!(round_ended(&rounds[1]).ends_with("nothing was written meanwhile"));
    }

    #[test]
    fn the_last_page_makes_the_hundred() {
        let look = |pages_pending| Look { pages_total: 1000, pages_pending, ..Look::default() };
        assert_eq!(percent(&look(1)), 99);
        assert_eq!(percent(&look(0)), 100);
        assert_eq!(percent(&look(5000)), 0);
    }
}
