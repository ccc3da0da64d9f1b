//! What a person sees. All of it is drawn from a state by pure functions; only `screen` writes.

pub(crate) mod follow;
pub(crate) mod guests;
pub(crate) mod moving;
pub(crate) mod paint;
pub(crate) mod screen;
pub(crate) mod state;
pub(crate) mod summary;
pub(crate) mod units;
