//! Connections of a session are held to the certificates that the two agents have told each other,
//! and those were told over connections on which the agents had proved who they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use whimbrel_control::{Client, Deadlines, api};
use whimbrel_protocol::batch::{CONTROL_MAGIC, LaneHello};
use whimbrel_protocol::{Epoch, Hello, LaneId, Message, SessionId, Token};
use whimbrel_tests::peers::framed;
use whimbrel_tests::program::{Agent, How, run};
use whimbrel_transport::{
    Carrier, Credentials, DialError, Fingerprint, Identity, Path, Purpose, Tuning, connect,
};

use crate::trusted::{Authority, announcement, client};

const WATCHDOG: Duration = Duration::from_secs(120);
const GUEST: &str = "7c2f6d3e-0c35-4b8e-9a50-0e3f7a9c1d21";

/// Whoever has the identity in `folder` tells the agent of a guest, whose process has this
/// certificate.
async fn announce(
    agent: &Agent,
    folder: &str,
    certificate: Fingerprint,
) -> Result<api::PrepareIncomingResponse, String> {
    let request = announcement(GUEST, certificate.as_bytes());
    let answered = client(agent, folder).await.prepare_incoming(request).await;
    answered.map_err(|error| error.to_string())
}

/// Whether anything is answered to what somebody says at the door of a guest process.
async fn answers(door: SocketAddr, who: Credentials, purpose: Purpose, words: &[u8]) -> bool {
    let (path, tuning, carrier) = (Path::to(door), Tuning::default(), Carrier::Tls(who));
    let mut stream = match connect(&path, &tuning, (&carrier, purpose), WATCHDOG).await {
        Ok(stream) => stream,
        Err(DialError::Stranger(..)) => return false,
        Err(other) => panic!("{other}"),
    };
    // Who is a stranger to the other side may hear of it only now.
    let _ = stream.write_all(words).await;
    let _ = stream.flush().await;
    let heard = timeout(WATCHDOG, stream.read(&mut [0])).await.expect("it answers or hangs up");
    heard.is_ok_and(|length| length > 0)
}

#[tokio::test]
async fn a_session_belongs_to_the_certificates_that_the_agents_have_told() {
    let authority = Authority::new().await;
    let [host_a, monitor] = ["host-a", "monitor"].map(|name| authority.person(name, "30"));
    let (host_a, monitor) = (host_a.await, monitor.await);
    let policy = "send = ['host-a']\nlook = ['monitor']\n";
    let agent = authority.agent("host-b", 3, policy, &[]).await;
    let make = || Arc::new(Identity::generate().expect("random numbers"));
    let (source, other) = (make(), make());
    let refused = announce(&agent, &monitor, other.fingerprint()).await.expect_err("may not send");
    assert!(refused.contains("send = [\"host-a\", \"monitor\"]"), "{refused}");
    let told = announce(&agent, &host_a, source.fingerprint()).await.expect("it may send");

    let door = told.address.parse().expect("an address");
    let token = Token::from_bytes(told.token.try_into().expect("16 bytes"));
    let destination = Fingerprint::try_from(told.certificate_sha256.as_slice()).expect("32 bytes");
    let hello = Message::Hello(Hello { version_min: 1, version_max: 1, token, resume: None });
    let control = [CONTROL_MAGIC.as_slice(), &framed(&hello.encode())].concat();
    // Of no session there is, which is answered to who is let in.
    let lane = LaneHello { session: SessionId(7), epoch: Epoch(0), lane: LaneId(0), token };
    let lane = lane.encode();
    for (purpose, words) in [(Purpose::Bulk, lane.as_slice()), (Purpose::Control, &control)] {
        for (identity, peer, is_let_in) in [
            (&other, destination, false),
            (&source, other.fingerprint(), false),
            (&source, destination, true),
        ] {
            let who = Credentials { identity: identity.clone(), peer };
            let answered = answers(door, who, purpose, words).await;
            assert_eq!(answered, is_let_in, "{purpose:?} of {identity:?}, who expects {peer}");
        }
    }
}

/// A destination that kept to its own would take the source for lost between two signs of life.
#[tokio::test]
async fn the_heartbeats_of_the_source_hold_on_both_sides() {
    let beats = ["--die-with-parent", "--heartbeat", "same-subnet=1sx10,cross-subnet=1sx10"];
    let here = Agent::start_as(&std::env::temp_dir(), How::with(&beats)).await;
    let hasty = ["--die-with-parent", "--heartbeat", "same-subnet=50msx4,cross-subnet=50msx4"];
    let there = Agent::start_as(&std::env::temp_dir(), How::with(&hasty)).await;
    let guest = ["--memory", "64MiB", "--working-set", "32MiB", "--dirty-rate", "0"];
    here.guest("calm", &guest).await;
    // Long enough that the source has nothing to say but its signs of life for seconds.
    let words = ["migrate", "calm", &there.address, "--limit", "64Mbit/s", "--json"];
    let moved = here.ask(&words).await.ended(0).json();
    assert_eq!(moved["outcome"], "completed");
    let address = here.address.parse().expect("an address");
    let mut client = Client::connect(&address, Deadlines::default()).await.expect("it listens");
    let request = api::GetMigrationRequest { migration: "calm".to_owned() };
    let status = client.get_migration(request).await.expect("a migration");
    let told: Vec<_> = status.events.into_iter().map(|event| event.sentence).collect();
    assert!(!told.iter().any(|sentence| sentence.contains("the link was lost")), "{told:?}");
}

/// Who is done with a probe makes room for the next one: two are answered at a time.
#[tokio::test]
async fn one_probe_may_follow_another() {
    let (here, there) = (Agent::start().await, Agent::start().await);
    for _ in 0..4 {
        let words = ["probe", &there.address, "--from", &here.address, "--lanes", "1"];
        let _ = run(&words).await.ended(0);
    }
}
