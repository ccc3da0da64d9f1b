//! One suite for every kind of lane.

mod carried;

use std::io::IoSlice;
use std::thread;
use std::time::Duration;

use carried::{carried, local, quic, signed, tls};
use whimbrel_page::ByteCount;
use whimbrel_transport::{Carrier, Lane, LaneError, Woken, lane_pair};

type Pair = (Box<dyn Lane>, Box<dyn Lane>);
type Make = fn(Duration) -> Pair;

/// Long enough for a slow machine to make a byte move.
const PATIENT: Duration = Duration::from_secs(20);
/// For tests that wait for the deadline to pass.
const SHORT: Duration = Duration::from_millis(50);
/// More than both kernels' buffers, as set below, can hold.
const LOTS: usize = 8 << 20;

fn pair(stall: Duration) -> Pair {
    let (a, b) = lane_pair(ByteCount::kib(64), stall);
    (Box::new(a), Box::new(b))
}

fn tcp(stall: Duration) -> Pair {
    carried((Carrier::Tcp, Carrier::Tcp), stall)
}

/// Every kind of lane there is: a new carrier is held to the suite by a line here.
const KINDS: [(&str, Make); 6] = [
    ("pair", pair),
    ("tcp", tcp),
    ("tls", |stall| carried(tls(), stall)),
    ("signed", |stall| carried(signed(), stall)),
    ("local", |stall| carried(local(), stall)),
    ("quic", |stall| carried(quic(), stall)),
];

/// Runs a test over every kind that this system has.
fn each(stall: Duration, test: impl Fn(Pair)) {
    let lacks = |name| name == "local" && std::env::consts::OS == "windows";
    for (name, make) in KINDS.into_iter().filter(|(name, _)| !lacks(*name)) {
        eprintln!("over {name}");
        test(make(stall));
    }
}

fn send(lane: &mut dyn Lane, bytes: &[u8]) -> Result<(), LaneError> {
    lane.send(&mut [IoSlice::new(bytes)])
}

/// Bytes of which every one tells where it stands.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

#[test]
fn bytes_come_in_order_whatever_the_parts() {
    each(PATIENT, |(mut near, mut far)| {
        let sent = pattern(1 << 20);
        let expected = sent.clone();
        let sender = thread::spawn(move || {
            for piece in sent.chunks(70_001) {
                let (a, rest) = piece.split_at(piece.len() / 3);
                let (b, c) = rest.split_at(rest.len() / 2);
                let mut parts = [a, &[], b, c, &[]].map(IoSlice::new);
                near.send(&mut parts).expect("taken");
            }
            near
        });
        let mut got = vec![0; expected.len()];
        got.chunks_mut(12_345).for_each(|piece| far.receive(piece).expect("more"));
        assert!(got == expected);
        drop(sender.join().expect("no panic"));
        assert!(matches!(far.receive(&mut [0]), Err(LaneError::Closed)));
    });
}

/// As the engine does it: acknowledgements that have come are taken before each batch.
#[test]
fn acknowledgements_come_in_order_while_batches_go() {
    const BATCH: usize = 16 << 10;
    const BATCHES: u8 = 200;
    each(PATIENT, |(mut near, mut far)| {
        let destination = thread::spawn(move || {
            let mut batch = vec![0; BATCH];
            for number in 0..BATCHES {
                far.receive(&mut batch).expect("a batch");
                assert!(batch.iter().all(|byte| *byte == number), "batch {number} is another one");
                send(&mut *far, &[number, !number]).expect("taken");
            }
            far
        });
        let (mut acks, mut some) = (Vec::new(), [0; 64]);
        for number in 0..BATCHES {
            let came = near.try_receive(&mut some).expect("open");
            acks.extend(&some[..came]);
            send(&mut *near, &[number; BATCH]).expect("taken");
        }
        let mut rest = vec![0; 2 * usize::from(BATCHES) - acks.len()];
        near.receive(&mut rest).expect("the other acknowledgements");
        acks.extend(rest);
        let expected: Vec<u8> = (0..BATCHES).flat_map(|number| [number, !number]).collect();
        assert!(acks == expected);
        drop(destination.join().expect("no panic"));
    });
}

#[test]
fn a_reader_that_does_not_read_holds_the_writer_back() {
    each(SHORT, |(mut near, far)| {
        let piece = pattern(16 << 10);
        let pieces = (0..LOTS / piece.len()).take_while(|_| send(&mut *near, &piece).is_ok());
        assert!(pieces.count() < LOTS / piece.len(), "nothing holds it back");
        assert!(matches!(send(&mut *near, &piece), Err(LaneError::Stalled(SHORT))));
        drop(far);
    });
}

#[test]
fn a_silent_peer_hits_the_deadline() {
    each(SHORT, |(mut near, mut far)| {
        assert!(matches!(far.receive(&mut [0; 10]), Err(LaneError::Stalled(SHORT))));
        send(&mut *near, b"half").expect("taken");
        assert!(matches!(far.receive(&mut [0; 10]), Err(LaneError::Stalled(SHORT))));
    });
}

#[test]
fn a_finished_direction_ends_and_the_other_goes_on() {
    each(PATIENT, |(mut near, mut far)| {
        send(&mut *near, b"last").expect("taken");
        near.finish().expect("finished");
        let mut got = [0; 4];
        far.receive(&mut got).expect("what was sent before the end");
        assert_eq!(&got, b"last");
        assert_eq!(far.wait(PATIENT).expect("an end is readable"), Woken::Readable);
        assert!(matches!(far.try_receive(&mut [0; 4]), Err(LaneError::Closed)));
        assert!(matches!(far.receive(&mut [0; 4]), Err(LaneError::Closed)));
        send(&mut *far, b"back").expect("the other direction is open");
        near.receive(&mut got).expect("more");
        assert_eq!(&got, b"back");
        assert!(send(&mut *near, b"more").is_err());
    });
}

#[test]
fn an_end_within_a_frame_is_told_from_one_between_frames() {
    each(PATIENT, |(mut near, mut far)| {
        send(&mut *near, b"half").expect("taken");
        drop(near);
        let ended = far.receive(&mut [0; 10]);
        assert!(matches!(ended, Err(LaneError::Truncated { missing: 6 })), "{ended:?}");
    });
}

#[test]
fn what_has_arrived_is_taken_without_waiting() {
    each(PATIENT, |(mut near, mut far)| {
        assert_eq!(far.try_receive(&mut [0; 8]).expect("open"), 0);
        send(&mut *near, b"ack").expect("taken");
        assert_eq!(far.wait(PATIENT).expect("open"), Woken::Readable);
        let mut got = [0; 8];
        assert_eq!(far.try_receive(&mut got).expect("open"), 3);
        assert_eq!(&got[..3], b"ack");
        assert_eq!(far.try_receive(&mut got).expect("open"), 0);
    });
}

#[test]
fn a_wait_ends_by_a_wake_before_it_or_within_it_or_by_time() {
    each(PATIENT, |(mut near, _far)| {
        let handle = near.handle();
        assert_eq!(near.wait(SHORT).expect("open"), Woken::TimedOut);
        handle.wake();
        handle.wake();
        assert_eq!(near.wait(PATIENT).expect("open"), Woken::Called);
        assert_eq!(near.wait(SHORT).expect("open"), Woken::TimedOut, "heard is heard");
        let waiting = thread::spawn(move || near.wait(PATIENT).expect("open"));
        handle.wake();
        assert_eq!(waiting.join().expect("no panic"), Woken::Called);
    });
}

#[test]
fn a_cancel_ends_whatever_is_blocked() {
    type Blocked = fn(&mut dyn Lane) -> LaneError;
    let blocked: [Blocked; 3] = [
        |lane| lane.receive(&mut [0]).expect_err("nobody sends"),
        |lane| lane.wait(PATIENT).expect_err("nobody calls"),
        |lane| loop {
            if let Err(error) = send(lane, &[7; 4096]) {
                return error;
            }
        },
    ];
    for block in blocked {
        each(PATIENT, |(mut near, mut far)| {
            let handle = near.handle();
            let worker = thread::spawn(move || (block(&mut *near), near));
            handle.cancel();
            handle.cancel();
            let (error, mut near) = worker.join().expect("no panic");
            assert!(matches!(error, LaneError::Cancelled), "{error:?}");
            let again = near.try_receive(&mut [0]);
            assert!(matches!(again, Err(LaneError::Cancelled)), "{again:?}");
            assert!(matches!(near.wait(PATIENT), Err(LaneError::Cancelled)));
            let ended = loop {
                if let Err(error) = far.receive(&mut [0]) {
                    break error;
                }
            };
            use LaneError::{Closed, Link, Truncated};
            assert!(matches!(ended, Closed | Link(_) | Truncated { .. }), "{ended:?}");
        });
    }
}

#[test]
fn a_cancel_reaches_a_writer_that_is_held_back() {
    each(PATIENT, |(mut near, mut far)| {
        let handle = near.handle();
        let worker = thread::spawn(move || near.send(&mut [IoSlice::new(&vec![7; LOTS])]));
        // Once this has come, the writer is at it; and it cannot finish.
        far.receive(&mut [0; 1000]).expect("the first bytes");
        handle.cancel();
        let ended = worker.join().expect("no panic");
        assert!(matches!(ended, Err(LaneError::Cancelled)), "{ended:?}");
    });
}

#[test]
fn a_handle_does_not_keep_a_lane_open() {
    each(PATIENT, |(near, mut far)| {
        let handle = near.handle();
        drop(near);
        assert!(matches!(far.receive(&mut [0]), Err(LaneError::Closed)));
        handle.wake();
        handle.cancel();
    });
}
