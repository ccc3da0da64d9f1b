//! From typed messages to the structs of `session.proto`.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use bytes::Bytes;
use whimbrel_page::{Layout, LeafSum, Root};

use super::proto;
use super::proto::control::Message as Wire;
use crate::limits::REASON_BYTES_MAX;
use crate::{
    Accepted, BatchSeq, Fault, Feature, Hello, LaneClosed, LaneId, LaneMark, LaneTicket, Message,
    Offer, Plan, Prepare, Rejected, Resumed, Sums, Term,
};

pub(super) fn message(message: &Message) -> Wire {
    match message {
        Message::Hello(m) => Wire::Hello(hello(m)),
        Message::Plan(m) => Wire::Plan(plan(m)),
        Message::LaneLost(lane) => Wire::LaneLost(proto::LaneLost { lane: lane.0.into() }),
        Message::Announce(t) => Wire::Announce(proto::Announce { term: term(*t) }),
        Message::Prepare(m) => Wire::Prepare(prepare(m)),
        Message::Grant(t) => Wire::Grant(proto::Grant { term: term(*t) }),
        Message::Abort(why) => Wire::Abort(proto::Abort { why: reason(why) }),
        Message::Done(t) => Wire::Done(proto::Done { term: term(*t) }),
        Message::AskSums => Wire::AskSums(proto::AskSums {}),
        Message::Ping(number) => Wire::Ping(proto::Ping { number: *number }),
        Message::Offer(m) => Wire::Offer(offer(m)),
        Message::Accepted(m) => Wire::Accepted(accepted(m)),
        Message::Rejected(m) => Wire::Rejected(rejected(m)),
        Message::Resumed(m) => Wire::Resumed(resumed(m)),
        Message::LaneClosed(m) => Wire::LaneClosed(lane_closed(m)),
        Message::Ready(t) => Wire::Ready(proto::Ready { term: term(*t) }),
        Message::Prepared(t, r) => {
            Wire::Prepared(proto::Prepared { term: term(*t), root: root(*r) })
        }
        Message::Differs(t, r) => Wire::Differs(proto::Differs { term: term(*t), root: root(*r) }),
        Message::Sums(m) => Wire::Sums(sums(m)),
        Message::Running(t) => Wire::Running(proto::Running { term: term(*t) }),
        Message::Refused(t, why) => {
            Wire::Refused(proto::Refused { term: term(*t), why: reason(why) })
        }
        Message::Pong(number) => Wire::Pong(proto::Pong { number: *number }),
        Message::Digested(bytes, took) => Wire::Digested(proto::Digested {
            bytes: bytes.0,
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        }),
    }
}

/// A sentence for a person, cut where a longer one would be refused.
fn reason(why: &str) -> String {
    why[..why.floor_char_boundary(REASON_BYTES_MAX)].to_string()
}

fn id(bytes: [u8; 16]) -> Bytes {
    Bytes::copy_from_slice(&bytes)
}

fn sum(sum: LeafSum) -> Bytes {
    id(sum.0.to_be_bytes())
}

#[expect(clippy::unnecessary_wraps, reason = "a message field is optional in protobuf")]
const fn term(term: Term) -> Option<proto::Term> {
    Some(proto::Term { generation: term.generation, host: term.host })
}

#[expect(clippy::unnecessary_wraps, reason = "a message field is optional in protobuf")]
fn root(root: Root) -> Option<proto::Root> {
    Some(proto::Root { sum: sum(root.sum), unknown: root.unknown.0 })
}

fn hello(m: &Hello) -> proto::Hello {
    let resume = |(session, epoch): (crate::SessionId, crate::Epoch)| proto::Resume {
        session: id(session.to_bytes()),
        epoch: epoch.0,
    };
    proto::Hello {
        version_min: m.version_min,
        version_max: m.version_max,
        token: id(m.token.to_bytes()),
        resume: m.resume.map(resume),
    }
}

fn offer(m: &Offer) -> proto::Offer {
    let feature = |f: &Feature| proto::Feature { name: f.name.clone(), mandatory: f.mandatory };
    proto::Offer {
        session: id(m.session.to_bytes()),
        version_min: m.version_min,
        version_max: m.version_max,
        features: m.features.iter().map(feature).collect(),
        lanes_max: m.lanes_max.into(),
        batch_bytes_max: m.batch_bytes_max,
    }
}

fn plan(m: &Plan) -> proto::Plan {
    let endianness =
        if m.little_endian { proto::Endianness::Little } else { proto::Endianness::Big };
    proto::Plan {
        version: m.version,
        features: m.features.clone(),
        guest: id(m.guest.to_bytes()),
        name: m.name.clone(),
        kind: m.kind.clone(),
        state_version: m.state_version,
        endianness: endianness.into(),
        regions: regions(&m.layout),
        page_size: m.page_size,
        lanes: m.lanes.into(),
    }
}

fn regions(layout: &Layout) -> Vec<proto::Region> {
    layout.regions().iter().map(|r| proto::Region { id: r.id.0, size: r.size.0 }).collect()
}

fn ticket((lane, token): &LaneTicket) -> proto::LaneTicket {
    proto::LaneTicket { lane: lane.0.into(), token: id(token.to_bytes()) }
}

fn mark(m: &LaneMark) -> proto::LaneMark {
    proto::LaneMark { lane: m.lane.0.into(), batch: m.batch.0, sum: sum(m.sum) }
}

fn accepted(m: &Accepted) -> proto::Accepted {
    proto::Accepted {
        lanes: m.lanes.iter().map(ticket).collect(),
        resume_token: id(m.resume_token.to_bytes()),
    }
}

fn rejected(m: &Rejected) -> proto::Rejected {
    proto::Rejected { fault: fault(m.fault).into(), why: reason(&m.why) }
}

const fn fault(fault: Fault) -> proto::Fault {
    match fault {
        Fault::Peer => proto::Fault::Peer,
        Fault::Incompatible => proto::Fault::Incompatible,
        Fault::Capacity => proto::Fault::Capacity,
        Fault::Link => proto::Fault::Link,
        Fault::Memory => proto::Fault::Memory,
        Fault::Guest => proto::Fault::Guest,
        Fault::Journal => proto::Fault::Journal,
        Fault::NotConverging => proto::Fault::NotConverging,
        Fault::Cancelled => proto::Fault::Cancelled,
    }
}

fn resumed(m: &Resumed) -> proto::Resumed {
    proto::Resumed {
        landed: m.landed.iter().map(mark).collect(),
        lanes: m.lanes.iter().map(ticket).collect(),
    }
}

fn lane_closed(m: &LaneClosed) -> proto::LaneClosed {
    proto::LaneClosed { mark: Some(mark(&m.mark)), replacement: m.replacement.as_ref().map(ticket) }
}

fn prepare(m: &Prepare) -> proto::Prepare {
    let end = |&(lane, batch): &(LaneId, BatchSeq)| proto::LaneEnd {
        lane: lane.0.into(),
        batch: batch.0,
    };
    proto::Prepare {
        term: term(m.term),
        root: root(m.root),
        sent: m.sent.iter().map(end).collect(),
        state: m.state.clone(),
    }
}

fn sums(m: &Sums) -> proto::Sums {
    let chunk = |(chunk, s): &(whimbrel_page::ChunkIndex, LeafSum)| proto::ChunkSum {
        chunk: chunk.0,
        sum: sum(*s),
    };
    proto::Sums { region: m.region.0, chunks: m.chunks.iter().map(chunk).collect(), last: m.last }
}
