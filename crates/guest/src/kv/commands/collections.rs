//! Hashes and sets.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use super::super::arena::{At, Span};
use super::super::buffer;
use super::super::dict::{Cursor, Dict, Entry};
use super::super::reply::Refusal;
use super::super::store::{Kind, Store};
use super::lists::how_many;
use super::{Call, Outcome};

fn member(store: &Store, dict: Dict, name: &[u8]) -> Option<Entry> {
    dict.get(store.arena(), store.hash(name), name)
}

pub(super) fn hset(call: &mut Call<'_>) -> Outcome {
    let added = set_fields(call, "hset")?;
    call.reply.count(added);
    Ok(())
}

/// As HSET, from when that took one field only.
pub(super) fn hmset(call: &mut Call<'_>) -> Outcome {
    set_fields(call, "hmset")?;
    call.reply.ok();
    Ok(())
}

/// How many fields are new.
fn set_fields(call: &mut Call<'_>, name: &str) -> Result<u64, Refusal> {
    let rest = call.rest();
    let pairs = rest.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(Refusal::wrong_number(name));
    }
    let (dict, mut added) = (Dict(call.collection(Kind::Hash)?), 0);
    let store = &*call.store;
    for pair in pairs {
        if let Some(entry) = member(store, dict, pair[0]) {
            let value = buffer::set_string(&store.heap, entry.value(store.arena()), pair[1])?;
            entry.set_value(store.arena(), value);
            continue;
        }
        let value = buffer::new_string(&store.heap, pair[1])?;
        dict.add(&store.heap, store.hash(pair[0]), pair[0])?.set_value(store.arena(), value);
        added += 1;
    }
    Ok(added)
}

fn field(store: &Store, hash: Option<At>, name: &[u8]) -> Option<Span> {
    let entry = member(store, Dict(hash?), name)?;
    Some(buffer::string_span(store.arena(), entry.value(store.arena())))
}

pub(super) fn hget(call: &mut Call<'_>) -> Outcome {
    let value = field(call.store, call.reads(Kind::Hash)?, call.arguments[2]);
    call.reply.bulk_or_null(call.store.arena(), value);
    Ok(())
}

pub(super) fn hmget(call: &mut Call<'_>) -> Outcome {
    let hash = call.reads(Kind::Hash)?;
    call.reply.array(call.arguments.len() - 2);
    for name in &call.arguments[2..] {
        let value = field(call.store, hash, name);
        call.reply.bulk_or_null(call.store.arena(), value);
    }
    Ok(())
}

pub(super) fn hgetall(call: &mut Call<'_>) -> Outcome {
    let Some(dict) = call.reads(Kind::Hash)?.map(Dict) else {
        call.reply.map(0);
        return Ok(());
    };
    let arena = call.store.arena();
    call.reply.map(dict.len(arena) as usize);
    for entry in dict.entries(arena) {
        call.reply.bulk_of(arena, entry.key_span(arena));
        call.reply.bulk_of(arena, buffer::string_span(arena, entry.value(arena)));
    }
    Ok(())
}

pub(super) fn hdel(call: &mut Call<'_>) -> Outcome {
    remove(call, Kind::Hash)
}

pub(super) fn srem(call: &mut Call<'_>) -> Outcome {
    remove(call, Kind::Set)
}

fn remove(call: &mut Call<'_>, kind: Kind) -> Outcome {
    let mut removed = 0;
    if let Some(dict) = call.changes(kind)?.map(Dict) {
        for name in call.rest() {
            let value = dict.remove(&call.store.heap, call.store.hash(name), name);
            removed += u64::from(value.is_some());
            // A member of a set holds nothing.
            if let Some(value) = value.and_then(At::place) {
                call.store.heap.free(value);
            }
        }
        if dict.len(call.arena()) == 0 {
            call.store.delete(call.key());
        }
    }
    call.reply.count(removed);
    Ok(())
}

pub(super) fn hlen(call: &mut Call<'_>) -> Outcome {
    len(call, Kind::Hash)
}

pub(super) fn scard(call: &mut Call<'_>) -> Outcome {
    len(call, Kind::Set)
}

fn len(call: &mut Call<'_>, kind: Kind) -> Outcome {
    let len = call.reads(kind)?.map_or(0, |at| Dict(at).len(call.arena()));
    call.reply.count(len);
    Ok(())
}

pub(super) fn sadd(call: &mut Call<'_>) -> Outcome {
    let (dict, mut added) = (Dict(call.collection(Kind::Set)?), 0);
    let store = &*call.store;
    for name in &call.arguments[2..] {
        if member(store, dict, name).is_none() {
            dict.add(&store.heap, store.hash(name), name)?;
            added += 1;
        }
    }
    call.reply.count(added);
    Ok(())
}

pub(super) fn sismember(call: &mut Call<'_>) -> Outcome {
    let set = call.reads(Kind::Set)?.map(Dict);
    let there = set.is_some_and(|dict| member(call.store, dict, call.arguments[2]).is_some());
    call.reply.flag(there);
    Ok(())
}

pub(super) fn smembers(call: &mut Call<'_>) -> Outcome {
    let Some(dict) = call.reads(Kind::Set)?.map(Dict) else {
        call.reply.set(0);
        return Ok(());
    };
    let arena = call.store.arena();
    call.reply.set(dict.len(arena) as usize);
    dict.entries(arena).for_each(|entry| call.reply.bulk_of(arena, entry.key_span(arena)));
    Ok(())
}

pub(super) fn spop(call: &mut Call<'_>) -> Outcome {
    let count = how_many(call, Refusal::Syntax)?;
    let Some(dict) = call.changes(Kind::Set)?.map(Dict) else {
        if count.is_some() {
            call.reply.set(0)
        } else {
            call.reply.null()
        }
        return Ok(());
    };
    let wanted = count.unwrap_or(1).min(dict.len(call.arena()));
    if count.is_some() {
        call.reply.set(wanted as usize);
    }
    let (members, arena) = (some_members(call.store, dict, wanted), call.store.arena());
    members.iter().for_each(|member| call.reply.bulk_of(arena, member.key_span(arena)));
    call.can_reply()?;
    for member in members {
        let name = member.key(call.arena());
        dict.remove(&call.store.heap, call.store.hash(&name), &name);
    }
    if dict.len(call.arena()) == 0 {
        call.store.delete(call.key());
    }
    Ok(())
}

/// So many members of a set that has them: those that chance has first.
fn some_members(store: &Store, dict: Dict, wanted: u64) -> BTreeSet<Entry> {
    let mut cursor = Cursor(RandomState::new().hash_one(0));
    let mut members = BTreeSet::new();
    while (members.len() as u64) < wanted {
        let (entries, next) = dict.scan(store.arena(), cursor);
        for entry in entries {
            if (members.len() as u64) < wanted {
                members.insert(entry);
            }
        }
        cursor = next;
    }
    members
}
