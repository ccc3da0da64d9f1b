//! What relay and guest say to each other, in the words of the API and those of the guest.

use whimbrel_control::api;
use whimbrel_control::api::relay_word::What;
use whimbrel_guest::kv::{Attach, ConnectionId, FromGuest, Position, RelayId, Said, ToGuest};

/// How a relay attaches.
pub(crate) fn attach(attach: &api::RelayAttach) -> Attach {
    let held = attach.held.iter();
    Attach {
        relay: RelayId { host: attach.host, run: attach.run },
        last: ConnectionId(attach.last),
        held: held.map(|held| (ConnectionId(held.connection), Position(held.delivered))).collect(),
    }
}

/// A word of a relay; one that a newer relay has and this guest does not know is none.
pub(crate) fn to_guest(word: api::RelayWord) -> Option<ToGuest> {
    let connection = ConnectionId(word.connection);
    Some(match word.what? {
        What::Open(_) => ToGuest::Open(connection),
        What::Bytes(said) => ToGuest::Bytes(connection, Position(said.from), said.bytes.into()),
        What::Delivered(position) => ToGuest::Delivered(connection, Position(position)),
        What::Ended(total) => ToGuest::Ended(connection, Position(total)),
        What::Closed(_) => ToGuest::Closed(connection),
    })
}

/// A word of the guest.
pub(crate) fn of_guest(said: FromGuest) -> api::GuestWord {
    match said {
        FromGuest::Gone(connection) => {
            api::GuestWord { connection: connection.0, gone: true, ..Default::default() }
        }
        FromGuest::Said(Said { connection, taken, credit, from, bytes, last }) => api::GuestWord {
            connection: connection.0,
            gone: false,
            taken: taken.0,
            credit: credit.0,
            from: from.0,
            bytes: bytes.into(),
            last,
        },
    }
}
