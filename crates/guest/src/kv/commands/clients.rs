//! What clients ask about themselves and others, and do to others.

use std::collections::BTreeSet;

use super::super::connections;
use super::super::number;
use super::super::reply::{Refusal, Reply};
use super::connection::{checked_name, no_subcommand};
use super::{Call, Hears, Outcome};

const HELP: &[&str] = &[
    "GETREDIR",
    "    Return -1: replies are never redirected.",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "KILL <option> <value> [<option> <value> [...]]",
    "    Kill connections. Options are ID, TYPE, USER and SKIPME (YES|NO).",
    "    Addresses are not known here, so ADDR and LADDR match none.",
    "LIST [TYPE <type> | ID <id> [<id> ...]]",
    "    Return information about client connections.",
    "NO-EVICT (ON|OFF)",
    "    Do nothing: no client is ever evicted.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "UNPAUSE",
    "    Return OK: clients are never paused.",
];

pub(super) fn client(call: &mut Call<'_>) -> Outcome {
    let what = call.arguments[1].to_ascii_lowercase();
    match (what.as_slice(), &call.arguments[2..]) {
        (b"id", []) => call.reply.count(call.client.id),
        (b"getname", []) => match call.client.name.as_slice() {
            [] => call.reply.null(),
            name => call.reply.bulk(name),
        },
        (b"setname", [name]) => {
            call.client.name = checked_name(name)?.to_vec();
            call.reply.ok();
        }
        // Which library a client is made with is told by newer ones; it is of no use here.
        (b"setinfo", [_, _]) => call.reply.ok(),
        (b"info", []) => {
            let line = connections::describe(call.client);
            call.reply.text(|reply| reply.words(&line));
        }
        (b"list", which) => return list(call, which),
        (b"kill", [_, ..]) => return kill(call),
        (b"getredir", []) => call.reply.integer(-1),
        (b"unpause", []) => call.reply.ok(),
        (b"no-evict", [how]) if is_one_of(how, &["on", "off"]) => call.reply.ok(),
        (b"reply", [how]) => return hear(call, how),
        (b"no-evict", [_]) => return Err(Refusal::Syntax),
        (b"help", []) => help(call.reply, "CLIENT", HELP),
        (
            b"id" | b"getname" | b"setname" | b"setinfo" | b"info" | b"kill" | b"getredir"
            | b"unpause" | b"no-evict" | b"reply" | b"help",
            _,
        ) => {
            let name = String::from_utf8_lossy(&what);
            return Err(Refusal::wrong_number(&format!("client|{name}")));
        }
        _ => return Err(no_subcommand(call.arguments[1], "CLIENT")),
    }
    Ok(())
}

fn is_one_of(word: &[u8], words: &[&str]) -> bool {
    words.iter().any(|one| word.eq_ignore_ascii_case(one.as_bytes()))
}

/// Only the word that replies are wanted again is replied to.
fn hear(call: &mut Call<'_>, how: &[u8]) -> Outcome {
    let hears = &mut call.client.hears;
    *hears = match how.to_ascii_lowercase().as_slice() {
        b"on" => Hears::Everything,
        b"off" => Hears::Nothing,
        b"skip" if *hears == Hears::Nothing => Hears::Nothing,
        b"skip" => Hears::AfterNext,
        _ => return Err(Refusal::Syntax),
    };
    call.reply.ok();
    Ok(())
}

/// What the subcommands of a command do.
pub(super) fn help(reply: &mut Reply, command: &str, lines: &[&str]) {
    reply.array(lines.len() + 3);
    let first = "<subcommand> [<arg> [value] [opt] ...]. Subcommands are:";
    reply.simple(&format!("{command} {first}"));
    lines.iter().for_each(|line| reply.simple(line));
    reply.simple("HELP");
    reply.simple("    Prints this help.");
}

/// Whether all clients are of this type; of the others there is none here.
fn is_type_of_all(name: &[u8]) -> Result<bool, Refusal> {
    let known = is_one_of(name, &["normal", "master", "replica", "slave", "pubsub"]);
    let name = String::from_utf8_lossy(name);
    let unknown = || Refusal::err(&format!("Unknown client type '{name}'"));
    if known { Ok(name.eq_ignore_ascii_case("normal")) } else { Err(unknown()) }
}

fn list(call: &mut Call<'_>, which: &[&[u8]]) -> Outcome {
    let mut ids = None;
    match which {
        [] => {}
        [what, name] if is_one_of(what, &["type"]) => {
            ids = (!is_type_of_all(name)?).then(BTreeSet::new);
        }
        [what, some @ ..] if is_one_of(what, &["id"]) && !some.is_empty() => {
            let parse = |id: &&[u8]| number::parse(id).map(i64::cast_unsigned);
            let parsed = some.iter().map(parse).collect::<Option<BTreeSet<_>>>();
            ids = Some(parsed.ok_or_else(|| Refusal::err("Invalid client ID"))?);
        }
        _ => return Err(Refusal::Syntax),
    }
    let asked = |id| ids.as_ref().is_none_or(|ids| ids.contains(&id));
    let (store, client) = (&*call.store, &*call.client);
    call.reply.text(|reply| {
        for one in connections::clients(store, client).filter(|one| asked(one.id)) {
            reply.words(&connections::describe(&one));
        }
    });
    Ok(())
}

/// Ends connections; the one that asks hears of it first.
fn kill(call: &mut Call<'_>) -> Outcome {
    let options = &call.arguments[2..];
    // By its address, which only its relay knows.
    if options.len() == 1 {
        return Err(Refusal::err("No such client"));
    }
    let (mut id, mut any, mut itself) = (None, true, false);
    for pair in options.chunks(2) {
        let &[option, value] = pair else { return Err(Refusal::Syntax) };
        match option.to_ascii_lowercase().as_slice() {
            b"id" => {
                let positive = number::parse(value).filter(|id| *id > 0);
                let wrong = || Refusal::err("client-id should be greater than 0");
                id = Some(positive.ok_or_else(wrong)?.unsigned_abs());
            }
            b"type" => any &= is_type_of_all(value)?,
            b"addr" | b"laddr" => any = false,
            b"user" if value == b"default" => {}
            b"user" => {
                let user = String::from_utf8_lossy(value);
                return Err(Refusal::err(&format!("No such user '{user}'")));
            }
            b"skipme" if is_one_of(value, &["yes"]) => itself = false,
            b"skipme" if is_one_of(value, &["no"]) => itself = true,
            _ => return Err(Refusal::Syntax),
        }
    }
    let own = call.client.id;
    let meant = |one: &u64| any && id.is_none_or(|id| id == *one) && (itself || *one != own);
    let all = connections::clients(call.store, call.client).map(|one| one.id);
    let (mine, others): (Vec<_>, Vec<_>) = all.filter(meant).partition(|one| *one == own);
    call.reply.count((mine.len() + others.len()) as u64);
    call.client.leaving |= !mine.is_empty();
    call.store.ended.extend(others);
    Ok(())
}
