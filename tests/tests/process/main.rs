//! Whole processes: the program, its agents and its guests, as people and scripts meet them.
#![cfg(target_os = "linux")]

mod bad_callers;
mod bad_peers;
mod border;
mod carriers;
mod demo;
mod flood;
mod guide;
mod hosts;
mod identities;
mod limits;
mod links;
mod no_room;
mod observing;
mod page;
mod sessions;
mod tickets;
mod trusted;
mod watching;
