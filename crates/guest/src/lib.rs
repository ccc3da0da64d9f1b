//! Guests to migrate: stand-ins for virtual machines, which know what their memory should hold.
//!
//! Each one implements the engine's `Guest` and nothing of the engine's work: this crate does
//! **not** track, send or receive memory, speaks no protocol of migration and starts no process.
//! There is [`stress`], whose vCPUs write pages that name themselves, so that after a move it can
//! say which page was lost, stale or torn; and [`kv`], a store for Redis clients that lies in
//! guest memory with all they have said.
#![forbid(unsafe_code)]

pub mod kv;
pub mod stress;
mod throttled;
