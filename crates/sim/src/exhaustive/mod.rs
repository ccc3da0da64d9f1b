//! Small worlds in which everything that can happen does.
//!
//! Where the seeded simulator follows one history a seed, this looks at all of them: a [`Model`]
//! says what may happen next, and [`explore`] tries every order of it, every state once. The
//! machines, the rules of ownership and the ledger are the shipping ones.

mod digest;
mod explore;
pub mod handover;
pub mod pages;

pub use explore::{Broke, Census, Model, explore, find_breach};
