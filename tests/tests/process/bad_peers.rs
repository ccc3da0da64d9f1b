//! Destinations that are not there, not Whimbrel, of another version, or speak nonsense. The
//! guest goes on running at the source in every one of them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use whimbrel_protocol::{
    Accepted, CONTROL_FRAME_MAX, Fault, Feature, Message, Offer, Rejected, SessionId, Token,
    batch::CONTROL_MAGIC,
};
use whimbrel_tests::peers::{self, Peer};
use whimbrel_tests::program::Agent;

/// Exit statuses of the program's contract.
const ABORTED: i32 = 3;
const UNREACHABLE: i32 = 5;
const REFUSED: i32 = 6;

async fn source() -> Agent {
    let agent = Agent::start().await;
    agent.guest("g", &["--memory", "16MiB", "--dirty-rate", "20MiB/s"]).await;
    agent
}

/// The migration fails with one of `statuses` for a reason that says `why`, and does no harm.
async fn fails(source: &Agent, destination: SocketAddr, statuses: &[i32], why: &str) {
    let to = destination.to_string();
    let said = source.ask(&["migrate", "g", &to, "--json"]).await;
    let status = said.status.expect("it ended by itself");
    assert!(statuses.contains(&status), "{status} is not in {statuses:?}: {said:?}");
    let reason = said.json()["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains(why), "{why:?} is not in {reason:?}");
    source.assert_runs("g").await;
}

#[tokio::test]
async fn agents_that_are_not_there_or_not_whimbrel() {
    let source = source().await;
    fails(&source, peers::nobody(), &[UNREACHABLE], "refused").await;
    for words in [b"SSH-2.0-OpenSSH_9.9\r\n".as_slice(), b"HTTP/1.1 400 Bad Request\r\n\r\n", b""] {
        let peer = says(words).await;
        fails(&source, peer.address, &[UNREACHABLE, REFUSED], "not a Whimbrel agent").await;
    }
}

#[tokio::test]
async fn agents_of_another_version() {
    let source = source().await;
    for api_version in [0, 99] {
        let host = whimbrel_control::api::Host { api_version, ..peers::good_host() };
        let peer = peers::agent(host, peers::nobody()).await;
        fails(&source, peer.address, &[UNREACHABLE, REFUSED], "version").await;
    }
}

/// A listener that says `words` to everybody and then holds the connection open.
async fn says(words: &[u8]) -> Peer {
    let words = words.to_vec();
    peers::listen(move |mut stream: TcpStream| {
        let words = words.clone();
        async move {
            let _ = stream.write_all(&words).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
}

/// Frames as they stand on a control connection, the first bytes of one included.
fn control(frames: &[Vec<u8>]) -> Vec<u8> {
    let framed = frames.iter().flat_map(|body| peers::framed(body));
    CONTROL_MAGIC.into_iter().chain(framed).collect()
}

fn offer() -> Offer {
    Offer {
        session: SessionId(5),
        version_min: 1,
        version_max: 1,
        features: Vec::new(),
        lanes_max: 4,
        batch_bytes_max: 256 << 10,
    }
}

/// A good agent sends the guest to a door that answers `words`.
async fn door_fails(source: &Agent, words: &[u8], why: &str) {
    let door = says(words).await;
    let agent = peers::agent(peers::good_host(), door.address).await;
    fails(source, agent.address, &[ABORTED], why).await;
}

#[tokio::test]
async fn doors_that_are_closed_or_not_whimbrel() {
    let source = source().await;
    let agent = peers::agent(peers::good_host(), peers::nobody()).await;
    fails(&source, agent.address, &[ABORTED], "cannot be reached").await;
    door_fails(&source, b"SSH-2.0-OpenSSH_9.9\r\n", "").await;
    let hangs_up = peers::listen(|stream| async move { drop(stream) }).await;
    let agent = peers::agent(peers::good_host(), hangs_up.address).await;
    fails(&source, agent.address, &[ABORTED], "").await;
}

#[tokio::test]
async fn doors_of_another_version_or_with_other_wishes() {
    let source = source().await;
    let older = Offer { version_min: 0, version_max: 0, ..offer() };
    door_fails(&source, &control(&[Message::Offer(older).encode().to_vec()]), "version").await;
    let newer = Offer { version_min: 2, version_max: 3, ..offer() };
    door_fails(&source, &control(&[Message::Offer(newer).encode().to_vec()]), "version").await;
    let feature = Feature { name: "telepathy".into(), mandatory: true };
    let wants = Offer { features: vec![feature], ..offer() };
    door_fails(&source, &control(&[Message::Offer(wants).encode().to_vec()]), "telepathy").await;
    let why = "no room for one more".to_owned();
    let full = Message::Rejected(Rejected { fault: Fault::Capacity, why }).encode();
    door_fails(&source, &control(&[full.to_vec()]), "no room for one more").await;
}

#[tokio::test]
async fn doors_that_speak_nonsense() {
    let source = source().await;
    let good = Message::Offer(offer()).encode().to_vec();
    let truncated = control(std::slice::from_ref(&good));
    let hangs_up = truncated[..truncated.len() - 3].to_vec();
    let door = peers::listen(move |mut stream: TcpStream| {
        let words = hangs_up.clone();
        async move { _ = stream.write_all(&words).await }
    })
    .await;
    let agent = peers::agent(peers::good_host(), door.address).await;
    fails(&source, agent.address, &[ABORTED], "").await;

    let oversized = u32::try_from(CONTROL_FRAME_MAX + 1).expect("a length").to_le_bytes();
    door_fails(&source, &[CONTROL_MAGIC.as_slice(), &oversized].concat(), "").await;
    door_fails(&source, &control(&[vec![]]), "").await;
    for seed in 0..8 {
        door_fails(&source, &control(&[random(seed, 40)]), "").await;
        door_fails(&source, &control(&[good.clone(), random(seed, 300)]), "").await;
    }
    // What may never come first, and a lane number that is given out twice.
    door_fails(&source, &control(&[Message::Running(Default::default()).encode().to_vec()]), "")
        .await;
    let ticket = (whimbrel_protocol::LaneId(1), Token(3));
    let twice = Accepted { lanes: vec![ticket, ticket], resume_token: Token(4) };
    let accepted = Message::Accepted(twice).encode().to_vec();
    door_fails(&source, &control(&[good, accepted]), "").await;
}

/// Bytes that look like nothing, the same for one seed.
fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}
