use std::io::IoSlice;

use whimbrel_page::ByteCount;

use super::*;
use crate::lane_pair;

const PATIENT: Duration = Duration::from_secs(20);
const HELLO: &[u8] = &[9; 64];
const SECRET: LaneSecret = LaneSecret::new([7; 32]);

fn pair() -> (Box<dyn Lane>, Box<dyn Lane>) {
    let (near, far) = lane_pair(ByteCount::mib(8), PATIENT);
    (Box::new(near), Box::new(far))
}

/// What a source with this secret and hello puts on the wire for these calls, a record each.
fn records(secret: &LaneSecret, hello: &[u8], bodies: &[&[u8]]) -> Vec<Vec<u8>> {
    let (near, mut wire) = pair();
    let mut near = secret.sign(near, hello, End::Source);
    let record = |body: &&[u8]| {
        near.send(&mut [IoSlice::new(body)]).expect("taken");
        let mut record = vec![0; HEAD_SIZE + body.len() + MAC_SIZE];
        wire.receive(&mut record).expect("a record");
        record
    };
    bodies.iter().map(record).collect()
}

/// What a destination reads of these bytes before it ends, and why it ends.
fn read(wire: &[u8], whole: bool) -> (Vec<u8>, LaneError) {
    let (mut near, far) = pair();
    let mut far = SECRET.sign(far, HELLO, End::Destination);
    near.send(&mut [IoSlice::new(wire)]).expect("taken");
    near.finish().expect("finished");
    let mut got = Vec::new();
    loop {
        let mut piece = [0; 16];
        let size = if whole {
            far.receive(&mut piece[..4]).map(|()| 4)
        } else {
            far.wait(PATIENT).and_then(|_| far.try_receive(&mut piece))
        };
        match size {
            Ok(size) => got.extend_from_slice(&piece[..size]),
            Err(error) => return (got, error),
        }
    }
}

fn is_forged(error: &LaneError) -> bool {
    matches!(error, LaneError::Link(why) if why.kind() == io::ErrorKind::InvalidData)
}

#[test]
fn what_was_changed_on_the_way_is_given_to_nobody() {
    let sent = records(&SECRET, HELLO, &[b"0123", b"4567", b"89ab"]);
    let other_hello = records(&SECRET, &[8; 64], &[b"0123"]);
    let other_secret = records(&LaneSecret::new([6; 32]), HELLO, &[b"0123"]);
    for whole in [true, false] {
        let (got, end) = read(&sent.concat(), whole);
        assert_eq!((&got[..], matches!(end, LaneError::Closed)), (&b"0123456789ab"[..], true));
        for at in 0..sent[1].len() {
            let mut damaged = sent.clone();
            damaged[1][at] ^= 1;
            let (got, end) = read(&damaged.concat(), whole);
            // A length that grew makes a record of what follows it, or one that does not end.
            let ended = is_forged(&end) || matches!(end, LaneError::Truncated { .. });
            assert_eq!((&got[..], ended), (&b"0123"[..], true), "byte {at}: {end}");
        }
        let [a, b, c] = &sent[..] else { panic!("three records") };
        for (wire, before) in [
            ([a, a, b].as_slice(), 4), // repeated
            (&[a, c, b], 4),           // out of order
            (&[a, c], 4),              // left out
            (&[b], 0),                 // the first is missing
            (&other_hello.iter().collect::<Vec<_>>(), 0),
            (&other_secret.iter().collect::<Vec<_>>(), 0),
        ] {
            let wire: Vec<u8> = wire.iter().flat_map(|record| record.iter().copied()).collect();
            let (got, end) = read(&wire, whole);
            assert_eq!((got.len(), is_forged(&end)), (before, true), "{end}");
        }
    }
}

#[test]
fn a_record_does_not_pass_for_one_of_the_other_direction() {
    let sent = records(&SECRET, HELLO, &[b"0123"]);
    let (mut near, far) = pair();
    let mut source = SECRET.sign(far, HELLO, End::Source);
    near.send(&mut [IoSlice::new(&sent[0])]).expect("taken");
    assert!(is_forged(&source.receive(&mut [0; 4]).expect_err("its own words")));
}

#[test]
fn a_length_is_checked_before_anything_is_allocated() {
    for length in [0, BODY_MAX as u64 + 1, u64::MAX] {
        let (got, end) = read(&length.to_le_bytes(), true);
        assert!(got.is_empty() && is_forged(&end), "{length}: {end}");
    }
}

#[test]
fn any_parts_arrive_as_they_were_sent() {
    let (near, far) = pair();
    let mut near = SECRET.sign(near, HELLO, End::Source);
    let mut far = SECRET.sign(far, HELLO, End::Destination);
    let large: Vec<u8> = (0..BODY_MAX * 2 + 5).map(|at| (at % 251) as u8).collect();
    let parts: [&[u8]; 6] = [b"head", &[], &large, &large[..3], &[], b"tail"];
    near.send(&mut parts.map(IoSlice::new)).expect("taken");
    let sent = parts.concat();
    let mut got = vec![0; sent.len()];
    let (start, rest) = got.split_at_mut(2);
    far.receive(start).expect("the first bytes");
    far.receive(rest).expect("the others");
    assert!(got == sent);
}

/// wire.md P6 to P8, as a frame that any implementation can be held against.
#[test]
fn the_golden_record_is_what_is_sent() {
    let golden = include_str!("../../../../proto/golden/signed/record.hex");
    let golden: String = golden.split_whitespace().collect();
    let hello = include_str!("../../../../proto/golden/bulk/lane-hello.hex");
    let digits: String = hello.split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).expect("hex");
    let hello: Vec<u8> = (0..digits.len() / 2).map(byte).collect();
    let secret = LaneSecret::new(std::array::from_fn(|at| at as u8));
    let sent = records(&secret, &hello, &[b"first", b"second"]);
    let sent: String = sent[1].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sent, golden);
}
