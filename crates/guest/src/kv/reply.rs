//! What is said to a client, in the version of RESP that it asked for.

use super::arena::{Arena, Span};
use super::heap::Full;

/// Why a command was not carried out, in Redis' words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    WrongType,
    Syntax,
    NotAnInteger,
    Full,
    /// There is no room for what it would reply.
    Reply,
    /// Everything after the dash.
    Words(String),
}

impl Refusal {
    /// A refusal of the ordinary kind.
    pub(crate) fn err(words: &str) -> Self {
        Self::Words(format!("ERR {words}"))
    }

    pub(crate) fn wrong_number(command: &str) -> Self {
        Self::err(&format!("wrong number of arguments for '{command}' command"))
    }

    pub(crate) fn words(&self) -> &str {
        match self {
            Self::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
            Self::Syntax => "ERR syntax error",
            Self::NotAnInteger => "ERR value is not an integer or out of range",
            Self::Full => "OOM command not allowed when used memory > 'maxmemory'.",
            Self::Reply => {
                "OOM no room in memory for the whole reply: ask for less of it at once (GETRANGE, \
                 LRANGE, HSCAN, SSCAN, a smaller count), or delete something first"
            }
            Self::Words(words) => words,
        }
    }
}

impl From<Full> for Refusal {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

/// Replies of one client, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    /// The client speaks RESP3.
    pub(crate) third: bool,
    /// So many bytes have a place, and no more: a short command may ask for more than any host has.
    most: Option<u64>,
    /// Something had no place, so what is here is not a whole reply.
    is_cut: bool,
}

impl Reply {
    /// Has no more than so many bytes from now on, whatever is put.
    pub(crate) fn bound(&mut self, most: u64) {
        self.most = Some(most);
    }

    /// Whether a place was wanting for something.
    pub(crate) const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Has nothing that was put after `len` bytes, and no bound.
    pub(crate) fn take_back(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.unbind();
    }

    pub(crate) fn unbind(&mut self) {
        (self.most, self.is_cut) = (None, false);
    }

    /// Whether there is a place for more; if there is none, there is none for what follows either.
    fn has_place(&mut self, more: u64) -> bool {
        let len = self.bytes.len() as u64 + more;
        self.is_cut |= self.most.is_some_and(|most| len > most);
        !self.is_cut
    }

    fn put(&mut self, bytes: &[u8]) {
        if self.has_place(bytes.len() as u64) {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn line(&mut self, kind: char, text: &str) {
        self.put(format!("{kind}{text}\r\n").as_bytes());
    }

    fn head(&mut self, kind: char, count: usize) {
        self.line(kind, &count.to_string());
    }

    pub(crate) fn simple(&mut self, text: &str) {
        self.line('+', text);
    }

    pub(crate) fn ok(&mut self) {
        self.simple("OK");
    }

    /// A line must stay one, whatever of the client's own bytes is in it.
    pub(crate) fn refusal(&mut self, refusal: &Refusal) {
        let words = refusal.words().replace(['\r', '\n'], " ");
        self.line('-', &words);
    }

    pub(crate) fn integer(&mut self, value: i64) {
        self.line(':', &value.to_string());
    }

    pub(crate) fn count(&mut self, value: u64) {
        self.line(':', &value.to_string());
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.count(u64::from(value));
    }

    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.head('$', bytes.len());
        self.put(bytes);
        self.put(b"\r\n");
    }

    /// Bytes of guest memory, which are not read if they have no place.
    pub(crate) fn bulk_of(&mut self, arena: &Arena, span: Span) {
        self.head('$', span.len as usize);
        if self.has_place(span.len) {
            arena.read_onto(span.at, span.len, &mut self.bytes);
        }
        self.put(b"\r\n");
    }

    pub(crate) fn null(&mut self) {
        self.put(if self.third { b"_\r\n" } else { b"$-1\r\n" });
    }

    pub(crate) fn null_array(&mut self) {
        self.put(if self.third { b"_\r\n" } else { b"*-1\r\n" });
    }

    pub(crate) fn bulk_or_null(&mut self, arena: &Arena, span: Option<Span>) {
        match span {
            Some(span) => self.bulk_of(arena, span),
            None => self.null(),
        }
    }

    /// An array of what `each` puts; it says how many that are.
    pub(crate) fn array_of(&mut self, each: impl FnOnce(&mut Self) -> usize) {
        let start = self.bytes.len();
        let count = each(self);
        let len = self.bytes.len() - start;
        self.array(count);
        self.bytes[start..].rotate_left(len);
    }

    pub(crate) fn array(&mut self, len: usize) {
        self.head('*', len);
    }

    pub(crate) fn set(&mut self, len: usize) {
        self.head(if self.third { '~' } else { '*' }, len);
    }

    /// The head of `len` pairs.
    pub(crate) fn map(&mut self, len: usize) {
        if self.third { self.head('%', len) } else { self.head('*', len * 2) }
    }

    /// Text for people, as `each` puts it.
    pub(crate) fn text(&mut self, each: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        each(self);
        let len = self.bytes.len() - start;
        if self.third {
            self.head('=', len + 4);
            self.put(b"txt:");
        } else {
            self.head('$', len);
        }
        self.bytes[start..].rotate_left(len);
        self.put(b"\r\n");
    }

    /// A piece of a text.
    pub(crate) fn words(&mut self, words: &str) {
        self.put(words.as_bytes());
    }
}
