//! The messages of the control connection, as bytes and as what they mean.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use whimbrel_page::{ByteCount, Layout};
use whimbrel_protocol::limits::CONTROL_FIELDS_MAX;
use whimbrel_protocol::{
    Feature, GuestUuid, Message, Offer, PROTOCOL_VERSIONS, Plan, SessionId, check_plan, negotiate,
};

use whimbrel_transport::{ControlError, ControlReceiver};
use xxhash_rust::xxh3::xxh3_64;

use crate::Reached;
use crate::memory::bounded;

/// What is long in a body is kept once; what is read grows by doubling.
const COPIES: usize = 3;
/// Of short entries there are so many at most: structs of up to 48 bytes, in a list that is copied
/// as it grows.
const FIELDS: usize = 160 * CONTROL_FIELDS_MAX;
/// For sentences about what is wrong, and for the smallest lists.
const AT_LEAST: usize = 16 << 10;
/// A buffer that doubles, and its predecessor.
const GROWTH: usize = 3;
/// Before and behind each body.
const LENGTH_SIZE: usize = 4;
const SEAL_SIZE: usize = 8;
/// What a connection makes room for before it comes.
const READ_AT_ONCE: usize = 64 << 10;

/// Takes the bytes as a body, and as all that comes on a connection.
pub fn run(bytes: &[u8]) -> Reached {
    connection(bytes);
    body(bytes)
}

/// Receives as a connection does, some bytes at a time: frames come out as they went in, and
/// nothing of one that is damaged, cut short or too long does.
fn connection(bytes: &[u8]) {
    let most = bytes.len();
    let allowed = GROWTH * most + READ_AT_ONCE + AT_LEAST;
    bounded(allowed, || drop(receive(bytes, 1, most)));
    let piece = 1 + usize::from(bytes.last().copied().unwrap_or_default() % 32);
    let at = usize::from(bytes.first().copied().unwrap_or_default()) % (most + 1);
    let (one, two) = bytes.split_at(at);
    let mut stream = [sealed(one), sealed(two)].concat();
    let allowed = GROWTH * stream.len() + READ_AT_ONCE + AT_LEAST;
    let (got, end) = bounded(allowed, || receive(&stream, piece, most));
    assert_eq!(got, [one, two], "sealed frames come out as they went in");
    assert!(matches!(end, ControlError::Closed), "{end}");
    let (got, end) = receive(&stream[..stream.len() - 1], piece, most);
    assert!(got == [one] && matches!(end, ControlError::Truncated), "{end}");
    if let Some(most) = one.len().max(two.len()).checked_sub(1) {
        let (got, end) = receive(&stream, piece, most);
        assert!(got.len() < 2 && matches!(end, ControlError::Oversized { .. }), "{end}");
    }
    let damaged = LENGTH_SIZE + at % (two.len() + SEAL_SIZE);
    stream[sealed(one).len() + damaged] ^= 1 << (piece % 8);
    let (got, end) = receive(&stream, piece, most);
    assert!(got == [one] && matches!(end, ControlError::Damaged), "{end}");
}

/// A body as it stands on a connection (wire.md C3, C13).
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut frame = [&(body.len() as u32).to_le_bytes(), body].concat();
    frame.extend(xxh3_64(&frame).to_le_bytes());
    frame
}

/// Bytes that come so many at a time.
struct Pieces<'a>(&'a [u8], usize);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let most = self.1.min(into.remaining()).min(self.0.len());
        let (piece, rest) = self.0.split_at(most);
        into.put_slice(piece);
        self.0 = rest;
        Poll::Ready(Ok(()))
    }
}

/// The frames of a connection that ends after `bytes`, and why there were no more.
fn receive(bytes: &[u8], piece: usize, frame_max: usize) -> (Vec<Bytes>, ControlError) {
    let mut receiver = ControlReceiver::new(Pieces(bytes, piece), frame_max);
    let mut frames = Vec::new();
    loop {
        // Nothing here keeps its reader waiting.
        let next = pin!(receiver.receive()).poll(&mut Context::from_waker(Waker::noop()));
        match next {
            Poll::Ready(Ok(frame)) => frames.push(frame),
            Poll::Ready(Err(end)) => return (frames, end),
            Poll::Pending => panic!("nothing to wait for"),
        }
    }
}

/// Decodes a body. What is accepted is written and read again as the same, and judged as an offer
/// or as a plan if it is one.
fn body(body: &[u8]) -> Reached {
    let read = bounded(COPIES * body.len() + FIELDS + AT_LEAST, || Message::decode(body));
    let Ok(message) = read else { return Reached::new() };
    let again = Message::decode(&message.encode());
    assert_eq!(again.as_ref(), Ok(&message), "what is accepted can be written and read");
    judge(&message);
    Reached::from([message.name().to_owned()])
}

/// Both sides' judgements of what the other offers and picks.
fn judge(message: &Message) {
    match message {
        Message::Offer(offer) => {
            if let Ok(picked) = negotiate(offer, PROTOCOL_VERSIONS, &["a", "b"]) {
                let mut plan = plan();
                (plan.version, plan.features) = (picked.version, picked.features);
                plan.lanes = offer.lanes_max;
                assert_eq!(check_plan(&plan, offer), Ok(()), "what is picked is accepted");
            }
        }
        Message::Plan(plan) if check_plan(plan, &offer()).is_ok() => {
            assert!(plan.version == 1 && plan.lanes <= 4, "{plan:?}");
            assert!(plan.features.iter().any(|feature| feature == "b"), "{plan:?}");
        }
        _ => {}
    }
}

fn offer() -> Offer {
    let feature = |name: &str, mandatory| Feature { name: name.to_owned(), mandatory };
    Offer {
        session: SessionId(9),
        version_min: 1,
        version_max: 1,
        features: vec![feature("a", false), feature("b", true)],
        lanes_max: 4,
        batch_bytes_max: 1 << 18,
    }
}

fn plan() -> Plan {
    Plan {
        version: 1,
        features: Vec::new(),
        guest: GuestUuid(1),
        name: "g".to_owned(),
        kind: "model".to_owned(),
        state_version: 1,
        little_endian: true,
        layout: Layout::single(ByteCount::mib(1)).expect("valid"),
        page_size: 4096,
        lanes: 1,
    }
}
