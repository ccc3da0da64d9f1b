//! The rules of the house, as pure functions over the text of manifests and sources.
//!
//! ```text
//!   Workspace::read ──► manifests ──► arrows       who may use whom
//!                  └──► sources ──┬─► sizes        lines, functions, files
//!                                 ├─► reach        no forgotten file; which code is test code
//!                                 ├─► heads        what a crate says and forbids first
//!                                 ├─► tokens ──► words   what may be said where
//!                                 └─► citations    of the wire's law; links of the pages
//! ```
//!
//! Goals: every rule bites (each module shows it on a violating sample), and says what to do.
//! Not a goal: what rustc and clippy already hold.

pub mod arrows;
pub mod citations;
pub mod heads;
pub mod purity;
pub mod reach;
pub mod sizes;
pub mod tokens;
pub mod words;
mod workspace;

use std::fmt;

pub use workspace::{Manifest, SourceFile, Workspace};

/// One place where a rule of the house is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The file, from the root of the workspace.
    pub path: String,
    /// The line, counted from 1; 0 stands for the file as a whole.
    pub line: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

impl Breach {
    /// A breach in `line` of `path`.
    #[must_use]
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

#[cfg(test)]
pub(crate) fn sample(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.to_owned(), text: text.to_owned() }
}
