//! Whole processes: the program, its agents and its guests, as people and scripts meet them.

mod bad_callers;
mod bad_peers;
mod demo;
mod hosts;
mod no_room;
