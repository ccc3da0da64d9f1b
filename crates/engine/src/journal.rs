//! Where a guest process keeps what it may do with its guest.

use std::io;

use whimbrel_protocol::Record;

/// Keeps the newest [`Record`] of one guest across the death of this process.
///
/// A host that loses what was durable breaks the promise that nobody runs twice; an
/// implementation on a file needs checksums, two slots, and a real flush.
pub trait Journal: Send + 'static {
    /// Replaces the record; returns when it would survive a power failure.
    ///
    /// # Errors
    /// The older record is then still the one that is read back.
    fn record(&mut self, record: &Record) -> io::Result<()>;

    /// Replaces the record by a single write that is not waited for: it survives the death of
    /// this process, and is lost only with the host.
    ///
    /// # Errors
    /// As [`Journal::record`].
    fn note(&mut self, record: &Record) -> io::Result<()>;

    /// The newest record, if there is one.
    ///
    /// # Errors
    /// The journal could not be read at all.
    fn read(&self) -> io::Result<Option<Record>>;
}

/// A journal that forgets with its process: for embedders without a second host, and for tests.
#[derive(Debug, Default)]
pub struct VolatileJournal(Option<Record>);

impl Journal for VolatileJournal {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.0 = Some(record.clone());
        Ok(())
    }

    fn note(&mut self, record: &Record) -> io::Result<()> {
        self.record(record)
    }

    fn read(&self) -> io::Result<Option<Record>> {
        Ok(self.0.clone())
    }
}
