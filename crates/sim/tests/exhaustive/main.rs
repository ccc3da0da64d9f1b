//! Worlds in which everything that can happen does.

mod handover;
mod pages;
mod rows;
