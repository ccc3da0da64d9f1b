//! placeholder
#![forbid(unsafe_code)]

pub mod guest;
#[cfg_attr(not(test), expect(dead_code))]
mod lanes;
mod progress;

pub use lanes::LaneOptions;
pub use progress::{DowntimeParts, LaneReport, Progress, Report, RoundReport};
