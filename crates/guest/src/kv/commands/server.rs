//! What the store says about itself.

use super::super::glob;
use super::super::head;
use super::super::reply::{Refusal, Reply};
use super::connection::{REDIS_VERSION, no_subcommand};
use super::table::{self, COMMANDS, Command};
use super::{Call, Outcome};

pub(super) fn info(call: &mut Call<'_>) -> Outcome {
    let asked: Vec<_> = call.arguments[1..].iter().map(|name| name.to_ascii_lowercase()).collect();
    let all = asked.is_empty()
        || asked.iter().any(|name| matches!(name.as_slice(), b"all" | b"default" | b"everything"));
    let wanted = |name: &str| all || asked.iter().any(|asked| asked == name.as_bytes());
    let mut text = String::new();
    for (name, lines) in sections(call) {
        if wanted(&name.to_ascii_lowercase()) {
            let start = if text.is_empty() { "" } else { "\r\n" };
            text += &format!("{start}# {name}\r\n{lines}");
        }
    }
    call.reply.text(|reply| reply.words(&text));
    Ok(())
}

fn sections(call: &Call<'_>) -> Vec<(&'static str, String)> {
    let load = |at| call.arena().load(at);
    let store = &*call.store;
    let up = store.now_ms.saturating_sub(load(head::BORN_MS)) / 1000;
    let line = |name: &str, value: u64| format!("{name}:{value}\r\n");
    let server = format!(
        "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nserver_name:whimbrel-kv\r\n\
         whimbrel_version:{}\r\narch_bits:64\r\nuptime_in_seconds:{up}\r\n",
        env!("CARGO_PKG_VERSION")
    );
    let memory = line("used_memory", store.heap.used())
        + &line("maxmemory", store.limit)
        + "maxmemory_policy:noeviction\r\n";
    let stats = line("total_connections_received", load(head::ACCEPTED))
        + &line("total_commands_processed", load(head::COMMANDS))
        + &line("expired_keys", load(head::EXPIRED))
        + &line("keyspace_hits", load(head::HITS))
        + &line("keyspace_misses", load(head::MISSES));
    let (keys, mortals) = (store.keys().len(call.arena()), load(head::MORTALS));
    let keyspace = match keys {
        0 => String::new(),
        keys => format!("db0:keys={keys},expires={mortals},avg_ttl=0\r\n"),
    };
    vec![
        ("Server", server),
        ("Clients", line("connected_clients", load(head::CONNECTION_COUNT))),
        ("Memory", memory),
        ("Persistence", "loading:0\r\n".to_owned()),
        ("Stats", stats),
        ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
        ("Keyspace", keyspace),
    ]
}

pub(super) fn config(call: &mut Call<'_>) -> Outcome {
    if !call.arguments[1].eq_ignore_ascii_case(b"get") {
        return Err(no_subcommand(call.arguments[1], "CONFIG"));
    }
    let patterns: Vec<_> =
        call.arguments[2..].iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
    if patterns.is_empty() {
        return Err(Refusal::wrong_number("config|get"));
    }
    let limit = call.store.limit.to_string();
    let bulk_max = call.store.bulk_max().to_string();
    let settings = [
        ("appendonly", "no"),
        ("databases", "1"),
        ("maxmemory", &limit),
        ("maxmemory-policy", "noeviction"),
        ("proto-max-bulk-len", &bulk_max),
        ("save", ""),
        ("timeout", "0"),
    ];
    let like = |name: &str| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes()));
    let found: Vec<_> = settings.iter().filter(|(name, _)| like(name)).collect();
    call.reply.map(found.len());
    for (name, value) in found {
        call.reply.bulk(name.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    Ok(())
}

pub(super) fn command(call: &mut Call<'_>) -> Outcome {
    let what = call.arguments.get(1).copied().unwrap_or(b"info");
    let names = call.arguments.get(2..).unwrap_or_default();
    match what.to_ascii_lowercase().as_slice() {
        b"count" if names.is_empty() => call.reply.count(COMMANDS.len() as u64),
        b"count" => return Err(Refusal::wrong_number("command|count")),
        b"list" if names.is_empty() => {
            call.reply.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| call.reply.bulk(command.name.as_bytes()));
        }
        b"list" => return Err(Refusal::Syntax),
        b"info" if names.is_empty() => {
            call.reply.array(COMMANDS.len());
            COMMANDS.iter().for_each(|command| describe(call.reply, command));
        }
        b"info" => {
            call.reply.array(names.len());
            for name in names {
                match table::by_name(name) {
                    Some(command) => describe(call.reply, command),
                    None => call.reply.null(),
                }
            }
        }
        // What is known of a command is in `COMMAND INFO`; nothing is written about any.
        b"docs" => call.reply.map(0),
        _ => return Err(no_subcommand(what, "COMMAND")),
    }
    Ok(())
}

fn describe(reply: &mut Reply, command: &Command) {
    let (first, last, step) = command.keys;
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity.into());
    reply.set(command.flags.len());
    command.flags.iter().for_each(|flag| reply.simple(flag));
    [first, last, step].iter().for_each(|number| reply.integer((*number).into()));
    // Its categories, tips, key specifications and subcommands.
    reply.set(0);
    (0..3).for_each(|_| reply.array(0));
}
