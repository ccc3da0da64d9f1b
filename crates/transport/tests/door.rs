//! The listening port, and reaching it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use whimbrel_transport::{
    Congestion, DialError, Door, DoorOptions, Kind, Path, Purpose, Tuning, dial, greet,
};

const ANY_PORT: SocketAddr = SocketAddr::new(LOOPBACK, 0);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);
const CONTROL: Kind = Kind { magic: *b"control\n", size: 8, purpose: Purpose::Control };
const LANE: Kind = Kind { magic: *b"thelane\n", size: 64, purpose: Purpose::Bulk };

fn open(options: DoorOptions) -> Door {
    Door::open(&[ANY_PORT], vec![CONTROL, LANE], options).expect("a free port")
}

fn path(remote: SocketAddr) -> Path {
    Path::to(remote)
}

async fn connect(door: &Door) -> TcpStream {
    dial(&path(door.address()), &Tuning::default(), PATIENT).await.expect("listening")
}

fn lane_hello() -> [u8; 64] {
    let mut hello = [9; 64];
    hello[..8].copy_from_slice(&LANE.magic);
    hello
}

#[tokio::test]
async fn one_port_takes_control_connections_and_lanes() {
    let mut door = open(DoorOptions::default());
    let (mut control, mut lane) = (connect(&door).await, connect(&door).await);
    control.write_all(&CONTROL.magic).await.expect("sent");
    let caller = door.next().await;
    assert_eq!((caller.kind, &caller.hello[..]), (0, &CONTROL.magic[..]));
    let asking = tokio::spawn(async move {
        let mut answer = [0; 3];
        greet(&mut lane, &lane_hello(), &mut answer, PATIENT).await.expect("answered");
        (lane, answer)
    });
    let mut caller = door.next().await;
    assert_eq!((caller.kind, &caller.hello[..]), (1, &lane_hello()[..]));
    caller.answer(b"yes", PATIENT).await.expect("sent");
    let mut far = caller.into_lane(PATIENT).expect("a lane");
    let (mut lane, answer) = asking.await.expect("no panic");
    assert_eq!(&answer, b"yes");
    // Nothing behind the greeting was read.
    lane.write_all(b"batch").await.expect("sent");
    let mut got = [0; 5];
    far.receive(&mut got).expect("arrives");
    assert_eq!(&got, b"batch");
}

#[tokio::test]
async fn garbage_and_silence_are_hung_up_on_and_hold_nobody_up() {
    let mut door =
        open(DoorOptions { greeting_within: SHORT, greeting_max: 4, ..DoorOptions::default() });
    let mut silent = vec![];
    for _ in 0..8 {
        silent.push(connect(&door).await);
    }
    let mut garbage = connect(&door).await;
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
    let mut half = connect(&door).await;
    half.write_all(&lane_hello()[..63]).await.expect("sent");
    let mut real = connect(&door).await;
    real.write_all(&CONTROL.magic).await.expect("sent");
    let caller = door.next().await;
    assert_eq!(caller.from, real.local_addr().expect("connected"));
    for mut stream in silent.into_iter().chain([garbage, half]) {
        // The end, or a reset where bytes were left unread.
        assert!(matches!(stream.read(&mut [0; 10]).await, Ok(0) | Err(_)));
    }
}

/// Nobody here would be hung up on for being slow.
#[tokio::test]
async fn the_longest_silent_makes_room_for_whoever_comes() {
    let places = 4;
    let options =
        DoorOptions { greeting_within: PATIENT * 60, greeting_max: places, ..Default::default() };
    let mut door = open(options);
    let mut silent = vec![];
    for _ in 0..places {
        silent.push(connect(&door).await);
    }
    let mut real = connect(&door).await;
    real.write_all(&CONTROL.magic).await.expect("sent");
    let caller = timeout(PATIENT, door.next()).await.expect("there is room");
    assert_eq!(caller.from, real.local_addr().expect("connected"));
    assert!(matches!(silent[0].read(&mut [0]).await, Ok(0) | Err(_)), "the oldest is hung up on");
    let newest = silent[places - 1].try_read(&mut [0]).expect_err("nothing to read");
    assert_eq!(newest.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_door_holds_its_port_and_gives_it_back() {
    let first = open(DoorOptions::default());
    let port = first.address();
    let again = || Door::open(&[port], vec![CONTROL], DoorOptions::default());
    assert!(again().is_err());
    drop(first);
    // The port is free when the listening task has ended, which it does soon.
    while again().is_err() {
        tokio::task::yield_now().await;
    }
    assert!(Door::open(&[], vec![CONTROL], DoorOptions::default()).is_err());
}

#[tokio::test]
async fn a_door_may_have_several_addresses() {
    let other = SocketAddr::new([127, 0, 0, 2].into(), 0);
    let options = DoorOptions::default();
    let mut door = Door::open(&[ANY_PORT, other], vec![CONTROL, LANE], options).expect("loopback");
    let [one, two] = *door.addresses() else { panic!("{:?}", door.addresses()) };
    assert_eq!((one.ip(), two.ip()), (ANY_PORT.ip(), other.ip()));
    for address in [two, one] {
        let mut stream = dial(&path(address), &Tuning::default(), PATIENT).await.expect("open");
        stream.write_all(&CONTROL.magic).await.expect("sent");
        assert_eq!(door.next().await.kind, 0);
    }
    let (key, third) = (door.key(), SocketAddr::new([127, 0, 0, 3].into(), 0));
    let third = key.open_also(third).expect("loopback");
    let mut stream = dial(&path(third), &Tuning::default(), PATIENT).await.expect("open");
    stream.write_all(&CONTROL.magic).await.expect("sent");
    assert_eq!(door.next().await.kind, 0);
    drop(door);
    assert!(key.open_also(ANY_PORT).is_err(), "nobody would answer");
}

/// Other systems do not tell.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_says_what_class_it_is_of_and_through_which_interface_it_goes() {
    let door = open(DoorOptions::default());
    let tuning = Tuning { dscp: Some(10), priority: Some(4), ..Tuning::default() };
    let through = Path { interface: Some("lo".into()), ..path(door.address()) };
    let stream = dial(&through, &tuning, PATIENT).await.expect("open");
    let socket = socket2::SockRef::from(&stream);
    assert_eq!(socket.tos_v4().expect("told"), 40);
    assert_eq!(socket.priority().expect("told"), 4);
    assert_eq!(socket.device().expect("told").as_deref(), Some(b"lo".as_slice()));
    let nowhere = Path { interface: Some("nonesuch0".into()), ..path(door.address()) };
    let why = dial(&nowhere, &tuning, PATIENT).await.expect_err("no such interface").to_string();
    assert!(why.contains("nonesuch0"), "{why}");
}

/// The older protocol and this one have an option each.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_over_ipv6_says_its_class_too() {
    let any = SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), 0);
    let Ok(door) = Door::open(&[any], vec![CONTROL], DoorOptions::default()) else {
        assert!(std::env::var("WHIMBREL_REQUIRE").as_deref() != Ok("all"), "no IPv6 here");
        return eprintln!("SKIPPED: this host has no IPv6");
    };
    let tuning = Tuning { dscp: Some(46), priority: Some(3), ..Tuning::default() };
    let stream = dial(&path(door.address()), &tuning, PATIENT).await.expect("open");
    let socket = socket2::SockRef::from(&stream);
    assert_eq!(socket.tclass_v6().expect("told"), 46 << 2);
    assert_eq!(socket.priority().expect("told"), 3);
}

/// A peer that is silent or takes nothing is given up by the system as soon as it was told to.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_connection_is_given_up_by_the_system_as_it_was_told() {
    let door = open(DoorOptions::default());
    let seconds = Duration::from_secs;
    let tuning = Tuning {
        keepalive_after: seconds(3),
        // The system counts in seconds.
        keepalive_every: Duration::from_millis(200),
        keepalive_probes: 4,
        unacknowledged_max: seconds(7),
        ..Tuning::default()
    };
    let stream = dial(&path(door.address()), &tuning, PATIENT).await.expect("open");
    let socket = socket2::SockRef::from(&stream);
    assert!(socket.keepalive().expect("told"));
    assert_eq!(socket.tcp_keepalive_time().expect("told"), seconds(3));
    assert_eq!(socket.tcp_keepalive_interval().expect("told"), seconds(1));
    assert_eq!(socket.tcp_keepalive_retries().expect("told"), 4);
    assert_eq!(socket.tcp_user_timeout().expect("told"), Some(seconds(7)));
}

#[tokio::test]
async fn what_cannot_be_reached_is_named() {
    let door = open(DoorOptions::default());
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = gone.local_addr().expect("bound");
    drop(gone);
    let refused = dial(&path(closed), &Tuning::default(), PATIENT).await;
    assert!(matches!(refused, Err(DialError::Unreachable(to, _)) if to == closed), "{refused:?}");
    let named = Tuning { congestion: Congestion::Named("nonesuch".into()), ..Tuning::default() };
    let unknown = dial(&path(door.address()), &named, PATIENT).await.expect_err("no such one");
    assert!(unknown.to_string().contains("nonesuch"), "{unknown}");
    let local = Some([203, 0, 113, 7].into());
    let elsewhere = Path { local, ..Path::to(door.address()) };
    let unknown = dial(&elsewhere, &Tuning::default(), PATIENT).await.expect_err("not ours");
    assert!(unknown.to_string().contains("203.0.113.7"), "{unknown}");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_waited_for_with_a_deadline() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let to = path(mute.local_addr().expect("bound"));
    let mut stream = dial(&to, &Tuning::default(), PATIENT).await.expect("listening");
    let silent = greet(&mut stream, b"hello", &mut [0; 8], SHORT).await;
    assert!(matches!(silent, Err(DialError::Silent(SHORT))), "{silent:?}");
    let (mut far, _) = mute.accept().await.expect("connected");
    far.write_all(b"no").await.expect("sent");
    drop(far);
    let ended = greet(&mut stream, b"hello", &mut [0; 8], PATIENT).await;
    assert!(matches!(ended, Err(DialError::Greeting(_))), "{ended:?}");
}

#[tokio::test]
async fn loopback_is_not_paced_where_the_host_has_something_else() {
    let door = open(DoorOptions::default());
    let stream = connect(&door).await;
    let stream = stream.into_std().expect("a socket");
    let lane = whimbrel_transport::SocketLane::new(stream, PATIENT).expect("a lane");
    let (local, remote) = lane.addresses().expect("connected");
    assert_eq!((local.ip(), remote), (LOOPBACK, door.address()));
    match lane.congestion().as_deref() {
        Some("cubic" | "reno") => {}
        other if std::env::var("WHIMBREL_REQUIRE").as_deref() == Ok("all") => {
            panic!("{other:?} paces loopback")
        }
        other => eprintln!("SKIPPED: this host offers neither cubic nor reno, but {other:?}"),
    }
}
