//! Frames of the control connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use whimbrel_transport::{ControlError, ControlReceiver, ControlSender, control_over};

const PATIENT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);
const FRAME_MAX: usize = 100_000;

#[tokio::test]
async fn frames_come_as_they_were_sent_both_ways() {
    // A pipe that is smaller than the frames.
    let (near, far) = duplex(1000);
    let (mut near_out, mut near_in) = control_over(near, FRAME_MAX, PATIENT);
    let (mut far_out, mut far_in) = control_over(far, FRAME_MAX, PATIENT);
    let frames: Vec<Vec<u8>> = [0, 1, 999, 1000, 1001, FRAME_MAX].map(|n| vec![n as u8; n]).into();
    let sent = frames.clone();
    let sender = tokio::spawn(async move {
        for frame in &sent {
            near_out.send(frame).await.expect("taken");
        }
        near_in.receive().await.expect("an answer")
    });
    for frame in &frames {
        assert_eq!(far_in.receive().await.expect("a frame"), frame);
    }
    far_out.send(b"thanks").await.expect("taken");
    assert_eq!(sender.await.expect("no panic"), &b"thanks"[..]);
    assert!(matches!(far_in.receive().await, Err(ControlError::Closed)));
}

#[tokio::test]
async fn a_frame_is_a_little_endian_length_and_its_bytes() {
    let (near, mut far) = duplex(1000);
    let mut sender = ControlSender::new(near, FRAME_MAX, PATIENT);
    sender.send(b"abc").await.expect("taken");
    sender.finish().await.expect("finished");
    let mut bytes = vec![];
    far.read_to_end(&mut bytes).await.expect("readable");
    assert_eq!(bytes, b"\x03\0\0\0abc");
}

#[tokio::test]
async fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
    let (mut near, far) = duplex(1000);
    let mut receiver = ControlReceiver::new(far, FRAME_MAX);
    near.write_all(&u32::MAX.to_le_bytes()).await.expect("sent");
    let refused = receiver.receive().await;
    let most = FRAME_MAX;
    assert!(matches!(refused, Err(ControlError::Oversized { got, most: m })
        if got == u32::MAX as usize && m == most));
    let (near, _far) = duplex(1000);
    let mut sender = ControlSender::new(near, FRAME_MAX, PATIENT);
    let refused = sender.send(&[0; FRAME_MAX + 1]).await;
    assert!(matches!(refused, Err(ControlError::Oversized { .. })));
}

#[tokio::test]
async fn an_end_within_a_frame_is_told_from_one_between_frames() {
    for cut in [&b"\x03"[..], b"\x03\0\0\0", b"\x03\0\0\0ab"] {
        let (mut near, far) = duplex(1000);
        let mut receiver = ControlReceiver::new(far, FRAME_MAX);
        near.write_all(b"\x01\0\0\0x").await.expect("sent");
        near.write_all(cut).await.expect("sent");
        drop(near);
        assert_eq!(receiver.receive().await.expect("the first"), &b"x"[..]);
        assert!(matches!(receiver.receive().await, Err(ControlError::Truncated)));
    }
}

#[tokio::test]
async fn a_receive_that_is_dropped_loses_nothing() {
    let (mut near, far) = duplex(1000);
    let mut receiver = ControlReceiver::new(far, FRAME_MAX);
    for piece in [&b"\x05\0"[..], b"\0\0he", b"l"] {
        near.write_all(piece).await.expect("sent");
        let early = tokio::time::timeout(SHORT, receiver.receive()).await;
        assert!(early.is_err(), "the frame is not whole yet");
    }
    near.write_all(b"lo").await.expect("sent");
    assert_eq!(receiver.receive().await.expect("whole"), &b"hello"[..]);
}

#[tokio::test]
async fn a_peer_that_takes_nothing_hits_the_deadline() {
    let (near, _far) = duplex(1000);
    let mut sender = ControlSender::new(near, FRAME_MAX, SHORT);
    let stalled = sender.send(&[0; 2000]).await;
    assert!(matches!(stalled, Err(ControlError::Stalled(SHORT))), "{stalled:?}");
}
