//! The engine's lander, behind an in-memory lane: whatever comes, what lands is what the law of
//! the wire says, and what is known of the memory is what is in it.
//!
//! An input is a program: batch after batch, each with its runs, and perhaps something wrong with
//! it. A second reading of the law tells what must be in memory afterwards.

mod law;
mod script;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use whimbrel_engine::fuzz::{Landed, land};
use whimbrel_memory::{Backing, GuestMemory, Landing};
use whimbrel_page::{
    ByteCount, Disposition, Layout, Leaf, LeafSum, PAGE_SIZE, PageCount, RegionId, RegionLayout,
    Root, Run,
};
use whimbrel_protocol::LaneId;
use whimbrel_protocol::batch::{ACK_SIZE, Ack, BatchReader};
use whimbrel_protocol::limits::BATCH_RUNS_MAX;
use whimbrel_transport::{Lane, LaneError, PairLane, lane_pair};

use crate::Reached;
use crate::memory::bounded;
use law::Batch;

/// The guest: two regions, the first of which ends in its second chunk.
const PAGES: [(RegionId, u64); 2] = [(RegionId(4), 520), (RegionId(1), 40)];
const ALL_PAGES: usize = 560;

/// What a lane may take, however its batches look: payload for no more than the guest has, twice
/// while it grows; descriptors, runs and leaves for the largest batch, likewise; the table of what
/// is known, 8 KiB a chunk; a thread, and sentences.
const HEAP_MAX: usize = 2 * ALL_PAGES * PAGE_SIZE
    + 2 * BatchReader::RUNS_SIZE_MAX
    + 4 * BATCH_RUNS_MAX * (size_of::<whimbrel_protocol::batch::BatchRun>() + size_of::<Leaf>())
    + 3 * (8 << 10)
    + (128 << 10);

const LANE: LaneId = LaneId(3);
/// Everything is written before anything is read.
const ROOM: ByteCount = ByteCount::mib(64);
/// Nobody waits: what is not there will not come.
const STALL: Duration = Duration::from_secs(60);

/// What a page holds; a page that is not named holds zeros.
type Pages = BTreeMap<(RegionId, u64), [u8; PAGE_SIZE]>;

/// Lands what the program says, and compares.
pub fn run(bytes: &[u8]) -> Reached {
    let wire = script::wire(bytes);
    let memory = GuestMemory::allocate(&layout(), Backing::Private).expect("a little memory");
    let landing = Arc::new(Landing::new(memory).expect("fresh memory"));
    let (mut source, destination) = lane_pair(ROOM, STALL);
    source.send(&mut [std::io::IoSlice::new(&wire)]).expect("there is room");
    source.finish().expect("in memory");
    let landed = bounded(HEAP_MAX, || land(landing.clone(), LANE, Box::new(destination)));
    assert!(!landed.why.contains("a bug"), "{}", landed.why);
    let legal = law::legal(&wire);
    check(&legal, &landing, &landed);
    check_acks(source, &landed);
    reached(&legal, &landed)
}

fn layout() -> Layout {
    let region = |(id, pages)| RegionLayout { id, size: PageCount(pages).bytes() };
    Layout::new(PAGES.map(region).to_vec()).expect("valid")
}

/// Exactly the batches before the first bad one have landed, and the table agrees with the memory.
fn check(legal: &[Batch], landing: &Landing, landed: &Landed) {
    assert_eq!(landed.mark.batch.0, legal.len() as u64, "{}", landed.why);
    let (mut pages, mut sum) = (Pages::new(), LeafSum::ZERO);
    for batch in legal {
        sum = sum.plus(apply(batch, &mut pages));
    }
    assert_eq!(landed.mark.sum, sum, "wire.md B15: the sum of what has landed");
    let mut root = LeafSum::ZERO;
    let mut chunks = BTreeMap::new();
    let mut found = vec![0; PAGE_SIZE];
    for (region, count) in PAGES {
        for page in 0..count {
            landing.copy_run(Run::new(region, page, 1), &mut found).expect("it is there");
            let expected = pages.get(&(region, page));
            let same = expected.map_or_else(|| found == [0; PAGE_SIZE], |page| found == *page);
            assert!(same, "page {page} of {region} is not what was sent");
            let mix = Leaf::of(&found).mix(region, Run::new(region, page, 1).first);
            root = root.plus(mix);
            let chunk: &mut LeafSum = chunks.entry((region, page / 512)).or_default();
            *chunk = chunk.plus(mix);
        }
    }
    assert_eq!(landed.root, Root { sum: root, unknown: PageCount::ZERO }, "leaves and memory");
    let named = landed
        .sums
        .iter()
        .flat_map(|sums| sums.chunks.iter().map(|(chunk, sum)| ((sums.region, chunk.0), *sum)));
    let named: BTreeMap<_, _> = named.collect();
    for (chunk, sum) in chunks {
        assert_eq!(named.get(&chunk).copied().unwrap_or_default(), sum, "{chunk:?}");
    }
}

/// What a batch makes of the memory; returns what it adds to the lane's sum.
fn apply(batch: &Batch, pages: &mut Pages) -> LeafSum {
    let mut payload = batch.payload.chunks_exact(PAGE_SIZE);
    let mut sum = LeafSum::ZERO;
    for (run, disposition) in &batch.runs {
        for page in run.pages() {
            if *disposition == Disposition::Zero {
                pages.remove(&(run.region, page.0));
                continue;
            }
            let content = payload.next().expect("a page of payload for each raw page");
            let mix = Leaf::of(content).mix(run.region, page);
            sum = sum.plus(mix);
            pages.insert((run.region, page.0), content.try_into().expect("a page"));
        }
    }
    sum
}

/// wire.md B15, B16, B19: the acknowledgements go up, and the last one covers all that has landed.
fn check_acks(mut source: PairLane, landed: &Landed) {
    let mut last = 0;
    let mut frame = [0; ACK_SIZE];
    loop {
        match source.receive(&mut frame) {
            Ok(()) => {}
            Err(LaneError::Closed) => break,
            Err(error) => panic!("half an acknowledgement: {error}"),
        }
        let ack = Ack::decode(&frame).expect("a destination writes them well");
        assert!(last < ack.landed.0 && ack.landed <= landed.mark.batch, "{ack:?} after {last}");
        assert!(ack.landed != landed.mark.batch || ack.sum == landed.mark.sum, "{ack:?}");
        last = ack.landed.0;
    }
    assert!(landed.mark.batch.0 - last < 8, "wire.md B16: {} of {last}", landed.mark.batch.0);
}

fn reached(legal: &[Batch], landed: &Landed) -> Reached {
    let ended = landed.why.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default();
    let mut reached = Reached::from([ended.trim().to_owned()]);
    let runs = || legal.iter().flat_map(|batch| &batch.runs);
    if runs().any(|(_, disposition)| *disposition == Disposition::Zero) {
        reached.insert("zero pages".to_owned());
    }
    if runs().any(|(_, disposition)| *disposition == Disposition::Raw) {
        reached.insert("raw pages".to_owned());
    }
    if legal.len() > 8 {
        reached.insert("more than 8 batches".to_owned());
    }
    reached
}
