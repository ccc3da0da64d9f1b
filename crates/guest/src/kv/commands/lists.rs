//! Lists.

use super::super::list::{End, List};
use super::super::number;
use super::super::reply::Refusal;
use super::super::store::Kind;
use super::{Call, Outcome};

pub(super) fn lpush(call: &mut Call<'_>) -> Outcome {
    push(call, End::Left)
}

pub(super) fn rpush(call: &mut Call<'_>) -> Outcome {
    push(call, End::Right)
}

fn push(call: &mut Call<'_>, end: End) -> Outcome {
    let list = List(call.collection(Kind::List)?);
    for element in call.rest() {
        list.push(&call.store.heap, end, element)?;
    }
    let len = list.len(call.arena());
    call.reply.count(len);
    Ok(())
}

pub(super) fn lpop(call: &mut Call<'_>) -> Outcome {
    pop(call, End::Left, "lpop")
}

pub(super) fn rpop(call: &mut Call<'_>) -> Outcome {
    pop(call, End::Right, "rpop")
}

/// A count that may be left out.
pub(super) fn how_many(call: &Call<'_>, surplus: Refusal) -> Result<Option<u64>, Refusal> {
    match call.arguments.get(2..) {
        None | Some([]) => Ok(None),
        Some([count]) => {
            let count = number::parse(count).and_then(|count| u64::try_from(count).ok());
            count.map(Some).ok_or_else(|| Refusal::err("value is out of range, must be positive"))
        }
        Some(_) => Err(surplus),
    }
}

fn pop(call: &mut Call<'_>, end: End, name: &str) -> Outcome {
    let count = how_many(call, Refusal::wrong_number(name))?;
    let list = call.changes(Kind::List)?.map(List);
    let Some(list) = list else {
        if count.is_some() {
            call.reply.null_array()
        } else {
            call.reply.null()
        }
        return Ok(());
    };
    let wanted = count.unwrap_or(1).min(list.len(call.arena()));
    if count.is_some() {
        call.reply.array(wanted as usize);
    }
    let arena = call.store.arena();
    list.at_end(arena, end, wanted, |element| call.reply.bulk_of(arena, element));
    call.can_reply()?;
    for _ in 0..wanted {
        list.drop_one(&call.store.heap, end);
    }
    if list.len(call.arena()) == 0 {
        call.store.delete(call.key());
    }
    Ok(())
}

pub(super) fn llen(call: &mut Call<'_>) -> Outcome {
    let len = call.reads(Kind::List)?.map_or(0, |at| List(at).len(call.arena()));
    call.reply.count(len);
    Ok(())
}

pub(super) fn lrange(call: &mut Call<'_>) -> Outcome {
    let (first, last) = (call.integer(2)?, call.integer(3)?);
    let Some(list) = call.reads(Kind::List)?.map(List) else {
        call.reply.array(0);
        return Ok(());
    };
    let len = list.len(call.arena());
    // Negative ones count from the end.
    let place = |index: i64| match u64::try_from(index) {
        Ok(index) => Some(index),
        Err(_) => len.checked_sub(index.unsigned_abs()),
    };
    let first = place(first).unwrap_or(0);
    let end = place(last).map_or(0, |last| last.saturating_add(1).min(len));
    if first >= end {
        call.reply.array(0);
        return Ok(());
    }
    call.reply.array((end - first) as usize);
    let (arena, reply) = (call.store.arena(), &mut *call.reply);
    list.range(arena, first, end, |element| reply.bulk_of(arena, element));
    Ok(())
}
