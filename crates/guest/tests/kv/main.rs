//! The key-value guest from outside: relays that attach, pause, move, and die.

mod common;
mod moving;
mod room;
mod serving;
