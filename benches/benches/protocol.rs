//! What the account and the description of a page cost, beside the page itself.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use whimbrel_page::{
    ByteCount, Disposition, Layout, Leaf, LeafSum, PAGE_SIZE, PageCount, PageIndex, PageSet,
    RegionId,
};
use whimbrel_protocol::batch::{BATCH_HEADER_SIZE, BatchReader, BatchWriter};
use whimbrel_protocol::ledger::{Pass, Take};
use whimbrel_protocol::{BatchSeq, LaneId, Ledger, RoundNumber};

const R: RegionId = RegionId(0);
const LANE: LaneId = LaneId(1);
/// Pages of the guest: 64 MiB.
const PAGES: u64 = 1 << 14;
/// Pages of a batch: 256 KiB.
const BATCH: u64 = 64;

fn layout() -> Layout {
    Layout::single(ByteCount(PAGES * PAGE_SIZE as u64)).expect("a valid size")
}

/// The pages of one batch: neighbours, or every second one, which is the worst case.
fn pages(step: u64) -> impl Iterator<Item = (RegionId, PageIndex, Disposition)> + Clone {
    (0..BATCH).map(move |page| (R, PageIndex(page * step), Disposition::Raw))
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch of 64 pages");
    group.throughput(Throughput::Elements(BATCH));
    for (name, step) in [("1 run", 1), ("64 runs", 2)] {
        let mut writer = BatchWriter::default();
        group.bench_function(format!("describe and encode, {name}"), |b| {
            b.iter(|| {
                writer.describe(black_box(pages(step)));
                writer.encode(BatchSeq(1)).len()
            });
        });
        writer.describe(pages(step));
        let head = writer.encode(BatchSeq(1)).to_vec();
        let (fixed, runs) = head.split_first_chunk::<BATCH_HEADER_SIZE>().expect("a header");
        let fresh = || BatchReader::new(&layout(), ByteCount::kib(256));
        group.bench_function(format!("read, {name}"), |b| {
            b.iter_batched_ref(
                fresh,
                |reader| {
                    let header = reader.header(black_box(fixed)).expect("a good header");
                    reader.runs(&header, runs).expect("good runs").len()
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// One whole round through the ledger: every page taken, found to be `leaf`, sent, acknowledged.
fn round(ledger: &mut Ledger, leaf: Leaf) -> PageCount {
    let mut take = Take::default();
    let mut sum = LeafSum::ZERO;
    ledger.open_lane(LANE);
    ledger.start_round(RoundNumber(0), Pass::Once);
    while ledger.take(LANE, PageCount(BATCH), &mut take) > PageCount::ZERO {
        for (region, page) in take.runs().iter().flat_map(|r| r.pages().map(|p| (r.region, p))) {
            sum = sum.plus(leaf.mix(region, page));
        }
        for _ in 0..take.pages().0 {
            take.found(leaf);
        }
        if let Some(batch) = ledger.sent(LANE, &take, take.pages().bytes()) {
            ledger.acked(LANE, batch, sum).expect("the sum of what was sent");
        }
        while ledger.poll().is_some() {}
    }
    ledger.in_flight()
}

fn ledgers(c: &mut Criterion) {
    let mut group = c.benchmark_group("ledger, 64 MiB in batches of 64 pages");
    group.throughput(Throughput::Elements(PAGES));
    let full = || {
        let mut ledger = Ledger::new(&layout());
        ledger.merge(&PageSet::full(&layout()));
        ledger
    };
    for (name, leaf) in [("raw", Leaf::Known(1 << 70)), ("unchanged", Leaf::Zero)] {
        group.bench_function(format!("take, send, acknowledge: {name}"), |b| {
            b.iter_batched_ref(full, |ledger| round(ledger, leaf), BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = whimbrel_benches::brief();
    targets = batches, ledgers
}
criterion_main!(benches);
