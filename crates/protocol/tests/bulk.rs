//! The frames in `proto/golden/bulk` are what this crate writes and reads, to the byte.
//!
//! `WHIMBREL_GOLDEN=write cargo test -p whimbrel-protocol golden` writes them anew; look at the
//! difference: a changed frame is a changed wire.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use whimbrel_page::{
    Disposition, Layout, Leaf, LeafSum, PAGE_SIZE, PageCount, PageIndex, RegionId, RegionLayout,
};
use whimbrel_protocol::batch::{Ack, BatchReader, BatchWriter, LaneAnswer, LaneHello, LaneRefusal};
use whimbrel_protocol::limits::BATCH_PAYLOAD_MAX;
use whimbrel_protocol::{BatchSeq, Epoch, LaneId, SessionId, Token};

/// Region 7 stands first.
fn layout() -> Layout {
    let region = |(id, pages)| RegionLayout { id: RegionId(id), size: PageCount(pages).bytes() };
    Layout::new([(7, 1024), (0, 0x1_0000)].map(region).to_vec()).expect("valid")
}

fn hello() -> LaneHello {
    LaneHello {
        session: SessionId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        epoch: Epoch(3),
        lane: LaneId(0x0102),
        token: Token(0xf0e1_d2c3_b4a5_9687_7869_5a4b_3c2d_1e0f),
    }
}

/// The one page of the batch that has a payload: byte `i` is `i mod 251`.
fn page() -> Vec<u8> {
    (0..PAGE_SIZE).map(|at| (at % 251) as u8).collect()
}

const RAW: (RegionId, PageIndex) = (RegionId(0), PageIndex(0xabcd));

/// Two zero runs and a raw page: the first batch of a lane.
fn batch() -> Vec<u8> {
    let zero = |region, page| (RegionId(region), PageIndex(page), Disposition::Zero);
    let pages = [zero(7, 1022), zero(7, 1023), zero(0, 5), (RAW.0, RAW.1, Disposition::Raw)];
    let mut writer = BatchWriter::default();
    writer.describe(pages.into_iter());
    [writer.encode(BatchSeq(1)), &page()].concat()
}

/// The answer to that batch.
fn ack() -> Ack {
    let sum = LeafSum::ZERO.plus(Leaf::of(&page()).mix(RAW.0, RAW.1));
    Ack { landed: BatchSeq(1), sum }
}

fn frames() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("lane-hello", hello().encode().to_vec()),
        ("lane-answer-accepted", LaneAnswer(Ok(())).encode().to_vec()),
        ("lane-answer-token", LaneAnswer(Err(LaneRefusal::Token)).encode().to_vec()),
        ("batch", batch()),
        ("ack", ack().encode().to_vec()),
    ]
}

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/golden/bulk"))
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string takes all"));
        text.push('\n');
    }
    text
}

fn golden(name: &str) -> Vec<u8> {
    let path = folder().join(name).with_extension("hex");
    let text = std::fs::read_to_string(&path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16);
    digits.chunks(2).map(|digits| pair(digits).expect("two hexadecimal digits")).collect()
}

fn sized<const N: usize>(name: &str) -> [u8; N] {
    golden(name).try_into().expect("a frame of its size")
}

#[test]
fn golden_frames_are_what_is_written() {
    let write = std::env::var("WHIMBREL_GOLDEN").is_ok_and(|value| value == "write");
    for (name, frame) in frames() {
        if write {
            std::fs::create_dir_all(folder()).expect("the folder can be made");
            let path = folder().join(name).with_extension("hex");
            std::fs::write(path, to_hex(&frame)).expect("the frame can be written");
        }
        assert_eq!(golden(name), frame, "{name} is written differently");
    }
}

#[test]
fn golden_frames_are_read_as_what_they_say() {
    assert_eq!(LaneHello::decode(&sized("lane-hello")), Ok(hello()));
    let accepted = LaneAnswer::decode(&sized("lane-answer-accepted"));
    assert_eq!(accepted, Ok(LaneAnswer(Ok(()))));
    let refused = LaneAnswer::decode(&sized("lane-answer-token"));
    assert_eq!(refused, Ok(LaneAnswer(Err(LaneRefusal::Token))));
    assert_eq!(Ack::decode(&sized("ack")), Ok(ack()));

    let frame = golden("batch");
    let mut reader = BatchReader::new(&layout(), BATCH_PAYLOAD_MAX);
    let (header, rest) = frame.split_first_chunk().expect("a header");
    let header = reader.header(header).expect("valid");
    assert_eq!((header.seq, header.pages), (BatchSeq(1), PageCount(4)));
    let (runs, payload) = rest.split_at(header.runs_size());
    let runs = reader.runs(&header, runs).expect("valid");
    let read = runs.iter().map(|run| (run.run.to_string(), run.disposition));
    let expected = [
        ("region 7 pages 1022..1024", Disposition::Zero),
        ("region 0 pages 5..6", Disposition::Zero),
        ("region 0 pages 43981..43982", Disposition::Raw),
    ];
    assert_eq!(read.collect::<Vec<_>>(), expected.map(|(run, d)| (run.to_owned(), d)));
    assert_eq!(payload, page());
}

/// Places and sizes as `proto/wire.md` gives them, read off the golden bytes by hand.
#[test]
fn golden_frames_are_laid_out_as_the_law_says() {
    let hello = golden("lane-hello");
    assert_eq!(&hello[..8], b"WHIMLAN\n");
    assert_eq!(hello[8..16], [1, 0, 0x02, 0x01, 3, 0, 0, 0]);
    assert_eq!(hello[16..20], [0x00, 0x11, 0x22, 0x33], "identities are big-endian");
    assert_eq!(hello[32..36], [0xf0, 0xe1, 0xd2, 0xc3]);
    let answer = golden("lane-answer-token");
    assert_eq!((&answer[..8], &answer[8..16]), (&b"WHIMLAN\n"[..], &[1, 0, 4, 0, 0, 0, 0, 0][..]));
    let batch = golden("batch");
    assert_eq!(&batch[..8], b"WBCH\x03\0\0\0");
    assert_eq!(batch[8..24], [1, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 16, 0, 0]);
    let last = &batch[32 + 2 * 24..32 + 3 * 24];
    assert_eq!(last[..12], [0xcd, 0xab, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(last[12..], [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(batch.len(), 32 + 3 * 24 + 8 + PAGE_SIZE);
    let ack = golden("ack");
    assert_eq!(&ack[..16], b"WACK\0\0\0\0\x01\0\0\0\0\0\0\0");
    assert_eq!(ack[16..32], self::ack().sum.0.to_be_bytes(), "sums are big-endian");
}

#[test]
fn no_golden_frame_is_forgotten() {
    let known: BTreeSet<String> = frames().iter().map(|(name, _)| format!("{name}.hex")).collect();
    let found = std::fs::read_dir(folder()).expect("the folder is there");
    let found = found.map(|file| file.expect("readable").file_name().into_string().expect("text"));
    assert_eq!(found.collect::<BTreeSet<String>>(), known);
}
