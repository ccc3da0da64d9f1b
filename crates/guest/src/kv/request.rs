//! Reading commands off a client's bytes: RESP arrays of bulk strings, and inline commands.
//!
//! A client speaks either form at any time, and errors are worded as Redis words them. Crates that
//! parse RESP read whole frames and know no inline commands; this one goes on where the bytes
//! ended, so that a large command that comes in pieces is looked at once.

use std::ops::Range;

/// The longest line of an inline command, or of a count.
const LINE_MAX: usize = 64 << 10;
/// As many as Redis takes since 7.0; what they may take is bounded by what has come of them.
const ARGUMENTS_MAX: i64 = i32::MAX as i64;
/// The longest argument of a store of any size.
pub(crate) const BULK_MAX: u64 = 512 << 20;

/// Where the arguments of a command lie in the bytes it was read from, or their bytes if a line
/// with quotes does not hold them as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    Here(Vec<Range<usize>>),
    Unquoted(Vec<Vec<u8>>),
}

/// What is at the front of a client's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A command, and how many bytes it is long.
    Command(Arguments, usize),
    /// Bytes that ask for nothing.
    Nothing(usize),
    /// Not all of a command.
    Partial,
    /// What no client of Redis says; the connection is not to be read any further.
    Wrong(String),
}

/// How far into an unfinished command the bytes have been understood. It can be forgotten: from
/// the same bytes a new one comes to the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reader {
    at: usize,
    /// Arguments of the command that are still to come; zero between commands.
    missing: usize,
    found: Vec<Range<usize>>,
}

impl Reader {
    /// Reads on in `bytes`, which begin as they did at the last call if that said `Partial`. An
    /// argument of more than `bulk_max` bytes is refused before any of it has come.
    pub(crate) fn read(&mut self, bytes: &[u8], bulk_max: u64) -> Request {
        if self.missing == 0 {
            match bytes.first() {
                None => return Request::Partial,
                Some(b'*') => (),
                Some(_) => return inline(bytes),
            }
            match line(bytes, 0, "too big mbulk count string") {
                Ok(Some((text, next))) => match count(text, ARGUMENTS_MAX) {
                    Some(count) if count > 0 => (self.missing, self.at) = (count as usize, next),
                    Some(_) => return Request::Nothing(next),
                    None => return wrong("invalid multibulk length"),
                },
                Ok(None) => return Request::Partial,
                Err(wrong) => return wrong,
            }
        }
        while self.missing > 0 {
            match self.bulk(bytes, bulk_max) {
                Ok(true) => (),
                Ok(false) => return Request::Partial,
                Err(wrong) => return wrong,
            }
        }
        let whole = std::mem::take(self);
        Request::Command(Arguments::Here(whole.found), whole.at)
    }

    /// One argument; whether all of it is there.
    fn bulk(&mut self, bytes: &[u8], bulk_max: u64) -> Result<bool, Request> {
        let Some((text, start)) = line(bytes, self.at, "too big bulk count string")? else {
            return Ok(false);
        };
        let kind = bytes[self.at];
        if kind != b'$' {
            return Err(wrong(&format!("expected '$', got '{}'", char::from(kind))));
        }
        let max = i64::try_from(bulk_max).unwrap_or(i64::MAX);
        let len = count(text, max).filter(|len| *len >= 0);
        let len = len.ok_or_else(|| wrong("invalid bulk length"))? as usize;
        if bytes.len() < start + len + 2 {
            return Ok(false);
        }
        self.found.push(start..start + len);
        self.at = start + len + 2;
        self.missing -= 1;
        Ok(true)
    }
}

fn wrong(why: &str) -> Request {
    Request::Wrong(format!("Protocol error: {why}"))
}

/// The line at `at` without its first byte, and where the next one begins.
fn line<'a>(
    bytes: &'a [u8],
    at: usize,
    too_long: &str,
) -> Result<Option<(&'a [u8], usize)>, Request> {
    let rest = &bytes[at.min(bytes.len())..];
    let searched = &rest[..rest.len().min(LINE_MAX)];
    match searched.iter().position(|byte| *byte == b'\r') {
        // The line feed is counted on, as Redis does, but it must have come.
        Some(end) if end + 1 < rest.len() => Ok(Some((&rest[1.min(end)..end], at + end + 2))),
        None if rest.len() > LINE_MAX => Err(wrong(too_long)),
        _ => Ok(None),
    }
}

/// A number up to `max` as Redis reads it: no plus, no leading zero, no space.
fn count(text: &[u8], max: i64) -> Option<i64> {
    super::number::parse(text).filter(|count| *count <= max)
}

fn inline(bytes: &[u8]) -> Request {
    let Some(end) = bytes.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
        let long = bytes.len() > LINE_MAX;
        return if long { wrong("too big inline request") } else { Request::Partial };
    };
    let text = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    match split(text) {
        None => wrong("unbalanced quotes in request"),
        Some(words) if words.is_empty() => Request::Nothing(end + 1),
        Some(words) => Request::Command(Arguments::Unquoted(words), end + 1),
    }
}

/// The words of a line, unquoted; `None` if a quote is not closed, or closed inside a word.
fn split(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        rest = &rest[rest.iter().take_while(|byte| is_space(**byte)).count()..];
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some((first, after)) = rest.split_first() {
            rest = match first {
                b'"' => quoted(after, &mut word)?,
                b'\'' => literal(after, &mut word)?,
                space if is_space(*space) => break,
                byte => {
                    word.push(*byte);
                    after
                }
            };
        }
        words.push(word);
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// What follows the closing quote, which ends its word.
fn closed(after: &[u8]) -> Option<&[u8]> {
    after.first().is_none_or(|byte| is_space(*byte)).then_some(after)
}

fn quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'"', after @ ..] => return closed(after),
            [b'\\', b'x', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                after
            }
            [b'\\', byte, after @ ..] => {
                word.push(match byte {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                after
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
            [] => return None,
        }
    }
}

fn literal<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        rest = match rest {
            [b'\'', after @ ..] => return closed(after),
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                after
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
            [] => return None,
        }
    }
}

fn hex(digit: u8) -> u8 {
    char::from(digit).to_digit(16).map_or(0, |value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    /// All commands in `bytes`, which come in pieces of the given lengths.
    fn commands(bytes: &[u8], pieces: &[usize]) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
        let (mut found, mut reader, mut start, mut end) = (Vec::new(), Reader::default(), 0, 0);
        let mut pieces = pieces.iter().copied().cycle();
        loop {
            match reader.read(&bytes[start..end], BULK_MAX) {
                Request::Command(Arguments::Here(ranges), len) => {
                    let all = &bytes[start..end];
                    found.push(ranges.iter().map(|range| all[range.clone()].to_vec()).collect());
                    start += len;
                }
                Request::Command(Arguments::Unquoted(words), len) => {
                    found.push(words);
                    start += len;
                }
                Request::Nothing(len) => start += len,
                Request::Wrong(why) => return (found, Some(why)),
                Request::Partial if end == bytes.len() => return (found, None),
                Request::Partial => {
                    end = (end + pieces.next().unwrap_or(1).max(1)).min(bytes.len());
                }
            }
        }
    }

    fn wrong(bytes: &[u8]) -> Option<String> {
        commands(bytes, &[bytes.len()]).1
    }

    #[test]
    fn inline_commands_are_split_as_redis_splits_them() {
        let cases: [(&[u8], &[&[u8]]); 5] = [
            (b"PING\r\n", &[b"PING"]),
            (b"  set  a\tb \n", &[b"set", b"a", b"b"]),
            (b"set a \"x y\\n\\x41\\\"\"\r\n", &[b"set", b"a", b"x y\nA\""]),
            (b"set 'it\\'s' ''\n", &[b"set", b"it's", b""]),
            (b"\r\n\r\necho a\\b\n", &[b"echo", b"a\\b"]),
        ];
        for (bytes, words) in cases {
            assert_eq!(
                commands(bytes, &[3]),
                (vec![words.iter().map(|w| w.to_vec()).collect()], None)
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_redis_words() {
        let long = vec![b'a'; LINE_MAX + 1];
        let long_count = [b"*".as_slice(), &vec![b'1'; LINE_MAX + 1]].concat();
        let long_bulk = [b"*1\r\n$".as_slice(), &vec![b'1'; LINE_MAX + 1]].concat();
        let cases: [(&[u8], &str); 11] = [
            (b"*x\r\n", "invalid multibulk length"),
            (b"*2147483648\r\n", "invalid multibulk length"),
            (b"*1\r\n+1\r\n", "expected '$', got '+'"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$536870913\r\n", "invalid bulk length"),
            (b"*1\r\n$ 1\r\n", "invalid bulk length"),
            (b"get \"a\r\n", "unbalanced quotes in request"),
            (b"get 'a'b\r\n", "unbalanced quotes in request"),
            (&long, "too big inline request"),
            (&long_count, "too big mbulk count string"),
            (&long_bulk, "too big bulk count string"),
        ];
        for (bytes, why) in cases {
            assert_eq!(wrong(bytes).as_deref(), Some(format!("Protocol error: {why}").as_str()));
        }
        assert_eq!(commands(b"*0\r\n*-1\r\nPING\n", &[1]).0.len(), 1);
    }

    proptest! {
        #[test]
        fn a_command_is_read_however_it_comes(
            all in vec(vec(vec(any::<u8>(), 0..40), 1..5), 1..6),
            pieces in vec(1_usize..50, 1..5),
        ) {
            let mut bytes = Vec::new();
            for command in &all {
                bytes.extend(format!("*{}\r\n", command.len()).bytes());
                for argument in command {
                    bytes.extend(format!("${}\r\n", argument.len()).bytes());
                    bytes.extend(argument);
                    bytes.extend(b"\r\n");
                }
            }
            prop_assert_eq!(commands(&bytes, &pieces), (all, None));
        }

        /// Whatever comes, the pieces it comes in change nothing.
        #[test]
        fn garbage_is_the_same_in_pieces(
            bytes in vec(prop_oneof![select(b"*$\r\n1\"".to_vec()), any::<u8>()], 0..80),
            piece in 1_usize..20,
        ) {
            prop_assert_eq!(commands(&bytes, &[piece]), commands(&bytes, &[bytes.len()]));
        }
    }
}
