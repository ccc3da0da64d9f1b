//! Who is not the one that was expected, or comes in another way, is not let in.

mod carried;

use carried::{CONTROL, Ends, LANE, PATIENT, credentials, door, hello, quic, reach, signed, tls};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use whimbrel_transport::{Carrier, DialError, Door, Kind, Path, Quic, Stream, Tuning, connect};

/// The peer hung up, perhaps with an alert of TLS: nothing was answered.
async fn hung_up(mut stream: Stream) {
    const ALERT: u8 = 21;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENT, stream.read_to_end(&mut answer)).await;
    // A reset is as good as an end.
    let _ = read.expect("it hangs up in time");
    let first = answer.first();
    assert!(first.is_none_or(|first| *first == ALERT), "a stranger was told {answer:?}");
}

/// `carrier` comes to `door`, and is not let in; whoever is right is the next that is.
async fn refused(door: &mut Door, carrier: &Carrier, kind: Kind) {
    match reach(door, carrier, kind).await {
        Err(DialError::Stranger(..) | DialError::Greeting(_)) => {}
        Ok(stream) => hung_up(stream).await,
        Err(other) => panic!("{other}"),
    }
    let next = tokio::time::timeout(Duration::ZERO, door.next()).await;
    assert!(next.is_err(), "a stranger was let in");
}

async fn welcome(door: &mut Door, carrier: &Carrier, kind: Kind) {
    let (near, caller) = tokio::join!(reach_to(door.address(), carrier, kind), door.next());
    assert_eq!(caller.hello, hello(kind));
    drop(near);
}

async fn reach_to(address: std::net::SocketAddr, carrier: &Carrier, kind: Kind) -> Stream {
    let (path, tuning) = (Path::to(address), Tuning::default());
    let connected = connect(&path, &tuning, (carrier, kind.purpose), PATIENT).await;
    let mut stream = connected.expect("it is who it should be");
    stream.write_all(&hello(kind)).await.expect("taken");
    stream.flush().await.expect("taken");
    stream
}

/// wire.md P4: another key, whichever side has it.
#[tokio::test]
async fn only_the_certificates_that_were_told_are_accepted() {
    for (make, kind) in [
        (tls as fn() -> Ends, LANE),
        (tls, CONTROL),
        (signed, CONTROL),
        (quic, LANE),
        (quic, CONTROL),
    ] {
        let (right, there) = make();
        let mut door = door(there);
        // It knows whom it calls, and is somebody else.
        let known = match &right {
            Carrier::Tls(credentials) | Carrier::Signed(credentials) => credentials.clone(),
            Carrier::Quic(quic) => quic.credentials().clone(),
            _ => unreachable!("all have certificates"),
        };
        let (mut other, _) = credentials();
        other.peer = known.peer;
        // It is who it should be, and expects somebody else.
        let (mut misled, _) = credentials();
        misled.identity = known.identity;
        for wrong in [other, misled] {
            let wrong = match &right {
                Carrier::Tls(_) => Carrier::Tls(wrong),
                Carrier::Quic(_) => Carrier::Quic(Quic::new(wrong)),
                _ => Carrier::Signed(wrong),
            };
            refused(&mut door, &wrong, kind).await;
        }
        welcome(&mut door, &right, kind).await;
    }
}

/// wire.md P2, P3 and P5: what the other side expects is not open to discussion.
#[tokio::test]
async fn neither_side_is_talked_into_another_protection() {
    let (near, far) = credentials();
    let encrypts = || (Carrier::Tls(near.clone()), Carrier::Tls(far.clone()));
    let signs = || (Carrier::Signed(near.clone()), Carrier::Signed(far.clone()));
    for (right, other, kinds) in
        [(encrypts(), signs(), [CONTROL, LANE].as_slice()), (signs(), encrypts(), &[CONTROL, LANE])]
    {
        let mut door = door(right.1);
        for kind in kinds {
            // The other protection, with the right keys.
            refused(&mut door, &other.0, *kind).await;
        }
        refused(&mut door, &Carrier::Tcp, CONTROL).await;
        welcome(&mut door, &right.0, CONTROL).await;
        welcome(&mut door, &right.0, LANE).await;
    }
    let mut encrypting = door(encrypts().1);
    refused(&mut encrypting, &Carrier::Tcp, LANE).await;
}

/// A source that is to encrypt says nothing to whoever answers in clear.
#[tokio::test]
async fn a_destination_in_clear_is_a_stranger_to_who_encrypts() {
    let (near, _) = tls();
    let door = door(Carrier::Tcp);
    let answered = reach(&door, &near, LANE).await;
    assert!(matches!(answered, Err(DialError::Stranger(..))), "{answered:?}");
}
