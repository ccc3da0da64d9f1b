//! Callers at a destination that have no business there, and words that are none. None of them
//! opens anything, and the destination takes the guest that it expects all the same.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use whimbrel_control::{AgentAddress, Client, ClientError, Deadlines, api};
use whimbrel_page::{ByteCount, Layout, PAGE_SIZE};
use whimbrel_protocol::batch::{
    CONTROL_MAGIC, LANE_ANSWER_SIZE, LANE_MAGIC, LaneAnswer, LaneHello, LaneRefusal,
};
use whimbrel_protocol::{
    CONTROL_FRAME_MAX, Epoch, GuestUuid, Hello, LaneId, LaneTicket, Message, Offer, Plan,
    SessionId, Token,
};
use whimbrel_tests::peers::framed;
use whimbrel_tests::program::Agent;

const GUEST: GuestUuid = GuestUuid(0x0c5e_9e4c_58ee_4c0b_9f1a_6a5d_1f2b_7c11);
const MEMORY: ByteCount = ByteCount::mib(16);

fn announcement(version: u32) -> api::PrepareIncomingRequest {
    api::PrepareIncomingRequest {
        migration_id: "m-1".into(),
        guest_uuid: GUEST.to_string(),
        guest_name: "g".into(),
        kind: "stress".into(),
        state_version: 1,
        memory_bytes: MEMORY.0,
        protocol_version_min: version,
        protocol_version_max: version,
        agent_port: 1,
        ..api::PrepareIncomingRequest::default()
    }
}

async fn client(agent: &Agent) -> Client {
    let address: AgentAddress = agent.address.parse().expect("an address");
    Client::connect(&address, Deadlines::default()).await.expect("an agent")
}

/// A destination that expects a guest: where its door is and the token that opens it.
async fn expecting(agent: &Agent) -> (String, Token) {
    let answer = client(agent).await.prepare_incoming(announcement(1)).await;
    let answer = answer.expect("it has room");
    let token = answer.token.try_into().map(Token::from_bytes).expect("16 bytes");
    (answer.address, token)
}

fn hello(token: Token) -> Message {
    Message::Hello(Hello { version_min: 1, version_max: 1, token, resume: None })
}

/// A control connection, said and heard by hand.
struct Control(TcpStream);

impl Control {
    async fn open(door: &str) -> Self {
        let mut stream = TcpStream::connect(door).await.expect("the door is open");
        stream.write_all(&CONTROL_MAGIC).await.expect("it listens");
        Self(stream)
    }

    async fn say(&mut self, message: &Message) {
        self.0.write_all(&framed(&message.encode())).await.expect("it listens");
    }

    /// The first message after the first bytes.
    async fn greeted(&mut self) -> Message {
        let mut magic = [0; CONTROL_MAGIC.len()];
        self.0.read_exact(&mut magic).await.expect("it answers");
        assert_eq!(magic, CONTROL_MAGIC);
        self.heard().await
    }

    async fn heard(&mut self) -> Message {
        let length = self.0.read_u32_le().await.expect("it answers");
        let mut body = vec![0; length as usize];
        self.0.read_exact(&mut body).await.expect("a whole frame");
        self.0.read_u64_le().await.expect("its seal");
        Message::decode(&body).expect("a good message")
    }

    /// Opens the session with the right words.
    async fn accepted(&mut self, token: Token) -> (Offer, Vec<LaneTicket>) {
        self.say(&hello(token)).await;
        let Message::Offer(offer) = self.greeted().await else { panic!("no offer") };
        self.say(&Message::Plan(plan())).await;
        let Message::Accepted(accepted) = self.heard().await else { panic!("not accepted") };
        (offer, accepted.lanes)
    }
}

fn plan() -> Plan {
    Plan {
        version: 1,
        features: Vec::new(),
        guest: GUEST,
        name: "g".into(),
        kind: "stress".into(),
        state_version: 1,
        little_endian: cfg!(target_endian = "little"),
        layout: Layout::single(MEMORY).expect("a valid size"),
        page_size: PAGE_SIZE as u32,
        lanes: 2,
    }
}

/// Says `words` at the door, finishes, and returns whatever is answered.
async fn answer(door: &str, words: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(door).await.expect("the door is open");
    // The door may hang up before it has heard everything.
    let _ = stream.write_all(words).await;
    let _ = stream.shutdown().await;
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    heard
}

#[tokio::test]
async fn sources_of_another_version_are_told_so() {
    let destination = Agent::start().await;
    for version in [0, 9] {
        let refused = client(&destination).await.prepare_incoming(announcement(version)).await;
        let refused: ClientError = refused.expect_err("no common version");
        assert!(refused.to_string().contains("version"), "{refused}");
    }
}

#[tokio::test]
async fn a_token_opens_one_session_and_a_wrong_one_none() {
    let destination = Agent::start().await;
    let (door, token) = expecting(&destination).await;
    let mut stranger = Control::open(&door).await;
    stranger.say(&hello(Token(token.0 ^ 1))).await;
    let said = stranger.greeted().await;
    assert!(matches!(&said, Message::Rejected(no) if no.why.contains("token")), "{said:?}");

    let mut source = Control::open(&door).await;
    source.say(&hello(token)).await;
    assert!(matches!(source.greeted().await, Message::Offer(_)));
    let mut second = Control::open(&door).await;
    second.say(&hello(token)).await;
    let said = second.greeted().await;
    assert!(matches!(said, Message::Rejected(_)), "{said:?}");
}

#[tokio::test]
async fn nonsense_opens_nothing_and_uses_nothing_up() {
    let destination = Agent::start().await;
    let (door, token) = expecting(&destination).await;
    let oversized = u32::try_from(CONTROL_FRAME_MAX + 1).expect("a length").to_le_bytes();
    let whole = framed(&hello(token).encode());
    let mut damaged = whole.clone();
    *damaged.last_mut().expect("a seal") ^= 1;
    let behind = |magic: [u8; 8], words: &[u8]| [magic.as_slice(), words].concat();
    let nonsense = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"WHIM".to_vec(),
        behind(CONTROL_MAGIC, &oversized),
        behind(CONTROL_MAGIC, &framed(&[])),
        behind(CONTROL_MAGIC, &framed(&[0xff; 64])),
        behind(CONTROL_MAGIC, &whole[..whole.len() - 4]),
        behind(CONTROL_MAGIC, &damaged),
        behind(LANE_MAGIC, &[0x5a; 64]),
        behind(LANE_MAGIC, b"short"),
    ];
    for words in nonsense {
        let heard = answer(&door, &words).await;
        // Nobody is offered anything: at most the first bytes, or a refusal.
        assert!(heard.len() < 200, "{words:?} was answered with {} bytes", heard.len());
    }
    let mut source = Control::open(&door).await;
    source.accepted(token).await;
}

/// What the destination answers to a lane, or nothing if it hangs up.
async fn lane(door: &str, hello: LaneHello) -> Option<LaneAnswer> {
    let mut stream = TcpStream::connect(door).await.expect("the door is open");
    stream.write_all(&hello.encode()).await.expect("it listens");
    let mut answer = [0; LANE_ANSWER_SIZE];
    stream.read_exact(&mut answer).await.ok()?;
    LaneAnswer::decode(&answer).ok()
}

#[tokio::test]
async fn lanes_of_other_sessions_are_refused_and_garbage_on_a_good_one_ends_it() {
    let destination = Agent::start().await;
    let (door, token) = expecting(&destination).await;
    let mut source = Control::open(&door).await;
    let (offer, tickets) = source.accepted(token).await;
    let (number, secret) = tickets[0];
    let good = LaneHello { session: offer.session, epoch: Epoch(0), lane: number, token: secret };
    let other = LaneHello { session: SessionId(offer.session.0 ^ 1), ..good };
    assert_eq!(lane(&door, other).await, Some(LaneAnswer(Err(LaneRefusal::Session))));
    let stale = lane(&door, LaneHello { epoch: Epoch(7), ..good }).await;
    assert_eq!(stale, Some(LaneAnswer(Err(LaneRefusal::Epoch))));
    for forged in [
        LaneHello { token: Token(secret.0 ^ 1), ..good },
        LaneHello { lane: LaneId(999), ..good },
        LaneHello { token, ..good },
    ] {
        let answer = lane(&door, forged).await;
        assert!(matches!(answer, Some(LaneAnswer(Err(_)))), "{answer:?}");
    }

    let mut stream = TcpStream::connect(&door).await.expect("the door is open");
    stream.write_all(&good.encode()).await.expect("it listens");
    let mut answer = [0; LANE_ANSWER_SIZE];
    stream.read_exact(&mut answer).await.expect("it answers");
    assert_eq!(LaneAnswer::decode(&answer), Ok(LaneAnswer(Ok(()))));
    assert!(matches!(lane(&door, good).await, Some(LaneAnswer(Err(_)))), "a ticket is used up");
    let _ = stream.write_all(&[0xa5; 4096]).await;
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard).await;
    assert!(heard.is_empty(), "garbage was acknowledged: {heard:?}");
    // The session goes on without it: the destination still answers on its control connection.
    source.say(&Message::Ping(11)).await;
    loop {
        match source.heard().await {
            Message::Pong(11) => break,
            Message::Ping(number) => source.say(&Message::Pong(number)).await,
            Message::LaneClosed(closed) => assert_eq!(closed.mark.lane, number),
            other => panic!("{other:?}"),
        }
    }
}
