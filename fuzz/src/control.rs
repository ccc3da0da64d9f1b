//! The messages of the control connection, as bytes and as what they mean.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use whimbrel_page::{ByteCount, Layout};
use whimbrel_protocol::{
    Feature, GuestUuid, Message, Offer, PROTOCOL_VERSIONS, Plan, SessionId, check_plan, negotiate,
};

use whimbrel_transport::{ControlError, ControlReceiver};
use xxhash_rust::xxh3::xxh3_64;

use crate::Reached;
use crate::memory::bounded;

/// The worst a body can do is a list of empty entries: two bytes each on the wire, a struct of
/// up to 48 bytes in a list that is copied as it grows.
const BLOW_UP: usize = 80;
/// For sentences about what is wrong, and for the smallest lists.
const AT_LEAST: usize = 16 << 10;
/// A buffer that doubles, and its predecessor.
const GROWTH: usize = 3;
/// Around each body.
const LENGTH_AND_SEAL: usize = 4 + 8;
/// What a connection makes room for before it comes.
const READ_AT_ONCE: usize = 64 << 10;

/// Takes the bytes as a body, and as all that comes on a connection.
pub fn run(bytes: &[u8]) -> Reached {
    connection(bytes);
    body(bytes)
}

/// Receives as a connection does. A frame that is sealed comes out as it went in; one without its
/// last byte does not come out.
fn connection(bytes: &[u8]) {
    let allowed = GROWTH * bytes.len() + READ_AT_ONCE + AT_LEAST;
    let whole = bounded(allowed, || receive(bytes).0);
    assert!(whole.iter().map(|frame| LENGTH_AND_SEAL + frame.len()).sum::<usize>() <= bytes.len());
    let mut frame = [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    frame.extend(xxh3_64(&frame).to_le_bytes());
    let allowed = GROWTH * frame.len() + READ_AT_ONCE + AT_LEAST;
    let (got, end) = bounded(allowed, || receive(&frame));
    assert_eq!(got, [bytes], "a sealed frame comes out as it went in");
    assert!(matches!(end, ControlError::Closed), "{end}");
    let (got, end) = receive(&frame[..frame.len() - 1]);
    assert!(got.is_empty() && matches!(end, ControlError::Truncated), "{end}");
}

/// The frames of a connection that ends after `bytes`, and why there were no more.
fn receive(bytes: &[u8]) -> (Vec<Bytes>, ControlError) {
    let mut receiver = ControlReceiver::new(bytes, bytes.len());
    let mut frames = Vec::new();
    loop {
        // A slice never keeps its reader waiting.
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
    let read = bounded(BLOW_UP * body.len() + AT_LEAST, || Message::decode(body));
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
