//! Bulk frames: what goes in comes out, what is damaged does not.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use whimbrel_page::{
    ByteCount, Disposition, Layout, LeafSum, PageCount, PageIndex, RegionId, RegionLayout, Run,
};

use super::*;
use crate::{BatchSeq, Epoch, LaneId, SessionId, Token};

/// Region 9 stands before region 4 in the layout.
fn layout() -> Layout {
    let region = |(id, pages)| RegionLayout { id: RegionId(id), size: PageCount(pages).bytes() };
    Layout::new([(9, 64), (4, 16)].map(region).to_vec()).expect("valid")
}

fn reader() -> BatchReader {
    BatchReader::new(&layout(), ByteCount::kib(256))
}

fn page(region: u32, page: u64, disposition: Disposition) -> (RegionId, PageIndex, Disposition) {
    (RegionId(region), PageIndex(page), disposition)
}

/// The head of the batch 1 with these pages.
fn head(pages: &[(RegionId, PageIndex, Disposition)]) -> Vec<u8> {
    let mut writer = BatchWriter::default();
    writer.describe(pages.iter().copied());
    writer.encode(BatchSeq(1)).to_vec()
}

fn decode(head: &[u8]) -> Result<Vec<BatchRun>, BatchError> {
    let mut reader = reader();
    let (header, runs) = head.split_first_chunk().expect("a whole head");
    let header = reader.header(header)?;
    assert!(header.runs_size() <= BatchReader::RUNS_SIZE_MAX);
    assert!(header.payload <= ByteCount::kib(256));
    reader.runs(&header, &runs[..header.runs_size().min(runs.len())]).map(<[_]>::to_vec)
}

/// Header fields and descriptors as a peer with other ideas would send them, well sealed.
fn sealed(runs: u32, pages: u32, payload: u32, descriptors: &[[u64; 3]]) -> Vec<u8> {
    let mut head = [&BATCH_MAGIC.to_le_bytes()[..], &runs.to_le_bytes(), &1_u64.to_le_bytes()];
    let mut head = head.as_mut_slice().concat();
    head.extend([pages.to_le_bytes(), payload.to_le_bytes()].concat());
    let seal = twox_hash::XxHash3_64::oneshot(&head);
    head.extend(seal.to_le_bytes());
    let body: Vec<u8> = descriptors.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
    head.extend(&body);
    head.extend(twox_hash::XxHash3_64::oneshot_with_seed(seal, &body).to_le_bytes());
    head
}

/// A descriptor as three words: first page, region and count, disposition and reserved.
fn raw(region: u64, first: u64, count: u64) -> [u64; 3] {
    [first, region | count << 32, 2]
}

#[test]
fn neighbours_become_runs_and_unchanged_pages_stay_away() {
    use Disposition::{Raw, Unchanged, Zero};
    let pages = [
        page(9, 1, Raw),
        page(9, 2, Raw),
        page(9, 3, Unchanged),
        page(9, 4, Raw),
        page(9, 5, Zero),
        page(9, 63, Zero),
        page(4, 0, Zero),
        page(4, 1, Raw),
    ];
    let mut writer = BatchWriter::default();
    writer.describe(pages.into_iter());
    let run = |region, first, count, disposition| BatchRun {
        run: Run::new(RegionId(region), first, count),
        disposition,
    };
    let expected = [
        run(9, 1, 2, Raw),
        run(9, 4, 1, Raw),
        run(9, 5, 1, Zero),
        run(9, 63, 1, Zero),
        run(4, 0, 1, Zero),
        run(4, 1, 1, Raw),
    ];
    assert_eq!(writer.runs(), expected);
    assert_eq!(writer.payload_size(), ByteCount(4 * 4096));
    let size = writer.wire_size();
    let head = writer.encode(BatchSeq(1));
    assert_eq!(size, ByteCount(head.len() as u64 + 4 * 4096));
    assert_eq!(decode(head).expect("valid"), expected);
    assert_eq!(head.len(), BATCH_HEADER_SIZE + 6 * RUN_SIZE + RUNS_CHECKSUM_SIZE);
}

#[test]
fn batches_number_themselves() {
    let mut reader = reader();
    let mut writer = BatchWriter::default();
    for seq in [1, 2, 3] {
        writer.describe([page(9, seq, Disposition::Zero)].into_iter());
        let (header, runs) = writer.encode(BatchSeq(seq)).split_first_chunk().expect("whole");
        let header = reader.header(header).expect("in order");
        reader.runs(&header, runs).expect("in order");
    }
    let (header, _) = writer.encode(BatchSeq(3)).split_first_chunk().expect("whole");
    let twice = BatchError::Sequence { due: BatchSeq(4), got: BatchSeq(3) };
    assert_eq!(reader.header(header), Err(twice));
}

#[test]
fn lengths_are_bounded_before_anything_is_read() {
    let refused = |runs, pages, payload, what| match decode(&sealed(runs, pages, payload, &[])) {
        Err(BatchError::Length { what: named, .. }) => assert_eq!(named, what),
        other => panic!("{other:?}"),
    };
    refused(0, 0, 0, "runs");
    refused(1025, 1025, 0, "runs");
    refused(u32::MAX, u32::MAX, u32::MAX, "runs");
    refused(2, 1, 4096, "pages");
    refused(1, 1025, 0, "pages");
    refused(1, 65, 65 * 4096, "bytes of payload");
    let odd = decode(&sealed(1, 1, 4095, &[]));
    assert_eq!(odd, Err(BatchError::Sum("payload")));
    let more = decode(&sealed(1, 1, 8192, &[]));
    assert_eq!(more, Err(BatchError::Sum("payload")));
}

#[test]
fn runs_that_mean_nothing_are_refused() {
    let one = |descriptor: [u64; 3]| {
        let count = (descriptor[1] >> 32) as u32;
        decode(&sealed(1, count.max(1), count.max(1) * 4096, &[descriptor]))
    };
    assert!(one(raw(9, 0, 64)).is_ok());
    for outside in [raw(9, 1, 64), raw(9, 64, 1), raw(9, 0, 0), raw(9, u64::MAX, 1), raw(5, 0, 1)] {
        assert!(matches!(one(outside), Err(BatchError::Outside(_))), "{outside:?}");
    }
    assert_eq!(one([0, 9 | 1 << 32, 3]), Err(BatchError::Disposition(3)));
    assert_eq!(one([0, 9 | 1 << 32, 0]), Err(BatchError::Disposition(0)));
    assert_eq!(one([0, 9 | 1 << 32, 2 | 1 << 32]), Err(BatchError::Disposition(2)));
    let two = |a, b| decode(&sealed(2, 4, 4 * 4096, &[a, b]));
    assert!(two(raw(9, 0, 2), raw(4, 0, 2)).is_ok());
    for (a, b) in [(raw(9, 0, 2), raw(9, 1, 2)), (raw(9, 2, 2), raw(9, 0, 2))] {
        assert!(matches!(two(a, b), Err(BatchError::Disorder(_))));
    }
    assert!(matches!(two(raw(4, 0, 2), raw(9, 0, 2)), Err(BatchError::Disorder(_))));
    let sums = decode(&sealed(1, 2, 4096, &[raw(9, 0, 1)]));
    assert_eq!(sums, Err(BatchError::Sum("pages")));
    let zeros = decode(&sealed(1, 1, 4096, &[[0, 9 | 1 << 32, 1]]));
    assert_eq!(zeros, Err(BatchError::Sum("payload")));
}

#[test]
fn any_flipped_bit_of_a_head_is_noticed() {
    let good = head(&[page(9, 3, Disposition::Raw), page(4, 7, Disposition::Zero)]);
    assert!(decode(&good).is_ok());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bad).is_err(), "bit {bit}");
    }
}

fn hello() -> LaneHello {
    LaneHello {
        session: SessionId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        epoch: Epoch(3),
        lane: LaneId(0x0201),
        token: Token(0xffee_ddcc_bbaa_9988_7766_5544_3322_1100),
    }
}

#[test]
fn greetings_and_acks_come_back_as_they_were_and_not_damaged() {
    let frame = hello().encode();
    assert_eq!(LaneHello::decode(&frame), Ok(hello()));
    for bit in 0..frame.len() * 8 {
        let mut bad = frame;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(LaneHello::decode(&bad).is_err(), "bit {bit}");
    }
    for answer in [Ok(()), Err(LaneRefusal::Token), Err(LaneRefusal::Full)] {
        let frame = LaneAnswer(answer).encode();
        assert_eq!(LaneAnswer::decode(&frame), Ok(LaneAnswer(answer)));
    }
    let ack = Ack { landed: BatchSeq(12), sum: LeafSum(1 << 100 | 5) };
    let frame = ack.encode();
    assert_eq!(Ack::decode(&frame), Ok(ack));
    for bit in 0..frame.len() * 8 {
        let mut bad = frame;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Ack::decode(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn another_version_is_named_before_the_checksum_is_judged() {
    let mut frame = hello().encode();
    frame[8] = 2;
    assert_eq!(LaneHello::decode(&frame), Err(GreetingError::Version(2)));
    frame[0] = b'G';
    assert_eq!(LaneHello::decode(&frame), Err(GreetingError::Magic));
}

proptest! {
    #[test]
    fn random_bytes_are_refused_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 32..400),
    ) {
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn sealed_nonsense_is_refused_without_a_panic(
        fields in any::<[u32; 3]>(),
        descriptors in prop::collection::vec(any::<[u64; 3]>(), 0..5),
    ) {
        prop_assert!(decode(&sealed(fields[0], fields[1], fields[2], &descriptors)).is_err());
        let count = descriptors.len() as u32;
        let _ = decode(&sealed(count, fields[1] % 1024, fields[2] % 64 * 4096, &descriptors));
    }

    #[test]
    fn what_is_described_is_read(kinds in prop::collection::vec(0..3_usize, 64)) {
        use Disposition::{Raw, Unchanged, Zero};
        let pages = kinds.iter().enumerate();
        let pages = pages.map(|(at, kind)| page(9, at as u64, [Zero, Raw, Unchanged][*kind]));
        let pages: Vec<_> = pages.collect();
        prop_assume!(kinds.iter().any(|kind| *kind != 2));
        let runs = decode(&head(&pages)).expect("valid");
        let read = runs.iter().flat_map(|BatchRun { run, disposition }| {
            run.pages().map(|page| (run.region, page, *disposition))
        });
        let sent = pages.iter().copied().filter(|(.., disposition)| *disposition != Unchanged);
        prop_assert_eq!(read.collect::<Vec<_>>(), sent.collect::<Vec<_>>());
    }
}

#[test]
fn a_writer_is_used_again() {
    let mut writer = BatchWriter::default();
    writer.describe(vec![page(9, 0, Disposition::Raw)].into_iter());
    writer.describe(vec![page(9, 5, Disposition::Unchanged)].into_iter());
    assert!(writer.is_empty());
    writer.describe(vec![page(9, 6, Disposition::Zero)].into_iter());
    assert_eq!(writer.payload_size(), ByteCount::ZERO);
    assert_eq!(decode(writer.encode(BatchSeq(1))).expect("valid").len(), 1);
}
