//! Where the view meets the terminal: a block redrawn in place, or lines for a log.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::follow::Frame;
use super::moving;
use super::paint::Line;

/// A log gets a line of progress this often.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// A log gets a sentence for each of the first rounds; later ones are in the lines of progress.
const ROUNDS_TOLD_MAX: usize = 8;

/// What the output can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ability {
    /// Lines can be drawn over.
    pub(crate) redraw: bool,
    pub(crate) colour: bool,
}

impl Ability {
    /// Decides from what is known of the output and the environment.
    pub(crate) fn of(terminal: bool, term: Option<&str>, no_color: Option<&str>) -> Self {
        let redraw = terminal && term != Some("dumb");
        Self { redraw, colour: redraw && no_color.is_none_or(str::is_empty) }
    }

    /// What the standard output of this program can show.
    pub(crate) fn of_stdout() -> Self {
        let var = |name| std::env::var(name).ok();
        let (term, no_color) = (var("TERM"), var("NO_COLOR"));
        Self::of(io::stdout().is_terminal(), term.as_deref(), no_color.as_deref())
    }
}

/// Shows one migration after another. Output that cannot be written is nobody's business here:
/// a reader that has gone away does not end a migration.
pub(crate) struct Screen<W> {
    out: W,
    ability: Ability,
    /// Columns and rows, asked for at each drawing.
    size: fn() -> (usize, usize),
    drawn: usize,
    last_line: Option<Duration>,
    /// Bytes that were to go by the last line.
    told_pending: Option<u64>,
    rounds_told: usize,
    phase: String,
}

impl Screen<io::Stdout> {
    /// The standard output of this program.
    pub(crate) fn stdout() -> Self {
        Self::new(io::stdout(), Ability::of_stdout(), terminal_size)
    }
}

impl<W: Write> Screen<W> {
    pub(crate) fn new(out: W, ability: Ability, size: fn() -> (usize, usize)) -> Self {
        let (phase, last_line, told_pending) = (String::new(), None, None);
        Self { out, ability, size, drawn: 0, last_line, told_pending, rounds_told: 0, phase }
    }

    /// Shows how far the migration is.
    pub(crate) fn show(&mut self, frame: &Frame) {
        for (at, sentence) in &frame.news {
            let clock = super::units::clock(*at);
            self.say(&Line::plain(format!("{clock:>8}  {sentence}")));
        }
        if self.ability.redraw { self.redraw(frame) } else { self.log(frame) }
    }

    /// Writes a line that stays, above what is redrawn.
    pub(crate) fn say(&mut self, line: &Line) {
        let text = self.erase() + &line.render(self.ability.colour) + "\n";
        self.write(&text);
    }

    /// A line that is replaced by the next thing that is shown; nothing on a log.
    pub(crate) fn hint(&mut self, line: Line) {
        if self.ability.redraw {
            let columns = (self.size)().0;
            self.draw(&[line.cut(columns)]);
        }
    }

    /// The same, which stays on a log.
    pub(crate) fn announce(&mut self, line: Line) {
        if self.ability.redraw { self.hint(line) } else { self.say(&line) }
    }

    /// Takes away what is redrawn.
    pub(crate) fn clear(&mut self) {
        let text = self.erase();
        self.write(&text);
    }

    fn redraw(&mut self, frame: &Frame) {
        let (columns, rows) = (self.size)();
        self.draw(&moving::block(frame, columns, rows));
    }

    fn draw(&mut self, lines: &[Line]) {
        let mut text = self.erase();
        for line in lines {
            text += &line.render(self.ability.colour);
            text.push('\n');
        }
        self.write(&text);
        self.drawn = lines.len();
    }

    fn log(&mut self, frame: &Frame) {
        let look = &frame.look;
        let ended = look.rounds.len().saturating_sub(1).min(ROUNDS_TOLD_MAX);
        for (at, round) in look.rounds.iter().enumerate().take(ended).skip(self.rounds_told) {
            // Whoever comes late is told when it was.
            let since: Duration = look.rounds[at + 1..].iter().map(|later| later.duration).sum();
            let clock = super::units::clock(look.elapsed.saturating_sub(since));
            let said = moving::round_ended(round);
            self.say(&Line::plain(format!("{clock:>8}  {said}")));
        }
        self.rounds_told = self.rounds_told.max(ended);
        let due = self.last_line.is_none_or(|last| look.elapsed >= last + LINE_INTERVAL);
        if due || look.phase != self.phase {
            self.say(&Line::plain(moving::line(frame, self.told_pending)));
            self.told_pending = Some(look.pending());
            self.last_line = Some(look.elapsed);
            self.phase.clone_from(&look.phase);
        }
    }

    /// What takes the block away: up to its first line, and nothing below.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

/// Writes lines that stay.
pub(crate) fn say_all(lines: &[Line]) {
    let mut screen = Screen::stdout();
    lines.iter().for_each(|line| screen.say(line));
}

fn terminal_size() -> (usize, usize) {
    match terminal_size::terminal_size() {
        Some((width, height)) => (usize::from(width.0), usize::from(height.0)),
        None => (80, 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::paint::Tone;
    use crate::view::state::{Look, Round};

    const LOG: Ability = Ability { redraw: false, colour: false };
    const LIVE: Ability = Ability { redraw: true, colour: false };

    fn frame(millis: u64, rounds: usize) -> Frame {
        let round = |round| Round { round: round as u32, pages: 10, ..Round::default() };
        let look = Look {
            guest: "g".into(),
            phase: "pre-copy".into(),
            elapsed: Duration::from_millis(millis),
            pages_total: 100,
            pages_pending: 50,
            rounds: (0..rounds).map(round).collect(),
            ..Look::default()
        };
        Frame { look, ..Frame::default() }
    }

    fn screen(ability: Ability) -> Screen<Vec<u8>> {
        Screen::new(Vec::new(), ability, || (80, 24))
    }

    fn written(screen: Screen<Vec<u8>>) -> String {
        String::from_utf8(screen.out).expect("text")
    }

    #[test]
    fn colour_and_redrawing_need_somebody_to_see_them() {
        let of = |terminal, term, no_color| {
            let ability = Ability::of(terminal, term, no_color);
            (ability.redraw, ability.colour)
        };
        assert_eq!(of(true, Some("xterm"), None), (true, true));
        assert_eq!(of(true, None, Some("")), (true, true));
        assert_eq!(of(true, Some("xterm"), Some("1")), (true, false));
        assert_eq!(of(true, Some("dumb"), None), (false, false));
        assert_eq!(of(false, Some("xterm"), None), (false, false));
    }

    #[test]
    fn a_block_is_drawn_over_the_one_before() {
        let mut screen = screen(LIVE);
        screen.show(&frame(0, 0));
        let lines = moving::block(&frame(0, 0), 80, 24).len();
        screen.show(&frame(10, 0));
        screen.clear();
        let text = written(screen);
        assert_eq!(text.matches(&format!("\x1b[{lines}A\r\x1b[J")).count(), 2, "{text:?}");
        assert!(text.ends_with("\x1b[J"), "{text:?}");
    }

    #[test]
    fn news_stays_above_the_block() {
        let mut screen = screen(LIVE);
        screen.show(&frame(0, 0));
        let news = vec![(Duration::from_millis(1300), "lane 1 was lost".to_owned())];
        screen.show(&Frame { news, ..frame(1500, 0) });
        let text = written(screen);
        assert!(text.contains("\x1b[J   1.3 s  lane 1 was lost\ng  "), "{text:?}");
    }

    #[test]
    fn a_log_has_no_codes_and_a_line_a_second() {
        let mut screen = screen(LOG);
        screen.hint(Line::plain("starting"));
        for tenth in 0..25 {
            screen.show(&frame(tenth * 100, 1));
        }
        screen.clear();
        let text = written(screen);
        assert!(!text.contains('\x1b'), "{text:?}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }

    #[test]
    fn a_log_tells_each_of_the_first_rounds_once() {
        let mut screen = screen(LOG);
        for rounds in [1, 3, 3, 20, 40] {
            screen.show(&frame(100, rounds));
        }
        let text = written(screen);
        let told = text.lines().filter(|line| line.contains("sent 10 pages")).count();
        assert_eq!(told, ROUNDS_TOLD_MAX, "{text}");
    }

    #[test]
    fn who_comes_late_is_told_when_each_round_ended() {
        let (mut screen, mut late) = (screen(LOG), frame(7000, 3));
        for (round, seconds) in late.look.rounds.iter_mut().zip([3, 2, 0]) {
            round.duration = Duration::from_secs(seconds);
        }
        screen.show(&late);
        let text = written(screen);
        let told: Vec<_> = text.lines().filter_map(|line| line.split_once(" sent ")).collect();
        let told: Vec<_> = told.iter().map(|(when, _)| when.trim_start()).collect();
        assert_eq!(told, ["5.0 s  round 0", "7.0 s  round 1"], "{text}");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let mut screen = Screen::new(Gone, LIVE, || (80, 24));
        screen.say(&Line::default().put(Tone::Good, "hello"));
        screen.show(&frame(0, 0));
    }
}
