//! Tickets: signed here, spent by agents.

use std::time::Duration;

use whimbrel_control::api;
use whimbrel_control::identity::{Trust, write_secret};

use crate::args::Encrypt;
use crate::args::trust::TicketArgs;
use crate::exit::{Ending, Exit, Stop};
use crate::out;

/// Signs a ticket for somebody else to spend.
pub(crate) fn ticket(args: TicketArgs) -> Ending {
    let trust = args.whose.trust()?;
    let unencrypted = args.encrypt == Some(Encrypt::Off);
    let ways = (args.from.as_str(), args.to.as_str());
    let signed = sign_for(&trust, &args.guest, ways, args.lifetime, unencrypted)?;
    let path = args.out.display();
    // Whoever holds it can spend it.
    write_secret(&args.out, &signed).map_err(|error| {
        Stop::failed(format!("the ticket cannot be written to {path}: {error}"))
    })?;
    let seconds = args.lifetime.as_secs();
    out::line(format!(
        "{path}: {} moves guest {} to {}, once, within {seconds} s",
        args.from, args.guest, args.to
    ));
    Ok(Exit::Done)
}

/// Signs a ticket for one move between two identities. `unencrypted` allows memory to travel in
/// clear, signed.
pub(crate) fn sign_for(
    trust: &Trust,
    guest_uuid: &str,
    (source, destination): (&str, &str),
    lifetime: Duration,
    unencrypted: bool,
) -> Result<Vec<u8>, Stop> {
    let failed = |error: &dyn std::fmt::Display| Stop::failed(format!("no ticket: {error}"));
    let rules = trust.rules().map_err(|error| failed(&error))?;
    let ticket = api::Ticket::new(guest_uuid, (source, destination), lifetime);
    let ticket = ticket.map(|ticket| api::Ticket { unencrypted, ..ticket });
    ticket.and_then(|ticket| ticket.sign(&rules)).map_err(|error| failed(&error))
}
