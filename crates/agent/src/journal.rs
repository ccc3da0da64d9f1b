//! The ownership journal of one guest: a file that a torn write cannot make lie.
//!
//! ```text
//!  slot 0 │ magic 8 │ checksum 8 │ sequence 8 │ boot id 16 │ length 4 │ record │ … 4096 bytes
//!  slot 1 │ …
//! ```
//!
//! Both slots are allocated when the file is made, so that a write needs no space. A write goes to
//! the slot that is not the newest; a reader takes the newest one whose checksum is right. Numbers
//! are little-endian; the checksum is XXH3 over all that follows it up to the record's end.
//!
//! The guest process writes. The agent reads at any time, and writes only when that process is
//! proven dead.
//!
//! A record may take the place of a refusal, which the source that it was for need not have heard
//! of: it still waits for that word, and gives its guest up where it is told that the guest runs
//! here, though what runs is another one's. So each record has the terms with it that were refused
//! here before.

use std::fs::{File, OpenOptions};
use std::io::{self, Error, ErrorKind};
use std::path::Path;

use prost::Message;
use twox_hash::XxHash3_64;
use whimbrel_engine::Journal;
use whimbrel_engine::protocol::{
    Answer, GuestUuid, Process, Question, Record, Ruling, SessionId, Standing, Term, rule,
};
use whimbrel_identity::sync_name;

use crate::os::{self, BootId, read_at, write_at};
use crate::process_api::{JournalRecord, JournalTerm, Standing as StandingCode};

const SLOT: usize = 4096;
const MAGIC: [u8; 8] = *b"WHBLJRN1";
const HEAD: usize = 44;
/// Refused terms that are kept: far more than sources can be in doubt about. They fit a slot.
const REFUSED_MAX: usize = 32;

/// A record as it was found, with the run of the host in which it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) record: Record,
    pub(crate) boot: BootId,
    /// Terms under which the guest never ran here and never will, besides the record's, the last
    /// one at the end.
    refused: Vec<Term>,
    sequence: u64,
}

impl Entry {
    /// What this host answers to a question about a term, and what it records first.
    pub(crate) fn rule(&self, question: Question, term: Term, process: Process) -> Ruling {
        // wire.md O8: a refusal is not taken back.
        match question {
            Question::DoYouRun | Question::DidYouRun if self.refused.contains(&term) => {
                Ruling { answer: Answer::NeverRan, record: None }
            }
            _ => rule(question, term, Some(&self.record), process),
        }
    }

    /// The refused terms of a record in the place of this one, made in this run of the host.
    fn refused_before(&self, next: &Record, boot: BootId) -> Vec<Term> {
        let mut refused = self.refused.clone();
        let never_ran = match self.record.standing {
            Standing::Refused => true,
            // Without the note Running, which is lost only with the host.
            Standing::MayOwn => self.boot == boot,
            _ => false,
        };
        if never_ran && self.record.term != next.term {
            refused.push(self.record.term);
        }
        refused.drain(..refused.len().saturating_sub(REFUSED_MAX));
        refused
    }

    /// Whether nobody may be promised this term here.
    fn refuses(&self, term: Term) -> bool {
        let refused = self.record.standing == Standing::Refused && self.record.term == term;
        refused || self.refused.contains(&term)
    }
}

/// The journal as its one writer has it.
#[derive(Debug)]
pub(crate) struct FileJournal {
    file: File,
    boot: BootId,
    newest: Option<Entry>,
}

impl FileJournal {
    /// Opens the journal at `path`, or makes an empty one that survives a power failure.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = os::open_private(&mut options, path)?;
        let boot = BootId::now()?;
        if file.metadata()?.len() < 2 * SLOT as u64 {
            allocate(&file, path)?;
        }
        let newest = newest(&file)?;
        Ok(Self { file, boot, newest })
    }

    /// As if it were written before the host restarted.
    #[cfg(test)]
    pub(crate) fn of_an_earlier_boot(mut self) -> Self {
        self.boot = BootId([1; 16]);
        self
    }

    fn write(&mut self, record: &Record, durable: bool) -> io::Result<()> {
        let (newest, boot) = (self.newest.as_ref(), self.boot);
        if record.standing == Standing::MayOwn && newest.is_some_and(|it| it.refuses(record.term)) {
            let why = format!("term {} was refused here and is not promised again", record.term);
            return Err(Error::new(ErrorKind::InvalidInput, why));
        }
        let sequence = newest.map_or(0, |newest| newest.sequence) + 1;
        let refused = newest.map_or_else(Vec::new, |it| it.refused_before(record, boot));
        let entry = Entry { record: record.clone(), boot, refused, sequence };
        let slot = encode(&entry)?;
        let mut written = write_at(&self.file, &slot, offset(sequence));
        if durable {
            written = written.and_then(|()| self.file.sync_data());
        }
        if let Err(error) = written {
            // What may have got through must not be read back: nobody acts on it.
            write_at(&self.file, &[0xff; HEAD], offset(sequence))?;
            return Err(error);
        }
        self.newest = Some(entry);
        Ok(())
    }
}

impl Journal for FileJournal {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.write(record, true)
    }

    fn note(&mut self, record: &Record) -> io::Result<()> {
        self.write(record, false)
    }

    fn read(&self) -> io::Result<Option<Record>> {
        Ok(self.newest.as_ref().map(|newest| newest.record.clone()))
    }
}

/// What the journal at `path` says; nothing where there is none, or where nothing was recorded.
pub(crate) fn read(path: &Path) -> io::Result<Option<Entry>> {
    match File::open(path) {
        Ok(file) => newest(&file),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn allocate(file: &File, path: &Path) -> io::Result<()> {
    write_at(file, &[0; 2 * SLOT], 0)?;
    file.sync_all()?;
    // The name must survive too.
    sync_name(path)
}

/// A journal of which one slot was never written may have lost its first record to a torn write,
/// which nobody acted on. One with two unreadable slots has lost what somebody did act on.
fn newest(file: &File) -> io::Result<Option<Entry>> {
    let mut found: Option<Entry> = None;
    let mut unreadable = 0;
    for slot in 0..2 {
        let mut bytes = [0; SLOT];
        if read_at(file, &mut bytes, slot * SLOT as u64)? < SLOT {
            continue;
        }
        let entry = decode(&bytes);
        if entry.is_none() && bytes[..HEAD] != [0; HEAD] {
            unreadable += 1;
        }
        let older = |found: &Entry| entry.as_ref().is_some_and(|e| e.sequence > found.sequence);
        if found.as_ref().is_none_or(older) {
            found = entry.or(found);
        }
    }
    match unreadable {
        2 => Err(Error::new(ErrorKind::InvalidData, "both slots of the journal are damaged")),
        _ => Ok(found),
    }
}

/// Odd sequences live in slot 1, even ones in slot 0: always beside the one before.
const fn offset(sequence: u64) -> u64 {
    sequence % 2 * SLOT as u64
}

fn encode(entry: &Entry) -> io::Result<[u8; SLOT]> {
    let payload = to_proto(entry).encode_to_vec();
    let end = HEAD + payload.len();
    if end > SLOT {
        let why = format!("a record of {} bytes does not fit a journal slot", payload.len());
        return Err(Error::new(ErrorKind::InvalidInput, why));
    }
    let mut slot = [0; SLOT];
    slot[..8].copy_from_slice(&MAGIC);
    slot[16..24].copy_from_slice(&entry.sequence.to_le_bytes());
    slot[24..40].copy_from_slice(&entry.boot.0);
    slot[40..44].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    slot[HEAD..end].copy_from_slice(&payload);
    let checksum = XxHash3_64::oneshot(&slot[16..end]);
    slot[8..16].copy_from_slice(&checksum.to_le_bytes());
    Ok(slot)
}

/// `None` for a slot that was never written, or not to its end.
fn decode(slot: &[u8; SLOT]) -> Option<Entry> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(slot[at..at + 8].try_into().ok()?));
    let length = u32::from_le_bytes(slot[40..44].try_into().ok()?) as usize;
    let end = HEAD.checked_add(length).filter(|end| *end <= SLOT)?;
    if slot[..8] != MAGIC || u64_at(8)? != XxHash3_64::oneshot(&slot[16..end]) {
        return None;
    }
    let payload = JournalRecord::decode(&slot[HEAD..end]).ok()?;
    let (record, refused) = (from_proto(&payload)?, refused_in(&payload));
    let boot = BootId(slot[24..40].try_into().ok()?);
    Some(Entry { record, boot, refused, sequence: u64_at(16)? })
}

const STANDINGS: [(Standing, StandingCode); 7] = [
    (Standing::Owner, StandingCode::Owner),
    (Standing::Switching, StandingCode::Switching),
    (Standing::Granted, StandingCode::Granted),
    (Standing::Ceded, StandingCode::Ceded),
    (Standing::MayOwn, StandingCode::MayOwn),
    (Standing::Running, StandingCode::Running),
    (Standing::Refused, StandingCode::Refused),
];

fn to_proto(Entry { record, refused, .. }: &Entry) -> JournalRecord {
    let code = STANDINGS.iter().find(|(standing, _)| *standing == record.standing);
    JournalRecord {
        guest: record.guest.to_bytes().to_vec(),
        term_generation: record.term.generation,
        term_host: record.term.host,
        session: record.session.to_bytes().to_vec(),
        peer: record.peer.clone(),
        standing: code.map_or(StandingCode::Unspecified, |(_, code)| *code).into(),
        refused: refused
            .iter()
            .map(|term| JournalTerm { generation: term.generation, host: term.host })
            .collect(),
    }
}

fn refused_in(payload: &JournalRecord) -> Vec<Term> {
    let term = |term: &JournalTerm| Term { generation: term.generation, host: term.host };
    payload.refused.iter().map(term).collect()
}

fn from_proto(record: &JournalRecord) -> Option<Record> {
    let (standing, _) = STANDINGS.iter().find(|(_, code)| *code == record.standing())?;
    Some(Record {
        guest: GuestUuid::from_bytes(record.guest.as_slice().try_into().ok()?),
        term: Term { generation: record.term_generation, host: record.term_host },
        session: SessionId::from_bytes(record.session.as_slice().try_into().ok()?),
        peer: record.peer.clone(),
        standing: *standing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(generation: u64, standing: Standing) -> Record {
        Record {
            guest: GuestUuid(0xabcd << 100),
            term: Term { generation, host: 9 },
            session: SessionId(3),
            peer: "10.0.0.7:7117".to_owned(),
            standing,
        }
    }

    fn damage(path: &Path, at: u64, bytes: &[u8]) {
        write_at(&OpenOptions::new().write(true).open(path).unwrap(), bytes, at).unwrap();
    }

    #[test]
    fn the_newest_record_is_read_back_by_anybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        assert_eq!(read(&path).unwrap(), None);
        let mut journal = FileJournal::open(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        for standing in Standing::ALL {
            let record = record(7, standing);
            match standing.is_note() {
                true => journal.note(&record).unwrap(),
                false => journal.record(&record).unwrap(),
            }
            assert_eq!(journal.read().unwrap().as_ref(), Some(&record));
            let entry = read(&path).unwrap().unwrap();
            assert_eq!((entry.record, entry.boot), (record, BootId::now().unwrap()));
        }
        drop(journal);
        let journal = FileJournal::open(&path).unwrap();
        assert_eq!(journal.read().unwrap(), Some(record(7, Standing::Refused)));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 2 * SLOT as u64);
    }

    /// Every way in which the newest write may have been cut short leaves the one before it.
    #[test]
    fn a_torn_write_leaves_the_record_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = FileJournal::open(&path).unwrap();
        journal.record(&record(1, Standing::Owner)).unwrap();
        let before = std::fs::read(&path).unwrap();
        journal.record(&record(1, Standing::Switching)).unwrap();
        let after = std::fs::read(&path).unwrap();
        let changed: Vec<_> = (0..after.len()).filter(|i| after[*i] != before[*i]).collect();
        for cut in &changed {
            let mut torn = after[..*cut].to_vec();
            torn.extend_from_slice(&before[*cut..]);
            std::fs::write(&path, &torn).unwrap();
            let found = read(&path).unwrap().unwrap();
            assert_eq!(found.record.standing, Standing::Owner, "cut at {cut}");
            // The writer goes on from there, over the torn slot.
            let mut journal = FileJournal::open(&path).unwrap();
            journal.record(&record(2, Standing::Switching)).unwrap();
            assert_eq!(read(&path).unwrap().unwrap().record, record(2, Standing::Switching));
        }
    }

    #[test]
    fn any_flipped_bit_of_the_newest_slot_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = FileJournal::open(&path).unwrap();
        journal.record(&record(1, Standing::Owner)).unwrap();
        journal.record(&record(1, Standing::Ceded)).unwrap();
        let slot = offset(2);
        let bytes = std::fs::read(&path).unwrap();
        let end = HEAD + to_proto(&read(&path).unwrap().unwrap()).encoded_len();
        for at in slot..slot + end as u64 {
            damage(&path, at, &[bytes[at as usize] ^ 0x10]);
            assert_eq!(read(&path).unwrap().unwrap().record.standing, Standing::Owner, "{at}");
            damage(&path, at, &[bytes[at as usize]]);
        }
        assert_eq!(read(&path).unwrap().unwrap().record.standing, Standing::Ceded);
        damage(&path, 0, &[0xff; 2 * SLOT]);
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[cfg(unix)]
    #[test]
    fn a_full_disk_is_an_error_and_the_older_record_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = FileJournal::open(&path).unwrap();
        journal.record(&record(1, Standing::Owner)).unwrap();
        let file = std::mem::replace(&mut journal.file, os::full_disk());
        let error = journal.record(&record(1, Standing::Switching)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(journal.read().unwrap(), Some(record(1, Standing::Owner)));
        journal.file = file;
        journal.record(&record(2, Standing::Switching)).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().record, record(2, Standing::Switching));
    }

    #[test]
    fn a_record_that_does_not_fit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = FileJournal::open(&folder.path().join("journal")).unwrap();
        let record = Record { peer: "x".repeat(SLOT), ..record(1, Standing::Owner) };
        assert_eq!(journal.record(&record).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(journal.read().unwrap(), None);
    }

    #[test]
    fn a_record_of_an_earlier_boot_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = FileJournal::open(&path).unwrap().of_an_earlier_boot();
        journal.note(&record(1, Standing::Granted)).unwrap();
        let entry = read(&path).unwrap().unwrap();
        assert_eq!(entry.boot, BootId([1; 16]));
        let writer = os::ProcessIdentity { pid: 1, started: 0, boot: entry.boot };
        assert_eq!(writer.fate().unwrap(), Process::HostRestarted);
    }
    /// A record after another one, as a process and the next one write them.
    fn written(records: &[Record]) -> Entry {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        for record in records {
            FileJournal::open(&path).unwrap().record(record).unwrap();
        }
        read(&path).unwrap().unwrap()
    }

    #[test]
    fn a_refusal_is_not_taken_back_by_what_is_recorded_later() {
        use Standing::{Ceded, MayOwn, Owner, Refused, Running};
        let asked = Term { generation: 3, host: 9 };
        for never_ran in [MayOwn, Refused] {
            for later in [MayOwn, Refused, Running, Owner, Ceded] {
                let entry = written(&[record(3, never_ran), record(4, MayOwn), record(4, later)]);
                for question in [Question::DoYouRun, Question::DidYouRun] {
                    for process in Process::ALL {
                        let ruling = Ruling { answer: Answer::NeverRan, record: None };
                        assert_eq!(entry.rule(question, asked, process), ruling, "{later:?}");
                    }
                }
            }
        }
        // It did run, and moved on.
        let entry = written(&[record(3, MayOwn), record(3, Owner), record(4, MayOwn)]);
        assert_eq!(entry.refused, []);
        let ran = written(&[record(3, Owner), record(4, Ceded), record(5, Owner)]);
        assert_eq!(ran.rule(Question::DoYouRun, asked, Process::Dead).answer, Answer::Runs);
    }

    #[test]
    fn a_promise_of_an_earlier_boot_is_no_refusal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut earlier = FileJournal::open(&path).unwrap().of_an_earlier_boot();
        earlier.record(&record(3, Standing::MayOwn)).unwrap();
        FileJournal::open(&path).unwrap().record(&record(4, Standing::MayOwn)).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().refused, []);
    }

    #[test]
    fn what_was_refused_is_not_promised_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut journal = FileJournal::open(&path).unwrap();
        for generation in 0..=REFUSED_MAX as u64 + 2 {
            journal.record(&record(generation, Standing::MayOwn)).unwrap();
            journal.record(&record(generation, Standing::Refused)).unwrap();
        }
        assert_eq!(read(&path).unwrap().unwrap().refused.len(), REFUSED_MAX);
        for refused in [3, REFUSED_MAX as u64 + 2] {
            let again = journal.record(&record(refused, Standing::MayOwn)).unwrap_err();
            assert_eq!(again.kind(), ErrorKind::InvalidInput, "{again}");
        }
        let longest = Record { peer: "x".repeat(SLOT / 2), ..record(99, Standing::MayOwn) };
        journal.record(&longest).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().record, longest);
    }
}
