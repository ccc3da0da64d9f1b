//! The operating system, and all `unsafe` of this crate. What is public in here is safe to call:
//! bounds are asserted at this border.
//!
//! Each operating system has one module with the same face.
#![allow(unsafe_code)]

mod adopted;
mod copy;
#[cfg(target_os = "linux")]
mod linux;
mod mapping;
#[cfg(windows)]
mod windows;

use std::sync::atomic::AtomicU64;

#[cfg(target_os = "linux")]
use linux as os;
#[cfg(windows)]
use windows as os;

pub use adopted::AdoptedRegion;
pub(crate) use mapping::Mapping;
pub use os::take_long_turns;
pub(crate) use os::{Placer, Populator, TRACKERS, harvests, is_fault, open, writes_behind_the_mmu};

use crate::{MemoryError, TrackerKind};

/// Why a tracker of another system cannot be opened.
fn foreign(kind: TrackerKind) -> MemoryError {
    let here: Vec<_> = TRACKERS.iter().map(TrackerKind::to_string).collect();
    let why = format!("it is another system's; this one has {}", here.join(" and "));
    MemoryError::Unsupported { kind, why }
}

/// `count` words of 0, in memory that is not touched before it is used.
pub(crate) fn zeroed_words(count: usize) -> Box<[AtomicU64]> {
    let words = Box::new_zeroed_slice(count);
    // SAFETY: all bits 0 is an AtomicU64 of value 0.
    unsafe { words.assume_init() }
}
