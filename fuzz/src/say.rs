//! Messages out of bytes, in a small world: few terms, few lanes, two memories, so that what is
//! said often fits what was said before.

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use whimbrel_page::{ByteCount, ChunkIndex, Layout, LeafSum, PAGE_SIZE, PageCount, RegionId, Root};
use whimbrel_protocol::{
    Accepted, Answer, BatchSeq, Epoch, Failure, Fault, Feature, GuestUuid, Hello, LaneClosed,
    LaneId, LaneMark, LaneTicket, Message, Offer, Plan, Prepare, Rejected, Resumed, SessionId,
    Sums, Term, Token, VERIFY_FULL,
};

pub(crate) const SESSION: SessionId = SessionId(9);
/// What opens the session, and what resumes it.
pub(crate) const TOKEN: Token = Token(7);
pub(crate) const RESUME_TOKEN: Token = Token(8);
/// The source's host.
pub(crate) const HOST: u64 = 5;
/// Lanes that the source wants.
pub(crate) const LANES: u16 = 3;

pub(crate) fn layout() -> Layout {
    Layout::single(ByteCount::mib(4)).expect("valid")
}

/// Up to four seconds in steps that get larger.
pub(crate) fn wait(input: &mut Unstructured<'_>) -> Result<Duration> {
    let millis = [0, 1, 1, 10, 10, 100, 1000, 4000];
    Ok(Duration::from_millis(*input.choose(&millis)?))
}

pub(crate) fn term(input: &mut Unstructured<'_>) -> Result<Term> {
    let host = if input.ratio(1, 8)? { HOST + 1 } else { HOST };
    let generation =
        if input.ratio(1, 32)? { input.arbitrary()? } else { input.int_in_range(0..=4)? };
    Ok(Term { generation, host })
}

pub(crate) fn lane(input: &mut Unstructured<'_>) -> Result<LaneId> {
    input.int_in_range(0..=9).map(LaneId)
}

/// The secret of a lane; now and then another's.
pub(crate) fn token(input: &mut Unstructured<'_>, lane: LaneId) -> Result<Token> {
    let stray = u128::from(input.ratio(1, 8)?);
    Ok(Token(100 + u128::from(lane.0) + stray))
}

pub(crate) fn epoch(input: &mut Unstructured<'_>) -> Result<Epoch> {
    input.int_in_range(0..=3).map(Epoch)
}

pub(crate) fn root(input: &mut Unstructured<'_>) -> Result<Root> {
    let unknown = PageCount(u64::from(input.ratio(1, 8)?));
    Ok(Root { sum: LeafSum(u128::from(input.ratio(1, 4)?)), unknown })
}

pub(crate) fn mark(input: &mut Unstructured<'_>) -> Result<LaneMark> {
    let batch = BatchSeq(input.int_in_range(0..=3)?);
    Ok(LaneMark { lane: lane(input)?, batch, sum: LeafSum(u128::from(batch.0)) })
}

pub(crate) fn failure(input: &mut Unstructured<'_>) -> Result<Failure> {
    let faults = [Fault::Peer, Fault::Link, Fault::Memory, Fault::Guest, Fault::Journal];
    Ok(Failure::new(*input.choose(&faults)?, "something"))
}

pub(crate) fn answer(input: &mut Unstructured<'_>) -> Result<Answer> {
    let answers = [
        Answer::Yours,
        Answer::NotYours,
        Answer::Runs,
        Answer::NeverRan,
        Answer::AskProcess,
        Answer::Unknown,
    ];
    input.choose(&answers).copied()
}

/// A few of `one`, perhaps none.
fn some<T>(
    input: &mut Unstructured<'_>,
    one: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = input.int_in_range(0..=5)?;
    (0..count).map(|_| one(input)).collect()
}

fn ticket(input: &mut Unstructured<'_>) -> Result<LaneTicket> {
    let lane = lane(input)?;
    Ok((lane, token(input, lane)?))
}

/// Tickets as the codec lets them through: no lane twice.
fn tickets(input: &mut Unstructured<'_>) -> Result<Vec<LaneTicket>> {
    let mut tickets = some(input, ticket)?;
    tickets.sort();
    tickets.dedup_by_key(|(lane, _)| *lane);
    Ok(tickets)
}

fn hello(input: &mut Unstructured<'_>) -> Result<Hello> {
    let again = input.ratio(1, 2)?;
    let session = if input.ratio(1, 8)? { SessionId(1) } else { SESSION };
    let resume = if again { Some((session, epoch(input)?)) } else { None };
    let token = if again { RESUME_TOKEN } else { TOKEN };
    let token = if input.ratio(1, 8)? { Token(1) } else { token };
    Ok(Hello { version_min: 1, version_max: input.int_in_range(1..=2)?, token, resume })
}

/// What a source says on a new connection.
pub(crate) fn greeting(input: &mut Unstructured<'_>) -> Result<Hello> {
    hello(input)
}

/// What a destination offers that can verify in full.
pub(crate) fn verify_full() -> Feature {
    Feature { name: VERIFY_FULL.to_owned(), mandatory: false }
}

pub(crate) fn offer(input: &mut Unstructured<'_>) -> Result<Offer> {
    let feature = |input: &mut Unstructured<'_>| {
        Ok(Feature { name: "a".to_owned(), mandatory: input.ratio(1, 8)? })
    };
    Ok(Offer {
        session: SESSION,
        version_min: 1,
        version_max: input.int_in_range(1..=2)?,
        features: if input.ratio(1, 4)? { some(input, feature)? } else { Vec::new() },
        lanes_max: input.int_in_range(1..=4)?,
        batch_bytes_max: 1 << 18,
    })
}

pub(crate) fn plan(input: &mut Unstructured<'_>) -> Result<Plan> {
    let (kind, own) = (input.int_in_range(1..=8)?, |name: &str| vec![name.to_owned()]);
    let odd = kind == 1;
    Ok(Plan {
        version: if odd { input.int_in_range(1..=2)? } else { 1 },
        features: match kind {
            1 => own("a"),
            2..=4 => own(VERIFY_FULL),
            _ => Vec::new(),
        },
        guest: GuestUuid(1),
        name: "g".to_owned(),
        kind: "model".to_owned(),
        state_version: 1,
        little_endian: if odd { input.arbitrary()? } else { cfg!(target_endian = "little") },
        layout: layout(),
        page_size: if odd { 1 << 16 } else { PAGE_SIZE as u32 },
        lanes: if odd { input.int_in_range(1..=128)? } else { LANES },
    })
}

pub(crate) fn prepare(input: &mut Unstructured<'_>, term: Term) -> Result<Prepare> {
    let end = |input: &mut Unstructured<'_>| mark(input).map(|mark| (mark.lane, mark.batch));
    let (root, sent) = (root(input)?, some(input, end)?);
    Ok(Prepare { term, root, sent, state: Bytes::from_static(b"state") })
}

pub(crate) fn sums(input: &mut Unstructured<'_>) -> Result<Sums> {
    let chunks = vec![(ChunkIndex(input.arbitrary()?), LeafSum(input.arbitrary()?))];
    Ok(Sums { region: RegionId(input.int_in_range(0..=1)?), chunks, last: input.arbitrary()? })
}

/// Anything that one side may say to the other, whichever side that is.
pub(crate) fn message(input: &mut Unstructured<'_>) -> Result<Message> {
    let why = || "why".to_owned();
    Ok(match input.int_in_range(0..=21)? {
        0 => Message::Hello(hello(input)?),
        1 => Message::Plan(plan(input)?),
        2 => Message::LaneLost(lane(input)?),
        3 => Message::Announce(term(input)?),
        4 => {
            let term = term(input)?;
            Message::Prepare(prepare(input, term)?)
        }
        5 => Message::Grant(term(input)?),
        6 => Message::Abort(why()),
        7 => Message::Done(term(input)?),
        8 => Message::AskSums,
        9 => Message::Ping(input.arbitrary()?),
        10 => Message::Offer(offer(input)?),
        11 => Message::Accepted(Accepted { lanes: tickets(input)?, resume_token: RESUME_TOKEN }),
        12 => Message::Rejected(Rejected { fault: Fault::Capacity, why: why() }),
        13 => Message::Resumed(Resumed { landed: some(input, mark)?, lanes: tickets(input)? }),
        14 => {
            let replacement = if input.arbitrary()? { Some(ticket(input)?) } else { None };
            Message::LaneClosed(LaneClosed { mark: mark(input)?, replacement })
        }
        15 => Message::Ready(term(input)?),
        16 => Message::Prepared(term(input)?, root(input)?),
        17 => Message::Differs(term(input)?, root(input)?),
        18 => Message::Sums(sums(input)?),
        19 => Message::Running(term(input)?),
        20 => Message::Refused(term(input)?, why()),
        _ => match input.int_in_range(0..=19)? {
            number @ 0..=9 => Message::Pong(number),
            mib => Message::Digested(ByteCount::mib(mib), Duration::from_millis(mib)),
        },
    })
}
