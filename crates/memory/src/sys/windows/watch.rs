//! The write-watch tracker: the kernel records the pages that were written, and GetWriteWatch
//! tells and forgets them in one step. Never in two (ResetWriteWatch): what is written between
//! would be lost.
//!
//! What the kernel has on record begins with the allocation, so that it also tells which pages are
//! populated, as long as somebody remembers what it was made to forget. That is [`Guard::seen`].

use std::ffi::c_void;
use std::io;
use std::sync::{Mutex, PoisonError};

use whimbrel_page::{PAGE_SIZE, PageSet, Run};
use windows_sys::Win32::System::Memory::GetWriteWatch;

use crate::atomic_bits::AtomicBits;
use crate::tracked::Mechanism;
use crate::write_log::Logged;
use crate::{GuestMemory, KernelWrites, MemoryError, TrackerKind};

/// Has GetWriteWatch forget what it tells (winnt.h).
const WRITE_WATCH_FLAG_RESET: u32 = 1;
const PAGE: u64 = PAGE_SIZE as u64;
/// Pages that one call tells.
const TOLD_AT_ONCE: usize = 16 << 10;

/// Which pages of one mapping were written.
pub(in crate::sys) struct Guard {
    start: usize,
    len: usize,
    /// The pages that the kernel was made to forget.
    seen: AtomicBits,
    /// The addresses of one call. Whoever asks the kernel holds it until what the kernel has
    /// forgotten is in `seen`, where the next one finds it.
    told: Mutex<Box<[usize]>>,
}

/// Whether the kernel is to forget what it tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Forget,
    Keep,
}

impl Guard {
    /// For `len` bytes at the address `start`.
    #[expect(clippy::unnecessary_wraps, reason = "the face that all systems have")]
    pub(in crate::sys) fn new(start: usize, len: usize, _: u64) -> io::Result<Self> {
        let seen = AtomicBits::new((len / PAGE_SIZE) as u64);
        let told = Mutex::new(vec![0; TOLD_AT_ONCE].into_boxed_slice());
        Ok(Self { start, len, seen, told })
    }

    /// Hands what was written since the last call to `each`, and forgets it.
    fn take(&self, each: impl FnMut(u64, u64)) -> io::Result<()> {
        self.ask(0, self.len, Then::Forget, each)
    }

    /// As [`Guard::take`], and forgets nothing.
    fn peek(&self, each: impl FnMut(u64, u64)) -> io::Result<()> {
        self.ask(0, self.len, Then::Keep, each)
    }

    /// Hands every page that was ever written to `each`.
    pub(in crate::sys) fn touched(&self, each: impl FnMut(u64, u64)) -> io::Result<()> {
        self.ask(0, self.len, Then::Keep, |first, count| self.seen.set(first, count))?;
        self.seen.peek(each);
        Ok(())
    }

    /// Hands every page within whole pages of the mapping that was ever written to `each`, as
    /// offsets in bytes.
    pub(in crate::sys) fn touched_within(
        &self,
        offset: u64,
        len: u64,
        mut each: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let set = |first, count| self.seen.set(first, count);
        self.ask(offset as usize, len as usize, Then::Keep, set)?;
        let pages = offset / PAGE..(offset + len) / PAGE;
        pages.filter(|at| self.seen.contains(*at)).for_each(|at| each(at * PAGE, (at + 1) * PAGE));
        Ok(())
    }

    /// Asks the kernel for what was written within `len` bytes at `offset`.
    fn ask(
        &self,
        offset: usize,
        len: usize,
        then: Then,
        mut each: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut from, end) = (self.start + offset, self.start + offset + len);
        while from < end {
            let count = tell(from, end - from, then, &mut told)?;
            let found = &told[..count];
            runs(found, |address, count| {
                let first = ((address - self.start) / PAGE_SIZE) as u64;
                if then == Then::Forget {
                    self.seen.set(first, count);
                }
                each(first, count);
            });
            match found.last() {
                // There may be more.
                Some(last) if count == told.len() => from = last + PAGE_SIZE,
                _ => break,
            }
        }
        Ok(())
    }
}

/// Has the kernel tell the addresses of pages that were written within `len` bytes at `start`, the
/// lowest first, and says how many it has told.
fn tell(start: usize, len: usize, then: Then, told: &mut [usize]) -> io::Result<usize> {
    let flags = if then == Then::Forget { WRITE_WATCH_FLAG_RESET } else { 0 };
    let (mut count, mut granularity) = (told.len(), 0);
    let start = std::ptr::with_exposed_provenance::<c_void>(start);
    let into = told.as_mut_ptr().cast::<*mut c_void>();
    // SAFETY: the kernel writes no more addresses than `count` says there is room for, and reads
    // nothing at `start`.
    let failed = unsafe { GetWriteWatch(flags, start, len, into, &mut count, &mut granularity) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    if granularity as usize != PAGE_SIZE || !told[..count].is_sorted() {
        let why = format!("pages of {granularity} bytes were told, or not in order");
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(count)
}

/// Hands neighbouring pages together to `each`, as the first's address and their count.
fn runs(pages: &[usize], mut each: impl FnMut(usize, u64)) {
    for run in pages.chunk_by(|one, next| one + PAGE_SIZE == *next) {
        each(run[0], run.len() as u64);
    }
}

/// Whoever watches a whole memory.
pub(super) struct WriteWatch;

impl WriteWatch {
    /// Whether the memory is watched at all is found out here, not when arming.
    pub(super) fn new(memory: &GuestMemory) -> Result<Self, MemoryError> {
        let unsupported = |why| MemoryError::Unsupported { kind: TrackerKind::WriteWatch, why };
        for (_, mapping) in memory.regions() {
            if mapping.backing().is_some() {
                return Err(unsupported("Windows watches no mapping of a file".to_owned()));
            }
            let asked = mapping.guard().and_then(|guard| guard.touched_within(0, PAGE, |_, _| ()));
            asked.map_err(|error| {
                unsupported(format!("{error}; the memory is not allocated with MEM_WRITE_WATCH"))
            })?;
        }
        Ok(Self)
    }
}

/// Hands the pages of each region to `each`.
fn each_region(
    memory: &GuestMemory,
    found: &mut PageSet,
    each: impl Fn(&Guard, &mut dyn FnMut(u64, u64)) -> io::Result<()>,
) -> Result<(), MemoryError> {
    for (region, mapping) in memory.regions() {
        let mut insert = |first, count| {
            found.insert(Run::new(region, first, count));
        };
        let asked = mapping.guard().and_then(|guard| each(guard, &mut insert));
        asked.map_err(MemoryError::os("tell the written pages of guest memory"))?;
    }
    Ok(())
}

impl Mechanism for WriteWatch {
    const KIND: TrackerKind = TrackerKind::WriteWatch;
    const KERNEL_WRITES: KernelWrites = KernelWrites::Missed;
    /// Discards write zeros here, which the kernel sees.
    const LOGGED: Logged = Logged::Nothing;

    fn arm(&mut self, memory: &GuestMemory) -> Result<(), MemoryError> {
        each_region(memory, &mut PageSet::new(memory.layout()), |guard, _| guard.take(|_, _| ()))
    }

    fn harvest(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError> {
        each_region(memory, found, |guard, insert| guard.take(insert))
    }

    fn peek(&mut self, memory: &GuestMemory, found: &mut PageSet) -> Result<(), MemoryError> {
        each_region(memory, found, |guard, insert| guard.peek(insert))
    }

    fn disarm(&mut self, _: &GuestMemory) -> Result<(), MemoryError> {
        Ok(())
    }
}
