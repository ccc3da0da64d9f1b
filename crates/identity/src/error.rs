use std::io;
use std::path::{Path, PathBuf};

use crate::Fingerprint;

/// Why an identity or those it trusts cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system says no.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file is not what it has to be.
    #[error("{} {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A certificate cannot be made or read.
    #[error("{0}")]
    Certificate(String),
    /// A name that means somebody else already.
    #[error(
        "`{name}` is paired with another key, {known}: if it has a new one, `whimbrel unpair \
         {name}` first; if not, somebody stands in between"
    )]
    Changed {
        /// The name.
        name: String,
        /// The key that is known.
        known: Fingerprint,
    },
}

impl IdentityError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn file(path: &Path, why: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), why: why.into() }
    }
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(format!("the certificate cannot be made: {error}"))
    }
}
