//! Tickets: one move, allowed by a signature. What they say is in `ticket.proto`.

use std::time::Duration;

use prost::Message;
use whimbrel_identity::rustls::pki_types::UnixTime;
use whimbrel_identity::{Rules, Signed, Who, explain};

use crate::api;

/// The version that this program signs and reads.
const VERSION: u32 = 1;
/// What the signature is over, before the ticket: it can be taken for nothing else.
const PREFIX: &[u8] = b"whimbrel migration ticket 1\0";
/// The longest signed ticket, in bytes: some certificates.
pub const SIGNED_BYTES_MAX: usize = 16 << 10;
/// Of the random part of a ticket, in bytes.
pub const NONCE_BYTES: usize = 16;

/// Why a ticket is not good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It is none, or one of another version.
    #[error("that is no ticket of version {VERSION}, as `whimbrel ticket` writes")]
    NoTicket,
    /// Its signature does not prove who signed it.
    #[error("nobody who is trusted has signed the ticket as it is: {0}")]
    Unsigned(String),
    /// It is for another guest.
    #[error("the ticket is for guest {0}")]
    Guest(String),
    /// Another host is to send the guest.
    #[error("the ticket is for a guest of {0}")]
    Source(String),
    /// Another host is to receive the guest.
    #[error("the ticket is for a move to {0}")]
    Destination(String),
    /// Its time has not come.
    #[error("the ticket is good only in {0} s: if it should be by now, a clock is wrong")]
    Early(u64),
    /// Its time is over.
    #[error("the ticket ended {0} s ago: sign a new one")]
    Late(u64),
    /// The guest's memory would travel in clear.
    #[error("the ticket moves its guest encrypted only: sign one with --encrypt off")]
    Encrypted,
    /// It is good for longer than tickets may be.
    #[error("the ticket is good for {0} s, and here tickets may be for at most {1} s")]
    Long(u64, u64),
}

/// When tickets are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Now, in seconds since 1970.
    pub now_s: u64,
    /// How far the signer's clock may be from this one, in seconds.
    pub skew_s: u64,
    /// How long a ticket may be good, in seconds.
    pub lifetime_max_s: u64,
}

impl api::Ticket {
    /// One that allows this move from now on, encrypted.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn new(
        guest_uuid: &str,
        (source, destination): (&str, &str),
        lifetime: Duration,
    ) -> Result<Self, TicketError> {
        let mut nonce = vec![0; NONCE_BYTES];
        let unsigned = |error| TicketError::Unsigned(format!("no random numbers: {error}"));
        getrandom::fill(&mut nonce).map_err(unsigned)?;
        let now_s = UnixTime::now().as_secs();
        Ok(Self {
            version: VERSION,
            guest_uuid: guest_uuid.to_owned(),
            source: source.to_owned(),
            destination: destination.to_owned(),
            not_before_s: now_s,
            not_after_s: now_s.saturating_add(lifetime.as_secs()),
            nonce,
            unencrypted: false,
        })
    }

    /// Signs it, to be spent or handed on.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, rules: &Rules) -> Result<Vec<u8>, TicketError> {
        let ticket = self.encode_to_vec();
        let signed = rules.sign(&message(&ticket));
        let signed = signed.map_err(|error| TicketError::Unsigned(explain(&error).to_string()))?;
        let Signed { chain: certificates, scheme, signature } = signed;
        let scheme = scheme.into();
        Ok(api::SignedTicket { ticket, certificates, scheme, signature }.encode_to_vec())
    }

    /// Whether it is good at this time.
    ///
    /// # Errors
    /// [`TicketError::Early`], [`TicketError::Late`] or [`TicketError::Long`].
    pub fn check_time(&self, clock: Clock) -> Result<(), TicketError> {
        let Clock { now_s, skew_s, lifetime_max_s } = clock;
        let lifetime = self.not_after_s.saturating_sub(self.not_before_s);
        if lifetime > lifetime_max_s {
            return Err(TicketError::Long(lifetime, lifetime_max_s));
        }
        if now_s.saturating_add(skew_s) < self.not_before_s {
            return Err(TicketError::Early(self.not_before_s - now_s));
        }
        if now_s > self.not_after_s.saturating_add(skew_s) {
            return Err(TicketError::Late(now_s - self.not_after_s));
        }
        Ok(())
    }

    /// Whether it is for this guest, moving between these two.
    ///
    /// # Errors
    /// [`TicketError::Guest`], [`TicketError::Source`] or [`TicketError::Destination`].
    pub fn check_move(
        &self,
        guest_uuid: &str,
        source: &Who,
        destination: &Who,
    ) -> Result<(), TicketError> {
        if self.guest_uuid != guest_uuid {
            return Err(TicketError::Guest(self.guest_uuid.clone()));
        }
        if !source.is(&self.source) {
            return Err(TicketError::Source(self.source.clone()));
        }
        if !destination.is(&self.destination) {
            return Err(TicketError::Destination(self.destination.clone()));
        }
        Ok(())
    }

    /// Whether it allows memory to travel in clear, if it is to.
    ///
    /// # Errors
    /// [`TicketError::Encrypted`].
    pub const fn check_protection(&self, in_clear: bool) -> Result<(), TicketError> {
        if in_clear && !self.unencrypted { Err(TicketError::Encrypted) } else { Ok(()) }
    }
}

/// Reads a signed ticket, and says who signed it.
///
/// # Errors
/// [`TicketError::NoTicket`] or [`TicketError::Unsigned`].
pub fn open(bytes: &[u8], rules: &Rules) -> Result<(api::Ticket, Who), TicketError> {
    if bytes.len() > SIGNED_BYTES_MAX {
        return Err(TicketError::NoTicket);
    }
    let read = api::SignedTicket::decode(bytes).map_err(|_| TicketError::NoTicket)?;
    let api::SignedTicket { ticket, certificates: chain, scheme, signature } = read;
    let scheme = scheme.try_into().map_err(|_| TicketError::NoTicket)?;
    let signed = Signed { chain, scheme, signature };
    // Nothing is read out of the ticket before its signature is good.
    let signer = rules.signer(&message(&ticket), &signed, UnixTime::now());
    let signer = signer.map_err(|error| TicketError::Unsigned(explain(&error).to_string()))?;
    let ticket = api::Ticket::decode(ticket.as_slice()).map_err(|_| TicketError::NoTicket)?;
    if ticket.version != VERSION || ticket.nonce.len() != NONCE_BYTES {
        return Err(TicketError::NoTicket);
    }
    Ok((ticket, signer))
}

fn message(ticket: &[u8]) -> Vec<u8> {
    [PREFIX, ticket].concat()
}

#[cfg(test)]
mod tests {
    use whimbrel_identity::{IdentityFolder, Trust};

    use super::*;

    fn ticket() -> api::Ticket {
        api::Ticket {
            version: VERSION,
            guest_uuid: "g".to_owned(),
            source: String::new(),
            destination: "host-b".to_owned(),
            not_before_s: 1_000,
            not_after_s: 1_300,
            nonce: vec![7; NONCE_BYTES],
            unencrypted: false,
        }
    }

    #[test]
    fn a_ticket_is_good_from_then_to_then_give_or_take_the_clocks() {
        let clock = |now_s| Clock { now_s, skew_s: 30, lifetime_max_s: 300 };
        for (now, good) in [(969, false), (970, true), (1_330, true), (1_331, false)] {
            assert_eq!(ticket().check_time(clock(now)).is_ok(), good, "{now}");
        }
        assert_eq!(ticket().check_time(clock(900)), Err(TicketError::Early(100)));
        assert_eq!(ticket().check_time(clock(1_400)), Err(TicketError::Late(100)));
        let long = api::Ticket { not_after_s: 1_301, ..ticket() };
        assert_eq!(long.check_time(clock(1_000)), Err(TicketError::Long(301, 300)));
        let backwards = api::Ticket { not_after_s: 900, ..ticket() };
        assert!(backwards.check_time(clock(1_000)).is_err());
    }

    #[test]
    fn no_bit_of_a_signed_ticket_can_be_changed() {
        let temp = tempfile::tempdir().unwrap();
        let [here, there] = ["here", "there"].map(|name| {
            let folder = IdentityFolder::at(temp.path().join(name));
            folder.ensure().unwrap();
            Trust::open(folder).unwrap().rules().unwrap()
        });
        let signed = ticket().sign(&here).unwrap();
        let (read, signer) = open(&signed, &here).unwrap();
        assert!(signer.own && read.guest_uuid == "g" && read.version == VERSION);
        // Signed by somebody whom nobody knows there.
        assert!(matches!(open(&signed, &there), Err(TicketError::Unsigned(_))));
        for at in 0..signed.len() {
            for bit in 0..8 {
                let mut altered = signed.clone();
                altered[at] ^= 1 << bit;
                // Around a key that is known by itself the certificate proves nothing more.
                let Ok((same, by)) = open(&altered, &here) else { continue };
                let what = format!("bit {bit} of byte {at} changes the ticket");
                assert_eq!((same, by.fingerprint), (read.clone(), signer.fingerprint), "{what}");
            }
        }
        assert_eq!(
            open(b"", &here).unwrap_err(),
            TicketError::Unsigned(String::from("no certificate was shown"))
        );
        assert_eq!(open(&[0; SIGNED_BYTES_MAX + 1], &here), Err(TicketError::NoTicket));
    }

    #[test]
    fn a_ticket_is_for_one_guest_and_two_hosts() {
        let temp = tempfile::tempdir().unwrap();
        let folder = IdentityFolder::at(temp.path());
        folder.ensure().unwrap();
        let source = Trust::open(folder).unwrap().rules().unwrap().own_who().unwrap();
        let destination = Who { certified: Some("host-b".to_owned()), ..source.clone() };
        let ticket = api::Ticket { source: source.subject(), ..ticket() };
        ticket.check_move("g", &source, &destination).unwrap();
        ticket.check_protection(false).unwrap();
        assert_eq!(ticket.check_protection(true), Err(TicketError::Encrypted));
        api::Ticket { unencrypted: true, ..ticket.clone() }.check_protection(true).unwrap();
        let other = Err(TicketError::Guest("g".to_owned()));
        assert_eq!(ticket.check_move("h", &source, &destination), other);
        let other = Err(TicketError::Destination("host-b".to_owned()));
        assert_eq!(ticket.check_move("g", &source, &source), other);
        let ticket = api::Ticket { source: "host-c".to_owned(), ..ticket };
        let other = Err(TicketError::Source("host-c".to_owned()));
        assert_eq!(ticket.check_move("g", &source, &destination), other);
    }
}
