//! Keys, whatever they hold: whether they are there, when they end, which there are.

use super::super::arena::Arena;
use super::super::buffer;
use super::super::dict::{Cursor, Dict, Entry};
use super::super::glob;
use super::super::number;
use super::super::reply::{Refusal, Reply};
use super::super::store::Kind;
use super::{Call, Outcome};

/// What a client counts time in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Milliseconds,
}

/// `given` from `base_ms` on, in milliseconds of the epoch, if there is such a moment.
pub(super) fn moment(given: i64, unit: Unit, base_ms: u64) -> Option<i64> {
    let factor = if unit == Unit::Seconds { 1000 } else { 1 };
    given.checked_mul(factor)?.checked_add(i64::try_from(base_ms).ok()?)
}

pub(super) fn dbsize(call: &mut Call<'_>) -> Outcome {
    let keys = call.store.keys().len(call.arena());
    call.reply.count(keys);
    Ok(())
}

pub(super) fn del(call: &mut Call<'_>) -> Outcome {
    let keys = call.arguments[1..].iter();
    let there = keys.filter(|key| call.store.look_up(key).is_some() && call.store.delete(key));
    let count = there.count();
    call.reply.count(count as u64);
    Ok(())
}

pub(super) fn exists(call: &mut Call<'_>) -> Outcome {
    let there = call.arguments[1..].iter().filter(|key| call.store.read(key).is_some());
    let count = there.count();
    call.reply.count(count as u64);
    Ok(())
}

pub(super) fn flush(call: &mut Call<'_>) -> Outcome {
    let plain = match &call.arguments[1..] {
        [] => true,
        [how] => how.eq_ignore_ascii_case(b"sync") || how.eq_ignore_ascii_case(b"async"),
        _ => false,
    };
    if !plain {
        return Err(Refusal::Syntax);
    }
    call.store.flush();
    call.reply.ok();
    Ok(())
}

pub(super) fn expire(call: &mut Call<'_>) -> Outcome {
    end_at(call, "expire", Unit::Seconds, call.store.now_ms)
}

pub(super) fn pexpire(call: &mut Call<'_>) -> Outcome {
    end_at(call, "pexpire", Unit::Milliseconds, call.store.now_ms)
}

pub(super) fn expireat(call: &mut Call<'_>) -> Outcome {
    end_at(call, "expireat", Unit::Seconds, 0)
}

pub(super) fn pexpireat(call: &mut Call<'_>) -> Outcome {
    end_at(call, "pexpireat", Unit::Milliseconds, 0)
}

/// On which condition a key's end is changed.
#[derive(Default)]
struct Condition {
    none: bool,
    some: bool,
    later: bool,
    earlier: bool,
}

impl Condition {
    fn parse(words: &[&[u8]]) -> Result<Self, Refusal> {
        let mut condition = Self::default();
        for word in words {
            match word.to_ascii_uppercase().as_slice() {
                b"NX" => condition.none = true,
                b"XX" => condition.some = true,
                b"GT" => condition.later = true,
                b"LT" => condition.earlier = true,
                _ => {
                    let word = String::from_utf8_lossy(word);
                    return Err(Refusal::err(&format!("Unsupported option {word}")));
                }
            }
        }
        let Self { none, some, later, earlier } = condition;
        if none && (some || later || earlier) {
            let words = "NX and XX, GT or LT options at the same time are not compatible";
            return Err(Refusal::err(words));
        }
        if later && earlier {
            let words = "GT and LT options at the same time are not compatible";
            return Err(Refusal::err(words));
        }
        Ok(condition)
    }

    /// `old` is zero for never, which is later than everything.
    const fn holds(&self, old: i64, new: i64) -> bool {
        let never = old == 0;
        let refused = self.none && !never
            || self.some && never
            || self.later && (never || new <= old)
            || self.earlier && !never && new >= old;
        !refused
    }
}

fn end_at(call: &mut Call<'_>, name: &str, unit: Unit, base_ms: u64) -> Outcome {
    let condition = Condition::parse(&call.arguments[3..])?;
    let end = moment(call.integer(2)?, unit, base_ms)
        .ok_or_else(|| Refusal::err(&format!("invalid expire time in '{name}' command")))?;
    let Some(found) = call.store.look_up(call.key()) else {
        call.reply.flag(false);
        return Ok(());
    };
    let old = found.entry.end_ms(call.arena());
    let changes = condition.holds(i64::try_from(old).unwrap_or(i64::MAX), end);
    if changes && end <= i64::try_from(call.store.now_ms).unwrap_or(i64::MAX) {
        call.store.delete(call.key());
    } else if changes {
        call.store.set_end(found.entry, end.unsigned_abs());
    }
    call.reply.flag(changes);
    Ok(())
}

pub(super) fn ttl(call: &mut Call<'_>) -> Outcome {
    left(call, |ms| (ms + 500) / 1000)
}

pub(super) fn pttl(call: &mut Call<'_>) -> Outcome {
    left(call, |ms| ms)
}

fn left(call: &mut Call<'_>, shown: fn(u64) -> u64) -> Outcome {
    let end = call.store.read(call.key()).map(|found| found.entry.end_ms(call.arena()));
    match end {
        None => call.reply.integer(-2),
        Some(0) => call.reply.integer(-1),
        Some(end) => call.reply.count(shown(end - call.store.now_ms)),
    }
    Ok(())
}

pub(super) fn persist(call: &mut Call<'_>) -> Outcome {
    let found = call.store.look_up(call.key());
    let mortal = found.filter(|found| found.entry.end_ms(call.arena()) != 0);
    if let Some(found) = mortal {
        call.store.set_end(found.entry, 0);
    }
    call.reply.flag(mortal.is_some());
    Ok(())
}

pub(super) fn kind(call: &mut Call<'_>) -> Outcome {
    let found = call.store.read(call.key());
    call.reply.simple(found.map_or("none", |found| found.kind.name()));
    Ok(())
}

pub(super) fn keys(call: &mut Call<'_>) -> Outcome {
    let (store, pattern) = (&*call.store, call.arguments[1]);
    let alive = store.keys().entries(store.arena()).filter(|entry| !store.has_ended(*entry));
    let named = alive.map(|entry| entry.key(store.arena()));
    call.reply.array_of(|reply| {
        named.filter(|key| glob::matches(pattern, key)).inspect(|key| reply.bulk(key)).count()
    });
    Ok(())
}

/// What the options of a SCAN ask for.
struct ScanOptions<'a> {
    pattern: Option<&'a [u8]>,
    kind: Option<Vec<u8>>,
    count: u64,
}

impl<'a> ScanOptions<'a> {
    fn parse(words: &[&'a [u8]]) -> Result<Self, Refusal> {
        let mut options = Self { pattern: None, kind: None, count: 10 };
        for pair in words.chunks(2) {
            let &[name, value] = pair else { return Err(Refusal::Syntax) };
            match name.to_ascii_uppercase().as_slice() {
                b"MATCH" => options.pattern = Some(value),
                b"TYPE" => options.kind = Some(value.to_ascii_lowercase()),
                b"COUNT" => {
                    let count = number::parse(value).ok_or(Refusal::NotAnInteger)?;
                    options.count = u64::try_from(count).map_err(|_| Refusal::Syntax)?;
                    if count == 0 {
                        return Err(Refusal::Syntax);
                    }
                }
                _ => return Err(Refusal::Syntax),
            }
        }
        Ok(options)
    }

    fn matches(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob::matches(pattern, name))
    }

    fn is_kind(&self, kind: Kind) -> bool {
        self.kind.as_ref().is_none_or(|wanted| wanted == kind.name().as_bytes())
    }
}

fn cursor_of(word: &[u8]) -> Result<Cursor, Refusal> {
    let cursor = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok());
    cursor.map(Cursor).ok_or_else(|| Refusal::err("invalid cursor"))
}

/// Some entries of a table from `cursor` on, about `count`, and where to go on.
fn walk(arena: &Arena, dict: Dict, mut cursor: Cursor, count: u64) -> (Vec<Entry>, Cursor) {
    let (mut found, mut buckets) = (Vec::new(), 0);
    // As Redis does, not much longer over empty buckets than over full ones.
    while (found.len() as u64) < count && buckets < count.saturating_mul(10) {
        let (entries, next) = dict.scan(arena, cursor);
        found.extend(entries);
        buckets += 1;
        cursor = next;
        if cursor == Cursor::default() {
            break;
        }
    }
    (found, cursor)
}

/// What each of the scans replies; `each` puts what was found, and says how many that are.
fn found(reply: &mut Reply, next: Cursor, each: impl FnOnce(&mut Reply) -> usize) {
    reply.array(2);
    reply.bulk(next.0.to_string().as_bytes());
    reply.array_of(each);
}

pub(super) fn scan(call: &mut Call<'_>) -> Outcome {
    let cursor = cursor_of(call.arguments[1])?;
    let options = ScanOptions::parse(&call.arguments[2..])?;
    let store = &*call.store;
    let (entries, next) = walk(store.arena(), store.keys(), cursor, options.count);
    found(call.reply, next, |reply| {
        let named = entries.into_iter().filter(|entry| {
            !store.has_ended(*entry)
                && options.is_kind(Kind::of(entry.kind(store.arena())))
                && options.matches(&entry.key(store.arena()))
        });
        named.inspect(|entry| reply.bulk_of(store.arena(), entry.key_span(store.arena()))).count()
    });
    Ok(())
}

pub(super) fn hscan(call: &mut Call<'_>) -> Outcome {
    scan_within(call, Kind::Hash)
}

pub(super) fn sscan(call: &mut Call<'_>) -> Outcome {
    scan_within(call, Kind::Set)
}

/// Fields with their values, or members.
fn scan_within(call: &mut Call<'_>, kind: Kind) -> Outcome {
    let cursor = cursor_of(call.arguments[2])?;
    let Some(dict) = call.reads(kind)?.map(Dict) else {
        found(call.reply, Cursor::default(), |_| 0);
        return Ok(());
    };
    let options = ScanOptions::parse(&call.arguments[3..])?;
    if options.kind.is_some() {
        return Err(Refusal::Syntax);
    }
    let arena = call.store.arena();
    let (entries, next) = walk(arena, dict, cursor, options.count);
    let named = entries.into_iter().filter(|entry| options.matches(&entry.key(arena)));
    found(call.reply, next, |reply| {
        let each = named.map(|entry| {
            reply.bulk_of(arena, entry.key_span(arena));
            if kind != Kind::Hash {
                return 1;
            }
            reply.bulk_of(arena, buffer::string_span(arena, entry.value(arena)));
            2
        });
        each.sum()
    });
    Ok(())
}
