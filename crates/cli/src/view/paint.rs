//! Lines of toned text, which become plain text or text with colour codes.

use crate::out::printable;

/// What a piece of text is to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Strong,
    Faint,
    Good,
    Warn,
    Bad,
    /// The filled part of a bar.
    Bar,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Bar => "36",
        }
    }
}

/// One line. Every character of it is one column wide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    spans: Vec<(Tone, String)>,
}

impl Line {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::default().put(Tone::Plain, text)
    }

    /// Adds text to the end, as far as it can be printed.
    #[must_use]
    pub(crate) fn put(mut self, tone: Tone, text: impl Into<String>) -> Self {
        let text = printable(&text.into()).replace(['\n', '\t'], " ");
        self.spans.push((tone, text));
        self
    }

    /// Fills up with blanks so that what comes next begins at `column`.
    #[must_use]
    pub(crate) fn to(self, column: usize) -> Self {
        let blanks = column.saturating_sub(self.width());
        self.put(Tone::Plain, " ".repeat(blanks))
    }

    /// What it is made of.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (Tone, &str)> {
        self.spans.iter().map(|(tone, text)| (*tone, text.as_str()))
    }

    pub(crate) fn width(&self) -> usize {
        self.spans.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// At most `width` columns of it; a cut end is marked.
    #[must_use]
    pub(crate) fn cut(mut self, width: usize) -> Self {
        if self.width() <= width {
            return self;
        }
        let mut left = width.saturating_sub(1);
        for (_, text) in &mut self.spans {
            *text = text.chars().take(left).collect();
            left -= text.chars().count();
        }
        self.put(Tone::Plain, "…")
    }

    /// The text, with colour codes if there is somebody to see them.
    pub(crate) fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        for (tone, text) in &self.spans {
            match tone.code() {
                code if colour && !code.is_empty() && !text.is_empty() => {
                    out.push_str(&format!("\x1b[{code}m{text}\x1b[0m"));
                }
                _ => out.push_str(text),
            }
        }
        out.trim_end_matches(' ').to_owned()
    }
}

/// `text` in lines of at most `width` columns, broken between words.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let columns = |text: &str| text.chars().count();
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if columns(line) + 1 + columns(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A bar of `width` columns, filled to `share` of it in eighths of a column.
pub(crate) fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (share * (width * 8) as f64).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_put_on_and_left_away() {
        let line = Line::plain("a ").put(Tone::Good, "b").to(6).put(Tone::Faint, "");
        assert_eq!(line.render(false), "a b");
        assert_eq!(line.render(true), "a \x1b[32mb\x1b[0m");
    }

    #[test]
    fn nobody_elses_codes_get_to_the_terminal() {
        assert_eq!(Line::plain("a\x1b[2J\nb").render(true), "a\u{fffd}[2J b");
    }

    #[test]
    fn lines_are_cut_by_columns_not_bytes() {
        let line = Line::plain("→→→").put(Tone::Strong, "abc");
        assert_eq!(line.width(), 6);
        assert_eq!(line.clone().cut(6).render(false), "→→→abc");
        assert_eq!(line.clone().cut(5).render(false), "→→→a…");
        assert_eq!(line.cut(2).render(false), "→…");
    }

    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrap("a bc  def\ng", 4), ["a bc", "def", "g"]);
        assert_eq!(wrap("überlang x", 3), ["überlang", "x"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn bars_fill_in_eighths_and_take_any_share() {
        assert_eq!(bar(0.0, 4), "");
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(1.0 / 32.0, 4), "▏");
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(7.0, 2), "██");
        assert_eq!(bar(f64::NAN, 2), "");
    }
}
