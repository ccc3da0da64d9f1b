//! What each page costs before it reaches a socket.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use whimbrel_agent::bench::memory;
use whimbrel_page::{
    Bitmap, ByteCount, Layout, Leaf, LeafTable, PAGE_SIZE, PageIndex, PageSet, RegionId, Run,
};

/// The pages of a 1 GiB guest.
const PAGES: u64 = 1 << 18;

fn layout() -> Layout {
    Layout::single(ByteCount::mib(1024)).expect("a valid size")
}

/// Every `step`-th bit.
fn sparse(step: u64) -> Bitmap {
    let mut bits = Bitmap::new(PAGES);
    (0..PAGES).step_by(step as usize).for_each(|bit| _ = bits.insert(bit, 1));
    bits
}

fn bitmaps(c: &mut Criterion) {
    let mut group = c.benchmark_group("bitmap of 1 GiB");
    for step in [2, 1000] {
        let more = sparse(step);
        group.bench_function(format!("union, every {step}th page"), |b| {
            let fresh = || Bitmap::new(PAGES);
            b.iter_batched_ref(fresh, |bits| bits.union_with(&more), BatchSize::LargeInput);
        });
        group.bench_function(format!("take all, every {step}th page"), |b| {
            b.iter_batched_ref(|| more.clone(), take_all, BatchSize::LargeInput);
        });
    }
    group.bench_function("insert and take all, one run", |b| {
        b.iter(|| {
            let mut set = PageSet::full(&layout());
            let runs: Vec<Run> = set.runs().collect();
            runs.into_iter().for_each(|run| _ = set.remove(run));
            black_box(set.count())
        });
    });
    group.finish();
}

fn take_all(bits: &mut Bitmap) -> u64 {
    let mut taken = 0;
    while let Some(first) = bits.next_one(0) {
        let run = bits.run_length(first, 64);
        taken += bits.remove(first, run);
    }
    taken
}

fn leaves(c: &mut Criterion) {
    let mut group = c.benchmark_group("leaf");
    group.throughput(Throughput::Bytes(PAGE_SIZE as u64));
    let random = memory::random(PAGE_SIZE);
    let zero = vec![0; PAGE_SIZE];
    let mut late = zero.clone();
    late[PAGE_SIZE - 1] = 1;
    for (name, page) in [("random", &random), ("zero", &zero), ("last byte set", &late)] {
        group.bench_function(name, |b| b.iter(|| Leaf::of(black_box(page))));
    }
    group.finish();
}

fn roots(c: &mut Criterion) {
    let mut group = c.benchmark_group("root");
    group.throughput(Throughput::Elements(1));
    let mut table = LeafTable::new(&layout());
    let mut page = 0;
    group.bench_function("commit a known leaf", |b| {
        b.iter(|| {
            page = (page + 1) % PAGES;
            table.set(RegionId(0), PageIndex(page), Leaf::Known(u128::from(page) << 64 | 7))
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = whimbrel_benches::brief();
    targets = bitmaps, leaves, roots
}
criterion_main!(benches);
