//! How a person or the system asks this process to end: signals, and a pipe that nobody reads.

use std::io;
use std::os::fd::AsFd;

use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use tokio::signal::unix::{SignalKind, signal};

/// Comes when a person at the terminal, or the system, asks this process to end.
///
/// # Errors
/// The signals cannot be listened for; they then end the process at once, as they always do.
pub async fn asked_to_end() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
        told = told_to_end() => told,
    }
}

/// Comes when the system asks this process to end; what is typed at a terminal, for the process
/// that started this one, is not heard.
///
/// # Errors
/// As [`asked_to_end`].
pub async fn told_to_end() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
            _ = terminate.recv() => return Ok(()),
        }
    }
}

/// Comes when nobody reads a pipe any more that standard output is; never if it is none.
pub async fn reader_gone() {
    // As it is: whoever writes lines waits for room.
    let out = io::stdout().as_fd().try_clone_to_owned();
    if let Ok(out) = out.and_then(Sender::from_owned_fd_unchecked)
        && out.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
