//! Signals by which a person or the system asks this process to end.

use std::io;

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
