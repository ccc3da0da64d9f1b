//! The `whimbrel` program: what is typed becomes a plan, the plan is carried out by agents, and
//! what they say is shown. It holds no guest, moves no page and decides nothing about ownership.
#![forbid(unsafe_code)]

mod agent;
mod app;
mod args;
mod bench;
mod demo;
mod doctor;
mod exit;
mod json;
mod out;
mod parse;
mod plan;
mod remote;
mod trust;
mod view;

fn main() -> std::process::ExitCode {
    app::main(std::env::args_os().collect())
}
