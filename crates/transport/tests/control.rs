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
async fn a_frame_is_its_length_itself_and_a_seal() {
    let (near, mut far) = duplex(1000);
    let mut sender = ControlSender::new(near, FRAME_MAX, PATIENT);
    sender.send(b"abc").await.expect("taken");
    sender.finish().await.expect("finished");
    let mut bytes = vec![];
    far.read_to_end(&mut bytes).await.expect("readable");
    assert_eq!(bytes, sealed(b"abc"));
}

/// wire.md C3, written a second time.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut frame = [&(body.len() as u32).to_le_bytes(), body].concat();
    frame.extend(twox_hash::XxHash3_64::oneshot(&frame).to_le_bytes());
    frame
}

#[tokio::test]
async fn a_bit_that_is_wrong_is_found_wherever_it_is() {
    let good = sealed(b"running");
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let (mut near, far) = duplex(1000);
        near.write_all(&bytes).await.expect("sent");
        drop(near);
        let found = ControlReceiver::new(far, FRAME_MAX).receive().await;
        // A wrong length has the reader wait for what does not come, or refuse it.
        let in_length = matches!(
            found,
            Err(ControlError::Oversized { .. } | ControlError::Truncated | ControlError::Damaged)
        );
        let elsewhere = matches!(found, Err(ControlError::Damaged));
        assert!(if bit < 32 { in_length } else { elsewhere }, "bit {bit}: {found:?}");
    }
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
        near.write_all(&sealed(b"x")).await.expect("sent");
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
    let whole = sealed(b"hello");
    for piece in [&whole[..2], &whole[2..6], &whole[6..15]] {
        near.write_all(piece).await.expect("sent");
        let early = tokio::time::timeout(SHORT, receiver.receive()).await;
        assert!(early.is_err(), "the frame is not whole yet");
    }
    near.write_all(&whole[15..]).await.expect("sent");
    assert_eq!(receiver.receive().await.expect("whole"), &b"hello"[..]);
}

#[tokio::test]
async fn a_peer_that_takes_nothing_hits_the_deadline() {
    let (near, _far) = duplex(1000);
    let mut sender = ControlSender::new(near, FRAME_MAX, SHORT);
    let stalled = sender.send(&[0; 2000]).await;
    assert!(matches!(stalled, Err(ControlError::Stalled(SHORT))), "{stalled:?}");
}
