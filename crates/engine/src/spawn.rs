//! How the threads are started that have a guest in their hands (museum M6).

use std::io;
use std::thread;

/// How such a thread is started: the operating system's way, or a test's.
pub(crate) type Spawn = fn(body: Box<dyn FnOnce() + Send>) -> io::Result<()>;

/// The operating system's way.
pub(crate) fn spawn(body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    thread::Builder::new().name("whimbrel-hands".to_owned()).spawn(body).map(drop)
}

#[cfg(test)]
mod tests;
