//! Memory that whoever embeds this crate has mapped, and keeps.

use std::fs::File;
use std::ptr::NonNull;

/// One region of a guest's memory that an embedder has mapped by itself: a virtual machine
/// monitor, say, whose vCPUs use that very mapping. Whimbrel reads, writes and tracks it, and never
/// unmaps it.
#[derive(Debug)]
pub struct AdoptedRegion {
    at: NonNull<u8>,
    len: usize,
    file: Option<File>,
}

// SAFETY: it is an address with a promise about what is there, which holds on every thread.
unsafe impl Send for AdoptedRegion {}
// SAFETY: as above; it gives no access to what is there.
unsafe impl Sync for AdoptedRegion {}

impl AdoptedRegion {
    /// Private, anonymous memory. What was never touched is zero.
    ///
    /// # Safety
    /// `len` bytes at `at` are mapped for reading and writing, private and anonymous, and stay so
    /// until the [`crate::GuestMemory`] that takes them, all its clones and all its trackers are
    /// dropped. No Rust reference to them is used in that time: they change at any moment.
    #[must_use]
    pub const unsafe fn private(at: NonNull<u8>, len: usize) -> Self {
        Self { at, len, file: None }
    }

    /// A memory file (`memfd`) of `len` bytes, mapped shared and from its beginning.
    ///
    /// # Safety
    /// As [`AdoptedRegion::private`], but shared and backed by `file`, of which no byte is cut off
    /// in that time.
    #[must_use]
    pub const unsafe fn shared(at: NonNull<u8>, len: usize, file: File) -> Self {
        Self { at, len, file: Some(file) }
    }

    pub(crate) const fn is_shared(&self) -> bool {
        self.file.is_some()
    }

    pub(super) const fn at(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The memory file, which goes to the mapping.
    pub(super) const fn take_file(&mut self) -> Option<File> {
        self.file.take()
    }
}
