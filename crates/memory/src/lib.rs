//! Guest memory: mapping it, reaching into it while the guest runs, and knowing what was written.
//!
//! This crate does **not** send, digest, compress or schedule anything, and it knows no
//! migration: it answers "what is in these bytes" and "which pages were written since I last
//! asked". Everything that depends on the operating system, and all of its `unsafe`, lives in
//! `sys`; [`take_long_turns`] is there for that reason only.
//!
//! ```text
//!   guest, devices ──► GuestMemory ◄── Landing      a destination's memory, until it goes live
//!                          │
//!                     DirtyTracker                userfaultfd │ mprotect │ write-watch │ model
//!                          └── harvest ──► PageSet
//! ```
//!
//! No Rust reference to guest memory exists anywhere: bytes are copied in and out by one function
//! the compiler cannot see through, so that a guest which writes while it is read is a torn copy
//! (the next harvest names the page again) and not undefined behaviour.

mod atomic_bits;
mod error;
mod guest_memory;
mod landing;
mod model;
mod probe;
mod sys;
mod tracked;
mod tracker;
mod write_log;

pub use error::MemoryError;
pub use guest_memory::{Backing, GuestMemory, HugePages};
pub use landing::Landing;
pub use probe::{Candidate, Probe, probe, probe_host};
pub use sys::{AdoptedRegion, take_long_turns};
pub use tracker::{
    DirtyTracker, KernelWrites, NoSuchTracker, TrackerKind, Writers, open, open_for,
};
pub use whimbrel_page as page;
