//! Two sides that both run a guest, after a person vouched for one of them, meet again.
//!
//! ```text
//!  resolved here: term burned ─► tell the other agent until it has heard ─► its lower term is
//!  paused there, or a higher one is there and pauses this one
//! ```
//!
//! Whoever is told of a higher term asks back where its record says that the other side is: a guest
//! that runs stands still only for who was given a promise to run it, and says so there.

use std::sync::Arc;

use tokio::time::sleep;
use tonic::Status;
use whimbrel_control::api;
use whimbrel_engine::protocol::{Record, SessionId, Standing, Term};

use crate::access::Authenticated;
use crate::agent::Core;
use crate::convert;
use crate::guests::{Guest, Life};
use crate::process_api as process;

impl Core {
    /// Tells the other side of a term that was burned here, until it has heard of it.
    pub(crate) async fn seek_peer(self: Arc<Self>, guest: Arc<Guest>) {
        let deadlines = self.options.deadlines;
        let mut pause = deadlines.ask_pause;
        while let Some(record) = self.burned_here(&guest) {
            match self.meet_peer(&guest, &record).await {
                Ok(_) => return,
                Err(status) => {
                    let (name, why) = (&guest.config.name, status.message());
                    tracing::debug!(guest = name, peer = %record.peer, "not met: {why}");
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(deadlines.ask_pause_max);
        }
    }

    /// The record of a living guest whose term is this host's own, and which another host knows.
    fn burned_here(&self, guest: &Guest) -> Option<Record> {
        let record = self.entry(guest).ok()??.record;
        let own = record.term.host == self.folder.host() && record.standing == Standing::Owner;
        let known = record.session != SessionId(0) && !record.peer.is_empty();
        (own && known && !guest.is_dead()).then_some(record)
    }

    /// Asks under which term the guest runs at the other side, and gives way to a higher one; says
    /// whether it was one.
    async fn meet_peer(&self, guest: &Guest, record: &Record) -> Result<bool, Status> {
        let address = record.peer.parse();
        let address = address.map_err(|_| Status::internal("the record names no other agent"))?;
        let mut peer = self.connect(&address).await?;
        let request = api::MeetRequest {
            guest_uuid: record.guest.to_string(),
            term_generation: record.term.generation,
            term_host: record.term.host,
        };
        let theirs = peer.meet(request).await;
        let theirs = theirs.map_err(|error| Status::unavailable(error.to_string()))?;
        let term = Term { generation: theirs.term_generation, host: theirs.term_host };
        let higher = theirs.runs_here && term > record.term;
        if higher {
            self.give_way(guest, term, &record.peer).await?;
        }
        Ok(higher)
    }

    /// Hears of a term that another agent's guest runs under.
    pub(crate) async fn meet(
        self: Arc<Self>,
        request: api::MeetRequest,
        who: Authenticated,
    ) -> Result<api::MeetResponse, Status> {
        let uuid = convert::parse_uuid(&request.guest_uuid)
            .ok_or_else(|| Status::invalid_argument("the guest has no uuid"))?;
        let theirs = Term { generation: request.term_generation, host: request.term_host };
        let Some(guest) = self.guests.get(uuid) else { return Ok(api::MeetResponse::default()) };
        guest.check_party(who.0.as_ref())?;
        let living = matches!(guest.look(), Life::Alive(..));
        let Some(entry) = self.entry(&guest)?.filter(|_| living) else {
            return Ok(api::MeetResponse::default());
        };
        let record = entry.record;
        let runs = matches!(record.standing, Standing::Owner | Standing::Running);
        if runs && record.term < theirs && !self.meet_peer(&guest, &record).await? {
            let why = format!("{}, which may run it, does not under that term", record.peer);
            return Err(Status::permission_denied(why));
        }
        Ok(api::MeetResponse {
            runs_here: runs && record.term >= theirs,
            term_generation: record.term.generation,
            term_host: record.term.host,
        })
    }

    async fn give_way(&self, guest: &Guest, higher: Term, peer: &str) -> Result<(), Status> {
        let mut link = guest.link(self.options.deadlines).await?;
        let reason = format!(
            "it stands still: it runs at {peer} under term {higher}, by a person's word; stop it \
             here, or `whimbrel resolve` it if that one is off"
        );
        tracing::error!(guest = %guest.config.name, "{reason}");
        link.r#yield(process::YieldRequest { reason }).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    use tempfile::TempDir;
    use tokio::io::copy_bidirectional;
    use tokio::net::{TcpListener, TcpStream};
    use tonic::Code;
    use whimbrel_control::{Client, ClientError};
    use whimbrel_engine::Journal;
    use whimbrel_engine::protocol::GuestUuid;

    use crate::agent::Agent;
    use crate::folder::DataFolder;
    use crate::journal::FileJournal;
    use crate::options::AgentOptions;
    use crate::process_api::GuestFile;
    use crate::stub_process::StubProcess;

    const GUEST: GuestUuid = GuestUuid(6);

    /// Where nobody is.
    const NOWHERE: &str = "127.0.0.1:1";

    /// The guest of a host has come to run under a term of this generation.
    fn write(data: &DataFolder, generation: u64, peer: &str) {
        let (folder, term) = (data.guest(GUEST), Term { generation, host: data.host() });
        let (session, peer, standing) = (SessionId(1), peer.to_owned(), Standing::Owner);
        let record = Record { guest: GUEST, term, session, peer, standing };
        FileJournal::open(&folder.journal()).unwrap().record(&record).unwrap();
    }

    /// An agent whose guest runs under a term of this generation, and its process.
    async fn host(generation: u64, peer: &str) -> (TempDir, String, StubProcess) {
        let temp = tempfile::tempdir().unwrap();
        let process = StubProcess::of(GUEST).await;
        let data = DataFolder::open(temp.path()).unwrap();
        let folder = data.guest(GUEST);
        let name = "web".to_owned();
        let config = GuestFile { uuid: GUEST.to_string(), name, ..Default::default() };
        folder.write_config(&config).unwrap();
        folder.write_process(&process.file).unwrap();
        write(&data, generation, peer);
        drop(data);
        let address = serve(temp.path()).await;
        (temp, address, process)
    }

    /// An agent with this folder.
    async fn serve(data: &Path) -> String {
        let mut options = AgentOptions::new(data, ([127, 0, 0, 1], 0).into());
        options.deadlines.ask_pause = Duration::from_millis(10);
        let agent = Agent::bound(options).await;
        let address = agent.address().to_string();
        tokio::spawn(agent.serve(std::future::pending()));
        address
    }

    /// Has whoever comes in at `door` come to an agent.
    fn lead(door: TcpListener, to: String) {
        tokio::spawn(async move {
            while let Ok((mut near, _)) = door.accept().await {
                let mut far = TcpStream::connect(&to).await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
            }
        });
    }

    async fn yielded(process: &mut StubProcess) -> String {
        let told = process.yielded.wait_for(|reason| !reason.is_empty());
        let told = tokio::time::timeout(Duration::from_secs(50), told).await;
        told.expect("it is told in time").unwrap().clone()
    }

    #[tokio::test]
    async fn where_two_sides_meet_the_lower_term_gives_way() {
        // Each has to know where the other one is before both are.
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = door.local_addr().unwrap().to_string();
        let (_there_folder, there, mut lower) = host(4, &peer).await;
        let (_here_folder, here, higher) = host(5, &there).await;
        lead(door, here);
        let reason = yielded(&mut lower).await;
        assert!(reason.contains("under term"), "{reason}");
        assert!(higher.yielded.borrow().is_empty());
    }

    /// Whoever had no promise is not in the record: an attempt may have failed before, or be of
    /// another guest's agent.
    #[tokio::test]
    async fn only_the_side_that_had_a_promise_is_believed_to_run_the_guest() {
        let nothing = tempfile::tempdir().unwrap();
        let other = serve(nothing.path()).await;
        for (peer, code) in [(NOWHERE, Code::Unavailable), (&*other, Code::PermissionDenied)] {
            let (_folder, address, process) = host(4, peer).await;
            let mut client =
                Client::connect(&address.parse().unwrap(), Default::default()).await.unwrap();
            let higher = api::MeetRequest {
                guest_uuid: GUEST.to_string(),
                term_generation: 9,
                term_host: 9,
            };
            match client.meet(higher).await.unwrap_err() {
                ClientError::Refused { code: told, why } => assert_eq!(told, code, "{why}"),
                error => panic!("{error}"),
            }
            assert!(process.yielded.borrow().is_empty());
        }
    }

    #[tokio::test]
    async fn who_seeks_and_finds_a_higher_term_gives_way() {
        let (_there_folder, there, higher) = host(5, NOWHERE).await;
        let (_here_folder, _here, mut lower) = host(4, &there).await;
        let reason = yielded(&mut lower).await;
        assert!(reason.contains(&there), "{reason}");
        assert!(higher.yielded.borrow().is_empty());
    }

    #[tokio::test]
    async fn who_has_no_such_guest_has_nothing_to_give_way() {
        let (_folder, address, process) = host(5, "").await;
        let address = address.parse().unwrap();
        let mut client = Client::connect(&address, Default::default()).await.unwrap();
        let other = api::MeetRequest {
            guest_uuid: GuestUuid(99).to_string(),
            term_generation: 9,
            term_host: 9,
        };
        let answer = client.meet(other).await.unwrap();
        assert_eq!(answer, api::MeetResponse::default());
        assert!(process.yielded.borrow().is_empty());
    }
}
