//! The messages of the control connection, as bytes and as what they mean.

use whimbrel_page::{ByteCount, Layout};
use whimbrel_protocol::{
    Feature, GuestUuid, Message, Offer, PROTOCOL_VERSIONS, Plan, SessionId, check_plan, negotiate,
};

use crate::Reached;
use crate::memory::bounded;

/// The worst a body can do is a list of empty entries: two bytes each on the wire, a struct of
/// up to 48 bytes in a list that is copied as it grows.
const BLOW_UP: usize = 80;
/// For sentences about what is wrong, and for the smallest lists.
const AT_LEAST: usize = 16 << 10;

/// Decodes a body. What is accepted is written and read again as the same, and judged as an offer
/// or as a plan if it is one.
pub fn run(body: &[u8]) -> Reached {
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
