//! A host's record of one guest, and what of it survives a death.

use std::collections::VecDeque;

use whimbrel_protocol::{GuestUuid, Record, SessionId, Standing, Term};

use crate::random::Random;

/// What one slot of the journal says.
pub(crate) type Entry = (Standing, Term);

/// The journal of one host. Writes happen one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    /// What a reader finds, whoever has died.
    written: Option<Entry>,
    /// What is left when the host restarts.
    durable: Option<Entry>,
    /// Writes that were asked for and are not through; the first is under way.
    queue: VecDeque<Entry>,
    /// Every write fails, as on a disk that is full.
    pub(crate) full: bool,
}

impl Journal {
    pub(crate) fn of_owner(term: Term) -> Self {
        let entry = Some((Standing::Owner, term));
        Self { written: entry, durable: entry, ..Self::default() }
    }

    /// Asks for a write; returns whether it is under way at once.
    pub(crate) fn ask(&mut self, entry: Entry) -> bool {
        self.queue.push_back(entry);
        self.queue.len() == 1
    }

    pub(crate) fn under_way(&self) -> Option<Entry> {
        self.queue.front().copied()
    }

    /// The write under way has come to its end. `None` says that the disk is full.
    pub(crate) fn complete(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front()?;
        if self.full {
            return None;
        }
        self.put(entry);
        Some(entry)
    }

    /// One write that is not waited for, whatever the entry. `None` says that the disk is full.
    pub(crate) const fn note(&mut self, entry: Entry) -> Option<()> {
        if self.full {
            return None;
        }
        self.written = Some(entry);
        Some(())
    }

    /// Puts an entry in place; a note is not made durable.
    pub(crate) fn put(&mut self, entry: Entry) {
        self.written = Some(entry);
        if !entry.0.is_note() {
            self.durable = Some(entry);
        }
    }

    /// The process is dead: the write under way happened or it did not, the others did not.
    pub(crate) fn writer_died(&mut self, random: &mut Random) {
        if random.chance(50) && !self.queue.is_empty() {
            self.complete();
        }
        self.queue.clear();
    }

    /// The host has restarted: notes are lost, unless they came to the disk by chance.
    pub(crate) fn host_restarted(&mut self, random: &mut Random) {
        self.writer_died(random);
        if random.chance(70) {
            self.written = self.durable;
        }
    }

    pub(crate) const fn entry(&self) -> Option<Entry> {
        self.written
    }

    pub(crate) const fn durable(&self) -> Option<Entry> {
        self.durable
    }

    /// As the rules of ownership read it.
    pub(crate) fn record(&self, guest: GuestUuid, session: SessionId) -> Option<Record> {
        let (standing, term) = self.written?;
        Some(Record { guest, term, session, peer: "the other host".into(), standing })
    }
}
