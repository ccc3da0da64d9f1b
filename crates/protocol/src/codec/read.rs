//! From the structs of `session.proto` to typed messages; the only way in, so it checks all
//! (wire.md C6).

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

use bytes::Bytes;
use whimbrel_page::{
    ByteCount, ChunkIndex, Layout, LeafSum, PAGE_SIZE, PageCount, RegionId, RegionLayout, Root,
};

use super::proto::control::Message as Wire;
use super::{DecodeError, proto};
use crate::limits::{
    BATCH_PAYLOAD_MAX, FEATURE_BYTES_MAX, FEATURES_MAX, KIND_BYTES_MAX, LANE_MARKS_MAX, LANES_MAX,
    NAME_BYTES_MAX, REASON_BYTES_MAX, STATE_BYTES_MAX, SUMS_CHUNKS_MAX, TERM_GENERATION_MAX,
};
use crate::{
    Accepted, BatchSeq, Epoch, Fault, Feature, GuestUuid, Hello, LaneClosed, LaneId, LaneMark,
    LaneTicket, Message, Offer, Plan, Prepare, Rejected, Resumed, SessionId, Sums, Term, Token,
};

/// Payload bytes of a batch that a destination may offer to take: at least one page.
const BATCH_BYTES: RangeInclusive<u32> = PAGE_SIZE as u32..=BATCH_PAYLOAD_MAX.0 as u32;
/// Lanes that may be offered or asked for.
const LANES: RangeInclusive<u16> = 1..=LANES_MAX as u16;

type Read<T> = Result<T, DecodeError>;

pub(super) fn message(wire: Wire) -> Read<Message> {
    Ok(match wire {
        Wire::Hello(m) => Message::Hello(hello(&m)?),
        Wire::Plan(m) => Message::Plan(plan(m)?),
        Wire::LaneLost(m) => Message::LaneLost(lane("lane_lost.lane", m.lane)?),
        Wire::Announce(m) => Message::Announce(term("announce.term", m.term)?),
        Wire::Prepare(m) => Message::Prepare(prepare(m)?),
        Wire::Grant(m) => Message::Grant(term("grant.term", m.term)?),
        Wire::Abort(m) => Message::Abort(reason("abort.why", m.why)?),
        Wire::Done(m) => Message::Done(term("done.term", m.term)?),
        Wire::AskSums(_) => Message::AskSums,
        Wire::Ping(m) => Message::Ping(m.number),
        Wire::Offer(m) => Message::Offer(offer(m)?),
        Wire::Accepted(m) => Message::Accepted(accepted(&m)?),
        Wire::Rejected(m) => Message::Rejected(rejected(m)?),
        Wire::Resumed(m) => Message::Resumed(resumed(&m)?),
        Wire::LaneClosed(m) => Message::LaneClosed(lane_closed(m)?),
        Wire::Ready(m) => Message::Ready(term("ready.term", m.term)?),
        Wire::Prepared(m) => {
            Message::Prepared(term("prepared.term", m.term)?, root("prepared.root", m.root)?)
        }
        Wire::Differs(m) => {
            Message::Differs(term("differs.term", m.term)?, root("differs.root", m.root)?)
        }
        Wire::Sums(m) => Message::Sums(sums(&m)?),
        Wire::Running(m) => Message::Running(term("running.term", m.term)?),
        Wire::Refused(m) => {
            Message::Refused(term("refused.term", m.term)?, reason("refused.why", m.why)?)
        }
        Wire::Pong(m) => Message::Pong(m.number),
        Wire::Digested(m) => {
            Message::Digested(ByteCount(m.bytes), Duration::from_micros(m.took_us))
        }
    })
}

// --- fields ------------------------------------------------------------------------------------

fn bad(field: &'static str, why: impl Into<String>) -> DecodeError {
    DecodeError::Field { field, why: why.into() }
}

fn need<T>(field: &'static str, value: Option<T>) -> Read<T> {
    value.ok_or_else(|| bad(field, "is missing"))
}

fn id(field: &'static str, bytes: &Bytes) -> Read<[u8; 16]> {
    let found = bytes.len();
    bytes[..].try_into().map_err(|_| bad(field, format!("has {found} bytes instead of 16")))
}

fn sum(field: &'static str, bytes: &Bytes) -> Read<LeafSum> {
    id(field, bytes).map(|bytes| LeafSum(u128::from_be_bytes(bytes)))
}

fn token(field: &'static str, bytes: &Bytes) -> Read<Token> {
    id(field, bytes).map(Token::from_bytes)
}

fn text(field: &'static str, value: String, bytes_max: usize) -> Read<String> {
    if value.len() > bytes_max {
        let why = format!("has {} bytes, at most {bytes_max} are allowed", value.len());
        return Err(bad(field, why));
    }
    Ok(value)
}

fn reason(field: &'static str, why: String) -> Read<String> {
    text(field, why, REASON_BYTES_MAX)
}

fn within(field: &'static str, value: u32, range: RangeInclusive<u32>) -> Read<u32> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(bad(field, format!("is {value}, it must be {} to {}", range.start(), range.end())))
}

fn short(field: &'static str, value: u32, range: RangeInclusive<u16>) -> Read<u16> {
    let wide = u32::from(*range.start())..=u32::from(*range.end());
    within(field, value, wide).map(|value| value as u16)
}

fn lane(field: &'static str, value: u32) -> Read<LaneId> {
    short(field, value, 0..=u16::MAX).map(LaneId)
}

fn list<A, B>(
    field: &'static str,
    items: &[A],
    most: usize,
    read: impl Fn(&A) -> Read<B>,
) -> Read<Vec<B>> {
    if items.len() > most {
        let why = format!("has {} entries, at most {most} are allowed", items.len());
        return Err(bad(field, why));
    }
    items.iter().map(read).collect()
}

/// wire.md C11: no lane is named twice; what is said of it would depend on the order of reading.
fn distinct<T>(field: &'static str, items: Vec<T>, lane: impl Fn(&T) -> LaneId) -> Read<Vec<T>> {
    let mut seen = BTreeSet::new();
    match items.iter().map(lane).find(|lane| !seen.insert(*lane)) {
        Some(LaneId(lane)) => Err(bad(field, format!("names lane {lane} twice"))),
        None => Ok(items),
    }
}

fn versions(field: &'static str, min: u32, max: u32) -> Read<()> {
    if min >= 1 && min <= max {
        return Ok(());
    }
    Err(bad(field, format!("gives the versions {min}..={max}, which is no range from 1 up")))
}

fn term(field: &'static str, value: Option<proto::Term>) -> Read<Term> {
    let proto::Term { generation, host } = need(field, value)?;
    if generation > TERM_GENERATION_MAX {
        return Err(bad(
            field,
            format!("is of generation {generation}, after which none can come"),
        ));
    }
    Ok(Term { generation, host })
}

fn root(field: &'static str, value: Option<proto::Root>) -> Read<Root> {
    let value = need(field, value)?;
    Ok(Root { sum: sum(field, &value.sum)?, unknown: PageCount(value.unknown) })
}

fn tickets(field: &'static str, lanes: &[proto::LaneTicket]) -> Read<Vec<LaneTicket>> {
    let lanes = list(field, lanes, LANES_MAX, |entry| ticket(field, entry))?;
    distinct(field, lanes, |(lane, _)| *lane)
}

fn ticket(field: &'static str, entry: &proto::LaneTicket) -> Read<LaneTicket> {
    Ok((lane(field, entry.lane)?, token(field, &entry.token)?))
}

fn mark(field: &'static str, entry: &proto::LaneMark) -> Read<LaneMark> {
    Ok(LaneMark {
        lane: lane(field, entry.lane)?,
        batch: BatchSeq(entry.batch),
        sum: sum(field, &entry.sum)?,
    })
}

// --- messages ----------------------------------------------------------------------------------

fn hello(m: &proto::Hello) -> Read<Hello> {
    versions("hello.version_min", m.version_min, m.version_max)?;
    let resume = |r: &proto::Resume| -> Read<(SessionId, Epoch)> {
        Ok((SessionId::from_bytes(id("hello.resume", &r.session)?), Epoch(r.epoch)))
    };
    Ok(Hello {
        version_min: m.version_min,
        version_max: m.version_max,
        token: token("hello.token", &m.token)?,
        resume: m.resume.as_ref().map(resume).transpose()?,
    })
}

fn offer(m: proto::Offer) -> Read<Offer> {
    versions("offer.version_min", m.version_min, m.version_max)?;
    let feature = |f: &proto::Feature| -> Read<Feature> {
        let name = text("offer.features", f.name.clone(), FEATURE_BYTES_MAX)?;
        Ok(Feature { name, mandatory: f.mandatory })
    };
    Ok(Offer {
        session: SessionId::from_bytes(id("offer.session", &m.session)?),
        version_min: m.version_min,
        version_max: m.version_max,
        features: list("offer.features", &m.features, FEATURES_MAX, feature)?,
        lanes_max: short("offer.lanes_max", m.lanes_max, LANES)?,
        batch_bytes_max: within("offer.batch_bytes_max", m.batch_bytes_max, BATCH_BYTES)?,
    })
}

fn plan(m: proto::Plan) -> Read<Plan> {
    let little_endian = match m.endianness() {
        proto::Endianness::Little => true,
        proto::Endianness::Big => false,
        proto::Endianness::Unspecified => {
            return Err(bad("plan.endianness", "is neither little nor big"));
        }
    };
    let feature = |name: &String| text("plan.features", name.clone(), FEATURE_BYTES_MAX);
    Ok(Plan {
        version: within("plan.version", m.version, 1..=u32::MAX)?,
        features: list("plan.features", &m.features, FEATURES_MAX, feature)?,
        guest: GuestUuid::from_bytes(id("plan.guest", &m.guest)?),
        name: text("plan.name", m.name, NAME_BYTES_MAX)?,
        kind: text("plan.kind", m.kind, KIND_BYTES_MAX)?,
        state_version: m.state_version,
        little_endian,
        layout: layout(&m.regions)?,
        page_size: within("plan.page_size", m.page_size, 1..=u32::MAX)?,
        lanes: short("plan.lanes", m.lanes, LANES)?,
    })
}

fn layout(regions: &[proto::Region]) -> Read<Layout> {
    let region =
        |r: &proto::Region| Ok(RegionLayout { id: RegionId(r.id), size: ByteCount(r.size) });
    let regions = list("plan.regions", regions, Layout::REGIONS_MAX, region)?;
    Layout::new(regions).map_err(|e| bad("plan.regions", format!("is no layout: {e}")))
}

fn accepted(m: &proto::Accepted) -> Read<Accepted> {
    Ok(Accepted {
        lanes: tickets("accepted.lanes", &m.lanes)?,
        resume_token: token("accepted.resume_token", &m.resume_token)?,
    })
}

fn rejected(m: proto::Rejected) -> Read<Rejected> {
    let fault = match m.fault() {
        proto::Fault::Unspecified => {
            return Err(bad("rejected.fault", format!("is {}, which is none", m.fault)));
        }
        proto::Fault::Peer => Fault::Peer,
        proto::Fault::Incompatible => Fault::Incompatible,
        proto::Fault::Capacity => Fault::Capacity,
        proto::Fault::Link => Fault::Link,
        proto::Fault::Memory => Fault::Memory,
        proto::Fault::Guest => Fault::Guest,
        proto::Fault::Journal => Fault::Journal,
        proto::Fault::NotConverging => Fault::NotConverging,
        proto::Fault::Cancelled => Fault::Cancelled,
    };
    Ok(Rejected { fault, why: reason("rejected.why", m.why)? })
}

fn resumed(m: &proto::Resumed) -> Read<Resumed> {
    let field = "resumed.landed";
    let landed = list(field, &m.landed, LANE_MARKS_MAX, |entry| mark(field, entry))?;
    Ok(Resumed {
        landed: distinct(field, landed, |mark| mark.lane)?,
        lanes: tickets("resumed.lanes", &m.lanes)?,
    })
}

fn lane_closed(m: proto::LaneClosed) -> Read<LaneClosed> {
    let field = "lane_closed.replacement";
    Ok(LaneClosed {
        mark: mark("lane_closed.mark", &need("lane_closed.mark", m.mark)?)?,
        replacement: m.replacement.map(|entry| ticket(field, &entry)).transpose()?,
    })
}

fn prepare(m: proto::Prepare) -> Read<Prepare> {
    if m.state.len() > STATE_BYTES_MAX {
        let why = format!("has {} bytes, at most {STATE_BYTES_MAX} are allowed", m.state.len());
        return Err(bad("prepare.state", why));
    }
    let end = |e: &proto::LaneEnd| -> Read<(LaneId, BatchSeq)> {
        Ok((lane("prepare.sent", e.lane)?, BatchSeq(e.batch)))
    };
    let sent = list("prepare.sent", &m.sent, LANES_MAX, end)?;
    Ok(Prepare {
        term: term("prepare.term", m.term)?,
        root: root("prepare.root", m.root)?,
        sent: distinct("prepare.sent", sent, |(lane, _)| *lane)?,
        state: m.state,
    })
}

fn sums(m: &proto::Sums) -> Read<Sums> {
    let chunk = |c: &proto::ChunkSum| -> Read<(ChunkIndex, LeafSum)> {
        Ok((ChunkIndex(c.chunk), sum("sums.chunks", &c.sum)?))
    };
    let chunks = list("sums.chunks", &m.chunks, SUMS_CHUNKS_MAX, chunk)?;
    // wire.md C11: ascending, so that each chunk is there once.
    if let Some(pair) = chunks.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        let why = format!("names chunk {} before {}", pair[0].0.0, pair[1].0.0);
        return Err(bad("sums.chunks", why.to_string()));
    }
    Ok(Sums { region: RegionId(m.region), chunks, last: m.last })
}
