//! A host's record of one guest, and what of it survives a death: two slots, of which the one that
//! is not the newest is written, as the agent's journal does it.

use std::collections::VecDeque;

use whimbrel_protocol::{GuestUuid, Record, SessionId, Standing, Term};

use crate::random::Random;

/// What one slot of the journal says.
pub(crate) type Entry = (Standing, Term);

/// A slot: the number of its write and what it says; nothing where it cannot be read.
type Slot = Option<(u64, Entry)>;

/// The journal of one host. Writes happen one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    /// What a reader finds, whoever has died.
    written: [Slot; 2],
    /// What is left when the host restarts.
    durable: [Slot; 2],
    writes: u64,
    /// Writes that were asked for and are not through; the first is under way.
    queue: VecDeque<Entry>,
    /// Every write fails, as on a disk that is full.
    pub(crate) full: bool,
    /// Only in a world that breaks a law: the slot that is written is the one that counts.
    pub(crate) one_slot: bool,
}

impl Journal {
    pub(crate) fn of_owner(term: Term) -> Self {
        let mut journal = Self::default();
        journal.put((Standing::Owner, term));
        journal
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
            // What may have got through is made unreadable: nobody acts on it.
            self.written[self.next_slot()] = None;
            return None;
        }
        self.put(entry);
        Some(entry)
    }

    /// One write that is not waited for, whatever the entry. `None` says that the disk is full.
    pub(crate) fn note(&mut self, entry: Entry) -> Option<()> {
        if self.full {
            return None;
        }
        self.write(entry);
        Some(())
    }

    /// Puts an entry in place; a note is not made durable.
    pub(crate) fn put(&mut self, entry: Entry) {
        self.write(entry);
        if !entry.0.is_note() {
            self.durable = self.written;
        }
    }

    fn write(&mut self, entry: Entry) {
        let slot = self.next_slot();
        self.writes += 1;
        self.written[slot] = Some((self.writes, entry));
    }

    /// Always beside the newest one.
    const fn next_slot(&self) -> usize {
        if self.one_slot { 1 } else { (self.writes + 1) as usize % 2 }
    }

    /// The process is dead: the write under way happened or it did not, the others did not.
    pub(crate) fn writer_died(&mut self, random: &mut Random) {
        if random.chance(50) && !self.queue.is_empty() {
            self.complete();
        }
        self.queue.clear();
    }

    /// The host has restarted. What was not made durable is lost, unless it came to the disk by
    /// chance, and the write that was under way may have come there in part. Returns whether
    /// something was lost, and whether something was torn.
    pub(crate) fn host_restarted(&mut self, random: &mut Random) -> (bool, bool) {
        let torn = !self.queue.is_empty() && random.chance(40);
        if torn {
            self.queue.clear();
            self.written[self.next_slot()] = None;
        }
        self.writer_died(random);
        let torn_slot = torn.then(|| self.next_slot());
        let mut lost = false;
        // The slots are pages of a file, of which one may come to the disk and the other not.
        for slot in (0..2).filter(|slot| torn_slot != Some(*slot)) {
            if self.written[slot] != self.durable[slot] && random.chance(70) {
                self.written[slot] = self.durable[slot];
                lost = true;
            }
        }
        self.durable = self.written;
        (lost, torn)
    }

    pub(crate) fn entry(&self) -> Option<Entry> {
        newest(&self.written)
    }

    pub(crate) fn durable(&self) -> Option<Entry> {
        newest(&self.durable)
    }

    /// As the rules of ownership read it.
    pub(crate) fn record(&self, guest: GuestUuid, session: SessionId) -> Option<Record> {
        let (standing, term) = self.entry()?;
        Some(Record { guest, term, session, peer: "the other host".into(), standing })
    }
}

fn newest(slots: &[Slot; 2]) -> Option<Entry> {
    let slots = slots.iter().flatten();
    slots.max_by_key(|(number, _)| *number).map(|(_, entry)| *entry)
}
