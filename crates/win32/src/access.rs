//! Who may do what with a file or folder.

use std::ffi::{OsStr, OsString, c_void};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::windows::ffi::OsStringExt as _;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::{GENERIC_ALL, GENERIC_READ, GENERIC_WRITE, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW,
    GetNamedSecurityInfoW, SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACL, DACL_SECURITY_INFORMATION, EqualSid, GetAce, GetTokenInformation,
    INHERIT_ONLY_ACE, IsWellKnownSid, OWNER_SECURITY_INFORMATION,
    PROTECTED_DACL_SECURITY_INFORMATION, PSID, SetFileSecurityW, TOKEN_QUERY, TOKEN_USER,
    TokenUser, WinBuiltinAdministratorsSid, WinCreatorOwnerRightsSid, WinLocalSystemSid,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use crate::{checked, succeeded, wide};

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Read what is in it.
    Read,
    /// Change it, remove it, or change who may.
    Write,
}

impl Right {
    /// The bits of an access mask that give it (winnt.h): reading data; writing and appending
    /// data, removing, changing the list and the owner.
    const fn mask(self) -> u32 {
        match self {
            Self::Read => 1 | GENERIC_READ | GENERIC_ALL,
            Self::Write => 2 | 4 | 0x1_0000 | 0x4_0000 | 0x8_0000 | GENERIC_WRITE | GENERIC_ALL,
        }
    }
}

/// Kinds of entries that let somebody in (winnt.h): as they are, and under a condition.
const LETS_IN: [u8; 2] = [0, 9];

/// Memory that a call has made and that is ours to free.
struct Local(*mut c_void);

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: made by a call that says to free it so, and freed once.
        unsafe { LocalFree(self.0) };
    }
}

/// The user on whose behalf this process runs.
struct User(Vec<u64>);

impl User {
    fn own() -> io::Result<Self> {
        let mut token = null_mut();
        // SAFETY: the handle of this process need not be closed.
        checked(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &mut token) })?;
        // SAFETY: the handle was just made and is nobody else's.
        let token = unsafe { OwnedHandle::from_raw_handle(token) };
        // More than the longest identifier takes, in words, so that it is aligned.
        let mut room = vec![0_u64; 32];
        let (into, size) = (room.as_mut_ptr().cast(), (room.len() * 8) as u32);
        let mut told = 0;
        // SAFETY: the system writes no more than the size it is told.
        checked(unsafe {
            GetTokenInformation(token.as_raw_handle(), TokenUser, into, size, &mut told)
        })?;
        Ok(Self(room))
    }

    fn id(&self) -> PSID {
        // SAFETY: the system has written such a structure there.
        unsafe { (*self.0.as_ptr().cast::<TOKEN_USER>()).User.Sid }
    }

    /// As access lists are written.
    fn text(&self) -> io::Result<OsString> {
        let mut text = null_mut();
        // SAFETY: an identifier that the system has made.
        checked(unsafe { ConvertSidToStringSidW(self.id(), &mut text) })?;
        let _freed = Local(text.cast());
        // SAFETY: text that ends with 0, and no word past that is read.
        let length = (0..).take_while(|at| unsafe { *text.add(*at) } != 0).count();
        // SAFETY: as above.
        Ok(OsString::from_wide(unsafe { std::slice::from_raw_parts(text, length) }))
    }
}

/// Lets nobody reach a file or folder but this user and those who administer the host; what is
/// made in a folder from now on inherits that.
///
/// # Errors
/// What the system says.
pub fn let_in_only_this_user(path: &Path) -> io::Result<()> {
    let inherit = if path.is_dir() { "OICI" } else { "" };
    let mut list = OsString::from("D:P");
    for who in [User::own()?.text()?.as_os_str(), OsStr::new("SY"), OsStr::new("BA")] {
        list.push(format!("(A;{inherit};FA;;;"));
        list.push(who);
        list.push(")");
    }
    set(path, &list)
}

/// Opens a file and lets nobody else reach it, whether it is new or not: its folder may be one that
/// lets others in, whose list a new file inherits.
///
/// # Errors
/// It cannot be opened, or the list of a file that others may reach is not this user's to set.
pub fn open_private(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.open(path)?;
    if others_may(path, Right::Read)? || others_may(path, Right::Write)? {
        let_in_only_this_user(path)?;
    }
    Ok(file)
}

/// What a person types to do the same to a file, at either prompt of Windows: first without the
/// entries that somebody has made, which stay otherwise, then without those of its folder.
#[must_use]
pub fn closing(path: &Path) -> String {
    // Names of users are written differently at each prompt; who owns the file is its user.
    let who = User::own().and_then(|user| user.text());
    let who = who.map_or("S-1-3-4".to_owned(), |who| who.to_string_lossy().into_owned());
    let file = path.display();
    format!("icacls \"{file}\" /reset, then icacls \"{file}\" /inheritance:r /grant:r *{who}:F")
}

/// Lets everybody read a file, as a careless administrator does: for tests of what is made of it.
///
/// # Errors
/// What the system says.
pub fn let_everybody_read(path: &Path) -> io::Result<()> {
    set(path, OsStr::new("D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FR;;;WD)"))
}

/// Sets the access list of a file or folder, which is given as such lists are written.
fn set(path: &Path, list: &OsStr) -> io::Result<()> {
    let made = described(list)?;
    let what = DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION;
    // SAFETY: text that ends with 0, and a description that lives until the end.
    checked(unsafe { SetFileSecurityW(wide(path.as_os_str()).as_ptr(), what, made.0) })
}

/// Sets the access list of what an open handle is on.
#[cfg(test)]
pub(crate) fn set_list_of(handle: std::os::windows::io::RawHandle, list: &OsStr) -> io::Result<()> {
    use windows_sys::Win32::Security::SetKernelObjectSecurity;
    let made = described(list)?;
    // SAFETY: the caller's handle is open, and the description lives until the end.
    checked(unsafe { SetKernelObjectSecurity(handle, DACL_SECURITY_INFORMATION, made.0) })
}

/// The description that an access list is a part of, from the list as such lists are written.
fn described(list: &OsStr) -> io::Result<Local> {
    let (list, mut made) = (wide(list), null_mut());
    // SAFETY: text that ends with 0; the size need not be told.
    checked(unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            list.as_ptr(),
            SDDL_REVISION_1,
            &mut made,
            null_mut(),
        )
    })?;
    Ok(Local(made))
}

/// Makes the folders that are missing on the way to `path`, for this user only.
///
/// # Errors
/// What the system says.
pub fn create_private_folders(path: &Path) -> io::Result<()> {
    let is_there = |folder: &&Path| folder.as_os_str().is_empty() || folder.exists();
    let missing: Vec<_> = path.ancestors().take_while(|folder| !is_there(folder)).collect();
    for folder in missing.into_iter().rev() {
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.and_then(|()| let_in_only_this_user(folder))?,
        }
    }
    Ok(())
}

/// Whether somebody may do that who is neither this user, nor the owner, nor administers the host.
///
/// # Errors
/// What the system says.
pub fn others_may(path: &Path, right: Right) -> io::Result<bool> {
    let (mut owner, mut acl, mut all) = (null_mut(), null_mut(), null_mut());
    let name = wide(path.as_os_str());
    // SAFETY: text that ends with 0; what is not asked for is not written.
    succeeded(unsafe {
        GetNamedSecurityInfoW(
            name.as_ptr(),
            SE_FILE_OBJECT,
            OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
            &mut owner,
            null_mut(),
            &mut acl,
            null_mut(),
            &mut all,
        )
    })?;
    let _freed = Local(all);
    if acl.is_null() {
        // Without a list everybody may do everything.
        return Ok(true);
    }
    let user = User::own()?;
    // SAFETY: the list and the owner are parts of `all`, which lives until the end.
    unsafe { lets_in_others(acl, right, &[owner, user.id()]) }
}

/// # Safety
/// `acl` is a list, and `known` are identifiers, that the system has made and that live.
unsafe fn lets_in_others(acl: *const ACL, right: Right, known: &[PSID]) -> io::Result<bool> {
    // SAFETY: as the caller promised.
    let count = unsafe { (*acl).AceCount };
    for index in 0..count.into() {
        let mut entry = null_mut();
        // SAFETY: the list has so many entries.
        checked(unsafe { GetAce(acl, index, &mut entry) })?;
        let entry = entry.cast::<ACCESS_ALLOWED_ACE>();
        // SAFETY: every entry begins with this head, and those that let somebody in go on as this
        // structure does.
        let (kind, flags) = unsafe { ((*entry).Header.AceType, (*entry).Header.AceFlags) };
        if !LETS_IN.contains(&kind) || u32::from(flags) & INHERIT_ONLY_ACE != 0 {
            continue;
        }
        // SAFETY: as above; the identifier begins where the structure says.
        let (mask, who) = unsafe { ((*entry).Mask, (&raw mut (*entry).SidStart).cast::<c_void>()) };
        // SAFETY: all are identifiers that the system has made.
        let is_known = unsafe {
            known.iter().any(|known| EqualSid(who, *known) != 0)
                || [WinLocalSystemSid, WinBuiltinAdministratorsSid, WinCreatorOwnerRightsSid]
                    .iter()
                    .any(|kind| IsWellKnownSid(who, *kind) != 0)
        };
        if mask & right.mask() != 0 && !is_known {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_in_only_this_user_lets_in_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "secret").unwrap();
        for path in [folder.path(), &file] {
            let_in_only_this_user(path).unwrap();
            assert!(!others_may(path, Right::Read).unwrap(), "{}", path.display());
            assert!(!others_may(path, Right::Write).unwrap(), "{}", path.display());
        }
        assert_eq!(fs::read(&file).unwrap(), b"secret");
    }

    #[test]
    fn a_file_that_everybody_may_read_is_open_until_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "known").unwrap();
        let may = || [Right::Read, Right::Write].map(|right| others_may(&file, right).unwrap());
        let_everybody_read(&file).unwrap();
        assert_eq!(may(), [true, false]);
        set(&file, OsStr::new("D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;WD)")).unwrap();
        assert_eq!(may(), [true, true]);
        let_in_only_this_user(&file).unwrap();
        assert_eq!(may(), [false, false]);
    }

    #[test]
    fn a_file_in_a_folder_that_lets_everybody_in_is_private_once_it_was_opened_so() {
        let folder = tempfile::tempdir().unwrap();
        set(folder.path(), OsStr::new("D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;WD)")).unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        fs::write(&old, "kept").unwrap();
        set(&old, OsStr::new("D:P(A;;FA;;;SY)(A;;FA;;;WD)")).unwrap();
        assert!(others_may(&old, Right::Write).unwrap());
        for path in [&new, &old] {
            open_private(OpenOptions::new().append(true).create(true), path).unwrap();
            assert!(!others_may(path, Right::Read).unwrap(), "{}", path.display());
            assert!(!others_may(path, Right::Write).unwrap(), "{}", path.display());
        }
        assert_eq!(fs::read(&old).unwrap(), b"kept");
    }

    #[test]
    fn what_a_person_is_to_type_is_understood_at_both_prompts() {
        let said = closing(Path::new("C:\\some where\\key"));
        assert!(said.starts_with("icacls \"C:\\some where\\key\" /reset, then icacls "), "{said}");
        assert!(said.contains("/grant:r *S-1-") && !said.contains(['%', '$']), "{said}");
    }

    #[test]
    fn folders_are_made_for_this_user() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("one/two");
        create_private_folders(&deep).unwrap();
        create_private_folders(&deep).unwrap();
        assert!(!others_may(&deep, Right::Read).unwrap());
        fs::write(deep.join("file"), "").unwrap();
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = others_may(&folder.path().join("none"), Right::Read).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
