//! What is said to a client, in the version of RESP that it asked for.

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
}

impl Reply {
    fn line(&mut self, kind: char, text: &str) {
        self.bytes.extend_from_slice(format!("{kind}{text}\r\n").as_bytes());
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
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    pub(crate) fn null(&mut self) {
        self.bytes.extend_from_slice(if self.third { b"_\r\n" } else { b"$-1\r\n" });
    }

    pub(crate) fn null_array(&mut self) {
        self.bytes.extend_from_slice(if self.third { b"_\r\n" } else { b"*-1\r\n" });
    }

    pub(crate) fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
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

    /// Text for people.
    pub(crate) fn text(&mut self, text: &str) {
        if self.third {
            self.head('=', text.len() + 4);
            self.bytes.extend_from_slice(b"txt:");
            self.bytes.extend_from_slice(text.as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        } else {
            self.bulk(text.as_bytes());
        }
    }
}
