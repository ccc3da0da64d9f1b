//! Linux, as any Unix: permissions are a mode.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// What to do about a key that others may read.
pub(crate) fn closing(path: &Path) -> String {
    format!("chmod 600 {}", path.display())
}

/// How somebody besides its owner gets at a file: what a file "has".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure(u32);

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode {:o}", self.0)
    }
}

impl Exposure {
    /// What to do about it.
    #[must_use]
    pub fn advice(&self, path: &Path) -> String {
        format!("chmod go-w {}, and go-r if it is a key", path.display())
    }
}

/// Makes the folders that are missing on the way to `path`, for this user only.
pub(crate) fn create_private_folders(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens a file that is there to be locked, for this user only.
pub(crate) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// A file that the options make is for this user only if it is `secret`, and else for this user to
/// change.
pub(super) fn closed_to_others(options: &mut OpenOptions, secret: bool) {
    options.mode(if secret { 0o600 } else { 0o644 });
}

/// It was made so.
#[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
pub(super) fn close_to_others(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Has the name of a file survive a power failure.
///
/// # Errors
/// It cannot be had from the system.
pub fn sync_name(path: &Path) -> io::Result<()> {
    // A name alone has a parent, which is empty.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// How somebody besides its owner may read or write a file, if so.
pub(crate) fn open_to_others(path: &Path) -> io::Result<Option<Exposure>> {
    exposure(path, 0o077)
}

/// How somebody besides its owner may write a file, if so.
///
/// # Errors
/// It cannot be looked at.
pub fn writable_by_others(path: &Path) -> io::Result<Option<Exposure>> {
    exposure(path, 0o022)
}

fn exposure(path: &Path, bits: u32) -> io::Result<Option<Exposure>> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    Ok((mode & bits != 0).then_some(Exposure(mode)))
}

/// Lets everybody read a file, as a careless administrator does.
#[cfg(test)]
pub(crate) fn open_up(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}
