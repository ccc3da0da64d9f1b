//! Numbers that name things on the wire. None of them is ever used twice for another thing.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::time::Duration;

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// The 16 bytes of the wire, big-endian.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// From the 16 bytes of the wire.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }
    };
}

id128! {
    /// The identity of a guest, wherever it runs; its name is only a label.
    GuestUuid
}
id128! {
    /// One migration attempt between two guest processes; drawn at random by the destination.
    SessionId
}
id128! {
    /// A one-time secret of a session: whoever shows it was sent by the destination's agent.
    Token
}

fn hyphenated(value: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let h = value;
    let (a, b, c) = (h >> 96, h >> 80 & 0xffff, h >> 64 & 0xffff);
    let (d, e) = (h >> 48 & 0xffff, h & 0xffff_ffff_ffff);
    write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
}

impl fmt::Display for GuestUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hyphenated(self.0, f)
    }
}

impl fmt::Debug for GuestUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hyphenated(self.0, f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A token is a secret: logs never show it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How often the control connection of a session was opened; lanes of an older epoch are fenced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One bulk connection of a session; a number is not used again after its lane has closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u16);

/// The position of a batch on its lane, counted from 1; 0 stands for "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchSeq(pub u64);

impl BatchSeq {
    /// The batch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The number of one attempt to hand a guest over, or of a start of the guest: higher terms win.
///
/// `generation` grows with every attempt; `host` is the random identity of the agent that burned
/// the term, so that two hosts which both number an attempt `n` still have different terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    /// Grows by one with each attempt.
    pub generation: u64,
    /// Who burned it.
    pub host: u64,
}

impl Term {
    /// The next term, burned by `host`.
    #[must_use]
    pub const fn next(self, host: u64) -> Self {
        Self { generation: self.generation + 1, host }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:08x}", self.generation, self.host >> 32)
    }
}

/// Time since the session began. A simulator can make one; an `Instant` it could not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub Duration);

/// The one thing that is hashed as an `i128`: a hasher that counts time from where its machine
/// stands finds two machines alike that differ only in when they began.
impl Hash for Now {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_i128(self.0.as_nanos() as i128);
    }
}

impl Now {
    /// The moment `wait` later.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// How long ago `earlier` was; zero if it was not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use std::format;

    use super::*;
    use crate::{Accepted, Message};

    /// What is logged of messages is their `Debug`.
    #[test]
    fn what_is_printed_of_a_message_shows_no_token() {
        let secret = 0x1234_5678_9abc_def0_0fed_cba9_8765_4321;
        let lanes = [(LaneId(3), Token(secret))].to_vec();
        let accepted = Message::Accepted(Accepted { lanes, resume_token: Token(secret) });
        let printed = format!("{accepted:?} {accepted:#?}").to_lowercase();
        assert!(printed.contains("token"), "{printed}");
        for text in [format!("{secret}"), format!("{secret:x}")] {
            assert!(!printed.contains(&text), "{printed}");
        }
    }
}
