//! Lines on standard output. A reader that has gone away is no error: `whimbrel list | head -1`.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes one line.
pub(crate) fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
