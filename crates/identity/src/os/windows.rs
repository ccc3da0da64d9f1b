//! Windows: permissions are a list of who may do what, and a file inherits its folder's.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use whimbrel_win32::{Right, let_in_only_this_user, others_may};

/// What to do about a key that others may read.
pub(crate) use whimbrel_win32::closing;

/// How somebody besides its owner gets at a file: what a file "has".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure(());

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an access list with others in it")
    }
}

impl Exposure {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self, path: &Path) -> String {
        closing(path)
    }
}

/// Makes the folders that are missing on the way to `path`, for this user only.
pub(crate) fn create_private_folders(path: &Path) -> io::Result<()> {
    whimbrel_win32::create_private_folders(path)
}

/// Opens a file that is there to be locked, for this user only.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    whimbrel_win32::open_private(&options, path)
}

/// The list of a file is another call: [`close_to_others`].
pub(super) fn closed_to_others(_: &mut OpenOptions, _: bool) {}

/// Lets nobody in but this user.
pub(super) fn close_to_others(path: &Path) -> io::Result<()> {
    let_in_only_this_user(path)
}

/// Has the name of a file survive a power failure: what NTFS knows of a file goes to its journal
/// with the file.
///
/// # Errors
/// It cannot be had from the system.
pub fn sync_name(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.sync_all()
}

/// How somebody besides its owner may read or write a file, if so.
pub(crate) fn open_to_others(path: &Path) -> io::Result<Option<Exposure>> {
    let open = others_may(path, Right::Read)? || others_may(path, Right::Write)?;
    Ok(open.then_some(Exposure(())))
}

/// How somebody besides its owner may write a file, if so.
///
/// # Errors
/// It cannot be looked at.
pub fn writable_by_others(path: &Path) -> io::Result<Option<Exposure>> {
    Ok(others_may(path, Right::Write)?.then_some(Exposure(())))
}

/// Lets everybody read a file, as a careless administrator does.
#[cfg(test)]
pub(crate) fn open_up(path: &Path) {
    whimbrel_win32::let_everybody_read(path).unwrap();
}
