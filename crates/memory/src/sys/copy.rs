//! The only instructions that touch live guest memory. The compiler sees neither their loads nor
//! their stores, so that a guest which writes at the same time is no data race in its eyes.

#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{copy, fetch_add_u64, load_u64, prefetch, store_u64};

#[cfg(not(target_arch = "x86_64"))]
pub(super) use portable::{copy, fetch_add_u64, load_u64, prefetch, store_u64};

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;

    /// Copies `len` bytes, in words as far as they go: to an address that is a few bytes beyond
    /// its source's, modulo 4 KiB, which is where allocators put large buffers, AMD's Zen 3
    /// copies single bytes at a fifth of its speed.
    ///
    /// # Safety
    /// Both ranges are mapped, `to` writable, and they do not overlap.
    pub(in crate::sys) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
        // SAFETY: the caller vouches for the ranges; the ABI promises a clear direction flag.
        unsafe {
            asm!(
                "rep movsq",
                "mov ecx, {rest:e}",
                "rep movsb",
                rest = in(reg) len % 8,
                inout("rcx") len / 8 => _,
                inout("rdi") to => _,
                inout("rsi") from => _,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Has `len` bytes come closer to the processor. Memory that is not there stays where it is.
    pub(in crate::sys) fn prefetch(from: *const u8, len: usize) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for line in (0..len).step_by(64) {
            // SAFETY: a hint, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(line).cast()) };
        }
    }

    /// Loads a word, sequentially consistent.
    ///
    /// # Safety
    /// `at` is mapped and a multiple of 8.
    pub(in crate::sys) unsafe fn load_u64(at: *const u8) -> u64 {
        let value: u64;
        // SAFETY: the caller vouches for the address.
        unsafe {
            asm!("mov {value}, [{at}]", at = in(reg) at, value = out(reg) value,
                options(nostack, preserves_flags, readonly));
        }
        value
    }

    /// Stores a word, sequentially consistent.
    ///
    /// # Safety
    /// `at` is mapped, writable and a multiple of 8.
    pub(in crate::sys) unsafe fn store_u64(at: *mut u8, value: u64) {
        // SAFETY: the caller vouches for the address.
        unsafe {
            asm!("xchg [{at}], {value}", at = in(reg) at, value = inout(reg) value => _,
                options(nostack, preserves_flags));
        }
    }

    /// Adds to a word, sequentially consistent, and returns what it was.
    ///
    /// # Safety
    /// As [`store_u64`].
    pub(in crate::sys) unsafe fn fetch_add_u64(at: *mut u8, value: u64) -> u64 {
        let before: u64;
        // SAFETY: the caller vouches for the address.
        unsafe {
            asm!("lock xadd [{at}], {value}", at = in(reg) at, value = inout(reg) value => before,
                options(nostack));
        }
        before
    }
}

#[cfg(any(not(target_arch = "x86_64"), test))]
#[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "compiled here for its tests only"))]
mod portable {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// As the copy of x86_64: words where both sides allow it, bytes elsewhere.
    ///
    /// # Safety
    /// Both ranges are mapped, `to` writable, and they do not overlap.
    pub(in crate::sys) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
        let mut at = 0;
        // SAFETY: every offset is below `len`, and a word is only used where it fits aligned.
        unsafe {
            while at < len {
                let (to, from) = (to.add(at), from.add(at));
                if len - at >= 8 && to.cast::<u64>().is_aligned() && from.cast::<u64>().is_aligned()
                {
                    to.cast::<u64>().write_volatile(from.cast::<u64>().read_volatile());
                    at += 8;
                } else {
                    to.write_volatile(from.read_volatile());
                    at += 1;
                }
            }
        }
    }

    /// Nothing, where nobody has measured it.
    pub(in crate::sys) fn prefetch(_: *const u8, _: usize) {}

    /// As the load of x86_64.
    ///
    /// # Safety
    /// `at` is mapped and a multiple of 8.
    pub(in crate::sys) unsafe fn load_u64(at: *const u8) -> u64 {
        // SAFETY: the caller vouches for the address; the reference lives for one instruction.
        unsafe { AtomicU64::from_ptr(at.cast_mut().cast()) }.load(Ordering::SeqCst)
    }

    /// As the store of x86_64.
    ///
    /// # Safety
    /// `at` is mapped, writable and a multiple of 8.
    pub(in crate::sys) unsafe fn store_u64(at: *mut u8, value: u64) {
        // SAFETY: the caller vouches for the address; the reference lives for one instruction.
        unsafe { AtomicU64::from_ptr(at.cast()) }.store(value, Ordering::SeqCst);
    }

    /// As the addition of x86_64.
    ///
    /// # Safety
    /// As [`store_u64`].
    pub(in crate::sys) unsafe fn fetch_add_u64(at: *mut u8, value: u64) -> u64 {
        // SAFETY: the caller vouches for the address; the reference lives for one instruction.
        unsafe { AtomicU64::from_ptr(at.cast()) }.fetch_add(value, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    type Copy = unsafe fn(*mut u8, *const u8, usize);

    #[test]
    fn both_copies_copy_every_byte_and_no_other() {
        let from: Vec<u8> = (0..200).collect();
        let copies: [Copy; 2] = [super::copy, super::portable::copy];
        for copy in copies {
            for (skip, start, len) in [(0, 0, 0), (1, 1, 7), (3, 3, 100), (8, 0, 64), (5, 9, 33)] {
                let mut to = [0xff; 200];
                // SAFETY: both ranges lie within 200 bytes.
                unsafe { copy(to.as_mut_ptr().add(skip), from.as_ptr().add(start), len) };
                assert_eq!(to[skip..skip + len], from[start..start + len]);
                let outside = to[..skip].iter().chain(&to[skip + len..]);
                assert!(outside.copied().all(|byte| byte == 0xff));
            }
        }
    }

    #[test]
    fn both_atomics_agree() {
        let mut word = 5_u64;
        let at = std::ptr::from_mut(&mut word).cast::<u8>();
        // SAFETY: `at` is an aligned word of this function.
        unsafe {
            assert_eq!(super::fetch_add_u64(at, 3), 5);
            assert_eq!(super::portable::fetch_add_u64(at, u64::MAX), 8);
            assert_eq!((super::load_u64(at), super::portable::load_u64(at)), (7, 7));
            super::store_u64(at, 1);
            super::portable::store_u64(at.cast(), 2 + super::load_u64(at));
            assert_eq!(super::load_u64(at), 3);
        }
    }
}
