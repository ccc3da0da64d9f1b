//! Handshakes of QUIC that nobody means cost no more than they may, and keep nobody out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use whimbrel_tests::initials::{BEGUN, Stranger, Told};
use whimbrel_transport::{
    Carrier, Credentials, Door, DoorOptions, Identity, Kind, Path, Purpose, Quic, Tuning, connect,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const WATCHDOG: Duration = Duration::from_secs(120);
const CONTROL: Kind = Kind { magic: *b"control\n", size: 8, purpose: Purpose::Control };
const PLACES: usize = 4;
/// More than the standard has a side keep of a handshake that comes in pieces.
const TOO_FAR: usize = 1 << 20;

/// A door, and how whoever may come in comes.
fn open(greeting_within: Duration) -> (Door, Carrier) {
    let make = || Arc::new(Identity::generate().expect("random numbers"));
    let (one, other) = (make(), make());
    let near = Credentials { identity: one.clone(), peer: other.fingerprint() };
    let far = Credentials { identity: other, peer: one.fingerprint() };
    let carrier = Carrier::Quic(Quic::new(far));
    let (greeting_max, rest) = (PLACES, DoorOptions::default());
    // Nobody makes room for somebody else here.
    let left_alone = WATCHDOG * 10;
    let options = DoorOptions { greeting_within, greeting_max, left_alone, carrier, ..rest };
    let door = Door::open(&[(LOOPBACK, 0).into()], vec![CONTROL], options).expect("a free port");
    (door, Carrier::Quic(Quic::new(near)))
}

/// Whoever is expected comes in.
async fn lets_in(door: &mut Door, near: &Carrier) {
    let path = Path::to(door.address());
    let calling = async {
        let how = (near, CONTROL.purpose);
        let mut stream = connect(&path, &Tuning::default(), how, WATCHDOG).await.expect("let in");
        stream.write_all(&CONTROL.magic).await.expect("taken");
        stream
    };
    let both = async { tokio::join!(calling, door.next()) };
    let (_stream, caller) = timeout(WATCHDOG, both).await.expect("nobody holds it up");
    assert_eq!(caller.hello, CONTROL.magic);
}

struct Caller {
    stranger: Stranger,
    socket: UdpSocket,
}

impl Caller {
    async fn new(number: u64, door: SocketAddr) -> Self {
        let socket = UdpSocket::bind((LOOPBACK, 0)).await.expect("a free port");
        socket.connect(door).await.expect("loopback");
        Self { stranger: Stranger::new(number), socket }
    }

    async fn says(&mut self, offset: usize, words: &[u8]) -> Told {
        self.socket.send(&self.stranger.says(offset, words)).await.expect("sent");
        let mut answer = [0; 2048];
        let heard = timeout(WATCHDOG, self.socket.recv(&mut answer)).await;
        let size = heard.expect("it is answered").expect("the door is there");
        self.stranger.hears(&answer[..size])
    }

    /// The same, and shows its address where it is asked to.
    async fn insists(&mut self, offset: usize, words: &[u8]) {
        if self.says(offset, words).await == Told::ComeAgain {
            assert_eq!(self.says(offset, words).await, Told::Begun, "it has shown its address");
        }
    }
}

/// Half of the places are for those who have shown no address: who writes another one's on its
/// packets has no more of them begun than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_show_no_address_leave_half_of_the_places() {
    let (mut door, near) = open(WATCHDOG * 10);
    let mut callers = Vec::new();
    for number in 0..20 {
        let mut caller = Caller::new(number, door.address()).await;
        let told = caller.says(0, &BEGUN).await;
        callers.push((told, caller));
    }
    let begun = callers.iter().filter(|(told, _)| *told == Told::Begun).count();
    assert_eq!(begun, PLACES / 2, "handshakes that are kept");
    lets_in(&mut door, &near).await;
}

/// More of them than there are places, all of which show where they are: each is hung up on when
/// its time is over, so that the next ones are heard, and whoever may come in is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_do_not_go_on_are_hung_up_on_in_time() {
    // Whoever may come in has no more time. The others wait for each other's places.
    let (mut door, near) = open(Duration::from_secs(3));
    for number in 0..2 * PLACES as u64 {
        Caller::new(number, door.address()).await.insists(0, &BEGUN).await;
    }
    lets_in(&mut door, &near).await;
}

/// What is no handshake, and what is more of one than is kept, is hung up on at once: its time
/// would be longer than anybody waits here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_handshakes_give_their_places_back_at_once() {
    let (mut door, near) = open(WATCHDOG * 10);
    for number in 0..4 * PLACES as u64 {
        let mut caller = Caller::new(number, door.address()).await;
        match number % 2 {
            0 => caller.insists(0, &[0xFF; 64]).await,
            _ => caller.insists(TOO_FAR, &[1; 64]).await,
        }
    }
    lets_in(&mut door, &near).await;
}
