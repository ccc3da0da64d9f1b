//! Gives memory to pages that are about to be written, instead of a fault a page.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::checked;
use crate::sys::Mapping;

/// Pieces in one call.
const PIECES: usize = 128;

/// Populates pieces of this process's memory. Since Linux 6.13 one call does for many of them: an
/// own call for each page takes as long as clearing it.
pub(crate) struct Populator {
    /// What stands for this process in that call.
    process: Option<OwnedFd>,
}

impl Populator {
    pub(crate) fn new() -> Self {
        // SAFETY: calls without pointers.
        let fd = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) });
        // SAFETY: the descriptor was just made and is nobody else's.
        let process = fd.ok().map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        Self { process }
    }

    /// Gives pieces, each an offset and a length, their memory.
    pub(crate) fn populate<'a>(
        &self,
        mut pieces: impl Iterator<Item = (&'a Mapping, u64, usize)>,
    ) -> io::Result<()> {
        const NONE: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut gathered = [NONE; PIECES];
        loop {
            let mut count = 0;
            for (slot, (mapping, offset, len)) in gathered.iter_mut().zip(&mut pieces) {
                *slot = libc::iovec { iov_base: mapping.at(offset, len).cast(), iov_len: len };
                count += 1;
            }
            if count == 0 {
                return Ok(());
            }
            let gathered = &gathered[..count];
            let done = if count > 1 { self.together(gathered) } else { 0 };
            gathered[done..].iter().try_for_each(alone)?;
        }
    }

    /// Returns how many of the first pieces have their memory; whatever was wrong with the next one
    /// shows when it is alone.
    fn together(&self, pieces: &[libc::iovec]) -> usize {
        let Some(process) = &self.process else { return 0 };
        let (at, count) = (pieces.as_ptr(), pieces.len());
        let (process, advice) = (process.as_raw_fd(), libc::MADV_POPULATE_WRITE);
        // SAFETY: the pieces are mapped and writable; the advice changes no content.
        let call =
            unsafe { libc::syscall(libc::SYS_process_madvise, process, at, count, advice, 0) };
        let mut left = checked(call).unwrap_or(0) as usize;
        let whole = pieces.iter().take_while(|piece| {
            let fits = piece.iov_len <= left;
            left = left.saturating_sub(piece.iov_len);
            fits
        });
        whole.count()
    }
}

fn alone(piece: &libc::iovec) -> io::Result<()> {
    let advice = libc::MADV_POPULATE_WRITE;
    // SAFETY: the piece is mapped and writable; the advice changes no content.
    match checked(unsafe { libc::madvise(piece.iov_base, piece.iov_len, advice) }.into()) {
        // A kernel before 5.14 does not know it: each page faults by itself.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use whimbrel_page::{ByteCount, PAGE_SIZE, RegionId, RegionLayout};

    use super::*;
    use crate::{Backing, HugePages};

    /// Every second page of more than one call takes, with and without the call for many, and no
    /// other page.
    #[test]
    fn pieces_get_their_memory_and_their_neighbours_none() {
        for populator in [Populator::new(), Populator { process: None }] {
            for backing in [Backing::Private, Backing::Shared] {
                let pages = 4 * PIECES as u64;
                let size = ByteCount(pages * PAGE_SIZE as u64);
                let region = RegionLayout { id: RegionId(0), size };
                let mapping = Mapping::allocate(region, backing, HugePages::HostDefault);
                let mapping = mapping.expect("address space");
                let wanted: Vec<_> = (0..pages).step_by(2).collect();
                let piece = |page: &u64| (&mapping, page * PAGE_SIZE as u64, PAGE_SIZE);
                populator.populate(wanted.iter().map(piece)).expect("populated");
                let mut found = Vec::new();
                mapping.touched(|first, count| found.extend(first..first + count)).expect("told");
                assert_eq!(found, wanted, "{backing:?}");
            }
        }
    }
}
