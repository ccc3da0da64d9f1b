//! Memory that this process allocates for itself.

use std::fs::File;
use std::io;
use std::ptr::{NonNull, null};

use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, PAGE_READWRITE, VirtualAlloc, VirtualFree,
};

use crate::HugePages;

/// Has the kernel record which pages are written (winnt.h).
const MEM_WRITE_WATCH: u32 = 0x20_0000;

/// An allocation, which ends when this is dropped.
pub(in crate::sys) struct Own {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: an address of memory that belongs to the process, not to a thread.
unsafe impl Send for Own {}
// SAFETY: as above; what is at the address is only reached through volatile copies.
unsafe impl Sync for Own {}

impl Own {
    /// Allocates `len` bytes that are watched. The system promises all of them at once, and takes
    /// memory for each page when it is first used.
    pub(in crate::sys) fn map(len: usize, _: Option<&File>, huge: HugePages) -> io::Result<Self> {
        if huge == HugePages::Reserved {
            let why = "Windows finds no writes to large pages; choose ordinary ones";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let kind = MEM_RESERVE | MEM_COMMIT | MEM_WRITE_WATCH;
        // SAFETY: without an address to begin at, nothing that is there is touched.
        let at = unsafe { VirtualAlloc(null(), len, kind, PAGE_READWRITE) };
        let at = NonNull::new(at.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { at, len })
    }

    pub(in crate::sys) const fn at(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    pub(in crate::sys) const fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: the address is of our own allocation, which nobody uses any more. A failure
        // would leave memory behind, and there is nobody to tell.
        let _ = unsafe { VirtualFree(self.at.as_ptr().cast(), 0, MEM_RELEASE) };
    }
}
