//! The commands: which there are, what each takes, and what every one of them is checked for.

mod clients;
mod collections;
mod connection;
mod keys;
mod lists;
mod server;
mod strings;
mod table;
#[cfg(test)]
mod tests;

use super::arena::{Arena, At};
use super::chain::Chain;
use super::head;
use super::heap::Full;
use super::number;
use super::reply::{Refusal, Reply};
use super::request::BULK_MAX;
use super::session::SMALL;
use super::store::{Found, Kind, Store};
use table::Command;

type Outcome = Result<(), Refusal>;

/// The longest reply, whatever room there is for it in the guest: it is made in memory of the host.
/// The longest string fits.
const REPLY_MAX: u64 = BULK_MAX + SMALL;

/// What the store knows of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) name: Vec<u8>,
    /// It speaks RESP3.
    pub(crate) third: bool,
    /// It wants no more than the replies that are on their way.
    pub(crate) leaving: bool,
    pub(crate) hears: Hears,
}

/// Which replies a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hears {
    #[default]
    Everything,
    /// Everything but the reply to the command that follows this one.
    AfterNext,
    /// Everything but the reply to the command that comes now.
    AfterThis,
    Nothing,
}

impl Hears {
    /// Whether it wants the reply to the command that comes now.
    pub(crate) const fn this(self) -> bool {
        !matches!(self, Self::AfterThis | Self::Nothing)
    }

    /// What it wants once that is over.
    pub(crate) const fn then(self) -> Self {
        match self {
            Self::AfterNext => Self::AfterThis,
            Self::AfterThis => Self::Everything,
            Self::Everything | Self::Nothing => self,
        }
    }
}

/// One command that is carried out.
pub(crate) struct Call<'a> {
    pub(crate) store: &'a mut Store,
    pub(crate) client: &'a mut Client,
    pub(crate) reply: &'a mut Reply,
    /// Where the reply goes.
    pub(crate) outbox: Chain,
    /// The command's name and what follows it.
    pub(crate) arguments: &'a [&'a [u8]],
}

impl Call<'_> {
    fn arena(&self) -> &Arena {
        self.store.arena()
    }

    fn integer(&self, index: usize) -> Result<i64, Refusal> {
        number::parse(self.arguments[index]).ok_or(Refusal::NotAnInteger)
    }

    fn key(&self) -> &[u8] {
        self.arguments[1]
    }

    /// What the first argument names, if it is there and of this kind.
    fn reads(&self, kind: Kind) -> Result<Option<At>, Refusal> {
        of_kind(self.store.read(self.key()), kind)
    }

    /// As [`Call::reads`], for a command that changes it.
    fn changes(&self, kind: Kind) -> Result<Option<At>, Refusal> {
        of_kind(self.store.look_up(self.key()), kind)
    }

    /// The collection that the first argument names; a new one if there is none.
    fn collection(&self, kind: Kind) -> Result<At, Refusal> {
        match self.changes(kind)? {
            Some(value) => Ok(value),
            None => Ok(self.store.add_collection(self.key(), kind)?),
        }
    }

    /// Makes sure that there is room for the reply as it is. What takes away what it replies with
    /// asks before it does: it could not be said later.
    fn can_reply(&self) -> Outcome {
        if !self.client.hears.this() {
            return Ok(());
        }
        let len = self.reply.bytes.len() as u64;
        let has_room = !self.reply.is_cut() && self.outbox.widen(&self.store.heap, len).is_ok();
        if has_room { Ok(()) } else { Err(Refusal::Reply) }
    }

    /// What follows the key.
    fn rest(&self) -> Vec<&[u8]> {
        self.arguments[2..].to_vec()
    }
}

fn of_kind(found: Option<Found>, kind: Kind) -> Result<Option<At>, Refusal> {
    match found {
        Some(found) if found.kind != kind => Err(Refusal::WrongType),
        found => Ok(found.map(|found| found.value)),
    }
}

/// Carries out one command, which has at least a name. If there is no room for the reply, then
/// there is none, and nothing has changed; a reply of [`super::session::SMALL`] bytes has room.
pub(crate) fn execute(
    store: &mut Store,
    client: &mut Client,
    reply: &mut Reply,
    outbox: Chain,
    arguments: &[&[u8]],
) -> Result<(), Full> {
    reply.third = client.third;
    let counters = [head::COMMANDS, head::HITS, head::MISSES];
    let counted = counters.map(|at| store.arena().load(at));
    store.arena().add(head::COMMANDS, 1);
    let start = reply.bytes.len();
    let call = &mut Call { store, client, reply, outbox, arguments };
    let carried_out = table::find(arguments).and_then(|command| {
        make_room(call.store, command, arguments)?;
        call.reply.bound(REPLY_MAX.min(call.outbox.room_max(&call.store.heap)));
        (command.run)(call)
    });
    call.store.heap.reserve(0);
    if let Err(refusal) = &carried_out {
        call.reply.take_back(start);
        call.reply.refusal(refusal);
    }
    if call.client.hears != Hears::Everything {
        call.reply.take_back(start);
        call.client.hears = call.client.hears.then();
        return Ok(());
    }
    let replies = carried_out != Err(Refusal::Reply) && call.can_reply().is_ok();
    call.reply.unbind();
    if !replies {
        call.reply.take_back(start);
        counters.into_iter().zip(counted).for_each(|(at, count)| call.arena().store(at, count));
        return Err(Full);
    }
    Ok(())
}

/// A command that takes memory begins only if there is enough for all of it.
fn make_room(store: &mut Store, command: &Command, arguments: &[&[u8]]) -> Outcome {
    if !command.takes_memory() {
        return Ok(());
    }
    let more = (command.grows)(store, arguments);
    Ok(store.make_room(arguments.iter().map(|argument| argument.len() as u64), more)?)
}
