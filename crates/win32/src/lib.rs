//! The calls of Windows that neither the standard library nor a crate of this workspace makes
//! safe: processes, access lists, socket options, and what the host says of itself.
//!
//! Each function here is safe to call, answers with an [`std::io::Error`], and is no wider than
//! what the crates above it need. It does **not** decide anything: what a process that has ended
//! means, or who may read a file, is said where it is asked. Guest memory is not touched here; the
//! calls for that are in `whimbrel-memory`. On other systems this crate is empty.
#![cfg(windows)]
#![allow(unsafe_code)]

mod access;
mod host;
mod job;
mod net;
mod process;
mod streams;

pub use access::{
    Right, closing, create_private_folders, let_everybody_read, let_in_only_this_user,
    open_private, others_may,
};
pub use host::{Memory, boot_time, memory, version};
pub use job::Job;
pub use net::{forbid_fragments, mtu, retransmitted, set_retransmitting_max};
pub use process::{Process, Usage, Watch};
pub use streams::keep_streams;

use std::io;

/// The error that the last call of this thread has set, unless the call says that it worked.
fn checked(worked: i32) -> io::Result<()> {
    if worked == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The error that a call has returned, unless that is none.
fn succeeded(error: u32) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error as i32)) }
}

/// As the system wants text.
fn wide(text: &std::ffi::OsStr) -> Vec<u16> {
    use std::os::windows::ffi::OsStrExt as _;
    text.encode_wide().chain([0]).collect()
}
