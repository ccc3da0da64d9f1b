//! Every command with its arity, as `COMMAND` tells it.

use super::super::reply::Refusal;
use super::super::store::Store;
use super::{Call, Outcome, clients, collections, connection, keys, lists, server, strings};

/// One command.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// Words with the name's own; negative for "at least".
    pub(super) arity: i32,
    pub(super) flags: &'static [&'static str],
    /// First and last argument that is a key, and the step between them.
    pub(super) keys: (i32, i32, i32),
    pub(super) run: fn(&mut Call<'_>) -> Outcome,
    /// Memory needed beside the arguments': what a value that is there grows to.
    pub(super) grows: fn(&Store, &[&[u8]]) -> u64,
}

impl Command {
    pub(super) fn takes_memory(&self) -> bool {
        self.flags.contains(&"denyoom")
    }

    fn allows(&self, words: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { words >= arity } else { words == arity }
    }
}

const NO_KEY: (i32, i32, i32) = (0, 0, 0);
const ONE: (i32, i32, i32) = (1, 1, 1);
const ALL: (i32, i32, i32) = (1, -1, 1);
const PAIRS: (i32, i32, i32) = (1, -1, 2);

const READ: &[&str] = &["readonly"];
const FAST_READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write"];
const FAST_WRITE: &[&str] = &["write", "fast"];
const GROW: &[&str] = &["write", "denyoom"];
const FAST_GROW: &[&str] = &["write", "denyoom", "fast"];
const ADMIN: &[&str] = &["loading", "stale"];
const FAST_ADMIN: &[&str] = &["loading", "stale", "fast"];
const GREETING: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];

const fn command(
    name: &'static str,
    arity: i32,
    flags: &'static [&'static str],
    keys: (i32, i32, i32),
    run: fn(&mut Call<'_>) -> Outcome,
) -> Command {
    Command { name, arity, flags, keys, run, grows: |_, _| 0 }
}

/// In the order of the alphabet.
pub(super) const COMMANDS: &[Command] = &[
    Command { grows: strings::appended, ..command("append", 3, FAST_GROW, ONE, strings::append) },
    command("auth", -2, GREETING, NO_KEY, connection::auth),
    command("client", -2, &[], NO_KEY, clients::client),
    command("command", -1, ADMIN, NO_KEY, server::command),
    command("config", -2, &[], NO_KEY, server::config),
    command("dbsize", 1, FAST_READ, NO_KEY, keys::dbsize),
    command("decr", 2, FAST_GROW, ONE, strings::decr),
    command("decrby", 3, FAST_GROW, ONE, strings::decrby),
    command("del", -2, WRITE, ALL, keys::del),
    command("echo", 2, FAST_ADMIN, NO_KEY, connection::echo),
    command("exists", -2, FAST_READ, ALL, keys::exists),
    command("expire", -3, FAST_WRITE, ONE, keys::expire),
    command("expireat", -3, FAST_WRITE, ONE, keys::expireat),
    command("flushall", -1, WRITE, NO_KEY, keys::flush),
    command("flushdb", -1, WRITE, NO_KEY, keys::flush),
    command("get", 2, FAST_READ, ONE, strings::get),
    command("getrange", 4, READ, ONE, strings::getrange),
    command("getset", 3, FAST_GROW, ONE, strings::getset),
    command("hdel", -3, FAST_WRITE, ONE, collections::hdel),
    command("hello", -1, GREETING, NO_KEY, connection::hello),
    command("hget", 3, FAST_READ, ONE, collections::hget),
    command("hgetall", 2, READ, ONE, collections::hgetall),
    command("hlen", 2, FAST_READ, ONE, collections::hlen),
    command("hmget", -3, FAST_READ, ONE, collections::hmget),
    command("hmset", -4, FAST_GROW, ONE, collections::hmset),
    command("hscan", -3, READ, ONE, keys::hscan),
    command("hset", -4, FAST_GROW, ONE, collections::hset),
    command("incr", 2, FAST_GROW, ONE, strings::incr),
    command("incrby", 3, FAST_GROW, ONE, strings::incrby),
    command("info", -1, ADMIN, NO_KEY, server::info),
    command("keys", 2, READ, NO_KEY, keys::keys),
    command("llen", 2, FAST_READ, ONE, lists::llen),
    command("lpop", -2, FAST_WRITE, ONE, lists::lpop),
    command("lpush", -3, FAST_GROW, ONE, lists::lpush),
    command("lrange", 4, READ, ONE, lists::lrange),
    command("mget", -2, FAST_READ, ALL, strings::mget),
    command("mset", -3, GROW, PAIRS, strings::mset),
    command("persist", 2, FAST_WRITE, ONE, keys::persist),
    command("pexpire", -3, FAST_WRITE, ONE, keys::pexpire),
    command("pexpireat", -3, FAST_WRITE, ONE, keys::pexpireat),
    command("ping", -1, &["fast"], NO_KEY, connection::ping),
    command("psetex", 4, GROW, ONE, strings::psetex),
    command("pttl", 2, FAST_READ, ONE, keys::pttl),
    command("quit", -1, GREETING, NO_KEY, connection::quit),
    command("rpop", -2, FAST_WRITE, ONE, lists::rpop),
    command("rpush", -3, FAST_GROW, ONE, lists::rpush),
    command("sadd", -3, FAST_GROW, ONE, collections::sadd),
    command("scan", -2, READ, NO_KEY, keys::scan),
    command("scard", 2, FAST_READ, ONE, collections::scard),
    command("select", 2, FAST_ADMIN, NO_KEY, connection::select),
    command("set", -3, GROW, ONE, strings::set),
    command("setex", 4, GROW, ONE, strings::setex),
    command("setnx", 3, FAST_GROW, ONE, strings::setnx),
    command("sismember", 3, FAST_READ, ONE, collections::sismember),
    command("smembers", 2, READ, ONE, collections::smembers),
    command("spop", -2, FAST_WRITE, ONE, collections::spop),
    command("srem", -3, FAST_WRITE, ONE, collections::srem),
    command("sscan", -3, READ, ONE, keys::sscan),
    command("strlen", 2, FAST_READ, ONE, strings::strlen),
    command("ttl", 2, FAST_READ, ONE, keys::ttl),
    command("type", 2, FAST_READ, ONE, keys::kind),
    command("unlink", -2, FAST_WRITE, ALL, keys::del),
];

/// What a request of a browser begins with; no command that anybody is told of.
const WEB_PAGE: &Command = &command("post", -1, ADMIN, NO_KEY, connection::web_page);

/// The command that these words ask for.
pub(super) fn find(words: &[&[u8]]) -> Result<&'static Command, Refusal> {
    let is_page = ["post", "host:"].iter().any(|it| words[0].eq_ignore_ascii_case(it.as_bytes()));
    let named = if is_page { Some(WEB_PAGE) } else { by_name(words[0]) };
    let command = named.ok_or_else(|| unknown(words))?;
    if command.allows(words.len()) { Ok(command) } else { Err(Refusal::wrong_number(command.name)) }
}

pub(super) fn by_name(name: &[u8]) -> Option<&'static Command> {
    let mut lower = [0; 16];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let found = COMMANDS.binary_search_by(|command| command.name.as_bytes().cmp(lower));
    found.ok().map(|index| &COMMANDS[index])
}

/// Redis repeats the command and as much of its arguments as fits in 128 bytes.
fn unknown(words: &[&[u8]]) -> Refusal {
    let shown = |word: &[u8], most: usize| {
        String::from_utf8_lossy(&word[..word.len().min(most)]).into_owned()
    };
    let mut arguments = String::new();
    for word in &words[1..] {
        if arguments.len() >= 128 {
            break;
        }
        arguments += &format!("'{}' ", shown(word, 128 - arguments.len()));
    }
    Refusal::err(&format!(
        "unknown command '{}', with args beginning with: {arguments}",
        shown(words[0], 128)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_by_any_spelling_of_their_name() {
        assert!(COMMANDS.is_sorted_by_key(|command| command.name));
        for command in COMMANDS {
            let upper = command.name.to_ascii_uppercase();
            assert_eq!(by_name(upper.as_bytes()).map(|found| found.name), Some(command.name));
        }
        assert!(by_name(b"").is_none());
        assert!(by_name(&[b'a'; 300]).is_none());
    }
}
