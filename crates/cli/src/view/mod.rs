//! What a person sees. All of it is drawn from a state by pure functions; only `screen` and
//! `terminal` write.

pub(crate) mod follow;
pub(crate) mod guests;
pub(crate) mod host;
pub(crate) mod moving;
pub(crate) mod paint;
pub(crate) mod screen;
pub(crate) mod state;
pub(crate) mod summary;
pub(crate) mod terminal;

pub(crate) use whimbrel_agent::units;
