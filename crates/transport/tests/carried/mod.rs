//! Connections through a door, over any carrier.
// Each test that uses this needs another part of it.
#![allow(dead_code)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use whimbrel_page::ByteCount;
use whimbrel_transport::{
    Caller, Carrier, Credentials, DialError, Door, DoorOptions, End, Identity, Kind, Lane, Path,
    Purpose, Quic, Stream, Tuning, connect,
};

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const PATIENT: Duration = Duration::from_secs(20);
pub(crate) const CONTROL: Kind = Kind { magic: *b"control\n", size: 8, purpose: Purpose::Control };
pub(crate) const LANE: Kind = Kind { magic: *b"thelane\n", size: 64, purpose: Purpose::Bulk };

/// The source's carrier and the destination's.
pub(crate) type Ends = (Carrier, Carrier);

/// Each side's key, and the other's certificate.
pub(crate) fn credentials() -> (Credentials, Credentials) {
    let make = || Arc::new(Identity::generate().expect("random numbers"));
    let (one, other) = (make(), make());
    let near = Credentials { identity: one.clone(), peer: other.fingerprint() };
    (near, Credentials { identity: other, peer: one.fingerprint() })
}

pub(crate) fn tls() -> Ends {
    let (near, far) = credentials();
    (Carrier::Tls(near), Carrier::Tls(far))
}

pub(crate) fn signed() -> Ends {
    let (near, far) = credentials();
    (Carrier::Signed(near), Carrier::Signed(far))
}

pub(crate) fn quic() -> Ends {
    let (near, far) = credentials();
    (Carrier::Quic(Quic::new(near)), Carrier::Quic(Quic::new(far)))
}

pub(crate) fn local() -> Ends {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("whimbrel-door-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    (Carrier::Local(path.clone()), Carrier::Local(path))
}

/// Buffers that a test can fill.
fn tuning() -> Tuning {
    let size = Some(ByteCount::kib(64));
    Tuning { send_buffer: size, receive_buffer: size, ..Tuning::default() }
}

pub(crate) fn door(carrier: Carrier) -> Door {
    let options = DoorOptions { tuning: tuning(), carrier, ..DoorOptions::default() };
    Door::open(&[(LOOPBACK, 0).into()], vec![CONTROL, LANE], options).expect("a free port")
}

/// The first words of a kind of connection.
pub(crate) fn hello(kind: Kind) -> Vec<u8> {
    let mut hello = kind.magic.to_vec();
    hello.resize(kind.size, 9);
    hello
}

/// Connects and says what it is.
pub(crate) async fn reach(door: &Door, carrier: &Carrier, kind: Kind) -> Result<Stream, DialError> {
    let path = Path::to(door.address());
    let mut stream = connect(&path, &tuning(), (carrier, kind.purpose), PATIENT).await?;
    let said = stream.write_all(&hello(kind)).await;
    said.map_err(DialError::Greeting)?;
    stream.flush().await.map_err(DialError::Greeting)?;
    Ok(stream)
}

async fn open(door: &mut Door, carrier: &Carrier, kind: Kind) -> (Stream, Caller) {
    let address = door.address();
    let caller = async { door.next().await };
    let path = Path::to(address);
    let near = async {
        let connected = connect(&path, &tuning(), (carrier, kind.purpose), PATIENT).await;
        let mut near = connected.expect("listening");
        near.write_all(&hello(kind)).await.expect("taken");
        near.flush().await.expect("taken");
        near
    };
    tokio::join!(near, caller)
}

/// A lane, as source and destination make one.
pub(crate) fn carried(ends: Ends, stall: Duration) -> (Box<dyn Lane>, Box<dyn Lane>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut door = door(ends.1);
        let secrets = match ends.0.signs_lanes() {
            true => {
                let (near, far) = open(&mut door, &ends.0, CONTROL).await;
                let secret = |stream: &Stream| stream.lane_secret().expect("exported");
                secret(&near).zip(secret(&far.stream))
            }
            false => None,
        };
        let (near, caller) = open(&mut door, &ends.0, LANE).await;
        assert_eq!((caller.kind, &caller.hello), (1, &hello(LANE)));
        let near = near.into_lane(stall).expect("a lane");
        let far = caller.into_lane(stall).expect("a lane");
        match secrets {
            None => (near, far),
            Some((one, other)) => {
                let hello = hello(LANE);
                (one.sign(near, &hello, End::Source), other.sign(far, &hello, End::Destination))
            }
        }
    })
}
