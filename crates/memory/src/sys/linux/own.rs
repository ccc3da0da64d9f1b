//! Memory that this process maps for itself.

use std::fs::File;
use std::io;

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::HugePages;

/// log2 of the bytes in a reserved huge page.
const HUGE_PAGE_BITS: u8 = 21;

/// A mapping, which ends when this is dropped.
pub(in crate::sys) struct Own(MmapRaw);

impl Own {
    /// Maps `len` bytes, of `file` where there is one. Nothing is populated but reserved huge
    /// pages.
    pub(in crate::sys) fn map(
        len: usize,
        file: Option<&File>,
        huge: HugePages,
    ) -> io::Result<Self> {
        let reserved = huge == HugePages::Reserved;
        let mut options = MmapOptions::new();
        options.len(len);
        // Reserved huge pages are taken at once: without that, a missing one is a SIGBUS later.
        if !reserved {
            options.no_reserve_swap();
        }
        let raw = match file {
            Some(file) => options.map_raw(file)?,
            None if reserved => options.huge(Some(HUGE_PAGE_BITS)).map_anon()?.into(),
            None => options.map_anon()?.into(),
        };
        advise(&raw, file.is_some(), huge)?;
        Ok(Self(raw))
    }

    pub(in crate::sys) fn at(&self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    pub(in crate::sys) fn len(&self) -> usize {
        self.0.len()
    }
}

fn advise(raw: &MmapRaw, shared: bool, huge: HugePages) -> io::Result<()> {
    let advice = match (shared, huge) {
        (_, HugePages::Reserved) | (false, HugePages::HostDefault) => return Ok(()),
        (false, HugePages::Transparent) => Advice::HugePage,
        (true, _) => Advice::NoHugePage,
    };
    match raw.advise(advice) {
        // A kernel without transparent huge pages: there is nothing to advise.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}
