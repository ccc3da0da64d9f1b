//! Bytes that are no control message: each is refused for its reason, none panics.

use proptest::collection::vec;
use proptest::prelude::*;
use whimbrel_protocol::{CONTROL_FRAME_MAX, DecodeError, Message};

use crate::round_trip::{self, config};
use crate::samples;

/// A field with a length.
fn field(tag: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = varint(u64::from(tag << 3 | 2));
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

/// A field that is a number.
fn number(tag: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(tag << 3)), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// What is wrong, where only a field can be.
fn wrong(body: &[u8]) -> String {
    match Message::decode(body) {
        Err(DecodeError::Field { field, why }) => format!("{field} {why}"),
        other => panic!("{other:?}"),
    }
}

const TERM: &[u8] = &[0x0a, 0x02, 0x08, 0x01];

#[test]
fn each_field_is_checked_and_named() {
    let id = [1; 16];
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (field(1, &number(1, 1)), "hello.version_min gives the versions 1..=0, which is no range"),
        (field(6, &[]), "grant.term is missing"),
        (
            field(6, &field(1, &number(1, u64::MAX))),
            "grant.term is of generation 18446744073709551615, after which none can come",
        ),
        (field(3, &number(1, 65536)), "lane_lost.lane is 65536, it must be 0 to 65535"),
        (field(7, &field(1, &[b'x'; 4097])), "abort.why has 4097 bytes, at most 4096 are allowed"),
        (field(35, &number(1, 99)), "rejected.fault is 99, which is none"),
        (field(37, &[]), "lane_closed.mark is missing"),
        (field(39, TERM), "prepared.root is missing"),
        (field(34, &field(2, &id[1..])), "accepted.resume_token has 15 bytes instead of 16"),
        (field(2, &number(7, 1)), "plan.version is 0, it must be 1 to 4294967295"),
        (field(2, &[]), "plan.endianness is neither little nor big"),
    ];
    for (body, expected) in cases {
        let found = wrong(&body);
        assert!(found.starts_with(expected), "{found:?} instead of {expected:?}");
    }
}

#[test]
fn lists_are_checked_and_named() {
    let lane = [number(1, 3), field(2, &[7; 16])].concat();
    let lanes = |count| field(34, &field(1, &lane).repeat(count));
    assert_eq!(wrong(&lanes(129)), "accepted.lanes has 129 entries, at most 128 are allowed");
    assert_eq!(wrong(&lanes(2)), "accepted.lanes names lane 3 twice");
    let chunk = |index| field(2, &[number(1, index), field(2, &[0; 16])].concat());
    let chunks = field(41, &[chunk(5), chunk(4)].concat());
    assert_eq!(wrong(&chunks), "sums.chunks names chunk 5 before 4");
    let region = field(8, &[number(1, 1), number(2, 4097)].concat());
    let plan = [number(1, 1), field(3, &[1; 16]), number(7, 1), region].concat();
    let found = wrong(&field(2, &plan));
    assert!(found.starts_with("plan.regions is no layout: region 1 has 4097 bytes"), "{found}");
}

#[test]
fn a_frame_holds_one_known_message() {
    let ping = Message::Ping(3).encode();
    assert_eq!(Message::decode(&[]), Err(DecodeError::Unknown(0)));
    assert_eq!(Message::decode(&field(99, &[])), Err(DecodeError::Unknown(99)));
    let twice = Message::decode(&[&ping[..], &ping[..]].concat());
    assert!(matches!(twice, Err(DecodeError::Malformed(why)) if why.contains("9 and 9")));
    let flat = Message::decode(&number(9, 3));
    assert!(matches!(flat, Err(DecodeError::Malformed(why)) if why.contains("plain number")));
}

#[test]
fn what_a_later_release_adds_is_ignored() {
    let added =
        [field(100, b"later"), Message::Ping(3).encode().to_vec(), number(4000, 1)].concat();
    assert_eq!(Message::decode(&added), Ok(Message::Ping(3)));
    let inside = field(9, &[number(1, 3), field(77, b"later"), number(78, 5)].concat());
    assert_eq!(Message::decode(&inside), Ok(Message::Ping(3)));
}

#[test]
fn every_cut_of_a_frame_is_refused() {
    for (name, message) in samples::all() {
        let body = message.encode();
        for end in 1..body.len() {
            let read = Message::decode(&body[..end]);
            assert_eq!(read, Err(DecodeError::Truncated), "{name} cut to {end}");
        }
    }
}

#[test]
fn a_frame_is_measured_before_it_is_taken_apart() {
    let long = vec![0; CONTROL_FRAME_MAX + 1];
    let expected =
        DecodeError::Oversized { what: "bytes", found: long.len(), most: CONTROL_FRAME_MAX };
    assert_eq!(Message::decode(&long), Err(expected));
    // Half a million regions of two bytes each would become twelve megabytes of structs.
    let many = Message::decode(&field(2, &field(8, &[]).repeat(1 << 19)));
    assert!(matches!(many, Err(DecodeError::Oversized { what: "fields", .. })), "{many:?}");
}

proptest! {
    #![proptest_config(config(1024))]

    #[test]
    fn random_bytes_never_panic(body in vec(any::<u8>(), 0..2000)) {
        let _ = Message::decode(&body);
    }

    #[test]
    fn a_damaged_message_never_panics(
        message in round_trip::message(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut body = message.encode().to_vec();
        for (place, byte) in damage {
            if !body.is_empty() {
                let place = place.index(body.len());
                body[place] = byte;
            }
        }
        // What is accepted is a message within its limits: it can be written and read again.
        if let Ok(read) = Message::decode(&body) {
            prop_assert_eq!(Message::decode(&read.encode()), Ok(read));
        }
    }
}
