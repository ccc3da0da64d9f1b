//! One message of each kind, with fixed values: the golden frames.

use std::time::Duration;

use bytes::Bytes;
use whimbrel_page::{
    ByteCount, ChunkIndex, Layout, LeafSum, PageCount, RegionId, RegionLayout, Root,
};
use whimbrel_protocol::{
    Accepted, BatchSeq, Epoch, Fault, Feature, GuestUuid, Hello, LaneClosed, LaneId, LaneMark,
    Message, Offer, Plan, Prepare, Rejected, Resumed, SessionId, Sums, Term, Token,
};

const TERM: Term = Term { generation: 7, host: 0x1122_3344_5566_7788 };
const SESSION: SessionId = SessionId(0x5e55_1011_0000_0000_0000_0000_0000_0001);
const TOKEN: Token = Token(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

fn root(unknown: u64) -> Root {
    Root { sum: LeafSum(0xfeed_face << 64 | 0xbeef), unknown: PageCount(unknown) }
}

fn mark(lane: u16) -> LaneMark {
    LaneMark { lane: LaneId(lane), batch: BatchSeq(300), sum: LeafSum(u128::MAX - 1) }
}

pub(crate) fn offer() -> Offer {
    let feature = |name: &str, mandatory| Feature { name: name.into(), mandatory };
    Offer {
        session: SESSION,
        version_min: 1,
        version_max: 3,
        features: vec![feature("sums", false), feature("seal", true)],
        lanes_max: 128,
        batch_bytes_max: 256 << 10,
    }
}

pub(crate) fn plan() -> Plan {
    let region = |id, mib| RegionLayout { id: RegionId(id), size: ByteCount::mib(mib) };
    Plan {
        version: 1,
        features: vec!["seal".into()],
        guest: GuestUuid(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        name: "büro-1".into(),
        kind: "stress".into(),
        state_version: 2,
        little_endian: true,
        layout: Layout::new(vec![region(0, 1024), region(9, 2)]).expect("a layout"),
        page_size: 4096,
        lanes: 4,
    }
}

/// Every kind of message with the name of its golden file.
pub(crate) fn all() -> Vec<(&'static str, Message)> {
    let mut all = from_source();
    all.extend(from_destination());
    all
}

fn from_source() -> Vec<(&'static str, Message)> {
    let hello = Hello { version_min: 1, version_max: 2, token: TOKEN, resume: None };
    let resume = Hello { resume: Some((SESSION, Epoch(3))), ..hello.clone() };
    let prepare = Prepare {
        term: TERM,
        root: root(0),
        sent: vec![(LaneId(0), BatchSeq(12)), (LaneId(5), BatchSeq(0))],
        state: Bytes::from_static(b"registers"),
    };
    vec![
        ("hello", Message::Hello(hello)),
        ("hello-resume", Message::Hello(resume)),
        ("plan", Message::Plan(plan())),
        ("lane-lost", Message::LaneLost(LaneId(65535))),
        ("announce", Message::Announce(TERM)),
        ("prepare", Message::Prepare(prepare)),
        ("grant", Message::Grant(TERM)),
        ("abort", Message::Abort("cancelled by the operator".into())),
        ("done", Message::Done(TERM)),
        ("ask-sums", Message::AskSums),
        ("ping", Message::Ping(u64::MAX)),
    ]
}

fn from_destination() -> Vec<(&'static str, Message)> {
    let tickets = vec![(LaneId(0), TOKEN), (LaneId(1), Token(2))];
    let accepted = Accepted { lanes: tickets.clone(), resume_token: Token(9) };
    let rejected = Rejected { fault: Fault::Capacity, why: "no room for 1 GiB".into() };
    let resumed = Resumed { landed: vec![mark(0), mark(1)], lanes: tickets };
    let closed = LaneClosed { mark: mark(1), replacement: Some((LaneId(2), TOKEN)) };
    let chunks = vec![(ChunkIndex(0), LeafSum(1)), (ChunkIndex(511), LeafSum(2))];
    vec![
        ("offer", Message::Offer(offer())),
        ("accepted", Message::Accepted(accepted)),
        ("rejected", Message::Rejected(rejected)),
        ("resumed", Message::Resumed(resumed)),
        ("lane-closed", Message::LaneClosed(closed)),
        ("ready", Message::Ready(TERM)),
        ("prepared", Message::Prepared(TERM, root(0))),
        ("differs", Message::Differs(TERM, root(3))),
        ("sums", Message::Sums(Sums { region: RegionId(9), chunks, last: true })),
        ("running", Message::Running(TERM)),
        ("refused", Message::Refused(TERM, "the grant did not come".into())),
        ("pong", Message::Pong(u64::MAX)),
        ("digested", Message::Digested(ByteCount::mib(64), Duration::from_micros(u64::MAX))),
    ]
}
