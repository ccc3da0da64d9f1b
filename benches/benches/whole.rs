//! Whole migrations in one process: how fast memory goes over, and how long the guest stands still.

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use whimbrel_agent::bench::memory;
use whimbrel_agent::bench::moving::{self, Migrated, Way};

const BYTES: u64 = 256 << 20;

/// The sum of one part of `times` migrations.
fn sum(times: u64, way: Way, bytes: u64, part: fn(&Migrated) -> Duration) -> Duration {
    let guest = moving::filled(bytes).expect("memory");
    let each = (0..times).map(|_| part(&moving::migrate(&guest, way).expect("it moves")));
    each.sum()
}

fn throughput(c: &mut Criterion) {
    memory::warm(2 * BYTES as usize);
    let mut group = c.benchmark_group("256 MiB over loopback");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(BYTES));
    for lanes in [1, 2, 4] {
        let way = Way { lanes, ..Way::default() };
        group.bench_function(format!("{lanes} lanes"), |b| {
            b.iter_custom(|times| sum(times, way, BYTES, |moved| moved.report.total));
        });
    }
    group.finish();
}

fn switchover(c: &mut Criterion) {
    let mut group = c.benchmark_group("downtime, 64 MiB");
    group.sample_size(10);
    for (name, last_writes) in [("idle", 0), ("1000 scattered pages written last", 1000)] {
        let way = Way { lanes: 4, last_writes, ..Way::default() };
        group.bench_function(name, |b| {
            b.iter_custom(|times| sum(times, way, BYTES / 4, Migrated::downtime));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = whimbrel_benches::brief();
    targets = throughput, switchover
}
criterion_main!(benches);
