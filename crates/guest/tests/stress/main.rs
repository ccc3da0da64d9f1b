//! The stress guest from outside: at work, standing still, damaged and moved.

mod common;
mod precopy;
mod work;
