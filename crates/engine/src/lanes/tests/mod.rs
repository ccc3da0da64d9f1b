//! Senders against landers, over every kind of lane, with real guest memory.

mod broken;
mod closing;
mod commands;
mod crossing;
mod quiet;
mod torn;
mod world;

pub(super) use torn::tear;
