//! What it costs to read guest memory, to land in it, and to ask what was written.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use whimbrel_agent::bench::memory;
use whimbrel_memory::{
    Backing, DirtyTracker, GuestMemory, Landing, TrackerKind, Writers, open_for,
};
use whimbrel_page::{ByteCount, Layout, PAGE_SIZE, PageIndex, PageSet, RegionId, Run};

const R: RegionId = RegionId(0);
/// Pages of the guest: 512 MiB.
const PAGES: u64 = 1 << 17;
/// Pages of a batch: 256 KiB.
const BATCH: u64 = 64;

/// Populated guest memory, so that no first touch is measured.
fn populated() -> GuestMemory {
    let layout = Layout::single(ByteCount(PAGES * PAGE_SIZE as u64)).expect("a valid size");
    let guest = GuestMemory::allocate(&layout, Backing::Private).expect("memory");
    let content = memory::random(1 << 20);
    for start in (0..layout.bytes().0).step_by(content.len()) {
        guest.write(R, ByteCount(start), &content).expect("inside the region");
    }
    guest
}

fn batches() -> impl Iterator<Item = Run> + Clone {
    (0..PAGES).step_by(BATCH as usize).map(|first| Run::new(R, first, BATCH))
}

fn copies(c: &mut Criterion) {
    let guest = populated();
    let mut buffer = vec![0; BATCH as usize * PAGE_SIZE];
    let mut group = c.benchmark_group("copy 256 KiB");
    group.throughput(Throughput::Bytes(buffer.len() as u64));
    let mut runs = batches().cycle();
    group.bench_function("out of guest memory", |b| {
        b.iter(|| guest.copy_run(runs.next().expect("endless"), &mut buffer));
    });
    let landing = Landing::new(guest).expect("the host says what is populated");
    group.bench_function("into a landing", |b| {
        b.iter(|| landing.write_pages(runs.next().expect("endless"), &buffer));
    });
    group.bench_function("into a landing that was never touched", |b| {
        b.iter_custom(|times| (0..times).map(|_| land_fresh(&buffer)).sum());
    });
    group.finish();
}

/// The time of one batch, averaged over memory in which all land.
fn land_fresh(batch: &[u8]) -> Duration {
    const BATCHES: u32 = 64;
    let layout = Layout::single(ByteCount(u64::from(BATCHES) * batch.len() as u64));
    let layout = layout.expect("a valid size");
    let fresh = GuestMemory::allocate(&layout, Backing::Private).expect("memory");
    let landing = Landing::new(fresh).expect("the host says what is populated");
    let began = Instant::now();
    for run in batches().take(BATCHES as usize) {
        landing.write_pages(run, batch).expect("inside the region");
    }
    began.elapsed() / BATCHES
}

fn harvests(c: &mut Criterion) {
    let guest = populated();
    for (kind, writers) in [
        (TrackerKind::Userfaultfd, Writers::Anyone),
        (TrackerKind::Userfaultfd, Writers::OwnThreads),
        (TrackerKind::Mprotect, Writers::Anyone),
    ] {
        let mut group = c.benchmark_group(format!("{kind}, {writers:?}, 512 MiB"));
        group.sample_size(10);
        let mut tracker = match open_for(kind, &guest, writers) {
            Ok(tracker) => tracker,
            Err(why) => {
                println!("SKIPPED: {kind}: {why}");
                continue;
            }
        };
        tracker.arm().expect("an open tracker arms");
        let dirty =
            [("nothing", PAGES), ("every 1000th page", 1000), ("every 2nd page", 2), ("all", 1)];
        for (name, step) in dirty {
            group.bench_function(format!("harvest, {name} dirty"), |b| {
                b.iter_custom(|times| harvest(&guest, &mut *tracker, times, step).0);
            });
            group.bench_function(format!("first writes, {name} dirty"), |b| {
                b.iter_custom(|times| harvest(&guest, &mut *tracker, times, step).1);
            });
            group.bench_function(format!("harvest of a parked guest, {name} dirty"), |b| {
                harvest(&guest, &mut *tracker, 1, PAGES);
                write(&guest, step, 1);
                let mut found = PageSet::new(guest.layout());
                b.iter(|| tracker.harvest_paused(&mut found).expect("armed"));
            });
        }
        group.finish();
    }
}

/// Writes every `step`-th page; none where there is no second one.
fn write(guest: &GuestMemory, step: u64, content: u64) {
    for page in (0..PAGES).step_by(step as usize).skip(usize::from(step == PAGES)) {
        guest.store_u64(R, PageIndex(page).offset(), content).expect("inside the region");
    }
}

/// The time of `times` harvests with every `step`-th page dirty, and that of dirtying them.
fn harvest(
    guest: &GuestMemory,
    tracker: &mut dyn DirtyTracker,
    times: u64,
    step: u64,
) -> (Duration, Duration) {
    let (mut harvesting, mut writing) = (Duration::ZERO, Duration::ZERO);
    for time in 0..times {
        let began = Instant::now();
        write(guest, step, time);
        writing += began.elapsed();
        let mut found = PageSet::new(guest.layout());
        let began = Instant::now();
        tracker.harvest(&mut found).expect("armed");
        harvesting += began.elapsed();
    }
    (harvesting, writing)
}

criterion_group! {
    name = benches;
    config = whimbrel_benches::brief();
    targets = copies, harvests
}
criterion_main!(benches);
