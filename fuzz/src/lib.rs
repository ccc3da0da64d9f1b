//! What fuzzers do to Whimbrel: five functions that take any bytes and panic where a promise is
//! broken.
//!
//! ```text
//!   frames        the fixed frames of a lane, and the descriptors of a batch
//!   control       the messages of the control connection
//!   source        the source's machine, with a driver and a peer that do what the bytes say
//!   destination   the destination's machine, likewise
//!   lander        the engine's lander, behind an in-memory lane
//! ```
//!
//! Each is a fuzzing target (`fuzz_targets/`, for `cargo fuzz`) and a test, which feeds it every
//! file of `corpus/` and `regressions/` (`tests/corpus.rs`). What it allocates is counted, and
//! bounded by what was agreed. This library is **not** part of the product, and reads no files.
#![forbid(unsafe_code)]

pub mod control;
pub mod destination;
pub mod frames;
pub mod lander;
mod memory;
mod say;
pub mod source;

use std::collections::BTreeSet;

/// What an input got to: a corpus that has gone stale gets nowhere.
pub type Reached = BTreeSet<String>;

/// One target.
pub type Target = (&'static str, fn(&[u8]) -> Reached);

/// All targets, by the names of their corpora.
pub const TARGETS: [Target; 5] = [
    ("control", control::run),
    ("destination", destination::run),
    ("frames", frames::run),
    ("lander", lander::run),
    ("source", source::run),
];
