//! Strings, and numbers in them.

use std::ops::Range;

use super::super::arena::Span;
use super::super::buffer::{self, STRING_HEAD};
use super::super::number;
use super::super::reply::Refusal;
use super::super::store::{Kind, Store};
use super::keys::{Unit, moment};
use super::{Call, Outcome};

/// The longest string there can be.
const STRING_MAX: u64 = 512 << 20;

pub(super) fn get(call: &mut Call<'_>) -> Outcome {
    let value = call.reads(Kind::String)?.map(|at| buffer::string_span(call.arena(), at));
    call.reply.bulk_or_null(call.store.arena(), value);
    Ok(())
}

pub(super) fn getrange(call: &mut Call<'_>) -> Outcome {
    let (first, last) = (call.integer(2)?, call.integer(3)?);
    let Some(at) = call.reads(Kind::String)? else {
        call.reply.bulk(b"");
        return Ok(());
    };
    let whole = buffer::string_span(call.arena(), at);
    let part = range(first, last, whole.len);
    let part = Span { at: whole.at.plus(part.start), len: part.end - part.start };
    call.reply.bulk_of(call.store.arena(), part);
    Ok(())
}

/// The bytes between two places of a string, as Redis counts them: negative ones from its end, and
/// one that is before its beginning is its beginning, at whichever end of the range it stands.
fn range(first: i64, last: i64, len: u64) -> Range<u64> {
    let place = |index: i64| match u64::try_from(index) {
        Ok(index) => index,
        Err(_) => len.saturating_sub(index.unsigned_abs()),
    };
    let end = place(last).saturating_add(1).min(len);
    let none = first < 0 && last < 0 && first > last;
    if none { 0..0 } else { place(first).min(end)..end }
}

/// What the options of a SET ask for.
#[derive(Default)]
struct SetOptions {
    only_new: bool,
    only_old: bool,
    keep_end: bool,
    get: bool,
    /// Which argument says when it ends, and how.
    end: Option<(usize, Unit, bool)>,
}

impl SetOptions {
    fn parse(call: &Call<'_>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        let mut index = 3;
        while let Some(word) = call.arguments.get(index) {
            let word = word.to_ascii_uppercase();
            let has_end = options.end.is_some();
            let unit = if word.starts_with(b"E") { Unit::Seconds } else { Unit::Milliseconds };
            let absolute = word.ends_with(b"AT");
            // The same option again is the last one that counts; another one is an error.
            let other_end = options.end.is_some_and(|(_, it, at)| (it, at) != (unit, absolute));
            let more = index + 1 < call.arguments.len();
            match word.as_slice() {
                b"NX" if !options.only_old => options.only_new = true,
                b"XX" if !options.only_new => options.only_old = true,
                b"GET" => options.get = true,
                b"KEEPTTL" if !has_end => options.keep_end = true,
                b"EX" | b"PX" | b"EXAT" | b"PXAT" if !other_end && !options.keep_end && more => {
                    options.end = Some((index + 1, unit, absolute));
                    index += 1;
                }
                _ => return Err(Refusal::Syntax),
            }
            index += 1;
        }
        Ok(options)
    }
}

pub(super) fn set(call: &mut Call<'_>) -> Outcome {
    let options = SetOptions::parse(call)?;
    let end = match options.end {
        None => 0,
        Some((index, unit, absolute)) => {
            let base = if absolute { 0 } else { call.store.now_ms };
            end_of_new(call.integer(index)?, unit, base, "set")?
        }
    };
    let old = match options.get {
        true => call.changes(Kind::String)?.map(|at| buffer::string_span(call.arena(), at)),
        false => None,
    };
    let there = call.store.look_up(call.key()).is_some();
    let stays = if there { options.only_new } else { options.only_old };
    match (options.get, stays) {
        (true, _) => call.reply.bulk_or_null(call.store.arena(), old),
        (false, true) => call.reply.null(),
        (false, false) => call.reply.ok(),
    }
    call.can_reply()?;
    if !stays {
        let [_, key, value, ..] = call.arguments else { return Err(Refusal::Syntax) };
        let entry = call.store.set(key, value, options.keep_end)?;
        if end != 0 {
            call.store.set_end(entry, end);
        }
    }
    Ok(())
}

/// When something ends that is set now, in milliseconds of the epoch.
fn end_of_new(given: i64, unit: Unit, base_ms: u64, name: &str) -> Result<u64, Refusal> {
    let end = if given > 0 { moment(given, unit, base_ms) } else { None };
    let wrong = || Refusal::err(&format!("invalid expire time in '{name}' command"));
    end.map(i64::unsigned_abs).ok_or_else(wrong)
}

pub(super) fn setex(call: &mut Call<'_>) -> Outcome {
    set_mortal(call, Unit::Seconds, "setex")
}

pub(super) fn psetex(call: &mut Call<'_>) -> Outcome {
    set_mortal(call, Unit::Milliseconds, "psetex")
}

fn set_mortal(call: &mut Call<'_>, unit: Unit, name: &str) -> Outcome {
    let end = end_of_new(call.integer(2)?, unit, call.store.now_ms, name)?;
    let entry = call.store.set(call.key(), call.arguments[3], false)?;
    call.store.set_end(entry, end);
    call.reply.ok();
    Ok(())
}

pub(super) fn setnx(call: &mut Call<'_>) -> Outcome {
    let new = call.store.look_up(call.key()).is_none();
    if new {
        call.store.set(call.key(), call.arguments[2], false)?;
    }
    call.reply.flag(new);
    Ok(())
}

pub(super) fn getset(call: &mut Call<'_>) -> Outcome {
    let old = call.changes(Kind::String)?.map(|at| buffer::string_span(call.arena(), at));
    call.reply.bulk_or_null(call.store.arena(), old);
    call.can_reply()?;
    call.store.set(call.key(), call.arguments[2], false)?;
    Ok(())
}

pub(super) fn mget(call: &mut Call<'_>) -> Outcome {
    call.reply.array(call.arguments.len() - 1);
    for key in &call.arguments[1..] {
        let found = call.store.read(key).filter(|found| found.kind == Kind::String);
        let value = found.map(|found| buffer::string_span(call.store.arena(), found.value));
        call.reply.bulk_or_null(call.store.arena(), value);
    }
    Ok(())
}

pub(super) fn mset(call: &mut Call<'_>) -> Outcome {
    let pairs = call.arguments[1..].chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(Refusal::wrong_number("mset"));
    }
    for pair in pairs {
        call.store.set(pair[0], pair[1], false)?;
    }
    call.reply.ok();
    Ok(())
}

/// What the string at the key will need once the argument is appended to it.
pub(super) fn appended(store: &Store, arguments: &[&[u8]]) -> u64 {
    let old = store.look_up(arguments[1]).filter(|found| found.kind == Kind::String);
    let len = old.map_or(0, |found| buffer::string_len(store.arena(), found.value));
    STRING_HEAD + len + arguments[2].len() as u64
}

pub(super) fn append(call: &mut Call<'_>) -> Outcome {
    let more = call.arguments[2];
    let Some(found) = call.store.look_up(call.key()) else {
        call.store.set(call.key(), more, false)?;
        call.reply.count(more.len() as u64);
        return Ok(());
    };
    if found.kind != Kind::String {
        return Err(Refusal::WrongType);
    }
    let len = buffer::string_len(call.arena(), found.value) + more.len() as u64;
    if len > STRING_MAX {
        let words = "string exceeds maximum allowed size (proto-max-bulk-len)";
        return Err(Refusal::err(words));
    }
    let at = buffer::append_string(&call.store.heap, found.value, more)?;
    found.entry.set_value(call.arena(), at);
    call.reply.count(len);
    Ok(())
}

pub(super) fn strlen(call: &mut Call<'_>) -> Outcome {
    let len = call.reads(Kind::String)?.map_or(0, |at| buffer::string_len(call.arena(), at));
    call.reply.count(len);
    Ok(())
}

pub(super) fn incr(call: &mut Call<'_>) -> Outcome {
    change(call, 1)
}

pub(super) fn decr(call: &mut Call<'_>) -> Outcome {
    change(call, -1)
}

pub(super) fn incrby(call: &mut Call<'_>) -> Outcome {
    let by = call.integer(2)?;
    change(call, by)
}

pub(super) fn decrby(call: &mut Call<'_>) -> Outcome {
    let by = call.integer(2)?.checked_neg();
    change(call, by.ok_or_else(|| Refusal::err("decrement would overflow"))?)
}

fn change(call: &mut Call<'_>, by: i64) -> Outcome {
    let old = match call.changes(Kind::String)? {
        None => 0,
        // No number is longer; a long string is not read to find that out.
        Some(at) if buffer::string_len(call.arena(), at) > 20 => return Err(Refusal::NotAnInteger),
        Some(at) => {
            number::parse(&buffer::string(call.arena(), at)).ok_or(Refusal::NotAnInteger)?
        }
    };
    let new = old.checked_add(by);
    let new = new.ok_or_else(|| Refusal::err("increment or decrement would overflow"))?;
    call.store.set(call.key(), new.to_string().as_bytes(), true)?;
    call.reply.integer(new);
    Ok(())
}
