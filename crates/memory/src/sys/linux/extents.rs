//! Where a memory file has data.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use whimbrel_page::PAGE_SIZE;

use super::checked;

/// Tells data from holes, in pages. Remembers the last answer, so that going through a file from
/// front to back costs as many system calls as it has extents.
pub(in crate::sys) struct Extents<'a> {
    file: &'a File,
    pages: u64,
    /// From here to the start of `data` there is a hole.
    from: u64,
    data: Range<u64>,
}

impl<'a> Extents<'a> {
    pub(in crate::sys) fn new(file: &'a File, size: u64) -> Self {
        Self { file, pages: size / PAGE_SIZE as u64, from: 0, data: 0..0 }
    }

    /// Hands the runs of pages in `range` that have data to `each`, as first page and count.
    pub(in crate::sys) fn within(
        &mut self,
        range: Range<u64>,
        mut each: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            if !(self.from..self.data.end).contains(&at) {
                self.look_up(at)?;
            }
            let (first, end) = (at.max(self.data.start), range.end.min(self.data.end));
            if first < end {
                each(first, end - first);
            }
            at = self.data.end;
        }
        Ok(())
    }

    /// The first page at or after `at` that has data.
    pub(in crate::sys) fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        match self.seek(at, libc::SEEK_DATA) {
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            start => Ok(Some(start? / PAGE_SIZE as u64)),
        }
    }

    /// Finds the data at or after page `at`.
    fn look_up(&mut self, at: u64) -> io::Result<()> {
        self.from = at;
        self.data = match self.next_data(at)? {
            None => self.pages..self.pages,
            Some(start) => {
                let end = self.seek(start, libc::SEEK_HOLE)?.div_ceil(PAGE_SIZE as u64);
                // The file may be punched in between.
                start..end.clamp(start + 1, self.pages)
            }
        };
        Ok(())
    }

    fn seek(&self, page: u64, whence: libc::c_int) -> io::Result<u64> {
        let offset = (page * PAGE_SIZE as u64) as i64;
        // SAFETY: a call without pointers.
        Ok(checked(unsafe { libc::lseek64(self.file.as_raw_fd(), offset, whence) })? as u64)
    }
}
