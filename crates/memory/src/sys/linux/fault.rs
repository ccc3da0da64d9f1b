//! The SIGSEGV handler, and the regions it answers for.
//!
//! A signal handler belongs to the process, so this is the one process-wide state of the crate.
//! It is installed when the first region is guarded and stays; what is none of its business goes
//! to the handler that was there before.

use std::ops::Deref;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{fs, io, mem, ptr, thread};

use super::checked;
use super::guarded::Guarded;

/// The head of a list that only grows. Slots are used again; so there are as many as there were
/// ever guarded regions at the same time.
static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());
/// Whoever changes the list or takes a slot.
static CHANGES: Mutex<()> = Mutex::new(());
/// What SIGSEGV did before. Set before our handler is.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

struct Slot {
    region: AtomicPtr<Guarded>,
    /// Handlers that may hold what they loaded from `region`.
    users: AtomicUsize,
    next: *const Slot,
}

/// A region the handler answers for, until this is dropped.
pub(in crate::sys) struct Guard {
    slot: &'static Slot,
    region: *mut Guarded,
}

// SAFETY: a Guarded is made of atomics and is shared between threads by the handler anyway.
unsafe impl Send for Guard {}
// SAFETY: as above.
unsafe impl Sync for Guard {}

impl Guard {
    /// Lets the handler answer for `len` bytes at `start`, which must stay mapped for as long as
    /// the guard lives. Protects nothing yet.
    pub(in crate::sys) fn new(start: usize, len: usize, granule: u64) -> io::Result<Self> {
        Self::over(Guarded::new(start, len, granule, runs_max()))
    }

    fn over(region: Guarded) -> io::Result<Self> {
        let _changing = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        install()?;
        let region = Box::into_raw(Box::new(region));
        let slot = free_slot();
        slot.region.store(region, Ordering::SeqCst);
        Ok(Self { slot, region })
    }
}

impl Deref for Guard {
    type Target = Guarded;

    fn deref(&self) -> &Guarded {
        // SAFETY: only `drop` frees it.
        unsafe { &*self.region }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _changing = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        self.slot.region.store(ptr::null_mut(), Ordering::SeqCst);
        // A handler that counted itself in before that may still use the region; it needs no
        // lock of ours and one system call at most. One that comes later finds the slot empty.
        while self.slot.users.load(Ordering::SeqCst) != 0 {
            thread::yield_now();
        }
        // SAFETY: it came from a Box, and nobody can reach it any more.
        drop(unsafe { Box::from_raw(self.region) });
    }
}

/// A quarter of the mappings a process may have: open runs take up to two each, and the process
/// needs some for itself.
fn runs_max() -> i64 {
    const USUAL: i64 = 65_530;
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count");
    limit.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL) / 4
}

fn slots() -> impl Iterator<Item = &'static Slot> {
    let mut next: *const Slot = SLOTS.load(Ordering::SeqCst);
    std::iter::from_fn(move || {
        // SAFETY: null, or a slot of the list, which is never freed.
        let slot = unsafe { next.as_ref() }?;
        next = slot.next;
        Some(slot)
    })
}

/// A slot without a region. To be called under the lock.
fn free_slot() -> &'static Slot {
    if let Some(slot) = slots().find(|slot| slot.region.load(Ordering::SeqCst).is_null()) {
        return slot;
    }
    let slot = Box::leak(Box::new(Slot {
        region: AtomicPtr::new(ptr::null_mut()),
        users: AtomicUsize::new(0),
        next: SLOTS.load(Ordering::SeqCst),
    }));
    SLOTS.store(slot, Ordering::SeqCst);
    slot
}

/// Lets the region at `address` answer. Async-signal-safe.
fn answer(address: usize) -> bool {
    slots().any(|slot| {
        slot.users.fetch_add(1, Ordering::SeqCst);
        let region = slot.region.load(Ordering::SeqCst);
        // SAFETY: null, or a region that is not freed while `users` counts us.
        let answered = unsafe { region.as_ref() }.is_some_and(|region| region.fault(address));
        slot.users.fetch_sub(1, Ordering::SeqCst);
        answered
    })
}

/// Installs the handler, once. To be called under the lock.
fn install() -> io::Result<()> {
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    // SAFETY: all bits 0 is a sigaction.
    let mut previous: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: asks only, into a sigaction of ours.
    checked(unsafe { libc::sigaction(libc::SIGSEGV, ptr::null(), &raw mut previous) }.into())?;
    // SAFETY: all bits 0 is a sigaction.
    let mut ours: libc::sigaction = unsafe { mem::zeroed() };
    ours.sa_sigaction = handle as *const () as usize;
    // On the alternate stack, as the handler before us may be there for overflown stacks.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    PREVIOUS.get_or_init(|| previous);
    // SAFETY: the handler is async-signal-safe.
    checked(unsafe { libc::sigaction(libc::SIGSEGV, &raw const ours, ptr::null_mut()) }.into())
        .map(drop)
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: errno is this thread's; what was interrupted must find it unchanged.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    // SAFETY: the kernel passes the details of the signal and the interrupted context.
    let ours = unsafe { is_refused_write(info, context) && answer((*info).si_addr().addr()) };
    // SAFETY: as above.
    unsafe { *errno = before };
    if !ours {
        // SAFETY: passes on what the kernel passed.
        unsafe { pass_on(signal, info, context) };
    }
}

/// # Safety
/// `info` and `context` are what the kernel gave a handler of SIGSEGV.
unsafe fn is_refused_write(info: *mut libc::siginfo_t, context: *mut libc::c_void) -> bool {
    const SEGV_ACCERR: libc::c_int = 2;
    // SAFETY: as the caller promised.
    unsafe { (*info).si_code == SEGV_ACCERR && is_write(context) }
}

/// Whether the access was a write. Reads of guest memory never fault for lack of permission.
///
/// # Safety
/// `context` is what the kernel gave a handler of SIGSEGV.
#[cfg(target_arch = "x86_64")]
unsafe fn is_write(context: *mut libc::c_void) -> bool {
    const WRITE: i64 = 1 << 1;
    // SAFETY: as the caller promised.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    registers[libc::REG_ERR as usize] & WRITE != 0
}

/// Elsewhere the context does not say in one place; the address has to do.
///
/// # Safety
/// None is needed.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn is_write(_: *mut libc::c_void) -> bool {
    true
}

type Detailed = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
type Plain = extern "C" fn(libc::c_int);

/// Does what SIGSEGV did before we came.
///
/// # Safety
/// The arguments are what the kernel gave a handler of SIGSEGV.
unsafe fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = PREVIOUS.get().expect("set before the handler was installed");
    match before.sa_sigaction {
        // An access that faults cannot be ignored either: the kernel ends the process.
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: returning from the handler repeats the access, which is then fatal; a
            // signal that somebody sent is sent once more and waits for our return.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                if (*info).si_code <= 0 {
                    libc::raise(signal);
                }
            }
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: with SA_SIGINFO the address is that of such a function.
            unsafe { mem::transmute::<usize, Detailed>(handler)(signal, info, context) }
        }
        // SAFETY: without SA_SIGINFO the address is that of such a function.
        handler => unsafe { mem::transmute::<usize, Plain>(handler)(signal) },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Output;
    use std::sync::atomic::AtomicBool;

    use memmap2::{MmapOptions, MmapRaw};

    use super::super::own_process;
    use super::*;

    const PAGE: usize = whimbrel_page::PAGE_SIZE;

    /// Pages under protection. The guard is dropped first.
    struct Pages {
        guard: Guard,
        mapping: MmapRaw,
    }

    impl Pages {
        fn new(count: usize, runs_max: i64) -> Self {
            let mut options = MmapOptions::new();
            let mapping: MmapRaw = options.len(count * PAGE).map_anon().expect("mapped").into();
            let start = mapping.as_mut_ptr().expose_provenance();
            let guard = Guard::over(Guarded::new(start, count * PAGE, 1, runs_max));
            let pages = Self { guard: guard.expect("installed"), mapping };
            pages.guard.close().expect("protected");
            pages
        }

        fn write(&self, page: usize) {
            assert!(page < self.mapping.len() / PAGE);
            // SAFETY: the page is mapped, and the handler opens it.
            unsafe { self.mapping.as_mut_ptr().add(page * PAGE).write_volatile(1) };
        }

        /// How many pages are marked, and whether all are to be taken for written.
        fn take(&self) -> (u64, bool) {
            let mut marked = 0;
            let all = self.guard.take(|_, count| marked += count);
            (marked, all)
        }
    }

    /// Runs a test of these in a process of its own.
    fn die(name: &str) -> Option<Output> {
        let outcome = own_process::run(&format!("fault::tests::{name}"));
        if outcome.is_none() {
            Pages::new(1, 1).write(0);
        }
        outcome
    }

    #[test]
    fn a_wild_write_is_still_fatal() {
        let Some(Output { status, .. }) = die("a_wild_write_is_still_fatal") else {
            // A page that may not be written, and that nobody guards.
            let constant: &'static str = env!("CARGO_PKG_NAME");
            // SAFETY: none: it must end the process.
            return unsafe { constant.as_ptr().cast_mut().write_volatile(0) };
        };
        assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
    }

    #[test]
    fn a_stack_overflow_is_still_told_by_the_runtime() {
        let Some(output) = die("a_stack_overflow_is_still_told_by_the_runtime") else {
            return println!("{}", endless(1));
        };
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(text.contains("overflowed its stack"), "{text}");
    }

    #[expect(unconditional_recursion, reason = "it is to overflow the stack")]
    fn endless(depth: u64) -> u64 {
        let block = std::hint::black_box([depth; 64]);
        endless(depth.wrapping_add(block[5])).wrapping_add(block[7])
    }

    #[test]
    fn a_region_that_may_not_be_split_any_more_is_opened_as_a_whole() {
        let pages = Pages::new(1000, 0);
        (0..200).for_each(|page| pages.write(2 * page));
        let (marked, all) = pages.take();
        assert!(all && marked < 200, "{marked} pages");
        pages.guard.close().expect("protected");
        pages.write(7);
        assert_eq!(pages.take(), (1, false), "protected page by page again");
    }

    /// More alternating pages than the host allows mappings, with no limit of our own. In a
    /// process of its own, as nothing else works while they are used up.
    #[test]
    fn no_write_is_lost_when_the_host_has_no_mappings_left() {
        let Some(output) = die("no_write_is_lost_when_the_host_has_no_mappings_left") else {
            let count = 6 * usize::try_from(runs_max()).expect("a limit");
            let pages = Pages::new(count, i64::MAX);
            (0..count / 2).for_each(|page| pages.write(2 * page));
            let (marked, all) = pages.take();
            assert!(all && marked > 0 && marked < count as u64 / 2);
            pages.guard.close().expect("protected");
            pages.write(0);
            assert_eq!(pages.take(), (1, false));
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn regions_come_and_go_while_others_fault() {
        let stop = AtomicBool::new(false);
        let fault_once = || {
            let pages = Pages::new(1, 1);
            pages.write(0);
            assert_eq!(pages.take(), (1, false));
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        fault_once();
                    }
                });
            }
            (0..300).for_each(|_| fault_once());
            stop.store(true, Ordering::Relaxed);
        });
        let _changing = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(slots().count() < 200, "slots are used again");
    }
}
