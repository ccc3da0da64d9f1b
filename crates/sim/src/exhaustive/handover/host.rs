//! What there is on a host: a guest process, its agent, and what survives them.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use whimbrel_page::{ChunkIndex, LeafSum, PageCount, RegionId, Root};
use whimbrel_protocol::{
    BatchSeq, Destination, DestinationEvent, GuestUuid, LaneId, LaneTicket, Message, Now, Outcome,
    Process, Record, SessionId, Source, SourceEvent, Standing, Sums, Term,
};

use crate::exhaustive::digest::Digest;

/// The hosts of these worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Where the guest is at first.
    A,
    /// Where it is to go.
    B,
    /// Where a second attempt is to bring it.
    C,
}

impl Host {
    pub(crate) const DESTINATIONS: [Self; 2] = [Self::B, Self::C];

    /// The place of a destination in the list of them.
    pub(crate) fn place(self) -> usize {
        match self {
            Self::A | Self::B => 0,
            Self::C => 1,
        }
    }
}

/// What two pages hold, or are taken to hold: a number for each thing they ever held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Pages {
    /// Written whenever the guest runs, and therefore sent in every pause.
    pub(crate) hot: u8,
    /// Not written, and not sent again unless somebody finds that it has to be.
    pub(crate) cold: u8,
}

impl Pages {
    /// What the guest never wrote.
    pub(crate) const GARBLED: u8 = u8::MAX;

    const fn sums(self) -> [LeafSum; 2] {
        [LeafSum(self.hot as u128), LeafSum((self.cold as u128) << 8)]
    }

    /// The root of a memory that holds this.
    pub(crate) fn root(self) -> Root {
        let [hot, cold] = self.sums();
        Root { sum: hot.plus(cold), unknown: PageCount::ZERO }
    }

    /// As a destination names them, a chunk each.
    pub(crate) fn named(self) -> Sums {
        let chunks = (0..).map(ChunkIndex).zip(self.sums()).collect();
        Sums { region: RegionId(0), chunks, last: true }
    }

    /// Which of the two are not what was named: the hot one, the cold one.
    pub(crate) fn differ(self, named: &Sums) -> [bool; 2] {
        let theirs = |at: usize| named.chunks.get(at).map(|(_, sum)| *sum);
        let [hot, cold] = self.sums();
        [theirs(0) != Some(hot), theirs(1) != Some(cold)]
    }
}

/// What a guest process has come to, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holds {
    /// The machine has it.
    Moving,
    /// The guest is here for good.
    Here,
    /// The guest is here and stands still, until it is known who owns it.
    InDoubt(Term),
    Gone,
}

/// How the attempt ended, as this side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Said {
    Completed(Term),
    Aborted,
    InDoubt(Term),
}

impl From<&Outcome> for Said {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Completed { term } => Self::Completed(*term),
            Outcome::Aborted(_) => Self::Aborted,
            Outcome::InDoubt { term, .. } => Self::InDoubt(*term),
        }
    }
}

/// What one slot of a journal says; the host is where the other side's agent answers.
pub(crate) type Entry = (Standing, Term, Host);

/// A host's record of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Journal {
    /// What a reader finds, whoever has died.
    pub(crate) written: Option<Entry>,
    /// What is left when the host restarts.
    pub(crate) durable: Option<Entry>,
    /// Whether the host has restarted since.
    pub(crate) old: bool,
}

impl Journal {
    /// One write that is not waited for.
    pub(crate) const fn note(&mut self, entry: Entry) {
        self.written = Some(entry);
        self.old = false;
    }

    pub(crate) const fn record(&mut self, entry: Entry) {
        self.note(entry);
        self.durable = Some(entry);
    }

    /// As the rules of ownership read it.
    pub(crate) fn read(&self) -> Option<Record> {
        let (standing, term, _) = self.written?;
        let (guest, session) = (GuestUuid(1), SessionId(0));
        Some(Record { guest, term, session, peer: String::new(), standing })
    }

    /// What is known of the process that wrote it.
    pub(crate) const fn process(&self, alive: bool) -> Process {
        match (alive, self.old) {
            (true, _) => Process::Alive,
            (false, false) => Process::Dead,
            (false, true) => Process::HostRestarted,
        }
    }
}

/// A guest process and its agent, as far as both sides have the same.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) clock: Now,
    pub(crate) alive: bool,
    /// Nothing happens in the process until it goes on.
    pub(crate) stopped: bool,
    pub(crate) agent: bool,
    pub(crate) running: bool,
    pub(crate) holds: Holds,
    pub(crate) said: Option<Said>,
    /// The next thing that can fail does.
    pub(crate) failing: bool,
    pub(crate) journal: Journal,
    /// Whether the host has ever restarted.
    pub(crate) restarted: bool,
}

/// The clock is where all other times count from.
impl Hash for Life {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { clock: _, alive, stopped, agent, running, .. } = self;
        let Self { holds, said, failing, journal, restarted, .. } = self;
        (alive, stopped, agent, running, holds, said, failing, journal, restarted).hash(state);
    }
}

impl Life {
    /// A guest of which it was not known whether it runs has answered by now, and the record says
    /// which it is: as the engine's hands do in the end.
    pub(crate) fn settled(&mut self, term: Term) -> Said {
        let standing = if self.running { Standing::Owner } else { Standing::Refused };
        if !std::mem::take(&mut self.failing) {
            self.journal.record((standing, term, Host::A));
        }
        if self.running { Said::Completed(term) } else { Said::Aborted }
    }

    pub(crate) fn new(running: bool) -> Self {
        Self {
            clock: Now::default(),
            alive: true,
            stopped: false,
            agent: true,
            running,
            holds: Holds::Moving,
            said: None,
            failing: false,
            journal: Journal::default(),
            restarted: false,
        }
    }

    /// Whether the process can do something.
    pub(crate) const fn acts(&self) -> bool {
        self.alive && !self.stopped
    }

    /// Whether its driver still listens.
    pub(crate) const fn drives(&self) -> bool {
        self.alive && self.said.is_none()
    }
}

/// A part of a state that few steps change: shared with the states before it until one does, and
/// numbered once.
#[derive(Clone, Debug)]
pub(crate) struct Kept<T> {
    part: Rc<T>,
    /// By what the clock showed: its times count from there.
    number: Cell<Option<(Now, u64)>>,
}

impl<T: Hash> Kept<T> {
    /// Finds the number, before it is hashed.
    pub(crate) fn count(&self, clock: Now) {
        if self.number.get().is_none_or(|(at, _)| at != clock) {
            let mut digest = Digest::default();
            digest.count_from(clock);
            self.part.hash(&mut digest);
            self.number.set(Some((clock, digest.finish())));
        }
    }
}

impl<T> From<T> for Kept<T> {
    fn from(part: T) -> Self {
        Self { part: Rc::new(part), number: Cell::default() }
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.part
    }
}

impl<T: Clone> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.number.set(None);
        Rc::make_mut(&mut self.part)
    }
}

impl<T> Hash for Kept<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (_, number) = self.number.get().expect("counted before it is hashed");
        state.write_u64(number);
    }
}

/// One thing for the source's hands to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    Arm,
    Harvest,
    Look,
    Pause,
    Verify,
    Resume,
    Record(Standing, Term),
    Compare(Sums),
    /// The guest runs on.
    Retreat,
    /// The guest is left as it is.
    LetGo,
}

/// What the source's lanes are at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    Round,
    Quiesce(u32),
    Flush(u32),
}

/// The source's host.
#[derive(Clone, Debug, Hash)]
pub(crate) struct SourceHost {
    pub(crate) life: Life,
    pub(crate) machine: Kept<Source>,
    /// The place of the destination of this attempt.
    pub(crate) to: usize,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) inbox: VecDeque<SourceEvent>,
    pub(crate) connecting: bool,
    pub(crate) pass: Option<Pass>,
    /// The lane that is up, and the last batch it sent.
    pub(crate) lane: Option<(LaneId, BatchSeq)>,
    pub(crate) opening: Option<LaneTicket>,
    /// What the cold page holds.
    pub(crate) cold: u8,
    /// What the destination holds, as far as the ledger knows.
    pub(crate) there: Pages,
    /// The cold page was found to have to go again. How pages are given back is not in these
    /// worlds: from then on it goes in every pause.
    pub(crate) cold_goes: bool,
    /// Which pages were ever found to differ there.
    pub(crate) spoiled: [bool; 2],
}

/// One thing for the destination's hands to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Task {
    /// And say how fast memory is digested here, where it will have to be.
    Reserve(bool),
    Create,
    Verify(Term),
    Load(Term, Option<u8>),
    Run(Term),
    Record(Standing, Term),
}

/// The last pages of a pause: the hot one, and the cold one if it has to go again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    pub(crate) hot: u8,
    pub(crate) cold: Option<u8>,
}

/// A lane's thread, and what is on the wire to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    pub(crate) wire: VecDeque<(BatchSeq, Batch)>,
    pub(crate) closing: bool,
}

/// A destination's host.
#[derive(Clone, Debug, Hash)]
pub(crate) struct DestinationHost {
    pub(crate) life: Life,
    pub(crate) machine: Kept<Destination>,
    pub(crate) tasks: VecDeque<Task>,
    pub(crate) inbox: VecDeque<DestinationEvent>,
    /// Connections from the source, the newest one last.
    pub(crate) links: Vec<Link>,
    pub(crate) lane: Option<Lane>,
    /// The last batch of each lane that has landed.
    pub(crate) landed: BTreeMap<LaneId, BatchSeq>,
    pub(crate) awaited: Option<(Term, Vec<(LaneId, BatchSeq)>)>,
    /// What the memory holds.
    pub(crate) memory: Pages,
    /// What it holds as far as its digests know.
    pub(crate) known: Pages,
    /// What was known of it when the roots were compared.
    pub(crate) compared: Option<Pages>,
    /// The state that was loaded.
    pub(crate) state: Option<u8>,
    /// The term under which the guest has run here.
    pub(crate) ran: Option<Term>,
}

/// What has become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cut {
    Whole,
    /// Nothing travels, and both ends can tell.
    Broken,
    /// Nothing travels, and nobody is told.
    Silent,
}

/// The destination's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    /// Nobody has looked at its first word yet.
    Waiting,
    Held,
    Closed,
}

/// One control connection.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Link {
    /// Whether the source has it.
    pub(crate) source: bool,
    pub(crate) end: End,
    pub(crate) cut: Cut,
    pub(crate) to_source: VecDeque<Message>,
    pub(crate) to_destination: VecDeque<Message>,
}

impl Link {
    pub(crate) const fn new() -> Self {
        Self {
            source: true,
            end: End::Waiting,
            cut: Cut::Whole,
            to_source: VecDeque::new(),
            to_destination: VecDeque::new(),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        match self.end {
            End::Held => false,
            End::Waiting => !self.source && self.to_destination.is_empty(),
            End::Closed => !self.source,
        }
    }
}
