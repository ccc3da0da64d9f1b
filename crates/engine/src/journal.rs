//! Where a guest process keeps what it may do with its guest.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use whimbrel_protocol::{Failure, Fault, Record};

use crate::lanes::in_this_span;

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

/// One journal for a migration's driver, which writes notes, and its hands, which write what has
/// to be waited for. The machine never has both under way at once.
#[derive(Clone)]
pub(crate) struct SharedJournal {
    journal: Arc<Mutex<Option<Box<dyn Journal>>>>,
    /// The way to who writes notes, if there is anybody.
    clerk: Option<Sender<Errand>>,
    /// Whether the disk has not come back from a note: another one would only wait behind it.
    hangs: Arc<AtomicBool>,
}

/// A note to be written, and who waits for that.
struct Errand {
    record: Record,
    /// A note that was given up before it was begun must not follow what was written since.
    wanted: Arc<AtomicBool>,
    tell: SyncSender<Result<(), Failure>>,
}

impl SharedJournal {
    pub(crate) fn new(journal: Box<dyn Journal>) -> Self {
        let journal = Arc::new(Mutex::new(Some(journal)));
        let (clerk, errands) = channel::<Errand>();
        let hangs = Arc::default();
        let desk = Self { journal: Arc::clone(&journal), clerk: None, hangs: Arc::clone(&hangs) };
        let body = move || {
            errands.iter().for_each(|errand| desk.run(&errand));
        };
        // Notes are written while the guest stands still: their thread is there before.
        let started = thread::Builder::new().name("whimbrel-note".into()).spawn(in_this_span(body));
        if let Err(error) = &started {
            tracing::error!("nobody can write notes: no thread could be started: {error}");
        }
        Self { journal, clerk: started.ok().map(|_| clerk), hangs }
    }

    /// Writes a record that is waited for.
    pub(crate) fn write(&self, record: &Record) -> Result<(), Failure> {
        let mut guard = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        put(&mut guard, record, false)
    }

    /// Writes a record as a note, whatever its standing. A disk that hangs in the write does not
    /// keep those who have to go on whatever becomes of it; what it has begun may still be written.
    pub(crate) fn note_within(&self, record: Record, within: Duration) -> Result<(), Failure> {
        if self.hangs.load(Ordering::Acquire) {
            let why = format!("{:?} could not be noted: the disk hangs", record.standing);
            return Err(Failure::new(Fault::Journal, why));
        }
        let (tell, told) = sync_channel(1);
        let (standing, wanted) = (record.standing, Arc::new(AtomicBool::new(true)));
        let errand = Errand { record, wanted: Arc::clone(&wanted), tell };
        let given = self.clerk.as_ref().and_then(|clerk| clerk.send(errand).ok());
        let why = match given.map(|()| told.recv_timeout(within)) {
            Some(Ok(noted)) => return noted,
            Some(Err(RecvTimeoutError::Timeout)) => {
                self.hangs.store(true, Ordering::Release);
                // Said before it is no longer told to hang: whoever came back just now is heard.
                if let Ok(noted) = told.try_recv() {
                    self.hangs.store(false, Ordering::Release);
                    return noted;
                }
                format!("within {within:?}: the disk hangs")
            }
            Some(Err(RecvTimeoutError::Disconnected)) => "as its thread has ended".to_owned(),
            None => "as there is no thread for it".to_owned(),
        };
        wanted.store(false, Ordering::Release);
        Err(Failure::new(Fault::Journal, format!("{standing:?} could not be noted {why}")))
    }

    fn run(&self, errand: &Errand) {
        let mut guard = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if errand.wanted.load(Ordering::Acquire) {
            // Nobody waits for it any more where it has taken too long.
            let _ = errand.tell.send(put(&mut guard, &errand.record, true));
        }
        self.hangs.store(false, Ordering::Release);
    }

    /// Another handle on the journal, for where a writer has not ended yet.
    pub(crate) fn lend(&self) -> Box<dyn Journal> {
        Box::new(self.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut dyn Journal) -> io::Result<T>) -> io::Result<T> {
        let mut guard = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut **guard.as_mut().expect("a journal that is lent is not taken back"))
    }

    /// Takes the journal back, when everybody who writes has ended; where one hangs in a write, as
    /// another handle.
    pub(crate) fn take_back(&self) -> Box<dyn Journal> {
        let taken = match self.journal.try_lock() {
            Ok(mut guard) => guard.take(),
            Err(TryLockError::Poisoned(guard)) => guard.into_inner().take(),
            Err(TryLockError::WouldBlock) => return self.lend(),
        };
        taken.expect("the journal is taken back once")
    }
}

impl Journal for SharedJournal {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.with(|journal| journal.record(record))
    }

    fn note(&mut self, record: &Record) -> io::Result<()> {
        self.with(|journal| journal.note(record))
    }

    fn read(&self) -> io::Result<Option<Record>> {
        self.with(|journal| journal.read())
    }
}

fn put(
    journal: &mut Option<Box<dyn Journal>>,
    record: &Record,
    as_note: bool,
) -> Result<(), Failure> {
    let journal = journal.as_mut().expect("the journal is taken back last");
    let written = if as_note { journal.note(record) } else { journal.record(record) };
    written.map_err(|error| {
        let standing = record.standing;
        let why = format!("{standing:?} could not be recorded: {error}; free space for it");
        Failure::new(Fault::Journal, why)
    })
}
