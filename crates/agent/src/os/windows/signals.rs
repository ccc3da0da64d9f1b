//! Events of the console by which a person or the system asks this process to end.

use std::io;

use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown};

/// Comes when a person at the terminal, or the system, asks this process to end.
///
/// # Errors
/// The events cannot be listened for; they then end the process at once, as they always do.
pub async fn asked_to_end() -> io::Result<()> {
    let (mut typed, mut broken) = (ctrl_c()?, ctrl_break()?);
    tokio::select! {
        _ = typed.recv() => Ok(()),
        _ = broken.recv() => Ok(()),
        told = told_to_end() => told,
    }
}

/// Comes when the system asks this process to end, as its window is closed, its user leaves or the
/// host shuts down; what is typed at a terminal, for the process that started this one, is not
/// heard.
///
/// # Errors
/// As [`asked_to_end`].
pub async fn told_to_end() -> io::Result<()> {
    let (mut typed, mut broken) = (ctrl_c()?, ctrl_break()?);
    let (mut close, mut logoff, mut shutdown) = (ctrl_close()?, ctrl_logoff()?, ctrl_shutdown()?);
    loop {
        tokio::select! {
            _ = typed.recv() => {}
            _ = broken.recv() => {}
            _ = close.recv() => return Ok(()),
            _ = logoff.recv() => return Ok(()),
            _ = shutdown.recv() => return Ok(()),
        }
    }
}

/// Comes when nobody reads what this process writes; that cannot be waited for here.
pub async fn reader_gone() {
    std::future::pending().await
}
