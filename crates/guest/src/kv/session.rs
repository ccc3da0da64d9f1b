//! One connection while the guest runs: what its record holds, at hand.

use super::arena::Arena;
use super::commands::{self, Client};
use super::connections::Record;
use super::port::{ConnectionId, FromGuest, Position, Said, WINDOW};
use super::reply::{Refusal, Reply};
use super::request::{Arguments, Reader, Request};
use super::store::Store;

/// Replies that may wait for delivery before the client's commands do.
const OUTBOX_MAX: u64 = 1 << 20;
/// Replies that may be on their way to the relay.
const SENT_MAX: u64 = 1 << 20;
/// Replies in one message to a relay.
const SAID_MAX: u64 = 256 << 10;
/// Replies are put into guest memory in pieces of about this size.
const PIECE: usize = 16 << 10;

/// A connection. All of it but `sent` can be made again from guest memory.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) record: Record,
    client: Client,
    reader: Reader,
    /// The client's bytes that were taken and not carried out, as the inbox holds them.
    pending: Vec<u8>,
    taken: u64,
    /// The client says no more than this.
    total: Option<u64>,
    /// Up to where replies were said to the relay that is attached.
    sent: u64,
}

/// What is left to do for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Nothing, until more comes.
    Nothing,
    /// Commands that are all there.
    Commands,
}

impl Session {
    pub(crate) fn open(arena: &Arena, record: Record) -> Self {
        Self {
            record,
            client: record.client(arena),
            reader: Reader::default(),
            pending: record.inbox().bytes(arena),
            taken: record.taken(arena),
            total: None,
            sent: record.delivered(arena),
        }
    }

    /// A relay is attached anew: whatever was not delivered is to be said again.
    pub(crate) fn say_again(&mut self, arena: &Arena) {
        self.sent = self.record.delivered(arena);
    }

    /// Takes what is new of a client's bytes. They are in guest memory once [`Session::run`] is
    /// through.
    pub(crate) fn take(&mut self, from: Position, bytes: &[u8]) {
        let known = self.taken.checked_sub(from.0).and_then(|known| usize::try_from(known).ok());
        // A gap means that the relay has not heard of a new attachment yet.
        let new = known.and_then(|known| bytes.get(known..)).unwrap_or_default();
        if !self.client.leaving {
            self.pending.extend_from_slice(new);
        }
        self.taken += new.len() as u64;
    }

    /// The client says no more than this: it is let go once that is carried out and answered.
    pub(crate) fn end_at(&mut self, total: Position) {
        self.total = Some(total.0);
    }

    /// Carries out commands while `open` says so, and puts everything into guest memory.
    pub(crate) fn run(&mut self, store: &mut Store, open: &dyn Fn() -> bool) -> Rest {
        let before = (self.client.clone(), self.record.taken(store.arena()));
        let had = self.record.inbox().len(store.arena());
        let mut reply = Reply { bytes: Vec::new(), third: self.client.third };
        let mut consumed = 0;
        let rest = loop {
            if self.client.leaving {
                consumed = self.pending.len();
                break Rest::Nothing;
            }
            if self.is_stalled(store.arena(), reply.bytes.len() as u64) {
                break Rest::Nothing;
            }
            if !open() {
                break Rest::Commands;
            }
            match self.step(store, &mut reply, consumed) {
                Some(len) => consumed += len,
                None if self.total.is_some_and(|total| self.taken >= total) => {
                    self.client.leaving = true;
                }
                None => break Rest::Nothing,
            }
            if reply.bytes.len() >= PIECE {
                self.say(store, &mut reply);
            }
        };
        self.say(store, &mut reply);
        self.settle(store, consumed, had, &before);
        rest
    }

    /// The client does not read its replies.
    fn is_stalled(&self, arena: &Arena, more: u64) -> bool {
        self.record.outbox().len(arena) + more > OUTBOX_MAX
    }

    /// One command at `at` of what is pending, and how many bytes it was.
    fn step(&mut self, store: &mut Store, reply: &mut Reply, at: usize) -> Option<usize> {
        let bytes = &self.pending[at..];
        let (client, start) = (&mut self.client, reply.bytes.len());
        let len = match self.reader.read(bytes, store.bulk_max()) {
            Request::Command(Arguments::Here(ranges), len) => {
                let words: Vec<&[u8]> = ranges.into_iter().map(|range| &bytes[range]).collect();
                commands::execute(store, client, reply, &words);
                len
            }
            Request::Command(Arguments::Unquoted(words), len) => {
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                commands::execute(store, client, reply, &words);
                len
            }
            Request::Nothing(len) => return Some(len),
            Request::Partial => return None,
            Request::Wrong(why) => {
                reply.refusal(&Refusal::err(&why));
                client.leaving = true;
                bytes.len()
            }
        };
        // A reply for which there is no memory becomes the word that there is none.
        if reply.bytes.len() - start > PIECE {
            let large = reply.bytes.split_off(start);
            self.say(store, reply);
            if self.record.outbox().append(&store.heap, &large).is_err() {
                reply.refusal(&Refusal::Full);
            }
        }
        Some(len)
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
    fn settle(&mut self, store: &Store, consumed: usize, had: u64, before: &(Client, u64)) {
        let (heap, inbox) = (&store.heap, self.record.inbox());
        self.pending.drain(..consumed);
        if self.pending.is_empty() && self.pending.capacity() > PIECE * 8 {
            self.pending = Vec::new();
        }
        let new = if consumed > 0 {
            inbox.consume(heap, had);
            0
        } else {
            had as usize
        };
        if inbox.append(heap, &self.pending[new..]).is_err() {
            // A command larger than what is free; not even the rest of it can be kept.
            let mut reply = Reply::default();
            reply.refusal(&Refusal::Full);
            self.say(store, &mut reply);
            self.client.leaving = true;
            inbox.consume(heap, inbox.len(heap.arena()));
            self.pending = Vec::new();
        }
        if self.client != before.0 && self.record.keep(heap, &self.client).is_err() {
            self.client.name.clone_from(&before.0.name);
        }
        if self.taken != before.1 {
            self.record.set_taken(heap.arena(), self.taken);
        }
    }

    /// What the relay has not heard yet, and whether there is more.
    pub(crate) fn said(&mut self, arena: &Arena, connection: ConnectionId) -> (FromGuest, bool) {
        let outbox = self.record.outbox();
        let (delivered, held) = (self.record.delivered(arena), outbox.len(arena));
        let end = delivered + held;
        let until = end.min(delivered + SENT_MAX).min(self.sent + SAID_MAX).max(self.sent);
        let mut bytes = Vec::new();
        if until > self.sent {
            outbox.read_onto(arena, self.sent - delivered, until - self.sent, &mut bytes);
        }
        let from = std::mem::replace(&mut self.sent, until);
        let stalled = self.is_stalled(arena, 0) || self.client.leaving;
        let said = FromGuest::Said(Said {
            connection,
            taken: Position(self.taken),
            credit: Position(self.taken + if stalled { 0 } else { WINDOW }),
            from: Position(from),
            bytes: bytes.into(),
            last: self.client.leaving && until == end,
        });
        (said, until < end && until < delivered + SENT_MAX)
    }

    /// Replies up to `position` are with the client.
    pub(crate) fn deliver(&mut self, store: &Store, position: Position) {
        self.record.deliver(&store.heap, position.0);
        self.sent = self.sent.max(self.record.delivered(store.arena()));
    }
}
