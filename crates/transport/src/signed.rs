//! A lane in clear whose every byte is vouched for: records with a MAC, over any other lane.
//!
//! ```text
//!   control connection's handshake ─► LaneSecret ─┬─ hello ─► key of each direction of each lane
//!   bytes ─► record: length │ body │ MAC(key, number, length, body) ─► the lane below
//! ```
//!
//! Goals: of a record nothing is given out before its MAC was found right, so that what is damaged,
//! forged, repeated, left out or out of its order ends the lane and reaches nobody. Non-goals:
//! secrecy: whoever is on the way reads along.

use std::fmt;
use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use crate::{Lane, LaneError, LaneHandle, Woken};

/// wire.md P7: the length of the body.
const HEAD_SIZE: usize = 8;
const MAC_SIZE: usize = 16;
/// Bytes in one record at most (wire.md P7).
const BODY_MAX: usize = 1 << 20;

/// What both ends of a control connection know and nobody else: the root of the keys of its lanes.
#[derive(Clone)]
pub struct LaneSecret([u8; 32]);

impl fmt::Debug for LaneSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneSecret")
    }
}

/// Which end of a lane this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The one that sends pages.
    Source,
    /// The one that lands them.
    Destination,
}

impl LaneSecret {
    pub(crate) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A lane over `below`, opened by `hello`, whose bytes both ends vouch for.
    #[must_use]
    pub fn sign(&self, below: Box<dyn Lane>, hello: &[u8], end: End) -> Box<dyn Lane> {
        // wire.md P6
        let key = |sender: &[u8]| {
            let mut hasher = blake3::Hasher::new_keyed(&self.0);
            hasher.update(sender).update(hello);
            *hasher.finalize().as_bytes()
        };
        let (source, destination) = (key(b"source\0\0"), key(b"destined"));
        let (sent, received) = match end {
            End::Source => (source, destination),
            End::Destination => (destination, source),
        };
        Box::new(SignedLane {
            below,
            sent: Signer { key: sent, number: 0 },
            received: Signer { key: received, number: 0 },
            record: Vec::new(),
            filled: 0,
            given: 0,
            whole: false,
        })
    }
}

/// One direction: its key and how many records there were.
struct Signer {
    key: [u8; 32],
    number: u64,
}

impl Signer {
    /// The MAC of the next record.
    fn next<'a>(&mut self, parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; MAC_SIZE] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&self.number.to_le_bytes());
        for part in parts {
            hasher.update(part);
        }
        self.number += 1;
        let mac = hasher.finalize();
        *mac.as_bytes().first_chunk().expect("longer than that")
    }

    /// wire.md P8: compared in the same time wherever they differ first.
    fn check<'a>(
        &mut self,
        parts: impl IntoIterator<Item = &'a [u8]>,
        mac: &[u8],
    ) -> Result<(), LaneError> {
        let expected = self.next(parts);
        let differ = expected.iter().zip(mac).fold(0, |differ, (a, b)| differ | (a ^ b));
        if differ == 0 { Ok(()) } else { Err(forged("a record has a wrong MAC")) }
    }
}

fn forged(what: &str) -> LaneError {
    let why = format!("{what}: it was damaged or forged on its way");
    io::Error::new(io::ErrorKind::InvalidData, why).into()
}

fn head(length: usize) -> [u8; HEAD_SIZE] {
    (length as u64).to_le_bytes()
}

/// The length of a record, within its bounds.
fn length(head: [u8; HEAD_SIZE]) -> Result<usize, LaneError> {
    let length = u64::from_le_bytes(head);
    let possible = 1..=BODY_MAX as u64;
    match possible.contains(&length) {
        true => Ok(length as usize),
        false => Err(forged("a record has an impossible length")),
    }
}

struct SignedLane {
    below: Box<dyn Lane>,
    sent: Signer,
    received: Signer,
    /// The record that is arriving or being given out: head, body, MAC.
    record: Vec<u8>,
    filled: usize,
    /// Bytes of the body that were given out.
    given: usize,
    /// It has arrived and its MAC is right.
    whole: bool,
}

impl SignedLane {
    fn send_record(&mut self, body: &[IoSlice<'_>]) -> Result<(), LaneError> {
        let head = head(body.iter().map(|part| part.len()).sum());
        let signed = std::iter::once(&head[..]).chain(body.iter().map(|part| &**part));
        let mac = self.sent.next(signed);
        let mut parts = Vec::with_capacity(body.len() + 2);
        parts.push(IoSlice::new(&head));
        parts.extend(body.iter().map(|part| IoSlice::new(part)));
        parts.push(IoSlice::new(&mac));
        self.below.send(&mut parts)
    }

    /// How long the record is, as far as that is known yet.
    fn wanted(&mut self) -> Result<usize, LaneError> {
        let Some(head) = self.record[..self.filled].first_chunk() else {
            self.record.resize(HEAD_SIZE, 0);
            return Ok(HEAD_SIZE);
        };
        let wanted = HEAD_SIZE + length(*head)? + MAC_SIZE;
        self.record.resize(wanted, 0);
        Ok(wanted)
    }

    /// Gives out what is left of a record whose MAC is right.
    fn give(&mut self, into: &mut [u8]) -> usize {
        if !self.whole {
            return 0;
        }
        let body = &self.record[HEAD_SIZE..self.record.len() - MAC_SIZE];
        let rest = &body[self.given..];
        let given = rest.len().min(into.len());
        into[..given].copy_from_slice(&rest[..given]);
        self.given += given;
        if self.given == body.len() {
            (self.whole, self.filled, self.given) = (false, 0, 0);
        }
        given
    }

    fn check(&mut self) -> Result<(), LaneError> {
        let (signed, mac) = self.record.split_at(self.record.len() - MAC_SIZE);
        self.received.check([signed], mac)?;
        self.whole = true;
        Ok(())
    }

    /// Takes what has arrived of a record; `true` once it is whole and right.
    fn gather(&mut self) -> Result<bool, LaneError> {
        while !self.whole {
            let wanted = self.wanted()?;
            if self.filled == wanted {
                self.check()?;
                continue;
            }
            match self.below.try_receive(&mut self.record[self.filled..wanted]) {
                Ok(0) => return Ok(false),
                Ok(received) => self.filled += received,
                Err(LaneError::Closed) if self.filled > 0 => return Err(self.truncated()),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn truncated(&self) -> LaneError {
        LaneError::Truncated { missing: self.record.len() - self.filled }
    }

    /// Receives the next record, into the caller's hands if it fits there. Returns how much of it
    /// is there then.
    fn receive_record(&mut self, into: &mut [u8]) -> Result<usize, LaneError> {
        if self.filled < HEAD_SIZE {
            let wanted = self.wanted()?;
            let begun = self.filled > 0;
            let received = self.below.receive(&mut self.record[self.filled..wanted]);
            received.map_err(|error| if begun { within(error) } else { error })?;
            self.filled = HEAD_SIZE;
        }
        let wanted = self.wanted()?;
        let size = wanted - HEAD_SIZE - MAC_SIZE;
        if self.filled > HEAD_SIZE || size > into.len() {
            self.below.receive(&mut self.record[self.filled..wanted]).map_err(within)?;
            self.filled = wanted;
            self.check()?;
            return Ok(self.give(into));
        }
        let (body, mut mac) = (&mut into[..size], [0; MAC_SIZE]);
        self.below.receive(body).map_err(within)?;
        self.below.receive(&mut mac).map_err(within)?;
        self.received.check([&self.record[..HEAD_SIZE], body], &mac)?;
        self.filled = 0;
        Ok(size)
    }
}

/// An end within a record is never one between frames.
fn within(error: LaneError) -> LaneError {
    match error {
        LaneError::Closed => LaneError::Truncated { missing: MAC_SIZE },
        error => error,
    }
}

/// The parts of the next record. The first part of several, which tells what the others are, has a
/// record of its own: then these fit where the reader wants them.
fn body<'a>(parts: &[IoSlice<'a>], alone: bool) -> (usize, usize) {
    let mut size = 0;
    let fits = |part: &&IoSlice<'a>| {
        size += part.len();
        size <= BODY_MAX
    };
    let count = parts.iter().take_while(fits).count().min(if alone { 1 } else { parts.len() });
    (count, parts[..count].iter().map(|part| part.len()).sum())
}

impl Lane for SignedLane {
    fn send(&mut self, mut parts: &mut [IoSlice<'_>]) -> Result<(), LaneError> {
        IoSlice::advance_slices(&mut parts, 0);
        let mut alone = parts.len() > 1;
        while !parts.is_empty() {
            let (count, size) = body(parts, std::mem::take(&mut alone));
            let size = match count {
                0 => {
                    self.send_record(&[IoSlice::new(&parts[0][..BODY_MAX])])?;
                    BODY_MAX
                }
                count => {
                    self.send_record(&parts[..count])?;
                    size
                }
            };
            IoSlice::advance_slices(&mut parts, size);
        }
        Ok(())
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<(), LaneError> {
        let mut filled = self.give(into);
        while filled < into.len() {
            let missing = into.len() - filled;
            match self.receive_record(&mut into[filled..]) {
                Ok(received) => filled += received,
                Err(LaneError::Closed | LaneError::Truncated { .. }) if filled > 0 => {
                    return Err(LaneError::Truncated { missing });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn try_receive(&mut self, into: &mut [u8]) -> Result<usize, LaneError> {
        if into.is_empty() || !self.gather()? {
            return Ok(0);
        }
        Ok(self.give(into))
    }

    fn wait(&mut self, within: Duration) -> Result<Woken, LaneError> {
        let until = Instant::now() + within;
        loop {
            match self.gather() {
                Ok(true) | Err(LaneError::Closed) => return Ok(Woken::Readable),
                gathered => gathered?,
            };
            match self.below.wait(until.saturating_duration_since(Instant::now()))? {
                // It may be no more than a part of a record.
                Woken::Readable => {}
                woken => return Ok(woken),
            }
        }
    }

    fn finish(&mut self) -> Result<(), LaneError> {
        self.below.finish()
    }

    fn handle(&self) -> LaneHandle {
        self.below.handle()
    }
}

#[cfg(test)]
mod tests;
