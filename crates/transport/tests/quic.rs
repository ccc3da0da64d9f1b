//! What lanes over QUIC have to themselves: they share a connection, and a connection may move.

mod carried;
mod datagrams;

use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::time::Duration;

use carried::{CONTROL, LANE, LOOPBACK, PATIENT, door, hello, quic};
use datagrams::Relay;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use whimbrel_page::ByteCount;
use whimbrel_transport::{
    Caller, Carrier, DialError, Door, DoorOptions, Kind, Lane, LaneError, Path, Stream, Tuning,
    connect, look,
};

/// For what is to fail.
const SHORT: Duration = Duration::from_millis(200);

/// Buffers that a test can fill; a connection on which nothing comes for so long is over.
fn tuning(silence: Duration) -> Tuning {
    let size = Some(ByteCount::kib(64));
    let (send_buffer, receive_buffer) = (size, size);
    let keepalive_every = silence / 5;
    let unacknowledged_max = silence;
    let rest = Tuning::default();
    Tuning { send_buffer, receive_buffer, keepalive_every, unacknowledged_max, ..rest }
}

async fn reach(
    carrier: &Carrier,
    address: SocketAddr,
    kind: Kind,
    silence: Duration,
) -> Result<Stream, DialError> {
    let (path, tuning) = (Path::to(address), tuning(silence));
    let mut stream = connect(&path, &tuning, (carrier, kind.purpose), PATIENT).await?;
    stream.write_all(&hello(kind)).await.map_err(DialError::Greeting)?;
    Ok(stream)
}

async fn pair(door: &mut Door, carrier: &Carrier, kind: Kind) -> (Stream, Caller) {
    let address = door.address();
    let (near, far) = tokio::join!(reach(carrier, address, kind, PATIENT), door.next());
    (near.expect("it is there"), far)
}

/// A lane that comes through `relay`.
async fn relayed(
    door: &mut Door,
    relay: &Relay,
    carrier: &Carrier,
    silence: Duration,
) -> (Box<dyn Lane>, Box<dyn Lane>) {
    let (near, far) = tokio::join!(reach(carrier, relay.address, LANE, silence), door.next());
    let near = near.expect("it is there").into_lane(PATIENT).expect("a lane");
    (near, far.into_lane(PATIENT).expect("a lane"))
}

fn says(from: &mut dyn Lane, to: &mut dyn Lane, bytes: &[u8]) {
    from.send(&mut [IoSlice::new(bytes)]).expect("taken");
    let mut got = vec![0; bytes.len()];
    to.receive(&mut got).expect("it arrives");
    assert!(got == bytes);
}

/// wire.md P11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_share_a_connection_and_one_that_is_not_read_holds_nobody_up() {
    let (near, far) = quic();
    let mut door = door(far);
    let (full, unread) = pair(&mut door, &near, LANE).await;
    let (one, other) = pair(&mut door, &near, LANE).await;
    assert_eq!(unread.from, other.from, "one connection has one port");
    let mut full = full.into_lane(SHORT).expect("a lane");
    let piece = [7; 4096];
    let stalled = loop {
        if let Err(error) = full.send(&mut [IoSlice::new(&piece)]) {
            break error;
        }
    };
    assert!(matches!(stalled, LaneError::Stalled(SHORT)), "{stalled:?}");
    let mut one = one.into_lane(PATIENT).expect("a lane");
    let mut other = other.into_lane(PATIENT).expect("a lane");
    for _ in 0..100 {
        says(&mut *one, &mut *other, &piece);
        says(&mut *other, &mut *one, b"ack");
    }
    let (mut near, mut control) = pair(&mut door, &near, CONTROL).await;
    assert_ne!(control.from, unread.from, "control messages have a connection of their own");
    control.answer(b"Yes.", PATIENT).await.expect("taken");
    let mut answer = [0; 4];
    near.read_exact(&mut answer).await.expect("it arrives");
    assert_eq!(&answer, b"Yes.");
}

/// A path that was out is looked at in its own words: nobody listens there for another protocol,
/// and where somebody does, that says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_works_where_this_protocol_is_answered() {
    let (near, far) = quic();
    let door = door(far);
    let works = async |address, within| {
        look(&Path::to(address), &tuning(PATIENT), &near, within).await.is_ok()
    };
    assert!(works(door.address(), PATIENT).await, "it answers");
    assert!(works(door.address(), PATIENT).await, "the connection that stands answers");
    let tcp = tokio::net::TcpListener::bind((LOOPBACK, 0)).await.expect("a port");
    let address = tcp.local_addr().expect("bound");
    assert!(look(&Path::to(address), &tuning(PATIENT), &Carrier::Tcp, PATIENT).await.is_ok());
    assert!(!works(address, SHORT).await, "nobody there speaks QUIC");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_goes_on_from_another_address() {
    let (near, far) = quic();
    let mut door = door(far);
    let relay = Relay::to(door.address()).await;
    let (mut one, mut other) = relayed(&mut door, &relay, &near, PATIENT).await;
    for _ in 0..3 {
        says(&mut *one, &mut *other, &[1; 10_000]);
        says(&mut *other, &mut *one, b"ack");
        let (before, after) = relay.move_on().await;
        assert_ne!(before, after);
    }
    says(&mut *one, &mut *other, &[2; 10_000]);
    says(&mut *other, &mut *one, b"ack");
}

/// Opening a stream takes no word from the other side, and must not pass for having reached it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_is_dark_is_not_taken_for_one_that_works() {
    let (near, far) = quic();
    let mut door = door(far);
    let relay = Relay::to(door.address()).await;
    let (mut one, mut other) = relayed(&mut door, &relay, &near, PATIENT).await;
    relay.darken(true);
    let path = Path::to(relay.address);
    let carrier = (&near, LANE.purpose);
    let called = connect(&path, &tuning(PATIENT), carrier, SHORT).await;
    assert!(matches!(called, Err(DialError::TimedOut(_, SHORT))), "{called:?}");
    relay.darken(false);
    // The lane has lost nothing, and the connection is used again.
    says(&mut *one, &mut *other, &[3; 10_000]);
    drop(relayed(&mut door, &relay, &near, PATIENT).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_that_are_lost_are_sent_again_in_their_order() {
    let (near, far) = quic();
    let mut door = door(far);
    let relay = Relay::to(door.address()).await;
    let (mut one, mut other) = relayed(&mut door, &relay, &near, PATIENT).await;
    relay.lose(20);
    let sent: Vec<u8> = (0..1_u32 << 20).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect();
    let expected = sent.clone();
    let sender = std::thread::spawn(move || {
        one.send(&mut [IoSlice::new(&sent)]).expect("taken");
        one
    });
    let mut got = vec![0; expected.len()];
    let reader = std::thread::spawn(move || {
        other.receive(&mut got).expect("it arrives");
        (other, got)
    });
    let (_other, got) =
        tokio::task::spawn_blocking(|| reader.join()).await.expect("it ends").expect("no panic");
    assert!(got == expected);
    drop(sender.join().expect("no panic"));
    assert!(relay.lost() > 20, "{} packets were lost", relay.lost());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_stays_dark_ends_its_lanes_and_is_connected_anew() {
    let (near, far) = quic();
    let mut door = door(far);
    let relay = Relay::to(door.address()).await;
    // It holds for the handshake too.
    let silence = Duration::from_secs(4);
    let (mut one, mut other) = relayed(&mut door, &relay, &near, silence).await;
    says(&mut *one, &mut *other, b"here");
    relay.darken(true);
    for lane in [&mut one, &mut other] {
        let ended = lane.receive(&mut [0]);
        let Err(LaneError::Link(error)) = ended else { panic!("{ended:?}") };
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    relay.darken(false);
    let (mut one, mut other) = relayed(&mut door, &relay, &near, PATIENT).await;
    says(&mut *one, &mut *other, b"again");
}

/// Also where there is one place, and so everybody has to show its address first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_holds_nobody_up() {
    let (near, far) = quic();
    let options = DoorOptions { carrier: far, greeting_max: 1, ..DoorOptions::default() };
    let mut door =
        Door::open(&[(LOOPBACK, 0).into()], vec![CONTROL, LANE], options).expect("a free port");
    let stranger = UdpSocket::bind((LOOPBACK, 0)).await.expect("a free port");
    // The first bytes of version 1, and what might be connection ids.
    let mut packet = [vec![0xC3, 0, 0, 0, 1, 8], vec![9; 1194]].concat();
    for round in 0..500_u32 {
        packet[6..10].copy_from_slice(&round.to_le_bytes());
        stranger.send_to(&packet, door.address()).await.expect("sent");
        stranger.send_to(&packet[..100], door.address()).await.expect("sent");
    }
    let (one, other) = pair(&mut door, &near, LANE).await;
    let mut one = one.into_lane(PATIENT).expect("a lane");
    says(&mut *one, &mut *other.into_lane(PATIENT).expect("a lane"), b"here");
}

/// Also those of whoever has shaken hands: each may hold megabytes that nobody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_counted_until_they_end() {
    let (near, far) = quic();
    let options = DoorOptions { carrier: far, links_max: 1, ..DoorOptions::default() };
    let mut door =
        Door::open(&[(LOOPBACK, 0).into()], vec![CONTROL, LANE], options).expect("a free port");
    let address = door.address();
    let (one, other) = pair(&mut door, &near, CONTROL).await;
    if let Ok(mut second) = reach(&near, address, CONTROL, PATIENT).await {
        let heard = timeout(PATIENT, second.read_u8()).await.expect("it is hung up on");
        assert!(heard.is_err(), "one too many was let in");
    }
    drop((one, other));
    let again = async {
        loop {
            let Ok(mut near) = reach(&near, address, CONTROL, PATIENT).await else { continue };
            tokio::select! {
                far = door.next() => return (near, far),
                // It was hung up on.
                _ = near.read_u8() => {}
            }
        }
    };
    let (mut near, mut far) = timeout(PATIENT, again).await.expect("its place is free");
    far.answer(b"Y", PATIENT).await.expect("taken");
    assert_eq!(near.read_u8().await.expect("it arrives"), b'Y');
}

/// wire.md P12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_failed_is_given_up_and_not_ended() {
    let (near, far) = quic();
    let mut door = door(far);
    let (full, unread) = pair(&mut door, &near, LANE).await;
    let mut full = full.into_lane(SHORT).expect("a lane");
    let mut piece = [7; 4096];
    while full.send(&mut [IoSlice::new(&piece)]).is_ok() {}
    drop(full);
    let mut unread = unread.into_lane(PATIENT).expect("a lane");
    let told = loop {
        if let Err(error) = unread.receive(&mut piece) {
            break error;
        }
    };
    assert!(matches!(told, LaneError::Link(_)), "{told:?}");
}

#[tokio::test]
async fn what_quic_cannot_do_is_said() {
    let (near, far) = quic();
    let door = door(far);
    for (wrong, why) in [
        (Tuning { dscp: Some(8), ..Tuning::default() }, "marks each packet by itself"),
        (Tuning { priority: Some(1), ..Tuning::default() }, "marks each packet by itself"),
        (
            Tuning {
                congestion: whimbrel_transport::Congestion::Named("vegas".into()),
                ..Tuning::default()
            },
            "cubic, reno, bbr, and not `vegas`",
        ),
    ] {
        let path = Path::to(door.address());
        let called = connect(&path, &wrong, (&near, LANE.purpose), PATIENT).await;
        let Err(DialError::Option(error)) = called else { panic!("{called:?}") };
        assert!(error.to_string().contains(why), "{error}");
    }
}
