//! Every message that is within the limits is read back as it was written.

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use whimbrel_page::{
    ByteCount, ChunkIndex, Layout, LeafSum, PageCount, RegionId, RegionLayout, Root,
};
use whimbrel_protocol::{
    Accepted, BatchSeq, Epoch, Fault, Feature, GuestUuid, Hello, LaneClosed, LaneId, LaneMark,
    LaneTicket, Message, Offer, Plan, Prepare, Rejected, Resumed, SessionId, Sums, Term, Token,
};

/// `cases` random cases, and no file with old failures: a failure belongs into a test of its own.
pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}

fn term() -> impl Strategy<Value = Term> {
    let generation = 0..=whimbrel_protocol::limits::TERM_GENERATION_MAX;
    (generation, any::<u64>()).prop_map(|(generation, host)| Term { generation, host })
}

fn root() -> impl Strategy<Value = Root> {
    any::<(u128, u64)>()
        .prop_map(|(sum, unknown)| Root { sum: LeafSum(sum), unknown: PageCount(unknown) })
}

/// Text of at most `most` bytes, also with characters of several bytes.
fn text(most: usize) -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..=most / 4).prop_map(|chars| chars.into_iter().collect())
}

fn lane() -> impl Strategy<Value = LaneId> {
    any::<u16>().prop_map(LaneId)
}

fn ticket() -> impl Strategy<Value = LaneTicket> {
    (lane(), any::<u128>().prop_map(Token))
}

fn tickets() -> impl Strategy<Value = Vec<LaneTicket>> {
    btree_map(lane(), any::<u128>().prop_map(Token), 0..128).prop_map(Vec::from_iter)
}

fn mark() -> impl Strategy<Value = LaneMark> {
    any::<(u16, u64, u128)>().prop_map(|(lane, batch, sum)| LaneMark {
        lane: LaneId(lane),
        batch: BatchSeq(batch),
        sum: LeafSum(sum),
    })
}

fn marks() -> impl Strategy<Value = Vec<LaneMark>> {
    vec(mark(), 0..40).prop_map(|mut marks| {
        marks.sort_by_key(|mark| mark.lane);
        marks.dedup_by_key(|mark| mark.lane);
        marks
    })
}

fn versions() -> impl Strategy<Value = (u32, u32)> {
    (1..=u32::MAX).prop_flat_map(|min| (Just(min), min..=u32::MAX))
}

fn hello() -> impl Strategy<Value = Hello> {
    (versions(), any::<u128>(), any::<Option<(u128, u32)>>()).prop_map(
        |((version_min, version_max), token, resume)| Hello {
            version_min,
            version_max,
            token: Token(token),
            resume: resume.map(|(session, epoch)| (SessionId(session), Epoch(epoch))),
        },
    )
}

fn offer() -> impl Strategy<Value = Offer> {
    let feature =
        (text(64), any::<bool>()).prop_map(|(name, mandatory)| Feature { name, mandatory });
    (any::<u128>(), versions(), vec(feature, 0..=64), 1..=128_u16, 4096..=4_u32 << 20).prop_map(
        |(session, (version_min, version_max), features, lanes_max, batch_bytes_max)| Offer {
            session: SessionId(session),
            version_min,
            version_max,
            features,
            lanes_max,
            batch_bytes_max,
        },
    )
}

fn layout() -> impl Strategy<Value = Layout> {
    btree_map(any::<u32>(), 1..=16_u64 << 30, 1..=256).prop_map(|regions| {
        let region = |(id, pages)| RegionLayout { id: RegionId(id), size: ByteCount(pages * 4096) };
        Layout::new(regions.into_iter().map(region).collect()).expect("ids differ")
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let who = (any::<u128>(), text(64), text(32), any::<u32>());
    let shape = (any::<bool>(), layout(), 1..=u32::MAX, 1..=128_u16);
    (1..=u32::MAX, vec(text(64), 0..=64), who, shape).prop_map(
        |(version, features, (guest, name, kind, state_version), shape)| Plan {
            version,
            features,
            guest: GuestUuid(guest),
            name,
            kind,
            state_version,
            little_endian: shape.0,
            layout: shape.1,
            page_size: shape.2,
            lanes: shape.3,
        },
    )
}

fn prepare() -> impl Strategy<Value = Prepare> {
    let sent = btree_map(lane(), any::<u64>().prop_map(BatchSeq), 0..128);
    (term(), root(), sent, vec(any::<u8>(), 0..5000)).prop_map(|(term, root, sent, state)| {
        Prepare { term, root, sent: Vec::from_iter(sent), state: Bytes::from(state) }
    })
}

fn sums() -> impl Strategy<Value = Sums> {
    let chunks =
        btree_map(any::<u64>().prop_map(ChunkIndex), any::<u128>().prop_map(LeafSum), 0..300);
    (any::<u32>(), chunks, any::<bool>()).prop_map(|(region, chunks, last)| Sums {
        region: RegionId(region),
        chunks: Vec::from_iter(chunks),
        last,
    })
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![
        Fault::Peer,
        Fault::Incompatible,
        Fault::Capacity,
        Fault::Link,
        Fault::Memory,
        Fault::Guest,
        Fault::Journal,
        Fault::NotConverging,
        Fault::Cancelled,
    ])
}

fn from_source() -> impl Strategy<Value = Message> {
    prop_oneof![
        hello().prop_map(Message::Hello),
        plan().prop_map(Message::Plan),
        lane().prop_map(Message::LaneLost),
        term().prop_map(Message::Announce),
        prepare().prop_map(Message::Prepare),
        term().prop_map(Message::Grant),
        text(4096).prop_map(Message::Abort),
        term().prop_map(Message::Done),
        Just(Message::AskSums),
        any::<u64>().prop_map(Message::Ping),
    ]
}

fn from_destination() -> impl Strategy<Value = Message> {
    let accepted = (tickets(), any::<u128>()).prop_map(|(lanes, token)| {
        Message::Accepted(Accepted { lanes, resume_token: Token(token) })
    });
    let closed = (mark(), prop::option::of(ticket()))
        .prop_map(|(mark, replacement)| Message::LaneClosed(LaneClosed { mark, replacement }));
    prop_oneof![
        offer().prop_map(Message::Offer),
        accepted,
        (fault(), text(4096)).prop_map(|(fault, why)| Message::Rejected(Rejected { fault, why })),
        (marks(), tickets())
            .prop_map(|(landed, lanes)| Message::Resumed(Resumed { landed, lanes })),
        closed,
        term().prop_map(Message::Ready),
        (term(), root()).prop_map(|(term, root)| Message::Prepared(term, root)),
        (term(), root()).prop_map(|(term, root)| Message::Differs(term, root)),
        sums().prop_map(Message::Sums),
        term().prop_map(Message::Running),
        (term(), text(4096)).prop_map(|(term, why)| Message::Refused(term, why)),
        any::<u64>().prop_map(Message::Pong),
        any::<(u64, u64)>().prop_map(|(bytes, micros)| {
            Message::Digested(ByteCount(bytes), std::time::Duration::from_micros(micros))
        }),
    ]
}

/// Any message within the limits.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![from_source(), from_destination()]
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn what_is_written_is_read_back(message in message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character(why in vec(any::<char>(), 3000..6000)) {
        let why: String = why.into_iter().collect();
        let read = Message::decode(&Message::Abort(why.clone()).encode());
        let Ok(Message::Abort(read)) = read else { return Err(TestCaseError::fail("no abort")) };
        prop_assert!(why.starts_with(&read) && read.len() <= 4096);
        prop_assert!(read.len() == why.len() || read.len() > 4092);
    }
}
