//! A ticket that was found good here, and not yet spent.

use tonic::Status;
use whimbrel_control::api;
use whimbrel_control::ticket::{self, Clock, TicketError};
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_identity::{Who, explain};

use super::Action;
use super::guard::Guard;
use super::spent::Nonce;
use crate::convert::since_1970;

/// What `whimbrel migrate` allows a guest to stand still unless more is asked for, and with a full
/// verification.
const DOWNTIME_US: u64 = 300_000;
const DOWNTIME_FULL_US: u64 = 5_000_000;

/// One move that somebody who may order moves here has allowed.
#[derive(Clone, Debug)]
pub(crate) struct Warrant {
    ticket: api::Ticket,
    /// Who signed it.
    by: Who,
}

impl Guard {
    /// Reads a ticket: it is whole, its time is now, its signer may order moves here,
    /// and it was not spent.
    pub(crate) fn warrant(&self, bytes: &[u8]) -> Result<Warrant, Status> {
        let rules = self.rules()?;
        let (ticket, by) = ticket::open(bytes, &rules).map_err(refused)?;
        ticket.check_time(self.clock()).map_err(refused)?;
        if !self.may(&by, Action::Order)? {
            let why = self.refusal(&by, Action::Order);
            return Err(Status::permission_denied(format!("the signer of the ticket: {why}")));
        }
        let warrant = Warrant { ticket, by };
        self.spent().check(&warrant.nonce()?)?;
        Ok(warrant)
    }

    /// Whether a ticket is for a move of this guest from this host.
    pub(crate) fn check_outgoing(
        &self,
        warrant: &Warrant,
        guest: GuestUuid,
        destination: &Who,
        carrier: api::Carrier,
    ) -> Result<(), Status> {
        check(warrant, guest, (&self.own()?, destination), carrier)
    }

    /// Whether a ticket is for a move of this guest to this host.
    pub(crate) fn check_incoming(
        &self,
        warrant: &Warrant,
        guest: GuestUuid,
        source: &Who,
        carrier: api::Carrier,
    ) -> Result<(), Status> {
        check(warrant, guest, (source, &self.own()?), carrier)
    }

    /// Spends a ticket on the move for which it was checked, when nothing else stands against it.
    pub(crate) fn spend(&self, warrant: &Warrant) -> Result<(), Status> {
        let Warrant { ticket, by } = warrant;
        let clock = self.clock();
        let end = ticket.not_after_s.saturating_add(clock.skew_s);
        self.spent().spend(warrant.nonce()?, end, clock.now_s)?;
        tracing::info!(guest = %ticket.guest_uuid, signer = %by, "a ticket was spent");
        Ok(())
    }

    fn own(&self) -> Result<Who, Status> {
        let own = self.rules()?.own_who();
        own.map_err(|error| {
            let why = format!("this host's own certificate is not good: {}", explain(&error));
            Status::failed_precondition(why)
        })
    }

    fn clock(&self) -> Clock {
        Clock {
            now_s: now_s(),
            skew_s: self.deadlines().clock_skew.as_secs(),
            lifetime_max_s: self.deadlines().ticket.as_secs(),
        }
    }
}

impl Warrant {
    fn nonce(&self) -> Result<Nonce, Status> {
        let nonce = self.ticket.nonce.as_slice().try_into();
        nonce.map_err(|_| refused(TicketError::NoTicket))
    }

    /// Whether it is for this guest.
    pub(crate) fn check_guest(&self, guest: GuestUuid) -> Result<(), Status> {
        match self.ticket.guest_uuid == guest.to_string() {
            true => Ok(()),
            false => Err(refused(TicketError::Guest(self.ticket.guest_uuid.clone()))),
        }
    }
}

/// Whether that is the move that a ticket allows.
fn check(
    warrant: &Warrant,
    guest: GuestUuid,
    (source, destination): (&Who, &Who),
    carrier: api::Carrier,
) -> Result<(), Status> {
    let fits = warrant.ticket.check_move(&guest.to_string(), source, destination);
    let signed = carrier == api::Carrier::Signed;
    fits.and_then(|()| warrant.ticket.check_protection(signed)).map_err(refused)
}

/// Refuses what a ticket does not say: what is at the cost of others, and a longer pause.
pub(crate) fn within_a_ticket(options: &api::MigrationOptions) -> Result<(), Status> {
    let usual = match options.verify() {
        api::Verify::Full => DOWNTIME_FULL_US,
        api::Verify::Unspecified | api::Verify::Digest => DOWNTIME_US,
    };
    let asked = [
        ("--weight", options.weight.is_some()),
        ("--dscp", options.dscp.is_some()),
        ("--priority", options.priority.is_some()),
        ("--congestion", options.congestion.is_some()),
        ("--policy switch", options.policy() == api::Policy::Switch),
        ("--downtime", options.downtime_limit_us.is_some_and(|us| us > usual)),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        None => Ok(()),
        Some((option, _)) => Err(Status::permission_denied(format!(
            "a ticket moves a guest as every guest is moved: {option} is for those who may order \
             moves here; leave it out"
        ))),
    }
}

/// The time of day.
pub(super) fn now_s() -> u64 {
    since_1970().as_secs()
}

fn refused(error: TicketError) -> Status {
    Status::permission_denied(error.to_string())
}
