//! The program as a process: what it prints and how it ends, for people and for scripts. The
//! agents are real ones, or stand-ins where an end is wanted that real ones hardly come to.

mod bad_input;
mod bench;
mod by_hand;
mod demo;
mod guests;
mod migrations;
mod stand_in;
