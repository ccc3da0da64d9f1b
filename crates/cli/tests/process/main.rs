//! The program as a process: what it prints and how it ends, for people and for scripts. The
//! agents it speaks to here are stand-ins; `demo` has real ones.

mod bad_input;
mod guests;
mod migrations;
mod stand_in;
