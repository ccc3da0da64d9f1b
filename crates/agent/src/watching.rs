//! A migration's status as a stream: the newest one after every change, up to the last.

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use whimbrel_control::api;

/// What a call that watches answers with.
pub(crate) type StatusStream = ReceiverStream<Result<api::MigrationStatus, Status>>;

/// The stream of what `statuses` holds, which ends after a status with an outcome, or when whoever
/// watches `may` no more.
pub(crate) fn stream(
    statuses: watch::Receiver<api::MigrationStatus>,
    may: impl Fn() -> bool + Send + 'static,
) -> StatusStream {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(forward(statuses, sender, may));
    ReceiverStream::new(receiver)
}

/// Whether nothing follows after this status.
pub(crate) fn is_last(status: &api::MigrationStatus) -> bool {
    status.outcome() != api::Outcome::Unspecified
}

async fn forward(
    mut statuses: watch::Receiver<api::MigrationStatus>,
    sender: mpsc::Sender<Result<api::MigrationStatus, Status>>,
    may: impl Fn() -> bool,
) {
    loop {
        let status = statuses.borrow_and_update().clone();
        let last = is_last(&status);
        if !may() {
            let _ = sender
                .send(Err(Status::unauthenticated(
                    "not trusted any more, or no longer allowed to look",
                )))
                .await;
            return;
        }
        if sender.send(Ok(status)).await.is_err() || last {
            return;
        }
        tokio::select! {
            changed = statuses.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn a_stream_shows_the_newest_and_ends_with_the_outcome() {
        let (sender, receiver) = watch::channel(api::MigrationStatus::default());
        let mut stream = stream(receiver, || true);
        let first = stream.next().await.unwrap().unwrap();
        assert!(!is_last(&first));
        sender.send_modify(|status| status.set_outcome(api::Outcome::Aborted));
        let last = stream.next().await.unwrap().unwrap();
        assert!(is_last(&last));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watcher_who_is_not_trusted_any_more_hears_no_news() {
        let trusted = Arc::new(AtomicBool::new(true));
        let (sender, receiver) = watch::channel(api::MigrationStatus::default());
        let asked = Arc::clone(&trusted);
        let mut stream = stream(receiver, move || asked.load(Ordering::Relaxed));
        assert!(stream.next().await.unwrap().is_ok());
        trusted.store(false, Ordering::Relaxed);
        sender.send_modify(|status| status.set_outcome(api::Outcome::Aborted));
        let refused = stream.next().await.unwrap().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watcher_that_goes_away_is_not_written_to() {
        let (sender, receiver) = watch::channel(api::MigrationStatus::default());
        drop(stream(receiver, || true));
        sender.closed().await;
    }
}
