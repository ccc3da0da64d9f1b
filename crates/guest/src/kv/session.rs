//! One connection while the guest runs: what its record holds, at hand.

use super::arena::Arena;
use super::chain::Chain;
use super::commands::{self, Client};
use super::connections::Record;
use super::heap::{Full, Heap};
use super::port::{ConnectionId, FromGuest, KEPT_MIN, Overrun, Position, Said, WINDOW};
use super::reply::{Refusal, Reply};
use super::request::{Arguments, Reader, Request};
use super::store::Store;

/// Replies that may wait for delivery before the client's commands do. If memory has more room than
/// that, then as many as values may take yet beside them: a client may say a lot before it reads at
/// all, and the more of them do, the less there is for each; but what is left to values they halve
/// at most.
const OUTBOX_MAX: u64 = 1 << 20;
/// Replies that may be on their way to the relay, and those that always may.
const SENT_MAX: u64 = 1 << 20;
const SENT_MIN: u64 = 16 << 10;
/// Replies in one message to a relay.
const SAID_MAX: u64 = 256 << 10;
/// Replies are put into guest memory in pieces of about this size.
const PIECE: usize = 16 << 10;
/// There is room for a reply of so many bytes before a command is carried out.
pub(crate) const SMALL: u64 = 1 << 10;
const _: () = assert!(SMALL <= Chain::ROOM_MIN, "an empty outbox has room for it");

/// A connection. All of it but `sent` can be made again from guest memory.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) record: Record,
    client: Client,
    reader: Reader,
    /// The client's bytes that came and were not carried out, as the inbox holds them. It may lack
    /// the last ones: where there is no room for them, they are not taken.
    pending: Vec<u8>,
    /// The client's bytes came up to here.
    come: u64,
    /// The client says no more than this.
    total: Option<u64>,
    /// Up to where replies were said to the relay that is attached.
    sent: u64,
    /// It goes on when replies have been delivered.
    stalled: bool,
    /// How much room there was for a reply that had none; it is not made again for a little more.
    /// 0 for none.
    wanting: u64,
    /// The client's last bytes had no room in memory.
    untaken: bool,
}

/// What is left to do for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing, until more comes.
    Nothing,
    /// Commands that are all there.
    Commands,
}

/// What came of looking for a command.
enum Step {
    /// So many bytes are done with.
    Done(usize),
    /// Not all of it has come.
    Partial,
    /// What it replies has no room before other replies are delivered. It was not carried out.
    Stalled,
}

impl Session {
    pub(crate) fn open(arena: &Arena, record: Record) -> Self {
        Self {
            record,
            client: record.client(arena),
            reader: Reader::default(),
            pending: record.inbox().bytes(arena),
            come: record.taken(arena),
            total: None,
            sent: record.delivered(arena),
            stalled: false,
            wanting: 0,
            untaken: false,
        }
    }

    /// A relay is attached anew: whatever was not delivered is to be said again.
    pub(crate) fn say_again(&mut self, arena: &Arena) {
        self.sent = self.record.delivered(arena);
    }

    /// Takes what is new of a client's bytes. They are in guest memory once [`Session::run`] is
    /// through, or the relay keeps them.
    pub(crate) fn take(
        &mut self,
        arena: &Arena,
        from: Position,
        bytes: &[u8],
    ) -> Result<(), Overrun> {
        let end = from.0.saturating_add(bytes.len() as u64);
        if end > self.record.taken(arena).saturating_add(WINDOW) {
            return Err(Overrun);
        }
        let known = self.come.checked_sub(from.0).and_then(|known| usize::try_from(known).ok());
        // A gap means that the relay has not heard of a new attachment yet.
        let new = known.and_then(|known| bytes.get(known..)).unwrap_or_default();
        if !self.client.leaving {
            self.pending.extend_from_slice(new);
        }
        self.come += new.len() as u64;
        Ok(())
    }

    /// The client says no more than this: it is let go once that is carried out and answered.
    pub(crate) fn end_at(&mut self, total: Position) {
        self.total = Some(total.0);
    }

    pub(crate) const fn client_id(&self) -> u64 {
        self.client.id
    }

    /// Whether it goes on once memory is given back: for what commands reply, or for what came.
    pub(crate) const fn waits_for_memory(&self) -> bool {
        self.stalled || self.untaken
    }

    /// Carries out commands while `open` says so, and puts everything into guest memory.
    pub(crate) fn run(&mut self, store: &mut Store, open: &dyn Fn() -> bool) -> Rest {
        let before = self.client.clone();
        let mut reply = Reply::default();
        let (mut consumed, mut partial) = (0, false);
        self.stalled = false;
        let rest = loop {
            if self.client.leaving {
                consumed = self.pending.len();
                break Rest::Nothing;
            }
            if reply.bytes.len() >= PIECE {
                self.say(store, &mut reply);
            }
            let waiting = self.record.outbox().len(store.arena()) + reply.bytes.len() as u64;
            let most = OUTBOX_MAX.max(store.unused());
            if waiting > most || !self.has_room(store, &reply) {
                if waiting > 0 {
                    self.stalled = true;
                    break Rest::Nothing;
                }
                // With nothing to deliver there will not be more room.
                self.client.leaving = true;
                continue;
            }
            if !open() {
                break Rest::Commands;
            }
            if self.wanting > 0 && waiting > 0 && self.room(store) / 2 < self.wanting {
                self.stalled = true;
                break Rest::Nothing;
            }
            self.wanting = 0;
            match self.step(store, &mut reply, consumed) {
                Step::Done(len) => consumed += len,
                Step::Stalled => {
                    (self.stalled, self.wanting) = (true, self.room(store).max(1));
                    break Rest::Nothing;
                }
                Step::Partial if self.total.is_some_and(|total| self.come >= total) => {
                    self.client.leaving = true;
                }
                Step::Partial => {
                    partial = true;
                    break Rest::Nothing;
                }
            }
        };
        self.say(store, &mut reply);
        self.settle(store, consumed, partial, &before);
        rest
    }

    /// Whether there is room for one more small reply.
    fn has_room(&self, store: &Store, reply: &Reply) -> bool {
        let more = reply.bytes.len() as u64 + SMALL;
        self.record.outbox().widen(&store.heap, more).is_ok()
    }

    /// There is no room for more replies than this.
    fn room(&self, store: &Store) -> u64 {
        self.record.outbox().room_max(&store.heap)
    }

    /// One command at `at` of what is pending.
    fn step(&mut self, store: &mut Store, reply: &mut Reply, at: usize) -> Step {
        let bytes = &self.pending[at..];
        let (client, outbox) = (&mut self.client, self.record.outbox());
        let (done, len) = match self.reader.read(bytes, store.bulk_max()) {
            Request::Command(Arguments::Here(ranges), len) => {
                let words: Vec<&[u8]> = ranges.into_iter().map(|range| &bytes[range]).collect();
                (commands::execute(store, client, reply, outbox, &words), len)
            }
            Request::Command(Arguments::Unquoted(words), len) => {
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                (commands::execute(store, client, reply, outbox, &words), len)
            }
            Request::Nothing(len) => {
                client.hears = client.hears.then();
                return Step::Done(len);
            }
            Request::Partial => return Step::Partial,
            Request::Wrong(why) => {
                if client.hears.this() {
                    reply.refusal(&Refusal::err(&why));
                }
                client.leaving = true;
                (Ok(()), bytes.len())
            }
        };
        if done == Err(Full) {
            if outbox.len(store.arena()) > 0 || !reply.bytes.is_empty() {
                return Step::Stalled;
            }
            // A reply for which there is no memory becomes the word that there is none.
            reply.refusal(&Refusal::Reply);
        }
        Step::Done(len)
    }

    /// Replies go into guest memory before anybody hears of them. A client for whose few replies
    /// there is no room is let go: it must not hear a part of them.
    fn say(&mut self, store: &Store, reply: &mut Reply) {
        if self.record.outbox().append(&store.heap, &reply.bytes).is_err() {
            self.client.leaving = true;
        }
        reply.bytes.clear();
    }

    /// Memory has it as it is now.
    fn settle(&mut self, store: &Store, consumed: usize, partial: bool, before: &Client) {
        let (heap, inbox) = (&store.heap, self.record.inbox());
        let had = inbox.len(heap.arena());
        let kept = had.saturating_sub(consumed as u64);
        inbox.consume(heap, had - kept);
        self.pending.drain(..consumed);
        if self.pending.is_empty() && self.pending.capacity() > PIECE * 8 {
            self.pending = Vec::new();
        }
        let mut taken = self.come;
        let new = &self.pending[kept as usize..];
        self.untaken = inbox.append(heap, new).is_err();
        if self.untaken {
            // The relay keeps them, and has them again for the guest wherever that goes on.
            taken -= new.len() as u64;
            if partial && new.len() as u64 >= KEPT_MIN {
                // A command larger than what is free, of which no more may ever come.
                if self.client.hears.this() {
                    let mut reply = Reply::default();
                    reply.refusal(&Refusal::Full);
                    self.say(store, &mut reply);
                }
                self.client.leaving = true;
                inbox.consume(heap, inbox.len(heap.arena()));
                (taken, self.pending, self.untaken) = (self.come, Vec::new(), false);
            }
        }
        if self.client != *before && self.record.keep(heap, &self.client).is_err() {
            self.client.name.clone_from(&before.name);
        }
        if taken != self.record.taken(heap.arena()) {
            self.record.set_taken(heap.arena(), taken);
        }
    }

    /// Replies that are on their way to the client.
    pub(crate) fn on_way(&self, arena: &Arena) -> u64 {
        self.sent - self.record.delivered(arena)
    }

    /// What the relay has not heard yet, and whether there is more. It keeps what its client does
    /// not read, and has `room` for it.
    pub(crate) fn said(
        &mut self,
        heap: &Heap,
        connection: ConnectionId,
        room: u64,
    ) -> (FromGuest, bool) {
        let (arena, outbox) = (heap.arena(), self.record.outbox());
        let (delivered, held) = (self.record.delivered(arena), outbox.len(arena));
        let end = delivered + held;
        let most = delivered + room.clamp(SENT_MIN, SENT_MAX);
        let until = end.min(most).min(self.sent + SAID_MAX).max(self.sent);
        let mut bytes = Vec::new();
        if until > self.sent {
            outbox.read_onto(heap, self.sent - delivered, until - self.sent, &mut bytes);
        }
        let from = std::mem::replace(&mut self.sent, until);
        let stalled = self.stalled || self.client.leaving;
        let taken = self.record.taken(arena);
        let said = FromGuest::Said(Said {
            connection,
            taken: Position(taken),
            credit: Position(taken + if stalled { 0 } else { WINDOW }),
            from: Position(from),
            bytes: bytes.into(),
            last: self.client.leaving && until == end,
        });
        (said, until < end && until < most)
    }

    /// Where the replies end that were ever made.
    pub(crate) fn said_in_all(&self, arena: &Arena) -> Position {
        Position(self.record.delivered(arena) + self.record.outbox().len(arena))
    }

    /// Replies up to `position` are with the client.
    pub(crate) fn deliver(&mut self, store: &Store, position: Position) {
        self.record.deliver(&store.heap, position.0);
        self.sent = self.sent.max(self.record.delivered(store.arena()));
    }
}
