//! The fixed frames of a lane, and the descriptors of batches.
//!
//! A seal makes random bytes useless, so that the first byte of an input may ask for a right one:
//! then everything behind the seal is reached.

use whimbrel_page::{ByteCount, Disposition, Layout, PAGE_SIZE, PageCount, RegionId, RegionLayout};
use whimbrel_protocol::batch::{
    ACK_SIZE, Ack, BATCH_HEADER_SIZE, BatchHeader, BatchReader, LANE_ANSWER_SIZE, LANE_HELLO_SIZE,
    LaneAnswer, LaneHello,
};
use whimbrel_protocol::limits::{BATCH_PAGES_MAX, BATCH_PAYLOAD_MAX, BATCH_RUNS_MAX};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::Reached;
use crate::memory::bounded;

/// In the first byte: which frame it is, and what is put right in it.
const KIND: u8 = 0x03;
const SEALED: u8 = 0x80;
const NUMBERED: u8 = 0x40;
const SMALL: u8 = 0x20;

/// A list of as many runs as there may be, copied as it grows, and sentences.
const HEAP_MAX: usize = 4 * BATCH_RUNS_MAX * size_of::<whimbrel_protocol::batch::BatchRun>();

/// Decodes the frame that the first byte names.
pub fn run(bytes: &[u8]) -> Reached {
    let Some((flags, rest)) = bytes.split_first() else { return Reached::new() };
    let reached = bounded(HEAP_MAX, || match flags & KIND {
        0 => hello(rest, flags & SEALED != 0),
        1 => answer(rest, flags & SEALED != 0),
        2 => ack(rest, flags & SEALED != 0),
        _ => Batches::new(rest, *flags).read(),
    });
    reached.into_iter().map(str::to_owned).collect()
}

/// The first `N` bytes, with zeros for what is missing, and the right seal if it is asked for.
fn frame<const N: usize>(bytes: &mut &[u8], sealed: bool) -> [u8; N] {
    let mut frame = [0; N];
    let (head, tail) = bytes.split_at(N.min(bytes.len()));
    frame[..head.len()].copy_from_slice(head);
    *bytes = tail;
    if sealed {
        let seal = xxh3_64(&frame[..N - 8]);
        frame[N - 8..].copy_from_slice(&seal.to_le_bytes());
    }
    frame
}

fn hello(mut bytes: &[u8], sealed: bool) -> Option<&'static str> {
    let frame = frame::<LANE_HELLO_SIZE>(&mut bytes, sealed);
    let hello = LaneHello::decode(&frame).ok()?;
    assert_eq!(hello.encode(), frame, "a hello has one form");
    Some("hello")
}

fn answer(mut bytes: &[u8], sealed: bool) -> Option<&'static str> {
    let frame = frame::<LANE_ANSWER_SIZE>(&mut bytes, sealed);
    let answer = LaneAnswer::decode(&frame).ok()?;
    assert_eq!(answer.encode(), frame, "an answer has one form");
    Some(if answer.0.is_ok() { "accepted" } else { "refused" })
}

fn ack(mut bytes: &[u8], sealed: bool) -> Option<&'static str> {
    let frame = frame::<ACK_SIZE>(&mut bytes, sealed);
    let ack = Ack::decode(&frame).ok()?;
    assert_eq!(ack.encode(), frame, "an acknowledgement has one form");
    Some("ack")
}

/// Batches one after the other, without their payload.
struct Batches<'a> {
    rest: &'a [u8],
    flags: u8,
    payload_max: ByteCount,
    layout: Layout,
}

impl<'a> Batches<'a> {
    fn new(rest: &'a [u8], flags: u8) -> Self {
        let payload_max = if flags & SMALL != 0 { ByteCount::kib(8) } else { BATCH_PAYLOAD_MAX };
        // As in the golden batch: region 7 stands first.
        let region =
            |(id, pages)| RegionLayout { id: RegionId(id), size: PageCount(pages).bytes() };
        let layout = Layout::new([(7, 1024), (0, 0x1_0000)].map(region).to_vec()).expect("valid");
        Self { rest, flags, payload_max, layout }
    }

    fn read(mut self) -> Option<&'static str> {
        let mut reader = BatchReader::new(&self.layout, self.payload_max);
        let mut read = 0;
        while !self.rest.is_empty() {
            let frame = self.header(read + 1);
            let Ok(header) = reader.header(&frame) else { break };
            assert_eq!(header.seq.0, read + 1, "wire.md B8");
            assert!(header.payload <= self.payload_max, "wire.md B9: {header:?}");
            let seal = frame.last_chunk().map_or(0, |seal| u64::from_le_bytes(*seal));
            let runs = self.runs(&header, seal);
            if reader.runs(&header, &runs).is_err() {
                break;
            }
            self.check(&header, &reader);
            read += 1;
        }
        [None, Some("batch"), Some("batches")][read.min(2) as usize]
    }

    fn header(&mut self, due: u64) -> [u8; BATCH_HEADER_SIZE] {
        let sealed = self.flags & SEALED != 0;
        let header = frame(&mut self.rest, sealed);
        if self.flags & NUMBERED == 0 {
            return header;
        }
        let numbered = [&header[..8], &due.to_le_bytes(), &header[16..]].concat();
        frame(&mut &numbered[..], sealed)
    }

    /// Descriptors, whose checksum is seeded with the header's seal.
    fn runs(&mut self, header: &BatchHeader, seal: u64) -> Vec<u8> {
        assert!(header.runs_size() <= BatchReader::RUNS_SIZE_MAX, "wire.md B9: {header:?}");
        let (head, tail) = self.rest.split_at(header.runs_size().min(self.rest.len()));
        self.rest = tail;
        let mut frame = head.to_vec();
        frame.resize(header.runs_size(), 0);
        if self.flags & SEALED != 0 {
            let (body, sum) = frame.split_last_chunk_mut::<8>().expect("room for a checksum");
            *sum = xxh3_64_with_seed(body, seal).to_le_bytes();
        }
        frame
    }

    /// What the law says of a batch that is taken.
    fn check(&self, header: &BatchHeader, reader: &BatchReader) {
        let runs = reader.batch();
        let pages: u64 = runs.iter().map(|run| run.run.count.0).sum();
        let raw = runs.iter().filter(|run| run.disposition == Disposition::Raw);
        let raw: u64 = raw.map(|run| run.run.count.0).sum();
        assert_eq!((pages, raw * PAGE_SIZE as u64), (header.pages.0, header.payload.0), "B7, B9");
        assert!(!runs.is_empty() && runs.len() <= BATCH_RUNS_MAX, "wire.md B9: {runs:?}");
        assert!(pages <= BATCH_PAGES_MAX.0, "wire.md B9: {runs:?}");
        assert!(runs.iter().all(|run| self.layout.contains(run.run)), "wire.md B10: {runs:?}");
        let place = |region| self.layout.position(region);
        let ascending = runs.windows(2).all(|pair| {
            let (before, after) = (pair[0].run, pair[1].run);
            (place(before.region), before.end()) <= (place(after.region), after.first)
        });
        assert!(ascending, "wire.md B11: {runs:?}");
    }
}
