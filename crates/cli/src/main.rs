//! The `whimbrel` program.
mod exit;
mod json;
mod parse;
mod view;
fn main() {}
