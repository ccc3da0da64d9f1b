//! The shipping machines and the shipping ledger on virtual time, from one seed.
//!
//! A [`World`] is a source and, attempt after attempt, its destinations, with model memory, a
//! network that delays, loses and breaks, journals that survive what journals survive, and a guest
//! that writes all the while. After every step the laws are checked. This crate does **no** I/O and
//! knows no real time, memory or socket; what it finds is about the protocol, not about the engine
//! that carries it out. Its binary prints what the worlds came to.
//!
//! ```text
//!              Source ◄── events, actions ──► hand ── frames, batches ── hand ◄──► Destination
//!                │                             │        (faults here)     │            │
//!              Ledger                    model memory                model memory     Journal
//!                └───────────────── laws, after every step ──────────────┴────────────┘
//! ```
#![forbid(unsafe_code)]

/// Adds a line to a world's trace; costs nothing where none is kept.
macro_rules! note {
    ($world:expr, $($line:tt)*) => {
        if $world.traced() {
            let line = format!($($line)*);
            $world.add_note(&line);
        }
    };
}

mod agents;
mod attempts;
mod breach;
mod broken;
mod case;
mod destination;
mod ending;
pub mod exhaustive;
mod faults;
mod guest;
mod harvest;
mod journal;
mod lander;
mod lanes;
mod laws;
mod links;
mod locks;
mod memory;
mod plan;
mod queue;
mod random;
mod rates;
mod seen;
mod shrink;
mod source;
mod step;
mod world;

pub use breach::{Breach, Law};
pub use broken::Broken;
pub use case::{Case, Size};
pub use plan::{Fault, Side};
pub use seen::{Seen, Sights};
pub use shrink::Shrunk;
pub use world::{Ending, World};
