//! The control messages as bytes: what is written is read back, and nothing else is.

mod golden;
mod hostile;
mod negotiation;
mod round_trip;
mod samples;
