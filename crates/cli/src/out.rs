//! Lines for people and scripts. A reader that has gone away is no error, as in
//! `whimbrel list | head -1`.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, Write};

/// Writes one line to standard output.
pub(crate) fn line(text: impl Display) {
    write(io::stdout().lock(), &printable(&text.to_string()));
}

/// Writes one line to standard error, which says who speaks.
pub(crate) fn complain(text: impl Display) {
    write(io::stderr().lock(), &format!("whimbrel: {}", printable(&text.to_string())));
}

fn write(mut out: impl Write, line: &str) {
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// The text without characters that a terminal acts upon: what a peer says is read, not obeyed.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let turns = |it: char| matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let acts = |it: char| it.is_control() && !matches!(it, '\n' | '\t') || turns(it);
    match text.contains(acts) {
        true => Cow::Owned(text.replace(acts, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_upon_is_shown_as_something_unreadable() {
        let said = "a\tb\n\u{1b}]0;title\u{7} c\r\u{9b}2J\u{202e}";
        assert_eq!(printable(said), "a\tb\n\u{fffd}]0;title\u{fffd} c\u{fffd}\u{fffd}2J\u{fffd}");
        assert!(matches!(printable("→ ü"), Cow::Borrowed("→ ü")));
    }
}
