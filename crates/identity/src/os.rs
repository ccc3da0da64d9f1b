//! Files that other users must not read, and those that only this user may change. Each system has
//! one module with the same face.

#[cfg(unix)]
mod linux;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use linux as system;
#[cfg(windows)]
use windows as system;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

#[cfg(test)]
pub(crate) use system::open_up;
pub use system::{Exposure, sync_name, writable_by_others};
pub(crate) use system::{closing, create_private_folders, open_private, open_to_others};

/// Whoever reads `path` finds all of the old bytes or all of the new ones; nobody but this user
/// reads them where they are `secret`.
pub(crate) fn replace(path: &Path, bytes: &[u8], secret: bool) -> io::Result<()> {
    let new = path.with_extension("new");
    // What an earlier attempt left may be open to others.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = || {
        let mut file = create(&new, secret)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&new, path)
    };
    // What is not whole is of no use to anybody, on a full disk least of all.
    write().inspect_err(|_| drop(fs::remove_file(&new)))?;
    sync_name(path)
}

/// Makes a file that is not there yet, and closes it to others before anything is in it.
fn create(path: &Path, secret: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    system::closed_to_others(&mut options, secret);
    let file = options.open(path)?;
    if secret {
        system::close_to_others(path)?;
    }
    Ok(file)
}

/// Writes a file that nobody but this user reads: whoever reads it finds all of the old bytes or
/// all of the new ones.
///
/// # Errors
/// It cannot be written.
pub fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, true)
}
