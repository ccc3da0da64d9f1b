//! Whoever has no identity is many, loud, slow and silent, while a guest moves.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use whimbrel_tests::initials::{BEGUN as HANDSHAKE_BEGUN, SIZE, Stranger};
use whimbrel_tests::os;
use whimbrel_tests::program::{Agent, Said, WATCHDOG};

use crate::trusted::{Authority, ask};

/// The most sockets that an agent may have: strangers that it waits for, and some that are no
/// strangers.
const SOCKETS_MAX: usize = 128 + 64;

/// How a TLS ClientHello begins: a record of 512 bytes, of which no more than this comes.
const BEGUN: [u8; 9] = [22, 3, 1, 2, 0, 1, 0, 1, 252];

/// Comes again and again, and each time says nothing, nonsense, or the beginning of a handshake
/// byte by byte. Ends when the task does.
async fn bother(address: String, number: u64, calls: Arc<AtomicU64>) {
    loop {
        let Ok(mut tcp) = TcpStream::connect(&address).await else {
            tokio::task::yield_now().await;
            continue;
        };
        calls.fetch_add(1, Ordering::Relaxed);
        let mut answer = [0; 64];
        let heard = match number % 10 {
            0 => match tcp.write_all(&[0xA5; 4096]).await {
                Ok(()) => tcp.read(&mut answer).await,
                Err(error) => Err(error),
            },
            1..5 => {
                for byte in BEGUN {
                    if tcp.write_all(&[byte]).await.is_err() {
                        break;
                    }
                }
                tcp.read(&mut answer).await
            }
            // Until it is hung up on.
            _ => tcp.read(&mut answer).await,
        };
        // Nobody is told anything but an alert.
        if let Ok(length) = heard {
            assert!(length <= 7, "{:?}", &answer[..length]);
        }
    }
}

/// What an agent says that may be too busy to hear everybody: a handshake may last longer than it
/// leaves one alone.
async fn heard(agent: &Agent, identity: &str, words: &[&str]) -> Said {
    let asking = async {
        loop {
            let said = ask(agent, identity, words).await;
            match said.status {
                Some(5 | 6) => println!("{said:?}"),
                _ => return said.ended(0),
            }
        }
    };
    timeout(WATCHDOG, asking).await.expect("it is heard after all")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_does_not_stop_a_migration() {
    let authority = Authority::new().await;
    let ops = authority.person("ops", "30").await;
    let (a, b) = (
        authority.agent("host-a", 2, "manage = ['ops']\n", &[]).await,
        authority.agent("host-b", 3, "manage = ['ops']\n", &[]).await,
    );
    crate::trusted::guest(&a, &ops, "web").await;
    let calls = Arc::new(AtomicU64::new(0));
    let mut flood = JoinSet::new();
    for number in 0..300 {
        for agent in [&a, &b] {
            flood.spawn(bother(agent.address.clone(), number, Arc::clone(&calls)));
        }
    }
    // More of them than an agent has places for are there.
    os::until(|| (calls.load(Ordering::Relaxed) > 800).then_some(())).await;
    // Slowly enough for them to be there all the time.
    let words = ["migrate", "web", &b.address, "--limit", "16MiB/s", "--json"];
    let before = calls.load(Ordering::Relaxed);
    let moved = heard(&a, &ops, &words).await.json();
    assert_eq!(moved["outcome"], "completed", "{moved}");
    let during = calls.load(Ordering::Relaxed) - before;
    assert!(during > 300, "only {during} strangers came meanwhile");
    for agent in [&a, &b] {
        // Those who are hung up on at once are a moment later gone, and so are their sockets.
        os::until(|| (os::sockets(agent.pid()) <= SOCKETS_MAX).then_some(())).await;
        let _ = heard(agent, &ops, &["list"]).await;
    }
    println!("{} calls of strangers", calls.load(Ordering::Relaxed));
    while let Some(ended) = timeout(Duration::ZERO, flood.join_next()).await.ok().flatten() {
        ended.expect("no stranger was told anything");
    }
    flood.shutdown().await;
}

/// Where guests come in over QUIC: outside of what the system gives to others, and known to those
/// who disturb.
const PORTS: RangeInclusive<u16> = 21_200..=21_201;
/// Of each who disturbs, between two packets.
const PACE: Duration = Duration::from_millis(1);

/// Says the beginning of a handshake, what is none, more than is kept, and what is no packet, each
/// time as somebody else and to the next port. Counts the answers. Ends when the task does.
async fn pester(ip: IpAddr, number: u64, answers: Arc<AtomicU64>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answer = [0; 2048];
    for (turn, port) in (number << 32..).zip(PORTS.cycle()) {
        pace.tick().await;
        let stranger = Stranger::new(turn);
        let packet = match turn / 2 % 4 {
            0 => stranger.says(0, &HANDSHAKE_BEGUN),
            1 => stranger.says(0, &[0xFF; 64]),
            2 => stranger.says(1 << 20, &[1; 64]),
            _ => vec![0xA5; SIZE],
        };
        // Where nobody listens yet, the system may say so.
        let _ = socket.send_to(&packet, (ip, port)).await;
        while socket.try_recv(&mut answer).is_ok() {
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_handshakes_over_quic_does_not_stop_a_migration() {
    let authority = Authority::new().await;
    let ops = authority.person("ops", "30").await;
    let ports = format!("{}-{}", PORTS.start(), PORTS.end());
    let policy = "manage = ['ops']\n";
    let a = authority.agent("host-a", 12, policy, &[]).await;
    let b = authority.agent("host-b", 13, policy, &["--ports", &ports]).await;
    crate::trusted::guest(&a, &ops, "web").await;
    let (answers, mut flood) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
    for number in 0..4 {
        let ip = Ipv4Addr::new(127, 0, 0, 13).into();
        flood.spawn(pester(ip, number, Arc::clone(&answers)));
    }
    // Slowly enough for them to be there all the time.
    let slowly = ["--limit", "100Mbit/s", "--transport", "quic", "--json"];
    let words = [&["migrate", "web", &b.address][..], &slowly].concat();
    let moved = ask(&a, &ops, &words).await.ended(0).json();
    assert_eq!(
        (&moved["outcome"], &moved["transport"]),
        (&"completed".into(), &"quic".into()),
        "{moved}"
    );
    let heard = answers.load(Ordering::Relaxed);
    assert!(heard > 0, "the strangers have reached nobody");
    println!("{heard} answers to strangers");
    flood.shutdown().await;
}
