//! Which other agents have to do with a guest, also after the agent was started again.

use tonic::Status;
use whimbrel_identity::Who;

use crate::guests::Guest;
use crate::process_api::PartiesFile;

/// Agents that are remembered for a guest; of more, the ones that had to do with it last.
const REMEMBERED_MAX: usize = 64;

/// The longest name or fingerprint, in bytes.
const SUBJECT_BYTES_MAX: usize = 64;

impl Guest {
    /// Another agent takes part in a migration of the guest: it may ask about it from now on.
    /// `relays` may carry clients to it.
    pub(crate) fn add_party(&self, who: &Who, relays: &[String]) -> Result<(), Status> {
        let unwritten = |error| {
            let why = format!("who takes part cannot be written down: {error}");
            Status::internal(why)
        };
        self.with_journal(|| {
            let mut parties = self.folder.read_parties()?;
            add(&mut parties.ask, who.subject());
            for relay in relays.iter().filter(|relay| relay.len() <= SUBJECT_BYTES_MAX) {
                add(&mut parties.relay, relay.clone());
            }
            self.folder.write_parties(&parties)
        })
        .map_err(unwritten)
    }

    /// All agents that may carry clients to the guest.
    pub(crate) fn relays(&self) -> Result<Vec<String>, Status> {
        let parties = self.parties()?;
        Ok(parties.ask.into_iter().chain(parties.relay).collect())
    }

    /// Refuses whoever has not been the other side of a migration of this guest.
    pub(crate) fn check_party(&self, who: Option<&Who>) -> Result<(), Status> {
        self.check(who, |parties, who| parties.ask.iter().any(|party| who.is(party)))
    }

    /// Refuses whoever is not the other side of the newest migration of this guest.
    pub(crate) fn check_newest_party(&self, who: Option<&Who>) -> Result<(), Status> {
        self.check(who, |parties, who| parties.ask.last().is_some_and(|party| who.is(party)))
    }

    /// Refuses whoever never had the guest, so that no clients can be with them.
    pub(crate) fn check_relay(&self, who: Option<&Who>) -> Result<(), Status> {
        self.check(who, |parties, who| {
            parties.ask.iter().chain(&parties.relay).any(|party| who.is(party))
        })
    }

    fn check(
        &self,
        who: Option<&Who>,
        has_part: impl Fn(&PartiesFile, &Who) -> bool,
    ) -> Result<(), Status> {
        let Some(who) = who.filter(|who| !who.own) else { return Ok(()) };
        if has_part(&self.parties()?, who) {
            return Ok(());
        }
        let name = &self.config.name;
        Err(Status::permission_denied(format!(
            "{who} has no part in any move of guest `{name}`: only agents that have may ask"
        )))
    }

    fn parties(&self) -> Result<PartiesFile, Status> {
        let unread = |error| Status::internal(format!("who takes part cannot be read: {error}"));
        self.folder.read_parties().map_err(unread)
    }
}

fn add(list: &mut Vec<String>, subject: String) {
    list.retain(|known| *known != subject);
    list.push(subject);
    let over = list.len().saturating_sub(REMEMBERED_MAX);
    list.drain(..over);
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use whimbrel_engine::protocol::GuestUuid;
    use whimbrel_identity::Fingerprint;

    use super::*;
    use crate::folder::GuestFolder;
    use crate::guests::Life;
    use crate::process_api::GuestFile;

    fn who(name: &str) -> Who {
        Who {
            fingerprint: Fingerprint::of(name.as_bytes()),
            certified: Some(name.to_owned()),
            paired: None,
            own: false,
            until: SystemTime::now(),
        }
    }

    #[test]
    fn those_who_have_a_part_ask_and_those_who_had_one_relay() {
        let temp = tempfile::tempdir().unwrap();
        let folder = || GuestFolder::at(temp.path().to_owned());
        let guest = || Guest::new(GuestUuid(1), GuestFile::default(), folder(), Life::Dead);
        guest().add_party(&who("b"), &["a".to_owned()]).unwrap();
        // Another run of the agent knows it too.
        let guest = guest();
        guest.check_party(Some(&who("b"))).unwrap();
        guest.check_relay(Some(&who("a"))).unwrap();
        guest.check_relay(Some(&who("b"))).unwrap();
        guest.check_party(None).unwrap();
        guest.check_newest_party(Some(&who("b"))).unwrap();
        guest.add_party(&who("c"), &[]).unwrap();
        guest.check_party(Some(&who("b"))).unwrap();
        guest.check_newest_party(Some(&who("c"))).unwrap();
        assert!(guest.check_newest_party(Some(&who("b"))).is_err(), "it has had its turn");
        guest.add_party(&who("b"), &[]).unwrap();
        let refused = guest.check_party(Some(&who("a"))).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(guest.check_relay(Some(&who("d"))).is_err());
        assert_eq!(guest.relays().unwrap(), ["c", "b", "a"]);
        for more in 0..=REMEMBERED_MAX {
            guest.add_party(&who(&format!("n{more}")), &[]).unwrap();
        }
        assert!(guest.check_party(Some(&who("b"))).is_err());
    }
}
