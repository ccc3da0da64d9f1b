//! The `whimbrel` program: what is typed becomes a plan, the plan is carried out by agents, and
//! what they say is shown. It holds no guest, moves no page and decides nothing about ownership.
#![forbid(unsafe_code)]
#![allow(dead_code)]

mod args;
mod exit;
mod json;
mod parse;
mod plan;
mod view;

fn main() {}
